"""LiteRT's `benchmark_model`: its options and its output.

Source: google-ai-edge/LiteRT, `tflite/tools/benchmark` (`benchmark_model.cc`, `README.md`), and `litert/tools`
(`benchmark_litert_model.h`). The latter's program of the same name prints the same statistics; its other lines are worded
differently. Some builds start each line with `INFO: `. No build has an option to print the time of each inference.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from edge_af.records.results import CRASHED, FAILED, OK, TIMEOUT, Method, Round
from edge_af.subprocesses import signal_in_words
from edge_af.targets.adb import Ended

NAME = "benchmark_model"

_NUMBER = r"([\d.]+(?:e[+-]?\d+)?)"
_STATISTICS = re.compile(r"\bcount=\d+ .*")
_TIMINGS = re.compile(rf"Inference timings in us: Init: {_NUMBER}, First inference: {_NUMBER},")
_INITIALIZATION = re.compile(rf"Model initialization: *{_NUMBER} ms")
_FIRST = re.compile(rf"Warmup \(first\): *{_NUMBER} ms")
_PEAK = re.compile(rf"Overall peak memory footprint \(MB\) via periodic monitoring: {_NUMBER}")
_FIELD = re.compile(rf"(\w+)={_NUMBER}")


def options(method: Method) -> list[str]:
    """List the options for one round with this method, except file and threads."""
    return [
        f"--num_runs={method.inferences}",
        "--min_secs=0",
        f"--max_secs={most_seconds(method):g}",
        f"--warmup_runs={method.warm_up}",
        "--warmup_min_secs=0",
        "--use_xnnpack=true",
        "--report_peak_memory_footprint=true",
    ]


def scoring_options(videos: int, inputs: Mapping[str, tuple[str, int]], scores: str) -> list[str]:
    """List the options that score `videos` videos once and save the outputs.

    Args:
        videos: number of videos in the input files.
        inputs: path of each input tensor's values (one row per video) and its number of features.
        scores: path for the bytes of the outputs.
    """
    return [
        "--num_runs=1",
        "--min_secs=0",
        "--warmup_runs=0",
        "--warmup_min_secs=0",
        "--use_xnnpack=true",
        f"--input_layer={','.join(inputs)}",
        f"--input_layer_shape={':'.join(f'{videos},{features}' for _, features in inputs.values())}",
        f"--input_layer_value_files={','.join(f'{name}:{place}' for name, (place, _) in inputs.items())}",
        f"--output_filepath={scores}",
    ]


def most_seconds(method: Method) -> float:
    """Return `--max_secs` for one round. Warm-up and timing may each take this long."""
    return method.seconds if method.seconds is not None else method.timeout_seconds


@dataclass(frozen=True)
class Printed:
    """Figures printed for one run."""

    load_ms: float | None
    first_ms: float | None
    round: Round
    peak_memory_bytes: int | None


def parse(text: str) -> Printed | None:
    """Parse the output; None if it contains no complete measurement.

    The first `count=` line describes the warm-up and the last one the timed inferences. With one inference there is only
    `curr=`. Builds before 2024 print no percentiles: without a median, the row cannot be compared with others.
    """
    lines, timings, peak = _STATISTICS.findall(text), _timings(text), _PEAK.search(text)
    if not lines or timings is None:
        return None
    found = {name: float(value) for name, value in _FIELD.findall(lines[-1])}
    if found.get("count") == 1 and "curr" in found:
        found = dict.fromkeys(("avg", "min", "max", "p5", "median", "p95"), found["curr"]) | {"count": 1, "std": 0}
    if not {"count", "avg", "median"} <= set(found):
        return None

    def ms(name: str) -> float | None:
        return round(found[name] / 1e3, 4) if name in found else None

    return Printed(
        load_ms=timings[0],
        first_ms=timings[1],
        round=Round(
            n=int(found["count"]), mean=found["avg"] / 1e3, p50=found["median"] / 1e3, p95=ms("p95"), p5=ms("p5"),
            std=ms("std"), min=ms("min"), max=ms("max"),
        ),
        peak_memory_bytes=round(float(peak[1]) * 2**20) if peak else None,
    )  # fmt: skip


def _timings(text: str) -> tuple[float | None, float | None] | None:
    """Return the milliseconds of loading and of the first inference, which are printed last; None without them."""
    if (found := _TIMINGS.search(text)) is not None:
        return round(float(found[1]) / 1e3, 4), round(float(found[2]) / 1e3, 4)
    if (loading := _INITIALIZATION.search(text)) is None:
        return None
    first = _FIRST.search(text)
    return float(loading[1]), float(first[1]) if first is not None else None


def found_of(ended: Ended, seconds: float) -> dict[str, Any]:
    """Return the fields of `Row` for one round: always `status` and `reason`, and `round` (a `Round`) if it is `ok`.

    Args:
        ended: end of the program.
        seconds: the time limit.
    """
    if ended.status is None:
        return {"status": TIMEOUT, "reason": f"no result within {seconds:g} s; stopped"}
    text = f"{ended.out}\n{ended.err}"
    if ended.status > 128:
        name, meaning = signal_in_words(ended.status - 128, _last_line(text))
        return {"status": CRASHED, "reason": f"{name} in {NAME}: {meaning}"}
    if ended.status:
        return {"status": FAILED, "reason": f"{NAME} ended with status {ended.status}: {_cause(text)}"}
    printed = parse(text)
    if printed is None:
        older = "it is too old to report a median; use a newer build" if _timings(text) else _last_line(text)
        return {"status": FAILED, "reason": f"{NAME} printed no complete measurement: {older}"}
    return {
        "status": OK,
        "reason": None,
        "load_ms": printed.load_ms,
        "first_ms": printed.first_ms,
        "peak_memory_bytes": printed.peak_memory_bytes,
        "round": printed.round,
    }


def _cause(text: str) -> str:
    """Return the cause of a failure: the first error, because the others follow from it."""
    errors = [line.strip() for line in text.splitlines() if "error" in line.lower()]
    causes = [line for line in errors if "Benchmarking failed" not in line]
    cause = causes[0].removeprefix("ERROR: ")[:200] if causes else _last_line(text)
    if "Didn't find op for builtin opcode" in cause:
        cause += f" This {NAME} is older than the file: use a newer build"
    return cause


def _last_line(text: str) -> str:
    """Return the last error line of the output, or its last line; skip the closing message."""
    lines = [line.strip() for line in text.splitlines() if line.strip() and "Benchmarking failed" not in line]
    errors = [line for line in lines if line.startswith("ERROR") or "error:" in line.lower()]
    return (errors or lines or ["no message"])[-1].removeprefix("ERROR: ")[:200]
