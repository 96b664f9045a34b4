"""Table of what turning a video into features costs."""

from __future__ import annotations

from collections.abc import Sequence

from edge_af.records.results import OK, STAGES, ExtractionCost, Results, StageCost
from edge_af.report.columns import quantity
from edge_af.report.rows import device_titles

TITLES = ("Device", *(f"{name}, ms" for name in ("Decode", "Visual", "Audio", "Labels")), "Real time")


def extraction_rows(many: Sequence[Results]) -> list[list[str]]:
    """Return a row for each device whose extraction was measured: ms per second of video, and the factor of real time."""
    rows = []
    for results, title in zip(many, device_titles(many), strict=True):
        if (cost := results.extraction) is None:
            continue
        known = [stage.milliseconds for stage in cost.stages]
        labels = _fastest(results)
        total = sum(filter(None, known)) + (labels or 0)
        cells = {stage.stage: _cell(stage) for stage in cost.stages}
        factor = f"{1e3 / total:.1f} ×" if total and None not in known else "–"
        rows.append([title, *(cells.get(stage, "–") for stage in STAGES), _or_dash(labels), factor])
    return rows


def _cell(stage: StageCost) -> str:
    band = stage.modelled_ms
    figure = _or_dash(stage.milliseconds)
    return f"{figure} [{quantity(band.low)}, {quantity(band.high)}]" if band is not None else figure


def _or_dash(value: float | None) -> str:
    return quantity(value) if value is not None else "–"


def _fastest(results: Results) -> float | None:
    """Return the latency of the fastest file for one video on one thread, measured or modeled, in ms."""
    found = []
    for row in results.rows:
        if (row.status, row.batch, row.threads) == (OK, 1, 1):
            found += [row.latency_ms.p50] if row.latency_ms is not None else []
            found += [row.modelled_latency_ms.value] if row.modelled_latency_ms is not None else []
    return min(found, default=None)


def extraction_text(many: Sequence[Results]) -> str:
    """Explain the table in one paragraph."""
    costs = [results.extraction for results in many if results.extraction is not None]
    videos = "; ".join(dict.fromkeys(map(_video, costs)))
    text = (
        "From video to features: milliseconds of one thread per second of video. Labels: the fastest file, once a second. "
        f"{videos}."
    )
    if any(stage.modelled_ms is not None for one in costs for stage in one.stages):
        text += " In square brackets: the band of a modeled time. The model was fitted on networks, not on decoders."
    return text


def _video(cost: ExtractionCost) -> str:
    size = f"{cost.width} × {cost.height}, " if cost.width else ""
    frames = f"one frame every {cost.every:g} s" if cost.every != 1 else "one frame per second"
    return f"{cost.video} ({size}{cost.codec}) with {cost.extractor}, {frames}"
