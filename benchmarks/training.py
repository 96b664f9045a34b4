"""Compare both networks at the paper's size with ablations, students, smaller presets and a linear model.

    python -m benchmarks.training --data ../shared/yt8m/rounded-2018 --more ../shared/yt8m/rounded-2018-more --work runs \\
        --out benchmarks/results/training

trains the missing networks (a day on two cores), measures each run once on the evaluation videos, and writes OUT.json and
OUT.md after each. An interrupted run continues when started again; recorded rows are not measured again.
"""

from __future__ import annotations

import argparse
import json
import shlex
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.verbs import commit, edge_af, paragraph, this_command
from edge_af.console import say
from edge_af.data.dataset import is_dataset
from edge_af.files import read_json, write_atomic, write_json
from edge_af.machine.device import this_device

SCHEMA_VERSION = 1
ATTEND, LATE = "attend-fusion", "fc-late-fusion"
CARE = ("--epochs", "8", "--batch", "256", "--lr", "1e-3")
"""Options for every network, after the search in `regularization.py`. The linear one and the small ones override the learning
rate: the linear one's held-out GAP@20 was 0.6547 with 1e-3, 0.6790 with 3e-3 and 0.6599 with 1e-2."""
TAUGHT = ("--mixup", "1", "--teacher-weight", "1")
STUDENT = (*TAUGHT, "--epochs", "15", "--lr", "3e-3", "--dropout", "0")
"""For the small presets, which need more passes and no dropout."""
SEEDS = {
    "Attend-Fusion": ("attend-fusion", "attend-fusion-seed1", "attend-fusion-seed2"),
    "FC Late Fusion": ("fc-late-fusion", "fc-late-fusion-seed1", "fc-late-fusion-seed2"),
    "Attend-Fusion 18M": tuple(f"attend-fusion-18m{end}" for end in ("", "-seed1", "-seed2", "-seed3")),
}
"""Rows of one network with different seeds. The last ones teach: they train in minutes and are as accurate as larger ones."""
TEACHERS = SEEDS["Attend-Fusion 18M"]
TABLE_COLUMNS = ("gap_at_20", "f1_micro", "f1_micro_at_half", "hit_at_1", "perr", "map")


@dataclass(frozen=True)
class Wanted:
    """A row of the table."""

    name: str
    """Name of the row and of the run's folder."""
    title: str
    model: str
    preset: str
    flags: tuple[str, ...] = ()
    teachers: tuple[str, ...] = ()
    """Names of the teacher runs."""
    init: str | None = None
    """Name of the run to start from."""

    def command(self, work: Path, train: Path) -> list[str]:
        """Return the command that trains it."""
        taught = [word for name in self.teachers for word in ("--teacher", str(work / name))]
        taught += ["--init", str(work / self.init)] if self.init is not None else []
        return [
            *("edge-af", "train", "--model", self.model, "--preset", self.preset, *CARE, *self.flags, *taught),
            *("--data", str(train), "--out", str(work / self.name), "--resume"),
        ]


ROWS = (
    Wanted("attend-fusion", "Attend-Fusion", ATTEND, "paper"),
    Wanted("attend-fusion-seed1", "Attend-Fusion, seed 1", ATTEND, "paper", ("--seed", "1")),
    Wanted("attend-fusion-seed2", "Attend-Fusion, seed 2", ATTEND, "paper", ("--seed", "2")),
    Wanted("fc-late-fusion", "FC Late Fusion", LATE, "paper"),
    Wanted("fc-late-fusion-seed1", "FC Late Fusion, seed 1", LATE, "paper", ("--seed", "1")),
    Wanted("fc-late-fusion-seed2", "FC Late Fusion, seed 2", LATE, "paper", ("--seed", "2")),
    Wanted("linear", "Linear model", LATE, "linear", ("--lr", "3e-3")),
    Wanted("attend-fusion-36m", "Attend-Fusion 36M", ATTEND, "36m"),
    *(
        Wanted(name, f"Attend-Fusion 18M, seed {seed}", ATTEND, "18m", ("--lr", "2e-3", "--seed", str(seed)))
        for seed, name in enumerate(TEACHERS)
    ),
    Wanted("distilled", "Attend-Fusion, taught by the four", ATTEND, "paper", (*TAUGHT, "--dropout", "0.2"), TEACHERS),
    Wanted(
        "distilled-further",
        "Attend-Fusion, taught further by the four and FC Late Fusion",
        ATTEND,
        "paper",
        (*TAUGHT, "--dropout", "0.2", "--epochs", "5", "--lr", "5e-4"),
        (*TEACHERS, "fc-late-fusion"),
        "distilled",
    ),
    Wanted("attend-fusion-9m", "Attend-Fusion 9M, taught by the four", ATTEND, "9m", STUDENT, TEACHERS),
    Wanted("attend-fusion-5m", "Attend-Fusion 5M, taught by the four", ATTEND, "5m", STUDENT, TEACHERS),
    Wanted("attend-fusion-2.5m", "Attend-Fusion 2.5M, taught by the four", ATTEND, "2.5m", STUDENT, TEACHERS),
    Wanted("attend-fusion-1m", "Attend-Fusion 1M, taught by the four", ATTEND, "1m", STUDENT, TEACHERS),
    Wanted("attend-fusion-700k", "Attend-Fusion 0.7M, taught by the four", ATTEND, "700k", STUDENT, TEACHERS),
    Wanted(
        "attend-fusion-700k-further",
        "Attend-Fusion 0.7M, taught further by the one above that was taught further",
        ATTEND,
        "700k",
        (*TAUGHT, "--epochs", "20", "--lr", "2e-3", "--dropout", "0"),
        ("distilled-further",),
        "attend-fusion-700k",
    ),
    Wanted("attend-fusion-1m-alone", "Attend-Fusion 1M, not taught", ATTEND, "1m", ("--lr", "3e-3")),
    Wanted("without-attention", "Attend-Fusion without attention", ATTEND, "paper", ("--ablate", "attention")),
    Wanted("without-audio", "Attend-Fusion without audio", ATTEND, "paper", ("--ablate", "audio")),
    Wanted("without-visual", "Attend-Fusion without visual", ATTEND, "paper", ("--ablate", "visual")),
)


