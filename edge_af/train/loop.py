"""The training loop: AdamW, warm-up and cosine decay, averaged weights, held-out GAP@20 after each epoch.

Loss: the paper's equation 2, multi-label cross-entropy, summed over classes and averaged over the batch:
-1/n Σ_i Σ_c [y_ic log p_ic + (1 - y_ic) log(1 - p_ic)], with p the sigmoid of the logits.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edge_af import metrics
from edge_af.artifacts import versions
from edge_af.console import Progress, say
from edge_af.data.batches import Batch, batches, epoch_order, split
from edge_af.data.dataset import Dataset
from edge_af.errors import EdgeAfError
from edge_af.files import explain_os_errors
from edge_af.models.networks import AttendFusion, FCLateFusion, build, count_params, initialise
from edge_af.models.presets import ModelConfig
from edge_af.train.options import TrainOptions
from edge_af.train.run import METRICS, RUN, Run, save_run


def train(dataset: Dataset, config: ModelConfig, preset: str, out: Path, options: TrainOptions) -> Run:
    """Train a network and leave a run folder.

    The folder is usable from the end of the first epoch on: it always holds the best epoch so far.

    Raises:
        EdgeAfError: `out` already holds a run, the dataset is too small, or the loss became NaN.
    """
    if (out / RUN).exists():
        raise EdgeAfError(f"{out}: already holds a run. Choose another folder, or remove it.")
    if dataset.videos < 4:
        raise EdgeAfError(f"{dataset.folder}: {dataset.videos} videos are too few to train on.")
    with explain_os_errors(out):
        out.mkdir(parents=True, exist_ok=True)
        log = (out / METRICS).open("w")
    if options.threads:
        torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)

    rows, held_out = split(dataset.videos, options.held_out, options.seed)
    batch = min(options.batch, len(rows))
    steps = options.epochs * (len(rows) // batch)
    network = build(config, dataset.classes)
    initialise(network, _prior(dataset, rows), torch.Generator().manual_seed(options.seed))
    averaged = copy.deepcopy(network).eval().requires_grad_(False)
    optimizer = _optimizer(network, options)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _lr_factor(step, steps, options.warmup))
    bf16 = _computes_in_bf16() if options.precision == "auto" else options.precision == "bf16"
    say(
        f"{config.model} ({preset}): {count_params(network):,} parameters, {len(rows):,} videos to train, "
        f"{len(held_out):,} held out, {'bf16' if bf16 else 'fp32'}, {torch.get_num_threads()} threads"
    )

    best: Run | None = None
    started = time.perf_counter()
    step = 0
    with log, Progress(f"training {config.model}", options.epochs * (len(rows) // batch) * batch, "videos") as progress:
        for epoch in range(1, options.epochs + 1):
            network.train()
            losses = []
            for item in batches(dataset, epoch_order(rows, options.seed, epoch), batch):
                loss = _step(network, item, optimizer, options.clip, bf16)
                schedule.step()
                step += 1
                _average(averaged, network, min(options.average, step / (step + 10)))
                losses.append(loss)
                progress.update(batch, f"epoch {epoch}, loss {loss:.3f}")
            train_loss = float(np.mean(losses))
            if not math.isfinite(train_loss):
                raise EdgeAfError(
                    f"{out}: the loss became {train_loss} in epoch {epoch}. Lower --lr"
                    + (f"; epoch {best.training['epoch']} is kept." if best else ".")
                )
            scores, loss_held_out = _score(averaged, dataset, held_out, bf16)
            labels = dataset.labels(held_out)
            threshold = metrics.choose_f1_threshold(scores, labels)
            measured = metrics.evaluate(scores, labels, threshold)
            record: dict[str, Any] = {
                "epoch": epoch,
                "loss": train_loss,
                "held_out_loss": loss_held_out,
                "seconds": time.perf_counter() - started,
                "held_out": measured.as_dict(),
            }
            log.write(json.dumps(record) + "\n")
            log.flush()
            progress.update(0, f"epoch {epoch}, loss {train_loss:.3f}, held-out GAP@20 {measured.gap_at_20:.4f}")
            say(
                f"epoch {epoch}/{options.epochs}: loss {train_loss:.3f}, held-out loss {loss_held_out:.3f}, "
                f"held-out GAP@20 {measured.gap_at_20:.4f}"
            )
            if best is None or measured.gap_at_20 > best.training["held_out"]["gap_at_20"]:
                best = Run(
                    preset=preset,
                    config=config,
                    classes=dataset.classes,
                    params=count_params(network),
                    f1_threshold=threshold,
                    class_names=dataset.class_names,
                    training={
                        **record,
                        "options": dataclasses.asdict(options),
                        "compute": "bf16" if bf16 else "fp32",
                        "threads": torch.get_num_threads(),
                        "data": {"name": dataset.folder.name, "videos": dataset.videos},
                        "versions": versions("torch", "numpy"),
                    },
                )
                save_run(out, best, averaged)
    assert best is not None
    return best


def _step(
    network: AttendFusion | FCLateFusion, batch: Batch, optimizer: torch.optim.Optimizer, clip: float, bf16: bool
) -> float:
    """One update; returns the batch's loss."""
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        logits = network(torch.from_numpy(batch.visual), torch.from_numpy(batch.audio))
    loss = multi_label_cross_entropy(logits.float(), torch.from_numpy(batch.labels).float())
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(network.parameters(), clip)
    optimizer.step()
    return loss.item()


