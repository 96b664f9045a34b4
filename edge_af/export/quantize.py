"""The arithmetic of INT8, shared by both formats: what is made of each layer's weights, bias and activations.

A real number r is held as an integer q with r = scale * (q - zero_point). Weights are symmetric (zero_point 0) with one
scale an output feature; an activation has one scale and zero point for the whole tensor; a bias is INT32 on the scale
of the sums it is added to, input scale * weight scale (Jacob et al. 2018, arXiv:1712.05877, section 2).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge_af.errors import EdgeAfError
from edge_af.export.graph import Graph, Node
from edge_af.export.ranges import Histogram, Ranges
from edge_af.export.recipes import RangeChoice, Recipe

WEIGHT_LIMIT = 127
BIAS_LIMIT = 2**30
"""Largest bias in integer steps: leaves as much again of INT32 for the sum of products."""
SHARES = tuple(share / 100 for share in range(100, 19, -1))
"""Of the full range, tried for the least squared error; the largest of equals is taken."""
ROWS = 256
"""Weight rows quantised at a time, which bounds the memory of intermediate arrays."""


@dataclass(frozen=True)
class Affine:
    """Scale and zero point of a tensor held as INT8; as UINT8 the zero point is 128 more."""

    scale: float
    zero_point: int


@dataclass(frozen=True)
class Layer:
    """A fully connected layer's integer form."""

    activations: str
    """`static` or `dynamic`."""
    weight: NDArray[np.int8]
    """(out, in)."""
    weight_scale: NDArray[np.float32]
    """(out,)."""
    bias: NDArray[np.float32]
    """(out,), as trained."""
    integer_bias: NDArray[np.int32] | None
    """(out,), on the scale input scale * weight_scale; None for dynamic activations, where that is not known."""


@dataclass(frozen=True)
class Plan:
    """What becomes of a graph: the layers that run in integers, by Gemm name, and the tensors held as INT8, by tensor name."""

    layers: Mapping[str, Layer]
    tensors: Mapping[str, Affine]


def affine_of(low: float, high: float) -> Affine:
    """The INT8 form that covers [low, high] and holds zero exactly.

    Args:
        low, high: the range; widened to hold zero, without which padding and ReLU would be off.
    """
    low, high = min(low, 0.0), max(high, 0.0)
    # A tensor that is always zero still needs a scale.
    scale = float(np.float32((high - low) / 255)) or 1.0
    return Affine(scale, int(np.clip(round(-128 - low / scale), -128, 127)))


def choose_range(histogram: Histogram, choice: RangeChoice) -> tuple[float, float]:
    """The range (low, high) that `choice` makes of what was seen."""
    if choice.method == "min-max":
        return histogram.minimum, histogram.maximum
    if choice.method == "mse":
        return _least_error(histogram)
    share = choice.percentile / 100
    return histogram.quantile(1 - share), histogram.quantile(share)


def _least_error(histogram: Histogram) -> tuple[float, float]:
    """The part of the range with the least expected squared error: of what is cut off, and of rounding, step²/12 a value."""
    at = np.ldexp(histogram.first + np.arange(len(histogram.counts)) + 0.5, histogram.exponent)
    low, high = min(histogram.minimum, 0.0), max(histogram.maximum, 0.0)

    def error(share: float) -> float:
        cut = np.maximum(at - share * high, 0) ** 2 + np.maximum(share * low - at, 0) ** 2
        return float(histogram.counts @ np.where(cut > 0, cut, (share * (high - low) / 255) ** 2 / 12))

    best = min(SHARES, key=error)
    return best * low, best * high


