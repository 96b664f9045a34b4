"""Run one peer inside its own virtual environment: export a network, or load it and answer orders.

    python harness.py PEER.py export WAY SOURCE OUT
    python harness.py PEER.py serve WAY SOURCE OUT THREADS

It imports nothing of edge-af. `serve` reads one JSON order per line: {"time": count} returns nanoseconds, {"score": file}
writes the scores of the evaluation videos. Answers are JSON lines on file descriptor 3.
"""

from __future__ import annotations

import importlib.util
import json
import os
import resource
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

INPUTS = 64
"""Different videos that timed inferences cycle through."""


def peak_bytes() -> int:
    """Return the largest memory of this process, or of a child that has ended."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith("VmHWM"):
            return max(children, int(line.split()[1]) * 1024)
    return children


def videos(source: Path, name: str) -> tuple[Any, Any]:
    """Return visual (n, 1024) and audio (n, 128) features, float32."""
    with np.load(source / f"{name}.npz") as arrays:
        return arrays["visual"], arrays["audio"]


def main() -> None:
    """Do what the command line says."""
    answers = os.fdopen(3, "w", encoding="utf-8")

    def tell(**value: Any) -> None:
        answers.write(json.dumps(value) + "\n")
        answers.flush()

    peer_file, action, way, source, out, *more = sys.argv[1:]
    spec = importlib.util.spec_from_file_location("peer", peer_file)
    assert spec is not None and spec.loader is not None
    peer = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(peer)
    try:
        if action == "export":
            started = time.perf_counter()
            peer.export(way, Path(source), Path(out))
            tell(seconds=time.perf_counter() - started, peak_bytes=peak_bytes())
            return
        threads = int(more[0])
        if threads == 1:  # Some tools ignore the number of threads.
            os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
        started = time.perf_counter()
        score = peer.load(way, Path(source), Path(out), threads)
        tell(load_ms=1e3 * (time.perf_counter() - started))
        serve(score, Path(source), tell, getattr(peer, "BATCH", 1))
    except Exception as error:  # A peer that fails is a row with its error.
        tell(error=f"{type(error).__name__}: {' '.join(str(error).split())[:300]}")
    answers.flush()
    os._exit(0)


def serve(score: Any, source: Path, tell: Any, batch: int) -> None:
    """Answer orders until the input ends."""
    visual, audio = videos(source, "eval")
    pairs = [(visual[at : at + 1].copy(), audio[at : at + 1].copy()) for at in range(INPUTS)]
    clock = time.perf_counter_ns
    for line in sys.stdin:
        order = json.loads(line)
        if "time" in order:
            taken = []
            for at in range(order["time"]):
                one = pairs[at % INPUTS]
                started = clock()
                score(*one)
                taken.append(clock() - started)
            tell(nanoseconds=taken, peak_bytes=peak_bytes())
        else:
            parts = [
                np.asarray(score(visual[at : at + batch], audio[at : at + batch]), np.float32).reshape(
                    len(visual[at : at + batch]), -1
                )
                for at in range(0, len(visual), batch)
            ]
            np.save(order["score"], np.concatenate(parts))
            tell(scored=len(visual))


if __name__ == "__main__":
    main()
