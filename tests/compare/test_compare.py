"""`edge-af compare` end to end: every verdict with its exit code and message."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import onnx
import pytest
from click.testing import CliRunner, Result
from numpy.typing import NDArray
from tiny_export import in_other_bytes

from edge_af.cli import cli
from edge_af.compare.match import match, version_changes
from edge_af.data.dataset import Dataset
from edge_af.errors import EdgeAfError
from edge_af.files import sha256_file
from edge_af.records.comparison import Check, Comparison, worst
from edge_af.records.history import read_history
from edge_af.typed import built

FAST = ("--budget", "1s", "--max-slowdown", "900%")
"""Options for tests that are not about timing: nothing is measured as ten times slower, even in so short a time."""


@pytest.fixture(autouse=True)
def once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measure memory in one process per file, and hide GitHub's variables."""
    monkeypatch.setattr("edge_af.compare.facts.MEMORY_RUNS", 1)
    for name in ("GITHUB_ACTIONS", "GITHUB_STEP_SUMMARY"):
        monkeypatch.delenv(name, raising=False)


def read(path: Path) -> dict[str, Any]:
    """Read a comparison and check that it follows its schema."""
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    assert built(Comparison, found, unknown=True).status == found["status"]
    return found


def compare(*arguments: object) -> Result:
    return CliRunner().invoke(cli, ["compare", *map(str, arguments)])


def checks(found: dict[str, Any], pair: int = 0) -> dict[str, dict[str, Any]]:
    return {check["name"]: check for check in found["pairs"][pair]["checks"]}


def test_the_same_file_twice_is_answered_at_once(exports: Path, eval_dataset: Dataset, tmp_path: Path):
    base, budget = exports / "attend-fusion/attend-fusion-int8.onnx", tmp_path / "budget.yaml"
    for limit, status in (("12 MB", 0), ("1 kB", 1)):
        budget.write_text(f"limits: {{'*': {{size_bytes: {limit}, gap_at_20: 0}}}}")
        arguments = (base, base, "--data", eval_dataset.folder, "--budget-file", budget, "--budget", "600s")
        done = compare(*arguments, "--json")
        assert done.exit_code == status, done.stderr
        found = json.loads(done.stdout)
        held = checks(found)
        assert held["time"]["status"] == "passed" and held["time"]["verdict"] == "the same bytes, so not timed"
        assert found["pairs"][0]["timing"] is None and found["pairs"][0]["agreement"] == 1
        assert {"runs", "size_bytes", "gap_at_20", "*: gap_at_20"} <= set(held)
        assert "base and candidate are the same, byte for byte." in found["warnings"]
    text = compare(*arguments).stdout
    assert re.search(r"\n  check +base +candidate +limit +result\n", text) and "not timed" in text
    # A file that cannot be run is an error even if it is compared with itself.
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(base.read_bytes()[:-1000])
    assert compare(broken, broken).exit_code == 2


def test_a_network_beside_itself_is_no_worse(exports: Path, eval_dataset: Dataset, tmp_path: Path):
    base = exports / "attend-fusion/attend-fusion-int8.onnx"
    again = in_other_bytes(base, tmp_path / base.name)
    out, junit, markdown = tmp_path / "compare.json", tmp_path / "junit.xml", tmp_path / "table.md"
    done = compare(
        base, again, "--data", eval_dataset.folder, "--budget", "4s", "--max-slowdown", "900%", "--json",
        "--out", out, "--junit", junit, "--markdown", markdown,
    )  # fmt: skip
    found = read(out)
    assert found == json.loads(done.stdout)
    timing = found["pairs"][0]["timing"]
    # On a busy machine four seconds may be too short, but the file must never be found slower.
    assert timing["verdict"] in ("not slower", "faster", "cannot tell")
    assert done.exit_code == found["exit_status"] == (3 if timing["verdict"] == "cannot tell" else 0)
    held = checks(found)
    assert {"runs", "time", "agreement", "size_bytes", "weight_bytes", "multiply_adds", "gap_at_20"} <= set(held)
    assert all(check["status"] == "passed" for name, check in held.items() if name != "time")
    assert found["pairs"][0]["gap_at_20_delta"] == {"value": 0.0, "low": 0.0, "high": 0.0}
    assert found["pairs"][0]["agreement"] == pytest.approx(1)
    assert found["inputs"] == "videos" and found["data"]["videos"] == eval_dataset.videos
    assert not any("byte for byte" in text for text in found["warnings"])
    suites = ElementTree.parse(junit).getroot()
    assert len(suites.findall("testsuite/testcase")) == len(held)
    assert not suites.findall("testsuite/testcase/failure")
    assert "| GAP@20 |" in markdown.read_text()


