"""From PyTorch to the cleaned graph: same scores, uniform layers, parameter names, reproducible bytes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from small_networks import CLASSES, torch_scores
from torch import Tensor, nn

from edge_af.data import Features
from edge_af.errors import EdgeAfError
from edge_af.export.graph import Graph, save_onnx
from edge_af.export.trace import trace
from edge_af.models.networks import build
from edge_af.models.presets import PRESETS, AttendFusionConfig, ModelConfig
from edge_af.models.sizes import layer_sizes
from edge_af.runtime import load


@pytest.mark.parametrize("batch", [1, 7])
def test_scores_are_the_networks(network: nn.Module, graph: Graph, tmp_path: Path, batch: int) -> None:
    save_onnx(graph, tmp_path / "net.onnx")
    random = np.random.default_rng(batch)
    visual = random.uniform(-2, 2, (batch, 1024)).astype(np.float32)
    audio = random.uniform(-2, 2, (batch, 128)).astype(np.float32)
    expected = torch_scores(network, visual, audio)
    assert expected.std() > 0.1
    assert np.abs(load(tmp_path / "net.onnx").score(Features(visual, audio)) - expected).max() < 1e-5


def test_nothing_is_left_to_fold(graph: Graph) -> None:
    operators = {node.op for node in graph.nodes}
    assert not operators & {"BatchNormalization", "Identity", "Dropout", "Constant", "Shape", "Cast"}
    for gemm in graph.gemms():
        assert gemm.attributes == {"transB": 1}
        assert len(gemm.inputs) == 3
        assert gemm.inputs[1] in graph.constants
        assert gemm.inputs[2] in graph.constants


def test_weights_keep_the_parameters_names_and_layers_take_theirs(network: nn.Module, graph: Graph) -> None:
    linear = {name for name, module in network.named_modules() if isinstance(module, nn.Linear)}
    assert {gemm.name for gemm in graph.gemms()} == linear
    for gemm in graph.gemms():
        assert gemm.inputs[1:] == (f"{gemm.name}.weight", f"{gemm.name}.bias")
        assert gemm.outputs == (gemm.name,)
    assert all("#" not in node.name and "?" not in node.name for node in graph.nodes)
    assert len({node.name for node in graph.nodes}) == len(graph.nodes)


@pytest.mark.slow
@pytest.mark.parametrize(
    "config",
    [config for presets in PRESETS.values() for name, config in presets.items() if name in ("small", "linear")]
    + [AttendFusionConfig(tokens=2, token_width=8, heads=2, dropout=0.0, ablate="attention")],
)
def test_layers_are_called_what_models_lists_them_as(config: ModelConfig):
    layers = [gemm.name for gemm in trace(build(config, 5), 5).gemms()]
    assert sorted(layers) == sorted(layer.name for layer in layer_sizes(config, 5) if layer.matrix)


def test_exporting_twice_gives_the_same_bytes_and_no_traces_of_this_machine(network: nn.Module, tmp_path: Path) -> None:
    for name in ("one", "two"):
        save_onnx(trace(network, CLASSES), tmp_path / f"{name}.onnx")
    assert (tmp_path / "one.onnx").read_bytes() == (tmp_path / "two.onnx").read_bytes()
    model = onnx.load(tmp_path / "one.onnx")
    assert not model.metadata_props
    assert not model.graph.metadata_props
    assert all(not node.doc_string and not node.metadata_props for node in model.graph.node)
    onnx.checker.check_model(model, full_check=True)


@pytest.mark.slow
def test_tracing_leaves_the_network_as_it_was(network: nn.Module) -> None:
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    trace(network, CLASSES)
    assert not network.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


@pytest.mark.slow
def test_the_exporter_is_silent(network: nn.Module, capfd: pytest.CaptureFixture[str]) -> None:
    trace(network, CLASSES)
    captured = capfd.readouterr()
    assert captured.out == ""
    assert captured.err == ""


class Odd(nn.Module):
    """A network whose forward function is given."""

    def __init__(self, forward: Callable[[nn.Linear, Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.layer, self.given = nn.Linear(1024, CLASSES), forward

    def forward(self, visual: Tensor, audio: Tensor) -> Tensor:
        return self.given(self.layer, visual, audio)


@pytest.mark.parametrize(
    "forward, message",
    [
        (lambda layer, x, _: torch.tanh(layer(x)), "the operator 'tanh' cannot be exported"),
        (lambda layer, x, _: layer(x).cumsum(1), "the operator 'cumsum' cannot be exported"),
        (lambda layer, x, _: layer(x.reshape(-1, 1, 1024)).reshape(-1, CLASSES), "layer: only layers with a bias"),
        (lambda layer, x, _: layer(x[:1]), "indexing a tensor cannot be exported"),
        (lambda layer, x, _: layer(x) if x.sum() > 0 else layer(-x), "the network cannot be traced"),
        (lambda layer, x, _: nn.functional.gelu(layer(x)), "the operator 'gelu' cannot be exported"),
    ],
)
def test_an_operator_without_conversion_is_named(
    forward: Callable[[nn.Linear, Tensor, Tensor], Tensor], message: str
) -> None:
    with pytest.raises(EdgeAfError, match=message):
        trace(Odd(forward), CLASSES)
