"""The training loop: epochs, checkpoints, stopping and resuming. One update is in `learning`."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import json
import math
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from numpy.typing import NDArray

from edge_af.artifacts import versions
from edge_af.console import Progress, say
from edge_af.data import wrong_widths
from edge_af.data.batches import batches, epoch_order, split
from edge_af.data.dataset import Dataset
from edge_af.documents import parse_json
from edge_af.errors import EdgeAfError, Stopped
from edge_af.files import LOCK, check_utf8_name, explain_os_errors, files_below, lock_output, sha256_file, write_atomic
from edge_af.models.networks import AttendFusion, FCLateFusion, build, count_params, initialize
from edge_af.models.presets import ModelConfig
from edge_af.models.run import METRICS, RUN, WEIGHTS, Run, load_network, load_run, save_run
from edge_af.models.sizes import training_flops
from edge_af.runtime import check_features
from edge_af.train import scalars
from edge_af.train.checkpoint import (
    CHECKPOINT,
    EpochRecord,
    Progressed,
    check_identity,
    identity_in,
    load_checkpoint,
    save_checkpoint,
)
from edge_af.train.compute import Compute, Stopwatch, choose_compute
from edge_af.train.distributed import ALONE, Group, from_the_first, lost_the_others, mean_over, together, wait_for_all
from edge_af.train.learning import Learner, adamw, lr_factor, measure, mix, move_average, prior_of, update
from edge_af.train.memory import keep_freed_memory
from edge_af.train.options import TrainOptions
from edge_af.train.records import in_words, rank
from edge_af.train.teacher import Teacher, open_teacher, ready
from edge_af.typed import built

if TYPE_CHECKING:
    from edge_af.export.ranges import Ranges
    from edge_af.export.recipes import Recipe

UNFINISHED = re.compile(r"\.(weights-e\d+\.safetensors|checkpoint\.safetensors|run\.json|metrics\.jsonl)\.[a-z0-9_]{8}")
"""Names of temporary files that a kill left behind, see `edge_af.files.atomic_path`."""
NO_MATTER = ("threads", "precision", "device", "compile", "checkpoint_steps")
"""Options that may change on resuming. Their effect is recorded as `threads` and `compute`."""


@dataclass(frozen=True)
class TrainRequest:
    """A training task."""

    dataset: Dataset
    """Training videos; part of them is held out."""
    config: ModelConfig
    preset: str
    """Name of the config's preset, for the record."""
    out: Path
    """Run folder to write."""
    options: TrainOptions
    teachers: tuple[Path, ...] = ()
    """Runs to distill from (Hinton et al. 2015, arXiv:1503.02531); their scores are averaged. Labels do not exclude each
    other, so each class's probability is a separate target."""
    init: Path | None = None
    """Run of the same network whose weights training starts from."""
    recipe: Recipe | None = None
    """Recipe to round by in the forward pass; needs `init`."""
    resume: bool = False
    """True to continue from a checkpoint in `out`."""

    def __post_init__(self) -> None:
        if self.config.features != self.dataset.widths:
            raise EdgeAfError(wrong_widths(str(self.dataset.folder), self.dataset.widths, self.config.features))
        if self.recipe is not None and self.init is None:
            raise EdgeAfError("--quantize fine-tunes a trained network: name its run with --init.")


@dataclass(frozen=True)
class Training:
    """Constant setup of a training."""

    request: TrainRequest
    teacher: Teacher | None
    rows: NDArray[np.int64]
    """Videos to train on."""
    held_out: NDArray[np.int64]
    """Held-out videos, which choose the best epoch."""
    compute: Compute
    identity: dict[str, Any]
    """Facts that must not change on resuming; part of the run's record."""
    group: Group
    """The processes that train together."""

    @property
    def batch(self) -> int:
        """Videos per step, over all processes."""
        return min(self.request.options.batch, len(self.rows))

    @property
    def steps_an_epoch(self) -> int:
        return len(self.rows) // self.batch

    @property
    def steps(self) -> int:
        return self.request.options.epochs * self.steps_an_epoch

    def say(self, message: str) -> None:
        """Print a message from the leading process."""
        if self.group.leads:
            say(message)


class NoProgress(contextlib.nullcontext["NoProgress"]):
    """Replaces the progress bar in processes that do not print."""

    def __enter__(self) -> NoProgress:
        return self

    def update(self, steps: int = 1, note: str | None = None) -> None:
        """Do nothing."""


