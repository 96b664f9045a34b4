"""A clean graph and a plan to an ONNX graph that ONNX Runtime executes in integers.

Static layers are written with QuantizeLinear and DequantizeLinear around a float Gemm, the form that ONNX Runtime's
optimiser turns into its `QGemm` kernel:

    x -Q-> -DQ-> Gemm(weights -DQ->, bias -DQ->) [-> Relu -Q-> -DQ->] -> …

A ReLU behind a layer has to be quantised: with a float output, ONNX Runtime would fuse Gemm and ReLU into the float kernel
`FusedGemm` over dequantised weights, without a word. Without a ReLU the layer's output stays float, as the head's logits must.

Dynamic layers are written as DynamicQuantizeLinear, MatMulInteger and a scaling, which becomes `DynamicQuantizeMatMul`.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from edge_af.errors import EdgeAfError
from edge_af.export.graph import Graph, Node
from edge_af.export.quantize import Affine, Layer, Plan, fused_relu

ACTIVATION_TYPE: dict[str, type[np.uint8] | type[np.int8]] = {"x86-64": np.uint8, "arm64": np.int8}
"""What INT8 activations are held as. x86's dot product takes unsigned by signed bytes; on signed by signed ONNX Runtime
is several times slower there. ARM's takes signed by signed."""


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
    constants = dict(graph.constants)
    nodes: list[Node] = []
    quantised: dict[str, str] = {}
    relus = {relu.name: gemm.name for gemm in graph.gemms() if (relu := fused_relu(graph, gemm)) is not None}
    kind = ACTIVATION_TYPE[cpu]

    def pair(tensor: str) -> str:
        """Quantise and dequantise a tensor, once; returns the name of the result."""
        if tensor not in quantised:
            quantised[tensor] = f"{tensor}.dequantized"
            nodes.extend(_pair(tensor, plan.tensors[tensor], kind, constants))
        return quantised[tensor]

    for node in graph.nodes:
        # Whoever reads a tensor that was quantised reads it behind the pair: a second, float reader would keep the
        # layer in front of it from running in integers.
        read = replace(node, inputs=tuple(quantised.get(name, name) for name in node.inputs))
        layer = plan.layers.get(node.name)
        if layer is None:
            nodes.append(read)
        elif layer.activations == "static":
            nodes.append(replace(read, inputs=(pair(node.inputs[0]), *_weights(node, layer, plan, nodes, constants))))
        else:
            nodes.extend(_dynamic(read, layer, constants))
        behind = plan.layers.get(relus.get(node.name, ""))
        if behind is not None and behind.activations == "static":
            pair(node.outputs[0])
    used = {name for node in nodes for name in node.inputs}
    return Graph(
        tuple(nodes), {name: array for name, array in constants.items() if name in used}, graph.inputs, graph.outputs
    )


def weight_name(layer: str) -> str:
    """The name of a layer's integer weights in the quantised graph, by which they are found again in an optimised one."""
    return f"{layer}.weight.int8"


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
    scale = layer.weight_scale
    held = plan.tensors[node.inputs[0]]
    parts: dict[str, tuple[NDArray[np.int8] | NDArray[np.int32], NDArray[np.float32]]] = {
        weight_name(node.name): (layer.weight, scale),
        f"{node.name}.bias.int32": (layer.integer_bias, (scale.astype(np.float64) * held.scale).astype(np.float32)),
    }
    names = []
    for name, (integers, scales) in parts.items():
        constants[name] = integers
        constants[f"{name}.scale"] = scales
        constants[f"{name}.zero_point"] = np.zeros(len(scales), integers.dtype)
        inputs = (name, f"{name}.scale", f"{name}.zero_point")
        nodes.append(Node("DequantizeLinear", f"{name}.dequantize", inputs, (f"{name}.dequantized",), {"axis": 0}))
        names.append(f"{name}.dequantized")
    return names[0], names[1]


def _dynamic(node: Node, layer: Layer, constants: dict[str, NDArray]) -> list[Node]:
    data, _, bias = node.inputs
    own = node.name
    # MatMulInteger has no transposed form: weights lie (in, out) here.
    constants[weight_name(own)] = np.ascontiguousarray(layer.weight.T)
    constants[f"{own}.weight.scale"] = layer.weight_scale
    quantised = (f"{own}.input.quantized", f"{own}.input.scale", f"{own}.input.zero_point")
    return [
        Node("DynamicQuantizeLinear", f"{own}.input.quantize", (data,), quantised),
        Node("MatMulInteger", own, (quantised[0], weight_name(own), quantised[2]), (f"{own}.sums",)),
        Node("Cast", f"{own}.cast", (f"{own}.sums",), (f"{own}.sums.float",), {"to": 1}),
        Node("Mul", f"{own}.scales", (quantised[1], f"{own}.weight.scale"), (f"{own}.scale",)),
        Node("Mul", f"{own}.scaled", (f"{own}.sums.float", f"{own}.scale"), (f"{own}.product",)),
        Node("Add", f"{own}.biased", (f"{own}.product", bias), node.outputs),
    ]
