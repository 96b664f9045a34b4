"""Drawing of the page's charts: Vega specifications without their data.

Every expression in them is read by Vega's interpreter and never made into code, which the page's policy would forbid. Colors
are the page's own variables, light or dark: nothing is drawn anew when they change.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

Datum = dict[str, Any]

PRECISIONS = {"FP32": "var(--fp32)", "FP16": "var(--fp16)", "INT8": "var(--int8)", "INT4": "var(--int4)"}
OTHER = "var(--other)"
SHAPES = ("circle", "square", "triangle-up", "diamond", "cross", "triangle-down")
"""By network, in the order of the table, again from the first after the last."""


def scatter_spec(title: str, axis: str, described: str, rows: Sequence[Datum]) -> dict[str, Any]:
    """GAP@20 against a figure, with the Pareto front of what is shown."""
    networks = list(dict.fromkeys(row["network"] for row in rows))
    runtimes = list(dict.fromkeys(row["runtime"] for row in rows))
    hollow = {row["runtime"]: row["hollow"] for row in rows}
    color = {"scale": "precision", "field": "precision"}
    return {
        **_frame(title, described),
        "height": 360,
        "signals": [
            *_WIDTH,
            # Wide enough that noise does not look like a gap.
            {"name": "span", "update": "max(highs[1] - lows[0], 0.02)"},
            {"name": "middle", "update": "(highs[1] + lows[0]) / 2"},
        ],
        "data": [
            {
                "name": "rows",
                "transform": [
                    {"type": "extent", "field": "low", "signal": "lows"},
                    {"type": "extent", "field": "high", "signal": "highs"},
                    {"type": "extent", "field": "x", "signal": "across"},
                    # A row is on the front if its GAP is above the best of all that cost less.
                    {
                        "type": "window",
                        "sort": {"field": ["x", "y"], "order": ["ascending", "descending"]},
                        "ops": ["max"],
                        "fields": ["y"],
                        "as": ["best"],
                        "frame": [None, 0],
                        "ignorePeers": True,
                    },
                    {
                        "type": "window",
                        "sort": {"field": ["x", "y"], "order": ["ascending", "descending"]},
                        "ops": ["lag"],
                        "fields": ["best"],
                        "as": ["before"],
                    },
                    {"type": "formula", "as": "front", "expr": "!isValid(datum.before) || datum.y > datum.before"},
                    # One label for a network and precision, whatever the runtimes: the marks tell those apart.
                    {
                        "type": "window",
                        "groupby": ["label"],
                        "sort": {"field": ["front", "x"], "order": ["descending", "ascending"]},
                        "ops": ["row_number"],
                        "as": ["nth"],
                    },
                ],
            },
            {
                "name": "front",
                "source": "rows",
                "transform": [
                    {"type": "filter", "expr": "datum.front"},
                    {"type": "collect", "sort": {"field": "x"}},
                ],
            },
        ],
        "scales": [
            {
                "name": "x",
                "type": "log",
                "range": "width",
                "domain": {"signal": "[across[0] / 1.6, across[1] * 1.6]"},
            },
            {
                "name": "y",
                "range": "height",
                "nice": True,
                "zero": False,
                "domain": {"signal": "[max(0, middle - 0.7 * span), middle + 0.7 * span]"},
            },
            _precision_scale(row["precision"] for row in rows),
            {
                "name": "shape",
                "type": "ordinal",
                "domain": networks,
                "range": [SHAPES[index % len(SHAPES)] for index in range(len(networks))],
            },
            {
                "name": "runtime",
                "type": "ordinal",
                "domain": runtimes,
                "range": ["var(--paper)" if hollow[runtime] else "var(--soft)" for runtime in runtimes],
            },
        ],
        "axes": [
            {"orient": "bottom", "scale": "x", "title": axis, "grid": True, "tickCount": 6, "format": "~g"},
            {"orient": "left", "scale": "y", "title": "GAP@20", "grid": True, "tickCount": 6, **_TITLE_ABOVE},
        ],
        "legends": [
            {"shape": "shape", "symbolStrokeColor": "var(--soft)", "symbolFillColor": "var(--soft)"},
            {"fill": "precision", "symbolType": "square"},
            {"fill": "runtime", "symbolType": "circle", "symbolStrokeColor": "var(--soft)", "symbolStrokeWidth": 2},
        ],
        "marks": [
            {
                "type": "line",
                "from": {"data": "front"},
                "aria": False,
                "encode": {
                    "update": {
                        "x": {"scale": "x", "field": "x"},
                        "y": {"scale": "y", "field": "y"},
                        "interpolate": {"value": "step-after"},
                        "stroke": {"value": "var(--ink)"},
                        "strokeWidth": {"value": 1.5},
                        "strokeDash": {"value": [5, 3]},
                    }
                },
            },
            {
                "type": "rule",
                "from": {"data": "rows"},
                "aria": False,
                "encode": {
                    "update": {
                        "x": {"scale": "x", "field": "x"},
                        "y": {"scale": "y", "field": "low"},
                        "y2": {"scale": "y", "field": "high"},
                        "stroke": color,
                        "strokeWidth": {"value": 1},
                        "strokeOpacity": {"value": 0.5},
                    }
                },
            },
            {
                "type": "symbol",
                "name": "points",
                "from": {"data": "rows"},
                "encode": {
                    "update": {
                        "x": {"scale": "x", "field": "x"},
                        "y": {"scale": "y", "field": "y"},
                        "shape": {"scale": "shape", "field": "network"},
                        "size": {"signal": "datum.front ? 150 : 100"},
                        "stroke": color,
                        "strokeWidth": {"value": 2.2},
                        "fill": [{"test": "datum.hollow", "value": "var(--paper)"}, color],
                        "opacity": {"signal": "datum.front ? 1 : 0.55"},
                        "tooltip": {"signal": "datum.text + (datum.front ? '. On the front.' : '. Dominated.')"},
                        "description": {"signal": "datum.text + (datum.front ? ', on the front' : ', dominated')"},
                    }
                },
            },
            {
                "type": "text",
                "from": {"data": "points"},
                "aria": False,
                "interactive": False,
                "encode": {
                    "update": {
                        "text": {"signal": "datum.datum.nth === 1 ? datum.datum.label : ''"},
                        "fill": [
                            {"test": "datum.datum.front", "value": "var(--ink)"},
                            {"value": "var(--soft)"},
                        ],
                        "fontSize": {"value": 12.5},
                        "fontWeight": {"signal": "datum.datum.front ? 600 : 400"},
                    }
                },
                "transform": [
                    {
                        "type": "label",
                        "size": {"signal": "[width, height]"},
                        "sort": {"field": "datum.datum.front", "order": "descending"},
                        "anchor": [
                            "top",
                            "bottom",
                            "right",
                            "left",
                            "top-right",
                            "top-left",
                            "bottom-right",
                            "bottom-left",
                        ],
                        "offset": [7],
                    }
                ],
            },
        ],
    }


def latency_spec(title: str, described: str, rows: Sequence[Datum]) -> dict[str, Any]:
    """A histogram a row, on one logarithmic axis."""
    return {
        **_frame(title, described),
        "signals": [*_WIDTH, *_bands(46)],
        "data": [
            {"name": "rows", "transform": _RANK},
            {"name": "bins", "transform": [_LOOKUP, {"type": "extent", "field": "from", "signal": "across"}]},
            {"name": "slow", "transform": [_LOOKUP, {"type": "extent", "field": "ms", "signal": "late"}]},
        ],
        "scales": [
            {
                "name": "x",
                "type": "log",
                "range": "width",
                "domain": {"signal": "[across[0] / 1.15, max(across[1], isValid(late[1]) ? late[1] : 0) * 1.15]"},
            },
            _precision_scale(row["precision"] for row in rows),
        ],
        "axes": [{"orient": "bottom", "scale": "x", "title": "ms (log)", "grid": True, "tickCount": 6, "format": "~g"}],
        "marks": [
            *_band_texts(),
            {
                "type": "rect",
                "from": {"data": "bins"},
                "aria": False,
                "encode": {
                    "update": {
                        "x": {"scale": "x", "field": "from"},
                        "x2": {"scale": "x", "field": "to"},
                        "y2": {"signal": "datum.row.rank * step - 3"},
                        "y": {"signal": "datum.row.rank * step - 3 - max(1, 22 * datum.share)"},
                        "fill": {"scale": "precision", "field": "row.precision"},
                        "fillOpacity": {"value": 0.85},
                        "tooltip": {"field": "row.text"},
                    }
                },
            },
            {
                "type": "symbol",
                "from": {"data": "slow"},
                "aria": False,
                "encode": {
                    "update": {
                        "x": {"scale": "x", "field": "ms"},
                        "y": {"signal": "datum.row.rank * step - 7"},
                        "size": {"value": 16},
                        "fill": {"value": "var(--paper)"},
                        "stroke": {"scale": "precision", "field": "row.precision"},
                        "strokeWidth": {"value": 1.3},
                        "tooltip": {
                            "signal": "datum.row.label + ': one inference of ' + format(datum.ms, '.3~r') + ' ms'"
                        },
                    }
                },
            },
            {
                "type": "rect",
                "from": {"data": "rows"},
                "encode": {
                    "update": {
                        "xc": {"scale": "x", "field": "p50"},
                        "width": {"value": 2},
                        "y": {"signal": "datum.rank * step - 28"},
                        "y2": {"signal": "datum.rank * step"},
                        "fill": {"value": "var(--ink)"},
                        "tooltip": {"field": "text"},
                        "description": {"field": "text"},
                    }
                },
            },
        ],
    }


def memory_spec(title: str, described: str, present: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """A bar a row, of the parts that are present, each a title and a color."""
    return {
        **_frame(title, described),
        "signals": [*_WIDTH, *_bands(44)],
        "data": [
            {"name": "rows", "transform": [*_RANK, {"type": "extent", "field": "peak", "signal": "across"}]},
            {"name": "parts", "transform": [_LOOKUP]},
        ],
        "scales": [
            {"name": "x", "range": "width", "domain": {"signal": "[0, across[1] * 1.02]"}},
            {
                "name": "part",
                "type": "ordinal",
                "domain": [title for title, _ in present],
                "range": [color for _, color in present],
            },
        ],
        "axes": [{"orient": "bottom", "scale": "x", "title": "MB", "grid": True, "tickCount": 6}],
        "legends": [{"fill": "part", "symbolType": "square"}],
        "marks": [
            *_band_texts(),
            {
                "type": "rect",
                "from": {"data": "parts"},
                "encode": {
                    "update": {
                        "x": {"scale": "x", "field": "from"},
                        "x2": {"scale": "x", "field": "to"},
                        "y": {"signal": "datum.row.rank * step - 22"},
                        "height": {"value": 18},
                        "fill": {"scale": "part", "field": "part"},
                        "stroke": {"value": "var(--paper)"},
                        "strokeWidth": {"value": 1},
                        "tooltip": {"field": "text"},
                        "description": {"field": "text"},
                    }
                },
            },
            {
                "type": "rect",
                "from": {"data": "rows"},
                "aria": False,
                "encode": {
                    "update": {
                        "xc": {"scale": "x", "signal": "datum.bare || 0"},
                        "width": {"value": 2},
                        "y": {"signal": "datum.rank * step - 25"},
                        "height": {"value": 24},
                        "fill": {"value": "var(--ink)"},
                        "opacity": {"signal": "datum.bare ? 1 : 0"},
                        "tooltip": {
                            "signal": "datum.bare ? 'with an empty model: ' + format(datum.bare, '.0f') + ' MB' : ''"
                        },
                    }
                },
            },
        ],
    }


def sensitivity_spec(title: str, described: str, rows: Sequence[Datum]) -> dict[str, Any]:
    """A bar a layer."""
    return {
        **_frame(title, described),
        "signals": [*_WIDTH, *_bands(34)],
        "data": [{"name": "rows", "transform": [*_RANK, {"type": "extent", "field": "snr", "signal": "across"}]}],
        "scales": [
            {"name": "x", "range": "width", "domain": {"signal": "[min(0, across[0]), max(1, across[1]) * 1.02]"}},
            _precision_scale(row["precision"] for row in rows),
        ],
        "axes": [{"orient": "bottom", "scale": "x", "title": "signal to noise, dB", "grid": True, "tickCount": 6}],
        "marks": [
            *_band_texts(),
            {
                "type": "rect",
                "from": {"data": "rows"},
                "encode": {
                    "update": {
                        "x": {"scale": "x", "value": 0},
                        "x2": {"scale": "x", "signal": "isValid(datum.snr) ? datum.snr : 0"},
                        "y": {"signal": "datum.rank * step - 13"},
                        "height": {"value": 9},
                        "fill": {"scale": "precision", "field": "precision"},
                        "tooltip": {"field": "text"},
                        "description": {"field": "text"},
                    }
                },
            },
        ],
    }


def history_spec(
    title: str,
    axis: str,
    described: str,
    span: tuple[float, float],
    styles: Mapping[str, tuple[str, str]],
    is_ratio: bool,
) -> dict[str, Any]:
    """A figure over time, a point a comparison; a ratio with its interval, zero and the limit, another figure with a line.

    Args:
        title: of the chart.
        axis: of the figure.
        described: what is to be seen in it.
        span: from where to where the axis of the figure goes.
        styles: each mark's shape and color.
        is_ratio: whether the figure is a change against the base.
    """
    at = {"x": {"scale": "x", "field": "place"}}
    domain = list(styles)
    if is_ratio:
        below: list[dict[str, Any]] = [
            {
                "type": "rule",
                "aria": False,
                "encode": {
                    "update": {
                        "x2": {"signal": "width"},
                        "y": {"scale": "y", "value": 0},
                        "stroke": {"value": "var(--soft)"},
                    }
                },
            },
            {
                "type": "rule",
                "from": {"data": "rows"},
                "aria": False,
                "clip": True,
                "encode": {
                    "update": {
                        **at,
                        "y": {"scale": "y", "field": "low"},
                        "y2": {"scale": "y", "field": "high"},
                        "stroke": {"scale": "color", "field": "mark"},
                        "strokeWidth": {"value": 1.5},
                    }
                },
            },
            {
                "type": "symbol",
                "from": {"data": "rows"},
                "aria": False,
                "encode": {
                    "update": {
                        **at,
                        "y": {"scale": "y", "field": "limit"},
                        "shape": {"value": "stroke"},
                        "size": {"value": 200},
                        "stroke": {"value": "var(--warn)"},
                        "strokeWidth": {"value": 1.5},
                    }
                },
            },
        ]
    else:
        below = [
            {
                "type": "line",
                "from": {"data": "rows"},
                "aria": False,
                "encode": {
                    "update": {**at, "y": {"scale": "y", "field": "y"}, "stroke": {"value": "var(--bare)"}},
                },
            }
        ]
    return {
        **_frame(title, described),
        "height": 230,
        "signals": _WIDTH,
        "data": [{"name": "rows"}],
        "scales": [
            # One place a comparison: a day of many is as plain to read as a month of none.
            {
                "name": "x",
                "type": "point",
                "range": "width",
                "padding": 0.5,
                "domain": {"data": "rows", "field": "place"},
            },
            {"name": "y", "range": "height", "nice": True, "zero": False, "domain": list(span)},
            {"name": "shape", "type": "ordinal", "domain": domain, "range": [shape for shape, _ in styles.values()]},
            {"name": "color", "type": "ordinal", "domain": domain, "range": [one for _, one in styles.values()]},
        ],
        "axes": [
            {
                "orient": "bottom",
                "scale": "x",
                "encode": {"labels": {"update": {"text": {"signal": "slice(split(datum.value, '\\n'), 1)"}}}},
            },
            {
                "orient": "left",
                "scale": "y",
                "title": axis,
                "grid": True,
                "tickCount": 5,
                "format": "+,.3~f" if is_ratio else ",.4~f",
                **_TITLE_ABOVE,
            },
        ],
        "legends": [{"shape": "shape", "fill": "color"}],
        "marks": [
            *below,
            {
                "type": "symbol",
                "name": "points",
                "from": {"data": "rows"},
                "encode": {
                    "update": {
                        **at,
                        "y": {"scale": "y", "field": "y"},
                        "shape": {"scale": "shape", "field": "mark"},
                        "fill": {"scale": "color", "field": "mark"},
                        "stroke": {"value": "var(--paper)"},
                        "size": {"value": 110},
                        "tooltip": {"field": "text"},
                        "description": {"field": "text"},
                    }
                },
            },
        ],
    }


def _frame(title: str, described: str) -> dict[str, Any]:
    return {
        "$schema": "https://vega.github.io/schema/vega/v6.json",
        "description": f"{title}. {described}",
        "autosize": {"type": "fit-x", "contains": "padding"},
        "padding": 2,
        "background": None,
    }


_WIDTH = [
    {
        "name": "width",
        "init": "containerSize()[0]",
        "on": [{"events": "window:resize", "update": "containerSize()[0]"}],
    }
]
"""As wide as the element, and again when the window changes."""

_TITLE_ABOVE = {
    "titleAngle": 0,
    "titleAlign": "left",
    "titleAnchor": "end",
    "titleBaseline": "bottom",
    "titleY": -8,
    "titleX": -32,
}

_RANK = [{"type": "window", "ops": ["row_number"], "as": ["rank"]}]
_LOOKUP = {"type": "lookup", "from": "rows", "key": "id", "fields": ["id"], "as": ["row"]}


def _bands(step: int) -> list[dict[str, Any]]:
    """A band a row, from the top, the label above its bar: there is room for both on a phone."""
    return [{"name": "step", "value": step}, {"name": "height", "update": "step * max(1, length(data('rows')))"}]


def _band_texts() -> list[dict[str, Any]]:
    def text(source: str, x: dict[str, Any], align: str, color: str, limit: str) -> dict[str, Any]:
        return {
            "type": "text",
            "from": {"data": "rows"},
            "aria": False,
            "encode": {
                "update": {
                    "x": x,
                    "y": {"signal": "(datum.rank - 1) * step + 4"},
                    "text": {"field": source},
                    "align": {"value": align},
                    "baseline": {"value": "top"},
                    "fill": {"value": color},
                    "fontSize": {"value": 12.5},
                    "limit": {"signal": limit},
                    "tooltip": {"field": "text"},
                }
            },
        }

    return [
        text("label", {"value": 0}, "left", "var(--ink)", "0.66 * width"),
        text("note", {"signal": "width"}, "right", "var(--soft)", "0.33 * width"),
    ]


def _precision_scale(present: Iterable[str]) -> dict[str, Any]:
    domain = sorted(set(present), key=lambda name: list(PRECISIONS).index(name) if name in PRECISIONS else 99)
    return {
        "name": "precision",
        "type": "ordinal",
        "domain": domain,
        "range": [PRECISIONS.get(name, OTHER) for name in domain],
    }


FONT = "system-ui, sans-serif"

CONFIG: dict[str, Any] = {
    "axis": {
        "domain": False,
        "ticks": False,
        "gridColor": "var(--line)",
        "labelColor": "var(--soft)",
        "titleColor": "var(--soft)",
        "labelFont": FONT,
        "titleFont": FONT,
        "labelFontSize": 12.5,
        "titleFontSize": 12.5,
        "titleFontWeight": 400,
        "labelPadding": 6,
        "titlePadding": 6,
        "labelOverlap": "greedy",
    },
    "legend": {
        "orient": "bottom",
        "direction": "horizontal",
        "labelColor": "var(--soft)",
        "labelFont": FONT,
        "labelFontSize": 12.5,
        "symbolSize": 110,
        "columnPadding": 16,
        "rowPadding": 4,
        "labelLimit": 260,
        "layout": {"bottom": {"anchor": "start", "direction": "vertical", "margin": 4}},
    },
    "style": {"cell": {"stroke": None}},
    "text": {"font": FONT},
}
"""Look of all charts."""
