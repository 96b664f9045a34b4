"""Small networks, their traced graphs, and their run folders."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_networks import CLASSES, CONFIGS, random_network
from torch import nn

from edge_af.data.dataset import Dataset
from edge_af.export.graph import Graph
from edge_af.export.ranges import Ranges, find_ranges
from edge_af.export.rounding import Rounder, layer_inputs
from edge_af.export.trace import trace
from edge_af.models.networks import count_params
from edge_af.models.run import Run, save_run


@pytest.fixture(scope="session", params=list(CONFIGS))
def model(request: pytest.FixtureRequest) -> str:
    """Name of each network in turn."""
    return str(request.param)


@pytest.fixture(scope="session")
def network(model: str) -> nn.Module:
    return random_network(model)


@pytest.fixture(scope="session")
def graph(network: nn.Module) -> Graph:
    """The cleaned graph of `network`."""
    return trace(network, CLASSES)


@pytest.fixture(scope="session")
def ranges(graph: Graph, dataset: Dataset) -> Ranges:
    """Activation ranges of `graph` over 100 videos."""
    return find_ranges(graph, dataset, np.arange(100), seed=0)


@pytest.fixture(scope="session")
def rounder(graph: Graph, dataset: Dataset) -> Rounder:
    """Rounder for recipes with `rounding: gptq`, with the layers' inputs on 100 videos."""
    return Rounder(layer_inputs(graph, dataset, np.arange(100), [gemm.name for gemm in graph.gemms()]))


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., Path]:
    """Makes a run folder of a small network."""

    def make(model: str = "fc-late-fusion", training: dict[str, Any] | None = None) -> Path:
        network = random_network(model)
        run = Run(
            preset="small",
            config=CONFIGS[model],
            classes=CLASSES,
            params=count_params(network),
            f1_threshold=0.3,
            class_names=[f"name of {index}" for index in range(CLASSES)],
            weights="weights-e1.safetensors",
            training=training or {},
        )
        folder = tmp_path / f"run-{model}"
        folder.mkdir()
        save_run(folder, run, network)  # type: ignore[arg-type]
        return folder

    return make
