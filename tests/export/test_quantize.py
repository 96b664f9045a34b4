"""INT8 arithmetic, and the plan of tensors and layers to quantize."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edge_af.errors import EdgeAfError
from edge_af.export.graph import Graph, Node
from edge_af.export.quantize import (
    SPAN,
    FloatLayer,
    affine_of,
    choose_range,
    fitting,
    plan,
    quantize_layer,
    quantize_weight,
    spread,
)
from edge_af.export.ranges import Ranges, add
from edge_af.export.recipes import FLOAT, Form, RangeChoice, Recipe, load_recipe

RANDOM = np.random.default_rng(5)


STATIC, DYNAMIC = Form("int8", "static"), Form("int8", "dynamic")


def normal(*shape: int) -> NDArray[np.float32]:
    return RANDOM.normal(size=shape).astype(np.float32)


def recipe(**fields: Any) -> Recipe:
    return Recipe(**{"name": "test", "description": "", "form": STATIC, **fields})


def test_weights_are_within_half_a_step_and_use_the_whole_range() -> None:
    weight = normal(300, 40) * np.exp2(RANDOM.integers(-20, 10, (300, 1))).astype(np.float32)
    integers, scale = quantize_weight(weight)
    assert integers.dtype == np.int8
    np.testing.assert_array_equal(np.abs(integers.astype(int)).max(axis=1), 127)
    assert (np.abs(integers * scale[:, None] - weight) <= 0.501 * scale[:, None]).all()


def test_rows_of_zeros_stay_zero() -> None:
    integers, scale = quantize_weight(np.zeros((2, 8), np.float32))
    assert not integers.any()
    assert (scale > 0).all()


@pytest.mark.parametrize(("low", "high"), [(-1.3, 2.9), (0, 10), (-4, 0), (3, 10), (-7, -2), (0, 0), (-1e-30, 1e-30)])
def test_zero_is_held_exactly_and_the_range_is_covered(low: float, high: float) -> None:
    affine = affine_of(low, high)
    assert -128 <= affine.zero_point <= 127
    assert affine.scale > 0
    assert affine.scale * (-128 - affine.zero_point) <= min(low, 0) + affine.scale
    assert affine.scale * (127 - affine.zero_point) >= max(high, 0) - affine.scale


def test_a_relus_zero_point_is_the_smallest_integer() -> None:
    """Otherwise neither runtime would fuse the ReLU into the layer."""
    assert affine_of(0.0, 6.3).zero_point == -128


def test_biases_are_exact_to_a_step_even_where_weights_are_tiny_or_zero() -> None:
    weight = normal(6, 16)
    weight[1] *= 1e-9
    weight[2] = 0
    bias = np.array([0.5, -3.0, 7.0, 0.0, 1e-3, -20.0], np.float32)
    held = affine_of(-2.0, 2.0)
    layer = quantize_layer(FloatLayer("layer", weight, bias), STATIC, held)
    assert layer.integer_bias is not None
    step = held.scale * layer.weight_scale.astype(np.float64)
    np.testing.assert_allclose(layer.integer_bias * step, bias, atol=0.51 * step.max())
    assert np.abs(layer.integer_bias.astype(np.int64)).max() <= 1.001 * 2**30


def test_a_layer_in_integers_is_close_to_the_layer_in_float() -> None:
    weight, bias, x = normal(32, 64), normal(32), RANDOM.uniform(-1, 3, (50, 64)).astype(np.float32)
    held = affine_of(float(x.min()), float(x.max()))
    layer = quantize_layer(FloatLayer("layer", weight, bias), STATIC, held)
    q = np.clip(np.rint(x / held.scale) + held.zero_point, -128, 127).astype(np.int64)
    sums = (q - held.zero_point) @ layer.weight.T.astype(np.int64) + layer.integer_bias
    found = sums * (held.scale * layer.weight_scale.astype(np.float64))
    exact = x @ weight.T + bias
    assert np.square(found - exact).mean() < 2e-4 * np.square(exact).mean()


def error_of(values: NDArray[np.float32], choice: RangeChoice) -> float:
    """Return INT8's mean squared error on the chosen range."""
    affine = affine_of(*choose_range(add(None, values), choice))
    q = np.clip(np.rint(values / affine.scale) + affine.zero_point, -128, 127)
    return float(np.square((q - affine.zero_point) * affine.scale - values).mean())


