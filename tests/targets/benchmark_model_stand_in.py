"""Stands in for LiteRT's `benchmark_model` on the loopback phone: LiteRT itself runs the file, with the threads and the counts
that it is told, and what is measured is printed as the real one prints it. It takes the real one's options, and no others."""

import argparse
import resource
import sys
import time

import numpy as np


def run(invoke, at_least, most_seconds):
    """Times of single inferences in microseconds, as the real one counts them."""
    times, end = [], time.monotonic() + most_seconds
    while len(times) < at_least and time.monotonic() <= end:
        begun = time.perf_counter_ns()
        invoke()
        times.append((time.perf_counter_ns() - begun) // 1000)
    if len(times) == 1:
        pass
    elif times:
        _p5, _p50, _p95 = (int(value) for value in np.percentile(times, [5, 50, 95]))
    return times


def main():
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--graph", required=True)
    for name in ("num_threads", "num_runs", "warmup_runs"):
        parser.add_argument(f"--{name}", type=int, required=True)
    for name in ("min_secs", "max_secs", "warmup_min_secs"):
        parser.add_argument(f"--{name}", type=float, required=True)
    for name in ("use_xnnpack", "report_peak_memory_footprint"):
        parser.add_argument(f"--{name}", choices=["true"], required=True)
    told = parser.parse_args()
    from ai_edge_litert.interpreter import Interpreter

    begun = time.perf_counter_ns()
    try:
        interpreter = Interpreter(model_path=told.graph, num_threads=told.num_threads)
        interpreter.allocate_tensors()
    except (ValueError, RuntimeError):
        sys.exit(1)
    (time.perf_counter_ns() - begun) // 1000
    random = np.random.default_rng(0)
    for tensor in interpreter.get_input_details():
        values = random.random(tensor["shape"]) * 255
        interpreter.set_tensor(tensor["index"], values.astype(tensor["dtype"]))
    run(interpreter.invoke, told.warmup_runs, told.max_secs)
    run(interpreter.invoke, told.num_runs, told.max_secs)
    resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


main()
