"""Slowdown of a candidate against its base: time generations of processes until the verdict is clear or time is up."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_af.compare.nursery import Nursery
from edge_af.compare.statistics import ERROR, LEAST_GENERATIONS, LOOKS, decide, generation_figures, weighted_interval
from edge_af.compare.worker import BASE, BASE_AGAIN, CANDIDATE
from edge_af.machine.conditions import Activity, remarks
from edge_af.machine.device import core_count
from edge_af.records.comparison import CANNOT_TELL, Interval, LogRatio, Look, Timing

GENERATION_SECONDS = 0.05
"""Shortest duration of the rounds in a generation; the duration of loading, if that is longer."""
WAITS = 1.05
"""Ratio of wall-clock to processor time, in uninterrupted blocks, above which a file is waiting for something."""

BUSY = 0.7
"""Share of a core up to which a reason mentions other processes."""


class _Times:
    """Times of the generations so far, on both clocks."""

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self._wall: list[NDArray[np.int64]] = []
        self._cpu: list[NDArray[np.int64]] = []
        self._preempted: list[NDArray[np.bool_]] = []

    def add(self, answer: dict[str, Any]) -> None:
        self._wall.append(np.array(answer["wall"], np.int64))
        self._cpu.append(np.array(answer["cpu"], np.int64))
        self._preempted.append(np.array(answer["preempted"], np.bool_))

    @property
    def generations(self) -> int:
        return len(self._wall)

    @property
    def rounds(self) -> int:
        return sum(wall.shape[1] // 2 for wall in self._wall)

    @property
    def preempted_share(self) -> float | None:
        return float(np.concatenate(self._preempted, axis=1).mean()) if self._preempted else None

    @property
    def core_share(self) -> float | None:
        wall = sum(int(one.sum()) for one in self._wall)
        return sum(int(one.sum()) for one in self._cpu) / wall if wall else None

    @property
    def clock(self) -> str:
        """`wall` with several threads or if a file waits, because processor time does not count sleep; else `cpu`."""
        if self._threads > 1:
            return "wall"
        for which in (BASE, CANDIDATE, BASE_AGAIN):
            undisturbed = [~preempted[which] for preempted in self._preempted]
            wall = np.concatenate(
                [all_[which][keep].ravel() for all_, keep in zip(self._wall, undisturbed, strict=True)]
            )
            cpu = np.concatenate([all_[which][keep].ravel() for all_, keep in zip(self._cpu, undisturbed, strict=True)])
            if len(wall) and np.median(wall / np.maximum(cpu, 1)) > WAITS:
                return "wall"
        return "cpu"

    def figures(self, clock: str) -> tuple[list[LogRatio], list[LogRatio]]:
        """Return each generation's figures: candidate to base, and base to itself."""
        found = [generation_figures(times) for times in (self._cpu if clock == "cpu" else self._wall)]
        return [ratio for ratio, _ in found], [noise for _, noise in found]

    def milliseconds(self, clock: str, which: Sequence[int]) -> float | None:
        times = self._cpu if clock == "cpu" else self._wall
        if not times:
            return None
        fastest = [one[list(which)].reshape(-1, 2 * one.shape[2]).min(axis=1) for one in times]
        return float(np.median(np.concatenate(fastest))) / 1e6


