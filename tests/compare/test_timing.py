"""Verdicts on simulated times: the decision, when measuring stops, and the choice of clock."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest

from edge_af.compare.statistics import LEAST_GENERATIONS, LOOKS
from edge_af.compare.timing import measure_pair
from edge_af.records.comparison import Timing


class Simulated:
    """Stand-in for a nursery. `candidate` and `again` are the times of those processes relative to the base's."""

    def __init__(
        self,
        candidate: float,
        *,
        again: float = 1.0,
        noise: float = 0.003,
        layout: float = 0.004,
        waits: float = 0.0,
        takes: float = 0.004,
    ) -> None:
        self.random = np.random.default_rng(0)
        self.factors, self.noise, self.layout, self.waits, self.takes = (
            (1.0, candidate, again),
            noise,
            layout,
            waits,
            takes,
        )
        self.orders: list[dict[str, Any]] = []
        self.now = 0.0

    def order(self, order: dict[str, Any]) -> dict[str, Any]:
        self.orders.append(order)
        self.now += self.takes
        factors = np.array(self.factors) * np.exp(self.layout * self.random.normal(size=3))
        cpu = 2e6 * factors[:, None, None] * (1 + self.noise * np.abs(self.random.normal(size=(3, 6, 6))))
        wall = cpu * (1 + self.waits)
        return {"cpu": cpu.astype(int).tolist(), "wall": wall.astype(int).tolist(), "preempted": [[False] * 6] * 3}


def measured(nursery: Simulated, *, budget: float = 0.4, threads: int = 1, limit: float = 0.02) -> Timing:
    """Measure a simulated pair in simulated seconds, which a busy machine does not affect."""
    with patch("edge_af.compare.timing.time", SimpleNamespace(monotonic=lambda: nursery.now)):
        return measure_pair(nursery, threads=threads, max_slowdown=limit, budget_seconds=budget, seed=7)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "candidate, verdict", [(1.0, "not slower"), (1.05, "slower"), (1.10, "slower"), (0.9, "faster")]
)
def test_what_is_plain_is_decided_before_the_budget_is_spent(candidate: float, verdict: str):
    found = measured(Simulated(candidate))
    assert found.verdict == verdict and found.reason is None and found.seconds < 0.4
    assert found.ratio is not None and found.ratio.low <= candidate <= found.ratio.high
    assert found.base_ms == pytest.approx(2.0, rel=0.02) and found.clock == "cpu"
    assert found.candidate_ms == pytest.approx(2.0 * candidate, rel=0.02)
    assert len(found.log_ratios) == len(found.log_noises) == found.generations
    assert found.rounds == 3 * found.generations


def test_a_candidate_at_the_limit_cannot_be_told_and_the_budget_is_kept():
    found = measured(Simulated(1.02, layout=0.02))
    assert found.verdict == "cannot tell" and "above the limit" in (found.reason or "")
    assert found.seconds <= 0.4 + 0.004
    assert len(found.looks) <= len(LOOKS)
    assert sum(look.error for look in found.looks) <= 0.01 + 1e-9


def test_too_short_a_budget_is_told_as_such():
    found = measured(Simulated(1.5, takes=0.1), budget=0.25)
    assert found.verdict == "cannot tell" and found.ratio is None and found.generations < LEAST_GENERATIONS
    assert "fitted into this pair's 0.25 s: pass a larger --budget, about " in (found.reason or "")


def test_a_machine_that_is_too_busy_is_named():
    found = measured(Simulated(1.02, layout=0.02, waits=9.0))
    assert found.core_share == pytest.approx(0.1, rel=0.05)
    assert found.reason is not None and "other processes left it 10% of a core" in found.reason


def test_a_base_that_differs_from_itself_decides_nothing():
    found = measured(Simulated(1.2, again=1.15))
    assert found.verdict == "cannot tell" and "of the base differ by more" in (found.reason or "")


def test_a_candidate_that_sleeps_is_timed_by_the_clock_on_the_wall():
    """CPU time alone would miss it."""
    assert measured(Simulated(1.0, waits=0.5)).clock == "wall"


def test_several_threads_are_timed_by_the_clock_on_the_wall():
    assert measured(Simulated(1.0), threads=2).clock == "wall"


def test_each_generation_has_its_number_and_the_seed():
    nursery = Simulated(1.0)
    measured(nursery)
    assert [order["generation"] for order in nursery.orders] == list(range(len(nursery.orders)))
    assert {order["seed"] for order in nursery.orders} == {7}
