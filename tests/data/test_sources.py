"""Sources of `data prepare`: every file that is skipped is reported."""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from edge_af.data.sources import find_sources
from edge_af.errors import EdgeAfError


@contextlib.contextmanager
def _without_rights(folder: Path) -> Iterator[None]:
    """Work in `folder` without root's rights, so that file permissions apply."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        if os.geteuid() == 0:
            os.seteuid(65534)
        yield
    finally:
        if os.getuid() == 0:
            os.seteuid(0)
        os.chdir(before)


@pytest.fixture
def shard(records: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = records.write(
        tmp_path_factory.mktemp("shard") / "a.tfrecord", [records.video("a"), records.video("b")]
    )
    return path


def test_links_to_folders_are_followed_once(tmp_path: Path, shard: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, disk = tmp_path / "in", tmp_path / "disk"
    (folder / "deep").mkdir(parents=True)
    (disk / "more").mkdir(parents=True)
    for path in (folder / "a.tfrecord", folder / "deep" / "b.tfrecord", disk / "more" / "c.tfrecord"):
        shutil.copy(shard, path)
    (folder / "disk").symlink_to(disk)
    (folder / "again").symlink_to(disk)
    (disk / "back").symlink_to(folder)
    (folder / "self").symlink_to(".")
    (folder / "1-deep").symlink_to("deep")
    found = find_sources([str(folder)])
    assert sorted(found) == sorted(
        [folder / "a.tfrecord", folder / "deep/b.tfrecord", folder / "again/more/c.tfrecord"]
    )
    assert "named more than once" not in capsys.readouterr().err
    (folder / "z.tfrecord").symlink_to("a.tfrecord")
    assert find_sources([str(folder)]) == found
    assert "1 file(s) are named more than once" in capsys.readouterr().err


def test_a_broken_link_stops_or_is_named(tmp_path: Path, shard: Path, run: Callable[..., Any]) -> None:
    shutil.copytree(shard.parent, tmp_path / "in")
    (tmp_path / "in" / "disk2").symlink_to("/nonexistent/disk2")
    (tmp_path / "in" / "loop").symlink_to("loop")
    ran = run("data", "prepare", tmp_path / "in", "--out", tmp_path / "out")
    assert ran.status == 2
    assert "2 folder(s), file(s) or link(s) cannot be read" in ran.err
    assert f"{tmp_path}/in/disk2 (a link that leads nowhere)" in ran.err
    assert "--skip-bad" in ran.err.splitlines()[-1]
    ran = run("data", "prepare", tmp_path / "in", "--out", tmp_path / "out", "--skip-bad")
    assert ran.status == 0 and "2 folder(s), file(s) or link(s) cannot be read" in ran.err
    assert run("data", "info", tmp_path / "in").status == 0
    ran = run("data", "prepare", tmp_path / "in" / "disk2", "--out", tmp_path / "out2")
    assert ran.status == 2 and "leads nowhere" in ran.err


def test_a_folder_without_rights_is_named(tmp_path: Path, shard: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, mode in (("closed", 0o000), ("listed", 0o444), ("open", 0o755)):
        shutil.copytree(shard.parent, tmp_path / name)
        (tmp_path / name / "a.tfrecord").chmod(0o644)
        (tmp_path / name).chmod(mode)
    tmp_path.chmod(0o755)
    try:
        with _without_rights(tmp_path):
            with pytest.raises(
                EdgeAfError, match=r"2 folder\(s\), file\(s\) or link\(s\) cannot be read: (listed/|closed)"
            ):
                find_sources(["."])
            with pytest.raises(EdgeAfError, match=r"closed \(Permission denied\)"):
                find_sources(["*/*.tfrecord"])
            with pytest.raises(EdgeAfError, match=r"closed/a.tfrecord: cannot be read \(Permission denied\)"):
                find_sources(["closed/a.tfrecord"])
            found = find_sources(["."], skip_bad=True)
            assert [path.name for path in found] == ["a.tfrecord"] and "open" in str(found[0])
    finally:
        for name in ("closed", "listed"):
            (tmp_path / name).chmod(0o755)
    assert "continuing without them" in capsys.readouterr().err


def test_usual_names_and_unusual_ones(tmp_path: Path, shard: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = [
        "a.tfrecord",
        "b.tfrecords",
        "c.tfrecord-00000-of-00002",
        "d-00001-of-00002",
        "e.TFRecord",
        "f.tfrec",
        "shard7",
    ]
    for name in names:
        shutil.copy(shard, tmp_path / name)
    packed = ["g.tfrecords.gz", "h-00000-of-00001.gz", "i.gz", "packed"]
    for name in packed:
        (tmp_path / name).write_bytes(gzip.compress(shard.read_bytes()))
    (tmp_path / "notes.txt").write_text("no source")
    (tmp_path / "empty").touch()
    (tmp_path / ".a.tfrecord.part").write_bytes(shard.read_bytes()[:100])
    (tmp_path / "vocabulary.csv").write_text("index,name\n0,zero\n")
    os.mkfifo(tmp_path / "pipe.tfrecord")
    found = find_sources([str(tmp_path)])
    assert [path.name for path in found] == sorted(names + packed)
    assert "passed over 4 other file(s): .a.tfrecord.part, empty, notes.txt and 1 more" in capsys.readouterr().err
    with pytest.raises(EdgeAfError, match="not a regular file"):
        find_sources([str(tmp_path / "pipe.tfrecord")])


def test_a_shard_that_lies_there_plain_and_packed_counts_once(
    tmp_path: Path, shard: Path, run: Callable[..., Any]
) -> None:
    folder = tmp_path / "in"
    shutil.copytree(shard.parent, folder)
    data = shard.read_bytes()
    for packed in (
        gzip.compress(data),
        gzip.compress(data) + bytes(512),
        gzip.compress(data[:99]) + gzip.compress(data[99:]),
    ):
        (folder / "a.tfrecord.gz").write_bytes(packed)
        ran = run("data", "prepare", folder, "--out", tmp_path / "out", "--overwrite", "--json")
        assert ran.status == 0 and json.loads(ran.out)["videos"] == 2
        assert "1 packed file(s) left out" in ran.err and "a.tfrecord.gz" in ran.err
    for packed in (gzip.compress(data[:-100]), gzip.compress(data)[:-9]):
        (folder / "a.tfrecord.gz").write_bytes(packed)
        ran = run("data", "prepare", folder, "--out", tmp_path / "other")
        assert ran.status == 2 and "not what a.tfrecord.gz beside it unpacks to" in ran.err


def test_a_copy_under_another_name_is_noticed(tmp_path: Path, shard: Path, run: Callable[..., Any]) -> None:
    shutil.copytree(shard.parent, tmp_path / "in")
    shutil.copy(shard, tmp_path / "in" / "copy.tfrecord")
    ran = run("data", "prepare", tmp_path / "in", "--out", tmp_path / "out")
    assert ran.status == 0 and "2 video(s) have the id of another video (a is one)" in ran.err


def test_gzip_padded_with_zeros_is_whole(tmp_path: Path, records: Any, run: Callable[..., Any]) -> None:
    """gzip accepts such a file, but the padding can make TensorFlow's reader drop records."""
    plain = records.write(tmp_path / "f.tfrecord", [records.video(f"v{i}") for i in range(150)])
    packed = gzip.compress(plain.read_bytes())
    for name, data, status in (
        ("one", packed + bytes(512), 0),
        ("many", packed + packed + bytes(100_000), 0),
        ("cut", packed[:-9] + bytes(512), 2),
        ("garbage", packed + bytes(512) + b"x", 2),
    ):
        path = tmp_path / f"{name}.tfrecord.gz"
        path.write_bytes(data)
        ran = run("data", "prepare", path, "--out", tmp_path / name, "--json")
        assert ran.status == status, (name, ran.err)
        if status == 0:
            assert json.loads(ran.out)["videos"] == (300 if name == "many" else 150)


@pytest.mark.parametrize(
    ("names", "warned"),
    [
        (["train/a.tfrecord", "eval/a.tfrecord"], "eval (1 file(s)), train (1 file(s))"),
        (["train00.tfrecord", "train0Z.tfrecord", "validate00.tfrecord"], "eval (1 file(s)), train (2 file(s))"),
        (["x/test-00000-of-00001", "x/train-00000-of-00001"], "test (1 file(s)), train (1 file(s))"),
        (["train/a.tfrecord", "train/trainer.tfrecord"], None),
        (["a.tfrecord", "train/a.tfrecord", "testimonials/a.tfrecord"], None),
    ],
)
def test_parts_of_a_data_set_are_not_mixed_unsaid(
    tmp_path: Path, shard: Path, names: list[str], warned: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "eval"
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(shard, folder / name)
    find_sources([str(folder)])
    err = capsys.readouterr().err
    assert (warned in err and "more than one part of a dataset" in err) if warned else err == ""
