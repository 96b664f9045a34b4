"""Latency from counts."""

from __future__ import annotations

from edge_af.bench.results import Instructions, Modelled
from edge_af.targets.emulated import Profile


def modelled_latency(counts: Instructions, profile: Profile) -> Modelled | None:
    return None
