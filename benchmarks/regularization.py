"""Search for the training options against overfitting, with the same trials for each network.

    python -m benchmarks.regularization --data runs/data/train --work runs/trials --out benchmarks/results/regularization

trains every trial on a prepared training set and measures it on held-out videos: one in ten, the same for all trials. The
evaluation videos are not used. An interrupted search continues when started again. Several processes may share `--work`
and `--out`; each takes the trials that no other has started.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")

import torch
from torch import Tensor

from benchmarks.verbs import commit, this_command
from edge_af.console import say
from edge_af.data.batches import split
from edge_af.data.dataset import Dataset, open_dataset
from edge_af.errors import EdgeAfError
from edge_af.files import locked, read_json, write_atomic, write_json
from edge_af.machine.device import this_device
from edge_af.models.presets import AttendFusionConfig, FCLateFusionConfig, ModelConfig
from edge_af.train.compute import Compute
from edge_af.train.loop import TrainRequest, train, update
from edge_af.train.options import TrainOptions

OPTIONS = TrainOptions(epochs=8, held_out=0.1, threads=1)
SPREAD = {"visual": 0.46, "audio": 0.69}
"""Standard deviation of the features over the training videos."""


@contextlib.contextmanager
def nothing() -> Iterator[None]:
    """Train as the options say."""
    yield


def changed_inputs(change: Callable[[Tensor, float], Tensor]) -> contextlib.AbstractContextManager[Any]:
    """Change each training batch's features by a function of the features and their standard deviation."""
    own = Compute.inputs

    def inputs(compute: Compute, features: Any) -> tuple[Tensor, Tensor]:
        visual, audio = own(compute, features)
        return change(visual, SPREAD["visual"]), change(audio, SPREAD["audio"])

    return patch.object(Compute, "inputs", inputs)


def input_dropout(share: float) -> Callable[[], contextlib.AbstractContextManager[Any]]:
    """Drop a share of the features."""
    return lambda: changed_inputs(lambda x, spread: torch.nn.functional.dropout(x, share))


def input_noise(share: float) -> Callable[[], contextlib.AbstractContextManager[Any]]:
    """Add normal noise to the features, its standard deviation a share of theirs."""
    return lambda: changed_inputs(lambda x, spread: x + share * spread * torch.randn_like(x))


def smoothing(share: float) -> Callable[[], contextlib.AbstractContextManager[Any]]:
    """Lower the labels from 1 to 1 - share."""

    def smoothed(learner: Any, inputs: Any, targets: Tensor, *more: Any) -> Tensor:
        return update(learner, inputs, targets * (1 - share), *more)

    return lambda: patch("edge_af.train.loop.update", smoothed)


@dataclass(frozen=True)
class Trial:
    """One training to try."""

    name: str
    config: ModelConfig
    options: dict[str, Any] = field(default_factory=dict)
    """Differences from `OPTIONS`."""
    change: Callable[[], contextlib.AbstractContextManager[Any]] = nothing
    teachers: tuple[str, ...] = ()
    """Names of earlier trials that teach."""


def _of(config: ModelConfig, lr: float) -> list[Trial]:
    """Return the trials of one network with hidden layers."""

    def trial(name: str, dropout: float, change: Any = nothing, **options: Any) -> Trial:
        own = replace(config, dropout=dropout)
        return Trial(f"{config.model}: {name}", own, {"lr": lr, **options}, change)

    return [
        *(trial(f"dropout {share}", share) for share in (0.2, 0.4, 0.5, 0.6)),
        trial("dropout 0.5, weight decay 0.3", 0.5, weight_decay=0.3),
        trial("dropout 0.5, mixup 0.4", 0.5, mixup=0.4),
        trial("dropout 0.5, 20 % of the features dropped", 0.5, input_dropout(0.2)),
        trial("dropout 0.5, noise of 0.5 standard deviations", 0.5, input_noise(0.5)),
        trial("dropout 0.5, label smoothing 0.1", 0.5, smoothing(0.1)),
        trial("dropout 0.5, average over 500 steps", 0.5, average=0.998),
    ]


ATTEND = AttendFusionConfig(tokens=16, token_width=64, heads=4, dropout=0.5)
LATE = FCLateFusionConfig(width=1024, depth=3, dropout=0.5)
"""Networks of 11 and 9 million parameters, because the search would take days at the paper's size."""
LINEAR = FCLateFusionConfig(width=0, depth=0, dropout=0.0)
BEST = "attend-fusion: dropout 0.5"
TEACHERS = (BEST, f"{BEST}, seed 1", f"{BEST}, seed 2")


