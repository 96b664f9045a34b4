"""Run folders: round trip, and error messages that locate the damage."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from edge_af.errors import EdgeAfError
from edge_af.files import sha256_file
from edge_af.models.networks import build
from edge_af.models.presets import FCLateFusionConfig
from edge_af.models.run import RUN, Run, load_network, load_run, save_run
from edge_af.train.loop import records_in

CONFIG = FCLateFusionConfig(width=4, depth=1, dropout=0.0)
WEIGHTS = "weights-e1.safetensors"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    training = {"data": {"name": "train", "videos": 9, "fingerprint": "f"}, "options": {"held_out": 0.1, "seed": 0}}
    run = Run("tiny", CONFIG, 3, 10, 0.25, ["a", "b", "c"], WEIGHTS, training=training)
    save_run(tmp_path, run, build(CONFIG, 3))
    found, network = load_network(tmp_path)
    assert found.weights_sha256 == sha256_file(tmp_path / WEIGHTS)
    assert not network.training
    return tmp_path


def _change(folder: Path, **changes: Any) -> None:
    value = json.loads((folder / RUN).read_text())
    for name, change in changes.items():
        value[name] = change
    (folder / RUN).write_text(json.dumps(value))


@pytest.mark.parametrize(
    "changes",
    [
        {"classes": "3"},
        {"classes": True},
        {"classes": 0},
        {"classes": 10**9},
        {"params": None},
        {"f1_threshold": "x"},
        {"class_names": "abc"},
        {"class_names": [1, 2, 3]},
        {"weights": 5},
        {"training": None},
        {"training": {"data": None}},
        {"training": {"data": {"videos": "9"}}},
        {"training": {"options": {}}},
        {"training": {"options": {"held_out": 2, "seed": 0}}},
        {"training": {"options": {"held_out": 0.1, "seed": -1}}},
        {"model": None},
        {"model": ["fc-late-fusion"]},
        {"model": "attend-fusion"},
        {"model": "no-such"},
        {"config": None},
        {"config": [1]},
        {"config": {"width": "4", "depth": 1, "dropout": 0.0}},
        {"config": {"width": 4, "depth": 10**9, "dropout": 0.0}},
        {"config": {"width": 10**12, "depth": 1, "dropout": 0.0}},
        {"config": {"width": 4, "depth": 1, "dropout": 7}},
        {"unknown": 1},
        {"weights_sha256": 5},
    ],
)
def test_a_field_that_is_no_good_is_named(folder: Path, changes: dict[str, Any]) -> None:
    _change(folder, **changes)
    with pytest.raises(EdgeAfError, match=r"run\.json: not an edge-af run \(") as error:
        load_run(folder)
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize(
    "text", ["[" * 100_000, "null", "[]", '"run"', '{"schema_version": 9}', '{"schema_version": []}']
)
def test_what_is_no_run_at_all(folder: Path, text: str) -> None:
    (folder / RUN).write_text(text)
    with pytest.raises(EdgeAfError, match=r"run\.json: "):
        load_run(folder)


@pytest.mark.parametrize("weights", ["../w", "/etc/passwd", "a\0b", "", ".", "absent.safetensors"])
def test_weights_elsewhere(folder: Path, weights: str) -> None:
    _change(folder, weights=weights)
    with pytest.raises(EdgeAfError, match=r"outside its folder|missing|cannot be read"):
        load_network(folder)


def test_every_flipped_bit_of_the_weights_is_noticed(folder: Path) -> None:
    data = (folder / WEIGHTS).read_bytes()
    for at in (3, 100, len(data) // 2, len(data) - 1):
        (folder / WEIGHTS).write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
        with pytest.raises(EdgeAfError, match=f"{WEIGHTS}: does not hold this network's weights: SHA-256"):
            load_network(folder)
    (folder / WEIGHTS).write_bytes(data)
    load_network(folder)


def test_weights_of_another_kind_are_refused_without_a_hash_too(folder: Path) -> None:
    """Runs of older versions of edge-af have no hash."""
    _change(folder, weights_sha256=None)
    load_network(folder)
    tensors = load_file(folder / WEIGHTS)
    name = "head.weight"
    for change, reason in (
        ({name: tensors[name].half()}, "head.weight is float16, expected float32"),
        ({name: tensors[name].double()}, "head.weight is float64, expected float32"),
        ({name: tensors[name][:, :2].contiguous()}, r"head.weight has the shape \(3, 2\), expected \(3, 8\)"),
        ({"other": tensors[name].clone()}, "other is none of its tensors"),
    ):
        save_file({**tensors, **change}, folder / WEIGHTS)
        with pytest.raises(EdgeAfError, match=reason):
            load_network(folder)
    save_file({key: value for key, value in tensors.items() if key != name}, folder / WEIGHTS)
    with pytest.raises(EdgeAfError, match=r"head\.weight is missing"):
        load_network(folder)
    for data in (b"", b"\xff" * 100, b"\x08\0\0\0\0\0\0\0[[[[[[[["):
        (folder / WEIGHTS).write_bytes(data)
        with pytest.raises(EdgeAfError, match="does not hold this network's weights"):
            load_network(folder)


@pytest.mark.parametrize(
    "text",
    ['{"epoch": 1, "lo', "[]", "3", '{"held_out": {}}', '{"held_out": {"gap_at_20": "x"}}', "[" * 9999, "\udcff"],
)
def test_a_damaged_line_of_metrics_is_named(tmp_path: Path, text: str) -> None:
    good = '{"epoch": 1, "held_out": {"gap_at_20": 0.5}}\n'
    (tmp_path / "metrics.jsonl").write_text(good)
    assert len(records_in(tmp_path)) == 1
    (tmp_path / "metrics.jsonl").write_bytes(good.encode() + text.encode(errors="surrogateescape"))
    with pytest.raises(EdgeAfError, match=r"metrics\.jsonl: line 2 is damaged"):
        records_in(tmp_path)


def test_weights_of_earlier_versions_are_read(folder: Path):
    """Earlier versions numbered the modules of FC Late Fusion's streams."""
    path, now = folder / WEIGHTS, load_network(folder)[1].state_dict()
    number = {"fc1": "0", "norm1": "2"}
    old = {
        name.replace(found[1], number[found[1]]) if len(found := name.split(".")) == 3 else name: tensor
        for name, tensor in now.items()
    }
    assert "audio.2.running_mean" in old
    save_file(old, path)
    _change(folder, weights_sha256=sha256_file(path))
    read = load_network(folder)[1].state_dict()
    assert read.keys() == now.keys()
    assert all(torch.equal(read[name], now[name]) for name in now)
