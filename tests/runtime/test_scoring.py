"""Files load in their runtime and score alike; errors about unusable features name array and row."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from edge_af.data import Features
from edge_af.data.dataset import Dataset
from edge_af.errors import EdgeAfError
from edge_af.runtime import MissingRuntime, check_features, import_runtime, load, score_all


@pytest.mark.parametrize("model", ["attend-fusion", "fc-late-fusion"])
def test_both_formats_score_alike_whatever_the_batch(exports: Path, eval_dataset: Dataset, model: str):
    onnx, tflite = (load(exports / model / f"{model}-fp32.{suffix}") for suffix in ("onnx", "tflite"))
    assert (onnx.runtime, tflite.runtime) == ("onnxruntime", "litert")
    assert onnx.classes == tflite.classes == eval_dataset.classes
    visual, audio = eval_dataset.features(slice(70))
    scores = score_all(onnx, Features(visual, audio), batch=32)
    assert scores.shape == (70, eval_dataset.classes) and scores.dtype == np.float32
    np.testing.assert_allclose(score_all(tflite, Features(visual, audio), batch=32), scores, atol=1e-5)
    for scorer in (onnx, tflite):
        one_by_one = score_all(scorer, Features(visual[:5], audio[:5]), batch=1)
        np.testing.assert_allclose(one_by_one, scores[:5], atol=1e-5)


def test_a_file_opens_in_its_own_runtime_only(exports: Path):
    with pytest.raises(EdgeAfError, match="opens in onnxruntime, not in litert"):
        load(exports / "attend-fusion/attend-fusion-fp32.onnx", runtime="litert")
    with pytest.raises(EdgeAfError, match="no such file"):
        load(exports / "nothing.onnx")
    with pytest.raises(EdgeAfError, match="neither a run folder nor"):
        load(exports / "attend-fusion/manifest.json")


@pytest.mark.parametrize("suffix", ["onnx", "tflite"])
def test_a_damaged_file_is_our_error_in_the_runtime_too(tmp_path: Path, suffix: str):
    path = tmp_path / f"damaged.{suffix}"
    path.write_bytes(np.random.default_rng(0).bytes(5000))
    with pytest.raises(EdgeAfError, match="cannot load this file"):
        load(path)


@pytest.mark.parametrize("runtime, package", [("onnxruntime", "onnxruntime"), ("litert", "ai_edge_litert.interpreter")])
def test_a_runtime_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch, runtime: str, package: str):
    for name in (package, "tflite_runtime.interpreter"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingRuntime, match="pip install"):
        import_runtime(runtime)


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda v, a: (v[:, :1000], a), "array 'visual' has 1000 features per video"),
        (lambda v, a: (v, a.astype(str)), "array 'audio' is <U"),
        (lambda v, a: (v, a[:5]), "9 rows in 'visual' and 5 in 'audio'"),
        (lambda v, a: (v[:0], a[:0]), "holds no videos"),
        (lambda v, a: (_with(v, 7, np.nan), a), "array 'visual', row 7: NaN"),
        (lambda v, a: (v, _with(a, 3, -np.inf)), "array 'audio', row 3: NaN or infinite"),
    ],
)
def test_features_that_cannot_be_scored_are_refused(change, message: str):
    visual, audio = change(np.ones((9, 1024), np.float32), np.ones((9, 128), np.float32))
    with pytest.raises(EdgeAfError, match=f"somewhere: .*{message}"):
        check_features(Features(visual, audio), "somewhere")


def test_the_row_named_is_the_files_own():
    visual, audio = _with(np.ones((3, 1024), np.float32), 1, np.nan), np.ones((3, 128), np.float32)
    with pytest.raises(EdgeAfError, match="row 50"):
        check_features(Features(visual, audio), "somewhere", rows=[10, 50, 60])


def _with(array, row, value):
    array[row, 5] = value
    return array


@pytest.mark.parametrize("model", ["attend-fusion", "fc-late-fusion"])
def test_a_videos_scores_do_not_depend_on_those_it_is_scored_with(exports: Path, eval_dataset: Dataset, model: str):
    """Dynamic INT8 in ONNX Runtime uses one range for the whole batch, but timing is per video."""
    dynamic = load(exports / model / f"{model}-int8.onnx")
    visual, audio = eval_dataset.features(slice(20))
    alone = np.concatenate([dynamic.score(Features(visual[i : i + 1], audio[i : i + 1])) for i in range(20)])
    assert np.abs(dynamic.score(Features(visual, audio)) - alone).max() > 0
    np.testing.assert_array_equal(score_all(dynamic, Features(visual, audio)), alone)


def test_only_files_that_depend_on_the_batch_are_scored_one_by_one(exports: Path):
    limits = {
        (precision, suffix): load(exports / f"attend-fusion/attend-fusion-{precision}.{suffix}").max_batch
        for precision in ("fp32", "int8")
        for suffix in ("onnx", "tflite")
    }
    assert limits.pop(("int8", "onnx")) == 1
    assert set(limits.values()) == {None}
