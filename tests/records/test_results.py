"""`results.json`: round trip, schema, and errors that name the field."""

from __future__ import annotations

import dataclasses
import json
import runpy
from pathlib import Path
from typing import Any

import pytest
from small_dataset import REPOSITORY

from edge_af.bench.rows import disagreements
from edge_af.errors import EdgeAfError
from edge_af.machine.conditions import Conditions, conditions
from edge_af.machine.device import this_device
from edge_af.machine.memory import MemoryReading
from edge_af.records.results import (
    Bandwidth,
    Baseline,
    Data,
    Delta,
    Gallery,
    GalleryPrediction,
    GalleryVideo,
    Latency,
    Method,
    Results,
    Round,
    Row,
    Sensitivity,
    read_results,
    write_results,
)

SCHEMAS = runpy.run_path(str(REPOSITORY / ".ci/schemas.py"))


def results() -> Results:
    reading = MemoryReading(peak=4, resident=3, file_backed=2, anonymous=1)
    row = Row(
        artifact="a", file="a.onnx", model="attend-fusion", preset="small", runtime="onnxruntime", precision="int8",
        recipe="int8-static", cpu="x86-64", threads=2, status="ok", reason=None, params=10, classes=30, size_bytes=99,
        load_ms=1.5, first_ms=2.0, latency_ms=Latency(1.0, 2.0, 3.0, 1.2, 4), latency_raw_us=[1, 2, 3, 4],
        peak_memory_bytes=10, runtime_memory_bytes=5, memory={"before_load": reading, "after_run": reading},
        gap_at_20=0.5, f1_micro=0.4, f1_threshold=0.3, f1_micro_at_half=0.2, hit_at_1=0.1, perr=0.6, map=0.7, videos=8,
        sha256="00ff", batch=2, weight_bytes=90, integer_share=0.98, rounds=[3, 1], videos_per_s=1666.7, limit_ms=0.5,
        limit_share=0.5, bare_memory_bytes=6, gap_at_20_interval=[0.4, 0.6], gap_at_20_delta=Delta(-0.1, -0.2, 1e-5),
        f1_micro_interval=[0.3, 0.5], f1_macro=0.2, ties_share=0.001,
    )  # fmt: skip
    missing = dataclasses.replace(
        row, status="does-not-fit", reason="too little", latency_ms=None, latency_raw_us=None, memory=None, gap_at_20=None,
        gap_at_20_interval=None, gap_at_20_delta=None, needed_bytes=2000, available_bytes=1000,
    )  # fmt: skip
    video = GalleryVideo(
        "v1", ["Car"], {"a/a.onnx": [GalleryPrediction("Car", 0.9, True), GalleryPrediction("<b>", 0.1, False)]}
    )
    return Results(
        created="2026-01-02T03:04:05+00:00", device=this_device(), quick=True, inputs="videos", data=Data("eval", 8, 30),
        baseline=Baseline("a", "attend-fusion", "small", "fp32"), method=Method(seconds=None), rows_planned=2,
        rows=[row, missing], commit="12ab-changed", suite="paper", continued=["2026-01-02T04:04:05+00:00"],
        conditions={"before": conditions(), "after": Conditions(0.5, 61.0, ["throttled"], 1500.0, "ondemand", 4096)},
        warnings=["The machine was busy."], bandwidth=[Bandwidth(2, 2**30, 1.5e10)], gallery=Gallery(0, [video]),
        sensitivity=[Sensitivity("a", "attend-fusion", "small", "onnx", "int8", "int8", "head", 9, None, -0.001)],
    )  # fmt: skip


def test_results_come_back_as_they_went(tmp_path: Path):
    path = tmp_path / "results.json"
    write_results(path, results())
    assert read_results(path) == results()
    assert '"latency_raw_us": [ 1, 2, 3, 4 ]' in path.read_text()


@pytest.mark.parametrize("name", SCHEMAS["SCHEMAS"])
def test_the_schemas_are_those_of_the_dataclasses(name: str):
    """`make schemas` updates them."""
    kept = (REPOSITORY / "docs/schemas" / name).read_text(encoding="utf-8")
    assert kept == SCHEMAS["texts"]()[name]
    assert '"description"' in kept


def _set(*steps: Any, value: Any) -> Any:
    def change(content: dict[str, Any]) -> None:
        inner: Any = content
        for step in steps[:-1]:
            inner = inner[step]
        inner[steps[-1]] = value

    return change


