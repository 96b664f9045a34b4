"""Stand-in for LiteRT's `benchmark_model` on the loopback phone. LiteRT's Python interpreter runs the file with the given
threads and counts. Options and output are those of the real program."""

import argparse
import resource
import sys
import time

import numpy as np


def say(text="", to=sys.stdout):
    to.write(text + "\n")
    to.flush()


def run(invoke, at_least, most_seconds):
    """Run and print like the real program; return the times of single inferences in microseconds."""
    times, end = [], time.monotonic() + most_seconds
    say(f"INFO: Running benchmark for at least {at_least} iterations and at least 0 seconds but terminate if exceeding "
          f"{most_seconds:g} seconds.")  # fmt: skip
    while len(times) < at_least and time.monotonic() <= end:
        begun = time.perf_counter_ns()
        invoke()
        times.append((time.perf_counter_ns() - begun) // 1000)
    if len(times) == 1:
        say(f"INFO: count=1 curr={times[0]}")
    elif times:
        p5, p50, p95 = (int(value) for value in np.percentile(times, [5, 50, 95]))
        say(f"INFO: count={len(times)} first={times[0]} curr={times[-1]} min={min(times)} max={max(times)} "
              f"avg={np.mean(times):g} std={np.std(times):.0f} p5={p5} median={p50} p95={p95}")  # fmt: skip
    say()
    return times


def main():
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--graph", required=True)
    for name in ("num_threads", "num_runs", "warmup_runs"):
        parser.add_argument(f"--{name}", type=int, required=True)
    for name in ("min_secs", "warmup_min_secs"):
        parser.add_argument(f"--{name}", type=float, required=True)
    parser.add_argument("--max_secs", type=float, default=150)
    parser.add_argument("--use_xnnpack", choices=["true"], required=True)
    parser.add_argument("--report_peak_memory_footprint", choices=["true"])
    for name in ("input_layer", "input_layer_shape", "input_layer_value_files", "output_filepath"):
        parser.add_argument(f"--{name}")
    told = parser.parse_args()
    from ai_edge_litert.interpreter import Interpreter

    say("INFO: STARTING!")
    begun = time.perf_counter_ns()
    try:
        interpreter = Interpreter(model_path=told.graph, num_threads=told.num_threads)
        by_name = {tensor["name"]: tensor for tensor in interpreter.get_input_details()}
        if told.input_layer:
            shapes = told.input_layer_shape.split(":")
            for name, shape in zip(told.input_layer.split(","), shapes, strict=True):
                interpreter.resize_tensor_input(by_name[name]["index"], list(map(int, shape.split(","))))
        interpreter.allocate_tensors()
    except (ValueError, RuntimeError) as error:
        say(f"ERROR: {error}\nERROR: Benchmarking failed.", to=sys.stderr)
        sys.exit(1)
    loaded = (time.perf_counter_ns() - begun) // 1000
    say("INFO: Created TensorFlow Lite XNNPACK delegate for CPU.")
    say(f"INFO: Initialized session in {loaded / 1e3:g}ms.")
    random = np.random.default_rng(0)
    for tensor in interpreter.get_input_details():
        values = random.random(tensor["shape"]) * 255
        interpreter.set_tensor(tensor["index"], values.astype(tensor["dtype"]))
        for item in (told.input_layer_value_files or "").split(","):
            name, _, place = item.partition(":")
            if name == tensor["name"]:
                values = np.fromfile(place, tensor["dtype"]).reshape(tensor["shape"])
                interpreter.set_tensor(tensor["index"], values)
    warm = run(interpreter.invoke, told.warmup_runs, told.max_secs)
    timed = run(interpreter.invoke, told.num_runs, told.max_secs)
    say(f"INFO: Inference timings in us: Init: {loaded}, First inference: {(warm or [0])[0]}, "
          f"Warmup (avg): {np.mean(warm or [0]):g}, Inference (avg): {np.mean(timed):g}")  # fmt: skip
    say("INFO: Note: as the benchmark tool itself affects memory footprint, the following is only APPROXIMATE to the actual "
          "memory footprint of the model at runtime. Take the information at your discretion.")  # fmt: skip
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    say(f"INFO: Memory footprint delta from the start of the tool (MB): init={peak:g} overall={peak:g}")
    if told.report_peak_memory_footprint:
        say(f"INFO: Overall peak memory footprint (MB) via periodic monitoring: {peak:g}")
    if told.output_filepath:
        with open(told.output_filepath, "wb") as file:  # noqa: PTH123
            for tensor in interpreter.get_output_details():
                interpreter.get_tensor(tensor["index"]).tofile(file)


main()
