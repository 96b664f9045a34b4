"""Quantization-aware training: the forward pass rounds as the exporter does, and an export keeps the integers."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from edge_af.cli import cli
from edge_af.data import Features
from edge_af.data.dataset import Dataset
from edge_af.errors import EdgeAfError
from edge_af.export.pipeline import write_file
from edge_af.export.quantize import SPAN, block_scale, dequantize, fitting, plan, quantize_weight, spread
from edge_af.export.ranges import check_ranges, read_ranges
from edge_af.export.recipes import Form, load_recipe
from edge_af.export.trace import trace
from edge_af.metrics import gap_at_20
from edge_af.models.presets import AttendFusionConfig, FCLateFusionConfig
from edge_af.models.run import RUN, load_network, load_run
from edge_af.runtime import load, score_all
from edge_af.train.loop import TrainRequest, train
from edge_af.train.options import TrainOptions
from edge_af.train.quantized import RANGES, on_grid, quantize_network, rounded_weight

CONFIGS = (
    AttendFusionConfig(tokens=4, token_width=32, heads=2, dropout=0.1, fusion=64),
    FCLateFusionConfig(width=64, depth=2, dropout=0.1),
)
OPTIONS = TrainOptions(epochs=4, batch=32, lr=3e-3, held_out=0.1, threads=1)
FINE = dataclasses.replace(OPTIONS, epochs=3, lr=1e-3)
SLOW = ("int8-static", "int8-dynamic", "int4-dynamic", "fp16")
TESTED = (
    "int4-block32-dynamic",
    "int2-block64-dynamic",
    *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW),
)


@pytest.fixture(scope="module", params=CONFIGS, ids=lambda config: config.model)
def trained(request: pytest.FixtureRequest, dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of a small trained network."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    train(TrainRequest(dataset, request.param, "test", folder, OPTIONS))
    return folder


def tuned(init: Path, out: Path, recipe: str, dataset: Dataset, options: TrainOptions = FINE) -> Path:
    config = load_run(init).config
    train(TrainRequest(dataset, config, "test", out, options, init=init, recipe=load_recipe(recipe)))
    return out


@pytest.mark.parametrize(
    "form",
    [Form("int8", "dynamic"), Form("int4", "dynamic"), Form("int4", "dynamic", 32), Form("int4", "dynamic", 64)],
    ids=str,
)
def test_weights_are_rounded_as_the_exporter_does(form: Form):
    random = np.random.default_rng(0)
    weight = (random.normal(size=(50, 128)) * np.exp2(random.integers(-12, 4, (50, 1)))).astype(np.float32)
    weight[3] = 0
    integers, scale = quantize_weight(weight, SPAN[form.weights], form.block)
    expected = integers * spread(scale, 128)
    np.testing.assert_array_equal(rounded_weight(torch.from_numpy(weight), form).numpy(), expected)
    if form.block is not None:
        np.testing.assert_array_equal(block_scale(scale), scale)


@pytest.mark.parametrize("name", TESTED)
def test_an_export_keeps_the_integers_of_the_training(name: str, trained: Path, dataset: Dataset, tmp_path: Path):
    recipe = load_recipe(name)
    folder = tuned(trained, tmp_path / "tuned", name, dataset, dataclasses.replace(FINE, epochs=1))
    run, network = load_network(folder)
    assert run.training["recipe"]["name"] == name and run.params == load_run(trained).params
    graph = trace(network, run.classes)
    ranges = None
    if recipe.needs_ranges:
        ranges = read_ranges(folder / RANGES)
        check_ranges(ranges, graph, folder / RANGES)
    made = plan(graph, recipe, ranges)
    assert set(made.layers) == {gemm.name for gemm in graph.gemms()}
    # The attention's 1/√d may move a weight among float16's subnormal numbers.
    atol = 2.0**-24 if name == "fp16" else 0
    for gemm in graph.gemms():
        # The trained weights, and those that the file stores, are the same up to the last bit of a scale.
        weight = graph.constants[gemm.inputs[1]]
        np.testing.assert_allclose(dequantize(made.layers[gemm.name]), weight, rtol=3e-7, atol=atol)
        assert made.layers[gemm.name].form == fitting(recipe.form, weight.shape[1])


@pytest.mark.slow
@pytest.mark.parametrize("name", TESTED)
def test_the_file_scores_as_the_training_did(
    name: str, trained: Path, dataset: Dataset, eval_dataset: Dataset, tmp_path: Path
):
    """The network with rounding in its forward pass agrees with the exported file far better than with the float network."""
    recipe, (run, network) = load_recipe(name), load_network(trained)
    features = Features(*eval_dataset.features(slice(0, 64)))
    inputs = [torch.from_numpy(array) for array in features]
    folder = tuned(trained, tmp_path / "tuned", name, dataset, dataclasses.replace(FINE, epochs=1))
    _, network = load_network(folder)
    graph = trace(network, run.classes)
    ranges = read_ranges(folder / RANGES) if recipe.needs_ranges else None
    format = "onnx" if "static" in name or recipe.precision == "int2" else "tflite"
    path = tmp_path / f"file.{format}"
    write_file(graph, plan(graph, recipe, ranges), format, path, "x86-64")
    quantize_network(network, recipe, ranges)
    with torch.inference_mode():
        expected = torch.sigmoid(network.eval()(*inputs)).numpy()
        plain = torch.sigmoid(on_grid(network)(*inputs)).numpy()
    found = score_all(load(path), features)
    # A value halfway between two steps may round either way. MatMulNBits rounds its input in blocks, not in rows.
    assert np.abs(found - expected).max() < 0.02
    if recipe.form.activations == "static":
        assert np.abs(found - expected).mean() < 0.1 * np.abs(found - plain).mean()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["int4-dynamic", "int2-block64-dynamic"])
def test_training_recovers_what_rounding_loses(
    name: str, trained: Path, dataset: Dataset, eval_dataset: Dataset, tmp_path: Path
):
    inputs = [torch.from_numpy(np.asarray(array, np.float32)) for array in eval_dataset.stored]
    labels = eval_dataset.labels(slice(None))

    def gap(network: torch.nn.Module) -> float:
        with torch.inference_mode():
            return gap_at_20(torch.sigmoid(network.eval()(*inputs)).numpy(), labels)

    _, network = load_network(trained)
    exact = gap(network)
    quantize_network(network, load_recipe(name), None)
    rounded = gap(network)
    _, network = load_network(tuned(trained, tmp_path / "tuned", name, dataset))
    quantize_network(network, load_recipe(name), None)
    after = gap(network)
    assert after > rounded and after > exact - 0.5 * max(exact - rounded, 0.01)


@pytest.mark.slow
def test_without_a_recipe_training_continues_from_the_weights(trained: Path, dataset: Dataset, tmp_path: Path):
    options = dataclasses.replace(FINE, epochs=1, lr=1e-6)
    run = train(TrainRequest(dataset, load_run(trained).config, "test", tmp_path / "more", options, init=trained))
    before = load_run(trained).training["held_out"]["gap_at_20"]
    assert run.training["held_out"]["gap_at_20"] == pytest.approx(before, abs=0.01)


def test_a_start_with_another_dropout_is_the_same_network(trained: Path, dataset: Dataset, tmp_path: Path):
    options = dataclasses.replace(FINE, epochs=1)
    weights = []
    for dropout in (0.0, 0.5):
        config = dataclasses.replace(load_run(trained).config, dropout=dropout)
        run = train(TrainRequest(dataset, config, "test", tmp_path / f"{dropout}", options, init=trained))
        assert run.config == config
        weights.append(run.weights_sha256)
    assert weights[0] != weights[1]


def test_a_start_of_another_network_is_refused(trained: Path, dataset: Dataset, tmp_path: Path):
    other = AttendFusionConfig(tokens=2, token_width=8, heads=2, dropout=0.1)
    with pytest.raises(EdgeAfError, match=r"with 30 classes, not attend-fusion \(test\)"):
        train(TrainRequest(dataset, other, "test", tmp_path / "run", FINE, init=trained))
    assert not (tmp_path / "run" / RUN).exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "name the network with --model"),
        (["--model", "attend-fusion", "--quantize", "int8-dynamic"], "name its run with --init"),
        (["--init", "INIT", "--model", "fc-late-fusion"], "Leave --model out"),
        (["--init", "INIT", "--preset", "paper"], "Leave --preset out"),
        (["--init", "INIT", "--ablate", "audio"], "Leave --ablate out"),
        (["--init", "INIT", "--quantize", "int8-dynmic"], "Did you mean 'int8-dynamic'"),
    ],
)
def test_options_that_contradict(arguments: list[str], said: str, dataset: Dataset, tmp_path: Path):
    init = tmp_path / "init"
    train(TrainRequest(dataset, CONFIGS[0], "test", init, dataclasses.replace(OPTIONS, epochs=1)))
    given = [str(init) if word == "INIT" else word for word in arguments]
    with pytest.raises(EdgeAfError, match=said):
        cli.main(["train", *given, "--data", str(dataset.folder), "--out", str(tmp_path / "x")], standalone_mode=False)
