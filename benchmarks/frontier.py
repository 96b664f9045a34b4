"""Measure accuracy against cost: every trained network, in each precision and runtime, here and on emulated boards.

    python -m benchmarks.frontier --work runs --out benchmarks/results/frontier

reads the runs and the data that `benchmarks/training.py` made in `--work`, exports each run to FP32, INT8, INT4 and INT2,
benches all files in one session, compares their accuracy with the baseline's on the same videos, and models their latency on
Raspberry Pi boards under emulation. It writes OUT.json, OUT-paired.json, OUT-BOARD.json, the table OUT.md, and the page
OUT.html in `--work`. An interrupted run continues when started again.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import click

from benchmarks.verbs import edge_af, is_exported, paragraph, this_command
from edge_af.artifacts import read_manifest
from edge_af.console import Progress
from edge_af.data.dataset import open_dataset
from edge_af.files import write_atomic, write_json
from edge_af.metrics import gap_at_20
from edge_af.metrics.bootstrap import interval, outcomes, resampled_gap
from edge_af.records.results import OK, Delta, Results, Row, read_results
from edge_af.report.columns import GAP, MEMORY, P50, SIZE, quantity, signed
from edge_af.report.notes import measured_text
from edge_af.report.rows import Line, compare
from edge_af.report.tables import table_lines
from edge_af.runtime import load, score_all

BOARDS = {"zero2w": "Pi Zero 2 W", "pi4": "Pi 4", "pi5": "Pi 5"}
INT2 = "onnx=int2-block64-dynamic-gptq-corrected"
SUITE = Path(__file__).with_name("frontier.yaml")


@dataclass(frozen=True)
class Point:
    """A measured file, with its modeled latency on the boards."""

    line: Line
    boards: dict[str, Row]
    """By the board's name."""
    paired: Delta | None
    """Difference of GAP@20 from the most accurate FC Late Fusion in FP32."""


def is_better(one: Row, other: Row) -> bool:
    """Return True if a row is as accurate and as fast as another, and better in one of them."""
    mine, others = ((row.gap_at_20 or 0, -_p50(row)) for row in (one, other))
    return all(a >= b for a, b in zip(mine, others, strict=True)) and mine != others


def _p50(row: Row) -> float:
    return row.latency_ms.p50 if row.latency_ms is not None else float("inf")


@click.command(help=(__doc__ or "").splitlines()[0])
@click.option("--work", type=click.Path(path_type=Path), required=True, help="Folder of the runs and the data.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Results are OUT.json, OUT.md and others.")
@click.option("--run", "runs", multiple=True, help="Name of a run in --work; repeatable.  [default: all]")
@click.option("--board", "boards", multiple=True, type=click.Choice(list(BOARDS)), help="Board; repeatable.")
@click.option("--quick", is_flag=True, help="Measure less, for a test.")
def main(work: Path, out: Path, runs: Sequence[str], boards: Sequence[str], quick: bool) -> None:
    folders = [work / name for name in runs] or sorted(path.parent for path in work.glob("*/run.json"))
    artifacts = [_exported(folder, work) for folder in folders]
    results = out.with_suffix(".json")
    flags = ["--quick"] if quick else []
    if not _is_complete(results, artifacts):
        data = ("--suite", SUITE, "--data", work / "data" / "eval", *flags)
        edge_af("bench", *artifacts, *data, "--out", results)
    others = {board: out.with_name(f"{out.name}-{board}.json") for board in boards}
    for board, path in others.items():
        if not _is_complete(path, artifacts):
            edge_af("bench", *artifacts, "--target", f"emulated:{board}", *flags, "--out", path)
    edge_af("report", results, *others.values(), "--html", work / f"{out.name}.html")
    found = {board: read_results(path) for board, path in others.items()}
    measured = read_results(results)
    paired = paired_with_baseline(measured, artifacts, work / "data" / "eval")
    write_json(
        out.with_name(f"{out.name}-paired.json"), {sha256: dataclasses.asdict(one) for sha256, one in paired.items()}
    )
    write_atomic(out.with_suffix(".md"), markdown(measured, found, paired, this_command("frontier")))


def _is_complete(path: Path, artifacts: Sequence[Path]) -> bool:
    """Return True if the results are there, complete, and of these files.

    Raises:
        ClickException: they are of other files.
    """
    if not path.exists() or not (results := read_results(path)).is_complete:
        return False
    wanted = {file.sha256 for folder in artifacts for file in read_manifest(folder).files}
    if {row.sha256 for row in results.rows} != wanted:
        raise click.ClickException(f"{path}: results of other files. Remove it, or choose another --out.")
    return True


