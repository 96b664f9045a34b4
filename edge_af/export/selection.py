"""Recipes, calibration videos and gate videos of an export."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge_af.console import say, warn
from edge_af.data.batches import split
from edge_af.data.dataset import Dataset, open_dataset
from edge_af.errors import EdgeAfError
from edge_af.export.gate import GateData
from edge_af.export.options import ExportOptions
from edge_af.export.ranges import CalibrationData, choose_videos
from edge_af.export.recipes import Recipe, load_recipe
from edge_af.models.presets import FCLateFusionConfig
from edge_af.models.run import Run
from edge_af.runtime.accuracy import check_labels

PICKED = {
    "int8": {"onnx": "int8-static", "tflite": "int8-dynamic"},
    "int4": {"onnx": "int4-block32-dynamic", "tflite": "int4-block32-dynamic"},
    "fp16": {"onnx": "fp16", "tflite": "fp16"},
}
"""Default recipe of each precision and format; `docs/decisions.md` has the measurements."""
PICKED_ON_VIDEOS = {"int4": "int4-block64-dynamic-gptq-corrected"}
"""Defaults in both formats with calibration data, which these recipes' rounding needs."""
PICKED_FOR_ONE_LAYER = {"int4": "int4-block32-dynamic-gptq-corrected"}
"""The same for a network without hidden layers, where no other layer compensates for the error: finer blocks."""
INTEGER_IO = "int8-static"
"""Default for `--int8` in TFLite with integer inputs and outputs, which require static activations."""


def recipes_of(options: ExportOptions, run: Run) -> dict[str, tuple[Recipe, ...]]:
    """Choose each format's recipes: those given, and the defaults of other requested precisions.

    Raises:
        EdgeAfError: a recipe is unknown, or the options do not match the recipes.
    """
    on_videos = _on_videos(run) if options.int4 and options.calibration_data is not None else {}
    recipes = _recipes(options.formats, options.recipe, options.precisions, options.io, on_videos)
    static = [recipe.name for of_format in recipes.values() for recipe in of_format if recipe.needs_ranges]
    if static and options.calibration_data is None and options.ranges is None:
        raise EdgeAfError(f"{static[0]} finds activation ranges on training videos: pass --calibration-data.")
    if options.ranges is not None and not static:
        raise EdgeAfError("--ranges applies to recipes with static activations, and none is exported here.")
    if options.gate_data is not None and not any(recipes.values()):
        raise EdgeAfError("--gate-data applies to quantized files, and none is exported here: add --int8.")
    if options.io == "int8" and not recipes.get("tflite"):
        raise EdgeAfError("--io int8 applies to quantized TFLite files, and none is exported here: add --int8.")
    return recipes


def calibration_of(options: ExportOptions, run_folder: Path, run: Run) -> CalibrationData | None:
    """Sample the calibration videos; None without calibration data.

    Raises:
        EdgeAfError: the run was trained on other data.
    """
    if options.calibration_data is None:
        return None
    dataset = open_dataset(options.calibration_data)
    rows = _training_rows(run_folder, run, dataset, options.any_calibration_data)
    return CalibrationData(dataset, choose_videos(rows, options.calibration_videos, options.seed), options.seed)


def gate_of(options: ExportOptions, run: Run) -> GateData | None:
    """Open the gate's data; of the run's training data, use only held-out videos. Return None without a gate."""
    folder, max_gap_drop = options.gate_data, options.max_gap_drop
    if folder is None or max_gap_drop is None:
        return None

    dataset = open_dataset(folder)
    check_labels(dataset)
    if _trained_on(run, dataset):
        rows = _split(run, dataset)[1]
    else:
        rows = np.arange(dataset.videos, dtype=np.int64)
        warn(f"{folder}: gated on all its {dataset.videos:,} videos; do not report results on the same ones.")
    return GateData(dataset, rows, max_gap_drop)


def _trained_on(run: Run, dataset: Dataset) -> bool:
    """Return True if a run was trained on a dataset."""
    if run.data.fingerprint is None:
        # A run of an earlier version. Its folder may have been renamed, and splitting other data of that size is
        # harmless.
        return dataset.videos == run.data.videos
    return dataset.fingerprint() == run.data.fingerprint


def _split(run: Run, dataset: Dataset) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the rows of the run's data that it was trained on, and those held out."""

    how = run.split
    if how is None:
        raise EdgeAfError(
            f"the run of {run.model} does not say how its data was split (training.options). Train again."
        )
    return split(dataset.videos, how.held_out, how.seed)


def _training_rows(run_folder: Path, run: Run, dataset: Dataset, any_data: bool) -> NDArray[np.int64]:
    """Return the rows of the calibration data that training did not hold out.

    Raises:
        EdgeAfError: the run was trained on other data, and `any_data` is not set.
    """

    if not _trained_on(run, dataset):
        if run.data.fingerprint is not None:
            name = f"{dataset.folder}: not the data that {run_folder} was trained on"
            if not any_data:
                raise EdgeAfError(
                    f"{name}, which is {run.data.name or 'other data'}; "
                    "ranges must come from the run's training videos, never from evaluation videos.\n"
                    "Name that data, or add --any-calibration-data if these are training videos too, such as a sample."
                )
            warn(f"{name}; using it anyway.")
        return np.arange(dataset.videos, dtype=np.int64)
    # The held-out videos chose the best epoch and the F1 threshold, so ranges must not use them.
    return _split(run, dataset)[0]


def _recipes(
    formats: tuple[str, ...], given: tuple[str, ...], precisions: list[str], io: str, on_videos: Mapping[str, str]
) -> dict[str, tuple[Recipe, ...]]:
    """Map each format to its recipes: those given (`NAME` for all formats, `FORMAT=NAME` for one), and the defaults of other
    requested precisions; `on_videos` takes precedence over `PICKED`.
    """

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
    """Return the default recipes with calibration data, by precision."""
    has_one_layer = isinstance(run.config, FCLateFusionConfig) and run.config.depth == 0
    return PICKED_FOR_ONE_LAYER if has_one_layer else PICKED_ON_VIDEOS
