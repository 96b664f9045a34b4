"""The verbs that write, each with what it leaves behind."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ground import Ground, tree

Facts = dict[str, str]
"""What is the same however often the verb runs, of each file it writes."""


def _bytes(place: Path) -> Facts:
    return tree(place)


def _weights(place: Path) -> Facts:
    """Of a run: all else holds times."""
    return {name: value for name, value in tree(place).items() if name.startswith("weights-")}


def _rows(place: Path) -> Facts:
    """Of results: what was measured of which file, but for times and memory."""
    if not place.exists():
        return {}
    results = json.loads(place.read_text())
    kept = ("sha256", "runtime", "precision", "gap_at_20", "f1", "size_bytes", "error")
    rows = [{key: row.get(key) for key in kept} for row in results["rows"]]
    return {"rows": json.dumps(rows), "planned": str(results["rows_planned"])}


def _pairs(place: Path) -> Facts:
    return (
        {"pairs": json.dumps([pair["status"] for pair in json.loads(place.read_text())["pairs"]])}
        if place.exists()
        else {}
    )


@dataclass(frozen=True)
class Verb:
    """A verb that writes to OUT, in a folder where `needs` are."""

    name: str
    arguments: tuple[str, ...]
    needs: tuple[str, ...]
    """Of the ground; linked, not copied."""
    out: str = "out"
    again: tuple[str, ...] = ()
    """What is added to go on, or over what stands there."""
    facts: Callable[[Path], Facts] = _bytes
    goes_on: bool = False
    """Whether what is half done stands in OUT itself, to be gone on with."""


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
    Verb("compare", ("compare", _FILE, _FILE, "--data", "eval", "--out", "out"), ("artifacts", "eval"), facts=_pairs),
    Verb("report page", ("report", "results.json", "--html", "out"), ("results.json",)),
    Verb("report table", ("report", "results.json", "--markdown", "out"), ("results.json",)),
    Verb("bundle", ("bundle", "artifacts", "--out", "out"), ("artifacts",), again=("--overwrite",)),
    Verb("verify", ("verify", "bundle.zip", "--signers", "signers", "--out", "out"), ("bundle.zip", "signers"),
         again=("--overwrite",)),
)  # fmt: skip


def lay_out(ground: Ground, verb: Verb, place: Path) -> None:
    """Put what a verb needs into an empty folder."""
    for name in verb.needs:
        (place / name).symlink_to(ground / name)


def put_back(saved: Path, out: Path) -> None:
    """A copy of an earlier output."""
    if saved.is_dir():
        shutil.copytree(saved, out)
    else:
        shutil.copy2(saved, out)
