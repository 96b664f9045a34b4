"""`edge-af export`."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edge_af.artifacts import FORMATS
from edge_af.console import say, tell, warn
from edge_af.errors import EdgeAfError
from edge_af.models.presets import FCLateFusionConfig

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from edge_af.artifacts import Manifest
    from edge_af.data.dataset import Dataset
    from edge_af.export.gate import GateData
    from edge_af.export.recipes import Recipe
    from edge_af.models.run import Run

PICKED = {
    "int8": {"onnx": "int8-static", "tflite": "int8-dynamic"},
    "int4": {"onnx": "int4-block32-dynamic", "tflite": "int4-block32-dynamic"},
    "fp16": {"onnx": "fp16", "tflite": "fp16"},
}
"""The recipe that a precision's flag stands for in each format; `docs/decisions.md` gives the measurements behind it."""
PICKED_ON_VIDEOS = {"int4": "int4-block64-dynamic-gptq-corrected"}
"""What it stands for in either format where there is calibration data, which that recipe's rounding needs."""
PICKED_FOR_ONE_LAYER = {"int4": "int4-block32-dynamic-gptq-corrected"}
"""The same for a network without hidden layers, which needs finer blocks: no other layer compensates for the error."""
INTEGER_IO = "int8-static"
"""What `--int8` stands for in TFLite with integer inputs and outputs, which need static activations."""