def _student(name: str, teachers: int, **options: Any) -> Trial:
    more = {"lr": 2e-3, "epochs": 10, "teacher_weight": 1.0, **options}
    own = replace(ATTEND, dropout=0.2)
    return Trial(f"attend-fusion taught by {name}", own, more, teachers=TEACHERS[:teachers])


TRIALS = (
    *_of(ATTEND, 2e-3),
    *(Trial(f"{BEST}, seed {seed}", ATTEND, {"lr": 2e-3, "seed": seed}) for seed in (1, 2)),
    *(
        Trial(f"linear: weight decay {decay}", LINEAR, {"lr": 3e-3, "weight_decay": decay})
        for decay in (0.05, 0.3, 1.0)
    ),
    Trial("linear: 20 % of the features dropped", LINEAR, {"lr": 3e-3}, input_dropout(0.2)),
    Trial("linear: label smoothing 0.1", LINEAR, {"lr": 3e-3}, smoothing(0.1)),
    *_of(LATE, 1e-3),
    _student("3 seeds", 3),
    _student("3 seeds on mixed videos", 3, mixup=1.0),
    _student("1 seed on mixed videos", 1, mixup=1.0),
    _student("3 seeds and the labels on mixed videos", 3, mixup=1.0, teacher_weight=0.7),
)


def tried(trial: Trial, dataset: Dataset, work: Path) -> dict[str, Any]:
    """Train a trial and return its row of the table."""
    options = replace(OPTIONS, **trial.options)
    teachers = tuple(work / folder_of(name) for name in trial.teachers)
    request = TrainRequest(dataset, trial.config, "trial", work / folder_of(trial.name), options, teachers, resume=True)
    started = time.monotonic()
    # The seed changes the initial weights and the order, but not the held-out videos.
    with trial.change(), patch("edge_af.train.loop.split", lambda videos, share, seed: split(videos, share, 0)):
        run = train(request)
    return {
        "name": trial.name,
        "params": run.params,
        "config": asdict(trial.config),
        "options": asdict(options),
        "compute": run.training["compute"],
        "epoch": run.training["epoch"],
        "training_loss": run.training["loss"],
        "held_out_gap_at_20": run.training["held_out"]["gap_at_20"],
        "held_out_loss": run.training["held_out_loss"],
        "seconds": time.monotonic() - started,
        "device": this_device().cpu,
    }


def folder_of(name: str) -> str:
    """Return the name of a trial's run folder."""
    return "".join(letter if letter.isalnum() or letter in ".-" else "-" for letter in name)


def markdown(found: dict[str, Any]) -> str:
    """Return the table of all rows, in the order of `TRIALS`."""
    rows = {row["name"]: row for row in found["rows"]}
    lines = [
        "| trial | parameters | held-out GAP@20 | best epoch | training loss | held-out loss |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for row in (rows[trial.name] for trial in TRIALS if trial.name in rows):
        lines.append(
            f"| {row['name']} | {row['params'] / 1e6:.1f}M | {row['held_out_gap_at_20']:.4f} | {row['epoch']} of "
            f"{row['options']['epochs']} | {row['training_loss']:.2f} | {row['held_out_loss']:.2f} |"
        )
    commits, devices = (
        ", ".join(dict.fromkeys(str(row[key]) for row in rows.values())) for key in ("commit", "device")
    )
    lines += [
        "",
        f"{found['videos']:,} videos, one in ten held out. Made by `{found['command']}`, commits {commits}, on {devices}, "
        "one thread. Videos are YouTube-8M's (Google LLC, CC BY 4.0).",
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Train every trial that is not recorded yet."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="prepared training data")
    parser.add_argument("--work", type=Path, required=True, help="folder for the runs")
    parser.add_argument("--out", type=Path, required=True, help="writes OUT.json and OUT.md")
    given = parser.parse_args()
    dataset, path = open_dataset(given.data), given.out.with_suffix(".json")

    def recorded() -> list[dict[str, Any]]:
        return list(read_json(path, "file of results")["rows"]) if path.exists() else []

    given.work.mkdir(parents=True, exist_ok=True)
    for trial in TRIALS:
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(locked(given.work / f"{folder_of(trial.name)}.lock", "busy"))
            except EdgeAfError:  # Another process trains it.
                continue
            done = {row["name"] for row in recorded()}
            if trial.name in done or not set(trial.teachers) <= done:
                continue
            say(f"\n{trial.name}")
            row = {**tried(trial, dataset, given.work), "commit": commit()}
            with locked(given.work / "table.lock", "waiting for the table", wait=True):
                found = {
                    "schema_version": 1,
                    "command": this_command("regularization"),
                    "videos": dataset.videos,
                    "rows": [*recorded(), row],
                }
                write_json(path, found)
                write_atomic(given.out.with_suffix(".md"), markdown(found))


if __name__ == "__main__":
    main()
