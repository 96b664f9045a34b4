"""`edge-af export`: turn a trained network into ONNX and TFLite files."""

from __future__ import annotations

import dataclasses
import json
import resource
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from edge_af.cli.build import path_argument, verb
from edge_af.cli.next_step import suggest, unused
from edge_af.console import line_width, tell
from edge_af.data.dataset import is_dataset
from edge_af.export.options import ExportOptions

if TYPE_CHECKING:
    from edge_af.artifacts import Manifest


@verb(
    ExportOptions,
    run_folder=path_argument("RUN"),
    example="edge-af export runs/attend-fusion --int8 --calibration-data prepared/train --out artifacts/attend-fusion",
)
def command(run_folder: Path, options: ExportOptions) -> None:
    """Turn a trained network into ONNX and TFLite files with a manifest and a model card.

    RUN is a folder that `edge-af train` wrote. Static activations need --calibration-data, the run's training data; videos
    held out in training are not used. Every file is loaded and checked before the folder is kept.
    """
    started = time.monotonic()
    from edge_af.export.default_recipes import recipes_of
    from edge_af.export.videos import calibration_of, gate_of
    from edge_af.models.run import load_network, load_run

    out, run = options.out, load_run(run_folder)
    recipes = recipes_of(options, run)
    calibration, gate = calibration_of(options, run_folder, run), gate_of(options, run)
    # Import torch, which takes seconds, only after checking the options.
    from edge_af.export.pipeline import ExportRequest, export_network
    from edge_af.export.to_onnx import this_cpu

    manifest = export_network(
        # Not kept in a variable, so that its memory is freed after tracing.
        load_network(run_folder)[1],
        run,
        out,
        ExportRequest(
            formats=options.formats,
            recipes=recipes,
            calibration=calibration,
            ranges_file=options.ranges,
            gate=gate,
            sensitivity_videos=options.sensitivity_videos,
            cpu=options.cpu or (this_cpu() if recipes.get("onnx") else "x86-64"),
            integer_io=options.io == "int8",
            license=options.license,
            overwrite=options.overwrite,
        ),
    )
    seconds, peak = time.monotonic() - started, _peak_memory_bytes()
    if options.json:
        fields = {name: value for name, value in dataclasses.asdict(manifest).items() if name != "class_names"}
        tell(json.dumps({"out": str(out), **fields, "seconds": seconds, "peak_memory_bytes": peak}))
        return
    tell(f"{out}: {manifest.model} ({manifest.preset}), {manifest.classes:,} classes, {manifest.params:,} parameters")
    for line in _table(manifest):
        tell(line)
    if manifest.calibration is not None:
        found = manifest.calibration
        tell(f"ranges: {found.method}, on {found.videos:,} videos of {found.data}, SHA-256 {found.sha256[:12]}…")
    tell(f"{seconds:.1f} s, peak memory {peak / 2**20:,.0f} MiB")
    suggest("bench", out, *_evaluation_data(options), "--out", unused(Path("results.json")))


def _evaluation_data(options: ExportOptions) -> tuple[object, ...]:
    """Name the evaluation data in `--data`, if it lies beside the calibration data under its usual name."""
    beside = options.calibration_data.parent / "eval" if options.calibration_data is not None else None
    return ("--data", beside) if beside is not None and is_dataset(beside) else ()


def _table(manifest: Manifest) -> list[str]:
    from edge_af.report.tables import aligned

    gated = any(file.gate is not None for file in manifest.files)
    head: tuple[str, ...] = ("file", "bytes", "recipe", "integer layers", "float layers", "integer share")
    head += ("largest score difference", *(("GAP@20 change",) if gated else ()))
    rows: list[tuple[str, ...]] = [
        (
            file.path,
            f"{file.size_bytes:,}",
            (file.recipe or "-") + (f" ({file.cpu})" if file.cpu else ""),
            str(file.integer_layers),
            str(file.float_layers),
            f"{file.integer_share:.1%}",
            f"{file.max_difference:.1e}",
            *((f"{-file.gate.gap_at_20_drop:+.5f}" if file.gate is not None else "-",) if gated else ()),
        )
        for file in manifest.files
    ]
    return aligned([head, *rows], (0, 2), line_width())


def _peak_memory_bytes() -> int:
    """Return the peak memory of this process."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
