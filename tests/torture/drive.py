"""Distribute the cases over worker processes."""

from __future__ import annotations

import multiprocessing
import os
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

import click
import damage
import ground
import kills
import limits
import names
import outcome
import pairs
import soak

SIZES = {
    # Kind: number of cases for `--size short`, `medium` and `long`. For the soak test: seconds.
    "kills": (22, 110, 330),
    "damage": (300, 3000, 20_000),
    "names": (12, 60, 220),
    "limits": (20, 60, 220),
    "pairs": (6, 22, 44),
    "soak": (5, 60, 900),
}
PART = {"kills": 11, "damage": 500, "names": 20, "limits": 20, "pairs": 11, "soak": 10**6}
"""Number of cases per task of a worker process."""
WITH_REFERENCE = {"kills": kills, "limits": limits, "pairs": pairs}
OTHERS = {"damage": damage, "names": names}


def part(kind: str, folder: Path, whole: dict[str, kills.Reference], numbers: range) -> list[outcome.Case]:
    """Run the cases with these numbers in this process."""
    place = ground.Ground(folder)
    if kind in WITH_REFERENCE:
        return list(WITH_REFERENCE[kind].tortured(place, whole, numbers))
    if kind == "soak":
        return list(soak.tortured(place, len(numbers)))
    return list(OTHERS[kind].tortured(place, numbers))


def parts(sizes: dict[str, int], first: int) -> Iterator[tuple[str, range]]:
    """Yield the kind and the case numbers of every task."""
    for kind, cases in sizes.items():
        numbers = range(first, first + cases)
        for at in range(0, cases, PART[kind]):
            yield kind, numbers[at : at + PART[kind]]


def torture(sizes: dict[str, int], first: int, jobs: int) -> list[outcome.Case]:
    """Run `sizes[kind]` cases of each kind in `jobs` worker processes, from number `first`.

    Progress goes to standard error.
    """
    found: list[outcome.Case] = []
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    with tempfile.TemporaryDirectory(prefix="torture-") as scratch:
        place = ground.make(Path(scratch) / "ground")
        whole = kills.references(place, Path(scratch))
        # Forked workers would inherit open file descriptors.
        with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn"), max_tasks_per_child=1) as pool:
            tasks = [pool.submit(part, kind, place.folder, whole, numbers) for kind, numbers in parts(sizes, first)]
            for task in as_completed(tasks):
                cases = task.result()
                found += cases
                faults = sum(case.fault is not None for case in cases)
                click.echo(f"{len(found):,} cases, the last {len(cases)} of {cases[0].kind}, {faults} faults", err=True)
    return found
