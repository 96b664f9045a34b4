"""Convert a clean graph to TFLite. Each ONNX operator of the networks has a function that adds its TFLite form.

A tensor may exist in float and as INT8. Each form is created when it is first needed, so that QUANTIZE and DEQUANTIZE only
occur where integer and float layers meet. Shapes are computed at batch 1 and 2: a dimension that differs depends on the
batch, and is left open in the file.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from numpy.typing import NDArray

from edge_af.errors import EdgeAfError
from edge_af.export.graph import Graph, Node, Shape
from edge_af.export.quantize import Affine, Layer, Plan, fused_relu, with_biases
from edge_af.export.tflite_model import TfliteModel

NO_INPUT = -1
"""TFLite's index for an omitted optional input."""

LONGEST_SUM, MOST_PARTS = 1024, 16
"""Name suffixes of a split float layer's partial sums and parts."""

NOTHING_QUANTIZED = Plan(layers={}, tensors={})


def write_tflite(graph: Graph, path: Path, plan: Plan = NOTHING_QUANTIZED, *, integer_io: bool = False) -> None:
    """Write a clean graph as a TFLite file: FP32, or quantized as in `plan`, with INT8 inputs and outputs if `integer_io`.

    A layer with static activations becomes FULLY_CONNECTED on INT8. One with dynamic activations becomes the hybrid form,
    which quantizes its float input row by row at run time. If only weights are quantized, DEQUANTIZE restores them. TFLite
    has no kernel from an INT8 input to a float output, so a static layer whose output stays float becomes hybrid too.

    Raises:
        EdgeAfError: an operator, or a form of one, cannot be converted; the message names the node.
    """
    lowering = _Lowering(graph, plan, integer_io)
    for node in graph.nodes:
        lowering.add(node)
    lowering.model.write(
        path,
        {name: lowering.inputs[name] for name in graph.inputs},
        {name: lowering.integer(name) if integer_io else lowering.real(name) for name in graph.outputs},
    )


def unsupported(node: Node, why: str) -> EdgeAfError:
    """Return the error for a node without a TFLite form."""
    return EdgeAfError(f"node {node.name!r} ({node.op}): {why}; it cannot be written as TFLite.")


