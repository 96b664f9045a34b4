"""Property tests: every reader of external files reads a damaged file or raises a documented error, and none hangs.

`HYPOTHESIS_PROFILE=long` tries thousands of examples of each property.
"""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from damage import TOKENS, words_of
from hypothesis import given
from hypothesis import strategies as st
from small_dataset import REPOSITORY

from edge_af.artifacts import read_manifest
from edge_af.bench.backend import TargetOptions
from edge_af.bench.suite import read_suite
from edge_af.bundle import verify_bundle, write_bundle
from edge_af.cli import cli
from edge_af.cli.predict import _read_npz
from edge_af.compare.limits import parse_share, read_budget_file
from edge_af.data.dataset import Dataset, open_dataset
from edge_af.data.describe import describe_tfrecords
from edge_af.data.examples import Layout, Limits, detect_layout, explain, parse
from edge_af.data.tfrecord import RecordBatch, is_tfrecord, read_batches, unpacked_bytes
from edge_af.data.vocabulary import read_vocabulary
from edge_af.documents import DocumentError, parse_json, parse_yaml
from edge_af.emulation.counts import Instructions, parse_counts
from edge_af.errors import EdgeAfError
from edge_af.export.ranges import Ranges, add, read_ranges, write_ranges
from edge_af.export.recipes import load_recipe
from edge_af.files import read_json, write_json
from edge_af.metrics.bootstrap import load_outcomes, outcomes, save_outcomes
from edge_af.models.run import load_network, load_run
from edge_af.options import parse_seconds
from edge_af.records.history import read_history
from edge_af.records.results import read_results, write_results
from edge_af.runtime.multiply_adds import multiply_adds
from edge_af.runtime.operators import operator_counts
from edge_af.runtime.probe import check_model_file, may_hold_weights_beyond, weight_bytes
from edge_af.targets import benchmark_model, open_backend, phone
from edge_af.targets.fleet import read_fleet
from edge_af.targets.ssh import Unreachable, read_answer

SUITE = """\
name: paper
networks: [{model: attend-fusion, preset: paper}, {model: fc-late-fusion}]
precisions: [fp32, int8]
method: {inferences: 10, seconds: 1.5, rounds: 2}
"""
BUDGET = """\
relative: {max_slowdown: 5%, max_gap_drop: 0.01}
limits:
  "attend-*": {size_bytes: 4.3 MB, gap_at_20: 0.4, operators: {Reshape: 8}, instructions: {pi5: {instructions: 1_000}}}
"""
FLEET = 'targets:\n  - ssh://pi@pi5.local\n  - {target: "ssh://pi@pi4.local", offline: true}\n  - adb:8A1X0LZ5K\n'
PRINTED = """\
INFO: count=32 first=12111 curr=10600 min=10590 max=12111 avg=10700 std=200 p5=10595 median=10610 p95=11000
INFO: count=50 first=10945 curr=10517 min=10492 max=10945 avg=10610.4 std=170 p5=10492 median=10517 p95=10945
INFO: Inference timings in us: Init: 1234, First inference: 12111, Warmup (avg): 10700, Inference (avg): 10610.4
INFO: Overall peak memory footprint (MB) via periodic monitoring: 12.5
"""
LABELS = Limits(classes=30, origin="the test", largest=2.0)
LAYOUT = Layout(year=2018, frames=False)


@dataclass(frozen=True)
class Reader:
    """Function that reads an external file or text."""

    name: str
    file: str
    """Path in the material. The file is damaged in place, with the other files of its folder next to it."""
    read: Callable[[Path], Any]
    refuses: tuple[type[Exception], ...] = (EdgeAfError,)
    """Exceptions that the function documents."""


def _all(path: Path) -> None:
    for batch in read_batches(path):
        if isinstance(batch, RecordBatch):
            parse(batch.records, LAYOUT, LABELS)


def _example(path: Path) -> None:
    record = path.read_bytes()
    detect_layout(record)
    _, bad = parse([record], LAYOUT, LABELS)
    if bad:
        assert explain(record, LAYOUT, LABELS)


def _text(parse: Callable[[str], Any]) -> Callable[[Path], Any]:
    return lambda path: parse(path.read_text(encoding="utf-8", errors="replace"))


