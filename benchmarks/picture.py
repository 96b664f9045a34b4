"""Draw the page's chart of GAP@20 against latency as SVG pictures, one for light and one for dark backgrounds.

    python -m benchmarks.picture benchmarks/results/frontier.json --front --out docs/images

The picture shows the files in LiteRT; text is drawn with the reader's sans-serif font. With `--front`, it shows those that no
other file dominates, and FC Late Fusion in FP32.
"""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import click

from benchmarks.frontier import is_better
from edge_af.files import package_data, write_atomic
from edge_af.records.results import Row, read_results
from edge_af.report.charts import Chart, charts
from edge_af.report.specs import config

SCHEMES = ("light", "dark")
WIDTH, HEIGHT = 760, 300


def colors(scheme: str) -> dict[str, str]:
    """Return the page's CSS variables for a color scheme, by name."""
    css = package_data("report", "page.css").read_text(encoding="utf-8")
    pairs = re.findall(r"(--[a-z0-9-]+): light-dark\((#[0-9a-f]+), (#[0-9a-f]+)\)", css)
    return {name: values[SCHEMES.index(scheme)] for name, *values in pairs}


def spec_of(chart: Chart, scheme: str) -> dict[str, Any]:
    """Return a chart's Vega specification with its data, a fixed size, and the colors of a scheme."""
    spec = json.loads(json.dumps(chart.spec))
    spec["config"], spec["width"], spec["height"] = config(), WIDTH, HEIGHT
    spec["autosize"] = {"type": "fit", "contains": "padding"}
    spec["signals"] = [signal for signal in spec["signals"] if signal["name"] != "width"]
    below = "datum.datum.precision === 'INT8'"
    for mark in spec["marks"]:
        if mark["type"] == "text":
            # The page places labels by measuring text, which needs a browser. Here they stand above or
            # below the intervals.
            del mark["transform"]
            mark["encode"]["update"] |= {
                "x": {"signal": "datum.x"},
                "y": {"signal": f"{below} ? scale('y', datum.datum.low) + 17 : scale('y', datum.datum.high) - 7"},
                "align": {"signal": "datum.x > 0.9 * width ? 'right' : 'center'"},
            }
    for data in spec["data"]:
        if data["name"] in chart.data:
            data["values"] = chart.data[data["name"]]
    text = json.dumps(spec)
    for name, color in colors(scheme).items():
        text = text.replace(f"var({name})", color)
    filled: dict[str, Any] = json.loads(text)
    return filled


@click.command()
@click.argument("results", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder for the pictures.")
@click.option("--front", is_flag=True, help="Show the Pareto front and the baseline only.")
def command(results: Path, out: Path, front: bool) -> None:
    """Draw RESULTS, a file of `edge-af bench`, to OUT/gap-latency-light.svg and -dark.svg."""
    import vl_convert

    found = read_results(results)
    rows = [row for row in found.rows if row.runtime == "litert" and row.latency_ms is not None]
    if front:
        rows = [row for row in rows if _is_baseline(row) or not any(is_better(other, row) for other in rows)]
    own = dataclasses.replace(found, rows=rows)
    (chart, *_) = charts([own]).accuracy
    if front:
        for datum in chart.data["rows"]:
            # Neighbors on the front are too close for a label each.
            named = datum["precision"] == "INT8" or datum["network"].startswith("FC")
            datum["label"] = datum["label"].removeprefix("Attend-Fusion ") if named else ""
    out.mkdir(parents=True, exist_ok=True)
    for scheme in SCHEMES:
        write_atomic(out / f"gap-latency-{scheme}.svg", vl_convert.vega_to_svg(spec_of(chart, scheme)))


def _is_baseline(row: Row) -> bool:
    return row.model == "fc-late-fusion" and row.precision == "fp32"


if __name__ == "__main__":
    command()
