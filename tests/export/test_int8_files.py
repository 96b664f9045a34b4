"""Quantized files in both runtimes: integer kernels, scores close to float, and detection of fallbacks to float."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from ai_edge_litert import schema_py_generated as schema
from small_networks import torch_scores
from torch import nn

from edge_af.data import Features
from edge_af.data.dataset import Dataset
from edge_af.errors import EdgeAfError, GateFailed
from edge_af.export.graph import Graph, Node, save_onnx
from edge_af.export.proof import (
    check_agreement,
    check_integer,
    largest_difference,
    onnx_execution,
    tflite_execution,
)
from edge_af.export.quantize import Affine, Plan, dequantize, plan
from edge_af.export.ranges import Ranges, add
from edge_af.export.recipes import BLOCKS, FLOAT, Form, Recipe, known_recipes, load_recipe
from edge_af.export.rounding import Rounder
from edge_af.export.tflite_model import TfliteModel
from edge_af.export.to_onnx import quantize_graph
from edge_af.export.to_tflite import NO_INPUT, write_tflite
from edge_af.runtime import load
from edge_af.runtime.litert import interpreter_class

RECIPES = {
    "static": load_recipe("int8-static"),
    "dynamic": load_recipe("int8-dynamic"),
    "mixed": Recipe("mixed", "", Form("int8", "static"), layers={"visual.*": Form("int8", "dynamic"), "head": FLOAT}),
    "mixed bits": Recipe(
        "mixed bits", "", Form("int8", "static"), layers={"visual.*": Form("int4", "dynamic"), "head": Form("fp16")}
    ),
}


def layers_of(graph: Graph) -> list[str]:
    return [gemm.name for gemm in graph.gemms()]


def write(graph: Graph, made: Plan, format: str, folder: Path, cpu: str = "x86-64") -> Path:
    path = folder / f"net.{format}"
    if format == "tflite":
        write_tflite(graph, path, made)
    else:
        save_onnx(quantize_graph(graph, made, cpu), path)
    return path


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("format", ["onnx", "tflite"])
def test_layers_run_in_integers_and_scores_stay_near(
    network: nn.Module, graph: Graph, ranges: Ranges, dataset: Dataset, tmp_path: Path, name: str, format: str
) -> None:
    made = plan(graph, RECIPES[name], ranges)
    path = write(graph, made, format, tmp_path)
    layers = layers_of(graph)
    execution = tflite_execution(path, layers) if format == "tflite" else onnx_execution(path, layers, "x86-64")
    assert list(execution.integer_layers) == made.integer_layers
    assert execution.undelegated == ()
    check_integer(path.name, execution, made.integer_layers)
    visual, audio = dataset.features(slice(100, 160))
    expected = torch_scores(network, visual, audio)
    found = load(path).score(Features(visual, audio))
    # These random networks amplify noise; a trained network's scores are closer.
    error = np.abs(found - expected)
    mean, largest = (0.06, 0.5) if name == "mixed bits" else (0.02, 0.25)
    assert error.mean() < mean
    assert 0 < error.max() < largest
    # Hardly any of a video's 30 scores may be equal, as the logits are not quantized.
    assert min(len(np.unique(row)) for row in found) >= 28
    single = np.concatenate([load(path).score(Features(visual[i : i + 1], audio[i : i + 1])) for i in range(3)])
    if format == "tflite" or name == "static":
        np.testing.assert_allclose(single, found[:3], atol=1e-5)


LOOSE = {"int2": 0.2, "int4": 0.06, "int8": 0.02, "fp16": 0.001}
"""Allowed mean error of scores by precision. These random networks amplify noise."""


@pytest.mark.parametrize("name", known_recipes())
@pytest.mark.parametrize("format", ["onnx", "tflite"])
def test_every_recipe_gives_a_working_file(
    network: nn.Module,
    graph: Graph,
    ranges: Ranges,
    rounder: Rounder,
    dataset: Dataset,
    tmp_path: Path,
    name: str,
    format: str,
) -> None:
    recipe = load_recipe(name)
    made = plan(graph, recipe, ranges, rounder)
    if recipe.precision == "int2" and format == "tflite":
        with pytest.raises(EdgeAfError, match="LiteRT has no integer kernel for INT2 weights"):
            write(graph, made, format, tmp_path)
        return
    path = write(graph, made, format, tmp_path)
    layers = layers_of(graph)
    execution = tflite_execution(path, layers) if format == "tflite" else onnx_execution(path, layers, "x86-64")
    assert list(execution.integer_layers) == made.integer_layers
    assert made.integer_layers == (layers if recipe.form.activations != "float" else [])
    assert execution.undelegated == ()
    visual, audio = dataset.features(slice(100, 160))
    error = np.abs(load(path).score(Features(visual, audio)) - torch_scores(network, visual, audio))
    assert 0 < error.mean() < LOOSE[recipe.precision]


@pytest.mark.parametrize("name", ["int8-weights", "int4-dynamic", "fp16"])
def test_both_formats_hold_the_same_weights(
    graph: Graph, ranges: Ranges, dataset: Dataset, tmp_path: Path, name: str
) -> None:
    """In float arithmetic, both must match the plan's dequantized weights."""
    recipe = load_recipe(name)
    recipe = replace(recipe, form=replace(recipe.form, activations="float"))
    made = plan(graph, recipe)
    held = {gemm.inputs[1]: dequantize(made.layers[gemm.name]) for gemm in graph.gemms()}
    expected_path = tmp_path / "expected.onnx"
    save_onnx(replace(graph, constants={**graph.constants, **held}), expected_path)
    visual, audio = dataset.features(slice(100, 110))
    expected = load(expected_path).score(Features(visual, audio))
    for format in ("onnx", "tflite"):
        found = load(write(graph, made, format, tmp_path)).score(Features(visual, audio))
        np.testing.assert_allclose(found, expected, atol=2e-5)


