"""The comparison as one HTML page that holds everything it shows: no font, no address of another machine.

Everything that comes from a results file passes through `html.escape`, or stands in JSON in which no tag can begin. The
page's own policy names the scripts that may run by their hashes and forbids loading: a name that is markup stays text.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from html import escape
from string import Template

from edge_af.__version__ import __version__
from edge_af.files import package_data
from edge_af.records.results import Results
from edge_af.report.charts import EXTRA, Chart, charts, library
from edge_af.report.gallery import gallery_section
from edge_af.report.rows import (
    GAP,
    MEMORY,
    P50,
    SIZE,
    Line,
    caveats,
    compare,
    data_text,
    device_titles,
    devices_of,
    factor,
    gap_interval,
    gap_to_fp32,
    method_text,
    networks_of,
    signed,
)
from edge_af.report.specs import config
from edge_af.report.table import comparison_table, filters


def page(many: Sequence[Results]) -> str:
    """The whole page as text; without the charts where the package that carries their library is missing."""
    lines, drawn = compare(many), charts(many)
    networks = networks_of(lines)
    title = " and ".join(networks[::-1]) if 0 < len(networks) <= 2 else "Networks side by side"
    devices = devices_of(lines) or device_titles(many)
    dates = sorted({results.created[:10] for results in many})
    sets = list(dict.fromkeys(data_text(results) for results in many if results.data))
    sections = (
        ("accuracy", "What accuracy costs", drawn.accuracy),
        ("spread", "How steady the latency is", drawn.latency),
        ("peak", "Memory", drawn.memory),
        ("layers", "Which layers are sensitive", drawn.sensitivity),
    )
    table = comparison_table(lines)
    return document(
        title=title,
        meta=[" and ".join(devices), *sets, " to ".join(dict.fromkeys((dates[0], dates[-1])))],
        opening=_headline(lines) + bullets(caveats(many)),
        table=("The comparison", filters(drawn.facets), _ALL_FIGURES + table if lines else table),
        drawn=sections,
        rest=f'{gallery_section(many, lines)}<section aria-labelledby="measured"><h2 id="measured">How it was measured</h2>'
        f"{_measured(many)}</section>",
        facets=drawn.facets,
        sources=f"{len(many)} results file{'s' if len(many) != 1 else ''}",
    )


Section = tuple[str, str, Sequence[Chart]]
"""The id and the title of a section of charts, and these."""


def document(
    *,
    title: str,
    meta: Sequence[str],
    opening: str,
    table: tuple[str, str, str],
    drawn: Sequence[Section],
    rest: str,
    facets: Sequence[dict[str, str]],
    sources: str,
) -> str:
    """A page of a table that can be sorted and filtered, and charts.

    Args:
        title: text.
        meta: text; what stands in the line above the title.
        opening: HTML below the title.
        table: its title as text, and its filters and itself in HTML.
        drawn: the charts by section; those without any are left out.
        rest: HTML of the sections behind the charts.
        facets: what the filters look at, by the `id` of a table's row or a chart's datum.
        sources: text; what the page was made from.
    """
    vega = library()
    scripts = [*([vega] if vega else []), _file("page.js")]
    heading, filter_form, figures = table
    content = {
        "facets": facets,
        "config": config(),
        "charts": [
            {"name": chart.name, "spec": chart.spec, "data": chart.data} for _, _, own in drawn for chart in own if vega
        ],
    }
    return Template(_file("page.html")).substitute(
        scripts_allowed=" ".join(map(_hash, scripts)),
        style=_file("page.css"),
        title=escape(title),
        meta=escape(" · ".join(meta)),
        opening=opening,
        heading=escape(heading),
        filters=filter_form,
        table=figures,
        charts=_sections(drawn) if vega else _NO_CHARTS,
        rest=rest,
        version=escape(__version__),
        sources=escape(sources),
        scripts=f'<script type="application/json" id="content">{_json(content)}</script>\n'
        + "\n".join(f"<script>{script}</script>" for script in scripts),
    )


_ALL_FIGURES = (
    '<label class="options"><input type="checkbox" id="all" autocomplete="off"> All figures: more measures of accuracy, '
    "p95, p99, mean, loading</label>"
)
_NO_CHARTS = (
    '<section aria-labelledby="charts"><h2 id="charts">Charts</h2><p>This page was made without charts. To have them: '
    f"<code>pip install &#x27;edge-af[{EXTRA}]&#x27;</code>, and report again.</p></section>"
)


def _file(name: str) -> str:
    return package_data("report", name).read_text(encoding="utf-8")


def _hash(script: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"


def _json(value: object) -> str:
    """JSON that ends no script element, whatever text is in it."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")


