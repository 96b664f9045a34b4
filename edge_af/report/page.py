"""The comparison as one HTML page that holds everything it shows: no script, no font, no address of another machine.

Everything that comes from a results file passes through `html.escape`; the page's own policy forbids scripts and loading
besides, so that a network's name that is markup stays text.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape
from importlib import resources
from string import Template

from edge_af import __version__
from edge_af.bench.results import Results
from edge_af.report.charts import full_name, glyph, hollow, memory_bars, precision_class, scatter, shape_of
from edge_af.report.comparison import (
    GAP,
    MAIN_COLUMNS,
    MEMORY,
    MORE_COLUMNS,
    P50,
    SIZE,
    Column,
    Line,
    caveats,
    compare,
    data_text,
    device_names,
    devices_of,
    has_threads,
    method_text,
    networks_of,
    parameters,
    parameters_relation,
)


def page(many: Sequence[Results]) -> str:
    """The whole page as text."""
    lines = compare(many)
    template = Template(resources.files("edge_af.report").joinpath("page.html").read_text(encoding="utf-8"))
    networks = networks_of(lines)
    title = " and ".join(networks[::-1]) if 0 < len(networks) <= 2 else "Networks side by side"
    devices = devices_of(lines) or [results.device.label for results in many]
    dates = sorted({results.created[:10] for results in many})
    sets = list(dict.fromkeys(data_text(results) for results in many if results.data))
    meta = [" and ".join(devices), *sets, " to ".join(dict.fromkeys((dates[0], dates[-1])))]
    return template.substitute(
        title=escape(title),
        meta=escape(" · ".join(meta)),
        headline=_headline(lines),
        caveats=_list(caveats(many)),
        table=_comparison(lines),
        charts=_charts(lines),
        measured=_measured(many),
        more=_more(lines),
        version=escape(__version__),
        sources=f"{len(many)} results file{'s' if len(many) != 1 else ''}",
    )


def _headline(lines: Sequence[Line]) -> str:
    """The fastest row of another network than the baseline's, in one sentence; nothing if there is no such row."""
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
    base_name = next(full_name(other) for other in lines if other.row is base)
    text = f"{full_name(line)} needs {P50.text(row)} ms a video where {base_name} needs {P50.text(base)} ms"
    text += f" ({P50.relation(row, base)}), in a file {SIZE.relation(row, base)} as large"
    if MEMORY.relation(row, base):
        text += f", with {MEMORY.relation(row, base)} the memory"
    if GAP.relation(row, base):
        text += f". GAP@20: {GAP.text(row)} against {GAP.text(base)}"
    return f'<p class="headline">{escape(text)}.</p>'


def _list(texts: Sequence[str]) -> str:
    items = "".join(f"<li>{escape(text)}</li>" for text in texts)
    return f'<ul class="caveats">{items}</ul>' if items else ""


def _comparison(lines: Sequence[Line]) -> str:
    if not lines:
        return "<p>No row was measured.</p>"
    head = "".join(
        _head(column) + ('<th scope="col">ΔGAP<small>to own FP32</small></th>' if column is GAP else "")
        for column in MAIN_COLUMNS
    )
    largest = {
        column.key: max((column.value(line.row) or 0.0 for line in lines), default=0.0)
        for column in MAIN_COLUMNS
        if column.is_ratio
    }
    caption = (
        "Small figures: factor of, or difference to, the baseline in the same runtime. Bars: the figure itself, the column's "
        "largest being full width. Shorter is better."
    )
    return _table(
        lines,
        "comparison",
        caption,
        head,
        lambda line: "".join(
            _cell(column, line, largest.get(column.key))
            + (f"<td>{escape(column.relation(line.row, line.fp32))}</td>" if column is GAP else "")
            for column in MAIN_COLUMNS
        ),
        columns=len(MAIN_COLUMNS) + 2,
    )


def _more(lines: Sequence[Line]) -> str:
    if not lines:
        return ""
    table = _table(
        lines,
        "more",
        "Accuracy by other measures, and the rest of what was timed. First: the first inference after loading.",
        "".join(_head(column) for column in MORE_COLUMNS),
        lambda line: "".join(f"<td>{escape(column.text(line.row)) or '–'}</td>" for column in MORE_COLUMNS),
        columns=len(MORE_COLUMNS) + 1,
    )
    return f'<details><summary id="more">All other figures</summary>{table}</details>'


def _table(
    lines: Sequence[Line], label: str, caption: str, head: str, cells: Callable[[Line], str], *, columns: int
) -> str:
    """A table with a group of rows a network, in a box that scrolls sideways where the screen is narrow."""
    names, threads = device_names(lines), has_threads(lines)
    if threads:
        head, columns = f'<th scope="col">Threads</th>{head}', columns + 1
    if len(names) > 1:
        head, columns = f'<th scope="col" class="text">Device</th>{head}', columns + 1
    bodies = []
    for network in networks_of(lines):
        group = [line for line in lines if line.network == network]
        note = f"{parameters(group[0].row)} parameters"
        if relation := next(filter(None, map(parameters_relation, group)), ""):
            note += f", {relation} of the baseline"
        rows = []
        for line in group:
            between = [f'<td class="text">{escape(names[line.device])}</td>'] if len(names) > 1 else []
            between += [f"<td>{line.row.threads}</td>"] if threads else []
            rows.append(f"<tr>{_row_head(line)}{''.join(between)}{cells(line)}</tr>")
        bodies.append(
            f'<tbody><tr><th class="group" scope="rowgroup" colspan="{columns}"><span>{escape(network)}'
            f"<small>{escape(note)}</small></span></th></tr>{''.join(rows)}</tbody>"
        )
    return (
        f'<div class="scroll" role="region" aria-labelledby="{label}" tabindex="0"><table>'
        f"<caption><span>{escape(caption)}</span></caption>"
        f'<thead><tr><th scope="col">Runtime, precision</th>{head}</tr></thead>'
        f"{''.join(bodies)}</table></div>"
    )


