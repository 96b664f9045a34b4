"""The page's charts as inline SVG. Colours are classes that the page's style sheet fills, light or dark."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

from edge_af.report.comparison import GAP, MEMORY, Line, megabytes, networks_of, quantity

WIDTH, HEIGHT = 560, 400
LEFT, RIGHT, TOP, BOTTOM = 48, 22, 32, 48
FONT = 13
CHARACTER = 0.56 * FONT
"""Mean width of a character of the page's font, to place labels without a browser to ask."""

SHAPES = ("circle", "square", "triangle", "diamond")
MARKER = 7.0


@dataclass(frozen=True)
class Box:
    """A rectangle that labels keep off."""

    left: float
    top: float
    right: float
    bottom: float

    def overlap(self, other: Box) -> float:
        width = min(self.right, other.right) - max(self.left, other.left)
        height = min(self.bottom, other.bottom) - max(self.top, other.top)
        return width * height if width > 0 and height > 0 else 0.0


@dataclass(frozen=True)
class Mark:
    """A row in a chart, in the chart's own coordinates."""

    x: float
    y: float
    line: Line


def shape_of(network: str, lines: Sequence[Line]) -> str:
    """The marker shape that stands for a network throughout the page."""
    return SHAPES[networks_of(lines).index(network) % len(SHAPES)]


def scatter(
    shown: Sequence[Line],
    lines: Sequence[Line],
    value: Callable[[Line], float | None],
    title: str,
    axis: str,
    name: str,
) -> str:
    """GAP@20 against a figure on a logarithmic axis; empty if no row has both.

    Args:
        shown: the rows of this chart.
        lines: the whole comparison, so that a network has the same shape in every chart.
        value: the figure for the horizontal axis, above 0.
        title: of the chart, for those who do not see it.
        axis: what stands under the horizontal axis.
        name: a prefix for the ids in the SVG, unique on the page.
    """
    points = [
        (x, y, line)
        for line in shown
        if (x := value(line)) is not None and x > 0 and (y := GAP.value(line.row)) is not None
    ]
    if not points:
        return ""
    low, high = min(x for x, _, _ in points) / 1.5, max(x for x, _, _ in points) * 1.5
    bottom, top, step = _linear_axis([y for _, y, _ in points])

    def place(x: float, y: float) -> tuple[float, float]:
        across = (math.log(x) - math.log(low)) / (math.log(high) - math.log(low))
        up = (y - bottom) / (top - bottom)
        return LEFT + across * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - up * (HEIGHT - TOP - BOTTOM)

    out = []
    for number in range(round((top - bottom) / step) + 1):
        y = bottom + number * step
        _, at = place(low, y)
        out.append(f'<line class="grid" x1="{LEFT}" y1="{at:.1f}" x2="{WIDTH - RIGHT}" y2="{at:.1f}"/>')
        out.append(f'<text class="tick" x="{LEFT - 9}" y="{at + 4:.1f}" text-anchor="end">{_tick(y, step)}</text>')
    for x in _log_ticks(low, high):
        at, _ = place(x, bottom)
        out.append(f'<line class="grid" x1="{at:.1f}" y1="{TOP}" x2="{at:.1f}" y2="{HEIGHT - BOTTOM}"/>')
        out.append(f'<text class="tick" x="{at:.1f}" y="{HEIGHT - BOTTOM + 19}" text-anchor="middle">{x:g}</text>')
    middle = (LEFT + WIDTH - RIGHT) / 2
    out.append(f'<text class="axis" x="{middle:.0f}" y="{HEIGHT - 8}" text-anchor="middle">{escape(axis)}</text>')
    out.append(f'<text class="axis" x="0" y="{TOP - 17}">GAP@20</text>')

    marks = [Mark(*place(x, y), line) for x, y, line in points]
    out += _labels(marks, lines)
    for mark, (x, y, line) in zip(marks, points, strict=True):
        out.append(marker(mark.x, mark.y, line, lines, f"{axis}: {quantity(x)}, GAP {y:.4f}"))
    best = max(points, key=lambda point: point[1])
    least = min(points, key=lambda point: point[0])
    described = (
        f"{len(points)} rows. Least: {full_name(least[2])} at {quantity(least[0])} with GAP {least[1]:.4f}. "
        f"Best GAP: {full_name(best[2])}, {best[1]:.4f} at {quantity(best[0])}. The table holds every figure."
    )
    return _svg("".join(out), WIDTH, HEIGHT, title, described, name)


