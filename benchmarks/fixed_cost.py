"""Split the latency of small TFLite files into Python, copies, the runtime's call and the operators.

    python -m benchmarks.fixed_cost artifacts/attend-fusion-1m artifacts/attend-fusion-700k --out benchmarks/results/fixed-cost

times, for each file in LiteRT on one thread, the scorer's whole call, `invoke` alone, and copying inputs and outputs alone.
The empty model with one layer of one class shows what a call costs without a network. Writes OUT.json and OUT.md.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np

from benchmarks.verbs import made_by, paragraph, record
from edge_af.artifacts import read_manifest
from edge_af.bench.process import EMPTY
from edge_af.data import random_features
from edge_af.files import write_atomic, write_json
from edge_af.runtime.litert import LiteRtScorer
from edge_af.runtime.operators import tflite_operators

INFERENCES, ROUNDS = 2000, 5


@click.command(help=(__doc__ or "").splitlines()[0])
@click.argument("folders", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Writes OUT.json and OUT.md.")
def main(folders: tuple[Path, ...], out: Path) -> None:
    files = {"one layer, one class": EMPTY["litert"]}
    for folder in folders:
        manifest = read_manifest(folder)
        for file in manifest.files:
            if file.format == "tflite" and file.precision in ("int8", "int4"):
                files[f"{manifest.model} {manifest.preset} {file.precision}"] = folder / file.path
    rows: dict[str, list[dict[str, float]]] = {name: [] for name in files}
    for _ in range(ROUNDS):
        for name, path in files.items():
            rows[name].append(split_up(path))
    found = {
        **record("fixed_cost"),
        "rows": [
            {
                "file": name,
                "size_bytes": files[name].stat().st_size,
                "operators": len(tflite_operators(files[name])),
                **{part: float(np.median([one[part] for one in rounds])) for part in rounds[0]},
            }
            for name, rounds in rows.items()
        ],
    }
    write_json(out.with_suffix(".json"), found)
    write_atomic(out.with_suffix(".md"), markdown(found))


def split_up(path: Path) -> dict[str, float]:
    """Return the median microseconds of each part of an inference."""
    scorer = LiteRtScorer(path, 1)
    interpreter, output = scorer._interpreter, scorer._output["index"]
    inputs = [scorer._inputs[name]["index"] for name in ("visual", "audio")]
    features = random_features(64, scorer.widths)
    videos = [features.take(slice(at, at + 1)) for at in range(64)]

    def copies(at: int) -> None:
        for index, array in zip(inputs, videos[at % 64], strict=True):
            interpreter.set_tensor(index, array)
        interpreter.get_tensor(output)

    whole = _median(lambda at: scorer.score(videos[at % 64]))
    invoke = _median(lambda at: interpreter.invoke())
    copied = _median(copies)
    return {"whole_us": whole, "invoke_us": invoke, "copies_us": copied, "rest_us": whole - invoke - copied}


def _median(call: Callable[[int], object]) -> float:
    taken = []
    for at in range(INFERENCES):
        started = time.perf_counter_ns()
        call(at)
        taken.append(time.perf_counter_ns() - started)
    return float(np.median(taken[INFERENCES // 4 :])) / 1e3


def markdown(found: dict[str, Any]) -> str:
    """Return the table."""
    lines = [
        "| file in LiteRT, one thread | KB | operators | whole call, us | invoke | copies in and out | the rest: Python |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for row in found["rows"]:
        parts = " | ".join(f"{row[part]:.1f}" for part in ("whole_us", "invoke_us", "copies_us", "rest_us"))
        lines.append(f"| {row['file']} | {row['size_bytes'] / 1e3:,.0f} | {row['operators']} | {parts} |")
    lines += ["", *paragraph(f"Medians in microseconds. {made_by(found)}")]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
