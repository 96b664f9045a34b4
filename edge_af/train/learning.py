"""One update, and the measurements between epochs: loss, optimizer, learning rate, averaged weights.

Loss: the paper's equation 2, multi-label cross-entropy, summed over classes and averaged over the batch:
-1/n Σ_i Σ_c [y_ic log p_ic + (1 - y_ic) log(1 - p_ic)], with p the sigmoid of the logits.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edge_af import metrics
from edge_af.data.dataset import Dataset
from edge_af.models.networks import AttendFusion, FCLateFusion
from edge_af.train.compute import Compute, Inputs
from edge_af.train.options import TrainOptions


@dataclass(frozen=True)
class Learner:
    """State that an update changes."""

    network: AttendFusion | FCLateFusion
    averaged: AttendFusion | FCLateFusion
    optimizer: torch.optim.Optimizer
    forward: torch.nn.Module
    """`network` wrapped for training; with several processes, it averages the gradients."""


def update(learner: Learner, inputs: Inputs, targets: Tensor, lr: float, clip: float, compute: Compute) -> Tensor:
    """Do one update; return the batch's loss, a scalar on the device."""
    network, optimizer = learner.network, learner.optimizer
    for group in optimizer.param_groups:
        group["lr"] = lr
    with compute.autocast():
        logits = learner.forward(*inputs)
    loss = multi_label_cross_entropy(logits.float(), targets)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(network.parameters(), clip)
    optimizer.step()
    return loss.detach()


def mix(inputs: Inputs, labels: Tensor, alpha: float) -> tuple[Inputs, Tensor]:
    """Mix each video's features and labels with those of another in the batch (mixup, Zhang et al. 2018, arXiv:1710.09412).

    Args:
        inputs: n videos.
        labels: (n, classes) float32.
        alpha: each video's share is drawn from Beta(alpha, alpha), and at least one half.
    """
    share = torch.distributions.Beta(alpha, alpha).sample((len(labels), 1))
    share, others = torch.maximum(share, 1 - share).to(labels.device), torch.randperm(len(labels)).to(labels.device)
    visual, audio, mixed = (torch.lerp(each[others], each, share) for each in (*inputs, labels))
    return (visual, audio), mixed


def multi_label_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Compute equation 2 of the paper from logits and labels (n, classes) float32: a scalar."""
    loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, labels, reduction="sum")
    return loss / len(logits)


def adamw(network: AttendFusion | FCLateFusion, options: TrainOptions) -> torch.optim.Optimizer:
    """Return an AdamW that decays matrices, but not biases and BatchNorm's scales."""
    matrices = [p for p in network.parameters() if p.ndim > 1]
    vectors = [p for p in network.parameters() if p.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": options.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=options.lr, betas=(0.9, 0.99), fused=True)


def lr_factor(step: int, steps: int, warmup: float) -> float:
    """Return the learning rate at `step` of `steps` as a share of the peak: a linear rise, then a cosine decay to 0."""
    rise = max(1, round(steps * warmup))
    if step < rise:
        return (step + 1) / rise
    return 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, steps - rise)))


@torch.no_grad()
def move_average(averaged: torch.nn.Module, network: torch.nn.Module, decay: float) -> None:
    """Move the averaged weights and BatchNorm statistics by a share of `1 - decay` toward the network's."""
    ours, theirs = averaged.state_dict(), network.state_dict()
    floats = [name for name, tensor in ours.items() if tensor.is_floating_point()]
    torch._foreach_lerp_([ours[name] for name in floats], [theirs[name] for name in floats], 1 - decay)
    for name in ours.keys() - set(floats):
        ours[name].copy_(theirs[name])


def measure(
    network: AttendFusion | FCLateFusion, dataset: Dataset, rows: NDArray[np.int64], device: str = "cpu"
) -> tuple[dict[str, Any], float]:
    """Return the held-out videos' loss and metrics, and their best F1 threshold.

    Computed in float32, because bfloat16's 8 bits would turn close scores into ties.

    Raises:
        ValueError: a score is NaN.
    """
    scores, total = [], 0.0
    for start in range(0, len(rows), 512):
        part = rows[start : start + 512]
        inputs = (torch.from_numpy(array).to(device) for array in dataset.features(part))
        with torch.inference_mode():
            logits = network(*inputs).cpu()
        labels = torch.from_numpy(dataset.labels(part)).float()
        total += multi_label_cross_entropy(logits, labels).item() * len(part)
        scores.append(torch.sigmoid(logits).numpy())
    together, labels_all = np.concatenate(scores), dataset.labels(rows)
    threshold = metrics.choose_f1_threshold(together, labels_all)
    measured = metrics.evaluate(together, labels_all, threshold)
    return {"held_out_loss": total / len(rows), "held_out": measured.as_dict()}, threshold


def prior_of(dataset: Dataset, rows: NDArray[np.int64]) -> Tensor:
    """Return each class's share of the training videos, smoothed by half a video: (classes,) float32."""
    counts = dataset.label_counts(rows)
    return torch.from_numpy(((counts + 0.5) / (len(rows) + 1)).astype(np.float32))
