"""`edge-af report --choose`: the artifact to ship."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from small_dataset import REPOSITORY

from edge_af.cli import cli
from edge_af.errors import EdgeAfError, GateFailed
from edge_af.records.results import read_results
from edge_af.report.choice import NAMES, Requirement, choice_text, choose, parse_name, parse_requirement
from edge_af.report.rows import compare

RESULTS = REPOSITORY / "benchmarks/results/paper-comparison-vnni.json"


def lines():
    return compare([read_results(RESULTS)])


def test_the_best_of_those_that_meet_the_requirements():
    requirements = [parse_requirement(text) for text in ("gap_at_20>=0.65", "size_mb <= 70")]
    choice = choose(lines(), requirements, "p50")
    meeting = [line.row for line in lines() if (line.row.gap_at_20 or 0) >= 0.65 and line.row.size_bytes <= 70e6]
    assert choice.meeting == len(meeting) > 1 and choice.rows == len(lines())
    assert choice.line.row.latency_ms.p50 == min(row.latency_ms.p50 for row in meeting)
    assert choice.next_best.row.latency_ms.p50 == sorted(row.latency_ms.p50 for row in meeting)[1]
    text = choice_text(choice, 80)
    assert max(map(len, text.splitlines())) <= 80
    assert f"{choice.meeting} of {choice.rows} rows meet" in text
    assert "Load ms" in choice_text(choose(lines(), [], "load_ms"))
    assert f"Ship {choice.line.row.key}" in text and "to baseline" in text


def test_accuracy_is_maximized_and_size_minimized():
    rows = [line.row for line in lines()]
    assert choose(lines(), [], "gap_at_20").line.row.gap_at_20 == max(row.gap_at_20 for row in rows)
    assert choose(lines(), [], "f1_micro_at_half").line.row.f1_micro_at_half == max(
        row.f1_micro_at_half for row in rows
    )
    assert choose(lines(), [], "size_mb").line.row.size_bytes == min(row.size_bytes for row in rows)


def test_rows_without_the_figure_are_never_chosen():
    many = lines()
    best = choose(many, [], "p50").line
    changed = [
        dataclasses.replace(line, row=dataclasses.replace(line.row, status="failed", reason="x"))
        if line is best
        else line
        for line in many
    ]
    assert choose(changed, [], "p50").line.row.key != best.row.key
    with pytest.raises(GateFailed, match="no row has the figure modeled_ms"):
        choose(many, [], "modeled_ms")


def test_nothing_meets_the_requirements():
    requirements = [parse_requirement("gap_at_20>=0.99"), parse_requirement("size_mb<=1e6")]
    with pytest.raises(GateFailed, match=r"gap_at_20>=0.99: 0, size_mb<=1e\+06: 12"):
        choose(lines(), requirements, "p50")


@pytest.mark.parametrize(
    "text", ["", "gap_at_20", "gap_at_20=1", "gap_at_20>=x", "gap_at_20>=1e", ">=1", "p50<=1ms", "a b>1"]
)
def test_other_forms_are_refused(text):
    with pytest.raises(EdgeAfError, match="is not of the form NAME>=NUMBER"):
        parse_requirement(text)


def test_unknown_figures_get_a_suggestion():
    assert parse_requirement("p90 < 1.5e1") == Requirement("p90", "<", 15.0)
    assert "peak_memory_mb" in NAMES
    with pytest.raises(EdgeAfError, match="Did you mean 'gap_at_20'"):
        parse_name("gap_at20")


def test_the_command(capsys: pytest.CaptureFixture[str], tmp_path: Path):
    given = ["report", str(RESULTS), "--require", "gap_at_20>=0.65", "--choose", "size_mb"]
    cli.main([*given, "--json"], standalone_mode=False)
    value = json.loads(capsys.readouterr().out)
    assert value["choice"]["precision"] == "int4" and value["choice"]["to_baseline"]["size_bytes"] < 0.05
    with pytest.raises(EdgeAfError, match="--require needs --choose"):
        cli.main(["report", str(RESULTS), "--require", "p50<1"], standalone_mode=False)
    with pytest.raises(EdgeAfError, match="--choose writes no page"):
        cli.main([*given, "--html", str(tmp_path / "x.html")], standalone_mode=False)
    with pytest.raises(EdgeAfError, match="not --history"):
        cli.main(["report", "--history", str(tmp_path / "h"), "--choose", "p50"], standalone_mode=False)
