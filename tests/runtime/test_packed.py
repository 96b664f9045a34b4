"""Packed weights give the same scores; constants are counted in both formats."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from tiny_export import export_tiny

import edge_af
from edge_af.data import Features
from edge_af.data.dataset import Dataset
from edge_af.models.presets import AttendFusionConfig
from edge_af.runtime import load, score_all
from edge_af.runtime.probe import weight_bytes


@pytest.mark.parametrize("suffix", ["onnx", "tflite"])
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_packed_weights_give_the_same_scores(
    exports: Path, eval_dataset: Dataset, tmp_path: Path, precision: str, suffix: str
):
    path = exports / f"attend-fusion/attend-fusion-{precision}.{suffix}"
    features = eval_dataset.features(slice(20))
    expected = score_all(load(path), features)
    packed = tmp_path / "packed"
    first = load(path, packed=packed)
    made = {file.name: file.stat().st_mtime_ns for file in packed.iterdir()}
    assert made
    np.testing.assert_array_equal(score_all(first, features), expected)
    again = load(path, packed=packed)
    np.testing.assert_array_equal(score_all(again, features, batch=7), expected)
    np.testing.assert_array_equal(again.score(features.take([0])), expected[:1])
    assert {file.name: file.stat().st_mtime_ns for file in packed.iterdir()} == made


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "int4"])
def test_packed_weights_of_odd_sizes_lie_where_the_kernels_need_them(
    dataset: Dataset, eval_dataset: Dataset, tmp_path: Path, precision: str
):
    """onnxruntime writes them unaligned, and its kernels then crash or read scales from the wrong place."""
    config = AttendFusionConfig(tokens=5, token_width=60, heads=4, dropout=0.0)
    out = export_tiny("attend-fusion", tmp_path / "out", dataset, name="int4-block32-dynamic", config=config)
    path, packed = out / f"attend-fusion-{precision}.onnx", tmp_path / "packed"
    # A separate process, because a wrong address can end in SIGSEGV.
    np.savez(tmp_path / "features.npz", *eval_dataset.features(slice(20)))
    program = (
        "import sys, numpy as np\n"
        "from edge_af.data import Features\n"
        "from edge_af.runtime import load, score_all\n"
        "features = np.load(sys.argv[3]); features = Features(features['arr_0'], features['arr_1'])\n"
        "one, two = load(sys.argv[1]), load(sys.argv[1], packed=sys.argv[2])\n"
        "for n in (1, 20):\n"
        "    np.testing.assert_array_equal(*(score_all(each, features.take(slice(n))) for each in (one, two)))"
    )
    done = subprocess.run([sys.executable, "-c", program, path, packed, tmp_path / "features.npz"], capture_output=True)
    assert done.returncode == 0, done.stderr.decode()[-2000:]

    model = onnx.load(packed / "packed.onnx", load_external_data=False)
    outside = [{e.key: e.value for e in tensor.external_data} for tensor in model.graph.initializer]
    blobs = [value for entries in outside for key, value in entries.items() if key.startswith("prepacked_")]
    places = [int(buffer.split(";")[0]) for blob in blobs for buffer in blob.split("|")[1:]]
    assert len(places) >= 5 and all(place % 64 == 0 for place in places)


@pytest.mark.slow
def test_packed_weights_of_a_file_with_integer_inputs(dataset: Dataset, tmp_path: Path):
    """The compiled model does not expose its tensors' scales."""
    out = export_tiny("attend-fusion", tmp_path / "out", dataset, name="int8-static", integer_io=True)
    path = out / "attend-fusion-int8.tflite"
    features = dataset.features(slice(20))
    expected = score_all(load(path), features)
    assert 0 <= expected.min() < 0.45 and 0.55 < expected.max() <= 1
    np.testing.assert_array_equal(score_all(load(path, packed=tmp_path / "packed"), features), expected)


def test_constants_are_counted(exports: Path):
    for manifest in exports.glob("*/manifest.json"):
        params = json.loads(manifest.read_text())["params"]
        for suffix in ("onnx", "tflite"):
            model = manifest.parent.name
            full = weight_bytes(manifest.parent / f"{model}-fp32.{suffix}")
            assert full == pytest.approx(4 * params, rel=0.03)
            assert 0.25 * full < weight_bytes(manifest.parent / f"{model}-int8.{suffix}") < 0.35 * full


@pytest.mark.parametrize("suffix", ["onnx", "tflite"])
def test_the_empty_model_is_a_network_of_ours(suffix: str):
    scorer = load(Path(edge_af.__file__).parent / f"bench/empty.{suffix}")
    assert scorer.classes == 1
    assert scorer.score(Features(np.ones((2, 1024), np.float32), np.ones((2, 128), np.float32))).tolist() == [
        [0.5],
        [0.5],
    ]
