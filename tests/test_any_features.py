"""A network for features of other lengths than YouTube-8M's goes through every command."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import edge_af
from edge_af.data import YOUTUBE8M, Widths
from edge_af.models.run import load_run
from edge_af.runtime.probe import input_widths

pytestmark = pytest.mark.slow

NAMES = ["bird", "car", "rain", "dog", "bell", "sea"]
SMALL = ("--preset", "1m", "--epochs", "1", "--batch", "64", "--threads", "1", "--lr", "3e-3")


def command(*words: object, codes: tuple[int, ...] = (0,)) -> str:
    done = subprocess.run([sys.executable, "-m", "edge_af", *map(str, words)], capture_output=True, encoding="utf-8")
    assert done.returncode in codes, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prepared data of 512 visual and 64 audio features, a run of each network, and their exports."""
    folder = tmp_path_factory.mktemp("own")
    truth = np.random.default_rng(0).normal(size=(512 + 64, len(NAMES)))
    for name, videos, seed in (("train", 600, 1), ("eval", 200, 2)):
        random = np.random.default_rng(seed)
        visual, audio = random.normal(0, 3, (videos, 512)), random.normal(0, 20, (videos, 64))
        scores = np.concatenate([visual / 3, audio / 20], axis=1) @ truth
        labels = [";".join(np.array(NAMES)[row]) for row in scores > np.quantile(scores, 0.7, axis=0)]
        np.savez(folder / f"{name}.npz", visual=visual, audio=audio, labels=np.array(labels))
    train = folder / "train"
    command("data", "prepare", folder / "train.npz", "--out", train)
    command("data", "prepare", folder / "eval.npz", "--vocabulary", train, "--out", folder / "eval")
    command("train", "--model", "attend-fusion", *SMALL, "--data", train, "--out", folder / "run")
    export = ("--int8", "--int4", "--calibration-data", train, "--sensitivity-videos", "0")
    command("export", folder / "run", *export, "--out", folder / "artifacts")
    return folder


def test_the_run_and_the_files_have_the_data_s_widths(folder: Path):
    run = load_run(folder / "run")
    assert run.config.features == Widths(512, 64)
    assert run.data.largest is not None
    assert run.data.largest > 32
    files = sorted((folder / "artifacts").glob("attend-fusion-*.*"))
    assert len(files) == 6
    assert {input_widths(path) for path in files} == {Widths(512, 64)}
    assert "up to ±" in (folder / "artifacts" / "README.md").read_text()


def test_the_api_scores_and_checks_them(folder: Path):
    with np.load(folder / "eval.npz") as arrays:
        features = edge_af.Features(arrays["visual"], arrays["audio"])
    run = edge_af.load(folder / "run")
    wanted = run.score(features)
    for name in ("attend-fusion-fp32.onnx", "attend-fusion-fp32.tflite", "attend-fusion-int8.tflite"):
        network = edge_af.load(folder / "artifacts" / name, packed=folder / f"packed-{name}")
        assert network.widths == Widths(512, 64)
        assert np.abs(network.score(features) - wanted).max() < (1e-5 if "fp32" in name else 0.05)
    with pytest.raises(edge_af.EdgeAfError, match="'visual' has 1024 features per video; the network takes 512"):
        run.score((np.zeros((1, 1024), np.float32), np.zeros((1, 128), np.float32)))
    with pytest.raises(edge_af.EdgeAfError, match="holds 5000; features of this network are floats up to"):
        run.score((np.full((1, 512), 5000, np.float32), features.audio[:1]))


def test_every_other_command_takes_them(folder: Path):
    artifacts, data = folder / "artifacts", folder / "eval"
    int8, int4 = artifacts / "attend-fusion-int8.onnx", artifacts / "attend-fusion-int4.tflite"
    measured = json.loads(command("eval", int8, "--data", data, "--json"))
    assert measured["gap_at_20"] > 0.3
    for more in (("--data", data), ()):
        out = folder / f"results-{len(more)}.json"
        command("bench", artifacts, *more, "--quick", "--out", out)
        rows = json.loads(out.read_text())["rows"]
        assert {row["status"] for row in rows} == {"ok"}
        assert len(rows) == 6
    # A busy machine makes the times inconclusive.
    command("compare", int4, int4, "--data", data, "--budget", "5s", codes=(0, 3))
    command("bundle", artifacts, "--out", folder / "network.zip")
    command("verify", folder / "network.zip", "--out", folder / "unpacked")
    for source in (data, folder / "eval.npz"):
        found = json.loads(command("predict", folder / "unpacked" / int4.name, source, "--videos", "2", "--json"))
        assert [len(video["labels"]) for video in found] == [3, 3]
        assert found[0]["labels"][0]["name"] in NAMES


def test_data_of_other_widths_is_refused(folder: Path, dataset: object):
    youtube8m = dataset.folder  # type: ignore[attr-defined]
    for words in (
        ("train", "--init", folder / "run", "--data", youtube8m, "--epochs", "1", "--out", folder / "no"),
        ("export", folder / "run", "--int8", "--calibration-data", youtube8m, "--any-calibration-data", "--out", folder / "no"),
    ):  # fmt: skip
        done = subprocess.run(
            [sys.executable, "-m", "edge_af", *map(str, words)], capture_output=True, encoding="utf-8"
        )
        assert done.returncode == 2
        assert f"{YOUTUBE8M.visual} visual and {YOUTUBE8M.audio} audio features" in done.stderr
    assert not (folder / "no").exists()


def test_data_with_other_class_names_is_refused(folder: Path, tmp_path: Path):
    with np.load(folder / "eval.npz") as arrays:
        labels = np.char.replace(arrays["labels"], "bird", "cow")
        np.savez(tmp_path / "cows.npz", visual=arrays["visual"], audio=arrays["audio"], labels=labels)
    command("data", "prepare", tmp_path / "cows.npz", "--out", tmp_path / "cows")
    words = ("eval", folder / "run", "--data", tmp_path / "cows")
    done = subprocess.run([sys.executable, "-m", "edge_af", *map(str, words)], capture_output=True, encoding="utf-8")
    assert done.returncode == 2
    assert "class 1 is 'bird', but 'car'" in done.stderr
