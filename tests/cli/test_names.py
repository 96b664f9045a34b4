"""Hostile file names and names that are not UTF-8: every command works or says why it does not."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from edge_af.data.dataset import Dataset, open_dataset

NAMES = {
    "latin": os.fsdecode(b"caf\xe9"),
    "line": "a\n::error::b##vso[task]x",
    "escape": "a\x1b[31m\x1b]0;x\x07",
    "direction": "a\u202egpj",
    "markdown": "a|`<b>*[x](y)",
    "quotes": "a'b\"c $(touch x);&",
    "dash": "-rf",
    "long": "n" * 200,
}


def edge_af(folder: Path, *arguments: object) -> subprocess.CompletedProcess[bytes]:
    environment = {**os.environ, "GITHUB_STEP_SUMMARY": str(folder / "summary.md"), "GITHUB_ACTIONS": "true"}
    command = [sys.executable, "-m", "edge_af", *map(str, arguments)]
    done = subprocess.run(command, cwd=folder, capture_output=True, timeout=300, env=environment)
    said = done.stdout + done.stderr
    assert done.returncode in (0, 1, 2, 3) and b"Traceback" not in said and b"internal error" not in said, said
    # A file name must not inject terminal escape sequences or CI commands; only our own are allowed.
    assert b"\x1b]" not in said and b"\x07" not in said and "\u202e".encode() not in said
    commands = [line for line in said.splitlines() if line.lstrip().startswith(b"::")]
    assert all(line.startswith((b"::error title=", b"::warning title=", b"::notice title=")) for line in commands)
    assert b"##vso[" not in said
    return done


@pytest.fixture(params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    return NAMES[request.param]


@pytest.mark.slow
def test_verbs_that_read_exports(name: str, exports: Path, eval_dataset: Dataset, tmp_path: Path):
    place = tmp_path / name
    shutil.copytree(exports / "attend-fusion", place)
    data = tmp_path / f"data {name}"
    shutil.copytree(eval_dataset.folder, data)
    loads = name != NAMES["latin"]
    file, results = f"./{name}/attend-fusion-int8.tflite", f"./{name}.json"
    for works, arguments in (
        (loads, ("eval", file, "--data", data)),
        (loads, ("predict", file, data, "--videos", 2)),
        (loads, ("bench", f"./{name}", "--runs", 2, "--rounds", 1, "--no-packed", "--out", results)),
        (loads, ("compare", file, exports / "attend-fusion/attend-fusion-int8.tflite", "--out", f"./c{name}.json",
                 "--junit", f"./j{name}.xml", "--history", f"./h{name}.jsonl", "--markdown", f"./m{name}.md")),
        (True, ("data", "info", data)),
        (True, ("data", "sample", data, "--videos", 5, "--out", f"./s{name}")),
        (True, ("bundle", f"./{name}", "--out", f"./b{name}.zip")),
        (True, ("verify", f"./b{name}.zip", "--out", f"./v{name}")),
    ):  # fmt: skip
        done = edge_af(tmp_path, *arguments)
        assert (done.returncode == 0) == works, done.stderr
    if loads:
        assert edge_af(tmp_path, "report", results, "--html", f"./{name}.html").returncode == 0
        assert json.loads((tmp_path / results).read_text())["rows"][0]["artifact"] == name
    assert open_dataset(tmp_path / f"s{name}").videos == 5


def test_a_run_and_an_export_whose_files_could_not_be_loaded_are_refused_at_once(dataset: Dataset, tmp_path: Path):
    train = ("train", "--model", "fc-late-fusion", "--preset", "linear", "--data", dataset.folder)
    done = edge_af(tmp_path, *train, "--out", NAMES["latin"])
    assert done.returncode == 2 and b"the name is not UTF-8" in done.stderr
    assert {path.name for path in tmp_path.iterdir()} <= {"summary.md"}


@pytest.mark.slow
def test_verbs_that_write_runs_and_exports(name: str, dataset: Dataset, tmp_path: Path):
    train = ("train", "--model", "fc-late-fusion", "--preset", "linear", "--epochs", 1, "--data", dataset.folder)
    done = edge_af(tmp_path, *train, "--out", f"./{name}")
    if name == NAMES["latin"]:
        return
    assert done.returncode == 0, done.stderr
    done = edge_af(tmp_path, "export", f"./{name}", "--format", "tflite", "--out", f"./x{name}")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / f"x{name}" / "manifest.json").is_file()
