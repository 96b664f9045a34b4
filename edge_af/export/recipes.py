"""Recipes: YAML files that define how a network is quantized.

A recipe's name describes it in parts joined by hyphens; parts that do not apply are left out:

    <weights> [block<N>] [<activations>] [<ranges>] [<rounding>] [corrected] [<weights> <layer>]

* weights: `int8`, `int4`, `int2` (integers) or `fp16`;
* `block<N>`: one scale for every N inputs of an output feature; the default is one per output feature;
* activations: `static` (INT8, ranges found on training videos), `dynamic` (INT8, ranges found at every inference) or
  `weights` (activations and arithmetic stay float); nothing for `fp16`, where they are always float;
* ranges: method that chooses a static range, if it is not `mse`: `minmax`, `entropy`, or `p99.99` for a percentile;
* rounding: `gptq` instead of round-to-nearest; `corrected` if biases compensate for the weights' rounding error;
* the last two parts, such as `int8-head`: a layer that differs, and its weights.

So `int4-block32-dynamic-int8-head` has INT4 weights in blocks of 32, INT8 weights in the head, and dynamic activations.

The keys of a recipe are `description`, those of `Form` for all layers, `ranges`, and `layers` for layers that differ. The
folder `calibration/` holds the recipes that come with edge-af.
"""

from __future__ import annotations

import dataclasses
import fnmatch
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edge_af.errors import EdgeAfError, unknown
from edge_af.files import package_data, read_yaml

WEIGHTS = ("int8", "int4", "int2", "fp16", "float")
ACTIVATIONS = ("static", "dynamic", "float")
BLOCKS = (32, 64, 128, 256)
"""Block sizes with kernels in both runtimes."""
INT2_BLOCKS = (32, 64, 128)
"""Block sizes for which ONNX Runtime 1.31 has integer kernels with 2-bit weights; with others it computes in float."""
ROUNDINGS = ("nearest", "gptq")
METHODS = ("min-max", "percentile", "mse", "entropy")


