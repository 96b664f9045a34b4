"""Statistics of a comparison: from nanoseconds to a ratio with an interval, and from an interval to a verdict.

*A round* gives one figure per process: the logarithm of its fastest inference in that round. Disturbances only make an
inference slower, so the fastest is the least disturbed (Chen & Revels 2016, "Robust benchmarking in noisy environments").
All processes of a round have equally many tries within a fraction of a second, so a slow phase of the machine slows all.

*A generation* is one load of every file. It gives one figure, the median over its rounds of

    log candidate − (log base + log base again) / 2

with a standard error from the spread of its rounds. The memory layout of a load makes it about a percent faster or slower
for its whole life, however many rounds it has. So generations, not rounds, are the independent observations.

*The ratio* is exp of the weighted mean m over the generations, with weights w ∝ 1 / (e² + `LAYOUT`²), where e is a
generation's standard error: generations from a busy second count for little. Weights depend only on the spread of the
rounds, not on their values, so they favor neither side. The variance of m comes from the generations' figures y, not from
the e: it is Σ w² (y − m)² / (1 − w)² for Σ w = 1 (MacKinnon & White 1985, HC3), with Student's t of 1 / Σ w² − 1 degrees
of freedom (Kish's effective number of observations, less one).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edge_af.records.comparison import CANNOT_TELL, FASTER, NOT_SLOWER, SLOWER, Interval, LogRatio

LOOKS = ((0.125, 0.05), (0.25, 0.1), (0.5, 0.15), (1.0, 0.7))
"""Planned looks at the interval: shares of the budget, each with its share of `ERROR`. They are fixed beforehand because
optional stopping eventually finds a difference between identical files. The shares add up to 1, so all looks together err no
more often than `ERROR` (Bonferroni's inequality). The last look has the largest share; early looks stop only for clear
differences (as in O'Brien & Fleming 1979).
"""
ERROR = 0.01
"""Probability of a wrong decision in one direction, over all looks together."""
LEAST_GENERATIONS = 8
"""Smallest number of generations for an interval."""
LAYOUT = 0.01
"""Approximate change of a time by the load alone (docs/explanation/comparison.md); limits the weight of any generation."""

_OF_MEAN_DEVIATION = math.sqrt(math.pi / 2)
"""A normal distribution's ratio of standard to mean absolute deviation; also of the median's to the mean's standard error."""


def round_levels(times: NDArray[np.int64]) -> NDArray[np.float64]:
    """Reduce (processes, blocks, inferences) nanoseconds to the log of each round's fastest: (processes, blocks / 2)."""
    processes, blocks, inferences = times.shape
    return np.log(times.reshape(processes, blocks // 2, 2 * inferences).min(axis=2))


def generation_figures(times: NDArray[np.int64]) -> tuple[LogRatio, LogRatio]:
    """Compute the figures of one generation.

    Args:
        times: (3, blocks, inferences) nanoseconds of base, candidate and base again; two blocks per round, at least two rounds.

    Returns:
        Candidate against the mean of the bases, and the base's second process against its first.
    """
    base, candidate, again = round_levels(times)
    return _figure(candidate - (base + again) / 2), _figure(again - base)


def _figure(rounds: NDArray[np.float64]) -> LogRatio:
    value, n = float(np.median(rounds)), len(rounds)
    deviation = _OF_MEAN_DEVIATION * float(np.abs(rounds - value).mean()) * math.sqrt(n / (n - 1))
    return LogRatio(value, _OF_MEAN_DEVIATION * deviation / math.sqrt(n))


def weighted_interval(figures: Sequence[LogRatio], error: float) -> Interval:
    """Return the mean of two or more figures, with bounds that the true mean exceeds with probability `error` on each side."""
    values = np.array([figure.value for figure in figures])
    weights = 1 / (np.array([figure.error for figure in figures]) ** 2 + LAYOUT**2)
    weights /= weights.sum()
    center = float(weights @ values)
    variance = float((weights**2 * (values - center) ** 2 / (1 - weights) ** 2).sum())
    freedom = max(1.0, 1 / float((weights**2).sum()) - 1)
    reach = student_quantile(1 - error, freedom) * math.sqrt(variance)
    return Interval(center, center - reach, center + reach)


def decide(ratio: Interval, max_slowdown: float) -> str:
    """Return the verdict on candidate over base for an allowed slowdown of `max_slowdown` (0.05 is 5 %)."""
    if ratio.low > 1 + max_slowdown:
        return SLOWER
    if ratio.high > 1 + max_slowdown:
        return CANNOT_TELL
    return FASTER if ratio.high < 1 else NOT_SLOWER


def student_quantile(probability: float, freedom: float) -> float:
    """Return the quantile of Student's t distribution for a probability above one half and at least 1 degree of freedom.

    Bisects the distribution function, which is a finite sum for integer degrees of freedom (Abramowitz & Stegun 26.7.3 and
    26.7.4). Between integers it interpolates linearly, which is slightly too high. scipy would add 100 MB for this.
    """
    whole = math.floor(freedom)
    beyond = freedom - whole
    below = _whole_quantile(probability, whole)
    return below if beyond == 0 else below * (1 - beyond) + _whole_quantile(probability, whole + 1) * beyond


def _whole_quantile(probability: float, freedom: int) -> float:
    low, high = 0.0, 1.0
    while _student_cdf(high, freedom) < probability:
        high *= 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _student_cdf(middle, freedom) < probability else (low, middle)
    return high


def _student_cdf(t: float, freedom: int) -> float:
    angle = math.atan(t / math.sqrt(freedom))
    sine, cosine = math.sin(angle), math.cos(angle)
    odd = freedom % 2
    # Odd: cos + 2/3 cos^3 + 2·4/(3·5) cos^5 + …; even: 1 + 1/2 cos^2 + 1·3/(2·4) cos^4 + …
    term = cosine if odd else 1.0
    total = 0.0
    for power in range(1 if odd else 0, freedom - 1, 2):
        total += term
        term *= cosine * cosine * (power + 1) / (power + 2)
    within = 2 / math.pi * (angle + sine * total) if odd else sine * total
    return 0.5 + within / 2