@click.command()
@click.argument("run_folder", metavar="RUN", type=click.Path(path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder of artifacts to make.")
@click.option(
    "--int8", is_flag=True, help="INT8 files beside the FP32 ones, by the recipe that does best in each format."
)
@click.option(
    "--int4", is_flag=True, help="INT4 files likewise; rounded on the calibration videos where there are some."
)
@click.option("--fp16", is_flag=True, help="FP16 files likewise.")
@click.option(
    "--format", "formats", multiple=True, type=click.Choice(list(FORMATS)), help="Only this format; may be given again."
)
@click.option(
    "--recipe",
    "recipe_names",
    multiple=True,
    metavar="[FORMAT=]NAME|FILE",
    help="Files by this recipe, its name or YAML file, for all formats or for one; may be given again. In place of what "
    "the flag of its precision would pick.",
)
@click.option(
    "--calibration-data", type=click.Path(path_type=Path), help="Prepared training data to find activation ranges on."
)
@click.option(
    "--calibration-videos", default=512, show_default=True, type=click.IntRange(min=1), help="How many of them."
)
@click.option("--seed", default=0, show_default=True, type=click.IntRange(min=0), help="Of the draw of those videos.")
@click.option(
    "--any-calibration-data", is_flag=True, help="Take --calibration-data even if the run was trained on other data."
)
@click.option(
    "--ranges",
    "ranges_file",
    type=click.Path(path_type=Path),
    help="The ranges.json of an earlier export of this network, in place of --calibration-data.",
)
@click.option(
    "--max-gap-drop",
    type=click.FloatRange(min=0),
    help="Most GAP@20 that a quantised file may lose against FP32 on --gate-data; layers go back to float until it holds.",
)
@click.option(
    "--gate-data",
    type=click.Path(path_type=Path),
    help="Prepared data for --max-gap-drop. Of the run's own training data, the videos that training held out are taken; "
    "do not name data that you report results on.",
)
@click.option(
    "--sensitivity-videos",
    default=256,
    show_default=True,
    type=click.IntRange(min=0),
    help="Videos for the table of each layer's sensitivity, of the gate's data or else the calibration's; 0: no table.",
)
@click.option(
    "--cpu",
    type=click.Choice(["x86-64", "arm64"]),
    help="Processor that INT8 ONNX files are for.  [default: this machine's]",
)
@click.option(
    "--io",
    type=click.Choice(["float32", "int8"]),
    default="float32",
    show_default=True,
    help="Inputs and outputs of quantised TFLite files; int8 holds every tensor as INT8, for accelerators.",
)
@click.option("--overwrite", is_flag=True, help="Replace what --out holds.")
@click.option("--json", "as_json", is_flag=True, help="Print the manifest, without class names, as JSON.")
def command(
    run_folder: Path,
    out: Path,
    int8: bool,
    int4: bool,
    fp16: bool,
    formats: tuple[str, ...],
    recipe_names: tuple[str, ...],
    calibration_data: Path | None,
    calibration_videos: int,
    seed: int,
    any_calibration_data: bool,
    ranges_file: Path | None,
    max_gap_drop: float | None,
    gate_data: Path | None,
    sensitivity_videos: int,
    cpu: str | None,
    io: str,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Turn a trained network into ONNX and TFLite files with a manifest.

    RUN is the folder that `edge-af train` made. Static activations need --calibration-data, the data it was trained on:
    the videos that training held out are left alone. Every file is loaded and checked before the folder is kept.
    """
    started = time.monotonic()
    chosen = tuple(dict.fromkeys(formats)) or tuple(FORMATS)
    from edge_af.data.dataset import open_dataset
    from edge_af.models.run import load_run

    flags = {"int8": int8, "int4": int4, "fp16": fp16}
    precisions = [precision for precision, given in flags.items() if given]
    on_videos = _on_videos(load_run(run_folder)) if int4 and calibration_data is not None else {}
    recipes = _recipes(chosen, recipe_names, precisions, io, on_videos)
    static = [recipe.name for of_format in recipes.values() for recipe in of_format if recipe.needs_ranges]
    if static and calibration_data is None and ranges_file is None:
        raise click.UsageError(
            f"{static[0]} finds activation ranges on training videos: name them with --calibration-data."
        )
    if ranges_file is not None and not static:
        raise click.UsageError("--ranges is for recipes with static activations, and none is exported here.")
    if (max_gap_drop is None) != (gate_data is None):
        raise click.UsageError("--max-gap-drop and --gate-data go together: how much, and on which videos.")
    if gate_data is not None and not any(recipes.values()):
        raise click.UsageError("--gate-data is for quantised files, and none is exported here: add --int8.")
    if io == "int8" and not recipes.get("tflite"):
        raise click.UsageError("--io int8 is for quantised TFLite files, and none is exported here: add --int8.")
    dataset = open_dataset(calibration_data) if calibration_data is not None else None

    from edge_af.export.pipeline import CalibrationData, export_network
    from edge_af.export.ranges import choose_videos
    from edge_af.export.to_onnx import this_cpu
    from edge_af.models.run import load_network

    run = load_run(run_folder)
    calibration = None
    if dataset is not None:
        rows = _training_rows(run_folder, run, dataset, any_calibration_data)
        calibration = CalibrationData(dataset, choose_videos(rows, calibration_videos, seed), seed)
    manifest = export_network(
        # Not kept in a variable, so that its memory is free again once it is traced.
        load_network(run_folder)[1],
        run,
        out,
        formats=chosen,
        recipes=recipes,
        calibration=calibration,
        ranges_file=ranges_file,
        gate=_gate(run, gate_data, max_gap_drop),
        sensitivity_videos=sensitivity_videos,
        cpu=cpu or (this_cpu() if recipes.get("onnx") else "x86-64"),
        integer_io=io == "int8",
        overwrite=overwrite,
    )
    seconds, peak = time.monotonic() - started, _peak_memory_bytes()
    if as_json:
        fields = {name: value for name, value in dataclasses.asdict(manifest).items() if name != "class_names"}
        tell(json.dumps({"out": str(out), **fields, "seconds": seconds, "peak_memory_bytes": peak}))
        return
    tell(f"{out}: {manifest.model} ({manifest.preset}), {manifest.classes:,} classes, {manifest.params:,} parameters")
    for line in _table(manifest):
        tell(line)
    if manifest.calibration is not None:
        found = manifest.calibration
        tell(f"ranges: {found.method}, on {found.videos:,} videos of {found.data}, SHA-256 {found.sha256[:12]}…")
    tell(f"{seconds:.1f} s, peak memory {peak / 2**20:,.0f} MiB")


def _gate(run: Run, folder: Path | None, max_gap_drop: float | None) -> GateData | None:
    """The gate, on the videos of its data that training held out where that is what the run was trained on."""
    if folder is None or max_gap_drop is None:
        return None
    import numpy as np

    from edge_af.data.dataset import open_dataset
    from edge_af.export.gate import GateData
    from edge_af.runtime.accuracy import check_labels

    dataset = open_dataset(folder)
    check_labels(dataset)
    if _trained_on(run, dataset):
        rows = _split(run, dataset)[1]
    else:
        rows = np.arange(dataset.videos, dtype=np.int64)
        warn(f"{folder}: gated on all its {dataset.videos:,} videos; do not report results on the same ones.")
    return GateData(dataset, rows, max_gap_drop)


def _trained_on(run: Run, dataset: Dataset) -> bool:
    """Whether a dataset is what a run was trained on."""
    if run.data.fingerprint is None:
        # A run of an older edge-af. The folder may have been renamed since, and on other data of that size the split
        # does no harm.
        return dataset.videos == run.data.videos
    return dataset.fingerprint() == run.data.fingerprint


def _split(run: Run, dataset: Dataset) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The rows of its own data that a run was trained on, and those it held out."""
    from edge_af.data.batches import split

    how = run.split
    if how is None:
        raise EdgeAfError(
            f"the run of {run.model} does not say how its data was split (training.options). Train again."
        )
    return split(dataset.videos, how.held_out, how.seed)


def _training_rows(run_folder: Path, run: Run, dataset: Dataset, any_data: bool) -> NDArray[np.int64]:
    """The rows of the calibration data that training did not hold out.

    Raises:
        EdgeAfError: the run was trained on other data, and `any_data` does not allow that.
    """
    import numpy as np

    if not _trained_on(run, dataset):
        if run.data.fingerprint is not None:
            name = f"{dataset.folder}: not the data that {run_folder} was trained on"
            if not any_data:
                raise EdgeAfError(
                    f"{name}, which is {run.data.name or 'other data'}; "
                    "ranges must come from the videos the run was trained on, never from evaluation videos.\n"
                    "Name that data, or add --any-calibration-data if these are training videos too, such as a sample."
                )
            warn(f"{name}; its ranges are taken all the same.")
        return np.arange(dataset.videos, dtype=np.int64)
    # The best epoch and the F1 threshold were chosen on the held-out videos: ranges are not to know them.
    return _split(run, dataset)[0]


def _recipes(
    formats: tuple[str, ...], given: tuple[str, ...], precisions: list[str], io: str, on_videos: Mapping[str, str]
) -> dict[str, tuple[Recipe, ...]]:
    """Format to its recipes: those given (`NAME` is for all formats, `FORMAT=NAME` for one), and for each precision that
    none of them is of, the recipe that its flag stands for; `on_videos` goes before `PICKED`.
    """
    from edge_af.export.recipes import load_recipe

    chosen: dict[str, list[Recipe]] = {format: [] for format in formats}
    for text in dict.fromkeys(given):
        format, equals, name = text.rpartition("=")
        if equals and format not in formats:
            raise EdgeAfError(
                f"--recipe {text}: {format!r} is none of the formats exported here ({', '.join(formats)})."
            )
        recipe = load_recipe(name)
        for one in (format,) if equals else formats:
            chosen[one].append(recipe)
    for precision in precisions:
        picked = {
            format: load_recipe(_pick(precision, format, io, on_videos))
            for format in formats
            if precision not in [recipe.precision for recipe in chosen[format]]
        }
        for format, recipe in picked.items():
            chosen[format].append(recipe)
        if picked:
            say(f"--{precision}: {', '.join(f'{recipe.name} for {format}' for format, recipe in picked.items())}")
    return {format: tuple(recipes) for format, recipes in chosen.items()}


def _pick(precision: str, format: str, io: str, on_videos: Mapping[str, str]) -> str:
    if (format, precision, io) == ("tflite", "int8", "int8"):
        return INTEGER_IO
    return on_videos.get(precision) or PICKED[precision][format]


def _on_videos(run: Run) -> dict[str, str]:
    """The recipes that `--int4` and the like stand for with calibration data, by precision."""
    has_one_layer = isinstance(run.config, FCLateFusionConfig) and run.config.depth == 0
    return PICKED_FOR_ONE_LAYER if has_one_layer else PICKED_ON_VIDEOS


def _table(manifest: Manifest) -> list[str]:
    gated = any(file.gate is not None for file in manifest.files)
    head: tuple[str, ...] = ("file", "bytes", "recipe", "integer layers", "float layers", "integer share")
    head += ("largest score difference", *(("GAP@20 change",) if gated else ()))
    rows: list[tuple[Any, ...]] = [
        (
            file.path,
            f"{file.size_bytes:,}",
            (file.recipe or "-") + (f" ({file.cpu})" if file.cpu else ""),
            file.integer_layers,
            file.float_layers,
            f"{file.integer_share:.1%}",
            f"{file.max_difference:.1e}",
            *((f"{-file.gate.gap_at_20_drop:+.5f}" if file.gate is not None else "-",) if gated else ()),
        )
        for file in manifest.files
    ]
    text = [[str(cell) for cell in row] for row in (head, *rows)]
    widths = [max(len(row[column]) for row in text) for column in range(len(head))]
    left = (0, 2)
    return [
        "  ".join(
            cell.ljust(width) if column in left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in text
    ]


def _peak_memory_bytes() -> int:
    """Largest resident memory of this process so far."""
    import resource
    import sys

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
