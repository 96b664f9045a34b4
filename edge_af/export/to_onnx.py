"""A clean graph and a plan to an ONNX graph that ONNX Runtime executes in integers.

Static layers are written with QuantizeLinear and DequantizeLinear around a float Gemm, the form that ONNX Runtime's
optimizer turns into its `QGemm` kernel:

    x -Q-> -DQ-> Gemm(weights -DQ->, bias -DQ->) [-> Relu -Q-> -DQ->] -> …

A ReLU behind a layer has to be quantized: with a float output, ONNX Runtime would fuse Gemm and ReLU into the float kernel
`FusedGemm` over dequantized weights, without a word. Without a ReLU the layer's output stays float, as the head's logits must.

Dynamic INT8 layers are written as DynamicQuantizeLinear, MatMulInteger and a scaling, which becomes `DynamicQuantizeMatMul`.
INT4 layers are written as ONNX Runtime's own operator `MatMulNBits`, whose `accuracy_level` says whether it computes in
integers (4: the input is quantized at run time, a row's block at a time) or in float. Where weights alone are quantized,
the float layer reads them through a DequantizeLinear (INT8) or a Cast (FP16).
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from edge_af.errors import EdgeAfError
from edge_af.export.graph import Graph, Node
from edge_af.export.quantize import Affine, Layer, Plan, fused_relu, with_biases

ACTIVATION_TYPE: dict[str, type[np.uint8] | type[np.int8]] = {"x86-64": np.uint8, "arm64": np.int8}
"""Type of INT8 activations. x86's dot product takes unsigned by signed bytes; on signed by signed ONNX Runtime is several
times slower there. ARM's takes signed by signed.
"""
ORT_DOMAIN = "com.microsoft"
FLOAT_ACCURACY, INTEGER_ACCURACY = 1, 4
"""`accuracy_level` of `MatMulNBits`: the arithmetic is in float32, or in INT8."""
CHANNEL_BLOCK = 256
"""Block of `MatMulNBits` where a whole row shares its scale."""


def this_cpu() -> str:
    """The kind of processor this process runs on, as `ACTIVATION_TYPE` names it.

    Raises:
        EdgeAfError: it is neither x86-64 nor arm64.
    """
    import platform

    machine = platform.machine().lower()
    if machine in ("x86_64", "amd64"):
        return "x86-64"
    if machine in ("aarch64", "arm64"):
        return "arm64"
    raise EdgeAfError(
        f"this machine is {machine!r}; say which processor the files are for with --cpu x86-64 or --cpu arm64."
    )


def quantize_graph(graph: Graph, plan: Plan, cpu: str) -> Graph:
    """The graph with the layers of `plan` in their integer form, for `cpu` (a key of `ACTIVATION_TYPE`)."""
    graph = with_biases(graph, plan)
    constants = dict(graph.constants)
    nodes: list[Node] = []
    quantized: dict[str, str] = {}
    relus = {relu.name: gemm.name for gemm in graph.gemms() if (relu := fused_relu(graph, gemm)) is not None}
    kind = ACTIVATION_TYPE[cpu]

    def pair(tensor: str) -> str:
        """Quantize and dequantize a tensor, once; returns the name of the result."""
        if tensor not in quantized:
            quantized[tensor] = f"{tensor}.dequantized"
            nodes.extend(_pair(tensor, plan.tensors[tensor], kind, constants))
        return quantized[tensor]

    for node in graph.nodes:
        # Whoever reads a tensor that was quantized reads it behind the pair: a second, float reader would keep the
        # layer in front of it from running in integers.
        read = replace(node, inputs=tuple(quantized.get(name, name) for name in node.inputs))
        layer = plan.layers.get(node.name)
        if layer is None:
            nodes.append(read)
        elif layer.form.weights == "int4":
            nodes.append(_blocks(read, layer, constants))
        elif layer.form.weights == "fp16":
            nodes.extend(_half(read, layer, constants))
        elif layer.form.activations == "static":
            nodes.append(replace(read, inputs=(pair(node.inputs[0]), *_weights(node, layer, plan, nodes, constants))))
        elif layer.form.activations == "dynamic":
            nodes.extend(_dynamic(read, layer, constants))
        else:
            weight = _dequantized(weight_name(node.name), layer.weight, layer.weight_scale, nodes, constants)
            nodes.append(replace(read, inputs=(read.inputs[0], weight, node.inputs[2])))
        behind = plan.layers.get(relus.get(node.name, ""))
        if behind is not None and behind.form.activations == "static":
            pair(node.outputs[0])
    used = {name for node in nodes for name in node.inputs}
    return Graph(
        tuple(nodes), {name: array for name, array in constants.items() if name in used}, graph.inputs, graph.outputs
    )


def weight_name(layer: str) -> str:
    """The name of a layer's changed weights in the written graph, by which they are found again in an optimized one."""
    return f"{layer}.weight.quantized"


