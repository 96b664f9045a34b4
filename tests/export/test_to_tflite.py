"""Every lowering compared with ONNX Runtime on random shapes and values, and the complete networks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from small_networks import run_onnx, torch_scores
from torch import nn

from edge_af.data import Features
from edge_af.errors import EdgeAfError
from edge_af.export import to_tflite as lowering
from edge_af.export.graph import Graph, Node, Shape
from edge_af.export.proof import tflite_execution
from edge_af.export.quantize import plan
from edge_af.export.ranges import Ranges, add
from edge_af.export.recipes import Form, Recipe
from edge_af.export.to_tflite import LOWERINGS, write_tflite
from edge_af.runtime import load
from edge_af.runtime.litert import interpreter_class

RANDOM = np.random.default_rng(11)
INT8 = Recipe("int8", "", Form("int8", "static"))


def run_tflite(path: Path, feeds: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Run a file on inputs of any batch size and return its outputs by name."""
    interpreter = interpreter_class()(model_path=str(path))
    for name, detail in interpreter.get_signature_runner().get_input_details().items():
        interpreter.resize_tensor_input(detail["index"], feeds[name].shape)
    interpreter.allocate_tensors()
    runner = interpreter.get_signature_runner()
    found: dict[str, NDArray[Any]] = runner(**feeds)
    return found


def constant(*shape: int) -> NDArray[np.float32]:
    return RANDOM.normal(size=shape).astype(np.float32)


def integers(*values: int) -> NDArray[np.int64]:
    return np.array(values, np.int64)


def case(
    op: str,
    inputs: list[Shape],
    outputs: list[Shape],
    constants: list[NDArray[Any]] | None = None,
    **attributes: Any,
) -> Graph:
    """Return a graph of one node with activations followed by constants as inputs."""
    names = tuple(f"in_{i}" for i in range(len(inputs)))
    held = {f"const_{i}": array for i, array in enumerate(constants or [])}
    made = tuple(f"out_{i}" for i in range(len(outputs)))
    node = Node(op, "node", (*names, *held), made, attributes)
    return Graph((node,), held, dict(zip(names, inputs, strict=True)), dict(zip(made, outputs, strict=True)))


def times_transposed(*, read_again: bool = False) -> Graph:
    """Return a product of a matrix and another one's transpose, as in attention."""
    nodes = [
        Node("Transpose", "turn", ("in_1",), ("turned",), {"perm": [0, 1, 3, 2]}),
        Node("MatMul", "node", ("in_0", "turned"), ("out_0",)),
    ]
    outputs: dict[str, Shape] = {"out_0": (None, 3, 5, 4)}
    if read_again:
        nodes.append(Node("Relu", "again", ("turned",), ("out_1",)))
        outputs["out_1"] = (None, 3, 7, 4)
    return Graph(tuple(nodes), {}, {"in_0": (None, 3, 5, 7), "in_1": (None, 3, 4, 7)}, outputs)


