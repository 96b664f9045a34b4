"""Recipes of an export: those given, and the default recipe of each precision and format."""

from __future__ import annotations

from collections.abc import Mapping

from edge_af.console import say
from edge_af.errors import EdgeAfError
from edge_af.export.options import ExportOptions
from edge_af.export.recipes import Recipe, load_recipe
from edge_af.models.presets import FCLateFusionConfig
from edge_af.models.run import Run

DEFAULTS = {
    "int8": {"onnx": "int8-static", "tflite": "int8-dynamic"},
    "int4": {"onnx": "int4-block32-dynamic", "tflite": "int4-block32-dynamic"},
    "fp16": {"onnx": "fp16", "tflite": "fp16"},
}
"""Default recipe of each precision and format; `docs/explanation/decisions.md` has the measurements."""
DEFAULTS_ON_VIDEOS = {"int4": "int4-block64-dynamic-gptq-corrected"}
"""Defaults in both formats with calibration data, which these recipes' rounding needs."""
DEFAULTS_FOR_ONE_LAYER = {"int4": "int4-block32-dynamic-gptq-corrected"}
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
        raise EdgeAfError(f"recipe {static[0]} finds activation ranges on training videos: pass --calibration-data.")
    if options.ranges is not None and not static:
        raise EdgeAfError("--ranges applies to recipes with static activations, and none is exported here.")
    if options.gate_data is not None and not any(recipes.values()):
        raise EdgeAfError("--gate-data applies to quantized files, and none is exported here: add --int8.")
    if options.io == "int8" and not recipes.get("tflite"):
        raise EdgeAfError("--io int8 applies to quantized TFLite files, and none is exported here: add --int8.")
    return recipes


def _recipes(
    formats: tuple[str, ...], given: tuple[str, ...], precisions: list[str], io: str, on_videos: Mapping[str, str]
) -> dict[str, tuple[Recipe, ...]]:
    """Map each format to its recipes: those given (`NAME` for all formats, `FORMAT=NAME` for one), and the defaults of other
    requested precisions; `on_videos` takes precedence over `DEFAULTS`.
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
            if one == "tflite" and any(form.weights == "int2" for form in recipe.forms):
                way = f" Use --recipe onnx={name}." if "onnx" in formats else ""
                raise EdgeAfError(f"recipe {recipe.name}: LiteRT has no integer kernel for INT2 weights.{way}")
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
    return on_videos.get(precision) or DEFAULTS[precision][format]


def _on_videos(run: Run) -> dict[str, str]:
    """Return the default recipes with calibration data, by precision."""
    has_one_layer = isinstance(run.config, FCLateFusionConfig) and run.config.depth == 0
    return DEFAULTS_FOR_ONE_LAYER if has_one_layer else DEFAULTS_ON_VIDEOS