def _headline(lines: Sequence[Line]) -> str:
    """The fastest row of another network than the baseline's, in large figures; nothing if there is no such row."""
    others = [
        line
        for line in lines
        if line.base is not None and line.row.params < line.base.params and P50.relation(line.row, line.base)
    ]
    if not others:
        return ""
    line = min(others, key=lambda line: P50.value(line.row) or 0.0)
    row, base = line.row, line.base
    assert base is not None
    base_name = next(other.name for other in lines if other.row is base)
    tiles = []
    for column, words in ((P50, "as fast"), (SIZE, "smaller file"), (MEMORY, "less memory")):
        own, reference = column.value(row), column.value(base)
        if own and reference:
            figures = f"{column.text(row)} against {column.text(base)} {column.unit}"
            tiles.append((f"{factor(reference / own)}", f"{words}: {figures}"))
    if GAP.relation(row, base):
        tiles.append((GAP.relation(row, base), f"GAP@20: {GAP.text(row)} against {GAP.text(base)}"))
    delta = gap_to_fp32(line)
    if delta is not None:
        tiles.append((signed(delta), f"GAP@20 by quantizing {gap_interval(line)}".strip()))
    made = "".join(f"<div><dt>{escape(words)}</dt><dd>{escape(figure)}</dd></div>" for figure, words in tiles)
    threads = f"{row.threads} thread{'s' if row.threads > 1 else ''}"
    text = f"{line.name} against {base_name}, {threads}, on {line.device}."
    return f'<dl class="tiles">{made}</dl><p class="headline">{escape(text)}</p>'


def bullets(texts: Sequence[str]) -> str:
    """List remarks in HTML; nothing if there are none."""
    items = "".join(f"<li>{escape(text)}</li>" for text in texts)
    return f'<ul class="caveats">{items}</ul>' if items else ""


def _sections(drawn: Sequence[Section]) -> str:
    return "".join(
        f'<section class="drawn" aria-labelledby="{name}"><h2 id="{name}">{escape(title)}</h2>'
        f'<div class="charts">{"".join(map(_figure, own))}</div></section>'
        for name, title, own in drawn
        if own
    )


def _figure(chart: Chart) -> str:
    return (
        f"<figure><figcaption>{escape(chart.title)}<small>{escape(chart.note)}</small></figcaption>"
        f'<div class="chart" id="{chart.name}"><p>{escape(chart.described)}</p></div></figure>'
    )


def _measured(many: Sequence[Results]) -> str:
    blocks = []
    for results in many:
        device = results.device
        facts = {
            "Device": device.label,
            "System": ", ".join(
                filter(
                    None,
                    (
                        device.system,
                        device.kernel,
                        device.machine,
                        f"Python {device.python}" if device.python else None,
                    ),
                )
            ),
            "Commit": results.commit or "not recorded",
            "Clock governor": device.governor or "not told by the system",
            "Packages": ", ".join(f"{name} {version}" for name, version in device.versions.items()) or "none recorded",
            "Evaluation data": data_text(results),
            "Measured": f"{results.created}{', quick' if results.quick else ''}",
        }
        entries = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in facts.items())
        blocks.append(f'<div><dl>{entries}</dl><p class="soft">{escape(method_text(results))}</p></div>')
    words = {
        "GAP@20": "each video's 20 best scores pooled, their average precision over all labels; 1 is perfect",
        "F1": "micro-averaged, at a threshold chosen on other videos",
        "ΔGAP": "GAP@20 less that of the same network in FP32 on the same videos",
        "p50, p90": "half, or nine in ten, of the timed inferences took no longer",
        "MB": "1,000,000 bytes",
    }
    glossary = "".join(f"<dt>{escape(name)}</dt><dd>{escape(meaning)}</dd>" for name, meaning in words.items())
    return f'<div class="facts">{"".join(blocks)}<div><dl>{glossary}</dl></div></div>'
