"""Soak test: score with each file for minutes. Scores, memory and open files stay the same."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from ground import Ground
from outcome import Case

from edge_af.data import Features
from edge_af.data.dataset import open_dataset
from edge_af.runtime import load

GROWTH = 32 << 20
"""Allowed growth in bytes: allocators keep some memory."""
LOADS = 20
"""Average number of inferences per load."""


def tortured(ground: Ground, seconds: float) -> Iterator[Case]:
    """Score with each file of an export in turn, for `seconds` in total."""
    files = sorted(path for path in (ground / "artifacts").iterdir() if path.suffix in (".onnx", ".tflite"))
    data = open_dataset(ground / "eval")
    visual, audio = data.features(slice(None))
    draw = random.Random(0)
    for path in files:
        scorer = load(path)
        step = scorer.max_batch or len(visual)
        whole = np.concatenate(
            [
                scorer.score(Features(visual[at : at + step], audio[at : at + step]))
                for at in range(0, len(visual), step)
            ]
        )
        count, loads, fault = 0, 1, None
        for _ in range(50):
            scorer = load(path)
        before, handles = _resident(), _handles()
        until = time.monotonic() + seconds / len(files)
        while time.monotonic() < until and fault is None:
            if draw.random() < 1 / LOADS:
                scorer, loads = load(path), loads + 1
            at = draw.randrange(len(visual))
            some = slice(at, at + min(scorer.max_batch or 16, draw.choice((1, 1, 4, 16))))
            scores = scorer.score(Features(visual[some], audio[some]))
            count += len(scores)
            if not np.allclose(scores, whole[some], rtol=0, atol=1e-6):
                fault = f"different scores at inference {count}"
        if fault is None and _resident() > before + GROWTH:
            fault = f"memory grew by {(_resident() - before) >> 20} MB"
        if fault is None and _handles() > handles:
            fault = f"{_handles() - handles} more open files"
        yield Case(
            "soak",
            path.name,
            "the same scores" if fault is None else "fault",
            fault,
            f"{count:,} videos, {loads:,} loads",
        )


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _handles() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))
