"""Write an epoch's figures for TensorBoard if it is installed; `metrics.jsonl` always has them."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

FOLDER = "tensorboard"


def is_ours(name: str) -> bool:
    """Return True if a relative path in a run folder is a TensorBoard event file."""
    return name.startswith(f"{FOLDER}/events.out.tfevents.")


def write(out: Path, record: dict[str, Any]) -> None:
    """Add an epoch's record to the event files in `out`; do nothing without TensorBoard.

    An epoch that is trained again after a kill is written again, and the viewer shows the later one.
    """
    # TensorBoard's switch to avoid importing TensorFlow.
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
