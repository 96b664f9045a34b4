"""Run edge-af under random hostile conditions; print counts by outcome and every fault.

The kinds are kills at random moments, damaged files, hostile names, resource limits, pairs of processes with one output, and a
soak test. A case depends on its number alone: `--only KIND --first N --cases 1` repeats it. Exit code 1: at least one fault.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import click
import outcome
from drive import SIZES, torture

from edge_af.machine.device import project_commit, this_device


def text(found: dict[str, Any]) -> str:
    """Format the counts as Markdown."""
    outcomes = list(dict.fromkeys(name for kind in found["kinds"].values() for name in kind["outcomes"]))
    lines = [f"| | cases | {' | '.join(outcomes)} | faults |", "|---|" + "---:|" * (len(outcomes) + 2)]
    for name, kind in found["kinds"].items():
        counts = " | ".join(f"{kind['outcomes'].get(one, 0):,}" for one in outcomes)
        lines.append(f"| **{name}** | {kind['cases']:,} | {counts} | {kind['faults']:,} |")
        for what, own in kind["of"].items():
            counts = " | ".join(f"{own.get(one, 0):,}" for one in outcomes)
            faults = sum(fault["kind"] == name and fault["what"] == what for fault in found["faults"])
            lines.append(f"| {what} | {sum(own.values()):,} | {counts} | {faults:,} |")
    for fault in found["faults"]:
        first = fault["details"].splitlines()[0]
        lines += ["", f"* {fault['kind']}, {fault['what']}: {fault['fault'].splitlines()[0]} ({first})"]
    return "\n".join(lines) + "\n"


def record(out: Path, found: dict[str, Any]) -> None:
    """Add a run to OUT.json and rewrite OUT.md. The run replaces earlier runs of the same kinds."""
    json_file = out.with_suffix(".json")
    runs = json.loads(json_file.read_text())["runs"] if json_file.exists() else []
    runs = [run for run in runs if not set(run["kinds"]) <= set(found["kinds"])]
    runs.append({**found, "commit": project_commit()})
    json_file.write_text(json.dumps({"runs": runs}, indent=2) + "\n")
    parts = []
    for run in runs:
        made = f"Commit {run['commit']}, {run['device']}, {run['seconds'] / 60:.0f} minutes."
        parts.append(f"```sh\n{run['command']}\n```\n\n{made}\n\n{text(run)}")
    out.with_suffix(".md").write_text("\n".join(parts))


@click.command(help=__doc__)
@click.option(
    "--size",
    type=click.Choice(["short", "medium", "long"]),
    default="medium",
    show_default=True,
    help="Number of cases: about 10 minutes, 1 hour or 3 hours on 2 cores.",
)
@click.option("--only", type=click.Choice(list(SIZES)), multiple=True, help="Kind of cases to run (repeatable).")
@click.option("--cases", type=click.IntRange(min=1), help="Number of cases of each kind, in place of --size.")
@click.option("--first", type=click.IntRange(min=0), default=0, show_default=True, help="Number of the first case.")
@click.option("--jobs", type=click.IntRange(min=1), default=2, show_default=True, help="Number of worker processes.")
@click.option("--out", type=click.Path(path_type=Path), help="Results files to write: OUT.json and OUT.md.")  # fmt: skip
def main(size: str, only: tuple[str, ...], cases: int | None, first: int, jobs: int, out: Path | None) -> None:
    at = ["short", "medium", "long"].index(size)
    sizes = {kind: cases or numbers[at] for kind, numbers in SIZES.items() if not only or kind in only}
    began = time.monotonic()
    found = outcome.summary(torture(sizes, first, jobs))
    found |= {
        "command": " ".join(["python", *sys.argv]),
        "device": this_device().label,
        "seconds": round(time.monotonic() - began),
    }
    click.echo(text(found))
    for fault in found["faults"]:
        click.echo(f"{fault['kind']}, {fault['what']}: {fault['fault']}\n{fault['details']}\n", err=True)
    if out is not None:
        record(out, found)
    sys.exit(bool(found["faults"]))


if __name__ == "__main__":
    main()
