"""Recipes: the project's own load, and every mistake is reported with a suggestion."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge_af.errors import EdgeAfError
from edge_af.export.recipes import FLOAT, Form, RangeChoice, Recipe, known_recipes, load_recipe

GOOD = "description: a test\nweights: int8\nactivations: static\n"


def name_of(recipe: Recipe) -> str:
    """Return a recipe's name by the naming rules."""
    form, parts = recipe.form, [recipe.form.weights]
    parts += [f"block{form.block}"] if form.block else []
    parts += [] if form.weights == "fp16" else ["weights" if form.activations == "float" else form.activations]
    if form.activations == "static":
        parts += {"mse": [], "min-max": ["minmax"]}.get(recipe.ranges.method, [f"p{recipe.ranges.percentile:g}"])
    parts += [] if form.rounding == "nearest" else [form.rounding]
    parts += ["corrected"] if form.bias_correction else []
    for pattern, other in recipe.layers.items():
        parts += [other.weights, pattern.strip("*.")]
    return "-".join(parts)


@pytest.mark.parametrize("name", known_recipes())
def test_the_projects_recipes_load_and_are_named_by_what_they_do(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.name == name
    assert recipe.description
    assert name == name_of(recipe)


def test_there_are_a_static_and_a_dynamic_recipe() -> None:
    assert {"int8-static", "int8-dynamic"} <= set(known_recipes())
    assert load_recipe("int8-static").needs_ranges
    assert not load_recipe("int8-dynamic").needs_ranges


def test_a_file_is_a_recipe_too(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(
        GOOD
        + "ranges: {method: percentile, percentile: 99.99}\nlayers: {head: {activations: dynamic}, '*.qkv': float}\n"
    )
    recipe = load_recipe(str(path))
    assert recipe.name == "mine"
    assert recipe.ranges == RangeChoice("percentile", 99.99)
    assert recipe.forms_of(["a.qkv", "a.fc1", "head"]) == {
        "a.qkv": FLOAT,
        "a.fc1": Form("int8", "static"),
        "head": Form("int8", "dynamic"),
    }


def test_the_later_of_two_patterns_holds(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(GOOD + "layers: {'*': float, 'a.*': {activations: dynamic}}\n")
    assert load_recipe(str(path)).forms_of(["a.b", "c"]) == {"a.b": Form("int8", "dynamic"), "c": FLOAT}


def test_a_pattern_that_matches_nothing_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(GOOD + "layers: {visual.fc3: float}\n")
    with pytest.raises(EdgeAfError, match=r"unknown layer 'visual.fc3'. Did you mean 'visual.fc2'"):
        load_recipe(str(path)).forms_of(["visual.fc2", "head"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (GOOD + "weigths: int8\n", r"unknown key of a recipe 'weigths'. Did you mean 'weights'"),
        (GOOD + "name: other\n", r"unknown key of a recipe 'name'"),
        (GOOD + "ranges: {methd: mse}\n", r"unknown key of ranges 'methd'. Did you mean 'method'"),
        (GOOD + "ranges: {method: minmax}\n", r"ranges.method: unknown choice 'minmax'. Did you mean 'min-max'"),
        (GOOD + "ranges: {method: percentile, percentile: 101}\n", r"ranges.percentile 101"),
        (GOOD + "ranges: {method: percentile, percentile: many}\n", r"ranges.percentile 'many'"),
        (GOOD + "ranges: {percentile: 99}\n", r"needs `method: percentile`"),
        (GOOD + "ranges: []\n", r"ranges must be a mapping"),
        (GOOD + "layers: [head]\n", r"layers must map"),
        (GOOD + "layers: {head: flaot}\n", r"layers.head: unknown choice 'flaot'. Did you mean 'float'"),
        (
            GOOD + "layers: {head: {activations: statik}}\n",
            r"layers.head: activations: .*'statik'. Did you mean 'static'",
        ),
        (GOOD + "layers: {head: {weigths: int4}}\n", r"layers.head: .*'weigths'. Did you mean 'weights'"),
        (GOOD + "layers: {head: {weights: int4}}\n", r"layers.head: int4 weights go with dynamic or float"),
        (GOOD + "layers: {head: [int4]}\n", r"layers.head: a layer must be a mapping"),
        (GOOD + "block: 32\n", r"block 32 goes with int4 and int2 weights"),
        (GOOD.replace("int8", "int2"), r"int2 weights need a block of 32, 64 or 128"),
        (GOOD.replace("int8", "int2") + "block: 256\n", r"int2 weights need a block of 32, 64 or 128"),
        (GOOD.replace("int8", "int2") + "block: 64\n", r"int2 weights need `activations: dynamic`"),
        (GOOD.replace("int8", "int4").replace("static", "dynamic") + "block: 48\n", r"block 48 must be one of 32, 64"),
        (GOOD.replace("int8", "int4").replace("static", "float") + "block: 32\n", r"block 32 goes with dynamic"),
        (GOOD.replace("int8", "int4"), r"int4 weights go with dynamic or float activations"),
        (GOOD.replace("int8", "fp16"), r"fp16 weights need `activations: float`"),
        (GOOD.replace("int8", "float").replace("static", "float"), r"weights: unknown choice 'float'"),
        (GOOD + "rounding: gptk\n", r"rounding: unknown choice 'gptk'. Did you mean 'gptq'"),
        (GOOD + "bias_correction: 1\n", r"bias_correction 1 must be true or false"),
        (GOOD.replace("int8", "int7"), r"weights: unknown choice 'int7'. Did you mean 'int8'"),
        ("description: a test\n", r"recipe lacks weights"),
        ("- a\n- b\n", r"recipe must be a mapping"),
        ("", r"recipe must be a mapping"),
        ("a: [1\n", r"cannot read this recipe file"),
    ],
)
def test_every_slip_names_file_and_key(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "slip.yaml"
    path.write_text(text)
    with pytest.raises(EdgeAfError, match=message) as caught:
        load_recipe(str(path))
    assert str(path) in str(caught.value)


def test_an_unknown_name_or_file_is_named() -> None:
    with pytest.raises(EdgeAfError, match=r"unknown recipe 'int8-statik'. Did you mean 'int8-static'"):
        load_recipe("int8-statik")
    with pytest.raises(EdgeAfError, match=r"nowhere.yaml: no such recipe file"):
        load_recipe("nowhere.yaml")
