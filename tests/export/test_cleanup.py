"""Every cleanup pass on small graphs: the result stays the same, and the nodes are gone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from small_networks import run_onnx

from edge_af.errors import EdgeAfError
from edge_af.export import cleanup
from edge_af.export.graph import Graph, Node, Shape

RANDOM = np.random.default_rng(7)


def normal(*shape: int) -> NDArray[np.float32]:
    return RANDOM.normal(size=shape).astype(np.float32)


def graph_of(
    nodes: list[Node], constants: dict[str, NDArray[Any]], inputs: dict[str, Shape], outputs: dict[str, Shape]
) -> Graph:
    return Graph(tuple(nodes), constants, inputs, outputs)


def norm(name: str, data: str, output: str, width: int, constants: dict[str, NDArray[Any]]) -> Node:
    """Return a BatchNorm with scales of both signs and one zero, and add its constants."""
    scale = normal(width)
    scale[0] = 0
    values = {"scale": scale, "bias": normal(width), "mean": normal(width), "var": np.abs(normal(width)) + 0.1}
    constants.update({f"{name}.{part}": value for part, value in values.items()})
    inputs = (data, *(f"{name}.{part}" for part in values))
    return Node("BatchNormalization", name, inputs, (output,), {"epsilon": 1e-3})


def assert_same(before: Graph, after: Graph, operators: list[str], batch: int = 3) -> None:
    feeds = {name: normal(batch, *(dim for dim in shape if dim)) for name, shape in before.inputs.items()}
    for expected, found in zip(run_onnx(before, feeds), run_onnx(after, feeds), strict=True):
        np.testing.assert_allclose(found, expected, rtol=2e-5, atol=2e-5)
    assert [node.op for node in after.nodes] == operators


def test_weights_that_two_layers_share_are_not_changed_for_both() -> None:
    constants: dict[str, NDArray[Any]] = {"w": normal(4, 4), "b": normal(4)}
    nodes = [
        Node("Gemm", "one", ("x", "w", "b"), ("h",), {"transB": 1}),
        norm("n", "h", "k", 4, constants),
        Node("Gemm", "two", ("k", "w", "b"), ("y",), {"transB": 1}),
    ]
    graph = graph_of(nodes, constants, {"x": (None, 4)}, {"y": (None, 4)})
    assert_same(graph, cleanup.fold_batch_norms(graph), ["Gemm", "Gemm"])


def test_batch_norm_folds_back_through_relu_and_forward_through_concat() -> None:
    constants: dict[str, NDArray[Any]] = {}
    nodes: list[Node] = []
    for stream, (features, width) in {"a": (5, 6), "b": (3, 4)}.items():
        constants.update({f"{stream}.w": normal(width, features), f"{stream}.b": normal(width)})
        nodes += [
            Node("Gemm", stream, (f"in_{stream}", f"{stream}.w", f"{stream}.b"), (f"{stream}.h",), {"transB": 1}),
            Node("Relu", f"{stream}.relu", (f"{stream}.h",), (f"{stream}.r",)),
            norm(f"{stream}.norm", f"{stream}.r", f"{stream}.n", width, constants),
        ]
    constants.update({"head.w": normal(7, 10), "head.b": normal(7)})
    nodes += [
        Node("Concat", "concat", ("a.n", "b.n"), ("both",), {"axis": 1}),
        Node("Gemm", "head", ("both", "head.w", "head.b"), ("y",), {"transB": 1}),
    ]
    graph = graph_of(nodes, constants, {"in_a": (None, 5), "in_b": (None, 3)}, {"y": (None, 7)})
    assert_same(graph, cleanup.fold_batch_norms(graph), ["Gemm", "Relu", "Gemm", "Relu", "Concat", "Gemm"])


def test_batch_norm_on_an_input_folds_forward() -> None:
    constants: dict[str, NDArray[Any]] = {"w": normal(4, 5), "b": normal(4)}
    nodes = [norm("n", "x", "h", 5, constants), Node("Gemm", "layer", ("h", "w", "b"), ("y",), {"transB": 1})]
    graph = graph_of(nodes, constants, {"x": (None, 5)}, {"y": (None, 4)})
    assert_same(graph, cleanup.fold_batch_norms(graph), ["Gemm"])


def test_batch_norm_gives_the_hidden_vector_the_spread_it_had() -> None:
    """|s| is folded into the layer before the ReLU, so that one integer scale fits all features."""
    constants: dict[str, NDArray[Any]] = {
        "w": normal(4, 5),
        "b": normal(4),
        "v": normal(3, 4),
        "c": normal(3),
        "n.s": np.ones(4, np.float32),
        "n.t": np.zeros(4, np.float32),
        "n.m": np.zeros(4, np.float32),
        "n.v": np.array([1e-4, 1e-2, 1, 100], np.float32),
    }
    nodes = [
        Node("Gemm", "one", ("x", "w", "b"), ("h",), {"transB": 1}),
        Node("Relu", "relu", ("h",), ("r",)),
        Node("BatchNormalization", "n", ("r", "n.s", "n.t", "n.m", "n.v"), ("k",), {"epsilon": 0.0}),
        Node("Gemm", "two", ("k", "v", "c"), ("y",), {"transB": 1}),
    ]
    graph = graph_of(nodes, constants, {"x": (None, 5)}, {"y": (None, 3)})
    after = cleanup.fold_batch_norms(graph)
    np.testing.assert_allclose(after.constants["w"], constants["w"] * np.array([[100], [10], [1], [0.1]]), rtol=1e-5)
    np.testing.assert_array_equal(after.constants["v"], constants["v"])


@pytest.mark.parametrize("behind", ["Relu", None])
def test_batch_norm_that_cannot_be_folded_is_named(behind: str | None) -> None:
    constants: dict[str, NDArray[Any]] = {}
    nodes = [norm("n", "x", "h" if behind else "y", 5, constants)]
    if behind:
        nodes.append(Node(behind, "behind", ("h",), ("y",)))
    graph = graph_of(nodes, constants, {"x": (None, 5)}, {"y": (None, 5)})
    with pytest.raises(EdgeAfError, match=r"BatchNorm .* cannot be folded"):
        cleanup.fold_batch_norms(graph)


def test_layout_changes_are_merged() -> None:
    constants: dict[str, NDArray[Any]] = {
        "five": np.array(5.0, np.float32),
        "to": np.array([-1, 2, 3], np.int64),
        "flat": np.array([-1, 6], np.int64),
    }
    nodes = [
        Node("Mul", "times", ("x", "five"), ("m",)),
        Node("Reshape", "r0", ("m", "flat"), ("m0",)),
        Node("Reshape", "r1", ("m0", "to"), ("m1",)),
        Node("Transpose", "t1", ("m1",), ("m2",), {"perm": [0, 2, 1]}),
        Node("Transpose", "t2", ("m2",), ("y",), {"perm": [1, 0, 2]}),
    ]
    graph = graph_of(nodes, constants, {"x": (None, 6)}, {"y": (3, None, 2)})
    after = cleanup.clean(graph)
    assert_same(graph, after, ["Mul", "Reshape", "Transpose"])
    assert after.nodes[-1].attributes["perm"] == [2, 0, 1]


def attention_graph(**read_more: tuple[str, str]) -> Graph:
    """Return a graph from two tokens to the attention logits of 3 heads: QKᵀ / √d, with one layer for queries and keys.

    `read_more`: further outputs by name, each as an operator and the tensor that it reads.
    """
    constants: dict[str, NDArray[Any]] = {
        "w": normal(24, 5),
        "b": normal(24),
        "two": np.array([-1, 5], np.int64),
        "heads": np.array([-1, 2, 6, 4], np.int64),
        "root": np.array(1.7, np.float32),
    }
    nodes = [
        Node("Reshape", "tokens", ("x", "two"), ("x2",)),
        Node("Gemm", "qk", ("x2", "w", "b"), ("packed",), {"transB": 1}),
        Node("Reshape", "r", ("packed", "heads"), ("apart",)),
        Node("Transpose", "t", ("apart",), ("heads_first",), {"perm": [0, 2, 1, 3]}),
        Node("Split", "s", ("heads_first",), ("q", "k"), {"axis": 1, "num_outputs": 2}),
        Node("Transpose", "kt", ("k",), ("turned",), {"perm": [0, 1, 3, 2]}),
        Node("MatMul", "qkt", ("q", "turned"), ("products",)),
        Node("Div", "scaled", ("products", "root"), ("y",)),
    ]
    outputs: dict[str, Shape] = {"y": (None, 3, 2, 2)}
    for name, (op, tensor) in read_more.items():
        nodes.append(Node(op, name, (tensor,), (name,)))
        outputs[name] = {"packed": (2, 24), "q": (1, 3, 2, 4), "products": (1, 3, 2, 2)}[tensor]
    return graph_of(nodes, constants, {"x": (None, 10)}, outputs)


def test_the_attentions_scale_goes_into_the_queries_features() -> None:
    graph = attention_graph()
    after = cleanup.fold_factors(graph)
    assert_same(graph, after, [node.op for node in graph.nodes if node.op != "Div"])
    changed = np.flatnonzero((after.constants["w"] != graph.constants["w"]).any(axis=1))
    assert changed.tolist() == list(range(12)) and (after.constants["b"][12:] == graph.constants["b"][12:]).all()


@pytest.mark.parametrize(("op", "tensor"), [("Relu", "packed"), ("Relu", "q"), ("Relu", "products")])
def test_a_scale_stays_where_something_else_reads_what_it_would_change(op: str, tensor: str) -> None:
    graph = attention_graph(more=(op, tensor))
    assert cleanup.fold_factors(graph).nodes == graph.nodes