def train(request: TrainRequest, group: Group = ALONE) -> Run:
    """Train a network and write a run folder.

    After the first epoch, the folder always holds the best epoch so far. SIGTERM and SIGINT save a checkpoint first. On the
    same processor with the same threads, a resumed run ends with bit-identical weights.

    Args:
        request: what to train.
        group: the processes that train together, which all make this call; see `distributed.joined`.

    Raises:
        EdgeAfError: `out` already holds a run (without `resume`), its checkpoint is of other data or options, the
            dataset is too small or has an invalid feature, or the loss became NaN.
        Stopped: by a signal.
    """
    dataset, out, resume = request.dataset, request.out, request.resume
    check_utf8_name(out.absolute())
    _check_folder(out, resume)
    if dataset.videos < 4:
        raise EdgeAfError(f"{dataset.folder}: {dataset.videos} videos are too few to train on.")
    if not len(dataset.label_values):
        raise EdgeAfError(f"{dataset.folder}: no video has a label; there is nothing to learn.")
    with explain_os_errors(out):
        out.mkdir(parents=True, exist_ok=True)
    with lock_output(out) if group.leads else contextlib.nullcontext():
        _check_folder(out, resume)  # Another training may have finished there just now.
        with explain_os_errors(out):
            for name in _left_by_a_kill(out) if group.leads else ():
                (out / name).unlink(missing_ok=True)
        return _train(request, group)


def _check_folder(out: Path, resume: bool) -> None:
    """Refuse a folder that holds a run (without `resume`) or files of other origin.

    Raises:
        EdgeAfError: names what the folder holds.
    """
    if out.exists() and not out.is_dir():
        raise EdgeAfError(f"{out}: is a file; name a folder for the run.")
    if (out / RUN).exists() or (out / CHECKPOINT).exists():
        if not resume:
            raise EdgeAfError(
                f"{out}: already holds a run. Continue with --resume, choose another folder, or remove it."
            )
        return
    # A kill at the end of the first epoch leaves the files written before `run.json`; the metrics are the first.
    found = files_below(out)
    ours = {LOCK, *_left_by_a_kill(out)}
    if METRICS in found:
        ours |= {name for name in found if name == METRICS or WEIGHTS.fullmatch(name) or scalars.is_ours(name)}
    if foreign := sorted(set(found) - ours):
        raise EdgeAfError(f"{out}: is not a run and holds {foreign[0]!r}. Choose another folder.")


def _left_by_a_kill(out: Path) -> list[str]:
    """Return the names of files that a killed training left incomplete."""
    return [name for name in files_below(out) if UNFINISHED.fullmatch(name)]


def _train(request: TrainRequest, group: Group) -> Run:
    config, out, options = request.config, request.out, request.options
    keep_freed_memory()
    if options.threads:
        torch.set_num_threads(options.threads)
    # Dropout must differ between ranks.
    torch.manual_seed(options.seed + group.rank)
    job = _job(request, group)
    group.share_of(job.batch)
    if (out / RUN).exists() and not (out / CHECKPOINT).exists():
        run = load_run(out)
        check_identity(out / RUN, {key: run.training.get(key) for key in job.identity}, job.identity)
        if finished(records_in(out), options):
            job.say(f"{out}: already trained to the end")
            return run

    network, ranges = _start(job)
    network.to(job.compute.device)
    averaged = copy.deepcopy(network).eval().requires_grad_(False)
    forward = together(network, group)
    if options.compile:
        forward = cast(torch.nn.Module, torch.compile(forward))
    learner = Learner(network, averaged, adamw(network, options), forward)
    state = load_checkpoint(out, learner, job.identity, group) if (out / CHECKPOINT).exists() else Progressed()
    wait_for_all(group)
    job.say(
        f"{config.model} ({request.preset}): {count_params(network):,} parameters, {len(job.rows):,} videos to train, "
        f"{len(job.held_out):,} held out, {job.compute.dtype} on {job.compute.device}, "
        f"{job.identity['threads']} threads"
        + (f" in each of {group.size} processes" if group.size > 1 else "")
        + (f"; continuing from step {state.step:,}" if state.step else "")
    )
    started = time.perf_counter() - state.seconds

    def save() -> None:
        state.seconds = time.perf_counter() - started
        save_checkpoint(out, learner, state, job.identity, group)

    ahead = (job.steps - state.step) * job.batch
    bar = Progress(f"training {config.model}", ahead, "videos") if group.leads else NoProgress()
    with _stop_signal() as stopped, bar as progress:
        while not finished(state.records, options):
            speed = _train_epoch(job, learner, state, progress, stopped, save)
            _keep_epoch(job, learner, state, speed, time.perf_counter() - started, ranges)
            if not finished(state.records, options):
                save()
        if len(state.records) < options.epochs:
            job.say(f"stopped early: held-out GAP@20 has not risen for {options.patience} epochs")
    wait_for_all(group)
    run = load_run(out)
    (out / CHECKPOINT).unlink(missing_ok=True)
    return run


