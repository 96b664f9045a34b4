"""Training on several processes or machines: who we are among them, and what has to be the same everywhere.

`torchrun` starts the processes and tells each its rank through the environment; PyTorch's distributed data parallel averages
their gradients. Every global batch is cut into as many equal parts as there are ranks, and BatchNorm takes its statistics over
all of them, so that the network trained does not depend on the number of processes (but for dropout's draws and rounding).
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
    """This process among those that train together."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    """Among the processes of its own machine."""

    @property
    def leads(self) -> bool:
        """True if this is the process that evaluates, writes and speaks."""
        return self.rank == 0

    def share_of(self, batch: int) -> int:
        """Videos of a global batch that each rank takes.

        Raises:
            EdgeAfError: the batch cannot be cut into equal parts of at least two videos.
        """
        if batch % self.size or batch // self.size < 2:
            raise EdgeAfError(f"--batch {batch}: must be a multiple of the {self.size} processes, and 2 videos each.")
        return batch // self.size


ALONE = Group()


@contextlib.contextmanager
def joined() -> Iterator[Group]:
    """Join the processes that torchrun started, for the length of the block; alone without torchrun.

    Raises:
        EdgeAfError: the others cannot be reached, or one of them ended before its time.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield ALONE
        return
    try:
        # Gradients on GPUs go through nccl; losses, signals and random states are on the CPU either way.
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
    """The network as it is called in training: gradients averaged over the ranks, BatchNorm's statistics taken over all.

    `network` itself is changed (its BatchNorm layers are replaced by ones of the same parameters) and holds the weights.
    """
    if group.size == 1:
        return network
    for name, module in list(network.named_modules()):
        if isinstance(module, nn.BatchNorm1d):
            parent, _, own = name.rpartition(".")
            setattr(network.get_submodule(parent), own, BatchNormOverRanks(module, group.size))
    return nn.parallel.DistributedDataParallel(network)


class SumOverRanks(torch.autograd.Function):
    """The sum of every rank's tensor, and of every rank's gradient on the way back."""

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
    """BatchNorm over the parts of a batch that all ranks hold. PyTorch's own SyncBatchNorm is for GPUs alone."""

    def __init__(self, module: nn.BatchNorm1d, size: int) -> None:
        super().__init__(module.num_features, eps=module.eps, momentum=module.momentum, device=module.weight.device)
        self.load_state_dict(module.state_dict())
        self.size = size

    def forward(self, x: Tensor) -> Tensor:
        """(n, features) of this rank to the same shape; every rank must hold as many videos."""
        if not self.training:
            return super().forward(x)
        assert self.running_mean is not None and self.running_var is not None and self.num_batches_tracked is not None
        x32 = x.float()
        count = len(x) * self.size
        mean = SumOverRanks.apply(x32.sum(0)) / count
        # From centered values: the difference of two large sums would lose what is small.
        variance = SumOverRanks.apply(((x32 - mean) ** 2).sum(0)) / count
        with torch.no_grad():
            momentum = 0.1 if self.momentum is None else self.momentum
            self.running_mean.lerp_(mean, momentum)
            self.running_var.lerp_(variance * count / (count - 1), momentum)
            self.num_batches_tracked += 1
        normal = (x32 - mean) * torch.rsqrt(variance + self.eps)
        return (normal * self.weight + self.bias).to(x.dtype)


def mean_over(values: list[float], group: Group) -> list[float]:
    """The mean of each value over the ranks."""
    if group.size == 1:
        return values
    tensor = torch.tensor(values, dtype=torch.float64)
    distributed.all_reduce(tensor)
    return [float(value) for value in tensor / group.size]


def from_the_first(value: float, group: Group) -> float:
    """The first process's value, in all of them."""
    if group.size == 1:
        return value
    tensor = torch.tensor([value], dtype=torch.float64)
    distributed.broadcast(tensor, 0)
    return float(tensor)


def gathered(tensor: Tensor, group: Group) -> list[Tensor]:
    """Every rank's tensor, by rank."""
    if group.size == 1:
        return [tensor]
    parts = [torch.empty_like(tensor) for _ in range(group.size)]
    distributed.all_gather(parts, tensor)
    return parts


def wait_for_all(group: Group) -> None:
    """Return once every rank has come here."""
    if group.size > 1:
        distributed.barrier()
