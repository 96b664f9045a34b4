"""Files without a manifest are scored in a separate process, which may crash."""

from __future__ import annotations

import os
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from edge_af.data import Features
from edge_af.data.dataset import Dataset
from edge_af.errors import EdgeAfError
from edge_af.runtime import apart, load, load_safely, score_all
from edge_af.runtime.apart import ApartScorer


@pytest.fixture(params=["onnx", "tflite"])
def lone(request: pytest.FixtureRequest, exports: Path, tmp_path: Path) -> Path:
    """An exported file without its manifest."""
    name = f"fc-late-fusion-int8.{request.param}"
    return Path(shutil.copy(exports / "fc-late-fusion" / name, tmp_path / name))


def test_scores_are_the_same(lone: Path, eval_dataset: Dataset) -> None:
    scorer, here = load_safely(lone), load(lone)
    assert isinstance(scorer, ApartScorer)
    assert (scorer.runtime, scorer.classes, scorer.max_batch) == (here.runtime, here.classes, here.max_batch)
    visual, audio = eval_dataset.features(slice(40))
    np.testing.assert_array_equal(
        score_all(scorer, Features(visual, audio), 16), score_all(here, Features(visual, audio), 16)
    )


def test_what_a_manifest_confirms_is_loaded_here(exports: Path) -> None:
    assert not isinstance(load_safely(exports / "fc-late-fusion/fc-late-fusion-fp32.onnx"), ApartScorer)


def test_a_process_that_dies_is_an_error(lone: Path) -> None:
    features = Features(np.zeros((1, 1024), np.float32), np.zeros((1, 128), np.float32))
    for number, reason in ((signal.SIGSEGV, "its runtime crashed .*SIGSEGV"), (signal.SIGKILL, "out of memory")):
        scorer = ApartScorer(lone, 1)
        os.kill(scorer._process.pid, number)
        scorer._process.wait()
        with pytest.raises(EdgeAfError, match=reason):
            scorer.score(features)


def test_a_process_that_does_not_come_to_an_end_is_ended(lone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scorer = ApartScorer(lone, 1)
    process = scorer._process
    os.kill(process.pid, signal.SIGSTOP)
    monkeypatch.setattr(apart, "SECONDS", 0.1)
    with pytest.raises(EdgeAfError, match="timed out while"):
        scorer.score(Features(np.zeros((1, 1024), np.float32), np.zeros((1, 128), np.float32)))
    assert process.poll() == -signal.SIGKILL


def test_nothing_is_left_behind(lone: Path) -> None:
    scorer = ApartScorer(lone, 1)
    process = scorer._process
    assert process.poll() is None
    del scorer
    for _ in range(50):
        if process.poll() is not None:
            break
        time.sleep(0.05)
    assert process.poll() is not None


def test_a_file_that_is_no_model_is_named(tmp_path: Path) -> None:
    for name in ("x.onnx", "x.tflite"):
        (tmp_path / name).write_bytes(np.random.default_rng(0).bytes(5000))
        with pytest.raises(EdgeAfError, match=f"{name}: .*cannot load this file"):
            load_safely(tmp_path / name)


@pytest.mark.slow
def test_flipped_bits_end_in_scores_or_an_error(lone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some of these crash LiteRT's process."""
    monkeypatch.setattr(apart, "SECONDS", 30.0)
    data, random = lone.read_bytes(), np.random.default_rng(0)
    for _ in range(100):
        at = int(random.integers(len(data)))
        lone.write_bytes(data[:at] + bytes([data[at] ^ 1 << int(random.integers(8))]) + data[at + 1 :])
        try:
            score_all(load_safely(lone), Features(np.zeros((3, 1024), np.float32), np.zeros((3, 128), np.float32)))
        except EdgeAfError as error:
            assert len(str(error).splitlines()) <= 2
