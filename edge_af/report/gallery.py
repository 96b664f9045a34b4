"""Videos to look at, as in the paper's Figure 3: their labels, and the best classes of two networks, hits marked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

from edge_af.records.results import Gallery, GalleryVideo, Prediction, Results
from edge_af.report.rows import Line

HIT, MISS = "✓", "✗"
FIRST = 6
"""Videos shown before the reader asks for more."""


def gallery_section(many: Sequence[Results], lines: Sequence[Line]) -> str:
    """The first gallery that two networks of the comparison, or one, have said something in; empty without any."""
    for results in many:
        if results.gallery is None or not results.gallery.videos:
            continue
        shown = _chosen(results.gallery, [line for line in lines if line.results is results])
        if shown:
            several = len({line.device for line in lines}) > 1
            return _section(results.gallery, shown, f" as scored on {shown[0].device}" if several else "")
    return ""


def _chosen(gallery: Gallery, lines: Sequence[Line]) -> list[Line]:
    """The smallest precision above INT4 of the network to deploy, and the baseline; LiteRT's files first."""
    known = [line for line in lines if any(line.row.key in video.predictions for video in gallery.videos)]
    known.sort(key=lambda line: line.row.runtime != "litert")
    best = ("int8", "fp16", "int4", "fp32")
    others = [line for line in known if line.base is not None and line.network != _baseline_network(lines)]
    others = others or [line for line in known if line.row.model == "attend-fusion"]
    others.sort(key=lambda line: best.index(line.row.precision) if line.row.precision in best else len(best))
    bases = [line for line in known if line.is_baseline]
    if others and not bases:
        bases = [line for line in known if line.network != others[0].network]
    return list({line.row.key: line for line in [*others[:1], *bases[:1]]}.values())


def _baseline_network(lines: Sequence[Line]) -> str:
    return next((line.network for line in lines if line.is_baseline), "")


def _section(gallery: Gallery, shown: Sequence[Line], where: str) -> str:
    names = {line.row.key: f"{line.network} {line.weights}" for line in shown}
    if len(set(names.values())) < len(names):
        names = {line.row.key: line.name for line in shown}
    cards = [_card(video, names) for video in gallery.videos]
    rest = "".join(cards[FIRST:])
    more = f'<details><summary>{len(cards) - FIRST} more videos</summary><ul class="cards">{rest}</ul></details>'
    hits = []
    for key, name in names.items():
        found = [one for video in gallery.videos for one in video.predictions.get(key, [])]
        if found:
            hits.append(f"{sum(one.hit for one in found)} of {len(found)} by {name}")
    return (
        '<section aria-labelledby="gallery"><h2 id="gallery">What they see</h2>'
        f'<p class="soft">{len(gallery.videos)} videos of the evaluation set, drawn by the fixed seed {gallery.seed} and not '
        f"picked: their labels, and each network's three best{escape(where)}. {HIT} is one of the labels, "
        f"{MISS} is not. Right here: {escape(', '.join(hits))}.</p>"
        f'<ul class="cards">{"".join(cards[:FIRST])}</ul>{more if rest else ""}</section>'
    )


def _card(video: GalleryVideo, names: Mapping[str, str]) -> str:
    labels = "".join(f"<li>{escape(label)}</li>" for label in video.labels)
    answers = "".join(
        f"<div><h4>{escape(name)}</h4>{_answers(video.predictions.get(key, []))}</div>" for key, name in names.items()
    )
    return (
        f'<li class="card"><h3>Video <code>{escape(video.id)}</code></h3>'
        f'<ul class="labels" aria-label="Labels">{labels}</ul><div class="answers">{answers}</div></li>'
    )


def _answers(predictions: Sequence[Prediction]) -> str:
    if not predictions:
        return '<p class="soft">Not scored.</p>'
    items = "".join(
        f'<li class="{"hit" if one.hit else "miss"}"><span class="mark" aria-hidden="true">{HIT if one.hit else MISS}</span>'
        f'<span class="name">{escape(one.name)}<span class="aside">, {"a label" if one.hit else "not a label"},</span></span>'
        f'<span class="score">{one.score:.2f}</span>'
        f'<i aria-hidden="true" style="width:{100 * max(0.0, min(1.0, one.score)):.1f}%"></i></li>'
        for one in predictions
    )
    return f"<ol>{items}</ol>"