def _start(job: Training) -> tuple[AttendFusion | FCLateFusion, Ranges | None]:
    """Return the network to train, and the activation ranges of a recipe with static activations."""
    request = job.request
    if request.init is None:
        network = build(request.config, request.dataset.classes)
        initialize(network, prior_of(request.dataset, job.rows), torch.Generator().manual_seed(request.options.seed))
        return network, None
    _, network = load_network(request.init)
    for module in network.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = request.config.dropout
    if request.recipe is None:
        return network, None
    from edge_af.train.quantized import quantize_network, ranges_for

    ranges = ranges_for(network, request.recipe, request.dataset, job.rows)
    quantize_network(network, request.recipe, ranges)
    return network, ranges


def records_in(out: Path) -> list[dict[str, Any]]:
    """Return the records of a run's epochs."""
    path = out / METRICS
    try:
        lines = path.read_bytes().splitlines()
    except FileNotFoundError:
        return []
    except OSError as error:
        raise EdgeAfError(f"{path}: cannot be read ({error.strerror}).") from None
    records = []
    for number, line in enumerate(lines, 1):
        try:
            record = parse_json(line)
            built(EpochRecord, record, unknown=True)
        except ValueError as error:
            raise EdgeAfError(
                f"{path}: line {number} is damaged ({error}). Copy the file again, or train into another folder."
            ) from None
        records.append(record)
    return records


def finished(records: list[dict[str, Any]], options: TrainOptions) -> bool:
    """Return True after all epochs, or after `patience` epochs without improvement."""
    if len(records) >= options.epochs:
        return True
    gaps = [record["held_out"]["gap_at_20"] for record in records]
    return bool(options.patience and gaps and len(gaps) - 1 - gaps.index(max(gaps)) >= options.patience)


def _job(request: TrainRequest, group: Group) -> Training:
    dataset, config, out, options = request.dataset, request.config, request.out, request.options
    rows, held_out = split(dataset.videos, options.held_out, options.seed)
    if len(rows) < 2:
        raise EdgeAfError(f"--held-out {options.held_out}: leaves {len(rows)} of {dataset.videos} videos to train on.")
    before = identity_in(out).get("compute") if (out / CHECKPOINT).exists() else None
    compute = choose_compute(options.device, options.precision, group, before)
    identity: dict[str, Any] = {
        "model": config.model,
        "config": dataclasses.asdict(config),
        "options": {name: value for name, value in dataclasses.asdict(options).items() if name not in NO_MATTER},
        "compute": compute.dtype,
        "data": {
            "name": dataset.folder.name,
            "videos": dataset.videos,
            "classes": dataset.classes,
            "fingerprint": dataset.fingerprint(),
            "largest": dataset.largest,
            "extractor": dataset.index.get("extractor"),
        },
        "threads": torch.get_num_threads(),
        "processes": group.size,
        "teacher": None,
        "init": _init_of(request),
        "recipe": dataclasses.asdict(request.recipe) if request.recipe is not None else None,
    }
    guide = None
    if request.teachers:
        opened = [open_teacher(folder, dataset) for folder in request.teachers]
        identity["teacher"] = [about for about, _ in opened]
        guide = ready([network for _, network in opened], dataset, compute, keep=group.size == 1 and not options.mixup)
    return Training(request, guide, rows, held_out, compute, identity, group)


def _init_of(request: TrainRequest) -> str | None:
    """Return the hash of the weights that training starts from; None for random weights.

    Raises:
        EdgeAfError: they are of another network.
    """
    if request.init is None:
        return None
    run = load_run(request.init)
    # Dropout changes no weights.
    config = dataclasses.replace(run.config, dropout=request.config.dropout)
    if config != request.config or run.classes != request.dataset.classes:
        raise EdgeAfError(
            f"{request.init}: is {run.model} ({run.preset}) with {run.classes:,} classes, not {request.config.model} "
            f"({request.preset}) with the data's {request.dataset.classes:,}. Start from a run of the same network and data."
        )
    return sha256_file(request.init / run.weights)