CASES = {
    "Gemm": case("Gemm", [(None, 37)], [(None, 13)], [constant(13, 37), constant(13)], transB=1),
    "Gemm of one feature": case("Gemm", [(None, 1)], [(None, 1)], [constant(1, 1), constant(1)], transB=1),
    "MatMul": case("MatMul", [(None, 3, 5, 7), (None, 3, 7, 4)], [(None, 3, 5, 4)]),
    "MatMul 3-D": case("MatMul", [(None, 5, 7), (None, 7, 4)], [(None, 5, 4)]),
    "MatMul by a constant": case("MatMul", [(None, 5, 7)], [(None, 5, 4)], [constant(7, 4)]),
    "MatMul by a transpose": times_transposed(),
    "MatMul by a transpose that is read again": times_transposed(read_again=True),
    "Add": case("Add", [(None, 9), (None, 9)], [(None, 9)]),
    "Add a constant": case("Add", [(None, 4, 6)], [(None, 4, 6)], [constant(4, 6)]),
    "Sub": case("Sub", [(None, 9), (None, 9)], [(None, 9)]),
    "Mul by a number": case("Mul", [(None, 9)], [(None, 9)], [np.array(0.37, np.float32)]),
    "Div by a number": case("Div", [(None, 3, 4, 4)], [(None, 3, 4, 4)], [np.array(7.8, np.float32)]),
    "Relu": case("Relu", [(None, 11)], [(None, 11)]),
    "Sigmoid": case("Sigmoid", [(None, 11)], [(None, 11)]),
    "Tanh": case("Tanh", [(None, 11)], [(None, 11)]),
    "Softmax": case("Softmax", [(None, 2, 5, 5)], [(None, 2, 5, 5)], axis=-1),
    "Softmax, axis counted from the front": case("Softmax", [(None, 6)], [(None, 6)], axis=1),
    "Reshape, batch first": case("Reshape", [(None, 12)], [(None, 3, 4)], [integers(-1, 3, 4)]),
    "Flatten": case("Flatten", [(None, 3, 4)], [(None, 12)], axis=1),
    "Squeeze": case("Squeeze", [(None, 1, 4)], [(None, 4)], [integers(1)]),
    "Unsqueeze": case("Unsqueeze", [(None, 4)], [(None, 1, 4)], [integers(1)]),
    "Transpose": case("Transpose", [(None, 3, 4, 5)], [(None, 4, 3, 5)], perm=[0, 2, 1, 3]),
    "Transpose that moves the batch": case("Transpose", [(None, 3, 4)], [(4, None, 3)], perm=[2, 0, 1]),
    "Concat": case("Concat", [(None, 3), (None, 8)], [(None, 11)], axis=1),
    "Concat, last axis": case("Concat", [(None, 2, 3), (None, 2, 8)], [(None, 2, 11)], axis=-1),
    "Split": case("Split", [(None, 12)], [(None, 4), (None, 4), (None, 4)], axis=1, num_outputs=3),
    "Slice": case("Slice", [(None, 3, 9)], [(None, 3, 4)], [integers(2), integers(6), integers(2), integers(1)]),
    "Slice to the end": case("Slice", [(None, 9)], [(None, 3)], [integers(-3), integers(2**40), integers(-1)]),
    "Gather one": case("Gather", [(None, 3, 4)], [(None, 4)], [np.array(1, np.int64)], axis=1),
    "Gather the last": case("Gather", [(None, 4, 5)], [(None, 4)], [np.array(-1, np.int64)], axis=2),
}


@pytest.mark.parametrize("name", CASES)
def test_a_lowering_computes_what_onnx_runtime_does(name: str, tmp_path: Path) -> None:
    graph = CASES[name]
    write_tflite(graph, tmp_path / "one.tflite")
    for batch in (1, 4):
        feeds = {
            key: RANDOM.normal(size=[batch if dim is None else dim for dim in shape]).astype(np.float32)
            for key, shape in graph.inputs.items()
        }
        found = run_tflite(tmp_path / "one.tflite", feeds)
        for key, expected in zip(graph.outputs, run_onnx(graph, feeds), strict=True):
            assert found[key].shape == expected.shape
            np.testing.assert_allclose(found[key], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("inputs", "parts"), [(1024, 1), (6000, 6), (2053, 1)])
