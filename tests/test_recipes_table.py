"""`benchmarks/recipes.py` makes the table of recipes from a small run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from tiny_export import CONFIGS

from edge_af.data.dataset import Dataset
from edge_af.models.networks import build, count_params
from edge_af.models.run import Run, save_run


@pytest.mark.slow
def test_the_table_holds_every_file_of_a_run(dataset: Dataset, eval_dataset: Dataset, tmp_path: Path) -> None:
    from benchmarks.recipes import main

    torch.manual_seed(0)
    network = build(CONFIGS["attend-fusion"], dataset.classes)
    params = count_params(network)
    folder = tmp_path / "run"
    folder.mkdir()
    config = CONFIGS["attend-fusion"]
    run = Run("tiny", config, dataset.classes, params, 0.25, dataset.class_names, "weights-e1.safetensors")
    save_run(folder, run, network)
    flags = ["--calibration-data", dataset.folder, "--data", eval_dataset.folder, "--any-calibration-data"]
    flags += ["--artifacts", tmp_path / "artifacts", "--out", tmp_path / "table", "--rounds", 2]
    flags += ["--recipe", "int8-static", "--recipe", "int4-dynamic"]
    main([str(folder), *map(str, flags)], standalone_mode=False)
    value = json.loads((tmp_path / "table.json").read_text())
    found = [(row["runtime"], row["recipe"], row["integer_share"]) for row in value["rows"]]
    recipes = [(None, 0.0), ("int8-static", 1.0), ("int4-dynamic", 1.0)]
    assert found == [(runtime, *recipe) for runtime in ("onnxruntime", "litert") for recipe in recipes]
    assert all(0 < row["gap_at_20"] < 1 and row["latency_ms_p50"] > 0 for row in value["rows"])
    assert all(row["max_difference"] < (1e-5 if row["recipe"] is None else 0.3) for row in value["rows"])
    text = (tmp_path / "table.md").read_text()
    assert text.count("| litert |") == 3

    # Started again, it measures only what is missing.
    value["rows"].pop()
    (tmp_path / "table.json").write_text(json.dumps(value))
    main([str(folder), *map(str, flags)], standalone_mode=False)
    again = json.loads((tmp_path / "table.json").read_text())
    assert again["rows"][:-1] == value["rows"] and again["rows"][-1]["recipe"] == "int4-dynamic"