def main() -> None:
    """Train, measure and record every row that is not recorded yet."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--data", type=Path, required=True, help="folder with train/ and eval/, as TFRecords or prepared data"
    )
    parser.add_argument("--more", type=Path, action="append", default=[], help="more training TFRecords; repeatable")
    parser.add_argument("--work", type=Path, required=True, help="folder for the prepared data and the runs")
    parser.add_argument("--out", type=Path, required=True, help="writes OUT.json and OUT.md")
    parser.add_argument(
        "--only", action="append", choices=[row.name for row in ROWS], help="make only this row; repeatable"
    )
    given = parser.parse_args()
    train = _prepared([given.data / "train", *given.more], given.work / "data" / "train")
    evaluation = _prepared([given.data / "eval"], given.work / "data" / "eval")
    path = given.out.with_suffix(".json")
    found: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "command": this_command("training"),
        "data": given.data.resolve().name,
        "rows": [],
    }
    if path.exists():
        found["rows"] = read_json(path, "file of results")["rows"]
    for wanted in ROWS:
        if (given.only and wanted.name not in given.only) or wanted.name in {row["name"] for row in found["rows"]}:
            continue
        found["rows"].append(_row(wanted, given.work, train, evaluation))
        write_json(path, found)
        write_atomic(given.out.with_suffix(".md"), markdown(found))
        say(f"recorded: {wanted.title} in {path}")


def _prepared(sources: list[Path], out: Path) -> Path:
    if len(sources) == 1 and is_dataset(sources[0]):
        return sources[0]
    if not is_dataset(out):
        edge_af("data", "prepare", *sources, "--out", out)
    return out


def _row(wanted: Wanted, work: Path, train: Path, evaluation: Path) -> dict[str, Any]:
    command = wanted.command(work, train)
    edge_af(*command[1:])
    folder = work / wanted.name
    run = read_json(folder / "run.json", "run")
    epochs = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    measured = json.loads(edge_af("eval", folder, "--data", evaluation, "--threads", 2, "--json"))
    speeds = [epoch["speed"] for epoch in epochs if epoch["speed"]]
    return {
        "name": wanted.name,
        "title": wanted.title,
        "command": shlex.join(command),
        "commit": commit(),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "device": asdict(this_device()),
        "compute": run["training"]["compute"],
        "params": run["params"],
        "classes": run["classes"],
        "seed": run["training"]["options"]["seed"],
        "epochs": len(epochs),
        "best_epoch": run["training"]["epoch"],
        "wall_s": epochs[-1]["seconds"],
        "videos_per_s": max(speed["videos_per_s"] for speed in speeds),
        "peak_share": max(speed["peak_share"] for speed in speeds),
        "data_wait_share": max(speed["data_wait_share"] for speed in speeds),
        "held_out_gap_at_20": run["training"]["held_out"]["gap_at_20"],
        **{key: measured[key] for key in ("videos", "f1_threshold", *TABLE_COLUMNS)},
    }


def markdown(found: dict[str, Any]) -> str:
    """Return the table in the order of `ROWS`, followed by the mean and range over seeds."""
    rows = {row["name"]: row for row in found["rows"]}
    ordered = [rows[wanted.name] for wanted in ROWS if wanted.name in rows]
    lines = [
        "| network | parameters | GAP@20 | F1 (threshold) | F1 at 0.5 | Hit@1 | PERR | mAP | epochs (best) | minutes |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for row in ordered:
        lines.append(
            f"| {row['title']} | {row['params'] / 1e6:.1f}M | {row['gap_at_20']:.4f} "
            f"| {row['f1_micro']:.4f} ({row['f1_threshold']:.3f}) | {row['f1_micro_at_half']:.4f} | {row['hit_at_1']:.4f} "
            f"| {row['perr']:.4f} | {row['map']:.4f} | {row['epochs']} ({row['best_epoch']}) | {row['wall_s'] / 60:.1f} |"
        )
    for title, seeds in SEEDS.items():
        gaps = [rows[name]["gap_at_20"] for name in seeds if name in rows]
        if len(gaps) == len(seeds):
            mean = sum(gaps) / len(gaps)
            lines += [
                "",
                f"{title} over {len(seeds)} seeds: GAP@20 {mean:.4f}, from {min(gaps):.4f} to {max(gaps):.4f}.",
            ]
    machines: dict[str, list[str]] = {}
    for row in ordered:
        where = f"{row['device']['cpu']}, {row['device']['cores']} cores, {row['compute']}"
        commits = machines.setdefault(where, [])
        if row["commit"] not in commits:
            commits.append(row["commit"])
    made = "; ".join(
        f"{where}, commit{'s' * (len(of) > 1)} {', '.join(map(str, of))}" for where, of in machines.items()
    )
    about = (
        f"Made by `{found['command']}` on {made}. {ordered[0]['videos']:,} evaluation videos of {found['data']}, "
        f"{ordered[0]['classes']:,} classes. Videos are YouTube-8M's (Google LLC, CC BY 4.0)."
    )
    lines += ["", *paragraph(about)]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
