"""Extract videos in a process of its own, so that a file that crashes FFmpeg or never ends costs only its own result.

`python -m edge_af.features.worker` reads the settings (a JSON line), then one JSON line {"source", "out"} for each video. It
writes the features to the file `out` and answers on a file descriptor: {"seconds"} now and then, then {"done"} or {"error"}.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from edge_af.errors import EdgeAfError
from edge_af.features.extract import Extraction, Part
from edge_af.features.extractor import Extractor, load_extractor
from edge_af.files import atomic_path
from edge_af.subprocesses import die_with_parent

NEWS_SECONDS = 0.5
MOST_FRAMES = 300
"""Seconds of frame-level features that are kept, as in YouTube-8M."""


def extract(
    source: str, out: Path, extractor: Extractor, every: float, threads: int, tell: Callable[[dict[str, Any]], None]
) -> None:
    """Write a video's features to an .npz file: `visual` and `audio`, the means, and `visual_frames` and `audio_frames`."""
    extraction = Extraction(source, extractor, every=every, threads=threads)
    frames: dict[str, list[Part]] = {"visual": [], "audio": []}
    told = time.monotonic()
    for part in extraction:
        if sum(one.count for one in frames[part.modality]) < MOST_FRAMES:
            frames[part.modality].append(part)
        if time.monotonic() - told >= NEWS_SECONDS:
            told = time.monotonic()
            tell({"seconds": part.time})
    means, decoded = extraction.features, extraction.decoded
    arrays = {"visual": means.visual[0], "audio": means.audio[0]}
    for name, parts in frames.items():
        vectors = np.array([one.vector for one in parts], np.float32).reshape(len(parts), extractor.widths.of(name))
        arrays[f"{name}_frames"] = np.repeat(vectors, [one.count for one in parts], axis=0)[:MOST_FRAMES]
    with atomic_path(out) as path, path.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)
    tell(
        {
            "done": {
                **asdict(decoded),
                "visual_count": extraction.visual.count,
                "audio_count": extraction.audio.count,
                "cost": asdict(extraction.cost),
            }
        }
    )


def main() -> None:
    """Read the settings, then extract videos until the input ends."""
    die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    settings = json.loads(sys.stdin.readline())
    with os.fdopen(settings["result_fd"], "w", encoding="utf-8") as out:

        def tell(fields: dict[str, Any]) -> None:
            out.write(json.dumps(fields) + "\n")
            out.flush()

        extractor = load_extractor(settings["extractor"], threads=settings["threads"])
        for line in sys.stdin:
            job = json.loads(line)
            try:
                extract(job["source"], Path(job["out"]), extractor, settings["every"], settings["threads"], tell)
            except EdgeAfError as error:
                tell({"error": " ".join(str(error).split())})
            except MemoryError:
                tell({"error": f"{job['source']}: out of memory"})
            except OSError as error:
                tell({"error": f"{job['source']}: {error.strerror}", "errno": error.errno})
    # Skip the destructors of libraries that a damaged file may have corrupted.
    os._exit(0)


if __name__ == "__main__":
    main()