class _Lowering:
    def __init__(self, graph: Graph, plan: Plan, integer_io: bool) -> None:
        self.graph, self.plan, self.model = with_biases(graph, plan), plan, TfliteModel()
        self.batch_one, batch_two = graph.shapes(1), graph.shapes(2)
        self.shapes: dict[str, Shape] = {
            name: tuple(dim if dim == batch_two[name][axis] else None for axis, dim in enumerate(shape))
            for name, shape in self.batch_one.items()
        }
        self._real: dict[str, int] = {}
        self._integer: dict[str, int] = {}
        self._constants: dict[str, int] = {}
        self._fused: set[str] = set()
        self._producers, self._consumers = graph.producers(), graph.consumers()
        self.inputs = {name: self.new_integer(name) if integer_io else self.new_real(name) for name in graph.inputs}

    def add(self, node: Node) -> None:
        if node.name in self._fused:
            return
        if node.op not in LOWERINGS:
            raise unsupported(node, "an operator not known here")
        LOWERINGS[node.op](self, node)

    def without_transpose(self, name: str) -> str | None:
        """Return the tensor whose last two dimensions this one transposes, if only matrix products read it, as their
        second input. BATCH_MATMUL can transpose that input itself.
        """
        transpose = self._producers.get(name)
        if transpose is None or transpose.op != "Transpose" or name in self.graph.outputs:
            return None
        last = len(self.shapes[name]) - 1
        swapped = list(transpose.attributes.get("perm", ())) == [*range(last - 1), last, last - 1]
        products = all(reader.op == "MatMul" and reader.inputs[0] != name for reader in self._consumers[name])
        return transpose.inputs[0] if swapped and products else None

    def new_real(self, name: str) -> int:
        """Add the float form of an activation."""
        # If a tensor has both forms, the INT8 one gets a suffix, so that the float one keeps the ONNX name.
        self._real[name] = self.model.tensor(name, self.shapes[name], self.batch_one[name], np.float32)
        return self._real[name]

    def new_integer(self, name: str) -> int:
        """Add the INT8 form of an activation."""
        index = self.model.tensor(
            f"{name}.int8", self.shapes[name], self.batch_one[name], np.int8, self.plan.tensors[name]
        )
        self._integer[name] = index
        return index

    def real(self, name: str) -> int:
        """Return the index of a tensor's float form."""
        if name in self.graph.constants:
            if name not in self._constants:
                self._constants[name] = self.model.constant(
                    name, self.graph.constants[name].astype(np.float32, copy=False)
                )
            return self._constants[name]
        if name not in self._real:
            integer = self._integer[name]
            self.model.operator("DEQUANTIZE", [integer], [self.new_real(name)], schema.DequantizeOptionsT(), version=2)
        return self._real[name]

    def integer(self, name: str) -> int:
        """Return the index of a tensor's INT8 form."""
        if name not in self._integer:
            real = self._real[name]
            self.model.operator("QUANTIZE", [real], [self.new_integer(name)], schema.QuantizeOptionsT())
        return self._integer[name]

    def is_integer(self, name: str) -> bool:
        """Return True if a tensor already exists as INT8."""
        return name in self._integer

    def computes_in_integers(self, node: Node) -> bool:
        """Return True if all inputs of a node exist as INT8 (constants can be converted) and all outputs must be INT8."""
        read = [name for name in node.inputs if name and name not in self.graph.constants]
        return all(map(self.is_integer, read)) and all(name in self.plan.tensors for name in node.outputs)

    def read(self, node: Node, name: str) -> int:
        """Return the index of a tensor in the form that a node computes in."""
        if not self.computes_in_integers(node):
            return self.real(name)
        return self.integer_constant(name) if name in self.graph.constants else self.integer(name)

    def give(self, node: Node, name: str) -> int:
        """Add a node's output in the form that it computes in."""
        return self.new_integer(name) if self.computes_in_integers(node) else self.new_real(name)

    def integer_constant(self, name: str) -> int:
        """Add a constant as INT8 with one scale."""
        array = self.graph.constants[name]
        scale = np.array([np.abs(array).max() / 127 or 1.0], np.float32)
        return self.model.constant(f"{name}.int8", np.rint(array / scale).astype(np.int8), scale)

    def affine(self, name: str) -> Affine | None:
        return self.plan.tensors.get(name)

    def fuse_relu(self, gemm: Node) -> tuple[str, int]:
        """Return a layer's output and fused activation; a ReLU that reads only this layer is fused."""
        relu = fused_relu(self.graph, gemm)
        if relu is None:
            return gemm.outputs[0], schema.ActivationFunctionType.NONE
        self._fused.add(relu.name)
        return relu.outputs[0], schema.ActivationFunctionType.RELU

    def indices(self, name: str, values: list[int]) -> int:
        """Add a constant of int32, such as a shape or a permutation."""
        return self.model.constant(name, np.array(values, np.int32))


