"""Example videos as in the paper's Figure 3: their labels, and the best classes of two networks, hits marked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edge_af.records.results import Gallery, GalleryVideo, Results
from edge_af.report.rows import Line

FIRST = 6
"""Number of videos shown at first."""


@dataclass(frozen=True)
class ShownGallery:
    """The part of a gallery that the page shows."""

    videos: Sequence[GalleryVideo]
    seed: int
    names: dict[str, str]
    """Names of the networks, by `Row.key`."""
    where: str
    hits: Sequence[str]
    first: int = FIRST


def shown_gallery(many: Sequence[Results], lines: Sequence[Line]) -> ShownGallery | None:
    """Choose the first gallery with predictions of two networks, or else of one; None without predictions."""
    for results in many:
        if results.gallery is None or not results.gallery.videos:
            continue
        shown = _chosen(results.gallery, [line for line in lines if line.results is results])
        if shown:
            several = len({line.device for line in lines}) > 1
            return _shown(results.gallery, shown, f" as scored on {shown[0].device}" if several else "")
    return None


def _shown(gallery: Gallery, shown: Sequence[Line], where: str) -> ShownGallery:
    names = {line.row.key: f"{line.network} {line.weights}" for line in shown}
    if len(set(names.values())) < len(names):
        names = {line.row.key: line.name for line in shown}
    hits = []
    for key, name in names.items():
        found = [one for video in gallery.videos for one in video.predictions.get(key, [])]
        if found:
            hits.append(f"{sum(one.hit for one in found)} of {len(found)} by {name}")
    return ShownGallery(gallery.videos, gallery.seed, names, where, hits)


def _chosen(gallery: Gallery, lines: Sequence[Line]) -> list[Line]:
    """Choose the network to deploy, in its smallest precision above INT4, and the baseline; LiteRT's files first."""
    known = [line for line in lines if any(line.row.key in video.predictions for video in gallery.videos)]
    known.sort(key=lambda line: line.row.runtime != "litert")
    best = ("int8", "fp16", "int4", "int2", "fp32")
    others = [line for line in known if line.base is not None and line.network != _baseline_network(lines)]
    others = others or [line for line in known if line.row.model == "attend-fusion"]
    others.sort(key=lambda line: best.index(line.row.precision) if line.row.precision in best else len(best))
    bases = [line for line in known if line.is_baseline]
    if others and not bases:
        bases = [line for line in known if line.network != others[0].network]
    return list({line.row.key: line for line in [*others[:1], *bases[:1]]}.values())


def _baseline_network(lines: Sequence[Line]) -> str:
    return next((line.network for line in lines if line.is_baseline), "")
