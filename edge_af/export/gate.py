"""The accuracy gate: limit the GAP@20 that a quantized file loses, measured on the file itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge_af.artifacts import Gate
from edge_af.console import say
from edge_af.data.dataset import Dataset
from edge_af.errors import GateFailed
from edge_af.export.quantize import Plan
from edge_af.metrics import gap_at_20
from edge_af.runtime import load, score_all


@dataclass(frozen=True)
class GateData:
    """Labeled videos, and the GAP@20 that a file may lose on them."""

    dataset: Dataset
    rows: NDArray[np.int64]
    max_gap_drop: float
    """Largest loss against the FP32 file of the same format."""

    @property
    def name(self) -> str:
        return self.dataset.folder.resolve().name


def measured_gap(path: Path, data: GateData) -> float:
    """Return a file's GAP@20 on the gate's videos.

    Raises:
        GateFailed: a score is NaN.
    """
    rows = np.sort(data.rows)
    scores = score_all(load(path), data.dataset.features(rows))
    if np.isnan(scores).any():
        raise GateFailed(f"{path.name}: a score is NaN on the gate's videos. The file was not kept.")
    return gap_at_20(scores, data.dataset.labels(rows))


def hold(
    path: Path,
    reference: float,
    made: Plan,
    data: GateData,
    worst_first: Callable[[], list[str]] | None,
    write: Callable[[Plan], None],
) -> tuple[Gate, Plan]:
    """Measure a file, and return its layers to float, worst first, until its loss is within the limit.

    Args:
        path: the file, written as planned in `made`.
        reference: GAP@20 of the FP32 file of the same format.
        made: the file's plan.
        data: gate videos and limit.
        worst_first: returns the layers in the order in which they return to float; None if they cannot.
        write: writes the file again.

    Returns:
        The measurement, and the plan of the final file.

    Raises:
        GateFailed: the loss is too large even with a single quantized layer left.
    """
    kept: list[str] = []
    lost: list[float] = []
    order: list[str] | None = None
    while True:
        gap = measured_gap(path, data)
        lost.append(reference - gap)
        if lost[-1] <= data.max_gap_drop:
            return Gate(data.name, len(data.rows), data.max_gap_drop, gap, lost[-1], kept), made
        if order is None:
            order = worst_first() if worst_first is not None else []
        left = [layer for layer in order if layer in made.layers]
        if len(left) <= 1:
            tried = f"; with {', '.join(kept)} in float {lost[-1]:.5f}" if kept else ""
            raise GateFailed(
                f"{path.name}: loses {lost[0]:.5f} GAP@20 on {len(data.rows):,} videos of {data.name}{tried}, "
                f"more than the {data.max_gap_drop:g} of --max-gap-drop.\n"
                "Nothing was kept. Export with another recipe, or allow a larger loss."
            )
        kept.append(left[0])
        say(f"{path.name}: loses {lost[-1]:.5f} GAP@20, more than {data.max_gap_drop:g}: {left[0]} returns to float")
        made = replace(made, layers={name: layer for name, layer in made.layers.items() if name != left[0]})
        write(made)
