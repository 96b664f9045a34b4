"""Shares, durations and budget files: valid ones are read, and invalid ones are refused with a suggestion."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge_af.compare.limits import BudgetFile, parse_share, read_budget_file, with_overrides
from edge_af.errors import EdgeAfError
from edge_af.options import parse_seconds

GOOD = """
relative: {max_slowdown: 3%, max_gap_drop: 0.001}
limits:
  "*": {gap_at_20: 0.65}
  "attend-fusion-int8.*":
    size_bytes: 12 MB
    weight_bytes: 11_400_000
    peak_memory_bytes: 100 MiB
    integer_share: 99%
    operators: {Reshape: 14}
"""


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "budget.yaml"
    path.write_text(text)
    return path


def test_a_budget_file_is_read(tmp_path: Path):
    found = read_budget_file(written(tmp_path, GOOD))
    assert found.relative == {"max_slowdown": 0.03, "max_gap_drop": 0.001}
    assert found.limits["attend-fusion-int8.*"] == {
        "size_bytes": 12e6, "weight_bytes": 11.4e6, "peak_memory_bytes": 100 * 2**20, "integer_share": 0.99,
        "operators": {"Reshape": 14},
    }  # fmt: skip
    assert [pattern for pattern, _ in found.limits_of("attend-fusion-int8.onnx")] == ["*", "attend-fusion-int8.*"]
    assert [pattern for pattern, _ in found.limits_of("fc-late-fusion-int8.onnx")] == ["*"]


@pytest.mark.parametrize(
    "text, said",
    [
        ("relative: {max_slowdwn: 3%}", "relative: unknown key 'max_slowdwn'. Did you mean 'max_slowdown'?"),
        ("limits: {'*': {size_byte: 3}}", "Did you mean 'size_bytes'?"),
        ("limit: {}", "the file: unknown key 'limit'. Did you mean 'limits'?"),
        ("limits: {'*': {latency_ms: 3}}", "times have no limits"),
        ("limits: {'*': {p90: 3}}", "times have no limits"),
        ("limits: {'*': {size_bytes: twelve}}", "limits.*.size_bytes: 'twelve' is not a number such as 12 MB"),
        ("limits: {'*': {size_bytes: -1}}", "-1: expected a number of 0 or more"),
        ("limits: {'*': {size_bytes: true}}", "True: expected a number"),
        ("limits: {'*': {size_bytes: .nan}}", "limits.*.size_bytes: nan is not a number"),
        ("limits: {'*': 3}", "limits.*: expected a mapping of keys to values, found '3'"),
        ("relative: {max_slowdown: '5'}", "max_slowdown: '5' is not a number"),
        ("- 1", "expected a mapping of keys to values"),
        ("", "expected a mapping of keys to values"),
        ("relative: {}", "limits nothing"),
        ("a: [", "cannot read this budget file"),
    ],
)
def test_what_cannot_be_meant_is_refused(tmp_path: Path, text: str, said: str):
    with pytest.raises(EdgeAfError) as refused:
        read_budget_file(written(tmp_path, text))
    assert said in str(refused.value) and "budget.yaml" in str(refused.value)
    assert len(str(refused.value).splitlines()) <= 2


def test_a_missing_budget_file(tmp_path: Path):
    with pytest.raises(EdgeAfError, match="no such budget file"):
        read_budget_file(tmp_path / "budget.yaml")


def test_limits_that_could_not_be_checked_are_refused_beforehand(tmp_path: Path):
    budget = BudgetFile(limits={"*": {"gap_at_20": 0.5}})
    with pytest.raises(EdgeAfError, match="needs an evaluation set: pass --data"):
        budget.check_use(["a.onnx"], has_data=False, where=tmp_path / "b.yaml")
    budget.check_use(["a.onnx"], has_data=True, where=tmp_path / "b.yaml")
    with pytest.raises(EdgeAfError, match=r"limits of '\*-int9\.\*' match none of the files: a\.onnx"):
        BudgetFile(limits={"*-int9.*": {"size_bytes": 5}}).check_use(["a.onnx"], True, tmp_path / "b.yaml")


def test_the_command_line_goes_before_the_file_and_the_file_before_the_defaults():
    found = with_overrides(
        BudgetFile(relative={"max_slowdown": 0.03, "max_growth": 0.5}), {"max_growth": 0.2, "max_slowdown": None}
    )
    assert (found.max_slowdown, found.max_growth, found.max_gap_drop) == (0.03, 0.2, 0.002)


@pytest.mark.parametrize("text, share", [("5%", 0.05), ("0.05", 0.05), (" 2.5% ", 0.025), ("0", 0.0), ("150%", 1.5)])
def test_shares(text: str, share: float):
    assert parse_share(text) == pytest.approx(share)


@pytest.mark.parametrize("text", ["5", "five", "-1%", "", "nan", "inf%"])
def test_what_is_no_share(text: str):
    with pytest.raises(ValueError):
        parse_share(text)


@pytest.mark.parametrize("text, seconds", [("120s", 120), ("2m", 120), ("1.5 min", 90), ("90", 90), (".5s", 0.5)])
def test_durations(text: str, seconds: float):
    assert parse_seconds(text) == seconds


@pytest.mark.parametrize("text", ["0", "-3s", "soon", "", "5 parsecs"])
def test_what_is_no_duration(text: str):
    with pytest.raises(ValueError):
        parse_seconds(text)