def _phone(path: Path) -> None:
    told = SimpleNamespace(
        label="a phone",
        shell=lambda *_, **__: SimpleNamespace(
            out=path.read_text(encoding="utf-8", errors="replace"), err="", status=0
        ),
    )
    phone.facts(told)  # type: ignore[arg-type]
    phone.state(told)  # type: ignore[arg-type]


def _model(path: Path) -> None:
    """Read everything that edge-af reads from a model file without its runtime."""
    for ask in (check_model_file, weight_bytes, operator_counts):
        with contextlib.suppress(EdgeAfError):
            ask(path)
    if path.suffix == ".onnx":
        may_hold_weights_beyond(path, 64)
    else:
        with contextlib.suppress(EdgeAfError):
            multiply_adds(path)


READERS = (
    Reader("JSON", "any.json", lambda path: parse_json(path.read_bytes()), (DocumentError,)),
    Reader("YAML", "any.yaml", lambda path: parse_yaml(path.read_bytes()), (DocumentError,)),
    Reader("TFRecord", "shard.tfrecord", _all),
    Reader("gzipped TFRecord", "shard.tfrecord.gz", _all),
    Reader("TFRecord in data info", "shard.tfrecord", lambda path: describe_tfrecords([path])),
    Reader("TFRecord detection", "shard.tfrecord.gz", lambda path: (is_tfrecord(path), unpacked_bytes(path, 10**6))),
    Reader("Example", "example", _example),
    Reader("vocabulary", "vocabulary.csv", read_vocabulary),
    Reader("dataset's index", "data/index.json", lambda path: open_dataset(path.parent)),
    Reader("dataset's ids", "data/ids.npy", lambda path: open_dataset(path.parent)),
    Reader("dataset's labels", "data/label_values.npy", lambda path: open_dataset(path.parent)),
    Reader("dataset's offsets", "data/label_offsets.npy", lambda path: open_dataset(path.parent)),
    Reader("dataset's features", "data/audio.npy", lambda path: open_dataset(path.parent).features(slice(None))),
    Reader("arrays to predict", "arrays.npz", _read_npz),
    Reader("run.json", "run/run.json", lambda path: load_run(path.parent)),
    Reader("weights", "run/weights-e1.safetensors", lambda path: load_network(path.parent)),
    Reader("manifest", "export/manifest.json", lambda path: read_manifest(path.parent)),
    Reader("ranges", "ranges.json", read_ranges),
    Reader("recipe", "recipe.yaml", lambda path: load_recipe(str(path))),
    Reader("ONNX", "net.onnx", _model),
    Reader("TFLite", "net.tflite", _model),
    Reader("results", "results.json", read_results),
    Reader("results of version 1", "old.json", read_results),
    Reader("suite", "suite.yaml", read_suite),
    Reader("history", "history.jsonl", lambda path: read_history([path])),
    Reader("limits", "budget.yaml", read_budget_file),
    Reader("targets", "targets.yaml", read_fleet),
    Reader("bundle", "bundle.zip", verify_bundle),
    Reader("outcomes", "outcomes.npz", load_outcomes, (ValueError,)),
    Reader("a board's answer", "answer", lambda path: read_answer(path.read_bytes()), (Unreachable,)),
    Reader("a phone's answers", "phone", _phone),
    Reader("benchmark_model", "printed", _text(benchmark_model.parse)),
    Reader("counted instructions", "counts", _text(parse_counts)),
    Reader("target", "target", _text(lambda text: open_backend(text, TargetOptions()))),
    Reader("share", "share", _text(parse_share), (ValueError,)),
    Reader("duration", "duration", _text(parse_seconds), (ValueError,)),
)


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory, exports: Path, dataset: Dataset) -> Path:
    """Write an undamaged file of every kind."""
    import tensorflow as tf
    from tiny_export import CONFIGS

    from edge_af.models.networks import build, count_params
    from edge_af.models.run import Run, save_run

    place = tmp_path_factory.mktemp("material")
    texts = {"any.json": json.dumps({"a": [1, 2.5, None, True, {"b": "ü"}]}), "any.yaml": SUITE, "suite.yaml": SUITE}
    texts |= {
        "budget.yaml": BUDGET,
        "targets.yaml": FLEET,
        "target": "ssh://pi@[::1]:22",
        "share": "5%",
        "duration": "1.5min",
    }
    texts |= {"vocabulary.csv": 'index,name\n0,"Game, of skill"\n1,\n2,Pet\n', "answer": '{"say": "installing"}'}
    texts["printed"] = PRINTED
    names = [field.name for field in dataclasses.fields(Instructions)]
    texts["counts"] = "\n".join(json.dumps({"mark": n} | dict.fromkeys(names, n)) for n in range(1, 9))
    texts["phone"] = (
        "@@ machine\naarch64\n@@ allowed\nCpus_allowed_list: 0-7\n@@ max 0\n1800000\n@@ meminfo\nMemTotal:  7 kB\n"
    )
    for name, text in texts.items():
        (place / name).write_text(text, encoding="utf-8")
    features = {
        "id": tf.train.Feature(bytes_list=tf.train.BytesList(value=[b"ab12"])),
        "labels": tf.train.Feature(int64_list=tf.train.Int64List(value=[3, 17])),
        "mean_rgb": tf.train.Feature(float_list=tf.train.FloatList(value=[0.5] * 1024)),
        "mean_audio": tf.train.Feature(float_list=tf.train.FloatList(value=[-0.5] * 128)),
    }
    example = tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString()
    (place / "example").write_bytes(example)
    assert detect_layout(example) == LAYOUT
    for name, packing in (("shard.tfrecord", ""), ("shard.tfrecord.gz", "GZIP")):
        with tf.io.TFRecordWriter(str(place / name), packing) as writer:
            for _ in range(3):
                writer.write(example)
    sample = ["data", "sample", str(dataset.folder), "--videos", "60", "--out", str(place / "data")]
    cli.main(sample, standalone_mode=False)
    np.savez(place / "arrays.npz", visual=np.zeros((2, 1024), np.float32), audio=np.zeros((2, 128), np.float32))
    random = np.random.default_rng(0)
    save_outcomes(
        place / "outcomes.npz", outcomes(random.random((9, 30)), random.integers(0, 2, (9, 30), np.uint8), 0.5)
    )
    network = build(CONFIGS["fc-late-fusion"], 30).eval()
    run = Run(
        "tiny", CONFIGS["fc-late-fusion"], 30, count_params(network), 0.2, [""] * 30, weights="weights-e1.safetensors"
    )
    (place / "run").mkdir()
    save_run(place / "run", run, network)
    shutil.copytree(exports / "attend-fusion", place / "export")
    for suffix in ("onnx", "tflite"):
        shutil.copy(exports / f"fc-late-fusion/fc-late-fusion-int8.{suffix}", place / f"net.{suffix}")
    _write_some_ranges(place / "ranges.json")
    shutil.copy(REPOSITORY / "calibration/int4-block32-dynamic-int8-head.yaml", place / "recipe.yaml")
    shutil.copy(REPOSITORY / "tests/records/results-version-1.json", place / "old.json")
    _write_shorter(REPOSITORY / "benchmarks/results/linear-avx2.json", place / "results.json")
    write_bundle(place / "export", place / "bundle.zip")
    file = str(place / "net.onnx")
    options = ["--out", str(place / "compare.json"), "--history", str(place / "history.jsonl")]
    cli.main(["compare", file, file, *options], standalone_mode=False)
    return place