def marker(x: float, y: float, line: Line, lines: Sequence[Line], note: str) -> str:
    """A row's mark: shape by network, colour by precision, filled for ONNX Runtime and hollow for LiteRT."""
    drawn = glyph(shape_of(line.network, lines), f"{precision_class(line)}{hollow(line)}", x, y)
    return f"<g><title>{escape(f'{full_name(line)}, {note}')}</title>{drawn}</g>"


def hollow(line: Line) -> str:
    """The style class, after a space, that tells LiteRT's marks from those of the other runtimes."""
    return " hollow" if line.row.runtime == "litert" else ""


def glyph(shape: str, classes: str, x: float, y: float) -> str:
    """One of `SHAPES` around a point, all of about the same area."""
    r, style = MARKER, f'class="mark {classes}"'
    if shape == "circle":
        return f'<circle {style} cx="{x:.1f}" cy="{y:.1f}" r="{r * 0.93:.1f}"/>'
    corners = {
        "square": ((-0.86, -0.86), (0.86, -0.86), (0.86, 0.86), (-0.86, 0.86)),
        "triangle": ((0, -1.15), (1.08, 0.8), (-1.08, 0.8)),
        "diamond": ((0, -1.25), (1.25, 0), (0, 1.25), (-1.25, 0)),
    }[shape]
    points = " ".join(f"{x + across * r:.1f},{y + down * r:.1f}" for across, down in corners)
    return f'<polygon {style} points="{points}"/>'


def memory_bars(lines: Sequence[Line], name: str) -> str:
    """Peak memory a row, the bare runtime's part apart from the network's; empty if it was not measured."""
    rows = [(line, value) for line in lines if (value := MEMORY.value(line.row)) is not None]
    if not rows:
        return ""
    networks = list(dict.fromkeys(line.network for line, _ in rows))
    label_width, value_width, bar, gap, heading = 170, 130, 16, 10, 26
    width = 760
    scale = (width - label_width - value_width) / max(value for _, value in rows)
    out, y = [], 4.0
    for network in networks:
        out.append(f'<text class="strong" x="0" y="{y + 14:.0f}">{escape(network)}</text>')
        y += heading
        for line, value in rows:
            if line.network != network:
                continue
            own = min(line.row.runtime_memory_bytes or 0, value)
            label = f"{line.runtime} {line.precision}"
            out.append(f'<text class="tick" x="0" y="{y + 13:.0f}">{escape(label)}</text>')
            parts = f"{megabytes(value)} MB, of it {megabytes(own)} MB bare runtime"
            out.append(f"<g><title>{escape(full_name(line))}: {parts}</title>")
            out.append(f'<rect class="bare" x="{label_width}" y="{y:.0f}" width="{own * scale:.1f}" height="{bar}"/>')
            out.append(
                f'<rect class="bar {precision_class(line)}" x="{label_width + own * scale:.1f}" y="{y:.0f}" '
                f'width="{max((value - own) * scale, 0.5):.1f}" height="{bar}"/></g>'
            )
            relation = MEMORY.relation(line.row, line.base)
            out.append(
                f'<text class="label" x="{label_width + value * scale + 8:.1f}" y="{y + 13:.0f}">{megabytes(value)} MB'
                f'<tspan class="soft" dx="7">{escape(relation)}</tspan></text>'
            )
            y += bar + gap
        y += 8
    largest = max(rows, key=lambda pair: pair[1])
    smallest = min(rows, key=lambda pair: pair[1])
    described = (
        f"Most: {full_name(largest[0])}, {megabytes(largest[1])} MB. Least: {full_name(smallest[0])}, "
        f"{megabytes(smallest[1])} MB. The table holds every figure."
    )
    return _svg("".join(out), width, round(y), "Peak memory of each row", described, name)


def precision_class(line: Line) -> str:
    """The style class that colours a precision; one class for those without a colour of their own."""
    return line.row.precision if line.row.precision in ("fp32", "int8", "int4") else "other"


def full_name(line: Line) -> str:
    """A row's name where it stands alone."""
    return f"{line.network} {line.precision} in {line.runtime}"


