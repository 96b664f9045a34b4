"""Stored files are checked against their hashes, and values that are not features are refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner, Result

from edge_af.cli import cli
from edge_af.data import Features
from edge_af.data import dataset as stored
from edge_af.data.dataset import ARRAYS, Dataset, open_dataset
from edge_af.data.writer import sample
from edge_af.errors import EdgeAfError
from edge_af.runtime import check_features


def edge_af(*arguments: object) -> Result:
    return CliRunner().invoke(cli, list(map(str, arguments)))


@pytest.fixture
def own(eval_dataset: Dataset, tmp_path: Path) -> Path:
    sample(eval_dataset, tmp_path / "own", videos=150)
    return tmp_path / "own"


@pytest.mark.parametrize("stem", ARRAYS)
def test_one_flipped_bit_in_an_array_is_found(own: Path, stem: str):
    path = own / f"{stem}.npy"
    data = bytearray(path.read_bytes())
    data[len(data) * 3 // 4] ^= 4
    path.write_bytes(data)
    with pytest.raises(EdgeAfError, match=rf"{stem}.npy: bytes .* are not what was prepared"):
        open_dataset(own)
    assert isinstance(edge_af("data", "info", own).exception, EdgeAfError)
    path.write_bytes(bytes(data) + b"\0")
    with pytest.raises(EdgeAfError, match=f"{stem}.npy: .* where index.json promises"):
        open_dataset(own)


@pytest.mark.parametrize("other", [None, "\0", "labelz", "../other/visual"])
def test_an_index_names_the_arrays_and_nothing_else(own: Path, other: str | None):
    index = json.loads((own / "index.json").read_text())
    hashes = index["arrays"].pop("audio")
    if other is not None:
        index["arrays"][other] = hashes
    (own / "index.json").write_text(json.dumps(index))
    with pytest.raises(EdgeAfError, match=r"index.json: arrays is damaged \('.*(missing|not an array)"):
        open_dataset(own)


def test_of_a_large_dataset_blocks_are_looked_at(own: Path, monkeypatch: pytest.MonkeyPatch):
    """The first and last block of each array are always checked."""
    monkeypatch.setattr(stored, "BLOCKS_READ", 8)
    index = json.loads((own / "index.json").read_text())
    monkeypatch.setattr(stored, "BLOCK_BYTES", 1024)
    index["arrays"] = stored.hashes_of(own)
    (own / "index.json").write_text(json.dumps(index))
    open_dataset(own)
    data = bytearray((own / "visual.npy").read_bytes())
    data[-1] ^= 1
    (own / "visual.npy").write_bytes(data)
    with pytest.raises(EdgeAfError, match=r"visual.npy: bytes"):
        open_dataset(own)
    assert open_dataset(own, verify=False).videos == 150
    index["arrays"]["visual"]["sha256"].pop()
    (own / "index.json").write_text(json.dumps(index))
    with pytest.raises(EdgeAfError, match="arrays is damaged"):
        open_dataset(own)


def test_codes_are_not_taken_for_features(tmp_path: Path, eval_dataset: Dataset):
    visual, audio = eval_dataset.features(slice(3))
    codes = [np.clip(np.rint((array + 2) * 255 / 4), 0, 255) for array in (visual, audio)]
    small = [np.clip(array, 0, 20) for array in codes]
    for arrays, said in (
        ([array.astype(np.uint8) for array in codes], "holds whole numbers (uint8)"),
        (codes, "8-bit codes"),
        (small, "holds whole numbers up to 20"),
        ([np.where(array > 100, 40.5, 0.5) for array in codes], "row 0: holds 40.5"),
    ):
        with pytest.raises(EdgeAfError) as refused:
            check_features(Features(arrays[0], arrays[1]), "x.npz")
        assert said in str(refused.value) and "dequantize" in str(refused.value)
    check_features(Features(visual, audio), "x.npz")
    check_features(Features(np.zeros_like(visual), np.zeros_like(audio)), "x.npz")


@pytest.mark.slow
def test_accuracy_on_training_data_is_named(dataset: Dataset, tmp_path: Path, eval_dataset: Dataset):
    run, exported = tmp_path / "run", tmp_path / "exported"
    options = ("--model", "fc-late-fusion", "--preset", "linear", "--epochs", 1)
    assert edge_af("train", "--data", dataset.folder, "--out", run, *options).exit_code == 0
    assert edge_af("export", run, "--format", "tflite", "--out", exported).exit_code == 0
    sample(dataset, tmp_path / "part", videos=100)
    file = exported / "fc-late-fusion-fp32.tflite"
    for artifact in (run, file):
        for data, expected in ((dataset.folder, True), (tmp_path / "part", True), (eval_dataset.folder, False)):
            done = edge_af("eval", artifact, "--data", data, "--json")
            assert json.loads(done.stdout)["is_training_data"] is expected
            assert ("was trained on it" in done.stderr) is expected
    out = tmp_path / "r.json"
    done = edge_af("bench", file, "--data", dataset.folder, "--runs", 2, "--rounds", 1, "--no-packed", "--out", out)
    assert done.exit_code == 0 and "was trained on" in done.stdout
    assert any("was trained on" in text for text in json.loads(out.read_text())["warnings"])


def test_weights_outside_an_onnx_file_are_refused(exports: Path, eval_dataset: Dataset, tmp_path: Path):
    path = tmp_path / "network.onnx"
    model = onnx.load(exports / "attend-fusion/attend-fusion-fp32.onnx")
    onnx.save_model(model, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    for verb in (("eval", path, "--data", eval_dataset.folder), ("predict", path, eval_dataset.folder)):
        done = edge_af(*verb)
        assert isinstance(done.exception, EdgeAfError) and "keeps weights in other files" in str(done.exception)
    shutil.copy(exports / "attend-fusion/attend-fusion-fp32.onnx", path)
    assert edge_af("eval", path, "--data", eval_dataset.folder).exit_code == 0