@pytest.mark.parametrize(
    "change, message",
    [
        (_set("schema_version", value=99), "schema_version 99; this edge-af reads 1 and 2"),
        (_set("schema_version", value=True), "schema_version True"),
        (lambda content: content.pop("schema_version"), "no schema_version"),
        (lambda content: content.pop("device"), "the top level: object missing required field `device`"),
        (lambda content: content["rows"][1].pop("runtime"), r"rows\[1\]: object missing required field `runtime`"),
        (_set("rows", value={}), "rows: expected `array`, got `object`"),
        (_set("rows", 0, "latency_ms", value="fast"), r"rows\[0\].latency_ms: expected `object \| null`, got `str`"),
        (_set("rows", 0, "latency_ms", "p50", value=float("nan")), r"rows\[0\].latency_ms.p50: nan is not a number"),
        (_set("rows", 0, "gap_at_20", value=float("inf")), r"rows\[0\].gap_at_20: inf is not a number"),
        (_set("rows", 0, "params", value=True), r"rows\[0\].params: expected `int`, got `bool`"),
        (_set("rows", 0, "threads", value=0), r"rows\[0\].threads: expected `int` >= 1"),
        (_set("rows", 1, "status", value="fine"), r"rows\[1\].status: expected `str` matching regex"),
        (
            _set("rows", 0, "memory", "after_run", value={"peak": 1}),
            r"rows\[0\].memory\[...\]: object missing required field `resident`",
        ),
        (_set("rows", 0, "latency_raw_us", value=[1, "2"]), r"latency_raw_us\[1\]: expected `int`, got `str`"),
        (_set("device", "versions", value={"numpy": 2}), r"device.versions\[...\]: expected `str`, got `int`"),
        (
            _set("gallery", "videos", 0, "predictions", "a/a.onnx", value=[{}]),
            r"predictions\[...\]\[0\]: object missing required field `name`",
        ),
        (_set("conditions", value={}), "conditions: object missing `before` or `after`"),
        (_set("conditions", value={"before": None}), r"conditions\[...\]: expected `object`, got `null`"),
        (_set("rows", 0, "gap_at_20_interval", value=["low"]), r"gap_at_20_interval\[0\]: expected `float`, got `str`"),
    ],
)
def test_what_does_not_follow_the_schema_is_refused_by_field(tmp_path: Path, change: Any, message: str):
    content = results().as_dict()
    change(content)
    path = tmp_path / "odd.json"
    path.write_text(json.dumps(content))
    with pytest.raises(EdgeAfError, match=f"odd.json: .*{message}"):
        read_results(path)


def test_fields_of_a_later_edge_af_are_passed_over(tmp_path: Path):
    content = results().as_dict()
    content["rows"][0]["temperature"] = content["later"] = content["device"]["later"] = 1
    path = tmp_path / "later.json"
    path.write_text(json.dumps(content))
    assert read_results(path) == results()


@pytest.mark.parametrize(
    "path", sorted((REPOSITORY / "benchmarks/results").glob("demo-*.json")), ids=lambda path: path.name
)
def test_recorded_results_are_read(path: Path):
    found = read_results(path)
    assert found.is_complete and all(row.status == "ok" and row.batch == 1 for row in found.rows)


def test_version_1_is_still_read(tmp_path: Path):
    """The fields are those of version 1; later ones have their defaults."""
    old = Path(__file__).with_name("results-version-1.json")
    content = json.loads(old.read_text())
    assert content["schema_version"] == 1
    found = read_results(old)
    for row, was in zip(found.rows, content["rows"], strict=True):
        now = json.loads(json.dumps(dataclasses.asdict(row)))
        assert was.get("latency_ms") is None or now["latency_ms"].pop("p95") is None
        assert {name: now[name] for name in was} == was
    assert found.conditions is None and found.gallery is None and found.warnings == [] and found.method.rounds == 1
    # Writing it again upgrades the version and keeps the content.
    write_results(tmp_path / "again.json", found)
    assert read_results(tmp_path / "again.json") == found
    path = tmp_path / "odd.json"
    path.write_text(json.dumps({**content, "method": 3}))
    with pytest.raises(EdgeAfError, match="method: expected `object`, got `int`"):
        read_results(path)


def test_a_results_file_knows_what_is_missing():
    whole = results()
    method = Method(seconds=None, rounds=2)
    assert dataclasses.replace(whole, method=method).is_complete
    assert not dataclasses.replace(whole, rows_planned=3).is_complete
    first = dataclasses.replace(whole.rows[0], rounds=[4])
    assert not dataclasses.replace(whole, method=method, rows=[first, whole.rows[1]]).is_complete


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '"results"', "\x00\xff"])
def test_what_is_no_results_file_is_refused(tmp_path: Path, text: str):
    path = tmp_path / "odd.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(EdgeAfError, match=r"odd\.json: "):
        read_results(path)
    with pytest.raises(EdgeAfError, match="is a folder, not a results file"):
        read_results(tmp_path)
    with pytest.raises(EdgeAfError, match="no such results file"):
        read_results(tmp_path / "absent.json")


def test_this_device_is_described():
    device = this_device()
    assert device.cores >= 1 and device.cpu and device.python.startswith("3.")
    assert {"numpy", "onnxruntime"} <= set(device.versions)
    assert device.label.startswith(device.cpu)
    assert device.affinity is None or len(device.affinity) == device.cores


def test_rounds_that_do_not_agree_are_told():
    row = results().rows[0]
    steady, apart = [1000] * 20 + [1090] * 20, [1000] * 20 + [1500] * 20 + [9000] * 3
    kept = dataclasses.replace(row, latency_raw_us=steady, rounds=[20, 20])
    other = dataclasses.replace(row, latency_raw_us=apart, rounds=[20, 20, 3])
    assert other.round_p50_ms() == [1.0, 1.5]  # The third round has too few inferences to count.
    summary = dataclasses.replace(row, rounds_ms=[Round(50, 1, p50) for p50 in (2.0, 2.5, 2.1)])
    assert disagreements([("steady", kept), ("few", row)]) == []
    (text,) = disagreements([("steady", kept), ("apart", other), ("a phone's", summary)])
    assert text == "Rounds differ by more than 10 % in the p50 of apart (1 to 1.5 ms), a phone's (2 to 2.5 ms)."
    (text,) = disagreements([(f"row {index}", other) for index in range(5)])
    assert text.endswith("row 2 (1 to 1.5 ms), and 2 more.")
