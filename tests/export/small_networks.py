"""Small networks without trivial weights, and helpers to run them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from edge_af.export.graph import Graph, to_onnx
from edge_af.models.networks import build
from edge_af.models.presets import AttendFusionConfig, FCLateFusionConfig, ModelConfig
from edge_af.runtime.ort import EXACT, onnxruntime_module, quiet_options

CLASSES = 30
CONFIGS: dict[str, ModelConfig] = {
    "attend-fusion": AttendFusionConfig(tokens=4, token_width=16, heads=2, dropout=0.1),
    "fc-late-fusion": FCLateFusionConfig(width=48, depth=3, dropout=0.1),
}


def random_network(model: str, seed: int = 0) -> nn.Module:
    """Return a network in eval mode with random weights and random BatchNorm statistics."""
    torch.manual_seed(seed)
    network = build(CONFIGS[model], CLASSES)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm1d):
            nn.init.normal_(module.running_mean, std=0.5)
            nn.init.uniform_(module.running_var, 0.2, 3.0)
            # Scales of both signs, and a zero that folding must not divide by.
            nn.init.normal_(module.weight)
            nn.init.normal_(module.bias, std=0.5)
            with torch.no_grad():
                module.weight[3] = 0
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=1.2 * module.in_features**-0.5)
            nn.init.normal_(module.bias, std=0.2)
    for name, parameter in network.named_parameters():
        if name.endswith("position"):
            nn.init.normal_(parameter, std=0.3)
        # Attention adds little to the hidden vector, as in a trained network.
        if name.endswith("attention.out.weight"):
            nn.init.normal_(parameter, std=0.3 * parameter.shape[1] ** -0.5)
    return network.eval()


def torch_scores(network: nn.Module, visual: NDArray[np.float32], audio: NDArray[np.float32]) -> NDArray[np.float32]:
    with torch.inference_mode():
        scores: NDArray[np.float32] = torch.sigmoid(network(torch.from_numpy(visual), torch.from_numpy(audio))).numpy()
    return scores


def run_onnx(graph: Graph, feeds: dict[str, NDArray[Any]], outputs: list[str] | None = None) -> list[NDArray[Any]]:
    """Run a graph in ONNX Runtime and return its outputs, or the tensors named in `outputs`."""
    options = quiet_options()
    options.add_session_config_entry(EXACT, "1")
    session = onnxruntime_module().InferenceSession(
        to_onnx(graph, extra_outputs=outputs or ()).SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    found: list[NDArray[Any]] = session.run(outputs or list(graph.outputs), feeds)
    return found
