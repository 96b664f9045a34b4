"""The accuracy gate on real files: layers that stay in float, and exports that fail."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from small_networks import CLASSES, random_network

from edge_af.artifacts import read_manifest
from edge_af.cli import cli
from edge_af.data.batches import split
from edge_af.data.dataset import Dataset, open_dataset
from edge_af.errors import GateFailed
from edge_af.export.gate import GateData, measured_gap
from edge_af.export.pipeline import CalibrationData, ExportRequest, export_network
from edge_af.export.recipes import load_recipe
from edge_af.models.run import Run

RECIPES = {format: (load_recipe("int8-static"),) for format in ("onnx", "tflite")}


@pytest.fixture(scope="module")
def labeled(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """The dataset with labels from the broken network's float scores, so that its FP32 files have a high GAP."""
    import shutil

    folder = tmp_path_factory.mktemp("gate") / "held-out"
    shutil.copytree(dataset.folder, folder)
    visual, audio = dataset.features(slice(None))
    with torch.inference_mode():
        logits = broken_network()(torch.from_numpy(visual), torch.from_numpy(audio)).numpy()
    best = np.sort(np.argsort(-logits, axis=1)[:, :3], axis=1)
    np.save(folder / "label_offsets.npy", np.arange(len(best) + 1, dtype=np.int64) * 3)
    np.save(folder / "label_values.npy", best.ravel().astype(np.uint16))
    return open_dataset(folder)


def broken_network() -> torch.nn.Module:
    """Return a network with one hidden audio feature 3,000 times as large as the others, and its weights as much smaller.
    Float scores stay the same, but one integer scale for the vector loses all other features."""
    network = random_network("fc-late-fusion")
    with torch.no_grad():
        network.audio[6].weight[7] *= 3000  # type: ignore[index]
        network.audio[6].bias[7] *= 3000  # type: ignore[index]
        network.audio[8].weight[:, 7] /= 3000  # type: ignore[index]
    return network.eval()


def export(out: Path, dataset: Dataset, gate: GateData) -> None:
    names = [f"name of {index}" for index in range(CLASSES)]
    from small_networks import CONFIGS

    run = Run("small", CONFIGS["fc-late-fusion"], CLASSES, 1234, 0.3, names, weights="")
    export_network(
        broken_network(),
        run,
        out,
        ExportRequest(
            recipes=RECIPES,
            calibration=CalibrationData(dataset, np.arange(128), 0),
            gate=gate,
            sensitivity_videos=200,
            cpu="x86-64",
        ),
    )


@pytest.mark.slow
def test_the_layer_that_breaks_goes_back_to_float(dataset: Dataset, labeled: Dataset, tmp_path: Path) -> None:
    gate = GateData(labeled, np.arange(200, 600), 0.02)
    export(tmp_path / "out", dataset, gate)
    manifest = read_manifest(tmp_path / "out")
    table = json.loads((tmp_path / "out" / "sensitivity.json").read_text())
    assert (table["data"], table["videos"], len(table["rows"])) == ("held-out", 200, 14)
    for file in manifest.files:
        if file.recipe is None:
            assert file.gate is None
            continue
        assert file.gate is not None
        # The layer that writes the broken tensor, and the one that reads it.
        assert sorted(file.gate.layers_kept_float) == ["audio.fc2", "audio.fc3"]
        assert (file.integer_layers, file.float_layers) == (5, 2)
        assert file.gate.gap_at_20_drop <= 0.02
        assert (file.gate.data, file.gate.videos, file.gate.max_gap_drop) == ("held-out", 400, 0.02)
        # The manifest's figure is that of the file.
        assert measured_gap(tmp_path / "out" / file.path, gate) == file.gate.gap_at_20
        fp32 = measured_gap(tmp_path / "out" / f"fc-late-fusion-fp32.{file.format}", gate)
        assert fp32 - file.gate.gap_at_20 == pytest.approx(file.gate.gap_at_20_drop, abs=1e-12)
        worst = min((row for row in table["rows"] if row["format"] == file.format), key=lambda row: row["snr_db"])
        assert worst["layer"] in ("audio.fc2", "audio.fc3")
        assert worst["gap_at_20_drop"] > 0.02


@pytest.mark.slow
def test_where_nothing_helps_the_export_fails_and_leaves_nothing(
    dataset: Dataset, labeled: Dataset, tmp_path: Path
) -> None:
    with pytest.raises(
        GateFailed, match=r"int8\.(onnx|tflite): loses 0\.\d+ GAP@20 on 400 videos of held-out"
    ) as caught:
        # A negative limit requires a gain that no file reaches.
        export(tmp_path / "out", dataset, GateData(labeled, np.arange(200, 600), -0.5))
    assert caught.value.exit_code == 1
    assert "in float" in str(caught.value)
    assert not list(tmp_path.iterdir())


def run_verb(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    cli.main(["export", *map(str, arguments)], standalone_mode=False)
    return capsys.readouterr().out


@pytest.mark.slow
def test_of_the_runs_own_data_the_held_out_videos_are_gated_on(
    make_run: Callable[..., Path], dataset: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trained = {
        "data": {"name": dataset.folder.name, "videos": dataset.videos, "fingerprint": dataset.fingerprint()},
        "options": {"held_out": 0.3, "seed": 5},
    }
    flags = ("--recipe", "int8-dynamic", "--max-gap-drop", 0.5, "--gate-data", dataset.folder)
    text = run_verb(capsys, make_run(training=trained), "--out", tmp_path / "out", *flags)
    assert "GAP@20 change" in text
    for file in read_manifest(tmp_path / "out").files:
        if file.recipe:
            assert file.gate is not None and file.gate.videos == len(split(dataset.videos, 0.3, 5)[1])


@pytest.mark.slow
def test_other_data_is_gated_on_whole_and_said(
    make_run: Callable[..., Path], eval_dataset: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ("--recipe", "onnx=int8-dynamic", "--max-gap-drop", 0.5, "--gate-data", eval_dataset.folder)
    cli.main(["export", str(make_run()), "--out", str(tmp_path / "out"), *map(str, flags)], standalone_mode=False)
    assert "do not report results on the same" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--int8", "--max-gap-drop", "0.001"], "need each other"),
        (["--max-gap-drop", "0.001", "--gate-data", "DATA"], "none is exported"),
        (["--recipe", "int8-dynamic", "--max-gap-drop", "-1", "--gate-data", "DATA"], "max-gap-drop"),
        (["--recipe", "int8-dynamic", "--ranges", "ranges.json"], "static"),
        (["--recipe", "int8-dynamic", "--max-gap-drop", "0.1", "--gate-data", "nowhere"], "nowhere"),
    ],
)
def test_slips_are_named(
    make_run: Callable[..., Path], dataset: Dataset, tmp_path: Path, flags: list[str], message: str
) -> None:
    import click

    from edge_af.errors import EdgeAfError

    flags = [str(dataset.folder) if flag == "DATA" else flag for flag in flags]
    calibration = ["--calibration-data", str(dataset.folder)]
    with pytest.raises((EdgeAfError, click.ClickException)) as caught:
        cli.main(
            ["export", str(make_run()), "--out", str(tmp_path / "out"), *flags, *calibration], standalone_mode=False
        )
    text = caught.value.format_message() if isinstance(caught.value, click.ClickException) else str(caught.value)
    assert message in text
    assert not (tmp_path / "out").exists()
