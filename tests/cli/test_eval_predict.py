"""`edge-af eval` and `edge-af predict`: metrics and labels, and clear messages for bad input."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import click.testing
import numpy as np
import pytest
from tiny_export import CONFIGS

from edge_af.cli import cli
from edge_af.data import Features
from edge_af.data.dataset import Dataset
from edge_af.errors import EdgeAfError
from edge_af.metrics import evaluate
from edge_af.runtime import load, score_all


@pytest.fixture
def artifact(exports: Path) -> Path:
    return exports / "attend-fusion/attend-fusion-int8.onnx"


def run(*arguments: object) -> str:
    """Run a command and return its standard output."""
    done = click.testing.CliRunner().invoke(
        cli, [str(a) for a in arguments], catch_exceptions=False, standalone_mode=False
    )
    return done.stdout


def refused(*arguments: object) -> str:
    with pytest.raises(EdgeAfError) as error:
        run(*arguments)
    assert len(str(error.value).splitlines()) <= 2
    return str(error.value)


def test_eval_gives_the_metrics_of_the_file(artifact: Path, eval_dataset: Dataset):
    scores = score_all(load(artifact), eval_dataset.stored)
    labels = eval_dataset.labels(slice(None))
    found = json.loads(run("eval", artifact, "--data", eval_dataset.folder, "--json"))
    assert found == found | evaluate(scores, labels, 0.25).as_dict()
    assert (found["model"], found["precision"], found["runtime"]) == ("attend-fusion", "int8", "onnxruntime")
    found = json.loads(run("eval", artifact, "--data", eval_dataset.folder, "--json", "--f1-threshold", 0.6))
    assert found["f1_threshold"] == 0.6 and found["f1_micro"] == evaluate(scores, labels, 0.6).f1_micro
    text = run("eval", artifact, "--data", eval_dataset.folder)
    assert f"GAP@20       {found['gap_at_20']:.4f}" in text and "videos       200" in text


def test_eval_of_a_run_folder_is_that_of_its_fp32_export(exports: Path, eval_dataset: Dataset, tmp_path: Path):
    import torch

    from edge_af.models.networks import build, count_params
    from edge_af.models.run import Run, save_run

    torch.manual_seed(0)
    config = CONFIGS["attend-fusion"]
    network = build(config, eval_dataset.classes).eval()
    run_of = Run(
        preset="tiny", config=config, classes=eval_dataset.classes, params=count_params(network), f1_threshold=0.25,
        class_names=[], weights="weights-1.safetensors",
    )  # fmt: skip
    save_run(tmp_path, run_of, network)
    found = json.loads(run("eval", tmp_path, "--data", eval_dataset.folder, "--json"))
    exported = json.loads(
        run("eval", exports / "attend-fusion/attend-fusion-fp32.onnx", "--data", eval_dataset.folder, "--json")
    )
    assert found["runtime"] == "torch" and found["params"] == exported["params"]
    assert found["gap_at_20"] == pytest.approx(exported["gap_at_20"], abs=1e-4)
    labeled = json.loads(run("predict", tmp_path, eval_dataset.folder, "--videos", 1, "--json"))
    assert len(labeled[0]["labels"]) == 3


def test_eval_without_a_manifest_goes_on_and_says_so(artifact: Path, eval_dataset: Dataset, tmp_path: Path):
    alone = shutil.copy(artifact, tmp_path)
    done = click.testing.CliRunner().invoke(cli, ["eval", alone, "--data", str(eval_dataset.folder), "--json"])
    assert json.loads(done.stdout)["f1_threshold"] == 0.5 and "no manifest beside" in done.stderr


def test_eval_refuses_bad_input(artifact: Path, exports: Path, eval_dataset: Dataset, tmp_path: Path):
    folder = Path(shutil.copytree(eval_dataset.folder, tmp_path / "data"))
    index = json.loads((folder / "index.json").read_text())
    (folder / "index.json").write_text(json.dumps({**index, "classes": 31}))
    assert "scores 30 classes, but" in refused("eval", artifact, "--data", folder)
    (folder / "index.json").write_text(json.dumps(index))
    audio = np.load(folder / "audio.npy")
    audio[150, 0] = np.inf
    np.save(folder / "audio.npy", audio)
    assert "array 'audio', row 150" in refused("eval", artifact, "--data", folder)

    changed = Path(shutil.copytree(exports / "attend-fusion", tmp_path / "changed")) / artifact.name
    with changed.open("ab") as file:
        file.write(b"\0")
    assert "SHA-256" in refused("eval", changed, "--data", eval_dataset.folder)
    assert "Name one of them" in refused("eval", exports / "attend-fusion", "--data", eval_dataset.folder)
    assert "not a run" in refused("eval", eval_dataset.folder, "--data", eval_dataset.folder)
    odd = tmp_path / "odd.tflite"
    odd.write_bytes(b"TFL3" * 100)
    assert "odd.tflite: not a TFLite model" in refused("eval", odd, "--data", eval_dataset.folder)
    assert "opens in onnxruntime" in refused("eval", artifact, "--data", eval_dataset.folder, "--runtime", "litert")


def test_predict_names_the_best_labels(artifact: Path, eval_dataset: Dataset):
    visual, audio = eval_dataset.features(np.array([4, 7, 8]))
    scores = score_all(load(artifact), Features(visual, audio))
    found = json.loads(run("predict", artifact, eval_dataset.folder, "--rows", "4,7:9", "--top", 2, "--json"))
    assert [video["id"] for video in found] == ["v00004", "v00007", "v00008"]
    for video, own in zip(found, scores, strict=True):
        best = np.argsort(-own, kind="stable")[:2]
        assert [label["class"] for label in video["labels"]] == best.tolist()
        assert [label["name"] for label in video["labels"]] == [f"name of {index}" for index in best]
        assert [label["score"] for label in video["labels"]] == pytest.approx(own[best].tolist(), abs=1e-5)
    text = run("predict", artifact, eval_dataset.folder, "--rows", 4)
    assert text.startswith("v00004  name of ")


def test_predict_says_when_it_leaves_videos_out(artifact: Path, eval_dataset: Dataset):
    done = click.testing.CliRunner().invoke(cli, ["predict", str(artifact), str(eval_dataset.folder)])
    assert len(done.stdout.splitlines()) == 10 and "the first 10 of 200 videos" in done.stderr


@pytest.mark.parametrize(
    "arrays, message",
    [
        ({"visual": np.zeros((3, 1024))}, "has no array 'audio', only visual"),
        ({"visual": np.zeros((3, 1023)), "audio": np.zeros((3, 128))}, "'visual' has 1023 features per video"),
        ({"visual": np.zeros((3, 1024)), "audio": np.zeros((2, 128))}, "3 rows in 'visual' and 2 in 'audio'"),
        ({"visual": np.full((3, 1024), np.nan), "audio": np.zeros((3, 128))}, "'visual', row 0: NaN"),
        ({"visual": np.array(None), "audio": np.zeros((3, 128))}, "neither a prepared dataset nor an .npz"),
        ({"visual": np.float32(1), "audio": np.zeros((3, 128))}, r"'visual' is float32 \(\)"),
    ],
)
def test_predict_refuses_bad_features(artifact: Path, tmp_path: Path, arrays, message: str):
    import re

    np.savez(tmp_path / "odd.npz", **arrays)
    assert re.search(f"odd.npz: .*{message}", refused("predict", artifact, tmp_path / "odd.npz"))


def test_predict_refuses_other_files_and_rows(artifact: Path, eval_dataset: Dataset, tmp_path: Path):
    np.save(tmp_path / "one.npy", np.zeros((3, 1024)))
    (tmp_path / "text.npz").write_text("no archive")
    (tmp_path / "cut.npz").write_bytes(b"PK\x03\x04 cut short")
    for name in ("one.npy", "text.npz", "cut.npz"):
        assert "neither a prepared dataset nor an .npz" in refused("predict", artifact, tmp_path / name)
    assert "no such file" in refused("predict", artifact, tmp_path / "absent.npz")
    assert "not a prepared dataset" in refused("predict", artifact, tmp_path)
    for rows, message in (
        ("x", "'x' is not a row number"),
        ("200", "row 200 is not one"),
        ("-1", "not one"),
        ("5:5", "no row"),
    ):
        assert message in refused("predict", artifact, eval_dataset.folder, "--rows", rows)
    folder = Path(shutil.copytree(eval_dataset.folder, tmp_path / "data"))
    visual = np.load(folder / "visual.npy")
    visual[150, 0] = np.nan
    np.save(folder / "visual.npy", visual)
    assert "'visual', row 150" in refused("predict", artifact, folder, "--rows", "3,150")
    assert run("predict", artifact, folder, "--rows", "3")


def test_predict_refuses_a_damaged_npz(artifact: Path, tmp_path: Path):
    odd = tmp_path / "odd.npz"
    np.savez_compressed(odd, visual=np.random.default_rng(0).random((3, 1024)), audio=np.zeros((3, 128)))
    whole = bytearray(odd.read_bytes())
    # Damage the first array's name, the header of its first compressed block (zlib.error), or its values.
    for start, count in ((30, 1), (60, 1), (2000, 40)):
        odd.write_bytes(whole[:start] + bytes(count) + whole[start + count :])
        assert "neither a prepared dataset nor an .npz" in refused("predict", artifact, odd)
    np.savez(odd, visual=np.zeros((3, 1024)), audio=np.zeros((3, 128)))
    with zipfile.ZipFile(odd) as archive:
        arrays = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(odd, "w") as archive:
        for name, data in arrays.items():
            archive.writestr(name, data.replace(b"(3, 1024)", b"(3, 1024("))
    # A header that does not parse (TokenError).
    assert "neither a prepared dataset nor an .npz" in refused("predict", artifact, odd)


def test_predict_says_that_a_network_scores_nan(eval_dataset: Dataset, tmp_path: Path):
    import torch

    from edge_af.models.networks import build, count_params
    from edge_af.models.run import Run, save_run

    config = CONFIGS["fc-late-fusion"]
    network = build(config, eval_dataset.classes).eval()
    with torch.no_grad():
        next(network.parameters()).fill_(float("nan"))
    run_of = Run(
        preset="tiny", config=config, classes=eval_dataset.classes, params=count_params(network), f1_threshold=0.25,
        class_names=[], weights="weights-1.safetensors",
    )  # fmt: skip
    save_run(tmp_path, run_of, network)
    message = refused("predict", tmp_path, eval_dataset.folder, "--rows", "7,9")
    assert "2 of 2 videos have a NaN or infinite score, first row 0" in message


def test_what_a_runtime_says_of_itself_is_not_shown(exports: Path, eval_dataset: Dataset):
    command = ["eval", exports / "attend-fusion/attend-fusion-int8.tflite", "--data", eval_dataset.folder]
    done = subprocess.run([sys.executable, "-m", "edge_af", *map(str, command)], capture_output=True, text=True)
    assert done.returncode == 0 and "INFO" not in done.stderr + done.stdout, done.stderr


def test_a_folder_of_videos_is_named_as_one(artifact: Path, tmp_path: Path):
    (tmp_path / "my clips").mkdir()
    (tmp_path / "my clips" / "a.MP4").touch()
    message = refused("predict", artifact, tmp_path / "my clips")
    assert "is a folder of videos" in message and "edge-af features '" in message
