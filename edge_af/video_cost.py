"""Cost of turning a video into features: measured on this machine, or counted on an emulated board.

`python -m edge_af.video_cost` extracts the start of a video in a process of its own. It reads a JSON object from standard
input and prints one.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from edge_af.emulation.boards import Board
from edge_af.emulation.counts import build_plugin, counts_between
from edge_af.emulation.guest import mark
from edge_af.emulation.latency_model import modeled_latency
from edge_af.emulation.setup import find_system, guest_packages
from edge_af.errors import EdgeAfError
from edge_af.features.extract import Cost, Extraction
from edge_af.features.extractor import load_extractor
from edge_af.features.video import pyav
from edge_af.records.results import STAGES, ExtractionCost, Instructions, StageCost
from edge_af.subprocesses import signal_in_words

MODULE = ("-m", "edge_af.video_cost")
ROUNDS = 3
TIMEOUT_SECONDS = 600.0
MOST_SECONDS, COUNTED_SECONDS = 60.0, 3.0
"""Seconds of a video that are extracted here, and on an emulated board."""


def cost_here(video: Path, extractor: str, every: float) -> ExtractionCost:
    """Measure the processor time of each stage on one thread: the median of `ROUNDS` processes.

    Raises:
        EdgeAfError: the video or the extractor cannot be read, or PyAV is missing.
    """
    job = {"video": str(video), "extractor": extractor, "every": every, "seconds": MOST_SECONDS, "marked": False}
    command = [sys.executable, "-P", *MODULE]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    found = [_run(command, job, environment) for _ in range(ROUNDS)]
    stages = [StageCost(stage, processor_ms=median(one["cost"][stage] for one in found)) for stage in STAGES]
    return _record(found[0], extractor, every, stages)


def cost_on(board: Board, video: Path, extractor: str, every: float) -> ExtractionCost:
    """Count the instructions of each stage on an emulated board, and model its processor time.

    Raises:
        EdgeAfError: see `cost_here`; or emulation is not set up.
    """
    system, plugin = find_system(), build_plugin()
    packages = guest_packages(f"av=={pyav().__version__}")
    job = {
        "video": str(video.resolve()),
        "extractor": str(Path(extractor).resolve()) if Path(extractor).is_dir() else extractor,
        "every": every,
        "seconds": COUNTED_SECONDS,
        "marked": True,
    }
    with tempfile.TemporaryDirectory(prefix="edge-af-counts-") as folder:
        out = Path(folder) / "counts.jsonl"
        variables = {
            "EDGE_AF_COUNTS": str(out),
            "EDGE_AF_CACHE_BYTES": str(board.profile.last_level_cache_bytes),
            "PYTHONPATH": f"{system.python_path}:{packages}",
        }
        found = _run(system.command(board, MODULE, plugin=plugin, variables=variables), job)
        text = out.read_text(encoding="utf-8") if out.is_file() else ""
    stages = []
    for stage in STAGES:
        counts = counts_between(text, found["marks"][stage])
        a_second = Instructions(**{name: round(value / found["seconds"]) for name, value in counts.items()})
        stages.append(StageCost(stage, instructions=a_second, modelled_ms=modeled_latency(a_second, board.profile)))
    return _record(found, extractor, every, stages)


def _record(found: Mapping[str, Any], extractor: str, every: float, stages: list[StageCost]) -> ExtractionCost:
    facts = {name: found[name] for name in ("width", "height", "codec", "seconds", "extractor")}
    return ExtractionCost(video=Path(found["video"]).name, every=every, stages=stages, **facts)


def _run(
    command: Sequence[str], job: Mapping[str, Any], environment: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Run this module in a process of its own, and return what it found."""
    try:
        done = subprocess.run(
            command,
            input=json.dumps(job),
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            env=environment,
            timeout=TIMEOUT_SECONDS,
        )
    except subprocess.TimeoutExpired:
        raise EdgeAfError(
            f"{job['video']}: its features took more than {TIMEOUT_SECONDS:.0f} s. Name a shorter video."
        ) from None
    last = (done.stdout.splitlines() or [""])[-1]
    if done.returncode or not last.startswith("{"):
        line = (done.stderr.strip().splitlines() or ["no message"])[-1]
        why = signal_in_words(-done.returncode, line)[1] if done.returncode < 0 else line
        raise EdgeAfError(f"{job['video']}: its features could not be extracted ({why}).")
    found: dict[str, Any] = json.loads(last)
    if "error" in found:
        raise EdgeAfError(found["error"])
    return found


@dataclass
class _Marks(Cost):
    """Marks for the plugin at both ends of each part of a stage."""

    pairs: dict[str, list[tuple[int, int]]] = field(default_factory=lambda: {stage: [] for stage in STAGES})
    last: int = 0

    @contextlib.contextmanager
    def during(self, stage: str) -> Iterator[None]:
        first = self.last + 1
        self.last += 2
        mark(first)
        yield
        mark(first + 1)
        self.pairs[stage].append((first, first + 1))


def _extract(job: Mapping[str, Any]) -> dict[str, Any]:
    """Extract the first seconds of a video on one thread."""
    cost = _Marks() if job["marked"] else Cost()
    extractor = load_extractor(job["extractor"])
    extraction = Extraction(job["video"], extractor, every=job["every"], cost=cost)
    leading = "visual" if extraction.has_video else "audio"
    for one in extraction:
        if one.modality == leading and one.time >= job["seconds"]:
            break
    seconds = extraction.decoded.seconds
    if not seconds:
        raise EdgeAfError(f"{job['video']}: is too short to measure its cost.")
    width, height = extraction.video.source_size
    times = {} if isinstance(cost, _Marks) else asdict(cost)
    return {
        "video": job["video"],
        "extractor": extractor.description.name,
        "width": width,
        "height": height,
        "codec": extraction.video.codec,
        "seconds": seconds,
        "cost": {stage: 1e3 * value / seconds for stage, value in times.items()},
        "marks": cost.pairs if isinstance(cost, _Marks) else {},
    }


def main() -> None:
    """Do the job on standard input."""
    try:
        found = _extract(json.loads(sys.stdin.read()))
    except EdgeAfError as error:
        found = {"error": str(error)}
    sys.stdout.write(json.dumps(found) + "\n")
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