def _more_work(source: Path, target: Path, factor: int) -> None:
    """Write the network with `factor` more units in a hidden layer, which the next layer gives zero weight."""
    model = onnx.load(source)
    held = {tensor.name: tensor for tensor in model.graph.initializer}
    first, second = (node for node in model.graph.node if node.op_type == "Gemm" and node.input[1].startswith("audio."))
    for name, axis in ((first.input[1], None), (first.input[2], 0), (second.input[1], None)):
        array = onnx.numpy_helper.to_array(held[name])
        if axis is None:
            # Gemm's weights are (out, in) if transB is set.
            transposed = next(
                (a.i for n in model.graph.node if name in n.input for a in n.attribute if a.name == "transB"), 0
            )
            axis = (0 if transposed else 1) if name == first.input[1] else (1 if transposed else 0)
        shape = list(array.shape)
        shape[axis] = factor
        added = np.concatenate([array, np.zeros(shape, np.float32)], axis=axis)
        held[name].CopyFrom(onnx.numpy_helper.from_array(added, name))
    onnx.save(model, target)


def test_more_work_is_slower_larger_and_status_1(exports: Path, tmp_path: Path):
    base, candidate = exports / "fc-late-fusion/fc-late-fusion-fp32.onnx", tmp_path / "candidate.onnx"
    _more_work(base, candidate, 20_000)
    done = compare(base, candidate, "--budget", "40s", "--max-slowdown", "50%", "--json")
    found = json.loads(done.stdout)
    held = checks(found)
    assert done.exit_code == 1
    # The networks are tiny, so this is dozens of times as much work.
    assert held["time"]["status"] == "failed" and found["pairs"][0]["timing"]["ratio"]["low"] > 1.5
    assert {name for name, check in held.items() if check["status"] == "failed"} >= {"size_bytes", "multiply_adds"}
    assert held["multiply_adds"]["candidate"] - held["multiply_adds"]["base"] == 20_000 * (128 + 48)
    assert held["agreement"]["status"] == "passed" and not any("byte for byte" in said for said in found["warnings"])


@pytest.mark.parametrize(
    "kind, change, said",
    [
        (
            "prior",
            lambda weights: 0 * weights,
            "the candidate scores all videos alike, so its speed is meaningless",
        ),
        ("shuffled", lambda weights: weights[::-1], "disagrees: it scores the same videos differently"),
        ("no number", lambda weights: weights * np.float32("nan"), "the candidate has scores that are not numbers"),
    ],
)
def test_fast_because_wrong_fails(
    exports: Path, tmp_path: Path, kind: str, change: Callable[[NDArray[np.float32]], NDArray[np.float32]], said: str
):
    base, candidate = exports / "attend-fusion/attend-fusion-fp32.onnx", tmp_path / "wrong.onnx"
    model = onnx.load(base)
    for tensor in model.graph.initializer:
        if tensor.name == "head.weight":
            changed = np.ascontiguousarray(change(onnx.numpy_helper.to_array(tensor)))
            tensor.CopyFrom(onnx.numpy_helper.from_array(changed, tensor.name))
    onnx.save(model, candidate)
    done = compare(base, candidate, *FAST, "--json")
    assert done.exit_code == 1
    disagreement = checks(json.loads(done.stdout))["agreement"]
    assert disagreement["status"] == "failed" and said in disagreement["verdict"]
    if kind == "no number":
        done = compare(candidate, base, *FAST, "--json")
        assert done.exit_code == 2
        assert "the base has scores that are not numbers" in checks(json.loads(done.stdout))["agreement"]["verdict"]