@pytest.mark.parametrize("block", BLOCKS)
def test_litert_computes_with_the_block_scales_of_the_plan(block: int, tmp_path: Path) -> None:
    """XNNPACK truncates block scales to bfloat16, which must not change them."""
    random = np.random.default_rng(block)
    x = random.normal(size=(1, 512)).astype(np.float32)
    constants = {"l.weight": random.normal(size=(40, 512)).astype(np.float32), "l.bias": np.zeros(40, np.float32)}
    gemm = Node("Gemm", "l", ("x", "l.weight", "l.bias"), ("l",), {"transB": 1})
    graph = Graph((gemm,), constants, {"x": (None, 512)}, {"l": (None, 40)})
    made = plan(graph, Recipe("blocks", "", Form("int4", "dynamic", block)))
    interpreter = interpreter_class()(model_path=str(write(graph, made, "tflite", tmp_path)))
    found = interpreter.get_signature_runner()(x=x)["l"]
    scale = (x.max() - x.min()) / 255
    zero_point = np.rint(-128 - x.min() / scale)
    held = (np.clip(np.rint(x / scale) + zero_point, -128, 127) - zero_point) * scale
    np.testing.assert_allclose(found, held @ dequantize(made.layers["l"]).T, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("format", ["onnx", "tflite"])
def test_sizes_are_what_the_bits_promise(format: str, tmp_path: Path) -> None:
    """Use a layer large enough to ignore names and biases: INT8 is at most 26 % of FP32, INT4 at most 16 %, INT2 9 %."""
    random = np.random.default_rng(3)
    constants = {"l.weight": random.normal(size=(512, 1024)).astype(np.float32), "l.bias": np.zeros(512, np.float32)}
    gemm = Node("Gemm", "l", ("x", "l.weight", "l.bias"), ("l",), {"transB": 1})
    graph = Graph((gemm, Node("Sigmoid", "s", ("l",), ("y",))), constants, {"x": (None, 1024)}, {"y": (None, 512)})
    values = Ranges("data", 1, "", 0, {"x": add(None, constants["l.weight"])})
    full = write(graph, plan(graph, Recipe("none", "", FLOAT)), format, tmp_path).stat().st_size
    shares = {"int8": 0.26, "int4": 0.16, "fp16": 0.51} | ({"int2": 0.09} if format == "onnx" else {})
    for name, share in shares.items():
        for recipe in (one for one in known_recipes() if one.startswith(name) and not one.endswith("head")):
            made = plan(graph, load_recipe(recipe), values, Rounder({"l": constants["l.weight"][:64]}))
            size = write(graph, made, format, tmp_path).stat().st_size
            assert size < share * full, recipe


def test_both_formats_follow_the_same_plan(graph: Graph, ranges: Ranges, dataset: Dataset, tmp_path: Path) -> None:
    made = plan(graph, RECIPES["static"], ranges)
    visual, audio = dataset.features(slice(100, 160))
    one, two = (
        load(write(graph, made, format, tmp_path)).score(Features(visual, audio)) for format in ("onnx", "tflite")
    )
    assert np.abs(one - two).mean() < 0.015


@pytest.mark.parametrize(("cpu", "kind"), [("x86-64", onnx.TensorProto.UINT8), ("arm64", onnx.TensorProto.INT8)])
def test_activations_are_what_the_processor_multiplies_best(
    network: nn.Module, graph: Graph, ranges: Ranges, dataset: Dataset, tmp_path: Path, cpu: str, kind: int
) -> None:
    path = write(graph, plan(graph, RECIPES["static"], ranges), "onnx", tmp_path, cpu)
    model = onnx.load(path)
    types = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    points = [node.input[2] for node in model.graph.node if node.op_type == "QuantizeLinear"]
    assert points
    assert {types[name] for name in points} == {kind}
    assert onnx_execution(path, layers_of(graph), cpu).float_layers == ()
    visual, audio = dataset.features(slice(100, 160))
    assert np.abs(load(path).score(Features(visual, audio)) - torch_scores(network, visual, audio)).mean() < 0.02


def test_both_processors_files_give_the_same_scores(
    graph: Graph, ranges: Ranges, dataset: Dataset, tmp_path: Path
) -> None:
    made = plan(graph, RECIPES["static"], ranges)
    visual, audio = dataset.features(slice(100, 130))
    scores = [
        load(write(graph, made, "onnx", tmp_path, cpu)).score(Features(visual, audio)) for cpu in ("x86-64", "arm64")
    ]
    assert np.abs(scores[0] - scores[1]).mean() < 1e-3


def test_a_layer_that_falls_back_to_float_fails_the_export(graph: Graph, ranges: Ranges, tmp_path: Path) -> None:
    """ONNX Runtime silently fuses a ReLU with float output into a float Gemm, and the check has to detect it."""
    made = plan(graph, RECIPES["static"], ranges)
    written = quantize_graph(graph, made, "x86-64")
    relu = next(node for node in written.nodes if node.op == "Relu")
    freed = f"{relu.outputs[0]}.dequantized"
    nodes = tuple(
        replace(node, inputs=tuple(relu.outputs[0] if name == freed else name for name in node.inputs))
        for node in written.nodes
        if node.name not in (f"{relu.outputs[0]}.quantize", f"{relu.outputs[0]}.dequantize")
    )
    save_onnx(replace(written, nodes=nodes), tmp_path / "net.onnx")
    execution = onnx_execution(tmp_path / "net.onnx", layers_of(graph), "x86-64")
    layer = relu.inputs[0]
    assert layer in execution.float_layers
    with pytest.raises(GateFailed, match=rf"run in float instead of integers: .*{layer}"):
        check_integer("net.onnx", execution, list(made.layers))


def test_a_float_file_is_not_taken_for_an_integer_one(graph: Graph, tmp_path: Path) -> None:
    save_onnx(graph, tmp_path / "net.onnx")
    write_tflite(graph, tmp_path / "net.tflite")
    layers = layers_of(graph)
    assert onnx_execution(tmp_path / "net.onnx", layers, "x86-64").integer_layers == ()
    assert tflite_execution(tmp_path / "net.tflite", layers).integer_layers == ()


def test_wrong_scores_fail_the_export(network: nn.Module, graph: Graph, dataset: Dataset, tmp_path: Path) -> None:
    weight = graph.constants["head.weight"].copy()
    weight[0, 0] += 1
    save_onnx(replace(graph, constants={**graph.constants, "head.weight": weight}), tmp_path / "net.onnx")
    visual, audio = dataset.features(slice(0, 16))
    difference = largest_difference(
        tmp_path / "net.onnx", Features(visual, audio), torch_scores(network, visual, audio)
    )
    with pytest.raises(GateFailed, match=r"net.onnx: scores differ"):
        check_agreement("net.onnx", difference)
    with pytest.raises(GateFailed):
        check_agreement("net.onnx", float("nan"))


@pytest.mark.parametrize("form", ["static", "hybrid", "weights made float", "input as it is"])
def test_int8_weights_alone_are_no_integer_layer(tmp_path: Path, form: str) -> None:
    """Hand-made files of one layer count as integer only if they certainly compute in integers."""
    random = np.random.default_rng(0)
    weight = random.integers(-127, 128, (16, 64)).astype(np.int8)
    model, options = TfliteModel(), schema.FullyConnectedOptionsT()
    data = model.tensor("data", (None, 64), (1, 64), np.float32)
    held = model.constant("layer.weight", weight, np.array([0.01], np.float32))
    output = model.tensor("output", (None, 16), (1, 16), np.float32)
    if form == "static":
        integers, sums = (
            model.tensor(f"{name}.int8", (None, size), (1, size), np.int8, Affine(0.1, 0))
            for name, size in (("data", 64), ("output", 16))
        )
        model.operator("QUANTIZE", [data], [integers], schema.QuantizeOptionsT())
        model.operator("FULLY_CONNECTED", [integers, held, NO_INPUT], [sums], options, version=4)
        model.operator("DEQUANTIZE", [sums], [output], schema.DequantizeOptionsT(), version=2)
    elif form == "weights made float":
        real = model.tensor("layer.weight.real", (16, 64), (16, 64), np.float32)
        model.operator("DEQUANTIZE", [held], [real], schema.DequantizeOptionsT(), version=2)
        model.operator("FULLY_CONNECTED", [data, real, NO_INPUT], [output], options)
    else:
        options.asymmetricQuantizeInputs = form == "hybrid"
        model.operator("FULLY_CONNECTED", [data, held, NO_INPUT], [output], options, version=9)
    path = tmp_path / "net.tflite"
    model.write(path, {"data": data}, {"output": output})
    execution = tflite_execution(path, ["layer"])
    if form in ("static", "hybrid"):
        assert execution.integer_layers == ("layer",)
    else:
        assert execution.float_layers == ("layer",)
        with pytest.raises(GateFailed, match="run in float instead of integers: layer"):
            check_integer("net.tflite", execution, ["layer"])
