"""Small real exports of both networks for the tests of bench, report, eval and predict."""

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
    """Export an untrained network to `out`: ONNX and TFLite files in FP32 and by the recipe `name`, and the manifest."""
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
    """Export both networks to `folder` unless it exists."""
    if not folder.exists():
        for model in CONFIGS:
            export_tiny(model, folder / model, dataset)
    return folder


def in_other_bytes(path: Path, target: Path) -> Path:
    """Copy a model file with bytes appended that do not change the network."""
    # The appended bytes are another protobuf field (ModelProto.doc_string). Bytes after a FlatBuffer are ignored.
    more = b"\x32\x05again" if path.suffix == ".onnx" else bytes(16)
    target.write_bytes(path.read_bytes() + more)
    return target
