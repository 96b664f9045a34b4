"""The harness exports, times and scores with a peer, and a peer that fails is a row with its error."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.peers import __main__ as peers
from edge_af.data.dataset import Dataset


@pytest.fixture
def source(exports: Path, eval_dataset: Dataset, tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    folder.mkdir()
    shutil.copy(exports / "attend-fusion" / "attend-fusion-fp32.onnx", folder / "fp32.onnx")
    features = eval_dataset.features(slice(None))
    for name in ("eval", "calibration"):
        np.savez(folder / f"{name}.npz", visual=features.visual, audio=features.audio)
    return folder


def test_every_peer_has_its_parts():
    for name in peers.PEERS:
        module = peers.Way(name, "").module
        assert module.NAME and module.WAYS and module.HOW_KNOWN
        assert all("==" in one or one.isidentifier() for one in module.REQUIREMENTS)
        assert callable(module.export) and callable(module.load) and callable(module.integer_kernels)
    assert {f"{name}_peer.py" for name in peers.PEERS} == {path.name for path in peers.HERE.glob("*_peer.py")}


def test_a_peer_is_exported_timed_and_scored(
    source: Path, eval_dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(peers, "_python", lambda peer, work: Path(sys.executable))
    monkeypatch.setattr(peers, "SECONDS", 0.01)
    ways = [peers.Way("onnxruntime", way) for way in ("fp32", "dynamic-best", "unknown")]
    rows: dict[peers.Way, dict[str, Any]] = {way: peers._exported(way, source, tmp_path) for way in ways}
    assert "dynamic-best" in ways[0].module.WAYS
    assert "Error" in rows[ways[2]]["error"]
    for way in ways[:2]:
        rows[way]["size_bytes"] = peers._size(way, tmp_path)
        rows[way]["instructions"] = {}
        peers._score(way, rows[way], source, tmp_path)
    peers._time_all(ways, rows, 1, source, tmp_path, quick=True)
    peers._time_all(ways, rows, 2, source, tmp_path, quick=True)
    peers._add_accuracy(ways, rows, eval_dataset, tmp_path)
    plain, dynamic = rows[ways[0]], rows[ways[1]]
    assert plain["gap_at_20_difference"] == 0
    assert abs(dynamic["gap_at_20_difference"]) < 0.05
    assert 0 < dynamic["size_bytes"] < plain["size_bytes"]
    assert "DynamicQuantizeMatMul" in dynamic["kernels"]
    assert 0 < plain["p50_ms_1"] <= plain["p90_ms_1"]
    assert plain["peak_memory_bytes_1"] > 10**7
    found = {
        "command": "x",
        "commit": "0",
        "videos": eval_dataset.videos,
        "device": {"cpu": "c", "cores": 2},
        "network": {"model": "attend-fusion", "preset": "tiny", "params": 1},
        "also": None,
        "boards": [],
        "rows": [{"peer": "p", "way": way.way, **rows[way]} for way in ways],
    }
    lines = peers.markdown(json.loads(json.dumps(found))).splitlines()
    assert {line.count("|") for line in lines[:5]} == {13}
    # Finished work is kept, a failure is tried again.
    assert peers._exported(ways[0], source, tmp_path)["export_seconds"] == plain["export_seconds"]
    assert not (tmp_path / "files" / "onnxruntime" / "unknown" / "facts.json").exists()