def _write_some_ranges(path: Path) -> None:
    write_ranges(path, Ranges("data", 3, "0" * 64, 0, {"x": add(None, np.array([0.5, -2.0], np.float32))}))


def _write_shorter(source: Path, path: Path) -> None:
    """Write results with few raw latencies, so that most edits change other fields."""
    found = read_results(source)
    rows = [
        dataclasses.replace(row, latency_raw_us=row.latency_raw_us and row.latency_raw_us[:5]) for row in found.rows
    ]
    write_results(path, dataclasses.replace(found, rows=rows[:3]))


PIECES = st.one_of(st.just(b""), st.binary(max_size=40), st.sampled_from(TOKENS))
EDITS = st.lists(
    st.tuples(st.integers(0, 2**32 - 1), st.sampled_from((0, 0, 1, 1, 2, 7, 64, 4096)), st.booleans(), PIECES),
    min_size=1,
    max_size=3,
)
"""Edits: (position, number of bytes to remove, True to remove a word instead, bytes to insert)."""


def edited(data: bytes, edits: list[tuple[int, int, bool, bytes]]) -> bytes:
    """Apply the edits."""
    for where, length, word, piece in edits:
        words = words_of(data[:20_000]) if word else []
        start = where % (len(data) + 1)
        start, end = words[where % len(words)] if words else (start, start + length)
        data = data[:start] + piece + data[end:]
    return data


