"""A gate without a clock: how many instructions of each class an inference takes on a board, counted under emulation."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from edge_af.errors import EdgeAfError
from edge_af.records.comparison import FAILED, PASSED, UNKNOWN, Check

AT_LEAST = ("dot_product", "dot_product_macs")
"""Fewer of them: a layer left the kernels that it is quantized for."""


def check_instructions(
    path: Path, pattern: str, limits: Mapping[str, Mapping[str, float]], timeout_seconds: float
) -> list[Check]:
    """A check for each limit; without emulation set up, or where the file does not run on the board, one that could not tell.

    Args:
        path: the candidate.
        pattern: what the limits are given for, to name them by.
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
