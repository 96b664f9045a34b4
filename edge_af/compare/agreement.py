"""Agreement of base and candidate. A wrong network can be fast, so scores are compared before times.

Both score the same videos. Scores become log-odds, log(p / (1 − p)), and each class's mean over the videos is subtracted:
class frequencies are known without looking at a video. *Agreement* is the correlation (Pearson's r) of the remainders over
all videos and classes. It is 1 for the same network and near 1 for a quantized one. It is near 0 for a network that scores
all videos alike, or an unrelated one.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

LEAST_AGREEMENT = {"videos": 0.5, "random": 0.25}
"""Smallest agreement that passes, by kind of input. A quantized network reaches 0.99 and more. Another network trained on
the same data reaches 0.6 to 0.8 on videos, and 0.35 on random values (docs/explanation/comparison.md has the figures)."""
SMALLEST = 1e-6
"""Scores and their complements are clipped to at least this: below it, float32 rounding and a saturated sigmoid dominate."""


def agreement(base: NDArray[np.float32], candidate: NDArray[np.float32]) -> float:
    """Correlate scores (videos, classes); 0 if either does not depend on the video or holds NaN or infinity."""
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
    # Rounding leaves small residues where all videos have the same score.
    return np.where(np.abs(centered) > 1e-9, centered, 0.0)
