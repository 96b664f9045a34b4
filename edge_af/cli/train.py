"""`edge-af train`."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from edge_af.console import tell
from edge_af.models.presets import ABLATIONS, PRESETS, AttendFusionConfig, preset
from edge_af.train.options import TrainOptions


def train_flags(function: Callable[..., Any]) -> Callable[..., Any]:
    """A flag for each field of `TrainOptions`."""
    for field in reversed(dataclasses.fields(TrainOptions)):
        name = f"--{field.name.replace('_', '-')}"
        is_flag = isinstance(field.default, bool)
        function = click.option(
            name, default=field.default, show_default=not is_flag, is_flag=is_flag, help=field.metadata["help"]
        )(function)
    return function


@click.command()
@click.option(
    "--data", "data_folder", required=True, type=click.Path(path_type=Path), help="Prepared dataset to train on."
)
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Run folder to make.")
@click.option("--model", required=True, type=click.Choice(list(PRESETS)), help="Which network.")
@click.option("--preset", "preset_name", default="small", show_default=True, help="Its shape; see `edge-af models`.")
@click.option(
    "--ablate",
    default="none",
    show_default=True,
    type=click.Choice(ABLATIONS),
    help="Take this away from attend-fusion.",
)
@click.option("--teacher", type=click.Path(path_type=Path), help="Run whose scores are learnt beside the labels.")
@train_flags
@click.option("--resume", is_flag=True, help="Go on from the checkpoint in --out, if there is one.")
@click.option("--json", "as_json", is_flag=True, help="Print the run as JSON.")
def command(
    data_folder: Path,
    out: Path,
    model: str,
    preset_name: str,
    ablate: str,
    teacher: Path | None,
    resume: bool,
    as_json: bool,
    **flags: Any,
) -> None:
    """Train a network on a prepared dataset.

    A part of the training videos is held out: the best epoch and the F1 threshold are chosen on it. The run folder
    holds the best epoch so far, from the first epoch on.
    """
    config, options = preset(model, preset_name), TrainOptions(**flags)
    if ablate != "none":
        if not isinstance(config, AttendFusionConfig):
            raise click.UsageError(f"--ablate is for attend-fusion, not for {model}.")
        config = dataclasses.replace(config, ablate=ablate)

    # PyTorch reads this once, at its first large allocation: fewer page faults, a tenth of a step at the paper's size.
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    from edge_af.data.dataset import open_dataset
    from edge_af.train.distributed import joined
    from edge_af.train.loop import train

    dataset = open_dataset(data_folder)
    with joined() as group:
        run = train(dataset, config, preset_name, out, options, teacher=teacher, resume=resume, group=group)
    if not group.leads:
        return
    if as_json:
        tell(json.dumps({"model": run.model, **dataclasses.asdict(run)}))
        return
    held_out = run.training["held_out"]
    tell(f"{out}: {run.model} ({run.preset}), best epoch {run.training['epoch']} of {options.epochs}")
    tell(f"held-out GAP@20 {held_out['gap_at_20']:.4f}, F1 {held_out['f1_micro']:.4f} at {run.f1_threshold:.3f}")
    tell(f"Next: edge-af export {out} --int8 --calibration-data {data_folder} --out artifacts/{run.model}")
