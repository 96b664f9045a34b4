"""Recipes: those of the project load, and every slip is named with a suggestion."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge_af.errors import EdgeAfError
from edge_af.export.recipes import RangeChoice, known_recipes, load_recipe

GOOD = "description: a test\nweights: int8\nactivations: static\n"


@pytest.mark.parametrize("name", known_recipes())
def test_the_projects_recipes_load_and_are_named_by_what_they_do(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.name == name
    assert recipe.description
    parts = name.split("-")
    assert parts[:2] == [recipe.weights, recipe.activations]
    expected = {"": "mse", "minmax": "min-max"}["".join(parts[2:])]
    assert recipe.activations != "static" or recipe.ranges.method == expected


def test_there_are_a_static_and_a_dynamic_recipe() -> None:
    assert {"int8-static", "int8-dynamic"} <= set(known_recipes())
    assert load_recipe("int8-static").needs_ranges
    assert not load_recipe("int8-dynamic").needs_ranges


def test_a_file_is_a_recipe_too(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(GOOD + "ranges: {method: percentile, percentile: 99.99}\nlayers: {head: dynamic, '*.qkv': float}\n")
    recipe = load_recipe(str(path))
    assert recipe.name == "mine"
    assert recipe.ranges == RangeChoice("percentile", 99.99)
    assert recipe.activations_of(["a.qkv", "a.fc1", "head"]) == {"a.qkv": "float", "a.fc1": "static", "head": "dynamic"}


def test_the_later_of_two_patterns_holds(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(GOOD + "layers: {'*': float, 'a.*': dynamic}\n")
    assert load_recipe(str(path)).activations_of(["a.b", "c"]) == {"a.b": "dynamic", "c": "float"}


def test_a_pattern_that_matches_nothing_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(GOOD + "layers: {visual.fc3: float}\n")
    with pytest.raises(EdgeAfError, match=r"no layer 'visual.fc3'. Did you mean 'visual.fc2'"):
        load_recipe(str(path)).activations_of(["visual.fc2", "head"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (GOOD + "weigths: int8\n", r"no key of a recipe 'weigths'. Did you mean 'weights'"),
        (GOOD + "name: other\n", r"no key of a recipe 'name'"),
        (GOOD + "ranges: {methd: mse}\n", r"no key of ranges 'methd'. Did you mean 'method'"),
        (GOOD + "ranges: {method: minmax}\n", r"ranges.method: there is no choice 'minmax'. Did you mean 'min-max'"),
        (GOOD + "ranges: {method: percentile, percentile: 101}\n", r"ranges.percentile 101"),
        (GOOD + "ranges: {method: percentile, percentile: many}\n", r"ranges.percentile 'many'"),
        (GOOD + "ranges: {percentile: 99}\n", r"needs `method: percentile`"),
        (GOOD + "ranges: []\n", r"ranges must be a mapping"),
        (GOOD + "layers: [head]\n", r"layers must map"),
        (GOOD + "layers: {head: statik}\n", r"layers.head: there is no choice 'statik'. Did you mean 'static'"),
        (GOOD.replace("int8", "int7"), r"weights: there is no choice 'int7'. Did you mean 'int8'"),
        (GOOD.replace("static", "float"), r"activations: there is no choice 'float'"),
        ("description: a test\n", r"recipe lacks activations, weights"),
        ("- a\n- b\n", r"recipe must be a mapping"),
        ("", r"recipe must be a mapping"),
        ("a: [1\n", r"cannot be read as YAML"),
    ],
)
def test_every_slip_names_file_and_key(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "slip.yaml"
    path.write_text(text)
    with pytest.raises(EdgeAfError, match=message) as caught:
        load_recipe(str(path))
    assert str(path) in str(caught.value)


def test_an_unknown_name_or_file_is_named() -> None:
    with pytest.raises(EdgeAfError, match=r"no recipe 'int8-statik'. Did you mean 'int8-static'"):
        load_recipe("int8-statik")
    with pytest.raises(EdgeAfError, match=r"nowhere.yaml: no such recipe file"):
        load_recipe("nowhere.yaml")
