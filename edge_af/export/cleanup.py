"""Passes that simplify the traced graph without changing its result. Each takes a graph and returns one.

Afterwards every fully connected layer is one `Gemm` of the form `y = x Wᵀ + b` with constants W (out, in) and b (out,), as
in TFLite. No BatchNorm is left.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_af.errors import EdgeAfError
from edge_af.export.graph import Graph, Node, keep_needed, rename_tensors, to_onnx

MADE = "val_"
"""Prefix of tensors that have no name in the network."""
NAMED_BY_INPUT = "?"
"""Module in the name of a node that is named after its first input."""


def clean(graph: Graph) -> Graph:
    """Apply all passes in order.

    Raises:
        EdgeAfError: a layer or a BatchNorm cannot be converted to the form above.
    """
    for step in (
        fold_batch_norms,
        merge_layout_changes,
        fold_factors,
        name_by_layer,
    ):
        graph = keep_needed(step(graph))
    return graph


def fold_batch_norms(graph: Graph) -> Graph:
    """Fold every BatchNorm into the Gemms around it, with s = scale / √(variance + ε) and t = bias - s * mean.

    * `Gemm, BatchNorm`: W' = diag(s) W, b' = s b + t.
    * `Gemm, Relu, BatchNorm` before Gemms, also through a `Concat`: |s| moves back through the ReLU, since
      |s| max(x, 0) = max(|s| x, 0). sign(s) and t move forward: W' = W diag(sign(s)), b' = b + W t. Moving all of s forward
      would be as exact. But BatchNorm has equalized the spread of the hidden features, which suits their one integer scale.
      Moving s forward would undo that, and spread the weights' columns, which share one scale per row.

    Raises:
        EdgeAfError: a BatchNorm has another position.
    """
    while norm := next((node for node in graph.nodes if node.op == "BatchNormalization"), None):
        graph = _fold_batch_norm(graph, norm)
    return graph


def _fold_batch_norm(graph: Graph, norm: Node) -> Graph:
    constants = dict(graph.constants)
    readers = Counter(name for node in graph.nodes for name in node.inputs)
    producers, consumers = graph.producers(), graph.consumers()
    data, *names = norm.inputs
    scale, offset, mean, variance = (constants[name].astype(np.float64) for name in names)
    epsilon = norm.attributes.get("epsilon", 1e-5)
    s = scale / np.sqrt(variance + epsilon)
    t = offset - s * mean
    changed: dict[str, Node] = {}

    def alone(node: Node | None, op: str) -> bool:
        return (
            node is not None
            and node.op == op
            and len(consumers[node.outputs[0]]) == 1
            and node.outputs[0] not in graph.outputs
        )

    def store(gemm: Node, weight: NDArray[Any], bias: NDArray[Any]) -> None:
        names = (
            _store(constants, readers, gemm.inputs[1], gemm, "weight", weight),
            _store(constants, readers, gemm.inputs[2], gemm, "bias", bias.astype(np.float32)),
        )
        changed[gemm.name] = replace(gemm, inputs=(gemm.inputs[0], *names))

    before = producers.get(data)
    if before is not None and alone(before, "Gemm"):
        weight, bias = constants[before.inputs[1]], constants[before.inputs[2]]
        gamma, beta, center, spread = (constants[name] for name in names)
        factor = gamma / np.sqrt(spread + np.float32(epsilon))
        store(before, weight * factor[:, None], (bias - center) * factor + beta)
    else:
        if before is not None and alone(before, "Relu") and alone(layer := producers.get(before.inputs[0]), "Gemm"):
            assert layer is not None
            weight, bias = constants[layer.inputs[1]], constants[layer.inputs[2]]
            size = np.where(s == 0, 1.0, np.abs(s))
            store(layer, weight * size[:, None].astype(np.float32), bias * size)
            s = np.sign(s)
        for gemm, first in _gemms_behind(graph, norm.outputs[0]):
            gemm = changed.get(gemm.name, gemm)
            weight, bias = constants[gemm.inputs[1]], constants[gemm.inputs[2]]
            columns = slice(first, first + len(s))
            shift = weight[:, columns] @ t
            if not np.all(s == 1):
                weight = weight.copy()
                weight[:, columns] *= s.astype(np.float32)
            store(gemm, weight, bias + shift)
    nodes = tuple(changed.get(node.name, node) for node in graph.nodes if node.name != norm.name)
    without = Graph(nodes, constants, graph.inputs, graph.outputs)
    return keep_needed(
        replace(
            without,
            nodes=tuple(
                replace(node, inputs=tuple(data if name == norm.outputs[0] else name for name in node.inputs))
                for node in without.nodes
            ),
        )
    )


def _gemms_behind(graph: Graph, tensor: str) -> list[tuple[Node, int]]:
    """Return the Gemms that read a matrix, directly or as part of a concatenation, and the matrix's first column there."""
    found: list[tuple[Node, int]] = []
    shapes, consumers = graph.shapes(batch=1), graph.consumers()

    def follow(name: str, first: int) -> None:
        if name in graph.outputs or not consumers[name]:
            raise EdgeAfError(f"tensor {name!r}: a BatchNorm whose result is a network output cannot be folded.")
        for node in consumers[name]:
            if node.op == "Gemm" and node.inputs.count(name) == 1 and node.inputs[0] == name:
                found.append((node, first))
            elif node.op == "Concat" and node.attributes["axis"] in (1, -1) and node.inputs.count(name) == 1:
                before = node.inputs[: node.inputs.index(name)]
                follow(node.outputs[0], first + sum(shapes[part][1] for part in before))
            else:
                raise EdgeAfError(f"node {node.name!r} ({node.op}): a BatchNorm before this operator cannot be folded.")

    follow(tensor, 0)
    return found


