"""A quantized network agrees with its original, and a different network does not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edge_af.compare.agreement import LEAST_AGREEMENT, agreement, disorder
from edge_af.data.dataset import Dataset
from edge_af.runtime import load, score_all


@pytest.fixture(scope="module")
def scores() -> np.ndarray:
    random = np.random.default_rng(0)
    logits = random.normal(size=(100, 40)) * 2 + random.normal(size=40) * 3 - 4
    return (1 / (1 + np.exp(-logits))).astype(np.float32)


def test_the_same_agree(scores: np.ndarray):
    assert agreement(scores, scores) == pytest.approx(1)
    assert disorder(scores, scores) is None


def test_noise_of_the_size_of_quantization_passes(scores: np.ndarray):
    logits = np.log(scores / (1 - scores)) + np.random.default_rng(1).normal(size=scores.shape).astype(np.float32) * 0.3
    assert agreement(scores, 1 / (1 + np.exp(-logits))) > 0.95


WRONG = (
    "prior", "constant", "zeros", "ones", "other videos", "inverted", "not a number", "other classes",
)  # fmt: skip


@pytest.mark.parametrize("kind", WRONG)
def test_something_else_does_not_agree(scores: np.ndarray, kind: str):
    wrong = {
        "prior": np.repeat(scores.mean(axis=0, keepdims=True), len(scores), axis=0),
        "constant": np.full_like(scores, 0.5),
        "zeros": np.zeros_like(scores),
        "ones": np.ones_like(scores),
        "other videos": scores[np.random.default_rng(2).permutation(len(scores))],
        "inverted": 1 - scores,
        "not a number": np.where(np.arange(40) == 3, np.nan, scores),
        "other classes": scores[:, :39],
    }[kind]
    assert agreement(scores, wrong) < min(LEAST_AGREEMENT.values())
    alike = "scores all videos alike"
    why = {
        "not a number": "has scores that are not numbers",
        "other classes": "scores 39 classes where the base scores 40",
    }
    why |= dict.fromkeys(("prior", "constant", "zeros", "ones"), alike)
    assert disorder(scores, wrong) == (("candidate", why[kind]) if kind in why else None)
    if kind in why and kind != "other classes":
        assert disorder(wrong, scores) == ("base", why[kind])


@pytest.mark.parametrize("model", ["attend-fusion", "fc-late-fusion"])
@pytest.mark.parametrize("suffix", ["onnx", "tflite"])
def test_real_int8_files_agree_with_fp32(exports: Path, eval_dataset: Dataset, model: str, suffix: str):
    features = eval_dataset.features(slice(100))
    fp32 = score_all(load(exports / model / f"{model}-fp32.onnx"), features)
    assert agreement(fp32, score_all(load(exports / model / f"{model}-int8.{suffix}"), features)) > 0.95
