"""Records of epochs: which is the best, and how one reads."""

from __future__ import annotations

from typing import Any


def rank(record: dict[str, Any]) -> tuple[float, float]:
    """Return what the best epoch has most of: held-out GAP@20, and at the same GAP@20 the lower loss.

    A few held-out videos soon reach GAP@20 1, long before the network is sure of them.
    """
    return record["held_out"]["gap_at_20"], -record["held_out_loss"]


def in_words(speed: dict[str, float]) -> str:
    """Describe an epoch's speed for its line."""
    if not speed:
        return ""
    return (
        f" ({speed['videos_per_s']:,.0f} videos/s, {speed['peak_share']:.0%} of this machine's matrix-multiply peak, "
        f"{speed['data_wait_share']:.1%} waiting for data)"
    )
