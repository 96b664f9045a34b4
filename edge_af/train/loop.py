"""The training loop: AdamW, warm-up and cosine decay, averaged weights, held-out GAP@20 after each epoch.

Loss: the paper's equation 2, multi-label cross-entropy, summed over classes and averaged over the batch:
-1/n Σ_i Σ_c [y_ic log p_ic + (1 - y_ic) log(1 - p_ic)], with p the sigmoid of the logits.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import json
import math
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
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
from edge_af.files import explain_os_errors, sha256_file, write_atomic
from edge_af.models.networks import AttendFusion, FCLateFusion, build, count_params, initialise
from edge_af.models.presets import ModelConfig
from edge_af.models.run import METRICS, RUN, Run, load_network, load_run, save_run
from edge_af.train.checkpoint import CHECKPOINT, Learner, Progressed, check_identity, load_checkpoint, save_checkpoint
from edge_af.train.options import TrainOptions


class Stopped(EdgeAfError):
    """A signal asked training to end; its state is saved."""

    def __init__(self, message: str, number: int) -> None:
        super().__init__(message)
        self.exit_status = 128 + number


def train(
    dataset: Dataset,
    config: ModelConfig,
    preset: str,
    out: Path,
    options: TrainOptions,
    *,
    teacher: Path | None = None,
    resume: bool = False,
) -> Run:
    """Train a network and leave a run folder.

    The folder is usable from the end of the first epoch on: it always holds the best epoch so far. SIGTERM and SIGINT
    save a checkpoint first. On one processor and as many threads, a run that was resumed ends with the weights, bit for
    bit, of one that was not stopped.

    Args:
        dataset: the training videos; a part of them is held out.
        config: the network's shape.
        preset: the name of that shape, for the record.
        out: the run folder to make.
        options: see `TrainOptions`.
        teacher: a run whose scores are learnt beside the labels (Hinton et al. 2015, arXiv:1503.02531, for labels that do
            not exclude each other: each class's probability is a target of its own).
        resume: go on from the checkpoint in `out`, if there is one.

    Raises:
        EdgeAfError: `out` already holds a run (without `resume`), its checkpoint is of other data or options, the
            dataset is too small, or the loss became NaN.
        Stopped: by a signal.
    """
    if not resume and ((out / RUN).exists() or (out / CHECKPOINT).exists()):
        raise EdgeAfError(f"{out}: already holds a run. Go on with --resume, choose another folder, or remove it.")
    if dataset.videos < 4:
        raise EdgeAfError(f"{dataset.folder}: {dataset.videos} videos are too few to train on.")
    with explain_os_errors(out):
        out.mkdir(parents=True, exist_ok=True)
        for left_by_a_kill in out.glob(".*.safetensors.*"):
            left_by_a_kill.unlink()
    if options.threads:
        torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)

    rows, held_out = split(dataset.videos, options.held_out, options.seed)
    batch = min(options.batch, len(rows))
    steps_an_epoch = len(rows) // batch
    bf16 = _computes_in_bf16() if options.precision == "auto" else options.precision == "bf16"
    identity: dict[str, Any] = {
        "model": config.model,
        "config": dataclasses.asdict(config),
        "options": dataclasses.asdict(options),
        "compute": "bf16" if bf16 else "fp32",
        "data": {"name": dataset.folder.name, "videos": dataset.videos, "classes": dataset.classes},
        "threads": torch.get_num_threads(),
        "teacher": None,
    }
    guide = None
    if teacher is not None:
        taught_by, guide = load_network(teacher)
        if taught_by.classes != dataset.classes:
            raise EdgeAfError(
                f"{teacher}: the teacher knows {taught_by.classes:,} classes, the data {dataset.classes:,}."
            )
        identity["teacher"] = {"model": taught_by.model, "sha256": sha256_file(teacher / taught_by.weights)}
    if (out / RUN).exists() and not (out / CHECKPOINT).exists():
        run = load_run(out)
        check_identity(out / RUN, {key: run.training.get(key) for key in identity}, identity)
        say(f"{out}: already trained to the end")
        return run
    network = build(config, dataset.classes)
    initialise(network, _prior(dataset, rows), torch.Generator().manual_seed(options.seed))
    averaged = copy.deepcopy(network).eval().requires_grad_(False)
    learner = Learner(network, averaged, _optimizer(network, options))
    state = load_checkpoint(out, learner, identity) if (out / CHECKPOINT).exists() else Progressed()
    say(
        f"{config.model} ({preset}): {count_params(network):,} parameters, {len(rows):,} videos to train, "
        f"{len(held_out):,} held out, {identity['compute']}, {identity['threads']} threads"
        + (f"; going on from step {state.step:,}" if state.step else "")
    )

    started = time.perf_counter() - state.seconds
    total = options.epochs * steps_an_epoch
    label = f"training {config.model}"
    with _stop_signal() as stopped, Progress(label, (total - state.step) * batch, "videos") as progress:

        def save() -> None:
            state.seconds = time.perf_counter() - started
            save_checkpoint(out, learner, state, identity)

        while len(state.records) < options.epochs:
            epoch = len(state.records) + 1
            network.train()
            order = epoch_order(rows, options.seed, epoch)
            done = state.step - (epoch - 1) * steps_an_epoch
            for item in batches(dataset, order[done * batch :], batch):
                lr = options.lr * _lr_factor(state.step, total, options.warmup)
                targets = _targets(item, guide, options.teacher_weight, bf16)
                loss = _step(learner, item, targets, lr, options.clip, bf16)
                state.step += 1
                _average(averaged, network, min(options.average, state.step / (state.step + 10)))
                state.losses.append(loss)
                progress.update(batch, f"epoch {epoch}, loss {loss:.3f}")
                if not math.isfinite(loss):
                    kept = f"; epoch {state.best['training']['epoch']} is kept." if state.best else "."
                    raise EdgeAfError(f"{out}: the loss became {loss} in epoch {epoch}. Lower --lr{kept}")
                if stopped:
                    save()
                    raise Stopped(f"{out}: stopped at step {state.step:,}; go on with --resume.", stopped[0])
                if options.checkpoint_steps and state.step % options.checkpoint_steps == 0:
                    save()
            record, threshold = _held_out(averaged, dataset, held_out, bf16)
            record = {
                "epoch": epoch,
                "loss": float(np.mean(state.losses)),
                "seconds": time.perf_counter() - started,
                **record,
            }
            state.records.append(record)
            state.losses = []
            write_atomic(out / METRICS, "".join(json.dumps(line) + "\n" for line in state.records))
            gap = record["held_out"]["gap_at_20"]
            say(
                f"epoch {epoch}/{options.epochs}: loss {record['loss']:.3f}, held-out loss {record['held_out_loss']:.3f}, "
                f"held-out GAP@20 {gap:.4f}"
            )
            if state.best is None or gap > state.best["training"]["held_out"]["gap_at_20"]:
                best = Run(
                    preset=preset,
                    config=config,
                    classes=dataset.classes,
                    params=count_params(network),
                    f1_threshold=threshold,
                    class_names=dataset.class_names,
                    weights=f"weights-e{epoch}.safetensors",
                    training={**record, **identity, "versions": versions("torch", "numpy")},
                )
                save_run(out, best, averaged)
                state.best = dataclasses.asdict(best)
            if epoch < options.epochs:
                save()
    (out / CHECKPOINT).unlink(missing_ok=True)
    return load_run(out)


@contextlib.contextmanager
def _stop_signal() -> Iterator[list[int]]:
    """A list that a SIGTERM or SIGINT appends its number to, so that a step is never cut in two; a second one acts at once."""
    received: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        received.append(number)
        for name, handler in before.items():
            signal.signal(name, handler)

    if threading.current_thread() is not threading.main_thread():
        yield received  # only the main thread may set handlers
        return
    before = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _targets(batch: Batch, teacher: AttendFusion | FCLateFusion | None, weight: float, bf16: bool) -> Tensor:
    """What the scores are to become: (n, classes) float32.

    The loss is linear in its target, so a target between label and teacher's score is the same as two losses.
    """
    labels = torch.from_numpy(batch.labels).float()
    if teacher is None:
        return labels
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        logits = teacher(torch.from_numpy(batch.visual), torch.from_numpy(batch.audio)).float()
    return torch.lerp(labels, torch.sigmoid(logits), weight)


def _step(learner: Learner, batch: Batch, targets: Tensor, lr: float, clip: float, bf16: bool) -> float:
    """One update; returns the batch's loss."""
    network, optimizer = learner.network, learner.optimizer
    for group in optimizer.param_groups:
        group["lr"] = lr
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        logits = network(torch.from_numpy(batch.visual), torch.from_numpy(batch.audio))
    loss = multi_label_cross_entropy(logits.float(), targets)
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


def _held_out(
    network: AttendFusion | FCLateFusion, dataset: Dataset, rows: NDArray[np.int64], bf16: bool
) -> tuple[dict[str, Any], float]:
    """The held-out videos' loss and metrics, and the F1 threshold that is best on them."""
    scores, total = [], 0.0
    for start in range(0, len(rows), 512):
        part = rows[start : start + 512]
        visual, audio = dataset.features(part)
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            logits = network(torch.from_numpy(visual), torch.from_numpy(audio)).float()
        labels = torch.from_numpy(dataset.labels(part)).float()
        total += multi_label_cross_entropy(logits, labels).item() * len(part)
        scores.append(torch.sigmoid(logits).numpy())
    together, labels_all = np.concatenate(scores), dataset.labels(rows)
    threshold = metrics.choose_f1_threshold(together, labels_all)
    measured = metrics.evaluate(together, labels_all, threshold)
    return {"held_out_loss": total / len(rows), "held_out": measured.as_dict()}, threshold


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
