"""Data of the page's charts as rows. `specs` defines how Vega draws them.

The package `vl-convert-python` contains Vega's JavaScript, so that the page can include it. Every datum has an `id`, an
index into `Charts.facets`, which the page's filters use.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from edge_af.artifacts import FORMATS
from edge_af.records.results import Results, Sensitivity
from edge_af.report.columns import GAP, MEMORY, P50, SIZE, Column, megabytes, quantity, signed
from edge_af.report.rows import MODEL_NAMES, RUNTIME_NAMES, Line, compare, device_names, has_batches, has_threads
from edge_af.report.specs import Datum, latency_spec, memory_spec, scatter_spec, sensitivity_spec

PACKAGE = "vl_convert"

PARTS = {
    "bare": ("bare runtime", "var(--bare)"),
    "file": ("mapped from files", "var(--part-file)"),
    "anonymous": ("allocated", "var(--part-anonymous)"),
    "passing": ("held temporarily", "var(--part-passing)"),
    "network": ("network, parts unknown", "var(--part-file)"),
}
"""Parts of a process's peak memory, from left to right."""

BINS_PER_DECADE = 60
"""Latency bins per decade; one bin is 3.9 % wide."""
SLOWEST = 0.99
"""Above this quantile every inference is drawn separately."""


@dataclass(frozen=True)
class Chart:
    """A specification without data, and its data sets by name."""

    name: str
    """ID of the element that it is drawn into."""
    title: str
    note: str
    """Explanation of the chart and how to read it."""
    described: str
    """Description for screen readers."""
    spec: Mapping[str, Any]
    data: Mapping[str, Sequence[Datum]]
    """Data sets, `rows` first. A chart without rows is left out."""


@dataclass
class Charts:
    """All charts of a page by section, and the facets for its filters."""

    accuracy: list[Chart] = field(default_factory=list)
    latency: list[Chart] = field(default_factory=list)
    memory: list[Chart] = field(default_factory=list)
    sensitivity: list[Chart] = field(default_factory=list)
    facets: list[dict[str, str]] = field(default_factory=list)
    """First the lines of the comparison in order, then entries that only charts show, which may lack facets."""

    @property
    def all(self) -> list[Chart]:
        return [*self.accuracy, *self.latency, *self.memory, *self.sensitivity]