def test_least_squares_beats_the_full_range_where_there_are_outliers() -> None:
    values = np.concatenate([normal(100_000), np.array([60.0, -45.0], np.float32)])
    full, least = error_of(values, RangeChoice()), error_of(values, RangeChoice("mse"))
    assert least < 0.9 * full
    even = RANDOM.uniform(-1, 1, 100_000).astype(np.float32)
    assert error_of(even, RangeChoice("mse")) == error_of(even, RangeChoice())


def test_percentiles_cut_both_ends() -> None:
    values = RANDOM.uniform(-1, 1, 100_000).astype(np.float32)
    low, high = choose_range(add(None, values), RangeChoice("percentile", 90.0))
    assert low == pytest.approx(-0.8, abs=0.02)
    assert high == pytest.approx(0.8, abs=0.02)


def test_the_logits_stay_in_float_and_everything_else_static_is_held(graph: Graph, ranges: Ranges) -> None:
    made = plan(graph, load_recipe("int8-static"), ranges)
    assert set(made.layers) == {gemm.name for gemm in graph.gemms()}
    assert not {"head", "scores"} & set(made.tensors)
    assert all(gemm.inputs[0] in made.tensors for gemm in graph.gemms())
    assert not any("softmax" in name for name in made.tensors)


def test_a_concatenation_shares_its_range_with_its_parts(graph: Graph, ranges: Ranges) -> None:
    made = plan(graph, load_recipe("int8-static"), ranges)
    (concat,) = (node for node in graph.nodes if node.op == "Concat")
    held = [name for name in concat.inputs if name in made.tensors]
    # With attention, the parts are float sums, which are quantized after the concatenation.
    assert len(held) == (0 if any(node.op == "Softmax" for node in graph.nodes) else 2)
    assert {made.tensors[name] for name in (*held, *concat.outputs)} == {made.tensors["concat"]}


def test_a_dynamic_recipe_needs_no_ranges(graph: Graph) -> None:
    made = plan(graph, load_recipe("int8-dynamic"), None)
    assert not made.tensors
    assert {layer.form.activations for layer in made.layers.values()} == {"dynamic"}
    assert all(layer.integer_bias is None for layer in made.layers.values())


def test_layers_may_stay_in_float(graph: Graph, ranges: Ranges) -> None:
    made = plan(graph, recipe(layers={"head": FLOAT}), ranges)
    assert set(made.layers) == {gemm.name for gemm in graph.gemms()} - {"head"}


def test_missing_ranges_are_named(graph: Graph, ranges: Ranges) -> None:
    fewer = Ranges(**{**vars(ranges), "tensors": {k: v for k, v in ranges.tensors.items() if k != "concat"}})
    with pytest.raises(EdgeAfError, match="range of 'concat'"):
        plan(graph, load_recipe("int8-static"), fewer)
    with pytest.raises(EdgeAfError, match="range of 'visual'"):
        plan(graph, load_recipe("int8-static"), None)


def test_a_relu_in_front_of_the_sigmoid_is_held() -> None:
    """A layer with a ReLU runs in integers only if the ReLU's output is quantized."""
    constants: dict[str, NDArray[Any]] = {"l.weight": normal(4, 5), "l.bias": normal(4)}
    nodes = (
        Node("Gemm", "l", ("x", "l.weight", "l.bias"), ("l",), {"transB": 1}),
        Node("Relu", "relu", ("l",), ("relu",)),
        Node("Sigmoid", "sigmoid", ("relu",), ("y",)),
    )
    graph = Graph(nodes, constants, {"x": (None, 5)}, {"y": (None, 4)})
    values = {name: add(None, np.abs(normal(100))) for name in ("x", "l", "relu", "y")}
    made = plan(graph, recipe(), Ranges("data", 1, "", 0, values))
    assert set(made.tensors) == {"x", "relu"}