def test_folders_are_matched_and_what_has_no_partner_is_named(exports: Path, tmp_path: Path):
    base, candidate = tmp_path / "base", tmp_path / "candidate"
    for folder in (base, candidate):
        shutil.copytree(exports / "attend-fusion", folder)
    manifest = json.loads((candidate / "manifest.json").read_text())
    # One file is renamed and matched by its properties; one is missing.
    for file in manifest["files"]:
        if file["path"] == "attend-fusion-fp32.onnx":
            file["path"] = "renamed.onnx"
    manifest["files"] = [file for file in manifest["files"] if file["path"] != "attend-fusion-int8.tflite"]
    (candidate / "attend-fusion-fp32.onnx").rename(candidate / "renamed.onnx")
    (candidate / "manifest.json").write_text(json.dumps(manifest))
    found = match(base, candidate)
    assert [pair.name for pair in found.pairs] == [
        "attend-fusion-fp32.tflite", "attend-fusion-int8.onnx", "attend-fusion-fp32.onnx → renamed.onnx",
    ]  # fmt: skip
    assert (found.only_base, found.only_candidate) == (["attend-fusion-int8.tflite"], [])
    assert version_changes(found.pairs) == []
    manifest["versions"] = {**manifest["versions"], "numpy": "0.1"}
    (candidate / "manifest.json").write_text(json.dumps(manifest))
    (change,) = version_changes(found.pairs)
    assert "candidate was exported with other packages than its base: numpy " in change and change.endswith("→ 0.1.")
    both = match(exports, exports)
    assert len(both.pairs) == 8 and all("/" in pair.name and "→" not in pair.name for pair in both.pairs)


@pytest.mark.parametrize(
    "damage, status, said",
    [("candidate", 1, "the candidate cannot be run"), ("base", 2, "the base cannot be run")],
)
def test_a_file_that_will_not_load(exports: Path, tmp_path: Path, damage: str, status: int, said: str):
    """The file's container is intact, so only the runtime detects the error."""
    good = exports / "attend-fusion/attend-fusion-fp32.onnx"
    bad = tmp_path / "bad.onnx"
    model = onnx.load(good)
    model.graph.node[0].op_type = "NoSuchOperator"
    onnx.save(model, bad)
    done = compare(*((good, bad) if damage == "candidate" else (bad, good)), *FAST)
    assert done.exit_code == status, done.output
    assert said in done.output and "cannot load this file" in done.output