def merge_layout_changes(graph: Graph) -> Graph:
    """Merge two Transposes in a row, and two Reshapes in a row."""
    producers, consumers = graph.producers(), graph.consumers()
    nodes = []
    for node in graph.nodes:
        before = producers.get(node.inputs[0]) if node.inputs else None
        if before is not None and before.op == node.op and len(consumers[before.outputs[0]]) == 1:
            if node.op == "Transpose":
                first, second = before.attributes["perm"], node.attributes["perm"]
                node = replace(node, inputs=before.inputs, attributes={"perm": [first[axis] for axis in second]})
            elif node.op == "Reshape" and np.all(graph.constants.get(node.inputs[1], np.zeros(1)) != 0):
                node = replace(node, inputs=(before.inputs[0], node.inputs[1]))
        nodes.append(node)
        producers[node.outputs[0]] = node
    return replace(graph, nodes=tuple(nodes))


def fold_factors(graph: Graph) -> Graph:
    """Fold a constant factor of a matrix product, such as the attention's 1/√d, into the layer that computes its first factor:
    c (A B) = (c A) B, and c (x Wᵀ + b) = x (c W)ᵀ + c b for the features that form A."""
    constants, nodes = dict(graph.constants), list(graph.nodes)
    for node in graph.nodes:
        product = graph.producers().get(node.inputs[0]) if node.op in ("Div", "Mul") else None
        number = graph.constants.get(node.inputs[1]) if product is not None else None
        if product is None or product.op != "MatMul" or number is None or number.size != 1:
            continue
        found = _features_of(graph, product.inputs[0])
        if found is None or len(graph.consumers()[product.outputs[0]]) > 1 or product.outputs[0] in graph.outputs:
            continue
        layer, features = found
        factor = np.float32(number.reshape(()) if node.op == "Mul" else 1 / number.reshape(()))
        readers = Counter(name for each in nodes for name in each.inputs)
        at = next(index for index, each in enumerate(nodes) if each.name == layer.name)
        data, *names = nodes[at].inputs
        for position, role in enumerate(("weight", "bias")):
            scaled = constants[names[position]].copy()
            scaled[features] *= factor
            names[position] = _store(constants, readers, names[position], layer, role, scaled)
        nodes[at] = replace(nodes[at], inputs=(data, *names))
        # The product takes the output name of the division.
        nodes = [
            replace(each, outputs=node.outputs) if each.name == product.name else each
            for each in nodes
            if each.name != node.name
        ]
    return replace(graph, nodes=tuple(nodes), constants=constants)