def test_blocks_have_scales_that_both_runtimes_hold_exactly() -> None:
    weight = normal(50, 128) * np.exp2(RANDOM.integers(-16, 6, (50, 1))).astype(np.float32)
    integers, scale = quantize_weight(weight, SPAN["int4"], 32)
    assert scale.shape == (50, 4)
    np.testing.assert_array_equal(scale.astype(np.float16).astype(np.float32), scale)
    assert not (scale.view(np.uint32) & 0xFFFF).any()
    assert (integers.min(), integers.max()) == SPAN["int4"]
    # Half a step, plus the loss of a block's largest weight to the rounding of the scale.
    assert (np.abs(integers * spread(scale, 128) - weight) <= 0.55 * spread(scale, 128)).all()


def test_two_bits_have_the_scale_with_the_least_error() -> None:
    weight = normal(50, 128)
    integers, scale = quantize_weight(weight, SPAN["int2"], 64)
    assert (scale < 0).any() and (scale > 0).any()
    error = np.square(integers * spread(scale, 128) - weight).reshape(50, 2, 64).sum(axis=2)
    blocks = weight.reshape(50, 2, 64)
    tried = np.concatenate([sign * np.linspace(0.01, 3, 300) for sign in (1, -1)])[:, None, None, None]
    best = np.square(np.clip(np.rint(blocks / tried), -2, 1) * tried - blocks).sum(axis=3).min(axis=0)
    assert (error <= 1.05 * best + 1e-6).all()
    # On its own grid, a weight keeps its integers.
    again, _ = quantize_weight((integers * spread(scale, 128)).astype(np.float32), SPAN["int2"], 64)
    np.testing.assert_array_equal(again, integers)


def test_weights_too_large_for_block_scales_are_refused() -> None:
    with pytest.raises(EdgeAfError, match=r"too large for INT4 in blocks"):
        quantize_weight(np.full((2, 32), 1e6, np.float32), SPAN["int4"], 32)


def test_a_layer_that_blocks_do_not_divide_is_held_in_int8() -> None:
    form = Form("int4", "dynamic", 32)
    assert fitting(form, 96) == form
    assert fitting(form, 244) == Form("int8", "dynamic")
    assert fitting(Form("int4", "dynamic"), 244) == Form("int4", "dynamic")
    assert fitting(Form("int4", "dynamic"), 37) == Form("int8", "dynamic")


def test_a_rounding_by_data_is_refused_without(graph: Graph) -> None:
    for form in (Form("int4", "dynamic", rounding="gptq"), Form("int8", "dynamic", bias_correction=True)):
        with pytest.raises(EdgeAfError, match=r"layer .*needs layer inputs"):
            plan(graph, recipe(form=form))


def test_a_plan_takes_another_rounding(graph: Graph) -> None:
    seen = []

    def zeros(layer: FloatLayer, *_: Any) -> Any:
        seen.append(layer.name)
        return np.zeros(layer.weight.shape, np.int8), np.ones(len(layer.bias), np.float32), layer.bias

    made = plan(graph, recipe(form=DYNAMIC, layers={"head": FLOAT}), quantizer=zeros)
    assert seen == list(made.layers) == [gemm.name for gemm in graph.gemms() if gemm.name != "head"]
    assert not any(layer.weight.any() for layer in made.layers.values())


def test_entropy_gives_up_a_far_tail_and_not_an_even_spread() -> None:
    # Both ends are cut by the same share, so a tail is cut only if the other end has none, as after a ReLU.
    values = np.concatenate([np.abs(normal(200_000)), np.full(3, 40.0, np.float32)])
    low, high = choose_range(add(None, values), RangeChoice("entropy"))
    assert 3 < high < 20
    assert low == 0
    even = RANDOM.uniform(-1, 1, 100_000).astype(np.float32)
    low, high = choose_range(add(None, even), RangeChoice("entropy"))
    assert high > 0.95


@pytest.mark.parametrize("values", [[0.0], [3.0], [-2.0, 5.0], [1e-30, -1e30]])
def test_entropy_of_hardly_any_values_is_their_range(values: list[float]) -> None:
    found = choose_range(add(None, np.array(values, np.float32)), RangeChoice("entropy"))
    assert found == (min(0.0, np.float32(min(values))), max(0.0, np.float32(max(values))))
