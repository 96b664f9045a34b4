"""The container check refuses files that are not our models, and never fails in any other way."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from edge_af.errors import EdgeAfError
from edge_af.runtime.probe import check_model_file

FILES = [
    f"{model}/{model}-{precision}.{suffix}"
    for model in ("attend-fusion", "fc-late-fusion")
    for precision in ("fp32", "int8")
    for suffix in ("onnx", "tflite")
]


@pytest.mark.parametrize("name", FILES)
def test_our_own_files_pass(exports: Path, name: str):
    check_model_file(exports / name)


@pytest.mark.parametrize("suffix", [".onnx", ".tflite"])
@pytest.mark.parametrize(
    "content", [b"", b"\0" * 100, b"no model at all\n" * 50, bytes(range(256)) * 20, b"\x1c\0\0\0TFL3"]
)
def test_what_is_no_model_is_refused_by_name(tmp_path: Path, suffix: str, content: bytes):
    path = tmp_path / f"odd{suffix}"
    path.write_bytes(content)
    with pytest.raises(EdgeAfError, match=f"odd{suffix}: not an? .* model"):
        check_model_file(path)


@pytest.mark.parametrize("suffix", ["onnx", "tflite"])
def test_a_file_cut_anywhere_is_refused(exports: Path, tmp_path: Path, suffix: str):
    """An ONNX file's graph spans nearly all of it; a FlatBuffer may have its tables at the front and its weights at the end."""
    whole = (exports / f"attend-fusion/attend-fusion-fp32.{suffix}").read_bytes()
    path = tmp_path / f"cut.{suffix}"
    for share in (0.001, 0.1, 0.5, 0.9) if suffix == "onnx" else (0.00005, 0.0001):
        path.write_bytes(whole[: int(len(whole) * share)])
        with pytest.raises(EdgeAfError):
            check_model_file(path)


@pytest.mark.parametrize("suffix", ["onnx", "tflite"])
def test_flipped_bytes_give_our_error_or_none(exports: Path, tmp_path: Path, suffix: str):
    whole = (exports / f"attend-fusion/attend-fusion-int8.{suffix}").read_bytes()
    random = np.random.default_rng(5)
    path = tmp_path / f"flipped.{suffix}"
    refused = 0
    for _ in range(400):
        damaged = bytearray(whole)
        # Near both ends, where the containers keep their structure.
        for at in random.integers(0, 3000, 4) * random.choice([1, -1], 4):
            damaged[at] = random.integers(256)
        path.write_bytes(damaged)
        try:
            check_model_file(path)
        except EdgeAfError:
            refused += 1
    assert refused > 20


def test_a_model_with_other_inputs_is_refused_and_they_are_named(tmp_path: Path):
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, 3])
    graph = helper.make_graph([helper.make_node("Relu", ["image"], ["logits"])], "other", [image], [logits])
    path = tmp_path / "other.onnx"
    onnx.save(helper.make_model(graph), path)
    with pytest.raises(EdgeAfError, match=r"not an edge-af network: inputs \['image'\], outputs \['logits'\]"):
        check_model_file(path)
