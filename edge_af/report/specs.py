"""The page's charts: fill in the Vega specifications in `vega/`, without data.

A text `$name` in a specification is replaced by a value. Vega's interpreter evaluates expressions without generating code,
which the page's content security policy would forbid. Colors are the page's CSS variables, so charts follow the light or
dark scheme without redrawing.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import Any

from edge_af.files import package_data

Datum = dict[str, Any]

PRECISIONS = {
    "FP32": "var(--fp32)",
    "FP16": "var(--fp16)",
    "INT8": "var(--int8)",
    "INT4": "var(--int4)",
    "INT2": "var(--int2)",
}
OTHER = "var(--other)"
SHAPES = ("circle", "square", "triangle-up", "diamond", "cross", "triangle-down")
"""Shapes of the networks in the order of the table, repeated if needed."""


def scatter_spec(title: str, axis: str, described: str, rows: Sequence[Datum]) -> dict[str, Any]:
    """Plot GAP@20 against a cost, with the Pareto front of the visible points."""
    networks = list(dict.fromkeys(row["network"] for row in rows))
    hollow = {row["runtime"]: row["hollow"] for row in rows}
    return _filled(
        "scatter",
        title,
        described,
        axis=axis,
        networks=networks,
        shapes=[SHAPES[index % len(SHAPES)] for index in range(len(networks))],
        runtimes=list(hollow),
        runtime_fills=["var(--paper)" if one else "var(--soft)" for one in hollow.values()],
        **_precisions(row["precision"] for row in rows),
    )


def latency_spec(title: str, described: str, rows: Sequence[Datum]) -> dict[str, Any]:
    """Plot a histogram per row on one logarithmic axis."""
    return _filled("latency", title, described, **_precisions(row["precision"] for row in rows))


def memory_spec(title: str, described: str, present: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """Plot a bar per row, made of parts with titles and colors."""
    parts = {"parts": [title for title, _ in present], "part_colors": [color for _, color in present]}
    return _filled("memory", title, described, **parts)


def sensitivity_spec(title: str, described: str, rows: Sequence[Datum]) -> dict[str, Any]:
    """Plot a bar per layer."""
    return _filled("sensitivity", title, described, **_precisions(row["precision"] for row in rows))


def history_spec(
    title: str,
    axis: str,
    described: str,
    span: tuple[float, float],
    styles: Mapping[str, tuple[str, str]],
    is_ratio: bool,
) -> dict[str, Any]:
    """Plot a figure over time, a point per comparison: a ratio with its interval, zero and limit; others with a line.

    Args:
        title: title of the chart.
        axis: title of the figure's axis.
        described: description for screen readers.
        span: range of the figure's axis.
        styles: shape and color of each mark.
        is_ratio: the figure is a change against the base.
    """
    return _filled(
        "history-ratio" if is_ratio else "history-figure",
        title,
        described,
        axis=axis,
        span=list(span),
        marks=list(styles),
        shapes=[shape for shape, _ in styles.values()],
        colors=[color for _, color in styles.values()],
    )


def config() -> dict[str, Any]:
    """Return the style of all charts."""
    return _read("config")


@cache
def _read(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(package_data("report", "vega", f"{name}.json").read_text(encoding="utf-8"))
    return found


def _filled(name: str, title: str, described: str, **values: Any) -> dict[str, Any]:
    values["description"] = f"{title}. {described}"

    def fill(part: Any) -> Any:
        if isinstance(part, dict):
            return {key: fill(inner) for key, inner in part.items()}
        if isinstance(part, list):
            return [fill(inner) for inner in part]
        return values[part[1:]] if isinstance(part, str) and part.startswith("$") else part

    # "$schema" is a key and is not replaced.
    filled: dict[str, Any] = fill(_read(name))
    return filled


def _precisions(present: Iterable[str]) -> dict[str, list[str]]:
    names = sorted(set(present), key=lambda name: list(PRECISIONS).index(name) if name in PRECISIONS else 99)
    return {"precisions": names, "precision_colors": [PRECISIONS.get(name, OTHER) for name in names]}
