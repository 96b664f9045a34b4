"""Checkpoints: the complete state of training in one file, written atomically.

Tensors: the network's and the averaged weights, AdamW's moments, the state of the random numbers. Metadata, as JSON: the
step, the records of finished epochs, the best run, the losses of the current epoch, and what must not change between
sessions (`identity`). The learning rate and the order of the videos follow from the step.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from edge_af.console import warn
from edge_af.documents import parse_json
from edge_af.errors import EdgeAfError
from edge_af.models.run import with_layer_names, write_tensors
from edge_af.train.distributed import Group, gathered
from edge_af.train.learning import Learner
from edge_af.typed import Mismatch, built

CHECKPOINT = "checkpoint.safetensors"


@dataclass
class Progressed:
    """Progress of training; its complete state together with the tensors."""

    step: int = 0
    """Updates done."""
    seconds: float = 0.0
    """Time spent in training, including earlier sessions."""
    losses: list[float] = field(default_factory=list)
    """Losses of the steps of the current epoch."""
    records: list[dict[str, Any]] = field(default_factory=list)
    """A record for each finished epoch: the lines of `metrics.jsonl`."""
    best: dict[str, Any] | None = None
    """The fields of `run.json` for the best epoch."""


@dataclass(frozen=True)
class HeldOut:
    """Held-out metrics of an epoch that training needs to continue."""

    gap_at_20: float


@dataclass(frozen=True)
class EpochRecord:
    """The part of an epoch's record, a line of `metrics.jsonl`, that training needs to continue."""

    held_out: HeldOut


def save_checkpoint(
    folder: Path, learner: Learner, progressed: Progressed, identity: dict[str, Any], group: Group
) -> None:
    """Replace the folder's checkpoint. Every process of the group must call this; one writes.

    Raises:
        EdgeAfError: no space, or the folder cannot be written; the previous checkpoint is kept.
    """
    random = gathered(torch.get_rng_state(), group)
    on_gpu = learner.network.head.weight.is_cuda
    random_gpu = gathered(torch.cuda.get_rng_state(), group) if on_gpu else []
    if not group.leads:
        return
    tensors = {f"network.{name}": tensor for name, tensor in learner.network.state_dict().items()}
    tensors |= {f"averaged.{name}": tensor for name, tensor in learner.averaged.state_dict().items()}
    for index, moments in learner.optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{name}": tensor for name, tensor in moments.items()}
    tensors |= {f"random.{rank}": state for rank, state in enumerate(random)}
    tensors |= {f"random_gpu.{rank}": state for rank, state in enumerate(random_gpu)}
    metadata = {"progressed": json.dumps(vars(progressed)), "identity": json.dumps(identity)}
    write_tensors(folder / CHECKPOINT, tensors, metadata)


def identity_in(folder: Path) -> dict[str, Any]:
    """Return the identity in the folder's checkpoint; empty if damaged, which `load_checkpoint` reports."""
    try:
        with safe_open(folder / CHECKPOINT, framework="pt") as file:
            found = parse_json(file.metadata()["identity"])
            return found if isinstance(found, dict) else {}
    except DAMAGE:
        return {}


DAMAGE = (SafetensorError, OSError, LookupError, TypeError, ValueError, RuntimeError, AttributeError)
"""Exceptions that safetensors, PyTorch and the code below raise for a damaged checkpoint."""


def load_checkpoint(folder: Path, learner: Learner, identity: dict[str, Any], group: Group) -> Progressed:
    """Restore the learner, and PyTorch's random number generator, from the folder's checkpoint.

    Raises:
        EdgeAfError: the checkpoint is damaged, or is of other data, another network or other options.
    """
    path = folder / CHECKPOINT
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata()
            found = parse_json(metadata["identity"])
            if not isinstance(found, dict):
                raise Mismatch("identity is not an object")
            check_identity(path, found, identity)
            progressed = built(Progressed, parse_json(metadata["progressed"]))
            for record in [*progressed.records, *([progressed.best["training"]] if progressed.best else [])]:
                built(EpochRecord, record, unknown=True)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 — not a mapping
        _restore(learner, with_layer_names(tensors), group)
    except EdgeAfError:
        raise
    except DAMAGE as error:
        reason = str(error).strip().partition("\n")[0]
        raise EdgeAfError(f"{path}: damaged ({reason}). Remove it to start again.") from None
    return progressed


def _restore(learner: Learner, tensors: dict[str, torch.Tensor], group: Group) -> None:
    learner.network.load_state_dict(_part(tensors, "network."))
    learner.averaged.load_state_dict(_part(tensors, "averaged."))
    state: dict[int, dict[str, torch.Tensor]] = {}
    for key, tensor in _part(tensors, "optimizer.").items():
        index, name = key.split(".")
        state.setdefault(int(index), {})[name] = tensor
    groups = learner.optimizer.state_dict()["param_groups"]
    learner.optimizer.load_state_dict({"state": state, "param_groups": groups})
    torch.set_rng_state(tensors[f"random.{group.rank}"])
    if (state_of_gpu := tensors.get(f"random_gpu.{group.rank}")) is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(state_of_gpu)


def _part(tensors: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def check_identity(path: Path, found: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Raise EdgeAfError, with `path` and the first difference, unless training may continue from this identity."""
    for key in sorted(wanted.keys() | found.keys()):
        own, other = found.get(key), wanted.get(key)
        if own == other:
            continue
        if isinstance(own, dict) and isinstance(other, dict):
            part = next(name for name in sorted(own.keys() | other.keys()) if own.get(name) != other.get(name))
            key, own, other = f"{key}.{part}", own.get(part), other.get(part)
        if key in ("threads", "compute"):
            warn(f"{path}: was made with {key} {own}, not {other}: the weights will differ by rounding.")
        else:
            raise EdgeAfError(
                f"{path}: was made with {key} {own!r}, not {other!r}.\n"
                "Resume with the same data and options, or choose another folder."
            )
