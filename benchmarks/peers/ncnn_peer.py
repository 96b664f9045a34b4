"""ncnn, converted by pnnx."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

NAME = "ncnn"
REQUIREMENTS = ("ncnn==1.0.20261020", "pnnx==20261020", "torch==2.13.0", "safetensors", "msgspec", "PyYAML", "click")
WAYS = {"fp32": "pnnx, FP32", "fp16": "pnnx, defaults (FP16 weights)"}
BATCH = 1
HOW_KNOWN = "not shown by the tool"


def export(way: str, source: Path, out: Path) -> None:
    """Trace the PyTorch network and convert it."""
    import torch

    from benchmarks.peers.shared import torch_network

    network, sample = torch_network(source)
    traced = out / "model.pt"
    torch.jit.trace(network, sample).save(str(traced))
    tool = Path(sys.executable).with_name("pnnx")
    shapes = f"inputshape=[1,{sample[0].shape[1]}],[1,{sample[1].shape[1]}]"
    subprocess.run([str(tool), str(traced), shapes, f"fp16={int(way == 'fp16')}"], cwd=out, check=True)
    traced.unlink()
    for path in out.iterdir():
        if ".ncnn." not in path.name:
            path.unlink()


def artifact(way: str, out: Path) -> Path:
    """Return the file with the weights."""
    return next(out.glob("*.ncnn.bin"))


def load(way: str, source: Path, out: Path, threads: int) -> Any:
    """Return a function from features to scores."""
    import ncnn
    import numpy as np

    net = ncnn.Net()
    net.opt.num_threads = threads
    net.load_param(str(next(out.glob("*.ncnn.param"))))
    net.load_model(str(next(out.glob("*.ncnn.bin"))))
    names, last = net.input_names(), net.output_names()[-1]

    def score(visual: Any, audio: Any) -> Any:
        extractor = net.create_extractor()
        extractor.input(names[0], ncnn.Mat(visual[0]))
        extractor.input(names[1], ncnn.Mat(audio[0]))
        return np.array(extractor.extract(last)[1]).reshape(1, -1)

    return score


def integer_kernels(way: str, out: Path) -> str:
    """Say what the tool shows."""
    return "float"
