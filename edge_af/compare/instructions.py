"""Gate without a clock: the number of instructions per class that an inference executes on an emulated board."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from edge_af.errors import EdgeAfError
from edge_af.records.comparison import FAILED, PASSED, UNKNOWN, Check

AT_LEAST = ("dot_product", "dot_product_macs")
"""Classes with a lower limit: fewer of them means that a layer no longer uses its quantized kernels."""


def check_instructions(
    path: Path, pattern: str, limits: Mapping[str, Mapping[str, float]], timeout_seconds: float
) -> list[Check]:
    """Return a check for each limit, or one inconclusive check per board where the file could not be counted.

    Args:
        path: the candidate.
        pattern: file pattern of the limits; part of each check's name.
        limits: by board, then by field of `edge_af.records.results.Instructions`.
        timeout_seconds: for counting on one board.
    """
    from edge_af.emulation.counts import instruction_counts

    found = []
    for board, classes in limits.items():
        try:
            counts = instruction_counts(path, board, timeout_seconds=timeout_seconds)
        except EdgeAfError as error:
            found.append(Check(f"{pattern}: {board}", UNKNOWN, " ".join(str(error).splitlines())))
            continue
        for name, limit in classes.items():
            value, least = getattr(counts, name), name in AT_LEAST
            good = value >= limit if least else value <= limit
            verdict = f"{value:,} of {name} on {board}, {'below' if least else 'above'} {limit:,.0f}"
            status = PASSED if good else FAILED
            found.append(
                Check(
                    f"{pattern}: {board} {name}", status, "within the budget" if good else verdict, None, value, limit
                )
            )
    return found
