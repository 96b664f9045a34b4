"""Device and number format of training, and the machine's peak speed.

bfloat16 does not help everywhere. With AMX or a GPU it multiplies several times as fast as float32, with AVX512-BF16 alone
at half the speed. So its speed is measured.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edge_af.data import Features
from edge_af.data.batches import Batch
from edge_af.errors import EdgeAfError
from edge_af.train.distributed import Group, from_the_first

SIDE = 1024
"""Size of the square matrices that are timed; larger ones are no faster, and these take milliseconds."""
TRIES = 20
WORTH_IT = 1.2
"""Least speedup of bfloat16 over float32 to use it, because converting the weights costs time at every step."""
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
BF16_FLAGS = frozenset({"avx512_bf16", "amx_bf16", "bf16", "svebf16"})


Inputs = tuple[Tensor, Tensor]
"""Visual (n, 1024) and audio (n, 128), float32, on the device."""


@dataclass(frozen=True)
class Compute:
    """A device, its precision for matrix products, and its peak speed."""

    device: str
    """`cpu`, `cuda`, or `cuda:N`."""
    dtype: str
    """`fp32`, or `bf16` for matrix products in bfloat16 with everything else in float32."""
    peak_flops: float
    """Measured floating-point operations per second of a square matrix product."""

    @property
    def on_gpu(self) -> bool:
        return self.device.startswith("cuda")

    def autocast(self) -> torch.autocast:
        """Return the context in which matrix products use `dtype`."""
        return torch.autocast(torch.device(self.device).type, torch.bfloat16, enabled=self.dtype == "bf16")

    def inputs(self, features: Features) -> Inputs:
        """Copy features to the device, as network inputs."""
        return self.tensor(features.visual), self.tensor(features.audio)

    def tensor(self, array: NDArray[np.generic]) -> Tensor:
        """Copy an array to the device, from pinned memory during the previous step."""
        tensor = torch.from_numpy(array)
        return tensor.pin_memory().to(self.device, non_blocking=True) if self.on_gpu else tensor


def choose_compute(device: str, precision: str, group: Group, before: str | None = None) -> Compute:
    """Choose the device and the precision, the same in every process of the group.

    Args:
        device: `cpu`, `cuda`, or `auto` for a GPU if PyTorch finds one.
        precision: `fp32`, `bf16`, or `auto` for bfloat16 if it is measured to be faster.
        group: the processes that train together, each on its own GPU.
        before: precision of a resumed run, which `auto` keeps.

    Raises:
        EdgeAfError: PyTorch finds fewer GPUs than this machine has processes in training, or none.
    """
    place = _place(device, group)
    wanted = before if precision == "auto" and before in DTYPES else precision
    if wanted in DTYPES:
        return Compute(place, wanted, matmul_flops(place, DTYPES[wanted]))
    fp32 = matmul_flops(place, torch.float32)
    if not place.startswith("cuda") and not _has_bf16():
        return Compute(place, "fp32", fp32)
    bf16 = matmul_flops(place, torch.bfloat16)
    # Processes with different measurements would train different networks.
    chosen = bool(from_the_first(float(bf16 > WORTH_IT * fp32), group))
    return Compute(place, "bf16", bf16) if chosen else Compute(place, "fp32", fp32)


def _place(device: str, group: Group) -> str:
    gpus = torch.cuda.device_count()
    if device == "cpu" or (device == "auto" and not gpus):
        return "cpu"
    if not gpus:
        raise EdgeAfError(
            f"--device {device}: PyTorch {torch.__version__} finds no GPU here.\n"
            "Check the driver and that this is a CUDA build, or use --device cpu."
        )
    if group.local_rank >= gpus:
        raise EdgeAfError(
            f"--device {device}: process {group.local_rank} of this machine has no GPU of its own; there are {gpus}.\n"
            f"Start {gpus} with torchrun's --nproc-per-node={gpus}."
        )
    torch.cuda.set_device(group.local_rank)
    return f"cuda:{group.local_rank}"


def matmul_flops(device: str, dtype: torch.dtype) -> float:
    """Measure the floating-point operations per second of a square matrix product, the best of a few."""
    side = 8 * SIDE if device.startswith("cuda") else SIDE
    left, right = (torch.ones(side, side, dtype=dtype, device=device) for _ in range(2))
    best = float("inf")
    for _ in range(TRIES):
        started = time.perf_counter()
        left @ right
        if device.startswith("cuda"):
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - started)
    return 2 * side**3 / best


def _has_bf16() -> bool:
    """Return True if this processor has bfloat16 instructions; without them it is emulated and slow."""
    with contextlib.suppress(OSError):
        return bool(BF16_FLAGS & set(Path("/proc/cpuinfo").read_text(encoding="utf-8").split()))
    return False


@dataclass
class Stopwatch:
    """Timer for an epoch."""

    started: float
    waited: float = 0.0
    """Seconds that training waited for data."""
    videos: int = 0

    def timed(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """Yield the batches, and add up the time spent waiting for them."""
        while True:
            before = time.perf_counter()
            batch = next(batches, None)
            self.waited += time.perf_counter() - before
            if batch is None:
                return
            yield batch

    def speed(self, flops_a_video: int, compute: Compute, group: Group) -> dict[str, float]:
        """Return the speed figures for an epoch's record, over all processes; empty if nothing was trained.

        `videos_per_s`; `data_wait_share`, this process's share of time spent waiting for data; `peak_share`, the speed of
        matrix products as a share of `Compute.peak_flops`.
        """
        seconds = time.perf_counter() - self.started
        if not self.videos:
            return {}
        rate = self.videos * group.size / seconds
        return {
            "videos_per_s": rate,
            "data_wait_share": self.waited / seconds,
            "peak_share": rate / group.size * flops_a_video / compute.peak_flops,
        }
