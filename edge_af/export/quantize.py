"""Quantization shared by both formats: integers for each layer's weights, bias and activations.

An integer q stands for the real number r = scale * (q - zero_point) (Jacob et al. 2018, arXiv:1712.05877, section 2).

* Weights have the zero point 0. INT8 has one scale per output feature. INT4 has that, or one scale per block of inputs.
  INT2, from -2 to 1, has one scale per block, whose sign puts the longer side where the block's weights reach farther.
* An activation has one scale and one zero point for the whole tensor.
* A bias is INT32 on the scale of the sums it is added to: input scale * weight scale.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from edge_af.errors import EdgeAfError
from edge_af.export.graph import Graph, Node
from edge_af.export.ranges import Ranges, choose_range
from edge_af.export.recipes import Form, RangeChoice, Recipe

Span = tuple[int, int]
"""Least and greatest integer of a weight."""

SPAN: dict[str, Span] = {"int8": (-127, 127), "int4": (-8, 7), "int2": (-2, 1)}
"""Integer ranges by weight type. Including -8 makes INT4 steps an eighth finer where a block's largest weight is negative."""
NO_PAIR_LIMIT = 127
"""The full range of INT8 weights."""
BIAS_LIMIT = 2**30
"""Largest bias in integer steps, which leaves half of INT32's range for the sum of products."""
ROWS = 256
"""Weight rows quantized at a time, to bound memory."""

Quantized = tuple[NDArray[np.int8], NDArray[np.float32]]
"""Integers (out, in) and scales, (out,) or (out, in / block)."""

Rounded = tuple[NDArray[np.int8], NDArray[np.float32], NDArray[np.float32]]
"""As `Quantized`, with the matching bias (out,)."""


@dataclass(frozen=True)
class FloatLayer:
    """A fully connected layer as trained, y = x Wᵀ + b."""

    name: str
    weight: NDArray[np.float32]
    """(out, in)."""
    bias: NDArray[np.float32]
    """(out,)."""


WeightQuantizer = Callable[[FloatLayer, Form, Span, "NDArray[np.float64] | float"], Rounded]
"""Quantizes one layer's weights; for span and least scales see `quantize_weight`."""


@dataclass(frozen=True)
class Affine:
    """Scale and zero point of an INT8 tensor; as UINT8, the zero point is 128 higher."""

    scale: float
    zero_point: int


@dataclass(frozen=True)
class Layer:
    """A fully connected layer's numbers as written to the file."""

    form: Form
    """The recipe's form, or INT8 if the recipe's blocks do not divide the inputs."""
    weight: NDArray[np.int8] | NDArray[np.float16]
    """(out, in). INT4 and INT2 values are stored one per byte here."""
    weight_scale: NDArray[np.float32]
    """(out,), or (out, in / block); (0,) for fp16."""
    bias: NDArray[np.float32]
    """(out,)."""
    integer_bias: NDArray[np.int32] | None = None
    """(out,), on the scale input scale * weight_scale, which is known for static activations only; else None."""

    @property
    def bits(self) -> int:
        """Bits per weight."""
        return {"int8": 8, "int4": 4, "int2": 2, "fp16": 16}[self.form.weights]

    @property
    def weight_bytes(self) -> int:
        """Bytes of all packed weights, without scales."""
        return self.weight.size * self.bits // 8


@dataclass(frozen=True)
class Plan:
    """Changes to a graph: the quantized layers by Gemm name, and the INT8 tensors by tensor name.

    An operator whose inputs and outputs are all INT8 computes in integers if the format has a kernel for it.
    """

    layers: Mapping[str, Layer]
    tensors: Mapping[str, Affine]

    @property
    def integer_layers(self) -> list[str]:
        """Return the layers that must run in integers."""
        return [name for name, layer in self.layers.items() if layer.form.runs_in_integers]


LAYOUT = frozenset({"Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Split", "Slice", "Gather"})
"""Operators that only move values, so their output has their input's quantization."""
FIXED = {"Softmax": Affine(1 / 256, -128), "Sigmoid": Affine(1 / 256, -128), "Tanh": Affine(1 / 128, 0)}
"""Scales and zero points that TFLite requires for these operators' INT8 outputs."""


