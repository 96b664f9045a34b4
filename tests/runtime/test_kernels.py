"""INT8 sums are exact on every processor, and results name the kernels."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import edge_af
from edge_af.data import AUDIO_FEATURES, VISUAL_FEATURES, Features
from edge_af.machine.device import cpu_features
from edge_af.runtime import load
from edge_af.runtime.kernels import kernels
from edge_af.runtime.ort import PAIR_LIMIT, onnxruntime_module, u8s8_saturates, unsigned_weights
from edge_af.runtime.probe import may_hold_weights_beyond

CLASSES = 24


@pytest.fixture(params=["static", "dynamic"])
def saturating(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """A valid network with the largest activations and weights, so that sums of two products exceed 16 bits."""
    return network(tmp_path / f"{request.param}.onnx", 127, dynamic=request.param == "dynamic")


def network(path: Path, largest: int, *, dynamic: bool = True) -> Path:
    """Write a network with all weights equal to `largest` that scores `features` as 2 in every class."""
    weight = numpy_helper.from_array(np.full((VISUAL_FEATURES, CLASSES), largest, np.int8), "weight")
    scalars = (*SCALARS, ("shrink", 1 / (VISUAL_FEATURES * largest), np.float32))
    small = [numpy_helper.from_array(np.array(value, kind), name) for name, value, kind in scalars]
    if dynamic:
        layer = [
            helper.make_node("DynamicQuantizeLinear", ["visual"], ["codes", "code_scale", "code_zero"]),
            helper.make_node("MatMulInteger", ["codes", "weight", "code_zero"], ["sums"]),
            helper.make_node("Cast", ["sums"], ["floats"], to=TensorProto.FLOAT),
            helper.make_node("Mul", ["floats", "code_scale"], ["scaled"]),
        ]
    else:
        layer = [
            helper.make_node("QuantizeLinear", ["visual", "visual_scale", "visual_zero"], ["codes"]),
            helper.make_node("DequantizeLinear", ["codes", "visual_scale", "visual_zero"], ["quantized"]),
            helper.make_node("DequantizeLinear", ["weight", "one", "weight_zero"], ["weights"]),
            helper.make_node("MatMul", ["quantized", "weights"], ["scaled"]),
        ]
    nodes = [
        *layer,
        helper.make_node("Mul", ["scaled", "shrink"], ["logits"]),
        helper.make_node("ReduceSum", ["audio", "axis"], ["audio_sum"]),
        helper.make_node("Mul", ["audio_sum", "nothing"], ["no_audio"]),
        helper.make_node("Add", ["logits", "no_audio"], ["scores"]),
    ]
    inputs = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["videos", width])
        for name, width in (("visual", VISUAL_FEATURES), ("audio", AUDIO_FEATURES))
    ]
    output = helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["videos", CLASSES])
    graph = helper.make_graph(nodes, "saturating", inputs, [output], [weight, *small])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path.write_bytes(model.SerializeToString())
    return path


SCALARS = (
    ("visual_scale", 2 / 255, np.float32),
    ("visual_zero", 0, np.uint8),
    ("one", 1, np.float32),
    ("weight_zero", 0, np.int8),
    ("axis", [1], np.int64),
    ("nothing", 0, np.float32),
)


def features(videos: int = 3) -> Features:
    return Features(np.full((videos, VISUAL_FEATURES), 2, np.float32), np.zeros((videos, AUDIO_FEATURES), np.float32))


def test_sums_do_not_saturate_on_any_processor(saturating: Path, tmp_path: Path):
    np.testing.assert_allclose(load(saturating).score(features()), 2, rtol=1e-5)
    # Packed weights are equally exact, on the first load and on later ones.
    for _ in range(2):
        scorer = load(saturating, packed=tmp_path / "packed")
        np.testing.assert_allclose(scorer.score(features()), 2, rtol=1e-5)


def test_weights_that_fit_keep_the_faster_kernels(tmp_path: Path):
    for largest, beyond in ((PAIR_LIMIT, False), (-PAIR_LIMIT, False), (PAIR_LIMIT + 1, True), (-PAIR_LIMIT - 1, True)):
        path = network(tmp_path / f"{largest}.onnx", largest)
        assert may_hold_weights_beyond(path, PAIR_LIMIT) is beyond
        assert unsigned_weights(path) is (beyond and u8s8_saturates())
        np.testing.assert_allclose(load(path).score(features()), 2, rtol=1e-5)
        # A plain ONNX Runtime session is also exact.
        if not beyond:
            session = onnxruntime_module().InferenceSession(str(path), providers=["CPUExecutionProvider"])
            visual, audio = features()
            np.testing.assert_allclose(session.run(None, {"visual": visual, "audio": audio})[0], 2, rtol=1e-5)


def test_weights_that_cannot_be_read_here_count_as_large(tmp_path: Path):
    small = onnx.load(network(tmp_path / "small.onnx", 1))
    in_numbers, as_node, outside = (onnx.ModelProto.FromString(small.SerializeToString()) for _ in range(3))
    weight = in_numbers.graph.initializer[0]
    weight.int32_data.extend(np.frombuffer(weight.raw_data, np.int8).tolist())
    weight.ClearField("raw_data")
    as_node.graph.node.insert(0, helper.make_node("Constant", [], ["weight"], value=as_node.graph.initializer[0]))
    del as_node.graph.initializer[0]
    onnx.save_model(
        outside, tmp_path / "outside.onnx", save_as_external_data=True, size_threshold=0, location="weights"
    )
    onnx.save_model(in_numbers, tmp_path / "in_numbers.onnx")
    onnx.save_model(as_node, tmp_path / "as_node.onnx")
    (tmp_path / "cut.onnx").write_bytes((tmp_path / "small.onnx").read_bytes()[:-40])
    found = {path.stem: may_hold_weights_beyond(path, PAIR_LIMIT) for path in tmp_path.glob("*.onnx")}
    assert found == {"small": False, "in_numbers": True, "as_node": True, "outside": True, "cut": True}


@pytest.mark.slow
@pytest.mark.skipif(
    sys.platform != "linux" or not shutil.which("qemu-x86_64"), reason="no qemu-x86_64 (apt: qemu-user)"
)
@pytest.mark.parametrize("processor", ["Haswell", "EPYC-Milan"])
def test_sums_do_not_saturate_on_an_emulated_processor_without_vnni(saturating: Path, processor: str):
    script = (
        "import sys, numpy as np; from edge_af.data import Features; from edge_af.runtime import load;"
        "from edge_af.runtime.ort import u8s8_saturates;"
        f"visual, audio = np.full((1, {VISUAL_FEATURES}), 2, np.float32), np.zeros((1, {AUDIO_FEATURES}), np.float32);"
        "print(u8s8_saturates(), load(sys.argv[1]).score(Features(visual, audio)).min())"
    )
    root = str(Path(edge_af.__file__).parents[1])
    # Linux reports the real processor's instructions; what counts are those that QEMU emulates.
    command = ["qemu-x86_64", "-cpu", processor, sys.executable, "-c", script, str(saturating)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, env={"PYTHONPATH": root, "HOME": "/"})
    assert done.returncode == 0, done.stderr[-2000:]
    saturates, least = done.stdout.split()
    assert saturates == "True" and float(least) == pytest.approx(2, rel=1e-5)


X86 = ["sse4_1", "avx", "avx2", "fma"]
VNNI = [*X86, "avx512f", "avx512bw", "avx512_vnni"]


@pytest.mark.parametrize(
    "runtime, precision, integer, instructions, expected",
    [
        ("litert", "int8", True, VNNI, "S8S8 AVX-512 VNNI"),
        ("litert", "int8", True, [*X86, "avx_vnni"], "S8S8 AVX-VNNI"),
        ("litert", "int8", True, X86, "S8S8 AVX2"),
        ("litert", "int4", True, X86, "S8S4 AVX2"),
        ("onnxruntime", "int4", True, VNNI, "S8S4 AVX-512 VNNI"),
        ("onnxruntime", "fp32", False, VNNI, "F32 AVX-512"),
        ("litert", "fp32", False, X86, "F32 FMA3"),
        ("litert", "int8", False, X86, "F32 FMA3"),
        ("litert", "fp16", False, ["asimd"], "F32 NEON"),
        ("onnxruntime", "int8", True, ["asimd"], "S8S8 NEON"),
        ("onnxruntime", "int2", True, ["asimd"], "F32 NEON, INT2 weights dequantized"),
        ("onnxruntime", "int2", True, ["asimd", "asimddp"], "S8S2 dot product"),
        ("litert", "int4", True, ["asimd"], "S8S4 NEON"),
        ("onnxruntime", "int8", True, ["asimd", "asimddp"], "S8S8 dot product"),
        ("litert", "int8", True, ["asimd", "asimddp", "i8mm"], "S8S8 I8MM"),
        ("litert", "int8", True, [], None),
        ("litert", "int8", True, None, None),
    ],
)
def test_names_of_kernels(
    runtime: str, precision: str, integer: bool, instructions: list[str] | None, expected: str | None
):
    assert kernels(runtime, precision, integer=integer, features=instructions) == expected


@pytest.mark.skipif("avx2" not in (cpu_features() or ()), reason="not an x86-64 processor with AVX2")
def test_onnx_kernels_are_named_by_what_runs_here():
    name = kernels("onnxruntime", "int8", integer=True, features=cpu_features())
    assert name is not None and name.startswith("U8S8")
    other = kernels("onnxruntime", "int8", integer=True, features=cpu_features(), unsigned_weights=True)
    assert other == name.replace("U8S8", "U8U8")
    # VNNI is exact; only processors without it saturate.
    assert u8s8_saturates() == ("VNNI" not in name)