def _svg(inside: str, width: int, height: int, title: str, described: str, name: str) -> str:
    return (
        f'<svg role="img" viewBox="0 0 {width} {height}" aria-labelledby="{name}-t {name}-d">'
        f'<title id="{name}-t">{escape(title)}</title><desc id="{name}-d">{escape(described)}</desc>{inside}</svg>'
    )


def _labels(marks: Sequence[Mark], lines: Sequence[Line]) -> list[str]:
    """A label beside each mark; marks of the same network and precision that stand together share one."""
    groups: list[list[Mark]] = []
    for mark in marks:
        for group in groups:
            near = any(math.hypot(mark.x - other.x, mark.y - other.y) < 26 for other in group)
            first = group[0].line
            if near and (first.network, first.precision) == (mark.line.network, mark.line.precision):
                group.append(mark)
                break
        else:
            groups.append([mark])
    frame = Box(LEFT, TOP - 6, WIDTH - 4, HEIGHT - BOTTOM + 4)
    taken = [Box(mark.x - MARKER - 2, mark.y - MARKER - 2, mark.x + MARKER + 2, mark.y + MARKER + 2) for mark in marks]
    out = []
    for group in sorted(groups, key=lambda group: group[0].x):
        x, y = (sum(getattr(mark, axis) for mark in group) / len(group) for axis in ("x", "y"))
        reach = max(abs(mark.x - x) for mark in group) + MARKER + 5
        text = f"{_short(_chart_name(group[0].line, lines), 24)} {group[0].line.precision}"
        width, height = len(text) * CHARACTER, FONT + 2
        candidates = []
        for far in (0, 14, 28, 44):
            rise = MARKER + 5 + far
            candidates += [
                (x + reach + far, y - height / 2),
                (x - reach - far - width, y - height / 2),
                (x - width / 2, y - rise - height),
                (x - width / 2, y + rise),
                (x + reach / 2, y - rise - height),
                (x - reach / 2 - width, y - rise - height),
                (x + reach / 2, y + rise),
                (x - reach / 2 - width, y + rise),
            ]

        def cost(index: int, left: float, top: float) -> float:
            box = Box(left, top, left + width, top + height)  # noqa: B023
            outside = width * height - box.overlap(frame)  # noqa: B023
            return 4 * outside + 3 * sum(box.overlap(other) for other in taken) + index

        index, (left, top) = min(enumerate(candidates), key=lambda pair: cost(pair[0], *pair[1]))
        taken.append(Box(left, top, left + width, top + height))
        if index >= 8:
            end_x, end_y = min(max(x, left), left + width), top if top > y else top + height
            out.append(f'<line class="lead" x1="{x:.1f}" y1="{y:.1f}" x2="{end_x:.1f}" y2="{end_y:.1f}"/>')
        out.append(f'<text class="label" x="{left:.1f}" y="{top + FONT - 1:.1f}">{escape(text)}</text>')
    return out


def _chart_name(line: Line, lines: Sequence[Line]) -> str:
    """The network without its preset, where that is the same for all."""
    presets = {other.row.preset for other in lines}
    return line.network.removesuffix(f" {line.row.preset}") if len(presets) == 1 else line.network


def _short(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1].rstrip() + "…"


def _linear_axis(values: Sequence[float]) -> tuple[float, float, float]:
    """Bottom, top and step of round numbers around the values, wide enough that noise does not look like a gap."""
    low, high = min(values), max(values)
    span = max(high - low, 0.02)
    low, high = (low + high) / 2 - 0.75 * span, (low + high) / 2 + 0.75 * span
    raw = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(raw))
    step = power * next(factor for factor in (1, 2, 2.5, 5, 10) if factor * power >= raw)
    return max(0.0, math.floor(low / step) * step), math.ceil(high / step) * step, step


def _tick(value: float, step: float) -> str:
    return f"{value:.{max(2, 1 - math.floor(math.log10(step)))}f}".rstrip("0").ljust(4, "0")


def _log_ticks(low: float, high: float) -> list[float]:
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for factors in ((1, 2, 5), (1, 3), (1,)):
        ticks = [factor * 10.0**power for power in powers for factor in factors]
        ticks = [tick for tick in ticks if low <= tick <= high]
        if len(ticks) <= 8:
            break
    return ticks
