"""Measure the noise that `edge-af compare` has to handle: warm-up after another process used the core, and differences
between two loads of the same file.

    python -m benchmarks.compare_noise FILE --out benchmarks/results/compare-noise

runs generations of three processes of the same file in turns, as the comparison does, but with longer blocks and no
discarded inferences. It writes `compare-noise.json` and `compare-noise.md`: the median inference by position in the block,
and the spread between generations next to the error expected from their rounds alone.
"""

from __future__ import annotations

import json
import shlex
import sys
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

import click
import numpy as np
from numpy.typing import NDArray

from edge_af.compare.nursery import nursery
from edge_af.compare.statistics import generation_figures
from edge_af.compare.worker import PairJob
from edge_af.console import Progress
from edge_af.files import write_atomic, write_json
from edge_af.machine.device import allowed_cores, project_commit, this_device
from edge_af.runtime import runtime_of

INFERENCES = 16
"""Inferences per block."""
WARM_UPS = (0, 1, 2, 4, 8)
COUNTED = 6
"""Inferences after the warm-up; the fastest one counts."""


def generations(path: Path, count: int) -> list[NDArray[np.int64]]:
    """Return processor times in nanoseconds: an array (3, blocks, INFERENCES) per generation."""
    runtime = runtime_of(path)
    job = PairJob(str(path), str(path), (runtime, runtime), 1, allowed_cores(), None, -1)
    found = []
    with nursery(job, timeout_seconds=300) as started, Progress("noise", count, "loads") as progress:
        for generation in range(count):
            order = {"generation": generation, "seed": 0, "seconds": 0.0, "at_most": 0.0}
            answer = started.order({**order, "block": {"warm_up": 0, "inferences": INFERENCES}})
            found.append(np.array(answer["cpu"], np.int64))
            progress.update(1)
    return found


@click.command()
@click.argument("path", metavar="FILE", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Writes OUT.json and OUT.md.")
@click.option("--loads", default=40, show_default=True, type=click.IntRange(4))
def main(path: Path, out: Path, loads: int) -> None:
    """Measure FILE against itself."""
    times = generations(path, loads)
    together = np.concatenate([one.reshape(-1, INFERENCES) for one in times])
    by_place = [round(float(value) / 1e6, 4) for value in np.median(together, axis=0)]
    rows = []
    for warm_up in WARM_UPS:
        figures = [generation_figures(one[:, :, warm_up : warm_up + COUNTED])[0] for one in times]
        values = np.array([figure.value for figure in figures])
        quiet = sorted(figures, key=lambda figure: figure.error)[: len(figures) // 2]
        rows.append(
            {
                "warm_up": warm_up,
                "spread": float(np.abs(values - np.median(values)).mean() * np.sqrt(np.pi / 2)),
                "error": float(np.median([figure.error for figure in figures])),
                "quiet_spread": float(np.std([figure.value for figure in quiet], ddof=1)),
                "quiet_error": float(np.median([figure.error for figure in quiet])),
            }
        )
    command = "python -m benchmarks.compare_noise " + shlex.join(sys.argv[1:])
    value = {
        "schema_version": 1,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": command,
        "commit": project_commit(),
        "device": asdict(this_device()),
        "file": path.name,
        "loads": loads,
        "median_ms_by_place_in_block": by_place,
        "by_warm_up": rows,
    }
    lines = [
        "# A file compared with itself",
        "",
        f"Made by `{command}` at commit {value['commit']} on {this_device().label}: {loads} loads of {path.name}.",
        "",
        f"Median ms by position in the block: {', '.join(f'{one:.3f}' for one in by_place)}.",
        "",
        "| warm-up inferences | spread of loads | error from rounds | spread of the quieter half | error from rounds |",
        "|--:|--:|--:|--:|--:|",
        *(
            f"| {row['warm_up']} | "
            + " | ".join(f"{row[name]:.2%}" for name in ("spread", "error", "quiet_spread", "quiet_error"))
            + " |"
            for row in rows
        ),
    ]
    write_json(out.with_suffix(".json"), value)
    write_atomic(out.with_suffix(".md"), "\n".join(lines) + "\n")
    click.echo(json.dumps({"json": str(out.with_suffix(".json")), "markdown": str(out.with_suffix(".md"))}))


if __name__ == "__main__":
    main()