def _gemm(lowering: _Lowering, node: Node) -> None:
    data, weight_name, bias_name = node.inputs
    output, activation = lowering.fuse_relu(node)
    options = schema.FullyConnectedOptionsT()
    options.fusedActivationFunction = activation
    layer = lowering.plan.layers.get(node.name)
    if layer is None:
        _real_layer(lowering, node, output, options)
    elif layer.form.weights == "int2":
        raise unsupported(node, "LiteRT has no integer kernel for INT2 weights")
    elif layer.form.activations == "float":
        inputs = [lowering.real(data), _real_weight(lowering, weight_name, layer), lowering.real(bias_name)]
        lowering.model.operator("FULLY_CONNECTED", inputs, [lowering.new_real(output)], options)
    elif layer.form.weights == "int4":
        options.asymmetricQuantizeInputs = True
        weight = lowering.model.int4(weight_name, layer.weight, layer.weight_scale)
        inputs = [lowering.real(data), weight, lowering.real(bias_name)]
        lowering.model.operator("FULLY_CONNECTED", inputs, [lowering.new_real(output)], options, version=12)
    elif layer.form.activations == "dynamic":
        options.asymmetricQuantizeInputs = True
        weight = lowering.model.constant(weight_name, layer.weight, layer.weight_scale)
        inputs = [lowering.real(data), weight, lowering.real(bias_name)]
        # Runtimes without per-channel scales refuse this version; see `_hybrid_layer`.
        lowering.model.operator("FULLY_CONNECTED", inputs, [lowering.new_real(output)], options, version=12)
    elif output in lowering.plan.tensors:
        _integer_layer(lowering, node, layer, output, options)
    else:
        _hybrid_layer(lowering, node, layer, output, activation)


