"""GPTQ compared with its textbook form, bias correction, and both in an export."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edge_af.data.dataset import Dataset
from edge_af.errors import EdgeAfError
from edge_af.export.graph import Graph
from edge_af.export.pipeline import write_file
from edge_af.export.quantize import SPAN, dequantize, plan, quantize_weight, spread
from edge_af.export.ranges import Ranges
from edge_af.export.recipes import Form, RangeChoice, Recipe
from edge_af.export.rounding import Rounder, corrected_bias, gptq, layer_inputs
from edge_af.runtime import load, score_all

RANDOM = np.random.default_rng(3)


def correlated(rows: int, features: int) -> NDArray[np.float32]:
    """Return inputs like those of layers: low-rank plus noise, with some features that are always zero."""
    x = RANDOM.normal(size=(rows, 12)) @ RANDOM.normal(size=(12, features)) + 0.3 * RANDOM.normal(size=(rows, features))
    x[:, ::17] = 0
    return np.maximum(x + 0.5, 0).astype(np.float32)


def textbook(weight: Any, x: Any, scale: Any, span: tuple[int, int], damping: float) -> NDArray[np.int8]:
    """GPTQ as published: the Cholesky factor of the inverse passes errors on to the following columns."""
    x = x.astype(np.float64)
    hessian = x.T @ x
    energy = np.diag(hessian)
    order = np.argsort(-energy, kind="stable")
    hessian = hessian[np.ix_(order, order)] + damping * energy.mean() * np.eye(len(order))
    left = weight[:, order].astype(np.float64)
    steps = np.broadcast_to(spread(scale, weight.shape[1]), weight.shape)[:, order]
    factor = np.linalg.cholesky(np.linalg.inv(hessian)).T
    integers = np.empty(weight.shape)
    for at in range(len(order)):
        integers[:, at] = np.clip(np.rint(left[:, at] / steps[:, at]), *span)
        error = (left[:, at] - integers[:, at] * steps[:, at]) / factor[at, at]
        left[:, at:] -= error[:, None] * factor[at, at:]
    back = np.empty_like(integers)
    back[:, order] = integers
    return back.astype(np.int8)


@pytest.mark.parametrize(("rows", "features"), [(60, 320), (700, 192), (1, 64), (200, 200)])
@pytest.mark.parametrize("block", [None, 32])
@pytest.mark.parametrize("damping", [0.01, 1.0])
def test_it_is_gptq_as_published(rows: int, features: int, block: int | None, damping: float) -> None:
    features -= features % 32
    weight, x = RANDOM.normal(size=(40, features)).astype(np.float32), correlated(rows, features)
    integers, scale = quantize_weight(weight, SPAN["int4"], block)
    found = gptq(weight, x, scale, SPAN["int4"], damping=damping)
    # A value halfway between two steps may round either way, which affects the following columns.
    assert (found != textbook(weight, x, scale, SPAN["int4"], damping)).mean() < 0.02
    assert (found.min(), found.max()) == SPAN["int4"]

    def error(q: NDArray[np.int8]) -> float:
        return float(np.square(x @ (weight - q * spread(scale, features)).T).sum())

    assert error(found) < (0.6 if damping < 1 else 0.9) * error(integers)


def test_inputs_that_are_always_zero_leave_rounding_to_nearest() -> None:
    weight = RANDOM.normal(size=(8, 64)).astype(np.float32)
    integers, scale = quantize_weight(weight, SPAN["int4"])
    np.testing.assert_array_equal(gptq(weight, np.zeros((10, 64), np.float32), scale, SPAN["int4"]), integers)


def test_the_mean_output_is_as_it_was() -> None:
    weight, x = RANDOM.normal(size=(300, 64)).astype(np.float32), correlated(500, 64)
    bias = RANDOM.normal(size=300).astype(np.float32)
    integers, scale = quantize_weight(weight, SPAN["int4"])
    corrected = corrected_bias(weight, integers, scale, bias, x.mean(axis=0, dtype=np.float64))
    before = (x @ weight.T + bias).mean(axis=0)
    rounded = x @ (integers * scale[:, None]).T
    np.testing.assert_allclose((rounded + corrected).mean(axis=0), before, atol=1e-4)
    assert np.abs((rounded + bias).mean(axis=0) - before).max() > 0.05


def recipe(**form: Any) -> Recipe:
    return Recipe("test", "", Form(**form))


def test_inputs_do_not_depend_on_the_order_of_rows(graph: Graph, dataset: Dataset) -> None:
    rows, layers = np.arange(0, 300, 3), [gemm.name for gemm in graph.gemms()]
    one = layer_inputs(graph, dataset, rows, layers)
    two = layer_inputs(graph, dataset, rows[::-1], layers)
    assert list(one) == layers
    for layer in layers:
        np.testing.assert_array_equal(one[layer], two[layer])
    np.testing.assert_array_equal(one["visual.fc1"], dataset.features(rows)[0])


@pytest.mark.parametrize("bits", [4, 8])
def test_layers_of_a_network_come_closer_to_what_they_were(graph: Graph, dataset: Dataset, bits: int) -> None:
    layers = [gemm.name for gemm in graph.gemms()]
    inputs = layer_inputs(graph, dataset, np.arange(400), layers)
    unseen = layer_inputs(graph, dataset, np.arange(400, 600), layers)
    forms = {"weights": f"int{bits}", "activations": "dynamic"}
    plain = plan(graph, recipe(**forms))
    better = plan(graph, recipe(**forms, rounding="gptq", bias_correction=True), quantizer=Rounder(inputs))
    ratios = []
    for gemm in graph.gemms():
        weight, bias = graph.constants[gemm.inputs[1]], graph.constants[gemm.inputs[2]]
        x = unseen[gemm.name]
        errors = [
            np.square(x @ (weight - dequantize(made.layers[gemm.name])).T + bias - made.layers[gemm.name].bias).sum()
            for made in (better, plain)
        ]
        ratios.append(errors[0] / errors[1])
        assert better.layers[gemm.name].weight.min() >= SPAN[f"int{bits}"][0]
        assert better.layers[gemm.name].weight.max() <= SPAN[f"int{bits}"][1]
    assert max(ratios) < 1.02
    assert np.mean(ratios) < 0.9


def test_a_recipe_that_needs_inputs_says_so(graph: Graph, dataset: Dataset, tmp_path: Path) -> None:
    assert recipe(weights="int4", activations="dynamic", bias_correction=True).needs_inputs
    assert not recipe(weights="int4", activations="dynamic").needs_inputs
    with pytest.raises(EdgeAfError, match="--calibration-data"):
        plan(graph, recipe(weights="int4", activations="dynamic", rounding="gptq"))


@pytest.mark.parametrize("form", [("int8", "static"), ("int8", "dynamic"), ("int8", "float"), ("int4", "dynamic")])
@pytest.mark.parametrize("format", ["onnx", "tflite"])
def test_corrected_biases_reach_the_file(
    graph: Graph, ranges: Ranges, dataset: Dataset, tmp_path: Path, form: tuple[str, str], format: str
) -> None:
    """Shift the head's bias by hand, so that only the bias differs."""
    made = plan(graph, Recipe("test", "", Form(*form), RangeChoice("mse")), ranges)
    layer = made.layers["head"]
    step = layer.bias + np.float32(1.5)
    whole = None
    if layer.integer_bias is not None:
        (head,) = (gemm for gemm in graph.gemms() if gemm.name == "head")
        whole = np.rint(step / (layer.weight_scale * made.tensors[head.inputs[0]].scale)).astype(np.int32)
    shifted = replace(made, layers={**made.layers, "head": replace(layer, bias=step, integer_bias=whole)})
    scores = []
    for name, one in {"a": made, "b": shifted}.items():
        write_file(graph, one, format, tmp_path / f"{name}.{format}", "x86-64")
        scores.append(score_all(load(tmp_path / f"{name}.{format}"), dataset.features(np.arange(8))))
    before, after = (np.log(part / (1 - part)) for part in scores)
    inside = (scores[0] > 1e-3) & (scores[1] < 1 - 1e-3)
    assert inside.sum() > 50
    np.testing.assert_allclose((after - before)[inside], 1.5, atol=0.02)