def multi_label_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Equation 2 of the paper from logits and labels (n, classes) float32: a scalar."""
    loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, labels, reduction="sum")
    return loss / len(logits)


def _optimizer(network: AttendFusion | FCLateFusion, options: TrainOptions) -> torch.optim.Optimizer:
    """AdamW that decays matrices, and neither biases nor BatchNorm's scales."""
    matrices = [p for p in network.parameters() if p.ndim > 1]
    vectors = [p for p in network.parameters() if p.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": options.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=options.lr, betas=(0.9, 0.99), fused=True)


def _lr_factor(step: int, steps: int, warmup: float) -> float:
    """Learning rate at `step` of `steps`, as a share of the peak: a linear rise, then half a cosine down to 0."""
    rise = max(1, round(steps * warmup))
    if step < rise:
        return (step + 1) / rise
    return 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, steps - rise)))


@torch.no_grad()
def _average(averaged: torch.nn.Module, network: torch.nn.Module, decay: float) -> None:
    """Move the averaged weights, and BatchNorm's statistics, a share `1 - decay` towards the network's."""
    ours, theirs = averaged.state_dict(), network.state_dict()
    floats = [name for name, tensor in ours.items() if tensor.is_floating_point()]
    torch._foreach_lerp_([ours[name] for name in floats], [theirs[name] for name in floats], 1 - decay)
    for name in ours.keys() - set(floats):
        ours[name].copy_(theirs[name])


@torch.inference_mode()
def _score(
    network: AttendFusion | FCLateFusion, dataset: Dataset, rows: NDArray[np.int64], bf16: bool
) -> tuple[NDArray[np.float32], float]:
    """Scores (len(rows), classes) float32 and the mean loss a video."""
    scores, total = [], 0.0
    for start in range(0, len(rows), 512):
        part = rows[start : start + 512]
        visual, audio = dataset.features(part)
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            logits = network(torch.from_numpy(visual), torch.from_numpy(audio)).float()
        total += multi_label_cross_entropy(logits, torch.from_numpy(dataset.labels(part)).float()).item() * len(part)
        scores.append(torch.sigmoid(logits).numpy())
    return np.concatenate(scores), total / len(rows)


def _prior(dataset: Dataset, rows: NDArray[np.int64]) -> Tensor:
    """Each class's share of the training videos, with half a video added on either side: (classes,) float32."""
    counts = dataset.label_counts(rows)
    return torch.from_numpy(((counts + 0.5) / (len(rows) + 1)).astype(np.float32))


def _computes_in_bf16() -> bool:
    """Whether this processor multiplies bfloat16 matrices in hardware; elsewhere it is slower than float32."""
    try:
        flags = Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
    words = set(flags.split())
    return bool(words & {"avx512_bf16", "amx_bf16", "bf16", "svebf16"})