def library() -> str | None:
    """Return Vega and its embedding code as one JavaScript text; None if `vl-convert-python` is missing."""
    try:
        import vl_convert
    except ImportError:
        return None
    return str(vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;"))


def facets_of(line: Line) -> dict[str, str]:
    """Return a row's facets for the page's filters."""
    return {
        "device": line.device,
        "network": line.network,
        "runtime": line.runtime,
        "precision": line.precision,
        "threads": str(line.row.threads),
        "batch": str(line.row.batch),
    }


def charts(many: Sequence[Results]) -> Charts:
    """Return every chart that the results have figures for."""
    lines = compare(many)
    names = device_names(lines)
    found = Charts(facets=[facets_of(line) for line in lines])
    for number, (device, name) in enumerate(names.items()):
        own = [(index, line) for index, line in enumerate(lines) if line.device == device]
        on = f", {name}" if len(names) > 1 else ""
        latency = _Cost(
            f"chart-latency-{number}",
            f"GAP against latency{on}",
            "p50 of one video, ms (log)" if not has_batches(lines) else "p50 of an inference, ms (log)",
            P50,
        )
        found.accuracy += _scatter(latency, own, lines)
        found.latency += _latencies(f"chart-spread-{number}", f"Every inference{on}", own, lines)
        found.memory += _memory(f"chart-memory-{number}", f"Peak memory by part{on}", own, lines)
    # A file has the same size on every device, so it is shown once.
    files = {line.row.key: (index, line) for index, line in reversed(list(enumerate(lines)))}
    size = _Cost(
        "chart-bytes",
        "GAP against bytes",
        "file, MB (log)",
        SIZE,
        1e6,
    )
    found.accuracy += _scatter(size, list(reversed(files.values())), lines)
    _sensitivity(found, many, lines)
    return found


def _label(line: Line, lines: Sequence[Line]) -> str:
    text = f"{_short_network(line, lines)} {line.weights} · {line.runtime}"
    if has_threads(lines):
        text += f" · {line.row.threads} thread{'s' if line.row.threads > 1 else ''}"
    return text + (f" · {line.row.batch} at a time" if has_batches(lines) else "")


def _short_network(line: Line, lines: Sequence[Line]) -> str:
    """Return the network's name, without the preset if all have the same."""
    presets = {other.row.preset for other in lines}
    return line.network.removesuffix(f" {line.row.preset}") if len(presets) == 1 else line.network


@dataclass(frozen=True)
class _Cost:
    """A cost that GAP@20 is plotted against."""

    chart: str
    """ID of the chart's element."""
    title: str
    axis: str
    column: Column
    per_unit: float = 1.0
    """Divisor that converts the column's value to its unit."""


def _scatter(cost: _Cost, shown: Sequence[tuple[int, Line]], lines: Sequence[Line]) -> list[Chart]:
    """Plot GAP@20 against a cost on a logarithmic axis, with its Pareto front; no chart if no row has both."""
    rows: list[Datum] = []
    for index, line in shown:
        x, y = cost.column.value(line.row), GAP.value(line.row)
        if x is None or x <= 0 or y is None:
            continue
        low, high = line.row.gap_at_20_interval or (y, y)
        rows.append(
            {
                "id": index,
                "x": x / cost.per_unit,
                "y": y,
                "low": low,
                "high": high,
                "network": line.network,
                "precision": line.precision,
                "runtime": line.runtime,
                "hollow": line.row.runtime == "litert",
                "label": f"{_short_network(line, lines)} {line.weights}",
                "text": f"{_label(line, lines)}: {cost.column.text(line.row)} {cost.column.unit}, GAP@20 {y:.4f}",
            }
        )
    if not rows:
        return []
    order = sorted(rows, key=lambda row: (row["x"], -row["y"]))
    front = [row for index, row in enumerate(order) if all(row["y"] > other["y"] for other in order[:index])]
    described = f"{len(rows)} points. On the Pareto front: {'; '.join(row['text'] for row in front)}."
    note = "Up and left is better. The line is the Pareto front: no other point is both cheaper and more accurate. "
    note += "Paler: dominated."
    if any(row["low"] != row["high"] for row in rows):
        note += " Vertical lines: 95 % of a bootstrap over the videos."
    return [
        Chart(
            cost.chart,
            cost.title,
            note,
            described,
            scatter_spec(cost.title, cost.axis, described, rows),
            {"rows": rows},
        )
    ]


def _latencies(name: str, title: str, shown: Sequence[tuple[int, Line]], lines: Sequence[Line]) -> list[Chart]:
    """Plot each row's timed inferences; no chart if no row has them."""
    rows: list[Datum] = []
    bins: list[Datum] = []
    slow: list[Datum] = []
    for index, line in shown:
        raw, latency = line.row.latency_raw_us, line.row.latency_ms
        if not raw or latency is None:
            continue
        values = np.maximum(np.asarray(raw, np.float64), 0.5) / 1e3
        label = _label(line, lines)
        text = f"p50 {quantity(latency.p50)} ms"
        text += f", p99 {quantity(latency.p99)} ms" if latency.p99 is not None else ""
        rows.append(
            {
                "id": index,
                "label": label,
                "precision": line.precision,
                "p50": latency.p50,
                "note": f"p50 {quantity(latency.p50)} ms",
                "text": f"{label}: {text}, slowest {quantity(float(values.max()))} ms, {len(values):,} inferences",
            }
        )
        numbers, counts = np.unique(np.floor(np.log10(values) * BINS_PER_DECADE), return_counts=True)
        for number, count in zip(numbers.tolist(), counts.tolist(), strict=True):
            bins.append(
                {
                    "id": index,
                    "from": _rounded(10 ** (number / BINS_PER_DECADE)),
                    "to": _rounded(10 ** ((number + 1) / BINS_PER_DECADE)),
                    # Relative to the fullest bin, so that rows with different numbers of inferences look alike.
                    "share": _rounded(count / counts.max()),
                }
            )
        late = values[values > np.quantile(values, SLOWEST)]
        slow += [{"id": index, "ms": _rounded(value)} for value in sorted({*late.tolist()})]
    if not rows:
        return []
    fastest, slowest = (choose(rows, key=lambda row: row["p50"]) for choose in (min, max))
    described = f"{len(rows)} rows. Fastest: {fastest['text']}. Slowest: {slowest['text']}."
    note = "The higher the bar, the more inferences took that long. Long tick: the p50. Dots: the slowest one in a hundred."
    return [
        Chart(
            name,
            title,
            note,
            described,
            latency_spec(title, described, rows),
            {"rows": rows, "bins": bins, "slow": slow},
        )
    ]


def _memory(name: str, title: str, shown: Sequence[tuple[int, Line]], lines: Sequence[Line]) -> list[Chart]:
    """Plot the parts of each row's peak memory; no chart if it was not measured."""
    rows: list[Datum] = []
    parts: list[Datum] = []
    for index, line in shown:
        peak = MEMORY.value(line.row)
        if peak is None:
            continue
        own = memory_parts(line, int(peak))
        label, relation = _label(line, lines), MEMORY.relation(line.row, line.base)
        spelled = ", ".join(f"{PARTS[part][0]} {megabytes(held)}" for part, held in own.items() if held)
        rows.append(
            {
                "id": index,
                "label": label,
                "peak": peak / 1e6,
                "bare": line.row.bare_memory_bytes / 1e6 if line.row.bare_memory_bytes else None,
                "note": f"{megabytes(peak)} MB" + (f", {relation}" if relation else ""),
                "text": f"{label}: {megabytes(peak)} MB, of it MB: {spelled}",
            }
        )
        start = 0
        for part, held in own.items():
            parts.append(
                {
                    "id": index,
                    "from": start / 1e6,
                    "to": (start + held) / 1e6,
                    "part": PARTS[part][0],
                    "text": f"{label}, {PARTS[part][0]}: {megabytes(held)} MB of {megabytes(peak)} MB",
                }
            )
            start += held
    if not rows:
        return []
    least, most = (choose(rows, key=lambda row: row["peak"]) for choose in (min, max))
    described = f"{len(rows)} rows. Least: {least['text']}. Most: {most['text']}."
    note = "Peak memory of the process. The system can drop memory-mapped files and read them again, unlike allocated memory."
    if any(row["bare"] for row in rows):
        note += " Vertical tick: the same with an empty model."
    present = [(title, color) for title, color in PARTS.values() if any(part["part"] == title for part in parts)]
    return [Chart(name, title, note, described, memory_spec(title, described, present), {"rows": rows, "parts": parts})]


def memory_parts(line: Line, peak: int) -> dict[str, int]:
    """Split the peak into bytes per part, keys of `PARTS`.

    The bare runtime is what was resident before loading. Mapped and allocated memory on top of that is measured after the
    last inference; the rest of the peak had been freed by then.
    """
    before, after = ((line.row.memory or {}).get(when) for when in ("before_load", "after_run"))
    if (
        before is None
        or after is None
        or None in (before.resident, before.file_backed, before.anonymous, after.file_backed, after.anonymous)
    ):
        bare = min(line.row.runtime_memory_bytes or 0, peak)
        return {"bare": bare, "network": peak - bare}
    assert before.resident is not None and before.file_backed is not None and before.anonymous is not None
    assert after.file_backed is not None and after.anonymous is not None
    found, left = {}, peak
    for part, held in (
        ("bare", before.resident),
        ("file", after.file_backed - before.file_backed),
        ("anonymous", after.anonymous - before.anonymous),
    ):
        found[part] = min(max(held, 0), left)
        left -= found[part]
    return {**found, "passing": left}


def _sensitivity(found: Charts, many: Sequence[Results], lines: Sequence[Line]) -> None:
    """Plot layer sensitivities, one chart per network, format and recipe; adds facets."""
    groups: dict[tuple[str, ...], list[Sensitivity]] = {}
    for results in many:
        for one in results.sensitivity:
            group = groups.setdefault((one.artifact, one.model, one.preset, one.format, one.recipe), [])
            # The same files on several devices have the same sensitivity.
            if one.layer not in [other.layer for other in group]:
                group.append(one)
    for number, ((artifact, model, preset, form, recipe), layers) in enumerate(groups.items()):
        precision = _main_precision(layers)
        network = next(
            (
                line.network
                for line in lines
                if (line.row.artifact, line.row.model, line.row.preset) == (artifact, model, preset)
            ),
            f"{MODEL_NAMES.get(model, model)} {preset}",
        )
        runtime = {"onnx": "onnxruntime", "tflite": "litert"}.get(form)
        facets = {"network": network, "precision": precision.upper()}
        if runtime is not None:
            facets["runtime"] = RUNTIME_NAMES[runtime]
        found.facets.append(facets)
        rows: list[Datum] = []
        for one in layers:
            noise = f"{one.snr_db:.1f} dB" if one.snr_db is not None else "no noise"
            drop = f", GAP {signed(-one.gap_at_20_drop)}" if one.gap_at_20_drop is not None else ""
            rows.append(
                {
                    "id": len(found.facets) - 1,
                    "label": one.layer if one.precision == precision else f"{one.layer} ({one.precision.upper()})",
                    "precision": one.precision.upper(),
                    "snr": one.snr_db,
                    "note": f"{noise}{drop}",
                    "text": f"{one.layer}: {noise}{drop}, {megabytes(one.weight_bytes)} MB of weights",
                }
            )
        rows.sort(key=lambda row: math.inf if row["snr"] is None else row["snr"])
        title = f"{network} {precision.upper()}, {FORMATS.get(form, form)}, {recipe}"
        described = f"{len(rows)} layers. Most sensitive: {rows[0]['text']}."
        found.sensitivity.append(
            Chart(
                f"chart-sensitivity-{number}",
                title,
                "Each layer quantized alone: how far the signal stands above the noise at the logits. Most sensitive first; "
                "shorter is worse.",
                described,
                sensitivity_spec(title, described, rows),
                {"rows": rows},
            )
        )  # fmt: skip


def _main_precision(layers: Sequence[Sensitivity]) -> str:
    """Return the precision of most of a file's weights; some layers may differ."""
    held: dict[str, int] = {}
    for one in layers:
        held[one.precision] = held.get(one.precision, 0) + one.weight_bytes
    return max(held, key=lambda precision: held[precision])


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")
