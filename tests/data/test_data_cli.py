"""`edge-af data` end to end: its output and its dependencies."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_af.data.dataset import open_dataset
from edge_af.data.prepare import prepare

WITHOUT_TENSORFLOW = """
import sys
sys.modules["tensorflow"] = sys.modules["torch"] = None
from edge_af.cli import main
main()
"""


def _command(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    repository = Path(__file__).resolve().parents[2]
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], cwd=repository, capture_output=True, text=True, check=False
    )


@pytest.fixture
def prepared(tmp_path: Path, records: Any) -> Path:
    source = [records.video(f"v{i}", [0, 2, i % 20] if i % 9 else []) for i in range(90)]
    records.write(tmp_path / "in" / "f.tfrecord", source)
    (tmp_path / "in" / "vocabulary.csv").write_text("index,name\n0,Game\n1,\n2,Concert\n25,Dance\n")
    prepare([str(tmp_path / "in")], tmp_path / "prepared")
    return tmp_path / "prepared"


def test_info_of_a_dataset(prepared: Path, run: Callable[..., Any]) -> None:
    ran = run("data", "info", prepared, "--json")
    assert ran.status == 0
    found = json.loads(ran.out)
    data = open_dataset(prepared)
    assert found["videos"] == 90
    assert found["classes"] == 26
    assert found["classes_that_occur"] == len(np.unique(data.label_values))
    assert found["videos_without_labels"] == 10
    assert found["labels"] == len(data.label_values)
    assert found["most_frequent"][:2] == [
        {"class": 0, "name": "Game", "videos": 80},
        {"class": 2, "name": "Concert", "videos": 80},
    ]
    assert len(found["most_frequent"]) == 10
    assert found["size_bytes"] == sum(path.stat().st_size for path in prepared.iterdir())
    text = run("data", "info", prepared)
    assert text.status == 0
    assert "Concert (2)" in text.out


def test_info_of_tfrecords(tmp_path: Path, records: Any, run: Callable[..., Any]) -> None:
    records.write(tmp_path / "in" / "a.tfrecord", [records.video(f"v{i}") for i in range(200)])
    records.write(tmp_path / "in" / "b.gz", [records.frames("f", key="video_id")], packed=True)
    ran = run("data", "info", tmp_path / "in", "--json")
    assert ran.status == 0
    found = json.loads(ran.out)
    assert found["videos"] == 201
    assert [(file["layout"], file["gzip"], file["videos"]) for file in found["files"]] == [
        ("2018-video", False, 200),
        ("2017-frame", True, 1),
    ]
    assert found["files"][1]["fields"] == ["audio", "labels", "rgb", "video_id"]
    assert "201 videos" in run("data", "info", tmp_path / "in").out
    assert run("data", "info", tmp_path / "none").status == 2


def test_sample(prepared: Path, tmp_path: Path, run: Callable[..., Any]) -> None:
    assert run("data", "sample", prepared, "--videos", 30, "--seed", 1, "--out", tmp_path / "cut").status == 0
    whole, cut = open_dataset(prepared), open_dataset(tmp_path / "cut")
    rows = np.array([whole.ids.tolist().index(name) for name in cut.ids.tolist()])
    assert len(rows) == 30
    assert (np.diff(rows) > 0).all()
    assert np.array_equal(cut.visual, whole.visual[rows])
    assert np.array_equal(cut.audio, whole.audio[rows])
    assert np.array_equal(cut.labels(slice(None)), whole.labels(rows))
    assert cut.class_names == whole.class_names

    again = ("data", "sample", prepared, "--videos", 30, "--out", tmp_path / "cut")
    assert run(*again).status == 2
    assert run(*again, "--seed", 2, "--overwrite").status == 0
    assert open_dataset(tmp_path / "cut").ids.tolist() != cut.ids.tolist()
    for videos, out in ((0, "x"), (91, "x"), (5, "prepared")):
        ran = run("data", "sample", prepared, "--videos", videos, "--out", tmp_path / out, "--overwrite")
        assert ran.status == 2
    assert not (tmp_path / "x").exists()
    assert open_dataset(prepared).videos == 90


def test_what_works_without_tensorflow(prepared: Path, tmp_path: Path) -> None:
    made = tmp_path / "made"
    small = ("--videos-train", 20, "--videos-eval", 5, "--classes", 10)
    for arguments in (
        ("info", prepared),
        ("sample", prepared, "--videos", 3, "--out", tmp_path / "cut"),
        ("synth", made, *small),
    ):
        ran = _command(WITHOUT_TENSORFLOW, "data", *arguments)
        assert ran.returncode == 0, ran.stderr
    ran = _command(WITHOUT_TENSORFLOW, "data", "prepare", made, "--out", tmp_path / "out")
    assert ran.returncode == 2
    assert "[train]'" in ran.stderr
    assert not [path.name for path in tmp_path.iterdir() if "out" in path.name]


@pytest.mark.slow
def test_tensorflow_says_nothing(prepared: Path, tmp_path: Path) -> None:
    ran = _command(
        "from edge_af.cli import main; main()", "data", "prepare", tmp_path / "in", "--out", tmp_path / "out", "--json"
    )
    assert ran.returncode == 0
    assert json.loads(ran.stdout)["videos"] == 90
    lines = ran.stderr.strip().splitlines()
    assert lines
    assert all(line.startswith("prepare: ") for line in lines), ran.stderr
