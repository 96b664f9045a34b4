"""An epoch's figures for TensorBoard, where that is installed; `metrics.jsonl` holds them all the same."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

FOLDER = "tensorboard"


def is_ours(name: str) -> bool:
    """Return True if a path relative to a run's folder is an event file's."""
    return name.startswith(f"{FOLDER}/events.out.tfevents.")


def write(out: Path, record: dict[str, Any]) -> None:
    """Add an epoch's record to the event files in `out`; nothing without TensorBoard.

    An epoch that is trained again after a kill is written again: the viewer shows the later one.
    """
    # TensorBoard's own switch for doing without TensorFlow, which it would import whole to open a file.
    sys.modules.setdefault("tensorboard.compat.notf", ModuleType("notf"))
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return
    epoch = record["epoch"]
    with SummaryWriter(str(out / FOLDER), purge_step=epoch) as writer:
        for name, value in _flat(record):
            writer.add_scalar(name, value, epoch)


def _flat(record: dict[str, Any], prefix: str = "") -> list[tuple[str, float]]:
    found = []
    for name, value in record.items():
        if isinstance(value, dict):
            found += _flat(value, f"{prefix}{name}/")
        elif name != "epoch":
            found.append((prefix + name, float(value)))
    return found
