"""Measure this machine's memory bandwidth, which sets a lower bound on the latency of one video.

Inference of one video reads every weight once and does little work per weight. It takes at least as long as reading them. Only
numpy is needed: the maximum over a block of float32 takes about one vector instruction per cache line and releases Python's
lock, so several threads can read at once.

`python -m edge_af.bench.bandwidth PARENT THREADS:BYTES…` prints a JSON list of `results.Bandwidth`, and exits if the process
PARENT does.
"""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from edge_af.machine.conditions import available_memory
from edge_af.records.results import Bandwidth
from edge_af.subprocesses import die_with_parent, environment

SECONDS = 0.4
"""Seconds to keep reading each buffer, and at least three passes."""

BLOCK = 2**20
"""Values read per call: 4 MiB, large enough to make Python's overhead negligible."""


def measure_bandwidth(threads: int, buffer_bytes: int) -> Bandwidth:
    """Read a buffer repeatedly from end to end; the fastest pass counts.

    Raises:
        MemoryError: the buffer does not fit into memory.
    """
    buffer = np.ones(max(buffer_bytes // 4, threads), np.float32)
    parts = np.array_split(buffer, threads)
    # A pass reads a small buffer many times, to limit the effect of clock resolution and thread startup.
    times = max(1, 2**26 // buffer.nbytes)

    def read(part: np.ndarray) -> None:
        for _ in range(times):
            for start in range(0, len(part), BLOCK):
                part[start : start + BLOCK].max()

    best, passes, end = float("inf"), 0, time.perf_counter() + SECONDS
    with ThreadPoolExecutor(threads) as pool:
        while passes < 3 or time.perf_counter() < end:
            started = time.perf_counter()
            list(pool.map(read, parts))
            best = min(best, time.perf_counter() - started)
            passes += 1
    return Bandwidth(threads, buffer.nbytes, round(times * buffer.nbytes / best, 0))


def buffers(weights: Sequence[int], cache_bytes: int | None) -> list[int]:
    """Return the buffer sizes to read: one beyond the caches, and each network's weight bytes if they fit into memory."""
    allowed = (available_memory() or 2**30) // 4
    large = min(max(4 * (cache_bytes or 0), 2**28), allowed)
    return sorted({large, *(size for size in weights if 0 < size <= allowed)})


def measure_apart(threads: Sequence[int], sizes: Sequence[int]) -> list[Bandwidth]:
    """Measure each size with each number of threads in a separate process; empty if that fails."""
    wanted = [f"{count}:{size}" for count in threads for size in sizes]
    command = [sys.executable, "-P", "-m", "edge_af.bench.bandwidth", str(os.getpid()), *wanted]
    try:
        done = subprocess.run(
            command, env=environment(), capture_output=True, encoding="utf-8", errors="replace", check=True, timeout=600
        )
        return [Bandwidth(**one) for one in json.loads(done.stdout)]
    except (OSError, subprocess.SubprocessError, ValueError, TypeError):
        return []


def main() -> None:
    """Measure the sizes on the command line, skipping those that do not fit into memory."""
    parent, *asked = sys.argv[1:]
    die_with_parent(int(parent))
    found = []
    for wanted in asked:
        threads, size = map(int, wanted.split(":"))
        try:
            found.append(dataclasses.asdict(measure_bandwidth(threads, size)))
        except MemoryError:
            continue
    sys.stdout.write(json.dumps(found))


if __name__ == "__main__":
    main()