def _pair(
    tensor: str, affine: Affine, kind: type[np.uint8] | type[np.int8], constants: dict[str, NDArray]
) -> tuple[Node, Node]:
    offset = 128 if kind is np.uint8 else 0
    scale, zero_point = f"{tensor}.scale", f"{tensor}.zero_point"
    constants[scale] = np.array(affine.scale, np.float32)
    constants[zero_point] = np.array(affine.zero_point + offset, kind)
    integer = f"{tensor}.quantized"
    return (
        Node("QuantizeLinear", f"{tensor}.quantize", (tensor, scale, zero_point), (integer,)),
        Node("DequantizeLinear", f"{tensor}.dequantize", (integer, scale, zero_point), (f"{tensor}.dequantized",)),
    )


def _weights(node: Node, layer: Layer, plan: Plan, nodes: list[Node], constants: dict[str, NDArray]) -> tuple[str, str]:
    """Add a static layer's weights and bias as integers with a DequantizeLinear each; returns the names of the results."""
    assert layer.integer_bias is not None
    bias_scale = (layer.weight_scale.astype(np.float64) * plan.tensors[node.inputs[0]].scale).astype(np.float32)
    return (
        _dequantized(weight_name(node.name), layer.weight, layer.weight_scale, nodes, constants),
        _dequantized(f"{node.name}.bias.int32", layer.integer_bias, bias_scale, nodes, constants),
    )


def _dequantized(
    name: str, integers: NDArray, scales: NDArray[np.float32], nodes: list[Node], constants: dict[str, NDArray]
) -> str:
    """Add symmetric integers with a scale for each of axis 0 and their DequantizeLinear; returns the name of the result."""
    constants[name] = integers
    constants[f"{name}.scale"] = scales
    constants[f"{name}.zero_point"] = np.zeros(len(scales), integers.dtype)
    inputs = (name, f"{name}.scale", f"{name}.zero_point")
    nodes.append(Node("DequantizeLinear", f"{name}.dequantize", inputs, (f"{name}.dequantized",), {"axis": 0}))
    return f"{name}.dequantized"


def _half(node: Node, layer: Layer, constants: dict[str, NDArray]) -> list[Node]:
    name = weight_name(node.name)
    constants[name] = layer.weight
    return [
        Node("Cast", f"{name}.cast", (name,), (f"{name}.float",), {"to": 1}),
        replace(node, inputs=(node.inputs[0], f"{name}.float", node.inputs[2])),
    ]


def _blocks(node: Node, layer: Layer, constants: dict[str, NDArray]) -> Node:
    """MatMulNBits: y = x Wᵀ + b with W (out, in) as unsigned integers 8 too high, two to a byte, the first one low."""
    outputs, inputs = layer.weight.shape
    # There is no form with one scale a row: it is said again for each block.
    block = layer.form.block or CHANNEL_BLOCK
    blocks = -(-inputs // block)
    # The last block of a row is filled up with zeros.
    raised = np.full((outputs, blocks * block), 8, np.uint8)
    raised[:, :inputs] = layer.weight + 8
    constants[weight_name(node.name)] = (raised[:, 0::2] | raised[:, 1::2] << 4).reshape(outputs, blocks, block // 2)
    scale = layer.weight_scale if layer.form.block else np.repeat(layer.weight_scale[:, None], blocks, axis=1)
    constants[f"{node.name}.weight.scale"] = np.ascontiguousarray(scale)
    names = (node.inputs[0], weight_name(node.name), f"{node.name}.weight.scale", "", "", node.inputs[2])
    attributes = {
        "K": inputs,
        "N": outputs,
        "bits": 4,
        "block_size": block,
        "accuracy_level": INTEGER_ACCURACY if layer.form.runs_in_integers else FLOAT_ACCURACY,
    }
    return Node("MatMulNBits", node.name, names, node.outputs, attributes, ORT_DOMAIN)


def _dynamic(node: Node, layer: Layer, constants: dict[str, NDArray]) -> list[Node]:
    data, _, bias = node.inputs
    own = node.name
    # MatMulInteger has no transposed form: weights lie (in, out) here.
    constants[weight_name(own)] = np.ascontiguousarray(layer.weight.T)
    constants[f"{own}.weight.scale"] = layer.weight_scale
    quantized = (f"{own}.input.quantized", f"{own}.input.scale", f"{own}.input.zero_point")
    return [
        Node("DynamicQuantizeLinear", f"{own}.input.quantize", (data,), quantized),
        Node("MatMulInteger", own, (quantized[0], weight_name(own), quantized[2]), (f"{own}.sums",)),
        Node("Cast", f"{own}.cast", (f"{own}.sums",), (f"{own}.sums.float",), {"to": 1}),
        Node("Mul", f"{own}.scales", (quantized[1], f"{own}.weight.scale"), (f"{own}.scale",)),
        Node("Mul", f"{own}.scaled", (f"{own}.sums.float", f"{own}.scale"), (f"{own}.product",)),
        Node("Add", f"{own}.biased", (f"{own}.product", bias), node.outputs),
    ]
