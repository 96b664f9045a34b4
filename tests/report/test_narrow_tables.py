"""Tables for a terminal fit its width; without a width they keep their wide form."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import click
import pytest
from report_results import MANY, PI, results

from edge_af.records.comparison import Check, Comparison, PairResult, Relative
from edge_af.records.results import Results, read_results
from edge_af.report import history, verdict
from edge_af.report.tables import aligned
from edge_af.report.text import table

RECORDED = Path(__file__).resolve().parents[2] / "benchmarks/results"


def recorded(*names: str) -> list[Results]:
    return [read_results(RECORDED / f"{name}.json") for name in names]


def variants() -> Results:
    """Results with threads, batches, recipes with long names, and a row that was not measured."""
    one = results()
    more = {"recipe": "int8-static-minmax-with-a-long-name", "cpu": "x86-64"}
    rows = [
        *one.rows,
        *(dataclasses.replace(row, threads=4, batch=32) for row in one.rows),
        *(dataclasses.replace(row, file=f"other-{row.file}", **more) for row in one.rows),
        dataclasses.replace(one.rows[1], threads=64, status="missing-runtime", reason="no", latency_ms=None),
    ]
    return dataclasses.replace(one, rows=rows)


MANY_RESULTS = {
    "paper": lambda: recorded("paper-comparison-vnni"),
    "emulated": lambda: recorded("emulated-pi5"),
    "several": lambda: [*recorded("paper-comparison-vnni", "linear-avx2"), results(PI)],
    "variants": lambda: [variants()],
    "empty": lambda: [results(rows=[])],
}


@pytest.mark.parametrize("width", [40, 60, 80, 100, 120])
@pytest.mark.parametrize("name", MANY_RESULTS)
def test_results_fit_the_width(name: str, width: int):
    text = table(MANY_RESULTS[name](), width)
    assert max(map(len, text.splitlines())) <= width
    assert text.startswith("runtime")


@pytest.mark.parametrize("name", MANY_RESULTS)
def test_a_wide_terminal_gets_the_whole_table(name: str):
    many = MANY_RESULTS[name]()
    assert table(many, 1000) == table(many)


def test_80_columns_keep_the_main_figures_and_say_what_is_left_out():
    text = table(recorded("paper-comparison-vnni"), 80)
    head = text.splitlines()[0].split()
    assert head == ["runtime", "precision", "GAP@20", "to", "FP32", "File", "MB", "p50", "ms", "Memory", "MB"]
    (row,) = [line for line in text.splitlines() if line.startswith("LiteRT        INT4") and "1.71" in line]
    assert row.split() == ["LiteRT", "INT4", "0.7008", "−0.0005", "35.2", "1.71", "0.035×", "99.9"]
    assert "Left out to fit 80 columns: F1; p90 ms; limit; what stands beside" in " ".join(text.split())
    assert text.count("  *\n") == 2 and "Limit:" not in text


GREW = "file bytes grew by 290.5%, and that is more than the limit allows"


def comparison() -> Comparison:
    checks = [
        Check("runs", "passed", "both run"),
        Check("size_bytes", "failed", GREW, 1, 3, 2),
        Check(
            "attend-fusion-int8.onnx: peak_memory_bytes", "unknown", "peak memory is not known here", None, None, 1e9
        ),
    ]
    pair = PairResult("a-long-name.onnx → another-long-name.onnx", "a", "b", "", "", ["onnxruntime"] * 2, checks)
    return Comparison(
        created="2026-01-02T03:04:05+00:00", commit=None, device=PI, threads=1, cores=[0], seed=0, budget_seconds=1.0,
        relative=Relative(), inputs="random", data=None, pairs=[pair], only_base=["x.onnx"], only_candidate=[],
        conditions={}, warnings=["a long warning " * 20],
    )  # fmt: skip


@pytest.mark.parametrize("color", [False, True])
@pytest.mark.parametrize("width", [40, 60, 80, 100, 200])
def test_a_comparison_fits_the_width(width: int, color: bool, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("NO_COLOR", "" if color else "1")
    monkeypatch.setenv("TERM", "xterm")
    text = verdict.table(comparison(), width)
    assert max(map(len, click.unstyle(text).splitlines())) <= width
    words = text.split()
    assert words[words.index("check") :][:5] == ["check", "base", "candidate", "limit", "result"]
    colored = re.findall(r"\x1b\[31m(.*?)\x1b\[0m", text)
    assert " ".join(colored).split() == (["\x1b[1mFAILED", *GREW.split()] if color else [])


@pytest.mark.parametrize("width", [40, 80, 120])
def test_a_history_fits_the_width(width: int):
    lines = history.table(MANY, width).splitlines()
    assert max(map(len, lines)) <= width
    assert (
        lines[0].startswith("Time (UTC)")
        and history.table(MANY, 1000).splitlines()[:8] == (history.table(MANY).splitlines()[:8])
    )


def test_rows_that_are_too_wide_continue_below_their_own_headings():
    rows = [["name", "count", "text"], ["a" * 20, "12,345", "some words " * 4], ["b", "1", "word"]]
    assert aligned(rows, (0, 2), 60) == [
        "name                   count  text",
        "aaaaaaaaaaaaaaaaaaaa  12,345  some words some words some",
        "                              words some words",
        "b                          1  word",
    ]
    assert aligned(rows, (0, 2), 40) == [
        "name                   count",
        "    text",
        "aaaaaaaaaaaaaaaaaaaa  12,345",
        "    some words some words some words",
        "    some words",
        "b                          1",
        "    word",
    ]
