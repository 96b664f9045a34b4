"""Training on several processes or machines.

`torchrun` starts the processes and passes each its rank in the environment. PyTorch's distributed data parallel averages
their gradients. Every global batch is split into equal parts, one per rank, and BatchNorm takes its statistics over all of
them. So the trained network does not depend on the number of processes, except for dropout, mixup and
rounding.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, distributed, nn

from edge_af.errors import EdgeAfError


@dataclass(frozen=True)
class Group:
    """This process's place among those that train together."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    """Rank among the processes of this machine."""

    @property
    def leads(self) -> bool:
        """True for the one process that evaluates, writes and prints."""
        return self.rank == 0

    def share_of(self, batch: int) -> int:
        """Return the number of videos of a global batch for each rank.

        Raises:
            EdgeAfError: the batch cannot be split into equal parts of at least two videos.
        """
        if batch % self.size or batch // self.size < 2:
            raise EdgeAfError(f"--batch {batch}: must be a multiple of the {self.size} processes, and 2 videos each.")
        return batch // self.size


ALONE = Group()


@contextlib.contextmanager
def joined() -> Iterator[Group]:
    """Join the processes that torchrun started for the duration of the block; without torchrun, train alone.

    Raises:
        EdgeAfError: other processes cannot be reached, or one ended early.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield ALONE
        return
    try:
        # nccl transfers gradients on GPUs; losses, signals and random states stay on the CPU.
        distributed.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
        yield Group(distributed.get_rank(), size, int(os.environ.get("LOCAL_RANK", "0")))
    except (distributed.DistError, RuntimeError) as error:
        if not lost_the_others(error):
            raise
        reason = str(error).strip().splitlines()[0]
        raise EdgeAfError(
            f"rank {os.environ.get('RANK')} of {size}: lost the other processes ({reason}).\n"
            "See which rank ended first, and why, above; then continue from the last checkpoint with --resume."
        ) from None
    finally:
        if distributed.is_initialized():
            with contextlib.suppress(RuntimeError):
                distributed.destroy_process_group()


def lost_the_others(error: Exception) -> bool:
    """Return True if the error says that another rank cannot be reached."""
    words = str(error).lower()
    return isinstance(error, distributed.DistError) or any(
        word in words for word in ("gloo", "nccl", "connection", "timed out", "timeout", "peer", "socket")
    )


def together(network: nn.Module, group: Group) -> nn.Module:
    """Wrap a network for training: gradients are averaged, and BatchNorm takes its statistics, over all ranks.

    `network` is changed in place: its BatchNorm layers are replaced, with the same parameters. It holds the weights.
    """
    if group.size == 1:
        return network
    for name, module in list(network.named_modules()):
        if type(module) is nn.BatchNorm1d:  # Not a folded one, which does nothing.
            parent, _, own = name.rpartition(".")
            setattr(network.get_submodule(parent), own, BatchNormOverRanks(module, group.size))
    return nn.parallel.DistributedDataParallel(network)


class SumOverRanks(torch.autograd.Function):
    """Sum of every rank's tensor, with the sum of every rank's gradient in the backward pass."""

    @staticmethod
    def forward(context: Any, tensor: Tensor) -> Tensor:
        total = tensor.clone()
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:
        total = gradient.clone()
        distributed.all_reduce(total)
        return total


class BatchNormOverRanks(nn.BatchNorm1d):
    """BatchNorm over the parts of a batch on all ranks. PyTorch's SyncBatchNorm supports only GPUs."""

    def __init__(self, module: nn.BatchNorm1d, size: int) -> None:
        super().__init__(module.num_features, eps=module.eps, momentum=module.momentum, device=module.weight.device)
        self.load_state_dict(module.state_dict())
        self.size = size

    def forward(self, x: Tensor) -> Tensor:
        """Normalize this rank's (n, features); n must be the same on every rank."""
        if not self.training:
            return super().forward(x)
        assert self.running_mean is not None and self.running_var is not None and self.num_batches_tracked is not None
        x32 = x.float()
        count = len(x) * self.size
        mean = SumOverRanks.apply(x32.sum(0)) / count
        # From centered values, because the difference of two large sums would lose precision.
        variance = SumOverRanks.apply(((x32 - mean) ** 2).sum(0)) / count
        with torch.no_grad():
            momentum = 0.1 if self.momentum is None else self.momentum
            self.running_mean.lerp_(mean, momentum)
            self.running_var.lerp_(variance * count / (count - 1), momentum)
            self.num_batches_tracked += 1
        normal = (x32 - mean) * torch.rsqrt(variance + self.eps)
        return (normal * self.weight + self.bias).to(x.dtype)


def mean_over(values: list[float], group: Group) -> list[float]:
    """Return the mean of each value over the ranks."""
    if group.size == 1:
        return values
    tensor = torch.tensor(values, dtype=torch.float64)
    distributed.all_reduce(tensor)
    return [float(value) for value in tensor / group.size]


def from_the_first(value: float, group: Group) -> float:
    """Return the first process's value in every process."""
    if group.size == 1:
        return value
    tensor = torch.tensor([value], dtype=torch.float64)
    distributed.broadcast(tensor, 0)
    return float(tensor)


def gathered(tensor: Tensor, group: Group) -> list[Tensor]:
    """Return every rank's tensor, by rank."""
    if group.size == 1:
        return [tensor]
    parts = [torch.empty_like(tensor) for _ in range(group.size)]
    distributed.all_gather(parts, tensor)
    return parts


def wait_for_all(group: Group) -> None:
    """Wait until every rank has called this."""
    if group.size > 1:
        distributed.barrier()