def measure_pair(
    nursery: Nursery,
    *,
    threads: int,
    max_slowdown: float,
    budget_seconds: float,
    seed: int,
    on_generation: Callable[[int], None] = lambda generations: None,
) -> Timing:
    """Time a pair until one of the planned looks decides, or the budget is spent.

    Args:
        nursery: running nursery of the pair.
        threads: threads of each runtime.
        max_slowdown: allowed slowdown; 0.05 is 5 %.
        budget_seconds: time for loading and timing together.
        seed: random seed for the order in which processes take turns.
        on_generation: called with the number of generations after each one.

    Raises:
        BrokenFile: a process died or timed out.
    """
    began = Activity.now()
    times, looks = _Times(threads), []
    planned = list(LOOKS)
    start = time.monotonic()
    took: list[float] = []
    error = 0.0
    while planned:
        before = time.monotonic() - start
        # Do not start a generation that would probably exceed the budget.
        if not took or before + float(np.median(took)) <= budget_seconds:
            times.add(
                nursery.order(
                    {
                        "generation": times.generations,
                        "seed": seed,
                        "seconds": GENERATION_SECONDS,
                        "at_most": max(budget_seconds - before, 0.0),
                    }
                )
            )
            passed = time.monotonic() - start
            took.append(passed - before)
        else:
            passed = budget_seconds
        on_generation(times.generations)
        if passed < planned[0][0] * budget_seconds:
            continue
        # Looks that are due together become one look with the sum of their errors. If there are too few generations, the
        # error passes on to the next look; this depends only on the number of generations, not on their values.
        while planned and passed >= planned[0][0] * budget_seconds:
            error += planned.pop(0)[1] * ERROR
        if times.generations < LEAST_GENERATIONS:
            continue
        ratio = weighted_interval(times.figures(times.clock)[0], error).as_ratio()
        look_error, error = error, 0.0
        looks.append(
            Look(round(time.monotonic() - start, 3), times.generations, look_error, ratio, decide(ratio, max_slowdown))
        )
        if looks[-1].verdict != CANNOT_TELL:
            break
    return _timing(times, looks, time.monotonic() - start, budget_seconds, max_slowdown, _disturbances(began))


def _timing(
    times: _Times, looks: list[Look], seconds: float, budget: float, max_slowdown: float, warnings: list[str]
) -> Timing:
    clock = times.clock
    ratios, noises = times.figures(clock)
    last = looks[-1] if looks else None
    noise = weighted_interval(noises, last.error).as_ratio() if last is not None else None
    verdict, reason = (last.verdict, None) if last is not None else (CANNOT_TELL, None)
    if last is None or noise is None:
        reason = (
            f"only {times.generations} of the {LEAST_GENERATIONS} loads that an interval needs fitted "
            f"into this pair's {max(budget, 0):.3g} s{_busy(times.core_share)}: pass a larger --budget, "
            f"{_needed(times.generations, seconds)} for each pair"
        )
    elif not _is_within(noise, max_slowdown):
        verdict, reason = CANNOT_TELL, "two processes of the base differ by more than the limit"
    elif verdict == CANNOT_TELL:
        reason = (
            f"the interval reaches from below to above the limit after {seconds:.0f} s{_busy(times.core_share)}: pass a "
            "larger --budget"
        )
    return Timing(
        verdict=verdict,
        reason=reason,
        max_slowdown=max_slowdown,
        ratio=last.ratio if last is not None else None,
        noise=noise,
        generations=times.generations,
        rounds=times.rounds,
        seconds=round(seconds, 3),
        budget_seconds=budget,
        clock=clock,
        base_ms=times.milliseconds(clock, (BASE, BASE_AGAIN)),
        candidate_ms=times.milliseconds(clock, (CANDIDATE,)),
        preempted_share=times.preempted_share,
        core_share=times.core_share,
        looks=looks,
        log_ratios=ratios,
        log_noises=noises,
        warnings=warnings,
    )


def _needed(generations: int, seconds: float) -> str:
    """Estimate the time of `LEAST_GENERATIONS` loads from the loads so far."""
    if generations == 0:
        return f"enough for {LEAST_GENERATIONS} loads of three copies"
    return f"about {math.ceil(1.2 * LEAST_GENERATIONS * seconds / generations)} s"


def _busy(core_share: float | None) -> str:
    """Return a remark if the machine was too busy."""
    if core_share is None or core_share > BUSY:
        return ""
    return f"; other processes left it {core_share:.0%} of a core"


def _is_within(noise: Interval, max_slowdown: float) -> bool:
    """Return True if the base's interval against itself overlaps the allowed range; otherwise the noise is too large."""
    return noise.low <= 1 + max_slowdown and noise.high >= 1 / (1 + max_slowdown)


def _disturbances(began: Activity) -> list[str]:
    # The children's processor time counts as other processes' until the nursery has waited for them.
    found = remarks(began, Activity.now(), core_count())
    return [
        (text.format(amount) if "{" in text else text) + "."
        for text, amount in found.items()
        if "other processes" not in text
    ]
