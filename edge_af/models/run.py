"""Run folders, which training writes and export, eval and `edge_af.load` read.

| file | content |
|---|---|
| `run.json` | the network, how it was trained, and the name of its weights file |
| `weights-eEPOCH.safetensors` | the averaged weights of the epoch with the best held-out GAP@20 |
| `metrics.jsonl` | one line per epoch |
| `checkpoint.safetensors` | the state for `--resume`; deleted when training is complete |

`run.json` is replaced after the weights it names are on the disk, and the previous weights are deleted afterwards. So a
kill at any moment leaves a consistent run.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_type_hints

from edge_af.artifacts import TrainingData
from edge_af.data import MOST_CLASSES
from edge_af.errors import EdgeAfError
from edge_af.files import atomic_path, check_utf8_name, read_json, sha256_file, write_json
from edge_af.models.presets import ModelConfig, config_from_dict
from edge_af.typed import Mismatch, built

if TYPE_CHECKING:
    from torch import Tensor

    from edge_af.models.networks import AttendFusion, FCLateFusion

RUN = "run.json"
METRICS = "metrics.jsonl"
WEIGHTS = re.compile(r"weights-e\d+\.safetensors")
SCHEMA_VERSION = 2
"""Version 1 had networks of the same parameters with the attention between the FC layers."""


@dataclass(frozen=True)
class Run:
    """Contents of a run folder, except for the weights."""

    preset: str
    config: ModelConfig
    classes: int
    params: int
    """Trainable parameters."""
    f1_threshold: float
    """The threshold with the best micro-F1 on the held-out videos."""
    class_names: list[str]
    weights: str
    """Name of the weights file in the run folder."""
    weights_sha256: str | None = None
    """SHA-256 of that file; None in runs of earlier versions."""
    training: dict[str, Any] = field(default_factory=dict)
    """Options, data, held-out metrics and versions, for the record."""

    @property
    def model(self) -> str:
        return self.config.model

    @property
    def data(self) -> TrainingData:
        """The training data; None if not recorded."""
        return built(TrainingData, self.training.get("data", {}), unknown=True)

    @property
    def held_out(self) -> HeldOutAccuracy | None:
        """Accuracy on the held-out videos; None if not recorded."""
        try:
            return built(HeldOutAccuracy, self.training.get("held_out"), unknown=True)
        except Mismatch:
            return None

    @property
    def split(self) -> Split | None:
        """Split of the training data; None if not recorded."""
        options = self.training.get("options")
        return built(Split, options, unknown=True) if options is not None else None


@dataclass(frozen=True)
class HeldOutAccuracy:
    """Accuracy of a run's network in PyTorch on the training videos that were held out."""

    videos: int
    gap_at_20: float
    f1_micro: float
    f1_threshold: float


@dataclass(frozen=True)
class Split:
    """Split of a run's training data; see `edge_af.data.batches.split`."""

    held_out: float
    seed: int

    def __post_init__(self) -> None:
        if not 0 < self.held_out < 1 or self.seed < 0:
            raise Mismatch(f"held_out {self.held_out} and seed {self.seed} split nothing")


_HINTS = get_type_hints(Run)
_WithoutConfig = dataclasses.make_dataclass(
    "_WithoutConfig", [(one.name, _HINTS[one.name], one) for one in dataclasses.fields(Run) if one.name != "config"]
)
"""A run in `run.json`, where the type of `config` depends on `model`."""


def save_run(folder: Path, run: Run, network: AttendFusion | FCLateFusion) -> None:
    """Save `run` with the weights of `network` as the folder's run.

    Raises:
        EdgeAfError: the folder cannot be written or is full.
    """
    before = _weights_named_in(folder)
    write_tensors(folder / run.weights, network.state_dict())
    run = dataclasses.replace(run, weights_sha256=sha256_file(folder / run.weights))
    value = {"schema_version": SCHEMA_VERSION, "model": run.model, **dataclasses.asdict(run)}
    write_json(folder / RUN, value)
    if before is not None and before != run.weights:
        (folder / before).unlink(missing_ok=True)


def _weights_named_in(folder: Path) -> str | None:
    """Return the weights file of a folder's run, the only file that saving another run may delete."""
    try:
        name = load_run(folder).weights
    except EdgeAfError:
        return None
    return name if WEIGHTS.fullmatch(name) else None


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write tensors as a safetensors file, atomically.

    Raises:
        EdgeAfError: no space, or the folder cannot be written; the previous file is kept.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    with atomic_path(path) as temporary:
        try:
            save_file({name: tensor.detach().contiguous() for name, tensor in tensors.items()}, temporary, metadata)
        except SafetensorError as error:
            # safetensors reports a full disk only in the message.
            if number := re.search(r"os error (\d+)", str(error)):
                raise OSError(int(number[1]), os.strerror(int(number[1]))) from None
            raise


