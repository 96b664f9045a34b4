"""Small but real exports for the tests of bench, report, eval and predict: both networks, through the exporter itself."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from edge_af.data.dataset import Dataset
from edge_af.export.pipeline import CalibrationData, ExportRequest, export_network
from edge_af.export.recipes import load_recipe
from edge_af.models.networks import build, count_params
from edge_af.models.presets import AttendFusionConfig, FCLateFusionConfig, ModelConfig
from edge_af.models.run import Run

CONFIGS = {
    "attend-fusion": AttendFusionConfig(tokens=2, token_width=8, heads=2, dropout=0.0),
    "fc-late-fusion": FCLateFusionConfig(width=48, depth=2, dropout=0.0),
}


def export_tiny(
    model: str,
    out: Path,
    dataset: Dataset,
    *,
    name: str = "int8-dynamic",
    integer_io: bool = False,
    config: ModelConfig | None = None,
) -> Path:
    """The folder `out` with an untrained network's four files, FP32 and those of the recipe `name`, and their manifest."""
    torch.manual_seed(0)
    config = config or CONFIGS[model]
    network = build(config, dataset.classes).eval()
    run = Run("tiny", config, dataset.classes, count_params(network), 0.25, dataset.class_names, weights="")
    recipe = load_recipe(name)
    calibration = CalibrationData(dataset, np.arange(64), 0)
    export_network(
        network,
        run,
        out,
        ExportRequest(
            recipes={"onnx": (recipe,), "tflite": (recipe,)},
            calibration=calibration,
            cpu="x86-64",
            integer_io=integer_io,
        ),
    )
    return out


def tiny_exports(folder: Path, dataset: Dataset) -> Path:
    """The folder with both networks' exports in it, made once however many rooms ask."""
    if not folder.exists():
        for model in CONFIGS:
            export_tiny(model, folder / model, dataset)
    return folder


def in_other_bytes(path: Path, target: Path) -> Path:
    """The same network in a file that is not the same byte for byte."""
    # A protobuf continues with more fields, here ModelProto.doc_string; behind a FlatBuffer nothing is read.
    more = b"\x32\x05again" if path.suffix == ".onnx" else bytes(16)
    target.write_bytes(path.read_bytes() + more)
    return target
