"""Apply a plan to a clean graph, as an ONNX graph that ONNX Runtime executes in integers.

Static layers have QuantizeLinear and DequantizeLinear around a float Gemm, which ONNX Runtime's optimizer replaces by its
`QGemm` kernel:

    x -Q-> -DQ-> Gemm(weights -DQ->, bias -DQ->) [-> Relu -Q-> -DQ->] -> …

The ReLU after a layer must be quantized. With a float output, ONNX Runtime would silently fuse Gemm and ReLU into the float
kernel `FusedGemm` over dequantized weights. Without a ReLU, the layer's output stays float, as the head's logits must.

Dynamic INT8 layers are DynamicQuantizeLinear, MatMulInteger and a scaling, which become `DynamicQuantizeMatMul`. INT4
and INT2 layers are ONNX Runtime's operator `MatMulNBits`. Its `accuracy_level` selects float or integer arithmetic (4: the
input is quantized at run time, block by block). Layers with quantized weights only are float layers that read them through
a DequantizeLinear (INT8) or a Cast (FP16).
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from edge_af.errors import EdgeAfError
from edge_af.export.graph import Graph, Node
from edge_af.export.quantize import Affine, Layer, Plan, fused_relu, with_biases

ACTIVATION_TYPE: dict[str, type[np.uint8] | type[np.int8]] = {"x86-64": np.uint8, "arm64": np.int8}
"""Type of INT8 activations by processor kind. x86's dot product multiplies unsigned by signed bytes; ONNX Runtime is
several times slower there on signed by signed. ARM's multiplies signed by signed.
"""
ORT_DOMAIN = "com.microsoft"
FLOAT_ACCURACY, INTEGER_ACCURACY = 1, 4
"""`accuracy_level` of `MatMulNBits` for arithmetic in float32 and in INT8."""
CHANNEL_BLOCK = 256
"""Block size of `MatMulNBits` if a whole row shares its scale."""


def this_cpu() -> str:
    """Return this machine's processor kind, a key of `ACTIVATION_TYPE`.

    Raises:
        EdgeAfError: the processor is neither x86-64 nor arm64.
    """
    import platform

    machine = platform.machine().lower()
    if machine in ("x86_64", "amd64"):
        return "x86-64"
    if machine in ("aarch64", "arm64"):
        return "arm64"
    raise EdgeAfError(f"this machine is {machine!r}; choose the files' processor with --cpu x86-64 or --cpu arm64.")


def quantize_graph(graph: Graph, plan: Plan, cpu: str) -> Graph:
    """Return the graph with the layers of `plan` in integer form for `cpu`, a key of `ACTIVATION_TYPE`."""
    graph = with_biases(graph, plan)
    constants = dict(graph.constants)
    nodes: list[Node] = []
    quantized: dict[str, str] = {}
    relus = {relu.name: gemm.name for gemm in graph.gemms() if (relu := fused_relu(graph, gemm)) is not None}
    kind = ACTIVATION_TYPE[cpu]

    def pair(tensor: str) -> str:
        """Quantize and dequantize a tensor once; return the name of the result."""
        if tensor not in quantized:
            quantized[tensor] = f"{tensor}.dequantized"
            nodes.extend(_pair(tensor, plan.tensors[tensor], kind, constants))
        return quantized[tensor]

    for node in graph.nodes:
        # All readers of a quantized tensor read the dequantized one: a reader of the float tensor would keep the
        # layer before it from running in integers.
        read = replace(node, inputs=tuple(quantized.get(name, name) for name in node.inputs))
        layer = plan.layers.get(node.name)
        if layer is None:
            nodes.append(read)
        elif layer.form.weights in ("int4", "int2"):
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
    """Return the name of a layer's quantized weights, which identifies them in the optimized graph."""
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
    """Add a static layer's integer weights and bias, each with a DequantizeLinear; return the names of the results."""
    assert layer.integer_bias is not None
    bias_scale = (layer.weight_scale.astype(np.float64) * plan.tensors[node.inputs[0]].scale).astype(np.float32)
    return (
        _dequantized(weight_name(node.name), layer.weight, layer.weight_scale, nodes, constants),
        _dequantized(f"{node.name}.bias.int32", layer.integer_bias, bias_scale, nodes, constants),
    )


def _dequantized(
    name: str, integers: NDArray, scales: NDArray[np.float32], nodes: list[Node], constants: dict[str, NDArray]
) -> str:
    """Add symmetric integers with a scale per index of axis 0, and their DequantizeLinear; return the result's name."""
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
    """Add a MatMulNBits: y = x Wᵀ + b with W (out, in) as unsigned integers, several per byte, the first in the lowest bits.

    They are offset by half their range, the operator's default zero point.
    """
    outputs, inputs = layer.weight.shape
    bits, each = layer.bits, 8 // layer.bits
    offset = 1 << (bits - 1)
    # MatMulNBits needs a scale per block, so a row's scale is repeated.
    block = layer.form.block or CHANNEL_BLOCK
    blocks = -(-inputs // block)
    # The last block of a row is padded with zeros.
    raised = np.full((outputs, blocks * block), offset, np.uint8)
    raised[:, :inputs] = layer.weight + offset
    packed = np.zeros((outputs, blocks * block // each), np.uint8)
    for at in range(each):
        packed |= raised[:, at::each] << (bits * at)
    constants[weight_name(node.name)] = packed.reshape(outputs, blocks, block // each)
    scale = layer.weight_scale if layer.form.block else np.repeat(layer.weight_scale[:, None], blocks, axis=1)
    constants[f"{node.name}.weight.scale"] = np.ascontiguousarray(scale)
    names = (node.inputs[0], weight_name(node.name), f"{node.name}.weight.scale", "", "", node.inputs[2])
    attributes = {
        "K": inputs,
        "N": outputs,
        "bits": bits,
        "block_size": block,
        "accuracy_level": INTEGER_ACCURACY if layer.form.runs_in_integers else FLOAT_ACCURACY,
    }
    return Node("MatMulNBits", node.name, names, node.outputs, attributes, ORT_DOMAIN)


def _dynamic(node: Node, layer: Layer, constants: dict[str, NDArray]) -> list[Node]:
    data, _, bias = node.inputs
    own = node.name
    # MatMulInteger has no transposed form, so weights are (in, out) here.
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
