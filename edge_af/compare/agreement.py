"""Agreement of base and candidate: a wrong network may be fast, so their scores are compared before their times.

Both score the same videos. Scores become log-odds, log(p / (1 − p)), of which each class's mean over the videos is taken
off: what classes are frequent is known without looking at a video. *Agreement* is the correlation (Pearson's r) of what is
left, over all videos and classes: 1 for the same network, near 1 for a quantized one, near 0 for one that says the same
of every video, or something else altogether.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

LEAST_AGREEMENT = {"videos": 0.5, "random": 0.25}
"""Below it the candidate is refused, by what was scored. Quantizing leaves 0.99 and more, another network trained on the
same data some 0.6 to 0.8 on videos, and 0.35 on random values (docs/compare.md has the figures)."""
SMALLEST = 1e-6
"""Scores are taken as no smaller and their complements too: beyond, a float32's rounding and a saturated sigmoid decide."""


def agreement(base: NDArray[np.float32], candidate: NDArray[np.float32]) -> float:
    """Correlate scores (videos, classes); 0 where one of them does not depend on the video, or holds NaN."""
    if base.shape != candidate.shape or not (np.isfinite(base).all() and np.isfinite(candidate).all()):
        return 0.0
    left, right = _centered(base), _centered(candidate)
    lengths = float(np.linalg.norm(left)) * float(np.linalg.norm(right))
    return float((left * right).sum()) / lengths if lengths > 0 else 0.0


def disorder(base: NDArray[np.float32], candidate: NDArray[np.float32]) -> tuple[str, str] | None:
    """Explain why scores (videos, classes) cannot agree: `base` or `candidate`, and what is wrong with it."""
    for role, scores in (("base", base), ("candidate", candidate)):
        if not np.isfinite(scores).all():
            return role, "has scores that are not numbers"
        if not _centered(scores).any():
            return role, "scores all videos alike"
    if base.shape != candidate.shape:
        return "candidate", f"scores {candidate.shape[1]:,} classes where the base scores {base.shape[1]:,}"
    return None


def _centered(scores: NDArray[np.float32]) -> NDArray[np.float64]:
    inside = np.clip(scores.astype(np.float64), SMALLEST, 1 - SMALLEST)
    odds = np.log(inside / (1 - inside))
    centered: NDArray[np.float64] = odds - odds.mean(axis=0)
    # Rounding leaves something of what is the same for all videos.
    return np.where(np.abs(centered) > 1e-9, centered, 0.0)
