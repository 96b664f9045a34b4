"""On simulated data, intervals have their coverage, false alarms are rare, and real differences are found."""

from __future__ import annotations

import numpy as np
import pytest

from edge_af.compare.statistics import (
    ERROR,
    LEAST_GENERATIONS,
    LOOKS,
    decide,
    generation_figures,
    student_quantile,
    weighted_interval,
)
from edge_af.records.comparison import CANNOT_TELL, FASTER, NOT_SLOWER, SLOWER, Interval, LogRatio


@pytest.mark.parametrize(
    "probability, freedom, expected",
    # Abramowitz & Stegun, table 26.10.
    [
        (0.75, 1, 1.0), (0.975, 1, 12.706), (0.975, 2, 4.303), (0.995, 3, 5.841), (0.975, 10, 2.228),
        (0.9995, 20, 3.85), (0.99, 120, 2.358),
    ],
)  # fmt: skip
def test_students_quantiles_are_those_of_the_tables(probability: float, freedom: int, expected: float):
    assert student_quantile(probability, freedom) == pytest.approx(expected, rel=3e-4)


def drawn(random: np.random.Generator, count: int, noise: float = 0.01, center: float = 0.0) -> list[LogRatio]:
    """Simulate generations on an intermittently busy machine, with an effect of each load's memory layout.

    A generation's error is only an estimate of its noise, as from three rounds.
    """
    scale = noise * np.where(random.random(count) < 0.4, random.exponential(8, count), 0.5)
    value = center + 0.008 * random.normal(size=count) + scale * random.normal(size=count)
    estimate = scale * np.sqrt(random.chisquare(2, count) / 2)
    return [LogRatio(*pair) for pair in zip(value.tolist(), estimate.tolist(), strict=True)]


@pytest.mark.parametrize("generations", [LEAST_GENERATIONS, 12, 30])
def test_the_interval_misses_no_more_often_than_it_promises(generations: int):
    random = np.random.default_rng(generations)
    found = [weighted_interval(drawn(random, generations), 0.01) for _ in range(3000)]
    too_high = np.mean([one.low > 0 for one in found])
    too_low = np.mean([one.high < 0 for one in found])
    # 3,000 draws of 1 % have a standard deviation of 0.18 points.
    assert max(too_high, too_low) <= 0.016
    # Nor may it be too wide: with 30 generations it has to miss sometimes.
    assert generations < 30 or max(too_high, too_low) > 0.001


def test_the_interval_holds_without_a_layout_and_without_noise():
    random = np.random.default_rng(0)
    still = [[LogRatio(one, 0.0) for one in random.normal(size=12).tolist()] for _ in range(3000)]
    assert np.mean([weighted_interval(figures, 0.01).low > 0 for figures in still]) <= 0.016
    same = weighted_interval([LogRatio(0.1, 0.0)] * 8, 0.01)
    assert same.low == pytest.approx(0.1) and same.high == pytest.approx(0.1)


def test_generations_of_a_busy_second_count_for_little():
    random = np.random.default_rng(1)
    calm = [LogRatio(float(one), 0.002) for one in random.normal(size=12) * 0.005]
    wild = [*calm, LogRatio(0.3, 0.2), LogRatio(-0.1, 0.15)]
    before, after = weighted_interval(calm, 0.005), weighted_interval(wild, 0.005)
    assert abs(after.value - before.value) < 0.003
    assert after.high - after.low < 1.7 * (before.high - before.low)


def test_one_odd_load_widens_the_interval_rather_than_deciding():
    """Its rounds agree, so only its value differs from the others."""
    figures = [LogRatio(0.001 * at, 0.001) for at in range(-5, 6)]
    odd = weighted_interval([*figures, LogRatio(0.5, 0.001)], 0.005)
    assert odd.low < 0 < odd.high


def simulated_verdict(random: np.random.Generator, true_ratio: float, noise: float, total: int, limit: float) -> str:
    """Simulate `measure_pair` with a budget for `total` generations: test at the planned shares of the budget."""
    figures = drawn(random, total, noise, float(np.log(true_ratio)))
    error = 0.0
    for share, part in LOOKS:
        count = int(share * total)
        error += part * ERROR
        if count < LEAST_GENERATIONS:
            continue
        verdict = decide(weighted_interval(figures[:count], error).as_ratio(), limit)
        error = 0.0
        if verdict != CANNOT_TELL:
            return verdict
    return CANNOT_TELL


