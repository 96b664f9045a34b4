"""ExecuTorch with the XNNPACK delegate."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

NAME = "ExecuTorch with XNNPACK"
REQUIREMENTS = ("executorch==1.5.1", "torch==2.13.0", "safetensors", "msgspec", "PyYAML", "click")
WAYS = {
    "fp32": "FP32",
    "int8-dynamic": "XNNPACKQuantizer, dynamic, per channel",
    "int8-static": "XNNPACKQuantizer, static, per channel",
}
BATCH = 1
HOW_KNOWN = "delegated partitions"


def export(way: str, source: Path, out: Path) -> None:
    """Export the PyTorch network."""
    import torch
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower

    from benchmarks.peers.shared import torch_network

    network, sample = torch_network(source)
    program = torch.export.export(network, sample)
    if way != "fp32":
        from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (
            XNNPACKQuantizer,
            get_symmetric_quantization_config,
        )
        from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

        config = get_symmetric_quantization_config(is_per_channel=True, is_dynamic=way == "int8-dynamic")
        prepared = prepare_pt2e(program.module(), XNNPACKQuantizer().set_global(config))
        with np.load(source / "calibration.npz") as arrays:
            for row in range(len(arrays["visual"]) if way == "int8-static" else 1):
                prepared(*(torch.from_numpy(arrays[name][row : row + 1]) for name in ("visual", "audio")))
        program = torch.export.export(convert_pt2e(prepared), sample)
    lowered = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()])
    (out / "model.pte").write_bytes(lowered.to_executorch().buffer)
    names = [
        node.target.__name__ for node in lowered.exported_program().graph.nodes if hasattr(node.target, "__name__")
    ]
    (out / "nodes.txt").write_text("\n".join(names), encoding="utf-8")


def artifact(way: str, out: Path) -> Path:
    """Return the file with the weights."""
    return out / "model.pte"


def load(way: str, source: Path, out: Path, threads: int) -> Any:
    """Return a function from features to scores."""
    import torch
    from executorch.runtime import Runtime

    try:
        from executorch.extension.pybindings.portable_lib import _threadpool_set_num_threads
    except ImportError:
        pass
    else:
        _threadpool_set_num_threads(threads)
    method = Runtime.get().load_program(out / "model.pte").load_method("forward")

    def score(visual: Any, audio: Any) -> Any:
        return method.execute([torch.from_numpy(visual), torch.from_numpy(audio)])[0].numpy()

    return score


def integer_kernels(way: str, out: Path) -> str:
    """Count the operators outside the delegate."""
    names = (out / "nodes.txt").read_text(encoding="utf-8").split()
    delegated = sum("executorch_call_delegate" in name for name in names)
    return f"{delegated} delegated part(s)"
