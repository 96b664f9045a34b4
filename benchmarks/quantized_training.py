"""Measure what quantization-aware training recovers of the accuracy that rounding to few bits loses.

    python -m benchmarks.quantized_training runs/attend-fusion-18m --teacher runs/attend-fusion-18m \\
        --data runs/data --work runs/quantized --out benchmarks/results/quantized-training

exports the run by each recipe, with round-to-nearest and with GPTQ, fine-tunes it with each recipe and once without any,
exports the results, and measures every file on the evaluation videos. Finished steps are kept when started again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from benchmarks.verbs import edge_af, is_exported, made_by, paragraph, record
from edge_af.artifacts import read_manifest
from edge_af.data.dataset import open_dataset
from edge_af.files import write_atomic, write_json
from edge_af.metrics import gap_at_20
from edge_af.metrics.bootstrap import interval, outcomes, resampled_gap
from edge_af.report.columns import signed
from edge_af.runtime import load, score_all

RECIPES = {
    "int4-dynamic": "int4-dynamic-gptq-corrected",
    "int4-block32-dynamic": "int4-block32-dynamic-gptq-corrected",
    "int2-block64-dynamic": "int2-block64-dynamic-gptq-corrected",
}
"""Recipe, and the same with GPTQ."""


@dataclass(frozen=True)
class Measured:
    """GAP@20 of a file on the evaluation videos."""

    gap: float
    resampled: NDArray[np.float64]
    """(resamples,), of a bootstrap over the videos."""


@click.command(help=(__doc__ or "").splitlines()[0])
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--teacher", "teachers", multiple=True, type=click.Path(path_type=Path), help="Teacher run; repeatable.")
@click.option("--data", type=click.Path(path_type=Path), required=True, help="Folder with prepared train/ and eval/.")
@click.option("--work", type=click.Path(path_type=Path), required=True, help="Folder for runs and exports.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Writes OUT.json and OUT.md.")
@click.option("--epochs", default=4, show_default=True, help="Epochs of each fine-tuning.")
@click.option("--lr", default=3e-4, show_default=True, help="Its peak learning rate.")
def main(run: Path, teachers: Sequence[Path], data: Path, work: Path, out: Path, epochs: int, lr: float) -> None:
    plain = _exported(run, work / "plain", [name for pair in RECIPES.items() for name in pair], data)
    reference = _measured(plain / _file(plain, None), data)
    rows = [_row("FP32", "none", plain, None, reference, data)]
    for recipe, gptq in RECIPES.items():
        rows.append(_row(recipe, "nearest", plain, recipe, reference, data))
        rows.append(_row(recipe, "GPTQ", plain, gptq, reference, data))
        tuned = _tuned(run, work, recipe, teachers, data, ("--epochs", epochs, "--lr", lr))
        rows.append(
            _row(
                recipe, "training", _exported(tuned, work / f"tuned-{recipe}", [recipe], data), recipe, reference, data
            )
        )
    more = _tuned(run, work, None, teachers, data, ("--epochs", epochs, "--lr", lr))
    rows.append(_row("FP32", "more training", _exported(more, work / "more", [], data), None, reference, data))
    found = {
        **record("quantized_training"),
        "preset": read_manifest(plain).preset,
        "params": read_manifest(plain).params,
        "rows": rows,
    }
    write_json(out.with_suffix(".json"), found)
    write_atomic(out.with_suffix(".md"), markdown(found))


def _tuned(
    run: Path, work: Path, recipe: str | None, teachers: Sequence[Path], data: Path, how: tuple[Any, ...]
) -> Path:
    out = work / f"run-{recipe or 'more'}"
    flags: list[Any] = ["--quantize", recipe] if recipe is not None else []
    if teachers:
        flags += [word for teacher in teachers for word in ("--teacher", teacher)]
        flags += ["--mixup", 1, "--teacher-weight", 1, "--dropout", 0]
    edge_af("train", "--init", run, *flags, *how, "--data", data / "train", "--out", out, "--resume")
    return out


def _exported(run: Path, out: Path, recipes: list[str], data: Path) -> Path:
    if not is_exported(run, out):
        flags = [word for name in recipes for word in ("--recipe", name)]
        calibration = ("--calibration-data", data / "train", "--any-calibration-data", "--sensitivity-videos", 0)
        edge_af("export", run, "--format", "onnx", *flags, *calibration, "--overwrite", "--out", out)
    return out


def _file(folder: Path, recipe: str | None) -> str:
    return next(file.path for file in read_manifest(folder).files if file.recipe == recipe)


def _measured(path: Path, data: Path) -> Measured:
    dataset = open_dataset(data / "eval")
    scores, labels = score_all(load(path), dataset.stored), dataset.labels(slice(None))
    return Measured(gap_at_20(scores, labels), resampled_gap(outcomes(scores, labels, 0.5)))


def _row(recipe: str, rounding: str, folder: Path, name: str | None, reference: Measured, data: Path) -> dict[str, Any]:
    path = folder / _file(folder, name)
    found = _measured(path, data)
    return {
        "recipe": recipe,
        "rounding": rounding,
        "size_bytes": path.stat().st_size,
        "gap_at_20": found.gap,
        "to_fp32": found.gap - reference.gap,
        "interval": list(interval(found.resampled - reference.resampled)),
    }


def markdown(found: dict[str, Any]) -> str:
    """Return the table, with the share of the loss of round-to-nearest that each row recovers."""
    lines = [
        "| recipe | rounding | MB | GAP@20 | to FP32 | 95 % | recovered |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    lost = {row["recipe"]: row["to_fp32"] for row in found["rows"] if row["rounding"] == "nearest"}
    for row in found["rows"]:
        before = lost.get(row["recipe"])
        share = f"{1 - row['to_fp32'] / before:.0%}" if before and row["rounding"] != "nearest" else ""
        low, high = map(signed, row["interval"])
        lines.append(
            f"| {row['recipe']} | {row['rounding']} | {row['size_bytes'] / 1e6:.2f} | {row['gap_at_20']:.4f} "
            f"| {signed(row['to_fp32'])} | {low} to {high} | {share} |"
        )
    about = "ONNX files on the evaluation videos. `more training` is fine-tuned in the same way without a recipe."
    lines += ["", *paragraph(f"{about} Recovered: the share of the loss of round-to-nearest.")]
    lines += ["", *paragraph(f"{made_by(found)} Videos are YouTube-8M's (Google LLC, CC BY 4.0).")]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