def _row_head(line: Line) -> str:
    tag = '<span class="tag">baseline</span>' if line.is_baseline else ""
    problem = f'<span class="problem">{escape(line.problem)}</span>' if line.problem else ""
    chip = f'<span class="chip {precision_class(line)}">{escape(line.precision)}</span>'
    return f'<th class="row" scope="row"><span class="runtime">{escape(line.runtime)}</span>{chip}{tag}{problem}</th>'


def _head(column: Column) -> str:
    unit = f"<small>{escape(column.unit)}</small>" if column.unit else ""
    return f'<th scope="col">{escape(column.title)}{unit}</th>'


def _cell(column: Column, line: Line, largest: float | None) -> str:
    value = column.value(line.row)
    if value is None:
        return "<td>–</td>"
    relation = column.relation(line.row, line.base)
    width = "" if column.is_ratio else " wide"
    figure = f'<span class="figure{width}">{escape(column.text(line.row))}<small>{escape(relation)}</small></span>'
    if not largest:
        return f"<td>{figure}</td>"
    share = max(0.0, min(1.0, value / largest))
    bar = f'<i class="{precision_class(line)}" style="width:{100 * share:.2f}%"></i>'
    return f'<td>{figure}<span class="track" aria-hidden="true">{bar}</span></td>'


def _charts(lines: Sequence[Line]) -> str:
    names = device_names(lines)
    by_device = {device: [line for line in lines if line.device == device] for device in names}
    several = len(names) > 1
    figures = []
    for number, (device, own) in enumerate(by_device.items()):
        title = "Accuracy against latency" + (f", {names[device]}" if several else "")
        svg = scatter(own, lines, lambda line: P50.value(line.row), title, "p50 latency, ms (log)", f"latency{number}")
        figures.append(_figure(svg, title, "one video, median; up and to the left is better"))
    # A file is as large on every device.
    files = {(line.network, line.row.runtime, line.row.precision): line for line in reversed(lines)}
    title = "Accuracy against file size"
    svg = scatter(list(files.values()), lines, lambda line: line.row.size_bytes / 1e6, title, "file, MB (log)", "size")
    figures.append(_figure(svg, title, "up and to the left is better"))
    out = ""
    if any(figures):
        out += (
            '<section aria-labelledby="accuracy"><h2 id="accuracy">What accuracy costs</h2>'
            f'<div class="charts">{"".join(figures)}</div>{_legend(lines)}</section>'
        )
    bars = []
    for number, (device, own) in enumerate(by_device.items()):
        if svg := memory_bars(own, f"memory{number}"):
            heading = f"<h3>{escape(names[device])}</h3>" if several else ""
            label = f"Peak memory{f', {names[device]}' if several else ''}, chart"
            bars.append(
                f'{heading}<div class="scroll memory" role="region" aria-label="{escape(label)}" tabindex="0">{svg}</div>'
            )
    if bars:
        out += (
            '<section aria-labelledby="peak"><h2 id="peak">Memory</h2>'
            '<p class="soft">The most each process held at once, from loading to the last timed inference.</p>'
            f'{"".join(bars)}<ul class="legend"><li><span class="patch bare"></span>'
            "bare runtime: Python, numpy and the runtime, before a network is loaded</li></ul></section>"
        )
    return out


def _figure(svg: str, title: str, note: str) -> str:
    if not svg:
        return ""
    return (
        f"<figure><figcaption>{escape(title)}<small>{escape(note)}</small></figcaption>"
        f'<div class="scroll" role="region" aria-label="{escape(title)}, chart" tabindex="0">{svg}</div></figure>'
    )


def _legend(lines: Sequence[Line]) -> str:
    def key(drawn: str) -> str:
        return f'<svg viewBox="0 0 20 20" aria-hidden="true">{drawn}</svg>'

    items = [(key(glyph(shape_of(name, lines), "plain", 10, 10)), name) for name in networks_of(lines)]
    for runtime in dict.fromkeys(line.runtime for line in lines):
        style = next(hollow(line) for line in lines if line.runtime == runtime)
        items.append((key(glyph("circle", f"plain{style}", 10, 10)), runtime))
    for precision in dict.fromkeys(line.precision for line in lines):
        style = next(precision_class(line) for line in lines if line.precision == precision)
        items.append((key(f'<rect class="bar {style}" x="2" y="4" width="16" height="12" rx="2"/>'), precision))
    return f'<ul class="legend">{"".join(f"<li>{drawn}{escape(name)}</li>" for drawn, name in items)}</ul>'


def _measured(many: Sequence[Results]) -> str:
    blocks = []
    for results in many:
        device = results.device
        facts = {
            "Device": device.label,
            "System": f"{device.kernel}, {device.machine}, Python {device.python}",
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
        "p50, p90": "half, or nine in ten, of the timed inferences took no longer",
        "MB": "1,000,000 bytes",
    }
    glossary = "".join(f"<dt>{escape(name)}</dt><dd>{escape(meaning)}</dd>" for name, meaning in words.items())
    return f'<div class="facts">{"".join(blocks)}<div><dl>{glossary}</dl></div></div>'
