"""Features of any extractor, as arrays and tables, become a prepared dataset."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_af.data import Widths
from edge_af.data.dataset import open_dataset
from edge_af.data.prepare import PrepareOptions, prepare
from edge_af.errors import EdgeAfError

NAMES = ["bird", "car", "rain"]
VIDEOS = 1500
"""More than one block."""


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same videos in every kind of source."""
    pa = pytest.importorskip("pyarrow", reason="Parquet needs pyarrow")
    from pyarrow import parquet

    folder = tmp_path_factory.mktemp("sources")
    random = np.random.default_rng(0)
    visual, audio = (random.normal(0, 30, (VIDEOS, width)).astype(np.float32) for width in (12, 5))
    hot = (random.uniform(size=(VIDEOS, len(NAMES))) < 0.4).astype(np.uint8)
    lists = [[NAMES[i] for i in np.flatnonzero(row)] for row in hot]
    texts, ids = ["; ".join(names) for names in lists], [f"clip {i}" for i in range(VIDEOS)]
    np.savez(folder / "clips.npz", visual=visual, audio=audio, labels=np.array(texts), ids=np.array(ids))
    np.savez(folder / "hot.npz", visual=visual, audio=audio, labels=hot, ids=np.array(ids))
    parts = folder / "parts"
    parts.mkdir()
    np.save(parts / "visual.npy", visual)
    np.save(parts / "audio.npy", audio)
    lines = [f"{id},{text}" for id, text in zip(ids, texts, strict=True)]
    (parts / "labels.csv").write_text("\n".join(["Video_ID,Labels", *lines]) + "\n")
    table = pa.table({"id": ids, "visual": list(visual), "audio": list(audio), "labels": lists})
    parquet.write_table(table, folder / "clips.parquet")
    rows = [
        f'{id},"{json.dumps(v.tolist())}",{" ".join(map(str, a.tolist()))},{text}'
        for id, v, a, text in zip(ids, visual, audio, texts, strict=True)
    ]
    (folder / "clips.csv").write_text("\n".join(["id,visual,audio,labels", *rows]) + "\n")
    return folder


def prepared(source: Path, out: Path, **options: Any) -> Any:
    prepare([str(source)], out, PrepareOptions(dtype="float32", **options))
    return open_dataset(out)


@pytest.mark.parametrize("name", ["hot.npz", "parts", "clips.parquet", "clips.csv"])
def test_every_kind_of_source_gives_the_same_dataset(sources: Path, tmp_path: Path, name: str):
    wanted, found = prepared(sources / "clips.npz", tmp_path / "a"), prepared(sources / name, tmp_path / "b")
    assert found.videos == VIDEOS
    assert found.widths == Widths(12, 5)
    assert found.fingerprint() == wanted.fingerprint()
    assert np.array_equal(found.visual, wanted.visual)
    assert np.array_equal(found.audio, wanted.audio)
    assert wanted.class_names == NAMES
    assert found.class_names == (["class 0", "class 1", "class 2"] if name == "hot.npz" else NAMES)
    facts = found.index["features"]["audio"]
    assert facts == {"name": "audio", "width": 5, "range": [float(found.audio.min()), float(found.audio.max())]}
    assert found.largest == np.abs([found.visual.min(), found.visual.max(), found.audio.min(), found.audio.max()]).max()


def test_classes_follow_another_dataset(sources: Path, tmp_path: Path):
    train = prepared(sources / "clips.npz", tmp_path / "train")
    np.savez(tmp_path / "eval.npz", visual=train.visual[:2], labels=np.array(["rain", "car;rain"]))
    assert prepared(tmp_path / "eval.npz", tmp_path / "alone").class_names == ["car", "rain"]
    found = prepared(tmp_path / "eval.npz", tmp_path / "eval", vocabulary=train.folder)
    assert found.class_names == NAMES
    assert found.labels(slice(None)).tolist() == [[0, 0, 1], [0, 1, 1]]
    # The missing modality is one zero feature.
    assert found.widths == Widths(12, 1)
    assert not found.audio.any()
    np.savez(tmp_path / "odd.npz", visual=train.visual[:2], labels=np.array(["rain", "snow"]))
    with pytest.raises(EdgeAfError, match=r"record 1 .*'snow' is not one of the 3 classes"):
        prepared(tmp_path / "odd.npz", tmp_path / "odd", vocabulary=train.folder)


def test_numbers_as_labels(tmp_path: Path):
    visual = np.ones((3, 4), np.float32)
    np.savez(tmp_path / "a.npz", visual=visual, labels=np.array([4, 0, 2]))
    assert prepared(tmp_path / "a.npz", tmp_path / "a").classes == 5
    assert prepared(tmp_path / "a.npz", tmp_path / "more", classes=9).classes == 9
    with pytest.raises(EdgeAfError, match=r"4 is not one of the 3 classes"):
        prepared(tmp_path / "a.npz", tmp_path / "fewer", classes=3)
    (tmp_path / "b.csv").write_text("visual,labels\n1 2,3\n3 4,\n5 6,0;1\n")
    found = prepared(tmp_path / "b.csv", tmp_path / "b")
    assert found.labels(slice(None)).tolist() == [[0, 0, 0, 1], [0, 0, 0, 0], [1, 1, 0, 0]]