@pytest.mark.parametrize("true_ratio", [1.0, 1.02])
def test_false_alarms_stay_rare_over_all_looks(true_ratio: float):
    """This holds even at the limit, where half of the point estimates exceed it."""
    random = np.random.default_rng(1)
    verdicts = [simulated_verdict(random, true_ratio, 0.01, 30, 0.02) for _ in range(2000)]
    assert np.mean([verdict == SLOWER for verdict in verdicts]) <= (0.001 if true_ratio == 1.0 else ERROR * 1.7)
    if true_ratio == 1.02:
        assert np.mean([verdict in (NOT_SLOWER, FASTER) for verdict in verdicts]) <= ERROR * 1.7


@pytest.mark.slow
def test_looking_after_every_generation_would_raise_false_alarms():
    """Looks are planned because testing after every generation multiplies the error."""
    random = np.random.default_rng(2)
    often = 0
    for _ in range(300):
        figures = [LogRatio(float(one), 0.0) for one in np.log(1.02) + 0.005 * random.normal(size=30)]
        often += any(weighted_interval(figures[:n], ERROR).as_ratio().low > 1.02 for n in range(LEAST_GENERATIONS, 31))
    assert often / 300 > 2 * ERROR


@pytest.mark.parametrize("true_ratio, least", [(1.05, 0.95), (1.10, 0.99)])
def test_slower_candidates_are_found(true_ratio: float, least: float):
    random = np.random.default_rng(3)
    verdicts = [simulated_verdict(random, true_ratio, 0.01, 24, 0.02) for _ in range(600)]
    assert np.mean([verdict == SLOWER for verdict in verdicts]) >= least


def test_a_network_is_found_no_slower_than_itself():
    random = np.random.default_rng(4)
    verdicts = [simulated_verdict(random, 1.0, 0.01, 24, 0.02) for _ in range(600)]
    assert np.mean([verdict in (NOT_SLOWER, FASTER) for verdict in verdicts]) >= 0.95


def test_looks_share_out_the_whole_error():
    assert sum(part for _, part in LOOKS) == pytest.approx(1)
    assert [share for share, _ in LOOKS] == sorted(share for share, _ in LOOKS) and LOOKS[-1][0] == 1


@pytest.mark.parametrize(
    "low, high, verdict",
    [
        (1.021, 1.3, SLOWER),
        (1.01, 1.03, CANNOT_TELL),
        (0.99, 1.02, NOT_SLOWER),
        (1.001, 1.015, NOT_SLOWER),
        (0.8, 0.99, FASTER),
    ],
)
def test_verdicts(low: float, high: float, verdict: str):
    assert decide(Interval((low + high) / 2, low, high), 0.02) == verdict


def simulated_times(random: np.random.Generator, rounds: int, factors: tuple[float, float, float]) -> np.ndarray:
    """Simulate (3, blocks, 6) nanoseconds with drifting machine speed and occasional delays of single inferences."""
    machine = np.repeat(np.exp(0.1 * np.cumsum(random.normal(size=rounds))), 2)[None, :, None]
    held_up = np.where(random.random((3, 2 * rounds, 6)) < 0.4, random.exponential(1.0, (3, 2 * rounds, 6)), 0)
    jitter = np.abs(random.normal(size=held_up.shape)) * 0.01
    return np.rint(2e6 * machine * np.array(factors)[:, None, None] * (1 + held_up + jitter)).astype(np.int64)


def test_a_generations_figures_see_the_file_and_not_the_machine():
    random = np.random.default_rng(5)
    found = [generation_figures(simulated_times(random, 8, (1.0, 1.05, 1.0))) for _ in range(200)]
    ratios, noises = (np.array([one[at].value for one in found]) for at in (0, 1))
    assert ratios.mean() == pytest.approx(np.log(1.05), abs=0.002)
    assert noises.mean() == pytest.approx(0, abs=0.002)
    assert np.abs(ratios - np.log(1.05)).max() < 0.02
    # On average, a generation estimates its own error correctly.
    assert 0.4 < np.mean([one[0].error for one in found]) / ratios.std() < 2.5


def test_a_second_process_of_the_base_that_is_slower_is_seen_as_noise():
    random = np.random.default_rng(6)
    ratio, noise = generation_figures(simulated_times(random, 32, (1.0, 1.0, 1.03)))
    assert noise.value == pytest.approx(np.log(1.03), abs=0.005)
    assert ratio.value == pytest.approx(-np.log(1.03) / 2, abs=0.005)
