"""Device and number format of training, and how fast this machine can be.

bfloat16 does not help everywhere: a processor with AMX, or a GPU, multiplies it several times as fast as float32, one with
AVX512-BF16 alone at half the speed. So it is measured and not looked up.
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
"""Side of the square matrices that are timed: as fast as any larger ones, and done in milliseconds."""
TRIES = 20
WORTH_IT = 1.2
"""bfloat16 has to multiply this much faster than float32: converting the weights at every step costs something too."""
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
BF16_FLAGS = frozenset({"avx512_bf16", "amx_bf16", "bf16", "svebf16"})


Inputs = tuple[Tensor, Tensor]
"""Visual (n, 1024) and audio (n, 128) float32 on the device."""


@dataclass(frozen=True)
class Compute:
    """A device, the numbers that matrices are multiplied in, and how fast it does that at best."""

    device: str
    """`cpu`, `cuda`, or `cuda:N`."""
    dtype: str
    """`fp32`, or `bf16`: matrix products in bfloat16, weights and all else in float32."""
    peak_flops: float
    """Floating-point operations a second of a square matrix product, as measured here."""

    @property
    def on_gpu(self) -> bool:
        return self.device.startswith("cuda")

    def autocast(self) -> torch.autocast:
        """The block in which matrix products are in `dtype`."""
        return torch.autocast(torch.device(self.device).type, torch.bfloat16, enabled=self.dtype == "bf16")

    def inputs(self, features: Features) -> Inputs:
        """Features on the device, as a network takes them."""
        return self.tensor(features.visual), self.tensor(features.audio)

    def tensor(self, array: NDArray[np.generic]) -> Tensor:
        """An array on the device, copied from pinned memory while the step before is computed."""
        tensor = torch.from_numpy(array)
        return tensor.pin_memory().to(self.device, non_blocking=True) if self.on_gpu else tensor


def choose_compute(device: str, precision: str, group: Group, before: str | None = None) -> Compute:
    """Choose the device and the precision; every process of the group chooses the same.

    Args:
        device: `cpu`, `cuda` or `auto`: a GPU where PyTorch finds one.
        precision: `fp32`, `bf16` or `auto`: bfloat16 where it is measured to be faster.
        group: the processes that train together, each with a GPU of its own.
        before: what a run that continues was begun with, which `auto` keeps to.

    Raises:
        EdgeAfError: there is no GPU, or there are fewer than processes on this machine.
    """
    place = _place(device, group)
    wanted = before if precision == "auto" and before in DTYPES else precision
    if wanted in DTYPES:
        return Compute(place, wanted, matmul_flops(place, DTYPES[wanted]))
    fp32 = matmul_flops(place, torch.float32)
    if not place.startswith("cuda") and not _has_bf16():
        return Compute(place, "fp32", fp32)
    bf16 = matmul_flops(place, torch.bfloat16)
    # Two processes that measured differently would train two networks.
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
    """Floating-point operations a second of the product of two square matrices, the best of a few."""
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
    """Return True if this processor has instructions for bfloat16; otherwise it is emulated, and not worth measuring."""
    with contextlib.suppress(OSError):
        return bool(BF16_FLAGS & set(Path("/proc/cpuinfo").read_text(encoding="utf-8").split()))
    return False


@dataclass
class Stopwatch:
    """Timer of an epoch's parts."""

    started: float
    waited: float = 0.0
    """Seconds that training stood still for its data."""
    videos: int = 0

    def timed(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """The batches, with the time that waiting for each takes added up."""
        while True:
            before = time.perf_counter()
            batch = next(batches, None)
            self.waited += time.perf_counter() - before
            if batch is None:
                return
            yield batch

    def speed(self, flops_a_video: int, compute: Compute, group: Group) -> dict[str, float]:
        """The figures for an epoch's record, of all processes together; empty if nothing was trained.

        `videos_per_s`; `data_wait_share`, of the time, this process's; `peak_share`, matrix products done a second as a share
        of what `Compute.peak_flops` says could be.
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
