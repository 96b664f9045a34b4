"""Every kind of failure with its status and message."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from nursery_stand_in import with_load
from tiny_export import in_other_bytes

from edge_af.compare import gates
from edge_af.compare.match import match
from edge_af.compare.nursery import CRASHED, HANGS, NO_WORKER, REFUSED, BrokenFile
from edge_af.compare.run import Settings, compare
from edge_af.records.comparison import FileFacts, Relative
from edge_af.records.results import Delta

BASE = FileFacts(1000, 900, {"Gemm": 3}, 5000, 1.0, 50_000_000, 0.70, 0.68)


@pytest.mark.parametrize(
    "which, kind, reason, number, status, words",
    [
        ("candidate", CRASHED, "SIGSEGV while timing: Segmentation fault", 11, "failed", "the candidate died: SIGSEGV"),
        ("candidate", CRASHED, "SIGKILL while timing: no memory", 9, "unknown", "the candidate died: SIGKILL"),
        ("candidate", "crashed", "SIGKILL while loading the file: …", None, "unknown", "the candidate died"),
        ("candidate", HANGS, "no answer within 5 s while timing", None, "failed", "the candidate hangs"),
        ("candidate", "timeout", "no result within 5 s", None, "failed", "the candidate hangs"),
        ("candidate", REFUSED, "cannot load this file", None, "failed", "the candidate cannot be run"),
        ("candidate", "failed", "cannot load this file", None, "failed", "the candidate cannot be run"),
        ("candidate", "does-not-fit", "needs 5 MB", None, "unknown", "the candidate does not fit"),
        ("candidate", "missing-runtime", "no TFLite runtime", None, "invalid", "the candidate cannot be run"),
        ("base", CRASHED, "SIGSEGV while timing", 11, "invalid", "the base died"),
        ("base", HANGS, "no answer", None, "invalid", "the base hangs"),
        (None, NO_WORKER, "the process that starts the others ended", None, "unknown", "the comparison cannot be run"),
        (None, HANGS, "no answer within 5 s while timing", None, "unknown", "the comparison hangs"),
    ],
)
def test_no_way_to_break_passes(which: str | None, kind: str, reason: str, number: int | None, status: str, words: str):
    found = gates.broken(BrokenFile(which, kind, reason, number))
    assert (found.name, found.status) == ("runs", status)
    assert found.verdict.startswith(words) and reason in found.verdict


@pytest.mark.parametrize(
    "change, failing",
    [
        ({}, set()),
        ({"size_bytes": 1010, "weight_bytes": 909, "multiply_adds": 5050, "peak_memory_bytes": 54_000_000}, set()),
        ({"size_bytes": 1011}, {"size_bytes"}),
        ({"weight_bytes": 1000}, {"weight_bytes"}),
        ({"multiply_adds": 5051}, {"multiply_adds"}),
        ({"peak_memory_bytes": 56_000_000}, {"peak_memory_bytes"}),
        ({"integer_share": 0.9}, {"integer_share"}),
        ({"size_bytes": 100, "integer_share": None, "peak_memory_bytes": None}, set()),
    ],
)
def test_growth(change: dict[str, float], failing: set[str]):
    found = gates.check_growth(BASE, dataclasses.replace(BASE, **change), Relative())
    assert {check.name for check in found if check.status != "passed"} == failing


@pytest.mark.parametrize("drop, status", [(-0.01, "passed"), (0.0, "passed"), (0.0019, "passed"), (0.0021, "failed")])
def test_gap(drop: float, status: str):
    candidate = dataclasses.replace(BASE, gap_at_20=0.70 - drop)
    found = gates.check_gap(BASE, candidate, Delta(-drop, -drop - 0.001, -drop + 0.001), Relative())
    assert found.status == status
    assert status == "passed" or found.verdict == "GAP@20 fell by 0.0021 [0.0011, 0.0031], 0.002 allowed"


@pytest.mark.parametrize(
    "limits, failing",
    [
        ({"size_bytes": 1000, "gap_at_20": 0.7, "integer_share": 1.0}, 0),
        ({"size_bytes": 999, "gap_at_20": 0.71, "f1_micro": 0.69}, 3),
        ({"operators": {"Gemm": 3, "Reshape": 0}}, 0),
        ({"operators": {"Gemm": 2}}, 1),
    ],
)
def test_budget(limits: dict[str, object], failing: int):
    found = gates.check_limits(BASE, "*", limits)
    assert sum(check.status == "failed" for check in found) == failing
    assert all(check.name.startswith("*: ") for check in found)


def test_what_a_limit_asks_for_and_is_not_known_cannot_be_told():
    (found,) = gates.check_limits(dataclasses.replace(BASE, integer_share=None), "*", {"integer_share": 0.5})
    assert found.status == "unknown"


@pytest.mark.slow
@pytest.mark.parametrize(
    "body, timeout, status, said",
    [
        ("if 'candidate' in str(path): os.kill(os.getpid(), signal.SIGSEGV)", 60, 1, "the candidate died: SIGSEGV"),
        ("if 'candidate' in str(path): os.kill(os.getpid(), signal.SIGKILL)", 60, 3, "the candidate died: SIGKILL"),
        ("if 'candidate' in str(path): time.sleep(600)", 8, 1, "the candidate hangs: no answer within 8 s"),
        ("os._exit(3) if 'candidate' not in str(path) else None", 60, 2, "the base died: ended with status 3"),
    ],
)
def test_a_comparison_in_which_a_process_breaks(
    exports: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    body: str,
    timeout: float,
    status: int,
    said: str,
):
    """The results found before the failure are kept."""
    monkeypatch.setattr("edge_af.compare.facts.MEMORY_RUNS", 1)
    base = exports / "attend-fusion/attend-fusion-fp32.onnx"
    candidate = in_other_bytes(base, tmp_path / "candidate.onnx")
    settings = Settings(budget_seconds=2, timeout_seconds=timeout, worker=tuple(with_load(body)))
    found = compare(match(base, candidate), None, settings)
    (pair,) = found.pairs
    assert found.exit_code == status
    assert pair.checks[0].verdict.startswith(said), pair.checks
    assert pair.base is not None and pair.candidate is not None and pair.candidate.peak_memory_bytes
