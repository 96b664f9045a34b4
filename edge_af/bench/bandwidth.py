"""Memory bandwidth of this machine: the limit that no inference of one video can beat.

Such an inference reads every weight once and does little with it, so that reading them is the least it must take. Measured
with numpy alone: the maximum over a block of float32 does one vector instruction a cache line or so, and releases Python's
lock, so that several threads read at once.

`python -m edge_af.bench.bandwidth PARENT THREADS:BYTES…` prints a JSON list of `results.Bandwidth`, and ends with the process
PARENT.
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
"""Duration of reading each buffer; three passes at least."""

BLOCK = 2**20
"""Values read by one call: 4 MiB, long enough that Python's own time does not count."""


def measure_bandwidth(threads: int, buffer_bytes: int) -> Bandwidth:
    """Read a buffer from end to end, again and again; the fastest pass counts.

    Raises:
        MemoryError: there is not so much memory.
    """
    buffer = np.ones(max(buffer_bytes // 4, threads), np.float32)
    parts = np.array_split(buffer, threads)
    # A pass over a small buffer is many times through it, for the clock's and the threads' sake.
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
    """Sizes to read: one beyond the caches, and as many bytes as each network's weights; as far as memory allows."""
    allowed = (available_memory() or 2**30) // 4
    large = min(max(4 * (cache_bytes or 0), 2**28), allowed)
    return sorted({large, *(size for size in weights if 0 < size <= allowed)})


def measure_apart(threads: Sequence[int], sizes: Sequence[int]) -> list[Bandwidth]:
    """Each size with each number of threads, in a process of its own; empty if that fails."""
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
    """Measure what the command line asks for; what does not fit is left out."""
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
