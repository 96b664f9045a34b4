"""`data prepare` keeps the values of all TFRecord layouts."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_af.data.dataset import open_dataset
from edge_af.data.prepare import PrepareOptions, prepare
from edge_af.data.sources import find_sources
from edge_af.errors import EdgeAfError


def _vectors(random: np.random.Generator, videos: int) -> tuple[np.ndarray, np.ndarray]:
    return (
        random.uniform(-2, 2, (videos, 1024)).astype(np.float32),
        random.uniform(-2, 2, (videos, 128)).astype(np.float32),
    )


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gzip"])
@pytest.mark.parametrize(("key", "classes"), [("id", 3862), ("video_id", 4716)])
def test_video_level_round_trip(tmp_path: Path, records: Any, packed: bool, key: str, classes: int) -> None:
    videos = 300  # More than two batches.
    visual, audio = _vectors(np.random.default_rng(0), videos)
    labels = [sorted({i % 7, i % 40, classes - 1}) for i in range(videos)]
    source = [
        records.video(f"v{i}", labels[i], key=key, mean_rgb=visual[i], mean_audio=audio[i]) for i in range(videos)
    ]
    records.write(tmp_path / "in" / "a.tfrecord", source, packed=packed)
    done = prepare([str(tmp_path / "in")], tmp_path / "out", PrepareOptions(dtype="float32"))
    assert done.index["layout"] == f"{2018 if key == 'id' else 2017}-video"
    data = open_dataset(tmp_path / "out")
    assert data.classes == classes
    assert np.array_equal(data.visual, visual)
    assert np.array_equal(data.audio, audio)
    assert [data.label_values[a:b].tolist() for a, b in zip(data.label_offsets, data.label_offsets[1:])] == labels  # noqa: B905
    assert data.ids.tolist() == [f"v{i}".encode() for i in range(videos)]
    assert all(isinstance(array, np.memmap) for array in (data.visual, data.audio, data.ids, data.label_values))

    prepare([str(tmp_path / "in")], tmp_path / "half")
    half = open_dataset(tmp_path / "half")
    assert half.visual.dtype == np.float16
    assert np.array_equal(half.visual, visual.astype(np.float16))
    assert np.array_equal(half.audio, audio.astype(np.float16))


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gzip"])
@pytest.mark.parametrize("key", ["id", "video_id"])
def test_frame_level_is_dequantized_and_averaged(tmp_path: Path, records: Any, packed: bool, key: str) -> None:
    random = np.random.default_rng(1)
    rgb = [random.integers(0, 256, (frames, 1024), dtype=np.uint8) for frames in (1, 7, 300)]
    audio = [random.integers(0, 256, (len(frames), 128), dtype=np.uint8) for frames in rgb]
    source = [records.frames(f"v{i}", rgb[i], audio[i], [i], key=key) for i in range(3)]
    path = records.write(tmp_path / "f.tfrecord", source, packed=packed)
    done = prepare([str(path)], tmp_path / "out", PrepareOptions(dtype="float32"))
    assert done.index["layout"].endswith("-frame")
    data = open_dataset(tmp_path / "out")
    for found, frames in ((data.visual, rgb), (data.audio, audio)):
        # google/youtube-8m, utils.py: Dequantize(feat, max_quantized_value=2, min_quantized_value=-2)
        expected = [np.mean(f.astype(np.float64) * (4 / 255) + (4 / 512 - 2), axis=0) for f in frames]
        assert np.abs(found - np.array(expected)).max() < 2e-7
    assert data.labels(slice(None)).nonzero()[1].tolist() == [0, 1, 2]


def test_labels_come_once_and_ascending_and_may_be_none(tmp_path: Path, records: Any) -> None:
    source = [
        records.video("a", [9, 3, 9, 3, 3]),
        records.video("empty", []),
        records.video("c", [5]),
        records.video("no such field", None),
    ]
    prepare([str(records.write(tmp_path / "f.tfrecord", source))], tmp_path / "out")
    data = open_dataset(tmp_path / "out")
    assert data.label_values.tolist() == [3, 9, 5]
    assert data.label_offsets.tolist() == [0, 2, 2, 3, 3]


def test_a_dataset_without_any_label_opens(tmp_path: Path, records: Any) -> None:
    prepare([str(records.write(tmp_path / "f.tfrecord", [records.video("a", [])]))], tmp_path / "out")
    assert open_dataset(tmp_path / "out").labels(slice(None)).sum() == 0


def test_official_2018(tmp_path: Path, yt8m: Path, run: Callable[..., Any]) -> None:
    ran = run("data", "prepare", yt8m / "official-2018", "--out", tmp_path / "out", "--json")
    assert ran.status == 0
    figures = json.loads(ran.out)
    assert (figures["videos"], figures["classes"], figures["layout"]) == (902, 3862, "2018-video")
    data = open_dataset(tmp_path / "out")
    assert data.class_names[0] == "Game"
    prepare([str(yt8m / "official-2018")], tmp_path / "exact", PrepareOptions(dtype="float32"))
    exact = open_dataset(tmp_path / "exact")
    # The bound given in the docstring of edge_af.data.prepare.
    assert np.abs(exact.visual - data.visual.astype(np.float32)).max() < 0.00098


def test_official_2017(tmp_path: Path, yt8m: Path) -> None:
    index = prepare([str(yt8m / "official-2017")], tmp_path / "out").index
    assert (index["videos"], index["classes"], index["layout"]) == (716, 4716, "2017-video")


def test_the_index_names_sources_without_paths_of_this_machine(tmp_path: Path, records: Any) -> None:
    path = records.write(tmp_path / "in" / "f.tfrecord", [records.video("a"), records.video("b")])
    index = prepare([str(path)], tmp_path / "out").index
    size, mtime = path.stat().st_size, path.stat().st_mtime_ns
    about = {"videos": 2, "layout": "2018-video", "vocabulary_sha256": None}
    assert index["sources"] == [{"path": "in/f.tfrecord", "size_bytes": size, "mtime_ns": mtime, **about}]
    assert str(tmp_path) not in (tmp_path / "out" / "index.json").read_text()
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["in", "out"]
    assert not (tmp_path / "out" / "journal.jsonl").exists()


def test_sources_from_files_folders_and_globs(tmp_path: Path, records: Any) -> None:
    one = [records.video("a")]
    a = records.write(tmp_path / "in" / "a.tfrecord", one)
    b = records.write(tmp_path / "in" / "deep" / "b.tfrecord.gz", one, packed=True)
    c = records.write(tmp_path / "in" / "c.gz", one, packed=True)
    records.write(tmp_path / "in" / "plain-in-spite-of-its-name.gz", one)
    (tmp_path / "in" / "notes.txt").write_text("no source")
    (tmp_path / "link").symlink_to(a)
    assert find_sources([str(tmp_path / "in")]) == [a, c, b]
    assert find_sources([str(tmp_path / "in" / "*.tfrecord"), str(tmp_path / "link"), str(a)]) == [a]
    assert find_sources([f"{tmp_path}/in/**/*.gz"]) == sorted([b, c, tmp_path / "in" / "plain-in-spite-of-its-name.gz"])
    # A glob may match folders.
    assert find_sources([f"{tmp_path}/i*"]) == [a, c, b]
    # A file whose name looks like a glob is found by its name.
    odd = records.write(tmp_path / "odd[1].tfrecord", one)
    assert find_sources([str(odd)]) == [odd]


def test_layouts_may_mix_when_the_classes_agree(tmp_path: Path, records: Any) -> None:
    records.write(tmp_path / "in" / "a.tfrecord", [records.video("a")])
    records.write(tmp_path / "in" / "b.tfrecord", [records.frames("b", key="video_id")])
    with pytest.raises(EdgeAfError, match=r"b\.tfrecord: 4716 classes.*\n.*--classes"):
        prepare([str(tmp_path / "in")], tmp_path / "out")
    index = prepare([str(tmp_path / "in")], tmp_path / "out", PrepareOptions(classes=5000)).index
    assert (index["videos"], index["classes"], index["layout"]) == (2, 5000, "2017-frame+2018-video")


def test_a_vocabulary_lies_with_the_sources(tmp_path: Path, records: Any) -> None:
    source = records.write(tmp_path / "data" / "train" / "f.tfrecord", [records.video("a", [1])])
    (tmp_path / "data" / "vocabulary.csv").write_text("index,name\n0,zero\n1,one\n2,two\n")
    index = prepare([str(source)], tmp_path / "found").index
    assert (index["classes"], index["class_names"]) == (3, ["zero", "one", "two"])
    # A vocabulary named on the command line takes precedence. It may name fewer classes than there are.
    (tmp_path / "mine.csv").write_text("NAME,Index\nuno,1\n")
    index = prepare([str(source)], tmp_path / "named", PrepareOptions(vocabulary=tmp_path / "mine.csv")).index
    assert (index["classes"], index["class_names"]) == (2, ["", "uno"])
    with pytest.raises(EdgeAfError, match="names 2 classes where --classes says 1"):
        prepare([str(source)], tmp_path / "x", PrepareOptions(vocabulary=tmp_path / "mine.csv", classes=1))


def test_run_again_does_nothing(tmp_path: Path, records: Any, run: Callable[..., Any]) -> None:
    source = records.write(tmp_path / "in" / "f.tfrecord", [records.video("a")])
    command = ("data", "prepare", source, "--out", tmp_path / "out")
    assert run(*command).status == 0
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()}
    again = run(*command)
    assert again.status == 0
    assert "already prepared" in again.err
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()}

    other = run(*command, "--dtype", "float32")
    assert other.status == 2
    assert "--overwrite" in other.err
    os.utime(source, ns=(1, 1))
    changed = run(*command)
    assert changed.status == 2
    assert "--overwrite" in changed.err
    assert run(*command, "--dtype", "float32", "--overwrite").status == 0
    assert open_dataset(tmp_path / "out").visual.dtype == np.float32


def test_a_vocabulary_that_comes_changes_or_goes_is_another_preparation(
    tmp_path: Path, records: Any, run: Callable[..., Any]
) -> None:
    source = records.write(tmp_path / "in" / "f.tfrecord", [records.video("a")])
    vocabulary = tmp_path / "in" / "vocabulary.csv"
    command = ("data", "prepare", source, "--out", tmp_path / "out")
    assert run(*command).status == 0
    for text, classes in (("index,name\n2,two\n", 3), ("index,name\n4,four\n", 5), (None, 3862)):
        if text is None:
            vocabulary.unlink()
        else:
            vocabulary.write_text(text)
        ran = run(*command)
        assert ran.status == 2
        assert "another vocabulary" in ran.err
        assert run(*command, "--overwrite").status == 0
        assert open_dataset(tmp_path / "out").classes == classes
        assert "already prepared" in run(*command).err
    # A vocabulary that does not apply to these sources is ignored.
    (tmp_path / "in" / "vocabulary_2017.csv").write_text("no vocabulary")
    assert "already prepared" in run(*command).err


def test_an_output_that_is_a_link_stays_one(tmp_path: Path, records: Any) -> None:
    source = records.write(tmp_path / "in" / "f.tfrecord", [records.video("a")])
    (tmp_path / "disk").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "disk")
    prepare([str(source)], tmp_path / "out")
    prepare([str(source)], tmp_path / "out", PrepareOptions(dtype="float32"), overwrite=True)
    assert (tmp_path / "out").is_symlink()
    assert open_dataset(tmp_path / "disk").visual.dtype == np.float32
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["disk", "in", "out"]


def test_overwrite_deletes_nothing_but_a_dataset(tmp_path: Path, records: Any, run: Callable[..., Any]) -> None:
    source = records.write(tmp_path / "in" / "f.tfrecord", [records.video("a")])
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.txt").write_text("precious")
    ran = run("data", "prepare", source, "--out", tmp_path / "home", "--overwrite")
    assert ran.status == 2
    assert "thesis.txt" in ran.err
    assert (tmp_path / "home" / "thesis.txt").read_text() == "precious"
    ran = run("data", "prepare", source, "--out", tmp_path / "in", "--overwrite")
    assert ran.status == 2
    assert source.exists()


def test_skip_bad_counts_and_lists(tmp_path: Path, records: Any, run: Callable[..., Any]) -> None:
    nan = np.zeros(1024, np.float32)
    nan[17] = np.nan
    good = [records.video(f"v{i}") for i in range(8)]
    source = [*good[:3], records.video("nan", mean_rgb=nan), good[3], records.video("far", [9999]), *good[4:]]
    path = records.write(tmp_path / "in" / "a.tfrecord", source)
    data = bytearray(path.read_bytes())
    data[sum(len(record) + 16 for record in source[:7]) + 40] ^= 1
    path.write_bytes(data)
    cut = records.write(tmp_path / "in" / "b.tfrecord", good)
    cut.write_bytes(cut.read_bytes()[:-3])
    (tmp_path / "in" / "c.tfrecord").write_bytes(b"not one at all")
    ran = run("data", "prepare", tmp_path / "in", "--out", tmp_path / "out", "--skip-bad", "--json")
    assert ran.status == 0
    assert "5 record(s) left out" in ran.err
    figures = json.loads(ran.out)
    assert figures["left_out_records"] == 5
    assert [(entry["file"], entry["record"]) for entry in figures["left_out"]] == [
        ("in/a.tfrecord", 3),
        ("in/a.tfrecord", 5),
        ("in/a.tfrecord", 7),
        ("in/b.tfrecord", 7),
        ("in/c.tfrecord", 0),
    ]
    reasons = [entry["reason"] for entry in figures["left_out"]]
    for reason, text in zip(reasons, ["NaN", "label 9999", "checksum", "cut off", "not a TFRecord"], strict=True):
        assert text in reason
    assert [source["videos"] for source in figures["sources"]] == [7, 7, 0]
    ids = open_dataset(tmp_path / "out").ids.tolist()
    assert ids == [f"v{i}".encode() for i in (0, 1, 2, 3, 4, 6, 7)] + [f"v{i}".encode() for i in range(7)]


def test_skip_bad_leaves_nothing_of_bad_frames(tmp_path: Path, records: Any) -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (3, 1024), dtype=np.uint8)
    short = [b"x" * 1024, b"x" * 1000, b"x" * 1024]
    source = [
        records.frames("short", short, 3),
        records.frames("none", 0, 0),
        records.frames("good", rgb, 3),
        records.frames("apart", 3, 2),
        records.frames("deaf", 3, None),
        records.video("flat"),
    ]
    # The first readable record determines the layout.
    path = records.write(tmp_path / "f.tfrecord", [b"\xff\xff", *source])
    index = prepare([str(path)], tmp_path / "out", PrepareOptions(skip_bad=True, dtype="float32")).index
    assert [entry["record"] for entry in index["left_out"]] == [0, 1, 2, 4, 5, 6]
    data = open_dataset(tmp_path / "out")
    assert data.ids.tolist() == [b"good"]
    assert np.abs(data.visual[0] - (rgb.mean(axis=0) * 4 / 255 + 4 / 512 - 2)).max() < 2e-7


def test_an_empty_file_among_others_is_a_note(tmp_path: Path, records: Any, run: Callable[..., Any]) -> None:
    records.write(tmp_path / "in" / "a.tfrecord", [])
    records.write(tmp_path / "in" / "b.tfrecord", [records.video("a")])
    ran = run("data", "prepare", tmp_path / "in", "--out", tmp_path / "out")
    assert ran.status == 0
    assert "a.tfrecord: holds no records" in ran.err
    shutil.rmtree(tmp_path / "out")
    (tmp_path / "in" / "b.tfrecord").unlink()
    ran = run("data", "prepare", tmp_path / "in", "--out", tmp_path / "out")
    assert ran.status == 2
    assert "they hold no records" in ran.err
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["in"]
