"""Distributed training with torchrun: two processes give the result of one, and exit cleanly if one dies."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
import torch

import edge_af
from edge_af.errors import EdgeAfError
from edge_af.export.recipes import load_recipe
from edge_af.models.presets import AttendFusionConfig
from edge_af.models.run import METRICS, load_network, load_run
from edge_af.train.checkpoint import CHECKPOINT
from edge_af.train.distributed import Group
from edge_af.train.loop import TrainRequest, train
from edge_af.train.options import TrainOptions

# No dropout, because it differs between ranks. Two processes then have to give the same result as one.
CONFIG = AttendFusionConfig(tokens=4, token_width=16, heads=2, dropout=0.0)
OPTIONS = TrainOptions(epochs=2, batch=54, lr=2e-3, held_out=0.1, threads=1, checkpoint_steps=2, precision="fp32")

SCRIPT = """
import os, signal, sys, threading, time
from pathlib import Path
from edge_af.data.dataset import open_dataset
from edge_af.errors import EdgeAfError
from edge_af.models.presets import AttendFusionConfig
from edge_af.train.distributed import joined
from edge_af.train.loop import TrainRequest, train
from edge_af.train.options import TrainOptions
data, out, config, options, dies = sys.argv[1:]

def die():
    while not (Path(out) / "checkpoint.safetensors").exists():
        time.sleep(0.001)
    os.kill(os.getpid(), signal.SIGKILL)

if dies == os.environ["RANK"]:
    threading.Thread(target=die, daemon=True).start()
try:
    with joined() as group:
        train(TrainRequest(open_dataset(data), eval(config), "test", Path(out), eval(options), resume=True), group)
except EdgeAfError as error:
    print(error, file=sys.stderr, flush=True)
    sys.exit(error.exit_code)
"""


def torchrun(dataset, out, script, dies="none"):
    path = out.parent / "job.py"
    path.write_text(script)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(path)]
    arguments = [str(dataset.folder), str(out), repr(CONFIG), repr(OPTIONS), dies]
    return subprocess.run([*command, *arguments], capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def alone(dataset, tmp_path_factory):
    folder = tmp_path_factory.mktemp("alone")
    train(TrainRequest(dataset, CONFIG, "test", folder, OPTIONS))
    return folder


def assert_same_training(dataset, folder, other):
    lines, expected = (
        [json.loads(line) for line in (path / METRICS).read_text().splitlines()] for path in (folder, other)
    )
    assert len(lines) == len(expected) == OPTIONS.epochs
    for line, wanted in zip(lines, expected, strict=True):
        assert line["loss"] == pytest.approx(wanted["loss"], abs=1e-4)
        assert line["held_out_loss"] == pytest.approx(wanted["held_out_loss"], abs=1e-4)
    # Compare scores, not weights: a bias before a BatchNorm has no effect, and AdamW amplifies its rounding noise.
    scores, wanted = (edge_af.load(path).score(dataset.features(slice(0, 200))) for path in (folder, other))
    assert np.abs(scores - wanted).max() < 2e-3


@pytest.mark.slow
def test_two_processes_train_what_one_does(dataset, alone, tmp_path):
    """Train 20 steps with the same global batch: 540 videos in batches of 54, twice."""
    done = torchrun(dataset, tmp_path / "run", SCRIPT)
    assert done.returncode == 0, done.stderr
    assert load_run(tmp_path / "run").training["processes"] == 2
    assert_same_training(dataset, tmp_path / "run", alone)
    # Only one process prints.
    assert done.stderr.count("epoch 2/2") == 1


@pytest.mark.slow
def test_a_rank_that_dies_ends_the_run_and_leaves_a_usable_checkpoint(dataset, alone, tmp_path):
    died = torchrun(dataset, tmp_path / "run", SCRIPT, dies="1")
    assert died.returncode != 0
    assert (tmp_path / "run" / CHECKPOINT).exists()
    assert "lost the other processes" in died.stderr or "continue with --resume" in died.stderr
    resumed = torchrun(dataset, tmp_path / "run", SCRIPT)
    assert resumed.returncode == 0, resumed.stderr
    assert "continuing from step" in resumed.stderr
    assert_same_training(dataset, tmp_path / "run", alone)


@pytest.mark.parametrize(("size", "batch"), [(2, 27), (4, 4), (3, 256)])
def test_a_batch_that_cannot_be_shared_is_refused(size, batch):
    with pytest.raises(EdgeAfError, match=f"--batch {batch}: must be a multiple of the {size} processes"):
        Group(0, size).share_of(batch)


@pytest.mark.slow
def test_two_processes_fine_tune_for_a_recipe_as_one_does(dataset, alone, tmp_path):
    """Folded BatchNorms stay without effect in every process."""
    recipe, one, two = "int4-dynamic", tmp_path / "one", tmp_path / "two"
    train(TrainRequest(dataset, CONFIG, "test", one, OPTIONS, init=alone, recipe=load_recipe(recipe)))
    script = SCRIPT.replace("import os,", "from edge_af.export.recipes import load_recipe\nimport os,").replace(
        "resume=True", f"init=Path({str(alone)!r}), recipe=load_recipe({recipe!r}), resume=True"
    )
    done = torchrun(dataset, two, script)
    assert done.returncode == 0, done.stderr
    norms = [module for module in load_network(two)[1].modules() if isinstance(module, torch.nn.BatchNorm1d)]
    assert norms
    for norm in norms:
        assert (norm.running_mean == 0).all() and (norm.weight == 1).all() and (norm.bias == 0).all()
    losses = [load_run(folder).training["held_out_loss"] for folder in (one, two)]
    # A weight near the middle of two steps may round either way.
    assert losses[0] == pytest.approx(losses[1], rel=0.01)
