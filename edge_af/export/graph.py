"""An in-memory graph: ONNX nodes and names, with the weights as separate numpy arrays.

Cleanup, ranges, quantization and the lowering to TFLite all use it. Weights stay views of the trained parameters until a
pass changes them. ONNX's own protobuf messages would copy a network of 341 million parameters at every step.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from edge_af.__version__ import __version__
from edge_af.errors import EdgeAfError

OPSET = 20
IR_VERSION = 10
BATCH = "n"
PROTOBUF_LIMIT = 2**31 - 1
ROOM = 2**20
"""Bytes reserved for everything in a file except the weights."""

Shape = tuple[int | None, ...]
"""None is the batch dimension."""


@dataclass(frozen=True)
class Node:
    """An ONNX operator. Omitted inputs are empty strings, as in ONNX."""

    op: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any] = field(default_factory=dict)
    domain: str = ""
    """Domain of the operator; empty for ONNX's own."""


@dataclass(frozen=True)
class Graph:
    """A network in topological order. Every tensor is float32, except for constants of other types."""

    nodes: tuple[Node, ...]
    constants: Mapping[str, NDArray[Any]]
    inputs: Mapping[str, Shape]
    outputs: Mapping[str, Shape]

    def producers(self) -> dict[str, Node]:
        """Map tensor names to the nodes that compute them; constants and inputs have none."""
        return {output: node for node in self.nodes for output in node.outputs}

    def consumers(self) -> dict[str, list[Node]]:
        """Map tensor names to the nodes that read them; empty for tensors that are only graph outputs."""
        found: dict[str, list[Node]] = {name: [] for name in (*self.constants, *self.inputs)}
        found.update({output: [] for node in self.nodes for output in node.outputs})
        for node in self.nodes:
            for name in dict.fromkeys(node.inputs):
                if name:
                    found[name].append(node)
        return found

    def gemms(self) -> list[Node]:
        """Return the fully connected layers in topological order."""
        return [node for node in self.nodes if node.op == "Gemm"]

    def activations(self) -> list[str]:
        """Return every tensor that depends on the inputs, inputs first."""
        return [*self.inputs, *(output for node in self.nodes for output in node.outputs if output)]

    def shapes(self, batch: int) -> dict[str, tuple[int, ...]]:
        """Return the shape of every tensor for a batch of this size.

        Raises:
            EdgeAfError: a shape cannot be inferred from the inputs' shapes.
        """
        model = to_onnx(self, batch=batch, weights_as_inputs=True)
        try:
            inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True).graph
        except onnx.shape_inference.InferenceError as error:
            raise EdgeAfError(f"the graph's shapes do not fit together: {' '.join(str(error).split())}") from None
        found = {name: tuple(array.shape) for name, array in self.constants.items()}
        for value in (*inferred.input, *inferred.value_info, *inferred.output):
            dims = value.type.tensor_type.shape.dim
            if all(dim.HasField("dim_value") for dim in dims):
                found[value.name] = tuple(dim.dim_value for dim in dims)
        for node in self.nodes:
            for output in node.outputs:
                if output and output not in found:
                    raise EdgeAfError(
                        f"node {node.name!r} ({node.op}): the shape of its output {output!r} is not known."
                    )
        return found


def keep_needed(graph: Graph) -> Graph:
    """Remove nodes and constants that no output depends on."""
    needed = set(graph.outputs)
    kept: list[Node] = []
    for node in reversed(graph.nodes):
        if needed.intersection(node.outputs):
            kept.append(node)
            needed.update(node.inputs)
    constants = {name: array for name, array in graph.constants.items() if name in needed}
    return replace(graph, nodes=tuple(reversed(kept)), constants=constants)


def rename_tensors(graph: Graph, names: Mapping[str, str]) -> Graph:
    """Rename the tensors in `names` wherever they occur."""

    def new(tensors: Iterable[str]) -> tuple[str, ...]:
        return tuple(names.get(name, name) for name in tensors)

    return Graph(
        nodes=tuple(replace(node, inputs=new(node.inputs), outputs=new(node.outputs)) for node in graph.nodes),
        constants={names.get(name, name): array for name, array in graph.constants.items()},
        inputs={names.get(name, name): shape for name, shape in graph.inputs.items()},
        outputs={names.get(name, name): shape for name, shape in graph.outputs.items()},
    )


def to_onnx(
    graph: Graph,
    *,
    batch: int | None = None,
    weights_as_inputs: bool = False,
    extra_outputs: Iterable[str] = (),
) -> onnx.ModelProto:
    """Convert a graph to an ONNX model.

    Args:
        graph: the graph.
        batch: fixed batch size; None for a free dimension named `n`.
        weights_as_inputs: declare float constants as inputs to pass at every run, so that the message holds no weights.
        extra_outputs: additional tensors to return.
    """
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT

    def value(name: str, shape: Shape) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, kind, [(batch or BATCH) if dim is None else dim for dim in shape])

    fed = {name for name, array in graph.constants.items() if weights_as_inputs and array.dtype == np.float32}
    extra = [name for name in dict.fromkeys(extra_outputs) if name not in graph.outputs]
    model = helper.make_model(
        helper.make_graph(
            [
                helper.make_node(
                    node.op, list(node.inputs), list(node.outputs), node.name, domain=node.domain, **node.attributes
                )
                for node in graph.nodes
            ],
            "edge_af",
            [value(name, shape) for name, shape in graph.inputs.items()]
            + [value(name, graph.constants[name].shape) for name in graph.constants if name in fed],
            [value(name, shape) for name, shape in graph.outputs.items()]
            + [helper.make_empty_tensor_value_info(name) for name in extra],
        ),
        opset_imports=[
            helper.make_opsetid(domain, 1 if domain else OPSET)
            for domain in sorted({"", *(node.domain for node in graph.nodes)})
        ],
        ir_version=IR_VERSION,
        producer_name="edge-af",
        producer_version=__version__,
    )
    for name, array in graph.constants.items():
        if name not in fed:
            tensor = model.graph.initializer.add()
            tensor.name, tensor.data_type = name, helper.np_dtype_to_tensor_dtype(array.dtype)
            tensor.dims.extend(array.shape)
            tensor.raw_data = np.ascontiguousarray(array).tobytes()
    return model


def save_onnx(graph: Graph, path: Path) -> None:
    """Write one self-contained ONNX file. Its bytes do not depend on when or where it was written.

    Raises:
        EdgeAfError: the file would exceed the 2 GB limit of protobuf.
    """
    size = sum(array.nbytes for array in graph.constants.values())
    if size > PROTOBUF_LIMIT - ROOM:
        raise EdgeAfError(
            f"{path.name}: {size:,} bytes of weights; a single ONNX file holds at most 2 GB. Quantize more: --int8 or --int4."
        )
    path.write_bytes(to_onnx(graph).SerializeToString(deterministic=True))