def _exported(run: Path, work: Path) -> Path:
    out = work / "artifacts" / run.name
    if not is_exported(run, out):
        train = work / "data" / "train"
        flags = ("--int8", "--int4", "--recipe", INT2, "--sensitivity-videos", "0", "--calibration-data", train)
        edge_af("export", run, *flags, "--any-calibration-data", "--overwrite", "--out", out)
    return out


def paired_with_baseline(results: Results, artifacts: Sequence[Path], data: Path) -> dict[str, Delta]:
    """Return each file's difference of GAP@20 from the most accurate FC Late Fusion in FP32, by the file's SHA-256."""
    paths = {file.sha256: folder / file.path for folder in artifacts for file in read_manifest(folder).files}
    rows = {row.sha256: row for row in results.rows if row.status == OK and row.sha256 in paths}
    base = max(
        (row for row in rows.values() if row.model == "fc-late-fusion" and row.precision == "fp32"),
        key=lambda row: row.gap_at_20 or 0,
        default=None,
    )
    if base is None or base.sha256 is None:
        return {}
    dataset = open_dataset(data)
    labels, resampled = dataset.labels(slice(None)), {}
    with Progress("comparing with the baseline", len(rows), "files") as progress:
        for sha256 in rows:
            scores = score_all(load(paths[sha256], threads=2), dataset.stored)
            resampled[sha256] = (gap_at_20(scores, labels), resampled_gap(outcomes(scores, labels, 0.5)))
            progress.update()
    gap, gaps = resampled[base.sha256]
    return {sha256: Delta(own - gap, *interval(each - gaps)) for sha256, (own, each) in resampled.items()}


def markdown(results: Results, boards: dict[str, Results], paired: dict[str, Delta], command: str) -> str:
    """Return the table: a row per file, the Pareto front of GAP@20 against the p50 in bold."""
    rows = {board: {row.key + row.runtime: row for row in other.rows} for board, other in boards.items()}
    points = [
        Point(
            line,
            {board: found[key] for board, found in rows.items() if (key := line.row.key + line.row.runtime) in found},
            paired.get(line.row.sha256 or ""),
        )
        for line in compare([results])
        if line.row.status == OK
    ]
    head = (
        "network",
        "file",
        "runtime",
        "GAP@20",
        "95 %",
        "to baseline (95 %)",
        "MB",
        "p50 ms",
        "times as fast",
        "memory MB",
    )
    table = [(*head, *(f"{BOARDS[board]} ms" for board in boards))]
    for point in points:
        row, base = point.line.row, point.line.base
        dominated = any(is_better(other.line.row, row) for other in points)
        limits = row.gap_at_20_interval
        cells = [
            point.line.network,
            point.line.weights,
            point.line.runtime,
            GAP.text(row),
            f"{limits[0]:.4f} to {limits[1]:.4f}" if limits is not None else "",
            _difference(point.paired),
            SIZE.text(row),
            P50.text(row),
            f"{_p50(base) / _p50(row):,.4g}" if base is not None else "",
            MEMORY.text(row),
            *(_modeled(point.boards.get(board)) for board in boards),
        ]
        table.append(tuple(cells if dominated else [f"**{cell}**" if cell else "" for cell in cells]))
    lines = table_lines(table, (0, 1, 2))
    legend = (
        "Bold: on the Pareto front of GAP@20 against p50. To baseline: difference of GAP@20 from the most accurate FC Late "
        "Fusion in FP32, on the same videos. Times as fast: as FC Late Fusion in FP32 in the same runtime. Boards: modeled, "
        "with the model's band, not measured."
    )
    made = (
        f"Made by `{command}` at commit {results.commit or 'unknown'}. {measured_text(results, results.device.label)}"
    )
    lines += ["", *paragraph(legend), "", *paragraph(f"{made} Videos are YouTube-8M's (Google LLC, CC BY 4.0).")]
    return "\n".join(lines) + "\n"


def _difference(paired: Delta | None) -> str:
    return f"{signed(paired.value)} ({signed(paired.low)} to {signed(paired.high)})" if paired is not None else ""


def _modeled(row: Row | None) -> str:
    if row is None or row.modelled_latency_ms is None:
        return row.status.replace("-", " ") if row is not None and row.status != OK else ""
    modeled = row.modelled_latency_ms
    return f"{quantity(modeled.value)} ({quantity(modeled.low)} to {quantity(modeled.high)})"


if __name__ == "__main__":
    main()