def _train_epoch(
    job: Training,
    learner: Learner,
    state: Progressed,
    progress: Progress | NoProgress,
    stopped: list[int],
    save: Callable[[], None],
) -> dict[str, float]:
    """Do the remaining updates of the current epoch; return its speed, see `Stopwatch.speed`.

    Raises:
        EdgeAfError: the loss is NaN or infinite.
        Stopped: by a signal, after `save()`.
    """
    options, epoch = job.request.options, len(state.records) + 1
    learner.network.train()
    done = state.step - (epoch - 1) * job.steps_an_epoch
    order = epoch_order(job.rows, options.seed, epoch)[done * job.batch :]
    # This rank takes every `size`-th video of each global batch.
    own, share = order[job.group.rank :: job.group.size], job.group.share_of(job.batch)
    watch = Stopwatch(time.perf_counter())
    for batch in watch.timed(batches(job.request.dataset, own, share)):
        inputs, targets = job.compute.inputs(batch.features), job.compute.tensor(batch.labels).float()
        if options.mixup:
            inputs, targets = mix(inputs, targets, options.mixup)
        if job.teacher is not None:
            # The loss is linear in its target, so mixing label and teacher's score equals mixing two losses.
            targets = torch.lerp(targets, job.teacher.scores(batch.rows, inputs), options.teacher_weight)
        lr = options.lr * lr_factor(state.step, job.steps, options.warmup)
        update_loss = update(learner, inputs, targets, lr, options.clip, job.compute)
        watch.videos += len(batch.rows)
        # A signal to one rank stops all ranks after the same step.
        loss, stop = mean_over([update_loss.item(), float(bool(stopped))], job.group)
        if not math.isfinite(loss):
            # Features are only checked now, because checking millions of videos takes minutes.
            dataset = job.request.dataset
            check_features(dataset.stored, str(dataset.folder), widths=dataset.widths, largest=math.inf)
            kept = f"; epoch {state.best['training']['epoch']} is kept." if state.best else "."
            raise EdgeAfError(f"{job.request.out}: the loss became {loss} in epoch {epoch}. Lower --lr{kept}")
        state.step += 1
        # Average fewer steps at the start, to forget the initial weights.
        move_average(learner.averaged, learner.network, min(options.average, state.step / (state.step + 10)))
        state.losses.append(loss)
        progress.update(job.batch, f"epoch {epoch}, loss {loss:.3f}")
        if stop:
            save()
            number = stopped[0] if stopped else signal.SIGTERM
            raise Stopped(f"{job.request.out}: stopped at step {state.step:,}; continue with --resume.", number)
        if options.checkpoint_steps and state.step % options.checkpoint_steps == 0:
            save()
    return watch.speed(training_flops(job.request.config, job.request.dataset.classes), job.compute, job.group)


def _keep_epoch(
    job: Training,
    learner: Learner,
    state: Progressed,
    speed: dict[str, float],
    seconds: float,
    ranges: Ranges | None,
) -> None:
    """Measure the averaged weights on the held-out videos, record the epoch, and save the weights if they are the best."""
    if not job.group.leads:
        # The other ranks only need what decides when to stop.
        state.records.append({"held_out": {"gap_at_20": from_the_first(0.0, job.group)}})
        state.losses = []
        return
    try:
        measured, threshold = measure(learner.averaged, job.request.dataset, job.held_out, job.compute.device)
    except ValueError as error:
        raise EdgeAfError(
            f"{job.request.out}: held-out videos cannot be scored: {error}. Lower --lr, or check the data."
        ) from None
    from_the_first(measured["held_out"]["gap_at_20"], job.group)
    epoch, loss = len(state.records) + 1, float(np.mean(state.losses))
    record = {"epoch": epoch, "loss": loss, "seconds": seconds, **measured, "speed": speed}
    state.records.append(record)
    state.losses = []
    write_atomic(job.request.out / METRICS, "".join(json.dumps(line) + "\n" for line in state.records))
    scalars.write(job.request.out, record)
    gap = record["held_out"]["gap_at_20"]
    say(
        f"epoch {epoch}/{job.request.options.epochs}: loss {loss:.3f}, held-out loss {record['held_out_loss']:.3f}, "
        f"held-out GAP@20 {gap:.4f}" + in_words(speed)
    )
    if state.best is not None and rank(record) <= rank(state.best["training"]):
        return
    best = Run(
        preset=job.request.preset,
        config=job.request.config,
        classes=job.request.dataset.classes,
        params=count_params(learner.network),
        f1_threshold=threshold,
        class_names=job.request.dataset.class_names,
        weights=f"weights-e{epoch}.safetensors",
        training={**record, **job.identity, "versions": versions("torch", "numpy")},
    )
    network = learner.averaged
    if job.request.recipe is not None:
        from edge_af.train.quantized import on_grid, save_ranges

        network = on_grid(network)
        if ranges is not None:
            # Before the run: after a kill in between, the next epoch replaces both.
            save_ranges(job.request.out, ranges, network)
    save_run(job.request.out, best, network)
    state.best = dataclasses.asdict(best)


@contextlib.contextmanager
def _stop_signal() -> Iterator[list[int]]:
    """Yield a list that SIGTERM and SIGINT append their number to, so that steps complete; a second signal acts at once."""
    received: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        received.append(number)
        for name, handler in before.items():
            signal.signal(name, handler)

    if threading.current_thread() is not threading.main_thread():
        yield received  # Only the main thread may set handlers.
        return
    before = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield received
    except RuntimeError as error:
        if lost_the_others(error):
            # torchrun sends SIGTERM to every rank once one has died; this rank still has to say what happened.
            before[signal.SIGTERM] = signal.SIG_IGN
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