def _features(graph: Graph) -> set[str]:
    """Return the network's inputs, and the tensors that only move or join their values."""
    found = set(graph.inputs)
    for node in graph.nodes:
        moved = [name for name in node.inputs if name not in graph.constants]
        if node.op in LAYOUT | {"Concat"} and moved and found.issuperset(moved):
            found.update(node.outputs)
    return found


def _check_static(recipe: Recipe, forms: Mapping[str, Form]) -> None:
    for name, form in forms.items():
        if form.activations != "static":
            raise EdgeAfError(
                f"recipe {recipe.name}: layer {name} needs static activations for integer inputs and outputs."
            )


def affine_of(low: float, high: float) -> Affine:
    """Return the INT8 form that covers [low, high] and represents zero exactly.

    Args:
        low, high: the range; it is widened to include zero, which padding and ReLU need.
    """
    low, high = min(low, 0.0), max(high, 0.0)
    # A tensor that is always zero still needs a scale.
    scale = float(np.float32((high - low) / 255)) or 1.0
    return Affine(scale, int(np.clip(round(-128 - low / scale), -128, 127)))


def quantize_weight(
    weight: NDArray[np.float32],
    span: Span = SPAN["int8"],
    block: int | None = None,
    least_scale: NDArray[np.float64] | float = 0.0,
) -> Quantized:
    """Quantize float32 weights (out, in) to symmetric integers (out, in) and scales, round-to-nearest.

    Args:
        weight: float32.
        span: range of the integers.
        block: inputs that share a scale, a divisor of their number; None for one scale per output feature.
        least_scale: lower bound of the scales, (out,) or one for all; not with blocks.

    Raises:
        EdgeAfError: a block's scale is too large for float16.
    """
    rows = weight if block is None else weight.reshape(len(weight), -1, block)
    low, high = span
    if span == SPAN["int2"]:
        scale = least_error_scale(rows, span)
        return round_to(weight, scale, span), scale
    reach = np.maximum(rows.min(axis=-1).astype(np.float64) / low, rows.max(axis=-1).astype(np.float64) / high)
    if block is None:
        scale = np.maximum(reach, least_scale)
        scale = np.maximum(scale, np.finfo(np.float32).tiny).astype(np.float32)
    else:
        scale = block_scale(reach)
    return round_to(weight, scale, span), scale


SHRUNK = np.linspace(0.3, 1.0, 15, dtype=np.float32)
"""Shares of the scale that covers all weights of a block, tried by `least_error_scale`."""


def least_error_scale(rows: NDArray[np.float32], span: Span) -> NDArray[np.float32]:
    """Return the signed scale (out, blocks) of each block of `rows` (out, blocks, block) with the least squared error.

    With four steps, covering a block's largest weight would round most of the others to zero.
    """
    low, high = span
    best = np.empty(rows.shape[:2], np.float32)
    for start in range(0, len(rows), ROWS):
        part = rows[start : start + ROWS]
        least, kept = np.full(part.shape[:2], np.inf, np.float32), np.zeros(part.shape[:2], np.float32)
        for sign in (1, -1):
            reach = np.maximum((sign * part).min(axis=-1) / low, (sign * part).max(axis=-1) / high)
            for share in SHRUNK:
                scale = sign * np.maximum(share * reach, np.finfo(np.float32).tiny)
                rounded = np.clip(np.rint(part / scale[..., None]), low, high) * scale[..., None]
                error = np.square(part - rounded).sum(axis=-1)
                better = error < least
                least, kept = np.where(better, error, least), np.where(better, scale, kept)
        best[start : start + ROWS] = kept
    return best


def round_to(weight: NDArray[np.float32], scale: NDArray[np.float32], span: Span) -> NDArray[np.int8]:
    """Round weights (out, in) to integers (out, in) on scales (out,) or (out, in / block), clipped to the span."""
    integers = np.empty(weight.shape, np.int8)
    for start in range(0, len(weight), ROWS):
        rows = slice(start, start + ROWS)
        integers[rows] = np.clip(np.rint(weight[rows] / spread(scale[rows], weight.shape[1])), *span)
    return integers