@pytest.mark.parametrize("suffix", ["onnx", "tflite"])
@pytest.mark.parametrize("kind", ["empty", "cut"])
def test_a_damaged_file_is_a_verdict_that_is_written(exports: Path, tmp_path: Path, suffix: str, kind: str):
    good = exports / f"attend-fusion/attend-fusion-int8.{suffix}"
    bad, out = tmp_path / f"bad.{suffix}", tmp_path / "compare.json"
    whole = good.read_bytes()
    bad.write_bytes(b"" if kind == "empty" else whole[: len(whole) // 2])
    for base, candidate, status, said in ((good, bad, 1, "the candidate cannot"), (bad, good, 2, "the base cannot")):
        done = compare(base, candidate, "--out", out)
        assert done.exit_code == status and f"{said} be run: {bad}: not a" in done.output
        assert checks(read(out))["runs"]["status"] == ("failed" if status == 1 else "invalid")


@pytest.mark.slow
def test_too_short_a_budget_is_status_3_and_says_what_to_do(exports: Path, tmp_path: Path):
    """If the first pair uses up the budget, the others get no time, never a negative one."""
    base, candidate = exports / "attend-fusion", tmp_path / "attend-fusion"
    shutil.copytree(base, candidate)
    manifest = json.loads((candidate / "manifest.json").read_text())
    for file in manifest["files"]:
        path = in_other_bytes(base / file["path"], candidate / file["path"])
        file["sha256"], file["size_bytes"] = sha256_file(path), path.stat().st_size
    (candidate / "manifest.json").write_text(json.dumps(manifest))
    done = compare(base, candidate, "--runtime", "litert", "--budget", "0.01s")
    assert done.exit_code == 3 and done.stdout.count("pass a larger --budget") == 2, done.output
    assert "this pair's 0.005 s" in done.stdout and not re.search(r"-\d[\d.]* s", done.stdout)


@pytest.mark.slow
def test_a_history_grows_by_a_line_a_pair_and_outlives_a_cut_one(exports: Path, tmp_path: Path):
    base, history = exports / "attend-fusion/attend-fusion-fp32.tflite", tmp_path / "history.jsonl"
    arguments = (in_other_bytes(base, tmp_path / "base.tflite"), base, "--budget", "0.01s", "--history", history)
    assert compare(*arguments).exit_code == 3
    whole = history.read_bytes()
    history.write_bytes(whole + whole[:40])
    assert compare(*arguments, "--commit", "release 7").exit_code == 3
    # A candidate that fails to load gets a line, too.
    bad = tmp_path / "bad.tflite"
    bad.write_bytes(b"")
    assert compare(base, bad, "--history", history).exit_code == 1
    found = read_history([history])
    assert len(found.skipped) == 1 and ": line 2: is damaged" in found.skipped[0]
    assert [(one.commit, one.status, one.verdict) for one in found.entries[:2]] == [
        (None, "unknown", "cannot tell"), ("release 7", "unknown", "cannot tell"),
    ]  # fmt: skip
    assert found.entries[2].checks == {"runs": "failed"} and found.entries[2].candidate is None
    candidate = found.entries[0].candidate
    assert candidate is not None and candidate.size_bytes == base.stat().st_size


def test_github_is_told(exports: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    summary = tmp_path / "summary.md"
    summary.write_text("before\n")
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    budget = tmp_path / "budget.yaml"
    budget.write_text("limits: {'*.tflite': {size_bytes: 1 kB, operators: {RESHAPE: 0}}}")
    base = exports / "attend-fusion/attend-fusion-int8.tflite"
    done = compare(base, base, *FAST, "--budget-file", budget, "--json")
    assert done.exit_code == 1
    json.loads(done.stdout)
    errors = [line for line in done.stderr.splitlines() if line.startswith("::error title=")]
    assert any("file bytes is" in line and "above 1,000" in line for line in errors)
    assert any("RESHAPE where the budget has 0" in line for line in errors)
    assert summary.read_text().startswith("before\n### edge-af compare: worse than the base")


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["nowhere", "nowhere"], "nowhere: no such file or folder"),
        (["{exports}", "{exports}/attend-fusion/attend-fusion-fp32.onnx"], "one is a file and the other a folder"),
        (["{exports}/attend-fusion", "{exports}/fc-late-fusion"], "no file of one has a partner in the other"),
        (["a", "b", "--max-slowdown", "5"], "write 5% if that percentage is meant"),
        (["a", "b", "--budget", "soon"], "is not a duration: write 120s or 2m"),
        (["{exports}", "{exports}", "--budget-file", "nowhere.yaml"], "nowhere.yaml: no such budget file"),
    ],
)
def test_bad_input_is_told_before_anything_is_measured(exports: Path, arguments: list[str], said: str):
    done = compare(*(argument.format(exports=exports) for argument in arguments))
    text = str(done.exception) if isinstance(done.exception, EdgeAfError) else done.output
    assert said in text
    assert done.exit_code == 2 or isinstance(done.exception, EdgeAfError)


def test_other_classes_than_the_data_has_are_refused(exports: Path, tmp_path: Path):
    from small_dataset import write_dataset

    data = write_dataset(tmp_path / "other", videos=20, classes=31)
    base = exports / "attend-fusion/attend-fusion-fp32.onnx"
    done = compare(base, base, "--data", data.folder)
    assert isinstance(done.exception, EdgeAfError) and "scores 30 classes" in str(done.exception)


def test_a_failed_gate_weighs_more_than_what_cannot_be_told():
    statuses = [Check("a", status, "").status for status in ("passed", "unknown", "failed", "invalid")]
    assert worst(statuses) == "failed"
    assert worst(["passed", "unknown", "invalid"]) == "invalid"
    assert worst(["unknown", "passed"]) == "unknown"
    assert worst([]) == "passed"
