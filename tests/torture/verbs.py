"""Verbs that write an output."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ground import Ground, tree

Facts = dict[str, str]
"""Reproducible facts about an output, by file."""


def _bytes(place: Path) -> Facts:
    return tree(place)


def _weights(place: Path) -> Facts:
    """Return the checksums of a run's weights; its other files contain times."""
    return {name: value for name, value in tree(place).items() if name.startswith("weights-")}


def _rows(place: Path) -> Facts:
    """Return the reproducible fields of results: all but times and memory."""
    if not place.exists():
        return {}
    results = json.loads(place.read_text())
    kept = ("sha256", "runtime", "precision", "gap_at_20", "f1", "size_bytes", "error")
    rows = [{key: row.get(key) for key in kept} for row in results["rows"]]
    return {"rows": json.dumps(rows), "planned": str(results["rows_planned"])}


def _pairs(place: Path) -> Facts:
    if not place.exists():
        return {}
    return {"pairs": json.dumps([pair["status"] for pair in json.loads(place.read_text())["pairs"]])}


@dataclass(frozen=True)
class Verb:
    """Command that writes `out`, in a folder that contains `needs`."""

    name: str
    arguments: tuple[str, ...]
    needs: tuple[str, ...]
    """Names in the ground; they are linked, not copied."""
    out: str = "out"
    again: tuple[str, ...] = ()
    """Arguments that resume, or overwrite an earlier output."""
    facts: Callable[[Path], Facts] = _bytes
    failed: Facts | None = None
    """Facts about an output that reports a failed measurement."""
    goes_on: bool = False
    """True if `out` holds unfinished work to resume from."""


_TRAIN = ("train", "--model", "fc-late-fusion", "--preset", "linear", "--data", "train", "--epochs", "4")
_FILE = "artifacts/fc-late-fusion-int8.onnx"
VERBS = (
    Verb("data synth", ("data", "synth", "out", "--videos-train", "3000", "--videos-eval", "500", "--classes", "24"), (),
         again=("--overwrite",)),
    Verb("data prepare", ("data", "prepare", "raw/train", "--classes", "24", "--out", "out"), ("raw",),
         again=("--overwrite",)),
    Verb("data sample", ("data", "sample", "train", "--videos", "200", "--out", "out"), ("train",), again=("--overwrite",)),
    Verb("train", (*_TRAIN, "--checkpoint-steps", "2", "--out", "out"), ("train",), again=("--resume",),
         facts=_weights, goes_on=True),
    Verb("export", ("export", "run", "--int8", "--int4", "--calibration-data", "train", "--calibration-videos", "32",
                    "--out", "out"), ("run", "train"), again=("--overwrite",)),
    Verb("bench", ("bench", "artifacts", "--data", "eval", "--runs", "3", "--rounds", "1", "--out", "out"),
         ("artifacts", "eval"), facts=_rows, goes_on=True),
    Verb("compare", ("compare", _FILE, _FILE, "--data", "eval", "--out", "out"), ("artifacts", "eval"), facts=_pairs,
         failed={"pairs": '["invalid"]'}),
    Verb("report page", ("report", "results.json", "--html", "out"), ("results.json",)),
    Verb("report table", ("report", "results.json", "--markdown", "out"), ("results.json",)),
    Verb("bundle", ("bundle", "artifacts", "--out", "out"), ("artifacts",), again=("--overwrite",)),
    Verb("verify", ("verify", "bundle.zip", "--signers", "signers", "--out", "out"), ("bundle.zip", "signers"),
         again=("--overwrite",)),
)  # fmt: skip


def lay_out(ground: Ground, verb: Verb, place: Path) -> None:
    """Link what a verb needs into an empty folder."""
    for name in verb.needs:
        (place / name).symlink_to(ground / name)


def put_back(saved: Path, out: Path) -> None:
    """Copy an earlier output."""
    if saved.is_dir():
        shutil.copytree(saved, out)
    else:
        shutil.copy2(saved, out)