def quantize_weight(
    weight: NDArray[np.float32], least_scale: NDArray[np.float64] | float = 0.0
) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Symmetric INT8 weights (out, in) and their scales (out,), from float32 weights (out, in).

    Args:
        weight: float32.
        least_scale: scales are at least this, (out,) or one for all.
    """
    scale = np.maximum(np.abs(weight).max(axis=1).astype(np.float64) / WEIGHT_LIMIT, least_scale)
    scale = np.maximum(scale, np.finfo(np.float32).tiny).astype(np.float32)
    integers = np.empty(weight.shape, np.int8)
    for start in range(0, len(weight), ROWS):
        rows = slice(start, start + ROWS)
        integers[rows] = np.clip(np.rint(weight[rows] / scale[rows, None]), -WEIGHT_LIMIT, WEIGHT_LIMIT)
    return integers, scale


def quantize_layer(weight: NDArray[np.float32], bias: NDArray[np.float32], input: Affine | None) -> Layer:
    """A layer `y = x Wᵀ + b` with static activations if its input's INT8 form is given, dynamic ones otherwise."""
    if input is None:
        integers, scale = quantize_weight(weight)
        return Layer("dynamic", integers, scale, bias, None)
    # A row of weights so small that its bias would not fit into INT32 gets coarser weights instead of a wrong bias.
    integers, scale = quantize_weight(weight, np.abs(bias).astype(np.float64) / (input.scale * BIAS_LIMIT))
    steps = np.rint(bias / (input.scale * scale.astype(np.float64)))
    return Layer("static", integers, scale, bias, np.clip(steps, -(2**31), 2**31 - 1).astype(np.int32))


def fused_relu(graph: Graph, gemm: Node) -> Node | None:
    """The ReLU that alone reads a Gemm's output, and so becomes part of the layer."""
    if gemm.outputs[0] in graph.outputs:
        return None
    readers = graph.consumers()[gemm.outputs[0]]
    return readers[0] if len(readers) == 1 and readers[0].op == "Relu" else None


def plan(graph: Graph, recipe: Recipe, ranges: Ranges | None) -> Plan:
    """Quantise a clean graph's layers as a recipe says.

    INT8 are: the inputs of static layers, and the outputs of static layers, unless the output is one of the network's
    logits (a layer that only the final sigmoid reads): some 14 levels would be left among a video's 20 best scores, and
    ties would decide the ranking. A concatenation of INT8 tensors gives its range to what it joins, so that it stays a copy.

    Raises:
        EdgeAfError: the recipe's layers do not fit the graph, or static ranges are needed and not given.
    """
    gemms = graph.gemms()
    activations = recipe.activations_of([gemm.name for gemm in gemms])
    producers, consumers = graph.producers(), graph.consumers()
    tensors: dict[str, Affine] = {}

    def hold(tensor: str) -> Affine:
        if tensor not in tensors:
            if ranges is None or tensor not in ranges.tensors:
                raise EdgeAfError(
                    f"recipe {recipe.name}: needs the range of {tensor!r}, which was not found. Calibrate again."
                )
            tensors[tensor] = affine_of(*choose_range(ranges.tensors[tensor], recipe.ranges))
        return tensors[tensor]

    for gemm in gemms:
        if activations[gemm.name] != "static":
            continue
        hold(gemm.inputs[0])
        relu = fused_relu(graph, gemm)
        output = relu.outputs[0] if relu is not None else gemm.outputs[0]
        is_logits = output in graph.outputs or any(reader.op == "Sigmoid" for reader in consumers[output])
        if relu is not None or not is_logits:
            hold(output)
    for node in graph.nodes:
        if node.op == "Concat" and node.outputs[0] in tensors:
            for part in node.inputs:
                if part in tensors and len(consumers[part]) == 1 and part in producers:
                    tensors[part] = tensors[node.outputs[0]]
    layers = {
        gemm.name: quantize_layer(
            graph.constants[gemm.inputs[1]],
            graph.constants[gemm.inputs[2]],
            tensors[gemm.inputs[0]] if activations[gemm.name] == "static" else None,
        )
        for gemm in gemms
        if activations[gemm.name] != "float"
    }
    return Plan(layers, tensors)