def test_bad_rows_are_named_and_can_be_left_out(tmp_path: Path):
    visual = np.ones((4, 3), np.float32)
    visual[1, 2], visual[2, 0] = np.nan, 1e6
    np.savez(tmp_path / "a.npz", visual=visual, labels=np.array([0, 1, 0, 1]))
    options = {"skip_bad": True}
    with pytest.raises(EdgeAfError, match=r"record 1 \(counting from 0\): visual: holds nan"):
        prepare([str(tmp_path / "a.npz")], tmp_path / "out")
    done = prepare([str(tmp_path / "a.npz")], tmp_path / "out", PrepareOptions(**options))
    assert done.index["videos"] == 2
    assert [entry["record"] for entry in done.index["left_out"]] == [1, 2]
    assert "1e+06; store larger values with --dtype float32" in done.index["left_out"][1]["reason"]
    (tmp_path / "b.csv").write_text("visual,labels\n1 2,a\n1 2 3,b\n")
    with pytest.raises(EdgeAfError, match=r"record 1 .*visual: 3 values, expected 2"):
        prepare([str(tmp_path / "b.csv")], tmp_path / "b")


def test_an_interrupted_preparation_continues(sources: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from edge_af.data import arrays

    many = [str(sources / name) for name in ("clips.npz", "clips.parquet")]
    prepare(many, tmp_path / "whole")
    whole = {path.name: path.read_bytes() for path in (tmp_path / "whole").iterdir()}
    read, calls = arrays.parsed, []

    def stops(*given: Any) -> Any:
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return read(*given)

    monkeypatch.setattr(arrays, "parsed", stops)
    with pytest.raises(KeyboardInterrupt):
        prepare(many, tmp_path / "again")
    done = prepare(many, tmp_path / "again")
    assert done.videos_read == VIDEOS
    assert {path.name: path.read_bytes() for path in (tmp_path / "again").iterdir()} == whole
    assert prepare(many, tmp_path / "again").already


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("a.npz", b"PK\x03\x04", "damaged"),
        ("a.npz", b"", "damaged"),
        ("a.parquet", b"PAR1", "damaged"),
        ("a.csv", b"", "holds no videos"),
        ("a.csv", b"visual,labels\n", "holds no videos"),
        ("a.csv", b"a,b\n1,2\n", "has the columns a, b; expected visual and audio"),
        ("a.csv", b"visual,labels\nx y,1\n", "'x y' is not a list of numbers"),
        ("a.csv", b"visual,labels\n1 2,a\n3 4,\xff\n", "damaged"),
        ("visual.npy", b"\x93NUMPY", "damaged"),
    ],
)  # fmt: skip
def test_a_damaged_source_gives_one_line(
    tmp_path: Path, run: Callable[..., Any], name: str, content: bytes, message: str
):
    if name.endswith("parquet"):
        pytest.importorskip("pyarrow", reason="Parquet needs pyarrow")
    (tmp_path / name).write_bytes(content)
    ran = run("data", "prepare", tmp_path / name, "--out", tmp_path / "out")
    assert ran.status == 2
    assert message in ran.err
    assert ran.err.count("\n") <= 2
    assert not (tmp_path / "out").exists()


def test_arrays_that_do_not_fit(tmp_path: Path):
    good = {"visual": np.ones((3, 2), np.float32), "labels": np.zeros(3, int)}
    for wrong, message in (
        ({"audio": np.ones((2, 2))}, "arrays of different lengths: visual 3, audio 2, labels 3"),
        ({"visual": np.ones(3)}, r"visual is float64 \(3,\); expected numbers \(videos, width\)"),
        ({"visual": np.array([["a", "b"]] * 3)}, r"visual is <U1 \(3, 2\)"),
        ({"labels": np.full((3, 2), 2)}, "other values than 0 and 1"),
        ({"labels": np.zeros((3, 2, 2))}, "expected a matrix of 0 and 1"),
        ({"labels": np.zeros(2, int)}, "labels 2"),
    ):
        np.savez(tmp_path / "a.npz", **{**good, **wrong})
        with pytest.raises(EdgeAfError, match=message):
            prepare([str(tmp_path / "a.npz")], tmp_path / "out")
    np.savez(tmp_path / "a.npz", other=np.ones(3))
    with pytest.raises(EdgeAfError, match="holds none of the arrays; expected visual and audio"):
        prepare([str(tmp_path / "a.npz")], tmp_path / "out")


def test_sources_with_other_widths_are_refused(tmp_path: Path):
    for name, width in (("a", 2), ("b", 3)):
        np.savez(tmp_path / f"{name}.npz", visual=np.ones((2, width), np.float32), labels=np.array([0, 1]))
    with pytest.raises(EdgeAfError, match=r"b\.npz: record 0 .*visual: 3 values, expected 2"):
        prepare([str(tmp_path)], tmp_path / "out")


def test_arrays_and_tfrecords_are_prepared_apart(tmp_path: Path):
    np.savez(tmp_path / "a.npz", visual=np.ones((2, 2), np.float32), labels=np.array([0, 1]))
    (tmp_path / "b.tfrecord").write_bytes(b"")
    with pytest.raises(EdgeAfError, match="prepare arrays and TFRecords separately"):
        prepare([str(tmp_path)], tmp_path / "out")