def _real_layer(lowering: _Lowering, node: Node, output: str, options: Any) -> None:
    """Add a float layer; one with very many inputs becomes a sum of layers over equal parts of them.

    XNNPACK sums an output feature's products sequentially in float32, and a longer sum has a larger error.
    """
    data, weight_name, bias_name = node.inputs
    weight = lowering.graph.constants[weight_name]
    total = weight.shape[1]
    parts = next((n for n in range(1, MOST_PARTS + 1) if total % n == 0 and total // n <= LONGEST_SUM), 1)
    if parts == 1:
        inputs = [lowering.real(data), lowering.real(weight_name), lowering.real(bias_name)]
        lowering.model.operator("FULLY_CONNECTED", inputs, [lowering.new_real(output)], options)
        return
    each = total // parts

    def tensor(name: str, like: str, features: int) -> int:
        shape, batch_one = lowering.shapes[like], lowering.batch_one[like]
        return lowering.model.tensor(name, (*shape[:-1], features), (*batch_one[:-1], features), np.float32)

    pieces = [tensor(f"{node.name}.input{part}", data, each) for part in range(parts)]
    split = schema.SplitOptionsT()
    split.numSplits = parts
    axis = lowering.indices(f"{node.name}.axis", [len(lowering.shapes[data]) - 1])
    lowering.model.operator("SPLIT", [axis, lowering.real(data)], pieces, split)
    before = None
    for part, piece in enumerate(pieces):
        held = lowering.model.constant(f"{weight_name}.{part}", weight[:, part * each : (part + 1) * each])
        sums = tensor(f"{node.name}.sums{part}", output, len(weight))
        bias = lowering.real(bias_name) if part == 0 else NO_INPUT
        lowering.model.operator("FULLY_CONNECTED", [piece, held, bias], [sums], schema.FullyConnectedOptionsT())
        if before is not None:
            addition = schema.AddOptionsT()
            last = part == parts - 1
            if last:
                addition.fusedActivationFunction = options.fusedActivationFunction
            target = lowering.new_real(output) if last else tensor(f"{node.name}.sum{part}", output, len(weight))
            lowering.model.operator("ADD", [before, sums], [target], addition)
            sums = target
        before = sums


def _real_weight(lowering: _Lowering, name: str, layer: Layer) -> int:
    """Add a layer whose weights the runtime dequantizes once, when it loads the file."""
    if layer.form.weights == "int4":
        held = lowering.model.int4(name, layer.weight, layer.weight_scale)
    else:
        held = lowering.model.constant(name, layer.weight, layer.weight_scale if layer.form.is_integer else None)
    real = lowering.model.tensor(f"{name}.float", layer.weight.shape, layer.weight.shape, np.float32)
    version = {"int4": 6, "int8": 5, "fp16": 3}[layer.form.weights]
    lowering.model.operator("DEQUANTIZE", [held], [real], schema.DequantizeOptionsT(), version=version)
    return real


def _integer_layer(lowering: _Lowering, node: Node, layer: Layer, output: str, options: Any) -> None:
    data, weight_name, bias_name = node.inputs
    held = lowering.affine(data)
    assert held is not None and layer.integer_bias is not None
    bias_scale = (layer.weight_scale.astype(np.float64) * held.scale).astype(np.float32)
    inputs = [
        lowering.integer(data),
        lowering.model.constant(weight_name, layer.weight, layer.weight_scale),
        lowering.model.constant(bias_name, layer.integer_bias, bias_scale),
    ]
    lowering.model.operator("FULLY_CONNECTED", inputs, [lowering.new_integer(output)], options, version=4)


def _hybrid_layer(lowering: _Lowering, node: Node, layer: Layer, output: str, activation: int) -> None:
    """Add a static recipe's layer whose output stays float: it quantizes its input at run time, and a separate multiplication
    applies the weights' scales.

    Only recent runtimes support per_channel scales in FULLY_CONNECTED on a float input. Older ones, such as tflite-runtime
    2.14, silently use the first scale for all output features. With one scale of 1 in the layer and the real ones after
    it, every runtime that static files are made for computes the same.
    """
    data, weight_name, bias_name = node.inputs
    options = schema.FullyConnectedOptionsT()
    # XNNPACK accepts hybrid layers only if the activations may have a zero point.
    options.asymmetricQuantizeInputs = True
    sums, product = (
        lowering.model.tensor(f"{node.name}.{part}", lowering.shapes[output], lowering.batch_one[output], np.float32)
        for part in ("sums", "product")
    )
    inputs = [lowering.real(data), lowering.model.constant(weight_name, layer.weight, np.ones(1, np.float32)), NO_INPUT]
    lowering.model.operator("FULLY_CONNECTED", inputs, [sums], options, version=9)
    scale = lowering.model.constant(f"{weight_name}.scale", layer.weight_scale)
    lowering.model.operator("MUL", [sums, scale], [product], schema.MulOptionsT())
    addition = schema.AddOptionsT()
    addition.fusedActivationFunction = activation
    lowering.model.operator("ADD", [product, lowering.real(bias_name)], [lowering.new_real(output)], addition)


def _add_operator(
    lowering: _Lowering, node: Node, op: str, inputs: list[int], outputs: list[int], options: Any
) -> None:
    """Add an operator, in the first version that supports INT8 if it computes in INT8."""
    version = INT8_VERSIONS.get(op, 2) if lowering.computes_in_integers(node) else 1
    lowering.model.operator(op, inputs, outputs, options, version)


INT8_VERSIONS = {"RESHAPE": 1}
"""Versions other than 2."""


def _elementwise(op: str, options: Callable[[], Any]) -> Callable[[_Lowering, Node], None]:
    def lower(lowering: _Lowering, node: Node) -> None:
        inputs = [lowering.read(node, name) for name in node.inputs]
        _add_operator(lowering, node, op, inputs, [lowering.give(node, node.outputs[0])], options())

    return lower


def _div(lowering: _Lowering, node: Node) -> None:
    by = lowering.graph.constants.get(node.inputs[1])
    if lowering.computes_in_integers(node) and by is not None:
        # INT8 has no division; division by a constant is a multiplication.
        inverse = f"{node.name}.inverse"
        lowering.graph = replace(
            lowering.graph, constants={**lowering.graph.constants, inverse: (1 / by).astype(np.float32)}
        )
        LOWERINGS["Mul"](lowering, replace(node, op="Mul", inputs=(node.inputs[0], inverse)))
    elif lowering.computes_in_integers(node):
        raise unsupported(node, "a division of two activations in INT8")
    else:
        _elementwise("DIV", schema.DivOptionsT)(lowering, node)


def _matmul(lowering: _Lowering, node: Node) -> None:
    ranks = [len(lowering.shapes[name]) for name in node.inputs]
    if min(ranks) < 2 or max(ranks) > 5:
        raise unsupported(node, f"a matrix product of tensors of rank {ranks[0]} and {ranks[1]}")
    options = schema.BatchMatMulOptionsT()
    if (other := lowering.without_transpose(node.inputs[1])) is not None:
        node, options.adjY = replace(node, inputs=(node.inputs[0], other)), True
    inputs = [lowering.read(node, name) for name in node.inputs]
    outputs = [lowering.give(node, node.outputs[0])]
    _add_operator(lowering, node, "BATCH_MATMUL", inputs, outputs, options)


def _softmax(lowering: _Lowering, node: Node) -> None:
    rank = len(lowering.shapes[node.inputs[0]])
    if node.attributes.get("axis", -1) not in (-1, rank - 1):
        raise unsupported(node, "a softmax over another axis than the last")
    options = schema.SoftmaxOptionsT()
    options.beta = 1.0
    inputs, outputs = [lowering.read(node, node.inputs[0])], [lowering.give(node, node.outputs[0])]
    _add_operator(lowering, node, "SOFTMAX", inputs, outputs, options)


def _reshape(lowering: _Lowering, node: Node) -> None:
    """Add a Reshape, Flatten, Squeeze or Unsqueeze as RESHAPE to the output's shape, with -1 for the batch."""
    output = node.outputs[0]
    source = lowering.read(node, node.inputs[0])
    _reshape_to(lowering, node, source, lowering.shapes[output], output, lowering.give(node, output))


def _reshape_to(lowering: _Lowering, node: Node, source: int, shape: Shape, name: str, target: int) -> None:
    if shape.count(None) > 1:
        raise unsupported(node, "more than one dimension that depends on the batch")
    wanted = [-1 if dim is None else dim for dim in shape]
    options = schema.ReshapeOptionsT()
    options.newShape = np.array(wanted, np.int32)
    lowering.model.operator("RESHAPE", [source, lowering.indices(f"{name}.shape", wanted)], [target], options)


def _transpose(lowering: _Lowering, node: Node) -> None:
    if lowering.without_transpose(node.outputs[0]) is not None:
        return
    source = lowering.read(node, node.inputs[0])
    rank = len(lowering.shapes[node.inputs[0]])
    perm = list(node.attributes.get("perm", range(rank)[::-1]))
    if rank > 6:
        raise unsupported(node, f"a transpose of rank {rank}")
    output = node.outputs[0]
    inputs = [source, lowering.indices(f"{output}.perm", perm)]
    _add_operator(lowering, node, "TRANSPOSE", inputs, [lowering.give(node, output)], schema.TransposeOptionsT())


def _concat(lowering: _Lowering, node: Node) -> None:
    output = node.outputs[0]
    options = schema.ConcatenationOptionsT()
    options.axis = node.attributes["axis"] % len(lowering.shapes[output])
    held = lowering.affine(output)
    if held is not None and all(lowering.is_integer(name) and lowering.affine(name) == held for name in node.inputs):
        inputs = [lowering.integer(name) for name in node.inputs]
        lowering.model.operator("CONCATENATION", inputs, [lowering.new_integer(output)], options, version=2)
    else:
        inputs = [lowering.real(name) for name in node.inputs]
        lowering.model.operator("CONCATENATION", inputs, [lowering.new_real(output)], options)


def _split(lowering: _Lowering, node: Node) -> None:
    shape = lowering.shapes[node.inputs[0]]
    axis = node.attributes.get("axis", 0) % len(shape)
    parts = {lowering.shapes[output][axis] for output in node.outputs}
    if shape[axis] is None or len(parts) > 1:
        raise unsupported(node, "a split into unequal parts, or along the batch")
    options = schema.SplitOptionsT()
    options.numSplits = len(node.outputs)
    inputs = [lowering.indices(f"{node.name}.axis", [axis]), lowering.read(node, node.inputs[0])]
    _add_operator(lowering, node, "SPLIT", inputs, [lowering.give(node, output) for output in node.outputs], options)


def _slice(lowering: _Lowering, node: Node) -> None:
    data, *names = node.inputs
    starts, ends, *rest = (_integers(lowering, node, name) for name in names)
    shape = lowering.shapes[data]
    axes = rest[0] if rest else list(range(len(starts)))
    if len(rest) > 1 and any(step != 1 for step in rest[1]):
        raise unsupported(node, "a slice with steps")
    begin, size = [0] * len(shape), [-1 if dim is None else dim for dim in shape]
    for axis, start, end in zip(axes, starts, ends, strict=True):
        length = shape[axis]
        if length is None:
            raise unsupported(node, "a slice of the batch")
        first, last, _ = slice(start, end).indices(length)
        begin[axis], size[axis] = first, max(0, last - first)
    _slice_to(lowering, node, begin, size, lowering.give(node, node.outputs[0]))


def _slice_to(lowering: _Lowering, node: Node, begin: list[int], size: list[int], target: int) -> None:
    data, name = node.inputs[0], node.outputs[0]
    inputs = [
        lowering.read(node, data),
        lowering.indices(f"{name}.begin", begin),
        lowering.indices(f"{name}.size", size),
    ]
    _add_operator(lowering, node, "SLICE", inputs, [target], schema.SliceOptionsT())


def _gather(lowering: _Lowering, node: Node) -> None:
    """Add a Gather of one index as a slice and a reshape, because XNNPACK has no GATHER."""
    data, index_name = node.inputs
    index = lowering.graph.constants.get(index_name)
    if index is None or index.ndim:
        raise unsupported(node, "an index that is not one constant number")
    shape, output = lowering.shapes[data], node.outputs[0]
    axis = node.attributes.get("axis", 0) % len(shape)
    length = shape[axis]
    if length is None:
        raise unsupported(node, "an index along the batch")
    begin, size = [0] * len(shape), [-1 if dim is None else dim for dim in shape]
    begin[axis], size[axis] = int(index) % length, 1
    one: Shape = tuple(1 if at == axis else dim for at, dim in enumerate(shape))
    batch_one = tuple(1 if at == axis else dim for at, dim in enumerate(lowering.batch_one[data]))
    integer = lowering.computes_in_integers(node)
    kind, affine = (np.int8, lowering.affine(output)) if integer else (np.float32, None)
    picked = lowering.model.tensor(f"{output}.picked", one, batch_one, kind, affine)
    _slice_to(lowering, node, begin, size, picked)
    _reshape_to(lowering, node, picked, lowering.shapes[output], output, lowering.give(node, output))


def _integers(lowering: _Lowering, node: Node, name: str) -> list[int]:
    array: NDArray[Any] | None = lowering.graph.constants.get(name)
    if array is None:
        raise unsupported(node, f"{name!r} is not constant")
    return [int(value) for value in array.reshape(-1)]


LOWERINGS: dict[str, Callable[[_Lowering, Node], None]] = {
    "Gemm": _gemm,
    "MatMul": _matmul,
    "Add": _elementwise("ADD", schema.AddOptionsT),
    "Sub": _elementwise("SUB", schema.SubOptionsT),
    "Mul": _elementwise("MUL", schema.MulOptionsT),
    "Div": _div,
    "Relu": _elementwise("RELU", lambda: None),
    "Sigmoid": _elementwise("LOGISTIC", lambda: None),
    "Tanh": _elementwise("TANH", lambda: None),
    "Softmax": _softmax,
    "Reshape": _reshape,
    "Flatten": _reshape,
    "Squeeze": _reshape,
    "Unsqueeze": _reshape,
    "Transpose": _transpose,
    "Concat": _concat,
    "Split": _split,
    "Slice": _slice,
    "Gather": _gather,
}
"""ONNX operator -> function that adds its TFLite form."""
