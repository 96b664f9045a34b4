"""A run: the folder that training writes and that export, eval and `edge_af.load` read.

| file | what |
|---|---|
| `weights.safetensors` | the averaged weights of the best epoch, by held-out GAP@20 |
| `run.json` | what the network is and how it was trained; written after the weights it describes |
| `metrics.jsonl` | a line an epoch |
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge_af.errors import EdgeAfError
from edge_af.files import read_json, write_atomic, write_json
from edge_af.models.presets import ModelConfig, config_from_dict

if TYPE_CHECKING:
    from edge_af.models.networks import AttendFusion, FCLateFusion

RUN = "run.json"
WEIGHTS = "weights.safetensors"
METRICS = "metrics.jsonl"
SCHEMA_VERSION = 1


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
    training: dict[str, Any] = field(default_factory=dict)
    """Options, data, held-out metrics, versions: a record, not needed to use the network."""

    @property
    def model(self) -> str:
        return self.config.model


def save_run(folder: Path, run: Run, network: AttendFusion | FCLateFusion) -> None:
    """Write weights, then `run.json`; each is replaced whole.

    Raises:
        EdgeAfError: the folder cannot be written or is full.
    """
    from safetensors.torch import save

    tensors = {name: tensor.detach().contiguous() for name, tensor in network.state_dict().items()}
    write_atomic(folder / WEIGHTS, save(tensors))
    value = dataclasses.asdict(run)
    write_json(folder / RUN, {"schema_version": SCHEMA_VERSION, "model": run.model, **value})


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
    try:
        tensors = load_file(folder / WEIGHTS)
        with torch.device("meta"):
            network = build(run.config, run.classes)
        network.load_state_dict(tensors, assign=True)
    except FileNotFoundError:
        raise EdgeAfError(f"{folder / WEIGHTS}: missing. Train again.") from None
    except (SafetensorError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise EdgeAfError(f"{folder / WEIGHTS}: does not hold this network's weights: {reason}") from None
    return run, network.eval()