@contextlib.contextmanager
def replaced(path: Path, data: bytes) -> Iterator[None]:
    """Replace a file's bytes, and restore them on exit."""
    whole = path.read_bytes()
    path.write_bytes(data)
    try:
        yield
    finally:
        path.write_bytes(whole)


READ = pytest.mark.parametrize("reader", READERS, ids=lambda reader: reader.name)


@READ
def test_whole_files_are_read(reader: Reader, material: Path):
    reader.read(material / reader.file)


@READ
@given(data=st.one_of(st.binary(max_size=200), st.text(max_size=100).map(str.encode), st.sampled_from(TOKENS)))
def test_any_bytes_are_read_or_refused(reader: Reader, material: Path, data: bytes):
    path = material / reader.file
    with replaced(path, data), contextlib.suppress(*reader.refuses):
        reader.read(path)


@READ
@given(edits=EDITS)
def test_damaged_files_are_read_or_refused(reader: Reader, material: Path, edits: list[tuple[int, int, bool, bytes]]):
    path = material / reader.file
    with replaced(path, edited(path.read_bytes(), edits)), contextlib.suppress(*reader.refuses):
        reader.read(path)


@pytest.mark.parametrize(
    "name", ["data/ids.npy", "data/visual.npy", "data/label_values.npy", "run/weights-e1.safetensors"]
)
@given(edits=EDITS)
def test_changes_to_a_file_with_a_checksum_are_refused(
    name: str, material: Path, edits: list[tuple[int, int, bool, bytes]]
):
    path = material / name
    changed = edited(path.read_bytes(), edits)
    if changed == path.read_bytes():
        return
    with replaced(path, changed), pytest.raises(EdgeAfError):
        load_network(path.parent) if name.startswith("run") else open_dataset(path.parent)


@given(edits=EDITS)
def test_a_damaged_record_is_never_returned(material: Path, edits: list[tuple[int, int, bool, bytes]]):
    path = material / "shard.tfrecord"
    record = (material / "example").read_bytes()
    with replaced(path, edited(path.read_bytes(), edits)):
        found = [one for batch in read_batches(path) if isinstance(batch, RecordBatch) for one in batch.records]
    assert set(found) <= {record}


PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@given(value=PLAIN)
def test_json_is_read_as_it_was_written(tmp_path: Path, value: Any):
    write_json(tmp_path / "value.json", value)
    assert read_json(tmp_path / "value.json", "value") == value


@given(values=st.lists(st.floats(-(2.0**100), 2.0**100, width=32), min_size=1, max_size=50))
def test_ranges_are_read_as_they_were_written(tmp_path: Path, values: list[float]):
    held = Ranges("data", len(values), "0" * 64, 0, {"x": add(None, np.array(values, np.float32))})
    write_ranges(tmp_path / "ranges.json", held)
    found = read_ranges(tmp_path / "ranges.json").tensors["x"]
    assert (found.minimum, found.maximum, found.exponent, found.first) == (
        held.tensors["x"].minimum,
        held.tensors["x"].maximum,
        held.tensors["x"].exponent,
        held.tensors["x"].first,
    )
    np.testing.assert_array_equal(found.counts, held.tensors["x"].counts)


@given(names=st.lists(st.text(alphabet=st.characters(exclude_categories=("Cs", "Cc")), max_size=20), max_size=9))
def test_class_names_are_read_as_they_were_written(tmp_path: Path, names: list[str]):
    with (tmp_path / "vocabulary.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([["index", "name"], *enumerate(names)])
    if names:
        assert read_vocabulary(tmp_path / "vocabulary.csv").names == [name.strip() for name in names]
