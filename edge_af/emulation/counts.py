"""Instruction counts of an inference on a board, by class, from a QEMU plugin that is built on first use."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from edge_af.bench.process import run_worker
from edge_af.documents import parse_json
from edge_af.emulation.boards import Board, parse_emulated
from edge_af.emulation.guest import COUNTED, GuestJob
from edge_af.emulation.setup import System, cache_folder, find_system
from edge_af.errors import EdgeAfError
from edge_af.files import atomic_path, package_data, sha256_json
from edge_af.records.results import OK, Instructions, Method
from edge_af.runtime import runtime_of

GUEST = ("-m", "edge_af.emulation.guest")


def instruction_counts(path: str | Path, cpu: str = "pi5", *, timeout_seconds: float = 600.0) -> Instructions:
    """Count the instructions of one inference of one video, on one thread.

    Args:
        path: an ONNX or TFLite file.
        cpu: a board: `pi5`, `pi4`, `pi3` or `zero2w`.
        timeout_seconds: timeout for counting.

    Raises:
        EdgeAfError: emulation is not set up, the plugin cannot be built, or the file does not run.
    """
    path, board = Path(path), parse_emulated(f"emulated:{cpu}")
    job = guest_job(path, runtime_of(path), timeout_seconds)
    found = count(job, board, find_system())
    if found["status"] != OK:
        raise EdgeAfError(f"{path}: under emulation as {cpu}: {found['reason']}")
    return Instructions(**found["instructions"])


def guest_job(path: Path, runtime: str, timeout_seconds: float, **more: Any) -> GuestJob:
    """Create a job for the guest; without `more`, it counts."""
    method = Method(inferences=COUNTED, seconds=None, timeout_seconds=timeout_seconds)
    settings = {"data": None, "f1_threshold": 0.5, **more}
    return GuestJob(path=str(path.resolve()), runtime=runtime, threads=1, method=method, **settings)


def count(
    job: GuestJob, board: Board, system: System, on_stage: Callable[[str], None] = lambda stage: None
) -> dict[str, Any]:
    """Count and return fields of `Row`: `status` and `reason`, and on success `instructions` as a dictionary.

    Raises:
        EdgeAfError: the plugin cannot be built, or counted nothing.
    """
    plugin = build_plugin()
    with tempfile.TemporaryDirectory(prefix="edge-af-counts-") as folder:
        out = Path(folder) / "counts.jsonl"
        variables = {"EDGE_AF_COUNTS": str(out), "EDGE_AF_CACHE_BYTES": str(board.profile.last_level_cache_bytes)}
        command = system.command(board, GUEST, plugin=plugin, variables=variables)
        found = run_worker(job, command=command, on_stage=on_stage)
        if found["status"] != OK:
            return found
        text = out.read_text(encoding="utf-8") if out.is_file() else ""
    return {**found, "instructions": parse_counts(text)[-1]}


def parse_counts(text: str) -> list[dict[str, int]]:
    """Compute the counts of each counted inference from the plugin's output.

    Raises:
        EdgeAfError: marks are missing.
    """
    return [counts_between(text, [(number, number + 1)]) for number in range(1, 1 + COUNTED)]


def counts_between(text: str, pairs: Sequence[tuple[int, int]]) -> dict[str, int]:
    """Add up the counts between pairs of marks in the plugin's output.

    Raises:
        EdgeAfError: marks are missing.
    """
    try:
        marks = {line.pop("mark"): line for line in map(parse_json, text.splitlines())}
        names = [field.name for field in fields(Instructions)]
        return {name: sum(marks[after][name] - marks[before][name] for before, after in pairs) for name in names}
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise EdgeAfError(
            f"QEMU's plugin did not write the expected counts ({error!r}); is this QEMU built without plugins?"
        ) from None


def build_plugin() -> Path:
    """Return the plugin, compiled from its source on first use.

    Raises:
        EdgeAfError: the C compiler is missing or fails.
    """
    source = package_data("emulation", "plugin.c").read_text(encoding="utf-8")
    library = cache_folder() / "plugins" / f"{sha256_json(source)[:16]}.so"
    if library.is_file():
        return library
    compiler = next(filter(None, map(shutil.which, [os.environ.get("CC") or "cc", "gcc", "clang"])), None)
    if compiler is None:
        raise EdgeAfError(
            "counting instructions needs a C compiler once, to build QEMU's plugin: sudo apt install gcc libc6-dev"
        )
    with atomic_path(library) as path, tempfile.TemporaryDirectory(prefix="edge-af-plugin-") as folder:
        given = Path(folder) / "plugin.c"
        given.write_text(source, encoding="utf-8")
        command = [compiler, "-O2", "-shared", "-fPIC", "-o", str(path), str(given)]
        done = subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace")
        if done.returncode:
            wrong = [line for line in done.stderr.splitlines() if "error" in line] or ["no message"]
            raise EdgeAfError(
                f"{compiler} cannot build QEMU's plugin: {wrong[0]}\n"
                "It needs the C library's headers: sudo apt install gcc libc6-dev"
            )
    return library