def spread(scale: NDArray[np.float32], inputs: int) -> NDArray[np.float32]:
    """Expand scales (out,) or (out, in / block) to (out, 1) or (out, in)."""
    return scale[:, None] if scale.ndim == 1 else np.repeat(scale, inputs // scale.shape[1], axis=1)


def block_scale(scale: NDArray[np.floating]) -> NDArray[np.float32]:
    """Round scales to values that both runtimes use exactly.

    TFLite files store block scales as float16, and XNNPACK truncates them to bfloat16 when loading. Integers rounded on
    any other scale would stand for other weights.

    Raises:
        EdgeAfError: a scale is too large for float16.
    """
    bits = scale.astype(np.float32).view(np.uint32)
    # Round to the nearest bfloat16, ties to even.
    short = ((bits + 0x7FFF + ((bits >> 16) & 1)) & np.uint32(0xFFFF0000)).view(np.float32)
    if short.size and not float(short.max()) <= float(np.finfo(np.float16).max):
        raise EdgeAfError(f"weights up to {7 * float(scale.max()):.3g} are too large for INT4 in blocks. Use int8.")
    return np.maximum(short, np.finfo(np.float16).smallest_subnormal).astype(np.float16).astype(np.float32)


def dequantize(layer: Layer) -> NDArray[np.float32]:
    """Dequantize a layer's weights to float32 (out, in)."""
    if layer.weight.dtype == np.float16:
        return layer.weight.astype(np.float32)
    return layer.weight * spread(layer.weight_scale, layer.weight.shape[1])


def to_nearest(layer: FloatLayer, form: Form, span: Span, least_scale: NDArray[np.float64] | float) -> Rounded:
    """Quantize weights with `rounding: nearest`, which needs no data. See `rounding.Rounder` for the others.

    Raises:
        EdgeAfError: the form has another rounding.
    """
    if form.rounding != "nearest" or form.bias_correction:
        raise EdgeAfError(
            f"layer {layer.name}: {'bias_correction' if form.bias_correction else f'rounding: {form.rounding}'} "
            "needs layer inputs on training videos: pass --calibration-data."
        )
    return *quantize_weight(layer.weight, span, form.block, least_scale), layer.bias


def weight_span(form: Form, pair_limit: int) -> Span:
    """Return the integer range of a form's weights, limited to ±`pair_limit` (see `plan`) if the layer runs in integers."""
    low, high = SPAN[form.weights]
    return (max(low, -pair_limit), min(high, pair_limit)) if form.runs_in_integers else (low, high)


def fitting(form: Form, inputs: int) -> Form:
    """Return the form for a layer with this many inputs: INT8 instead of INT4 and INT2 if they are not a multiple of the block
    size, or odd, because TFLite cannot pad rows. In these networks this affects the attention's layers."""
    if form.weights not in ("int4", "int2") or inputs % (form.block or 2) == 0:
        return form
    return replace(form, weights="int8", block=None)


def quantize_layer(
    layer: FloatLayer,
    form: Form,
    input: Affine | None = None,
    quantizer: WeightQuantizer = to_nearest,
    pair_limit: int = NO_PAIR_LIMIT,
) -> Layer:
    """Quantize a layer.

    Args:
        layer: as trained.
        form: any except `float`.
        input: the INT8 form of its input, for static activations.
        quantizer: quantizes its weights.
        pair_limit: as for `plan`.
    """
    form = fitting(form, layer.weight.shape[1])
    if not form.is_integer:
        return Layer(form, layer.weight.astype(np.float16), np.zeros(0, np.float32), layer.bias)
    span = weight_span(form, pair_limit)
    if form.activations != "static":
        return Layer(form, *quantizer(layer, form, span, 0.0))
    assert input is not None
    # If a row's weights are so small that its bias would overflow INT32, make the weights coarser.
    least = np.abs(layer.bias).astype(np.float64) / (input.scale * BIAS_LIMIT)
    integers, scale, bias = quantizer(layer, form, span, least)
    steps = np.rint(bias / (input.scale * scale.astype(np.float64)))
    return Layer(form, integers, scale, bias, np.clip(steps, -(2**31), 2**31 - 1).astype(np.int32))


def with_biases(graph: Graph, plan: Plan) -> Graph:
    """Replace the graph's biases by those of the plan, which rounding may have corrected."""
    biases = {gemm.inputs[2]: plan.layers[gemm.name].bias for gemm in graph.gemms() if gemm.name in plan.layers}
    return replace(graph, constants={**graph.constants, **biases})


def fused_relu(graph: Graph, gemm: Node) -> Node | None:
    """Return the ReLU that is fused with a Gemm because nothing else reads the Gemm's output; else None."""
    if gemm.outputs[0] in graph.outputs:
        return None
    readers = graph.consumers()[gemm.outputs[0]]
    return readers[0] if len(readers) == 1 and readers[0].op == "Relu" else None


def plan(
    graph: Graph,
    recipe: Recipe,
    ranges: Ranges | None = None,
    quantizer: WeightQuantizer = to_nearest,
    *,
    pair_limit: int = NO_PAIR_LIMIT,
    everything: bool = False,
) -> Plan:
    """Quantize a clean graph's layers as a recipe says.

    Args:
        graph: clean.
        recipe: how to quantize.
        ranges: activation ranges of the graph; required for static activations.
        quantizer: quantizes each layer's weights.
        pair_limit: largest INT8 weight of layers that run in integers; see `runtime.ort.PAIR_LIMIT`.
        everything: make every tensor INT8, including the network's inputs, logits and scores. Accelerators without float
            arithmetic need this; 256 levels leave many ties between scores.

    Inputs and outputs of static layers are INT8. The logits stay float: as INT8, a video's 20 best scores would have some
    14 levels, and ties would decide the ranking. A concatenation of INT8 tensors passes its range on to its inputs, so that
    it only copies.

    Raises:
        EdgeAfError: the recipe's layers do not match the graph, or static ranges are missing.
    """
    gemms = graph.gemms()
    forms = recipe.forms_of([gemm.name for gemm in gemms])
    producers, consumers = graph.producers(), graph.consumers()
    tensors: dict[str, Affine] = {}
    features = _features(graph)

    def hold(tensor: str) -> Affine:
        if tensor not in tensors:
            if ranges is None or tensor not in ranges.tensors:
                raise EdgeAfError(
                    f"recipe {recipe.name}: needs the range of {tensor!r}, which was not found. Calibrate again."
                )
            # Features are bounded without outliers: the values that `mse` would clip carry information.
            whole = tensor in features and recipe.ranges.method == "mse"
            choice = RangeChoice() if whole else recipe.ranges
            tensors[tensor] = affine_of(*choose_range(ranges.tensors[tensor], choice))
        return tensors[tensor]

    for gemm in gemms:
        if forms[gemm.name].activations != "static":
            continue
        hold(gemm.inputs[0])
        relu = fused_relu(graph, gemm)
        output = relu.outputs[0] if relu is not None else gemm.outputs[0]
        is_logits = output in graph.outputs or any(reader.op == "Sigmoid" for reader in consumers[output])
        if relu is not None or not is_logits:
            hold(output)
    if everything:
        _check_static(recipe, forms)
        fused = {relu.inputs[0] for gemm in gemms if (relu := fused_relu(graph, gemm)) is not None}
        for name in graph.activations():
            if name not in fused:
                hold(name)
    for node in graph.nodes:
        if node.op == "Concat" and node.outputs[0] in tensors:
            for part in node.inputs:
                if part in tensors and len(consumers[part]) == 1 and (part in producers or everything):
                    tensors[part] = tensors[node.outputs[0]]
    if everything:
        for node in graph.nodes:
            if node.op in LAYOUT:
                tensors.update(dict.fromkeys(node.outputs, tensors[node.inputs[0]]))
            elif node.op in FIXED:
                tensors[node.outputs[0]] = FIXED[node.op]
    layers = {
        gemm.name: quantize_layer(
            FloatLayer(gemm.name, graph.constants[gemm.inputs[1]], graph.constants[gemm.inputs[2]]),
            forms[gemm.name],
            tensors.get(gemm.inputs[0]),
            quantizer,
            pair_limit,
        )
        for gemm in gemms
        if forms[gemm.name].weights != "float"
    }
    return Plan(layers, tensors)
