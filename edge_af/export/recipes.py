"""Recipes: YAML files that say what is quantised and how.

A recipe's name is `<weights>-<activations>[-<ranges>]`, each part what it does:

* weights: `int8` (one scale an output feature, symmetric, -127 to 127);
* activations: `static` (ranges found beforehand on training videos) or `dynamic` (found anew at every inference);
* ranges: how a static range is chosen from what was seen, where it is not `mse`: `minmax`, or `p99.99` for a percentile.

The keys of a recipe are the fields of `Recipe`; `calibration/` holds those that come with the project.
"""

from __future__ import annotations

import dataclasses
import difflib
import fnmatch
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge_af.errors import EdgeAfError

ACTIVATIONS = ("static", "dynamic", "float")
METHODS = ("min-max", "percentile", "mse")


@dataclass(frozen=True)
class RangeChoice:
    """How a static activation's range is chosen from its histogram."""

    method: str = "min-max"
    """`min-max`: all that was seen. `percentile`: without the outermost values on either side. `mse`: the share of all that
    was seen at which cutting off the rest and rounding what is left make the least mean squared error together."""
    percentile: float = 100.0
    """For `percentile`: this share of the values, in percent, lies below the upper end, and above the lower."""

    def __post_init__(self) -> None:
        _one_of("ranges.method", self.method, METHODS)
        if not isinstance(self.percentile, int | float) or not 50 < self.percentile <= 100:
            raise EdgeAfError(f"ranges.percentile {self.percentile!r} must lie above 50 and be at most 100.")
        if self.method != "percentile" and self.percentile != 100:
            raise EdgeAfError("ranges.percentile needs `method: percentile`.")

    def __str__(self) -> str:
        return f"percentile {self.percentile:g}" if self.method == "percentile" else self.method


@dataclass(frozen=True)
class Recipe:
    """What is quantised and how. Attention's matrix products and softmax, and the sigmoid, always stay in float."""

    name: str
    description: str
    weights: str
    """`int8`."""
    activations: str
    """Of the fully connected layers' inputs: `static`, `dynamic`, or `float` (the layer stays in float)."""
    ranges: RangeChoice = dataclasses.field(default_factory=RangeChoice)
    layers: dict[str, str] = dataclasses.field(default_factory=dict)
    """Pattern of a layer's name (`*` for any text) to what its activations are instead; the last that matches holds."""

    def __post_init__(self) -> None:
        _one_of("weights", self.weights, ("int8",))
        _one_of("activations", self.activations, ACTIVATIONS[:2])
        for pattern, activations in self.layers.items():
            _one_of(f"layers.{pattern}", activations, ACTIVATIONS)

    @property
    def needs_ranges(self) -> bool:
        """Whether any layer's activations are static."""
        return "static" in (self.activations, *self.layers.values())

    def activations_of(self, layers: list[str]) -> dict[str, str]:
        """What each of a network's layers does with its activations.

        Raises:
            EdgeAfError: a pattern matches none of the layers; the message suggests the nearest.
        """
        chosen = dict.fromkeys(layers, self.activations)
        for pattern, activations in self.layers.items():
            matching = fnmatch.filter(layers, pattern)
            if not matching:
                raise EdgeAfError(f"recipe {self.name}: layers: {_unknown('layer', pattern, layers)}")
            chosen.update(dict.fromkeys(matching, activations))
        return chosen


def folder() -> Path:
    """Where the project's own recipes lie: inside the installed package, or beside it in a checkout."""
    package = Path(__file__).resolve().parents[1]
    installed = package / "calibration"
    return installed if installed.is_dir() else package.parent / "calibration"


def known_recipes() -> list[str]:
    """Names of the recipes that come with the project."""
    return sorted(path.stem for path in folder().glob("*.yaml"))


def load_recipe(name_or_file: str) -> Recipe:
    """A recipe by its name, or from a YAML file.

    Raises:
        EdgeAfError: there is none of that name, or it is not a recipe; a mistyped name or key comes with a suggestion.
    """
    path = Path(name_or_file)
    if path.suffix in (".yaml", ".yml"):
        if not path.is_file():
            raise EdgeAfError(f"{path}: no such recipe file.")
    else:
        path = folder() / f"{name_or_file}.yaml"
        if name_or_file not in known_recipes():
            raise EdgeAfError(_unknown("recipe", name_or_file, known_recipes()))
    import yaml

    try:
        value = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise EdgeAfError(f"{path}: cannot be read as YAML: {' '.join(str(error).split())}") from None
    try:
        return _parse(path.stem, value)
    except EdgeAfError as error:
        raise EdgeAfError(f"{path}: {error}") from None


def _parse(name: str, value: Any) -> Recipe:
    fields = {field.name for field in dataclasses.fields(Recipe)} - {"name"}
    _check_keys("recipe", value, fields, {"description", "weights", "activations"})
    ranges = value.get("ranges", {})
    _check_keys("ranges", ranges, {field.name for field in dataclasses.fields(RangeChoice)}, set())
    layers = value.get("layers", {})
    if not isinstance(layers, dict) or not all(isinstance(pattern, str) for pattern in layers):
        raise EdgeAfError("layers must map patterns of layer names to static, dynamic or float.")
    return Recipe(**{**value, "name": name, "ranges": RangeChoice(**ranges), "layers": layers})


def _check_keys(what: str, value: Any, known: set[str], needed: set[str]) -> None:
    if not isinstance(value, dict):
        raise EdgeAfError(f"{what} must be a mapping with the keys {', '.join(sorted(known))}.")
    for key in value:
        if key not in known:
            raise EdgeAfError(
                _unknown(f"key of a {what}" if what == "recipe" else f"key of {what}", str(key), sorted(known))
            )
    if missing := sorted(needed - set(value)):
        raise EdgeAfError(f"{what} lacks {', '.join(missing)}.")


def _one_of(what: str, value: Any, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise EdgeAfError(f"{what}: {_unknown('choice', str(value), list(choices))}")


def _unknown(what: str, name: str, names: list[str]) -> str:
    near = difflib.get_close_matches(name, names, n=1)
    hint = f"Did you mean {near[0]!r}?" if near else f"There are: {', '.join(names)}."
    return f"there is no {what} {name!r}. {hint}"
