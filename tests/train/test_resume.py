"""A run that is interrupted or killed and then resumed ends with the weights of an uninterrupted run."""

from __future__ import annotations

import dataclasses
import json
import os
import random
import signal
import subprocess
import sys
import time

import pytest

from edge_af.errors import EdgeAfError
from edge_af.models.presets import AttendFusionConfig
from edge_af.models.run import METRICS, RUN, load_run
from edge_af.train import loop
from edge_af.train.checkpoint import CHECKPOINT
from edge_af.train.loop import TrainRequest, train
from edge_af.train.options import TrainOptions

CONFIG = AttendFusionConfig(tokens=4, token_width=16, heads=2, dropout=0.3)
OPTIONS = TrainOptions(
    precision="fp32", mixup=0.4, epochs=3, batch=16, lr=3e-3, held_out=0.1, threads=1, checkpoint_steps=5
)

SCRIPT = """
import signal, sys, time
from pathlib import Path
from edge_af.data.dataset import open_dataset
from edge_af.errors import EdgeAfError
from edge_af.models.presets import AttendFusionConfig
from edge_af.train import loop
from edge_af.train.loop import TrainRequest, train
from edge_af.train.options import TrainOptions
data, out, config, options, waits = sys.argv[1:]
save = loop.save_checkpoint

def save_and_wait(*arguments):
    save(*arguments)
    while waits == "waits" and signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
        time.sleep(0.005)  # until SIGTERM, which puts the default back

loop.save_checkpoint = save_and_wait
try:
    train(TrainRequest(open_dataset(data), eval(config), "test", Path(out), eval(options), resume=True))
except EdgeAfError as error:
    print(error, file=sys.stderr)
    sys.exit(error.exit_code)
"""


def start(dataset, out, waits=""):
    """Train in another process; with `waits`, it stops after its first checkpoint until SIGTERM arrives."""
    arguments = [str(dataset.folder), str(out), repr(CONFIG), repr(OPTIONS), waits]
    return subprocess.Popen([sys.executable, "-c", SCRIPT, *arguments], stderr=subprocess.PIPE, text=True)


def wait_for_checkpoint(process, folder):
    while not (folder / CHECKPOINT).exists():
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.005)


def weights_of(folder):
    return (folder / load_run(folder).weights).read_bytes()


@pytest.fixture(scope="module")
def unbroken(dataset, tmp_path_factory):
    folder = tmp_path_factory.mktemp("unbroken")
    train(TrainRequest(dataset, CONFIG, "test", folder, OPTIONS))
    assert not (folder / CHECKPOINT).exists()
    return folder


def metrics_without_times(folder):
    lines = [json.loads(line) for line in (folder / METRICS).read_text().splitlines()]
    return [
        {key: value for key, value in line.items() if key not in ("seconds", "speed") and key != "speed"}
        for line in lines
    ]


@pytest.mark.slow
def test_sigterm_saves_and_resume_ends_the_same(dataset, unbroken, tmp_path):
    process = start(dataset, tmp_path / "run", "waits")
    wait_for_checkpoint(process, tmp_path / "run")
    process.terminate()
    _, said = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM
    assert "continue with --resume" in said

    with pytest.raises(EdgeAfError, match="already holds a run"):
        train(TrainRequest(dataset, CONFIG, "test", tmp_path / "run", OPTIONS))
    train(TrainRequest(dataset, CONFIG, "test", tmp_path / "run", OPTIONS, resume=True))
    assert weights_of(tmp_path / "run") == weights_of(unbroken)
    assert metrics_without_times(tmp_path / "run") == metrics_without_times(unbroken)
    assert not (tmp_path / "run" / CHECKPOINT).exists()


@pytest.mark.slow
def test_ten_kills_at_random_moments(dataset, unbroken, tmp_path):
    draw = random.Random(5)
    for _ in range(10):
        process = start(dataset, tmp_path)
        before = (tmp_path / CHECKPOINT).stat().st_mtime_ns if (tmp_path / CHECKPOINT).exists() else 0
        # After a new checkpoint, the kill may hit a step, an evaluation or a save.
        while process.poll() is None:
            now = (tmp_path / CHECKPOINT).stat().st_mtime_ns if (tmp_path / CHECKPOINT).exists() else 0
            if now != before:
                break
            time.sleep(0.001)
        time.sleep(draw.random() * 0.05)
        process.kill()
        process.communicate()
        if (tmp_path / RUN).exists():
            assert (tmp_path / load_run(tmp_path).weights).is_file()
    train(TrainRequest(dataset, CONFIG, "test", tmp_path, OPTIONS, resume=True))
    assert weights_of(tmp_path) == weights_of(unbroken)


def test_resuming_a_finished_run_changes_nothing(dataset, unbroken):
    before = {path.name: path.stat().st_mtime_ns for path in unbroken.iterdir()}
    run = train(TrainRequest(dataset, CONFIG, "test", unbroken, OPTIONS, resume=True))
    assert run == load_run(unbroken)
    assert before == {path.name: path.stat().st_mtime_ns for path in unbroken.iterdir()}
    with pytest.raises(EdgeAfError, match="was made with options"):
        train(TrainRequest(dataset, CONFIG, "test", unbroken, dataclasses.replace(OPTIONS, epochs=9), resume=True))


@pytest.mark.slow
def test_a_kill_before_the_first_checkpoint_is_no_finished_run(dataset, unbroken, tmp_path, monkeypatch):
    def full(*arguments):
        raise EdgeAfError("no space left")

    with monkeypatch.context() as patched, pytest.raises(EdgeAfError, match="no space left"):
        patched.setattr(loop, "save_checkpoint", full)
        train(TrainRequest(dataset, CONFIG, "test", tmp_path, dataclasses.replace(OPTIONS, checkpoint_steps=0)))
    assert (tmp_path / RUN).exists()
    train(TrainRequest(dataset, CONFIG, "test", tmp_path, OPTIONS, resume=True))
    assert weights_of(tmp_path) == weights_of(unbroken)


def test_other_data_of_the_same_name_and_size_is_refused(dataset, unbroken):
    other = dataclasses.replace(dataset, label_values=(dataset.label_values + 1) % dataset.classes)
    with pytest.raises(EdgeAfError, match="was made with data"):
        train(TrainRequest(other, CONFIG, "test", unbroken, OPTIONS, resume=True))


def test_another_number_of_threads_is_only_warned_of(dataset, unbroken, capsys):
    train(TrainRequest(dataset, CONFIG, "test", unbroken, dataclasses.replace(OPTIONS, threads=2), resume=True))
    assert "the weights will differ by rounding" in capsys.readouterr().err


@pytest.mark.slow
def test_other_options_are_refused(dataset, tmp_path):
    process = start(dataset, tmp_path, "waits")
    wait_for_checkpoint(process, tmp_path)
    process.kill()
    process.communicate()
    with pytest.raises(EdgeAfError, match="was made with options"):
        train(TrainRequest(dataset, CONFIG, "test", tmp_path, dataclasses.replace(OPTIONS, lr=1e-4), resume=True))
    with pytest.raises(EdgeAfError, match="was made with config"):
        train(TrainRequest(dataset, dataclasses.replace(CONFIG, heads=4), "test", tmp_path, OPTIONS, resume=True))
    checkpoint = tmp_path / CHECKPOINT
    os.truncate(checkpoint, checkpoint.stat().st_size // 2)
    with pytest.raises(EdgeAfError, match="damaged"):
        train(TrainRequest(dataset, CONFIG, "test", tmp_path, OPTIONS, resume=True))
