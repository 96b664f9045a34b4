"""What a comparison's times say: from nanoseconds to a ratio with an interval, and from an interval to a verdict.

*A round* gives one figure a process: the fastest of its inferences in that round, in logarithms. Whatever disturbs an
inference makes it slower, so that the fastest is the least disturbed (Chen & Revels 2016, "Robust benchmarking in noisy
environments", section 4); and as all processes of a round have had as many tries within some milliseconds, a machine that is
slower for a while is slower for all of them.

*A generation* is one load of every file, and gives one figure: the median over its rounds of

    log candidate − (log base + log base again) / 2

Where a load's memory happens to lie makes it faster or slower by up to a few percent for as long as it lives, whatever the number
of rounds; so generations, and not rounds, are the independent observations.

*The ratio* is exp of the 20 % trimmed mean over the G generations: a fifth at either end is left out, and what is left
is averaged. Its standard error is that of Tukey & McLaughlin (1963; Wilcox 2012, "Introduction to robust estimation", section 3.3):
s_w / ((1 − 2γ) √G), with s_w the standard deviation after the values left out were set to the nearest ones kept,
and Student's t with h − 1 degrees of freedom, where h are kept.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

LOOKS = ((0.125, 0.05), (0.25, 0.1), (0.5, 0.15), (1.0, 0.7))
"""When the interval is looked at: after these shares of the budget, each with its share of `ERROR`. They are fixed beforehand:
looking after every generation and stopping when it suits would find a difference sooner or later where there is none. The shares
add up to 1, so that all looks together err no more often than `ERROR` (Bonferroni's inequality); the last one
has the most, and the early ones stop only for what is plain (as in O'Brien & Fleming 1979)."""
ERROR = 0.01
"""Probability that a comparison decides wrongly in one direction, over all its looks together."""
LEAST_GENERATIONS = 6
"""Before which no interval is worth looking at."""
TRIMMED = 0.2

SLOWER, NOT_SLOWER, FASTER, CANNOT_TELL = "slower", "not slower", "faster", "cannot tell"


@dataclass(frozen=True)
class Interval:
    """A centre between two bounds: of differences of logarithms, or of ratios."""

    value: float
    low: float
    high: float

    def as_ratio(self) -> Interval:
        """The ratios of which these are the logarithms."""
        return Interval(*map(math.exp, (self.value, self.low, self.high)))


def round_levels(times: NDArray[np.int64]) -> NDArray[np.float64]:
    """Logarithm of the fastest inference: (processes, blocks, inferences) nanoseconds, two blocks a round, to (processes, rounds)."""
    processes, blocks, inferences = times.shape
    return np.log(times.reshape(processes, blocks // 2, 2 * inferences).min(axis=2))


def generation_figures(times: NDArray[np.int64]) -> tuple[float, float]:
    """What one generation says, as differences of logarithms.

    Args:
        times: (3, blocks, inferences) nanoseconds of base, candidate and base again, two blocks a round.

    Returns:
        Candidate against the mean of the bases, and the base against itself.
    """
    base, candidate, again = round_levels(times)
    return float(np.median(candidate - (base + again) / 2)), float(np.median(again - base))


def trimmed_interval(values: NDArray[np.float64], error: float) -> Interval:
    """The trimmed mean of values (n,), n at least 4, and bounds that the true one passes with probability `error` on either side."""
    ordered = np.sort(values)
    n = len(ordered)
    cut = int(TRIMMED * n)
    kept = ordered[cut : n - cut]
    winsorised = np.clip(ordered, kept[0], kept[-1])
    standard_error = float(winsorised.std(ddof=1)) / ((1 - 2 * cut / n) * math.sqrt(n))
    centre, reach = float(kept.mean()), student_quantile(1 - error, len(kept) - 1) * standard_error
    return Interval(centre, centre - reach, centre + reach)


def decide(ratio: Interval, max_slowdown: float) -> str:
    """The verdict on candidate over base, `max_slowdown` being what is allowed: 0.05 for 5 %."""
    if ratio.low > 1 + max_slowdown:
        return SLOWER
    if ratio.high > 1 + max_slowdown:
        return CANNOT_TELL
    return FASTER if ratio.high < 1 else NOT_SLOWER


def student_quantile(probability: float, freedom: int) -> float:
    """The quantile of Student's t distribution for a probability above one half and at least 1 degree of freedom.

    By bisection of its distribution function, which for whole degrees of freedom is a finite sum (Abramowitz & Stegun 26.7.3
    and 26.7.4); scipy would be the only other use of a package of 100 MB.
    """
    low, high = 0.0, 1.0
    while _student_cdf(high, freedom) < probability:
        high *= 2
    for _ in range(80):
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