def _one_of(what: str, value: Any, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise EdgeAfError(f"{what}: {unknown('choice', str(value), list(choices))}")


@dataclass(frozen=True)
class RangeChoice:
    """Method that chooses a static activation's range from its histogram."""

    method: str = "min-max"
    """`min-max`: all values. `percentile`: without the outermost values on both sides. `mse`: the part with the least mean
    squared error from clipping and rounding together. `entropy`: the part with the least KL divergence."""
    percentile: float = 100.0
    """For `percentile`: percentage of the values below the upper end, and above the lower end."""

    def __post_init__(self) -> None:
        _one_of("ranges.method", self.method, METHODS)
        if not isinstance(self.percentile, int | float) or not 50 < self.percentile <= 100:
            raise EdgeAfError(f"ranges.percentile {self.percentile!r} must lie above 50 and be at most 100.")
        if self.method != "percentile" and self.percentile != 100:
            raise EdgeAfError("ranges.percentile needs `method: percentile`.")

    def __str__(self) -> str:
        return f"percentile {self.percentile:g}" if self.method == "percentile" else self.method


@dataclass(frozen=True)
class Form:
    """Number formats of a fully connected layer."""

    weights: str
    """`int8`, `int4` or `int2`; `fp16`; or `float`, which leaves the layer as trained. `int2` is for ONNX files only."""
    activations: str = "float"
    """The layer's input: `static` or `dynamic` INT8, or `float`, where weights are dequantized before use."""
    block: int | None = None
    """For `int4` and `int2`: inputs of an output feature that share a scale, one of `BLOCKS`, or of `INT2_BLOCKS`;
    None for all, not with `int2`. A layer whose
    inputs are not a multiple of the block size is stored as INT8 with one scale per output feature."""
    rounding: str = "nearest"
    """`nearest`, or `gptq`, which rounds one column after another so that each compensates for the errors before it."""
    bias_correction: bool = False
    """True if the bias compensates for the mean of the weights' rounding error."""

    def __post_init__(self) -> None:
        _one_of("weights", self.weights, WEIGHTS)
        _one_of("activations", self.activations, ACTIVATIONS)
        _one_of("rounding", self.rounding, ROUNDINGS)
        if self.block is not None and (self.block not in BLOCKS or isinstance(self.block, bool)):
            raise EdgeAfError(
                f"block {self.block!r} must be one of {', '.join(map(str, BLOCKS))}, or null for one scale an output feature."
            )
        if not isinstance(self.bias_correction, bool):
            raise EdgeAfError(f"bias_correction {self.bias_correction!r} must be true or false.")
        if self.block is not None and self.weights not in ("int4", "int2"):
            raise EdgeAfError(
                f"block {self.block} goes with int4 and int2 weights; {self.weights} weights need `block: null`."
            )
        if self.weights == "int2" and self.block not in INT2_BLOCKS:
            raise EdgeAfError("int2 weights need a block of 32, 64 or 128.")
        if self.weights == "int2" and self.activations != "dynamic":
            raise EdgeAfError("int2 weights need `activations: dynamic`.")
        if self.block is not None and self.activations == "float":
            raise EdgeAfError(
                f"block {self.block} goes with dynamic activations: TFLite makes float only of whole channels."
            )
        if self.weights == "int4" and self.activations == "static":
            raise EdgeAfError(
                "int4 weights go with dynamic or float activations: no runtime here multiplies them by static ones."
            )
        if not self.is_integer and self.activations != "float":
            raise EdgeAfError(f"{self.weights} weights need `activations: float`.")
        if not self.is_integer and (self.rounding != "nearest" or self.bias_correction):
            raise EdgeAfError(f"rounding and bias_correction are for integer weights, not for {self.weights}.")

    @property
    def is_integer(self) -> bool:
        """True if the weights are integers."""
        return self.weights in ("int8", "int4", "int2")

    @property
    def runs_in_integers(self) -> bool:
        """True if the layer must compute its products in integers."""
        return self.activations != "float"


FLOAT = Form("float")
"""A layer that stays as trained."""
FORM_KEYS = tuple(one.name for one in dataclasses.fields(Form))


@dataclass(frozen=True)
class Recipe:
    """A recipe. The attention's matrix products and softmax, and the sigmoid, always stay float."""

    name: str
    description: str
    form: Form
    """Form of every layer that no pattern of `layers` matches."""
    ranges: RangeChoice = field(default_factory=RangeChoice)
    layers: Mapping[str, Form] = field(default_factory=dict)
    """Form by pattern of the layer's name (`*` for any text); the last match applies."""

    @property
    def precision(self) -> str:
        """Precision of most weights: `int8`, `int4`, `int2` or `fp16`."""
        return self.form.weights

    @property
    def forms(self) -> tuple[Form, ...]:
        """All forms that layers may have."""
        return (self.form, *self.layers.values())

    @property
    def needs_inputs(self) -> bool:
        """True if rounding any layer needs its inputs on training videos."""
        return any(form.rounding != "nearest" or form.bias_correction for form in self.forms)

    @property
    def needs_ranges(self) -> bool:
        """True if any layer's activations are static."""
        return any(form.activations == "static" for form in self.forms)

    def forms_of(self, layers: list[str]) -> dict[str, Form]:
        """Return the form of each of a network's layers.

        Raises:
            EdgeAfError: a pattern matches no layer; the message suggests the nearest.
        """
        chosen = dict.fromkeys(layers, self.form)
        for pattern, form in self.layers.items():
            matching = fnmatch.filter(layers, pattern)
            if not matching:
                raise EdgeAfError(f"recipe {self.name}: layers: {unknown('layer', pattern, layers)}")
            chosen.update(dict.fromkeys(matching, form))
        return chosen


def known_recipes() -> list[str]:
    """Return the names of the recipes that come with edge-af."""
    return sorted(path.stem for path in package_data("calibration").glob("*.yaml"))


def load_recipe(name_or_file: str) -> Recipe:
    """Read a recipe by name, or from a YAML file.

    Raises:
        EdgeAfError: the recipe is unknown or invalid; the message suggests the nearest name or key.
    """
    path = Path(name_or_file)
    if path.suffix not in (".yaml", ".yml"):
        path = package_data("calibration") / f"{name_or_file}.yaml"
        if name_or_file not in known_recipes():
            raise EdgeAfError(unknown("recipe", name_or_file, known_recipes()))
    value = read_yaml(path, "recipe file")
    try:
        return _parse(path.stem, value)
    except EdgeAfError as error:
        raise EdgeAfError(f"{path}: {error}") from None


def _parse(name: str, value: Any) -> Recipe:
    _check_keys("recipe", value, {"description", "ranges", "layers", *FORM_KEYS}, {"description", "weights"})
    form = _form(value)
    if form.weights == "float":
        raise EdgeAfError(f"weights: {unknown('choice', 'float', list(WEIGHTS[:-1]))}")
    ranges = value.get("ranges", {})
    _check_keys("ranges", ranges, {one.name for one in dataclasses.fields(RangeChoice)}, set())
    layers = value.get("layers", {})
    if not isinstance(layers, dict) or not all(isinstance(pattern, str) for pattern in layers):
        raise EdgeAfError("layers must map patterns of layer names to `float`, or to the keys that differ.")
    overridden = {}
    for pattern, change in layers.items():
        try:
            overridden[pattern] = _overridden(form, change)
        except EdgeAfError as error:
            raise EdgeAfError(f"layers.{pattern}: {error}") from None
    return Recipe(name, str(value["description"]), form, RangeChoice(**ranges), overridden)


def _form(value: dict[str, Any]) -> Form:
    return Form(**{key: value[key] for key in FORM_KEYS if key in value})


def _overridden(form: Form, change: Any) -> Form:
    """Return `form` with differences applied: `float`, or a mapping of some of its keys."""
    if change == "float":
        return FLOAT
    if isinstance(change, str):
        raise EdgeAfError(unknown("choice", change, ["float"]))
    _check_keys("a layer", change, set(FORM_KEYS), set())
    return _form({**dataclasses.asdict(form), **change})


def _check_keys(what: str, value: Any, known: set[str], needed: set[str]) -> None:
    if not isinstance(value, dict):
        raise EdgeAfError(f"{what} must be a mapping with the keys {', '.join(sorted(known))}.")
    for key in value:
        if key not in known:
            raise EdgeAfError(
                unknown(f"key of a {what}" if what == "recipe" else f"key of {what}", str(key), sorted(known))
            )
    if missing := sorted(needed - set(value)):
        raise EdgeAfError(f"{what} lacks {', '.join(missing)}.")