def load_run(folder: str | Path) -> Run:
    """Read `run.json`.

    Raises:
        EdgeAfError: the folder is not a run, has no finished epoch yet, or the file is damaged.
    """
    folder = Path(folder)
    path = folder / RUN
    if not path.is_file():
        raise EdgeAfError(f"{folder}: not a run (no {RUN}). `edge-af train --out {folder}` makes one.")
    value = read_json(path, "run")
    if not isinstance(value, dict) or value.pop("schema_version", None) != SCHEMA_VERSION:
        raise EdgeAfError(f"{path}: not a run of schema_version {SCHEMA_VERSION}. Train again with this edge-af.")
    try:
        config = config_from_dict(value.pop("model", None), value.pop("config", None))
        stored: Any = built(_WithoutConfig, value)
        run = Run(config=config, **vars(stored))
        _ = run.data, run.split
    except (Mismatch, EdgeAfError) as error:
        raise EdgeAfError(f"{path}: not an edge-af run ({error}). Train again, or copy the folder again.") from None
    if not 1 <= run.classes <= MOST_CLASSES:
        raise EdgeAfError(f"{path}: not an edge-af run ({run.classes} classes). Train again, or copy the folder again.")
    return run


def load_network(folder: str | Path) -> tuple[Run, AttendFusion | FCLateFusion]:
    """Load a run and its network in eval mode, which returns logits (n, classes).

    Raises:
        EdgeAfError: as `load_run`, or the weights are missing, changed or of another network.
    """
    import torch

    from edge_af.models.networks import build

    folder = Path(folder)
    run = load_run(folder)
    if Path(run.weights).name != run.weights or "\0" in run.weights:
        raise EdgeAfError(f"{folder / RUN}: names weights outside its folder: {run.weights!r}.")
    path = folder / run.weights
    tensors = _read_tensors(path, run.weights_sha256)
    with torch.device("meta"):
        network = build(run.config, run.classes)
    if wrong := _unlike(network.state_dict(), tensors):
        raise EdgeAfError(f"{path}: does not hold this network's weights: {wrong}. Train again, or copy the run again.")
    network.load_state_dict(tensors, assign=True)
    return run, network.eval()


def _read_tensors(path: Path, sha256: str | None) -> dict[str, Tensor]:
    """Read the tensors of a safetensors file after checking its SHA-256, if given."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    check_utf8_name(path)
    try:
        if sha256 is not None and (found := sha256_file(path)) != sha256:
            raise EdgeAfError(
                f"{path}: does not hold this network's weights: SHA-256 {found[:12]}… where {RUN} says {sha256[:12]}…, "
                "so the file was changed or damaged.\nCopy the run again, or train again."
            )
        return with_layer_names(load_file(path))
    except FileNotFoundError:
        raise EdgeAfError(f"{path}: missing. Train again.") from None
    except OSError as error:
        raise EdgeAfError(f"{path}: cannot be read ({error.strerror or error}).") from None
    except (SafetensorError, LookupError, TypeError, ValueError, RuntimeError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise EdgeAfError(f"{path}: does not hold this network's weights: {reason}. Train again.") from None


def with_layer_names(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename FC Late Fusion's tensors from earlier versions, which numbered modules: `visual.4` becomes `visual.fc2`."""

    def named(match: re.Match[str]) -> str:
        depth, part = divmod(int(match[2]), 4)
        return f"{match[1]}.{('fc', 'relu', 'norm', 'dropout')[part]}{depth + 1}."

    return {re.sub(r"\b(visual|audio)\.(\d+)\.", named, name): tensor for name, tensor in tensors.items()}


def _unlike(wanted: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> str | None:
    """Return the first difference in names, shapes or types between a network's tensors and a file's."""
    for name in [*wanted, *found]:
        if name not in found:
            return f"{name} is missing"
        if name not in wanted:
            return f"{name} is none of its tensors"
        if wanted[name].shape != found[name].shape:
            return f"{name} has the shape {tuple(found[name].shape)}, expected {tuple(wanted[name].shape)}"
        if wanted[name].dtype != found[name].dtype:
            types = [str(one[name].dtype).removeprefix("torch.") for one in (found, wanted)]
            return f"{name} is {types[0]}, expected {types[1]}"
    return None
