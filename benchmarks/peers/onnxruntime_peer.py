"""ONNX Runtime's own quantizers, on the FP32 ONNX file that edge-af exports."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

NAME = "ONNX Runtime"
REQUIREMENTS = ("onnxruntime==1.31.1", "onnx==1.23.2", "onnx_ir", "sympy")
WAYS = {
    "fp32": "FP32",
    "dynamic": "quantize_dynamic, defaults",
    "dynamic-best": "quantize_dynamic, per channel",
    "static": "quantize_static, defaults",
    "static-best": "quantize_static, U8S8, per channel, float head",
    "nbits-8": "MatMulNBits 8, block 128, accuracy level 4",
    "nbits-4": "MatMulNBits 4, defaults",
    "nbits-4-best": "MatMulNBits 4, block 64, accuracy level 4",
    "nbits-2": "MatMulNBits 2, block 64, accuracy level 4",
}
BATCH = 1
HOW_KNOWN = "kernels of the optimized graph"


def export(way: str, source: Path, out: Path) -> None:
    """Quantize the FP32 file."""
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_dynamic, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    plain, target = source / "fp32.onnx", out / "model.onnx"
    if way == "fp32":
        target.write_bytes(plain.read_bytes())
        return
    if way == "dynamic":
        quantize_dynamic(plain, target)
    elif way == "dynamic-best":
        quantize_dynamic(plain, target, per_channel=True, weight_type=QuantType.QInt8)
    elif way.startswith("static"):
        with np.load(source / "calibration.npz") as arrays:
            visual, audio = arrays["visual"], arrays["audio"]

        class Reader(CalibrationDataReader):  # type: ignore[misc]
            def __init__(self) -> None:
                self._rows = iter(range(len(visual)))

            def get_next(self) -> dict[str, Any] | None:
                row = next(self._rows, None)
                return None if row is None else {"visual": visual[row : row + 1], "audio": audio[row : row + 1]}

        ready = out / "ready.onnx"
        quant_pre_process(str(plain), str(ready))
        how: dict[str, Any] = {}
        if way == "static-best":
            head = [node.name for node in onnx.load(ready).graph.node if node.op_type == "Sigmoid"]
            how = {
                "per_channel": True,
                "activation_type": QuantType.QUInt8,
                "weight_type": QuantType.QInt8,
                "nodes_to_exclude": head,
            }
        quantize_static(ready, target, Reader(), **how)
        ready.unlink()
    else:
        # It skips Gemm, so every Gemm becomes a MatMul and an Add first.
        from onnxruntime.quantization.matmul_nbits_quantizer import DefaultWeightOnlyQuantConfig, MatMulNBitsQuantizer

        model = _with_matmuls(onnx.load(plain))
        bits = int(way.split("-")[1])
        if way == "nbits-4":
            quantizer = MatMulNBitsQuantizer(model)
        else:
            config = DefaultWeightOnlyQuantConfig(block_size=128 if bits == 8 else 64, accuracy_level=4, bits=bits)
            quantizer = MatMulNBitsQuantizer(model, algo_config=config)
        quantizer.process()
        onnx.save(quantizer.model.model, target)


def _with_matmuls(model: Any) -> Any:
    import onnx
    from onnx import helper, numpy_helper

    constants = {one.name: one for one in model.graph.initializer}
    nodes = []
    for node in model.graph.node:
        if node.op_type != "Gemm":
            nodes.append(node)
            continue
        transposed = any(one.name == "transB" and one.i for one in node.attribute)
        weight = numpy_helper.to_array(constants[node.input[1]])
        if transposed:
            name = f"{node.input[1]}_t"
            if name not in constants:
                constants[name] = numpy_helper.from_array(np.ascontiguousarray(weight.T), name)
                model.graph.initializer.append(constants[name])
        else:
            name = node.input[1]
        product = f"{node.output[0]}_product"
        nodes.append(helper.make_node("MatMul", [node.input[0], name], [product], name=f"{node.name}_matmul"))
        nodes.append(helper.make_node("Add", [product, node.input[2]], [node.output[0]], name=f"{node.name}_add"))
    used = {name for node in nodes for name in node.input}
    kept = [one for one in model.graph.initializer if one.name in used]
    graph = helper.make_graph(nodes, model.graph.name, model.graph.input, model.graph.output, kept)
    made = helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)
    onnx.checker.check_model(made)
    return made


def load(way: str, source: Path, out: Path, threads: int) -> Any:
    """Return a function from features to scores."""
    session = _session(out, threads)

    def score(visual: Any, audio: Any) -> Any:
        return session.run(["scores"], {"visual": visual, "audio": audio})[0]

    return score


def _session(out: Path, threads: int, optimized: Path | None = None) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads, options.log_severity_level = threads, 1, 3
    if optimized is not None:
        options.optimized_model_filepath = str(optimized)
    return onnxruntime.InferenceSession(str(out / "model.onnx"), options, providers=["CPUExecutionProvider"])


def integer_kernels(way: str, out: Path) -> str:
    """Count the kernels of the weights' products in the optimized graph."""
    import collections

    import onnx

    path = out / "optimized.onnx"
    _session(out, 1, path)
    counts = collections.Counter(node.op_type for node in onnx.load(path, load_external_data=False).graph.node)
    path.unlink()
    kinds = ("QGemm", "QLinearMatMul", "DynamicQuantizeMatMul", "MatMulInteger", "MatMulIntegerToFloat", "MatMulNBits")
    floats = ("Gemm", "FusedGemm", "MatMul", "FusedMatMul")
    return ", ".join(f"{counts[kind]} {kind}" for kind in (*kinds, *floats) if counts[kind])
