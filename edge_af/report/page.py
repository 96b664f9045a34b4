"""Render the comparison as one self-contained HTML page.

Text from results files is escaped by the templates, or stands in JSON in which no tag can begin. The page's content security
policy allows its scripts by hash and forbids loading anything.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from edge_af.__version__ import __version__
from edge_af.files import package_data
from edge_af.records.results import Results
from edge_af.report.charts import Chart, charts, library
from edge_af.report.columns import GAP, MEMORY, P50, SIZE, factor, signed
from edge_af.report.extraction import TITLES, extraction_rows, extraction_text
from edge_af.report.gallery import shown_gallery
from edge_af.report.notes import caveats, data_text, method_text
from edge_af.report.page_table import comparison_table, filter_groups
from edge_af.report.rows import Line, compare, device_titles, devices_of, gap_interval, gap_to_fp32, networks_of
from edge_af.report.specs import config

Section = tuple[str, str, Sequence[Chart]]
"""ID and title of a section of charts, and the charts."""


def page(many: Sequence[Results]) -> str:
    """Render the page; without charts if `vl-convert-python` is missing."""
    lines, drawn = compare(many), charts(many)
    networks = networks_of(lines)
    devices = devices_of(lines) or device_titles(many)
    dates = sorted({results.created[:10] for results in many})
    sets = list(dict.fromkeys(data_text(results) for results in many if results.data))
    return rendered(
        "comparison.html",
        sections=(
            ("accuracy", "What accuracy costs", drawn.accuracy),
            ("spread", "Latency distribution", drawn.latency),
            ("peak", "Memory", drawn.memory),
            ("layers", "Layer sensitivity", drawn.sensitivity),
        ),
        facets=drawn.facets,
        title=" and ".join(networks[::-1]) if 0 < len(networks) <= 2 else "Networks side by side",
        meta=[" and ".join(devices), *sets, " to ".join(dict.fromkeys((dates[0], dates[-1])))],
        headline=_headline(lines),
        caveats=caveats(many),
        table_title="The comparison",
        table=comparison_table(lines),
        extraction={"titles": TITLES, "rows": extraction_rows(many), "text": extraction_text(many)},
        gallery=shown_gallery(many, lines),
        measured=[{"facts": _facts(results), "method": method_text(results)} for results in many],
        sources=f"{len(many)} results file{'s' if len(many) != 1 else ''}",
    )


def rendered(template: str, *, sections: Sequence[Section], facets: Sequence[Mapping[str, str]], **values: Any) -> str:
    """Render a page with a sortable, filterable table and charts.

    Args:
        template: name of the file in `templates/`.
        sections: charts by section; empty sections are left out.
        facets: facets for the filters, by the `id` of a table row or a chart's datum.
        values: other values for the template.
    """
    vega = library()
    scripts = [*([vega] if vega else []), _file("page.js")]
    content = {
        "facets": facets,
        "config": config(),
        "charts": [
            {"name": chart.name, "spec": chart.spec, "data": chart.data}
            for _, _, own in sections
            for chart in own
            if vega
        ],
    }
    folder = package_data("report", "templates")
    environment = Environment(
        loader=FileSystemLoader(folder),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    environment.globals["classes"] = _classes
    return environment.get_template(template).render(
        scripts_allowed=list(map(_hash, scripts)),
        style=_file("page.css"),
        scripts=scripts,
        content=_json(content),
        sections=sections,
        has_charts=vega is not None,
        filters=filter_groups(facets),
        version=__version__,
        **values,
    )


def _classes(*names: str | bool) -> Markup:
    """Return a class attribute with the names that apply."""
    given = " ".join(str(name) for name in names if name)
    return Markup(' class="{}"').format(given) if given else Markup("")


def _file(name: str) -> str:
    return package_data("report", name).read_text(encoding="utf-8")


def _hash(script: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"


def _json(value: object) -> str:
    """Encode JSON in which no text can end the script element."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")


def _headline(lines: Sequence[Line]) -> dict[str, Any] | None:
    """Compare the baseline with the fastest row of a smaller network; None without one."""
    others = [
        line
        for line in lines
        if line.base is not None and line.row.params < line.base.params and P50.relation(line.row, line.base)
    ]
    if not others:
        return None
    line = min(others, key=lambda line: P50.value(line.row) or 0.0)
    row, base = line.row, line.base
    assert base is not None
    base_name = next(other.name for other in lines if other.row is base)
    tiles = []
    for column, words in ((P50, "as fast"), (SIZE, "smaller file"), (MEMORY, "less memory")):
        own, reference = column.value(row), column.value(base)
        if own and reference:
            figures = f"{column.text(row)} against {column.text(base)} {column.unit}"
            tiles.append((f"{words}: {figures}", factor(reference / own)))
    if GAP.relation(row, base):
        tiles.append((f"GAP@20: {GAP.text(row)} against {GAP.text(base)}", GAP.relation(row, base)))
    delta = gap_to_fp32(line)
    if delta is not None:
        tiles.append((f"GAP@20 by quantizing {gap_interval(line)}".strip(), signed(delta)))
    threads = f"{row.threads} thread{'s' if row.threads > 1 else ''}"
    return {"tiles": tiles, "text": f"{line.name} against {base_name}, {threads}, on {line.device}."}


def _facts(results: Results) -> dict[str, str]:
    """Return the facts of a bench by name."""
    device = results.device
    python = f"Python {device.python}" if device.python else None
    return {
        "Device": device.label,
        "System": ", ".join(filter(None, (device.system, device.kernel, device.machine, python))),
        "Commit": results.commit or "not recorded",
        "Clock governor": device.governor or "not reported by the system",
        "Packages": ", ".join(f"{name} {version}" for name, version in device.versions.items()) or "none recorded",
        "Evaluation data": data_text(results),
        "Measured": f"{results.created}{', quick' if results.quick else ''}",
    }