def test_a_float_layer_of_many_inputs_is_a_sum_of_short_ones(
    inputs: int, parts: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """2,053 is a prime number, so that layer is not split."""
    constants: dict[str, NDArray[Any]] = {"w": constant(40, inputs), "b": constant(40)}
    nodes = (
        Node("Gemm", "layer", ("x", "w", "b"), ("h",), {"transB": 1}),
        Node("Relu", "relu", ("h",), ("y",)),
    )
    graph = Graph(nodes, constants, {"x": (None, inputs)}, {"y": (None, 40)})
    # Nonnegative inputs, as after a ReLU, give large intermediate sums.
    feeds = {"x": np.abs(constant(7, inputs))}
    exact = np.maximum(feeds["x"].astype(np.float64) @ constants["w"].T.astype(np.float64) + constants["b"], 0)

    def worst(name: str) -> float:
        write_tflite(graph, tmp_path / name)
        return float(np.abs(run_tflite(tmp_path / name, feeds)["y"] - exact).max())

    in_parts = worst("parts.tflite")
    plain = interpreter_class()(model_path=str(tmp_path / "parts.tflite"))
    assert [each["op_name"] for each in plain._get_ops_details()].count("FULLY_CONNECTED") == parts
    monkeypatch.setattr(lowering, "LONGEST_SUM", inputs)
    whole = worst("whole.tflite")
    assert in_parts < 0.75 * whole if parts > 1 else in_parts == whole


@pytest.mark.parametrize(("read_again", "transposes"), [(False, 0), (True, 1)])
def test_a_transpose_is_made_only_where_a_product_does_not_do_it(
    read_again: bool, transposes: int, tmp_path: Path
) -> None:
    write_tflite(times_transposed(read_again=read_again), tmp_path / "one.tflite")
    plain = interpreter_class()(model_path=str(tmp_path / "one.tflite"))
    assert [each["op_name"] for each in plain._get_ops_details()].count("TRANSPOSE") == transposes


@pytest.mark.parametrize("name", CASES)
def test_a_lowering_in_int8_stays_within_its_steps(name: str, tmp_path: Path) -> None:
    """Run the same cases with all tensors in INT8, inputs and outputs included. No float tensor may remain."""
    graph = CASES[name]

    def draw(batch: int) -> dict[str, NDArray[Any]]:
        return {
            key: RANDOM.uniform(-2, 2, [batch if dim is None else dim for dim in shape]).astype(np.float32)
            for key, shape in graph.inputs.items()
        }

    seen = draw(64)
    shapes = graph.shapes(64)
    inside = replace(graph, outputs={name: shapes[name] for name in graph.activations() if name not in graph.inputs})
    seen.update(zip(inside.outputs, run_onnx(inside, seen), strict=True))
    ranges = Ranges("data", 64, "", 0, {key: add(None, values) for key, values in seen.items()})
    write_tflite(graph, tmp_path / "one.tflite", plan(graph, INT8, ranges, everything=True), integer_io=True)
    interpreter = interpreter_class()(model_path=str(tmp_path / "one.tflite"))
    assert {detail["dtype"] for detail in interpreter.get_tensor_details()} <= {np.int8, np.int32}
    runner = interpreter.get_signature_runner()
    inputs, outputs = runner.get_input_details(), runner.get_output_details()
    for batch in (1, 4):
        feeds = draw(batch)
        held = {}
        for key, values in feeds.items():
            scale, zero_point = inputs[key]["quantization"]
            held[key] = np.clip(np.rint(values / scale) + zero_point, -128, 127).astype(np.int8)
            feeds[key] = ((held[key].astype(int) - zero_point) * scale).astype(np.float32)
        found = run_tflite(tmp_path / "one.tflite", held)
        for key, expected in zip(graph.outputs, run_onnx(graph, feeds), strict=True):
            scale, zero_point = outputs[key]["quantization"]
            low, high = ((end - zero_point) * scale for end in (-128, 127))
            assert found[key].shape == expected.shape
            # One output step, plus the error from rounding constants to 127 levels.
            error = np.abs((found[key].astype(int) - zero_point) * scale - np.clip(expected, low, high))
            assert error.max() <= 1.6 * scale + 0.02 * np.abs(expected).max()


def test_what_int8_has_no_form_for_is_refused(tmp_path: Path) -> None:
    graph = case("Div", [(None, 9), (None, 9)], [(None, 9)])
    ranges = Ranges("data", 1, "", 0, {name: add(None, constant(9)) for name in ("in_0", "in_1", "out_0")})
    with pytest.raises(EdgeAfError, match=r"'node' \(Div\): a division of two activations"):
        write_tflite(graph, tmp_path / "no.tflite", plan(graph, INT8, ranges, everything=True), integer_io=True)
    dynamic = Recipe("dynamic", "", Form("int8", "dynamic"))
    with pytest.raises(EdgeAfError, match=r"layer node needs static activations"):
        plan(CASES["Gemm"], dynamic, ranges, everything=True)


def test_every_lowering_has_a_case() -> None:
    assert {graph.nodes[0].op for graph in CASES.values()} == set(LOWERINGS)


def test_division_of_two_activations(tmp_path: Path) -> None:
    graph = case("Div", [(None, 9), (None, 9)], [(None, 9)])
    write_tflite(graph, tmp_path / "div.tflite")
    feeds = {name: RANDOM.uniform(0.5, 2, (3, 9)).astype(np.float32) for name in graph.inputs}
    np.testing.assert_allclose(
        run_tflite(tmp_path / "div.tflite", feeds)["out_0"], run_onnx(graph, feeds)[0], rtol=1e-5
    )


def test_a_relu_that_others_read_in_front_of_is_not_fused(tmp_path: Path) -> None:
    constants: dict[str, NDArray[Any]] = {"w": constant(6, 5), "b": constant(6)}
    nodes = (
        Node("Gemm", "layer", ("x", "w", "b"), ("h",), {"transB": 1}),
        Node("Relu", "relu", ("h",), ("r",)),
        Node("Add", "both", ("h", "r"), ("y",)),
    )
    graph = Graph(nodes, constants, {"x": (None, 5)}, {"y": (None, 6)})
    write_tflite(graph, tmp_path / "both.tflite")
    feeds = {"x": constant(3, 5)}
    np.testing.assert_allclose(
        run_tflite(tmp_path / "both.tflite", feeds)["y"], run_onnx(graph, feeds)[0], rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize(
    ("graph", "message"),
    [
        (case("Erf", [(None, 4)], [(None, 4)]), r"'node' \(Erf\): an operator not known"),
        (case("Softmax", [(None, 4, 4)], [(None, 4, 4)], axis=1), r"'node' \(Softmax\): .*last"),
        (case("Split", [(None, 5)], [(None, 3), (None, 2)], axis=1, num_outputs=2), r"'node' \(Split\): .*unequal"),
        (
            case("Slice", [(None, 8)], [(None, 4)], [integers(0), integers(8), integers(1), integers(2)]),
            r"'node' \(Slice\): .*steps",
        ),
        (
            case("Slice", [(None, 8)], [(None, 8)], [integers(0), integers(2**40), integers(0)]),
            r"'node' \(Slice\): .*batch",
        ),
        (
            case("Gather", [(None, 4)], [(None, 2)], [integers(0, 2)], axis=1),
            r"'node' \(Gather\): .*one constant number",
        ),
    ],
    ids=["unknown", "softmax axis", "unequal split", "slice steps", "slice of the batch", "gather of several"],
)
def test_what_has_no_form_is_refused_by_name_and_leaves_no_file(graph: Graph, message: str, tmp_path: Path) -> None:
    with pytest.raises(EdgeAfError, match=message):
        write_tflite(graph, tmp_path / "no.tflite")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("batch", [1, 5])
def test_a_network_scores_as_in_pytorch(network: nn.Module, graph: Graph, tmp_path: Path, batch: int) -> None:
    write_tflite(graph, tmp_path / "net.tflite")
    random = np.random.default_rng(batch)
    visual = random.uniform(-2, 2, (batch, 1024)).astype(np.float32)
    audio = random.uniform(-2, 2, (batch, 128)).astype(np.float32)
    scorer = load(tmp_path / "net.tflite")
    assert np.abs(scorer.score(Features(visual, audio)) - torch_scores(network, visual, audio)).max() < 1e-5
    # The same interpreter accepts another batch size.
    assert (
        np.abs(scorer.score(Features(visual[:1], audio[:1])) - torch_scores(network, visual[:1], audio[:1])).max()
        < 1e-5
    )


def test_a_network_is_written_the_same_each_time_and_runs_in_xnnpack_whole(graph: Graph, tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_tflite(graph, tmp_path / f"{name}.tflite")
    assert (tmp_path / "one.tflite").read_bytes() == (tmp_path / "two.tflite").read_bytes()
    layers = [gemm.name for gemm in graph.gemms()]
    execution = tflite_execution(tmp_path / "one.tflite", layers)
    assert execution.undelegated == ()
    assert execution.float_layers == tuple(layers)


def test_signature_and_tensor_names_are_those_of_the_graph(graph: Graph, tmp_path: Path) -> None:
    write_tflite(graph, tmp_path / "net.tflite")
    interpreter = interpreter_class()(model_path=str(tmp_path / "net.tflite"))
    assert interpreter.get_signature_list() == {
        "serving_default": {"inputs": ["audio", "visual"], "outputs": ["scores"]}
    }
    assert [list(detail["shape_signature"]) for detail in interpreter.get_input_details()] == [[-1, 1024], [-1, 128]]
    names = {detail["name"] for detail in interpreter.get_tensor_details()}
    assert {gemm.inputs[1] for gemm in graph.gemms()} <= names
    assert {"visual", "audio", "scores"} <= names


def test_constants_lie_on_16_bytes(graph: Graph, tmp_path: Path) -> None:
    write_tflite(graph, tmp_path / "net.tflite")
    data = (tmp_path / "net.tflite").read_bytes()
    for name, array in graph.constants.items():
        if array.size > 64:
            assert data.index(array.tobytes()) % 16 == 0, name
