"""`edge-af train`: train a network on a prepared dataset."""

from __future__ import annotations

import dataclasses
import json
import os
from dataclasses import dataclass
from pathlib import Path

from edge_af.cli.build import verb
from edge_af.cli.next_step import suggest, unused
from edge_af.console import tell
from edge_af.errors import EdgeAfError
from edge_af.models.presets import ABLATIONS, PRESETS, AttendFusionConfig, ModelConfig, preset
from edge_af.options import option, part
from edge_af.train.options import TrainOptions

NETWORK = "Network and data"
SIZE = "small"
"""Default preset."""


@dataclass(frozen=True, kw_only=True)
class TrainCommand(TrainOptions):
    """The options of `edge-af train`."""

    data: Path = option("Prepared dataset to train on.", group=NETWORK)
    out: Path = option("Run folder to write.", group=NETWORK)
    model: str | None = option("Network; required without --init.", default=None, choices=PRESETS, group=NETWORK)
    preset: str | None = option(
        "Size of the network (see `edge-af models`).",
        default=None,
        complete="preset",
        group=NETWORK,
        shown_default=f"{SIZE}, or that of --init",
    )
    ablate: str = option("Part to remove from attend-fusion.", default="none", choices=ABLATIONS, group=NETWORK)
    dropout: float | None = option(
        "Share of features dropped.",
        default=None,
        at_least=0,
        below=1,
        group=NETWORK,
        shown_default="the preset's, or that of --init",
    )
    teacher: tuple[Path, ...] = option(
        "Teacher run to distill from. Repeatable: scores are averaged.", default=(), group=NETWORK
    )
    init: Path | None = option("Run to start from, instead of random weights.", default=None, group=NETWORK)
    quantize: str | None = option(
        "Recipe, by name or file, to fine-tune for. Needs --init.",
        default=None,
        complete="recipe",
        group=NETWORK,
    )
    resume: bool = option("Continue from the checkpoint in --out, if there is one.", default=False)
    json: bool = option("Print the run as JSON.", default=False)


@verb(
    TrainCommand,
    example="edge-af train --model attend-fusion --preset small --data prepared/train --out runs/attend-fusion",
)
def command(options: TrainCommand) -> None:
    """Train a network on a prepared dataset.

    Part of the training videos is held out to choose the best epoch and the F1 threshold. After each epoch, the run folder
    holds the best epoch so far.
    """
    config, name = _network(options)
    recipe = None
    if options.quantize is not None:
        from edge_af.export.recipes import load_recipe

        recipe = load_recipe(options.quantize)

    # Large pages avoid page faults, which take a tenth of a step at the paper's size. PyTorch reads this at its first large
    # allocation.
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    from edge_af.data.dataset import open_dataset
    from edge_af.train.distributed import joined
    from edge_af.train.loop import TrainRequest, train

    dataset, how = open_dataset(options.data), part(options, TrainOptions)
    if options.init is None:
        config = dataclasses.replace(config, features=dataset.widths)
    with joined() as group:
        request = TrainRequest(
            dataset, config, name, options.out, how, options.teacher, options.init, recipe, options.resume
        )
        run = train(request, group)
    if not group.leads:
        return
    if options.json:
        tell(json.dumps({"model": run.model, **dataclasses.asdict(run)}))
        return
    held_out = run.training["held_out"]
    tell(f"{options.out}: {run.model} ({run.preset}), best epoch {run.training['epoch']} of {options.epochs}")
    tell(f"held-out GAP@20 {held_out['gap_at_20']:.4f}, F1 {held_out['f1_micro']:.4f} at {run.f1_threshold:.3f}")
    out = unused(Path("artifacts") / run.model)
    how_to: tuple[object, ...] = ("--int8", "--calibration-data", options.data)
    if recipe is not None:
        two_bits = any(form.weights == "int2" for form in recipe.forms)
        how_to = ("--recipe", options.quantize, *(("--format", "onnx") if two_bits else ()))
        if recipe.needs_ranges:
            how_to += ("--ranges", options.out / "ranges.json")
        if recipe.needs_inputs or not recipe.needs_ranges:
            how_to += ("--calibration-data", options.data)
    suggest("export", options.out, *how_to, "--out", out)


def _network(options: TrainCommand) -> tuple[ModelConfig, str]:
    """Return the network's config, and the name of its preset: those of --init, or as the options say."""
    if options.init is not None:
        from edge_af.models.run import load_run

        start = load_run(options.init)
        for flag, given, found in (("--model", options.model, start.model), ("--preset", options.preset, start.preset)):
            if given not in (None, found):
                raise EdgeAfError(f"{flag} {given}: the run {options.init} has {found}. Leave {flag} out.")
        if options.ablate != "none":
            raise EdgeAfError("--ablate: the run of --init fixes the network. Leave --ablate out.")
        return _with_dropout(start.config, options), start.preset
    if options.model is None:
        raise EdgeAfError(f"name the network with --model ({', '.join(PRESETS)}), or a run to start from with --init.")
    size = options.preset or SIZE
    config = preset(options.model, size)
    if options.ablate != "none":
        if not isinstance(config, AttendFusionConfig):
            raise EdgeAfError(f"--ablate applies to attend-fusion, not to {options.model}.")
        config = dataclasses.replace(config, ablate=options.ablate)
    return _with_dropout(config, options), size


def _with_dropout(config: ModelConfig, options: TrainCommand) -> ModelConfig:
    return config if options.dropout is None else dataclasses.replace(config, dropout=options.dropout)
