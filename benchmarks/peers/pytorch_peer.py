"""PyTorch: eager, compiled, and torchao."""

from __future__ import annotations

from pathlib import Path
from typing import Any

NAME = "PyTorch"
REQUIREMENTS = ("torch==2.13.0", "torchao==0.18.0", "safetensors", "msgspec", "numpy", "PyYAML", "click")
WAYS = {
    "eager": "FP32, eager",
    "compile": "FP32, torch.compile",
    "dynamic": "torch.ao dynamic INT8",
    "torchao-int8": "torchao INT8 weights and activations, compiled",
    "torchao-int8-weights": "torchao INT8 weights, compiled",
    "torchao-int4": "torchao INT4 weights, INT8 activations, compiled",
}
BATCH = 64
"""Videos scored at a time. Compiled networks of single videos would take a quarter of an hour each."""
HOW_KNOWN = "not shown by the tool"


def export(way: str, source: Path, out: Path) -> None:
    """Nothing is written: a network is quantized in memory when it is loaded."""
    (out / "nothing").touch()


def load(way: str, source: Path, out: Path, threads: int) -> Any:
    """Return a function from features to scores."""
    import torch

    from benchmarks.peers.shared import torch_network

    torch.set_num_threads(threads)
    network, _ = torch_network(source)
    if way == "dynamic":
        network = torch.ao.quantization.quantize_dynamic(network, {torch.nn.Linear}, dtype=torch.qint8)
    elif way.startswith("torchao"):
        from torchao import quantization

        config = {
            "torchao-int8": "Int8DynamicActivationInt8WeightConfig",
            "torchao-int8-weights": "Int8WeightOnlyConfig",
            "torchao-int4": "Int8DynamicActivationIntxWeightConfig",
        }[way]
        given = {"weight_dtype": torch.int4} if way == "torchao-int4" else {}
        quantization.quantize_(network, getattr(quantization, config)(**given))
    if way not in ("eager", "dynamic"):
        network = torch.compile(network)

    def score(visual: Any, audio: Any) -> Any:
        with torch.inference_mode():
            return network(torch.from_numpy(visual), torch.from_numpy(audio)).numpy()

    return score


def integer_kernels(way: str, out: Path) -> str:
    """Say what the tool shows."""
    return "float" if way in ("eager", "compile") else "unknown"