def _features_of(graph: Graph, tensor: str) -> tuple[Node, NDArray[np.intp]] | None:
    """Return the Gemm that a tensor comes from, and which of its output features, if nothing else reads them.

    The operators in between only move values, so feature numbers are sent through them.
    """
    from onnx.reference import ReferenceEvaluator

    producers, consumers = graph.producers(), graph.consumers()
    between: list[Node] = []
    name = tensor
    while (node := producers.get(name)) is not None and node.op in ("Reshape", "Transpose", "Split"):
        between.append(node)
        name = node.inputs[0]
    if node is None or node.op != "Gemm":
        return None
    # Nothing else may read the values on the way. A split's other parts are other features, which are checked below.
    alone = [tensor, *(step.inputs[0] for step in between)]
    if any(len(consumers[each]) != 1 or each in graph.outputs for each in alone):
        return None
    shape = graph.shapes(batch=1)[node.outputs[0]]
    numbers = np.broadcast_to(np.arange(shape[1], dtype=np.float32), shape)
    parts = [output for step in between for output in step.outputs if output != tensor and step.op == "Split"]
    held = {each: graph.constants[each] for step in between for each in step.inputs if each in graph.constants}
    path = Graph(tuple(reversed(between)), held, {node.outputs[0]: shape}, dict.fromkeys((tensor, *parts), ()))
    model = to_onnx(path)
    for output in model.graph.output:
        output.ClearField("type")
    own, *others = (np.unique(found) for found in ReferenceEvaluator(model).run(None, {node.outputs[0]: numbers}))
    if any(np.intersect1d(own, other).size for other in others):
        return None
    return node, own.astype(np.intp)


def name_by_layer(graph: Graph) -> Graph:
    """Name every node and tensor by its place in the network; a Gemm and its output by its weights.

    `visual.fc1.weight` gives `visual.fc1`. Other nodes arrive as `module.operator#number` and keep the number only if
    their module has several of a kind. Inputs, outputs and trained parameters keep their names.
    """
    seen = Counter([*graph.constants, *graph.inputs, *graph.outputs])
    names: dict[str, str] = {}
    nodes = []
    for node in graph.nodes:
        module, _, op = node.name.partition("#")[0].rpartition(".")
        if node.op == "Gemm":
            base = node.inputs[1].removesuffix(".weight")
        elif module == NAMED_BY_INPUT:
            base = f"{names.get(node.inputs[0], node.inputs[0])}.{op}"
        else:
            base = f"{module}.{op}".lstrip(".")
        name = f"{base}_{seen[base]}" if seen[base] else base
        seen[base] += 1
        nodes.append(replace(node, name=name))
        for position, output in enumerate(node.outputs):
            if output and output not in graph.outputs:
                names[output] = name if len(node.outputs) == 1 else f"{name}.{position}"
        for position, tensor in enumerate(node.inputs[1:], 1):
            if tensor in graph.constants and not _is_trained(tensor):
                names.setdefault(tensor, f"{name}.constant_{position}")
        if node.inputs and node.inputs[0] in graph.constants and not _is_trained(node.inputs[0]):
            names.setdefault(node.inputs[0], f"{name}.constant_0")
    return rename_tensors(replace(graph, nodes=tuple(nodes)), names)


def _is_trained(tensor: str) -> bool:
    return not tensor.startswith(MADE)


def _store(
    constants: dict[str, NDArray[Any]], readers: Counter[str], name: str, node: Node, role: str, array: NDArray[Any]
) -> str:
    """Store a changed constant under its old name, or under a new one if other nodes read it too."""
    if readers[name] > 1:
        name = f"{node.name}.{role}"
        readers[name] = 1
    constants[name] = array
    return name
