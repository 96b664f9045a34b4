"""Simulated sensitivity of a single quantized layer matches that of a real file."""

from __future__ import annotations

import dataclasses
import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from small_networks import run_onnx

from edge_af.data import Features
from edge_af.data.dataset import Dataset
from edge_af.export.graph import Graph
from edge_af.export.pipeline import write_file
from edge_af.export.quantize import plan
from edge_af.export.ranges import Ranges
from edge_af.export.recipes import load_recipe
from edge_af.export.sensitivity import (
    BEST_SNR_DB,
    LayerSensitivity,
    SensitivityTest,
    logits_of,
    summary,
    worst_first,
    write_sensitivity,
)
from edge_af.runtime import load, score_all


def sigmoid(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    return 1 / (1 + np.exp(-logits.astype(np.float64)))


@pytest.mark.parametrize(
    ("recipe", "format"),
    [
        *itertools.product(
            ["int8-static", "int8-dynamic", "int8-weights", "int4-block32-dynamic", "int4-dynamic"], ["onnx", "tflite"]
        ),
        ("int2-block64-dynamic", "onnx"),
    ],
)
def test_the_logits_are_those_of_the_real_file(
    graph: Graph, ranges: Ranges, dataset: Dataset, tmp_path: Path, recipe: str, format: str
) -> None:
    rows = np.arange(40)
    made = plan(graph, load_recipe(recipe), ranges)
    table = SensitivityTest(graph, dataset, rows, with_labels=False)
    visual, audio = dataset.features(rows)
    (exact,) = run_onnx(graph, {"visual": visual, "audio": audio}, [logits_of(graph)])
    for layer in made.layers:
        # The parts of a concatenation share its range even if only one of them is quantized.
        alone = dataclasses.replace(made, layers={layer: made.layers[layer]})
        path = tmp_path / f"{layer}.{format}"
        write_file(graph, alone, format, path, "x86-64")
        real = score_all(load(path), Features(visual, audio))
        found = sigmoid(table.logits(layer, made, format))
        noise = np.sqrt(np.square(real - sigmoid(exact)).mean())
        # The difference is small compared to the quantization error: values halfway between two steps may round either way.
        assert np.sqrt(np.square(found - real).mean()) < 0.25 * noise + 1e-5, layer


def test_a_row_for_each_layer_and_none_of_it_free(
    graph: Graph, ranges: Ranges, dataset: Dataset, tmp_path: Path
) -> None:
    made = plan(graph, load_recipe("int8-static"), ranges)
    rows = list(SensitivityTest(graph, dataset, np.arange(200), with_labels=True).rows("onnx", "int8-static", made))
    assert [row.layer for row in rows] == [gemm.name for gemm in graph.gemms()]
    for row in rows:
        assert 15 < row.snr_db < 80
        assert row.gap_at_20_drop is not None and abs(row.gap_at_20_drop) < 0.05
        assert row.weight_bytes == graph.constants[f"{row.layer}.weight"].size
    path = tmp_path / "sensitivity.json"
    write_sensitivity(path, "train", 200, rows)
    value = json.loads(path.read_text())
    assert (value["schema_version"], value["data"], value["videos"]) == (1, "train", 200)
    assert value["rows"][0] == dataclasses.asdict(rows[0])
    assert len(summary(rows)) == 1


def test_coarser_weights_are_noisier(graph: Graph, dataset: Dataset) -> None:
    table = SensitivityTest(graph, dataset, np.arange(60), with_labels=False)

    def snr(recipe: str) -> np.ndarray:
        return np.array([row.snr_db for row in table.rows("tflite", recipe, plan(graph, load_recipe(recipe)))])

    assert (snr("int8-weights") > snr("int4-dynamic") + 15).all()
    assert (snr("fp16") > snr("int8-weights") + 15).all()
    assert (snr("fp16") <= BEST_SNR_DB).all()


def test_the_order_of_videos_does_not_matter(graph: Graph, ranges: Ranges, dataset: Dataset) -> None:
    made, rows = plan(graph, load_recipe("int8-static"), ranges), np.arange(80)
    one, two = (
        list(SensitivityTest(graph, dataset, order, with_labels=True).rows("onnx", "r", made))
        for order in (rows, rows[::-1])
    )
    assert one == two


def test_layers_are_ranked_by_gap_then_by_noise() -> None:
    def row(layer: str, snr_db: float, drop: float | None) -> LayerSensitivity:
        return LayerSensitivity("onnx", "r", "int8", layer, 1, snr_db, drop)

    assert worst_first([row("a", 30, 0.001), row("b", 10, 0.0), row("c", 20, 0.02)]) == ["c", "a", "b"]
    assert worst_first([row("a", 30, None), row("b", 10, None), row("c", 20, None)]) == ["b", "c", "a"]
