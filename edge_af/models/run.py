"""A run: the folder that training writes and that export, eval and `edge_af.load` read.

| file | what |
|---|---|
| `run.json` | what the network is, how it was trained, and the name of its weights file |
| `weights-eEPOCH.safetensors` | the averaged weights of the best epoch, by held-out GAP@20 |
| `metrics.jsonl` | a line an epoch |
| `checkpoint.safetensors` | all that `--resume` needs; gone when training is complete |

`run.json` is replaced after the weights it names are on the disk, and the weights it named before are removed after
that: a kill at any moment leaves a run that fits together.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge_af.errors import EdgeAfError
from edge_af.files import atomic_path, read_json, write_json
from edge_af.models.presets import ModelConfig, config_from_dict

if TYPE_CHECKING:
    from torch import Tensor

    from edge_af.models.networks import AttendFusion, FCLateFusion

RUN = "run.json"
METRICS = "metrics.jsonl"
SCHEMA_VERSION = 2
"""Version 1 held networks of the same parameters with the attention between the FC layers."""


@dataclass(frozen=True)
class Run:
    """What a run folder holds, but for the weights."""

    preset: str
    config: ModelConfig
    classes: int
    params: int
    """Trainable parameters."""
    f1_threshold: float
    """The threshold with the best micro-F1 on the held-out videos."""
    class_names: list[str]
    weights: str
    """The file of the weights, in the run's folder."""
    training: dict[str, Any] = field(default_factory=dict)
    """Options, data, held-out metrics, versions: a record, not needed to use the network."""

    @property
    def model(self) -> str:
        return self.config.model


def save_run(folder: Path, run: Run, network: AttendFusion | FCLateFusion) -> None:
    """Make `run` with the weights of `network` what the folder holds.

    Raises:
        EdgeAfError: the folder cannot be written or is full.
    """
    write_tensors(folder / run.weights, network.state_dict())
    value = {"schema_version": SCHEMA_VERSION, "model": run.model, **dataclasses.asdict(run)}
    write_json(folder / RUN, value)
    for old in folder.glob("weights-*.safetensors"):
        if old.name != run.weights:
            old.unlink()


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write tensors as a safetensors file, atomically.

    Raises:
        EdgeAfError: no space, or the folder cannot be written; what was there before is kept.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    with atomic_path(path) as temporary:
        try:
            save_file({name: tensor.detach().contiguous() for name, tensor in tensors.items()}, temporary, metadata)
        except SafetensorError as error:
            # It tells of a full disk in words only.
            if number := re.search(r"os error (\d+)", str(error)):
                raise OSError(int(number[1]), os.strerror(int(number[1]))) from None
            raise


def load_run(folder: str | Path) -> Run:
    """Read `run.json`.

    Raises:
        EdgeAfError: the folder is no run, its training has not finished an epoch yet, or the file is damaged.
    """
    folder = Path(folder)
    path = folder / RUN
    if not path.is_file():
        raise EdgeAfError(f"{folder}: not a run (no {RUN}). `edge-af train --out {folder}` makes one.")
    value = read_json(path, "run")
    if not isinstance(value, dict) or value.pop("schema_version", None) != SCHEMA_VERSION:
        raise EdgeAfError(f"{path}: not a run of schema_version {SCHEMA_VERSION}. Train again with this edge-af.")
    try:
        config = config_from_dict(value.pop("model"), value.pop("config"))
        return Run(config=config, **value)
    except (KeyError, TypeError) as error:
        raise EdgeAfError(f"{path}: not a run of ours ({error}).") from None


def load_network(folder: str | Path) -> tuple[Run, AttendFusion | FCLateFusion]:
    """The run and its network in eval mode, giving logits (n, classes).

    Raises:
        EdgeAfError: as `load_run`, or the weights are missing, damaged or of another network.
    """
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    from edge_af.models.networks import build

    folder = Path(folder)
    run = load_run(folder)
    if Path(run.weights).name != run.weights:
        raise EdgeAfError(f"{folder / RUN}: names weights outside its folder: {run.weights!r}.")
    try:
        tensors = load_file(folder / run.weights)
        with torch.device("meta"):
            network = build(run.config, run.classes)
        network.load_state_dict(tensors, assign=True)
    except FileNotFoundError:
        raise EdgeAfError(f"{folder / run.weights}: missing. Train again.") from None
    except (SafetensorError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise EdgeAfError(f"{folder / run.weights}: does not hold this network's weights: {reason}") from None
    return run, network.eval()
