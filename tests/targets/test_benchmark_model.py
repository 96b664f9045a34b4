"""Parsing the output of older and newer builds of LiteRT's benchmark_model."""

from __future__ import annotations

import pytest

from edge_af.bench.rows import latency_of_rounds
from edge_af.records.results import Round
from edge_af.targets.adb import Ended
from edge_af.targets.benchmark_model import found_of, parse

NEWER = """INFO: STARTING!
INFO: Log parameter values verbosely: [0]
INFO: Running benchmark for at least 32 iterations and at least 0 seconds but terminate if exceeding 2.5 seconds.
INFO: count=32 first=12111 curr=10600 min=10590 max=12111 avg=10700 std=200 p5=10595 median=10610 p95=11000

INFO: Running benchmark for at least 5 iterations and at least 0 seconds but terminate if exceeding 2.5 seconds.
INFO: count=5 first=10945 curr=10517 min=10492 max=10945 avg=10610.4 std=170 p5=10492 median=10517 p95=10945

INFO: Inference timings in us: Init: 49191, First inference: 12111, Warmup (avg): 10700, Inference (avg): 10610.4
INFO: Memory footprint delta from the start of the tool (MB): init=0.0078125 overall=0.257812
INFO: Overall peak memory footprint (MB) via periodic monitoring: 23.7891
"""


def test_every_figure_is_where_it_belongs():
    found = found_of(Ended(0, "", NEWER), 10)
    assert found["status"] == "ok" and found["load_ms"] == 49.191 and found["first_ms"] == 12.111
    assert found["peak_memory_bytes"] == round(23.7891 * 2**20)
    assert found["round"] == Round(5, 10.6104, 10.517, p5=10.492, p95=10.945, std=0.17, min=10.492, max=10.945)
    assert parse(NEWER.replace("INFO: ", "")) == parse(NEWER)


LITERT_TOOLS = """INFO: Initialized session in 4.478ms.
INFO: count=1055 first=1033 curr=473 min=443 max=1033 avg=465.319 std=18 p5=459 median=463 p95=478
INFO: count=2112 first=463 curr=459 min=442 max=979 avg=464.545 std=13 p5=460 median=462 p95=478
INFO: [./litert/tools/benchmark_litert_model.h:81]
========== BENCHMARK RESULTS ==========
INFO: [./litert/tools/benchmark_litert_model.h:82] Model initialization: 4.48 ms
INFO: [./litert/tools/benchmark_litert_model.h:84] Warmup (first):       1.03 ms
INFO: [./litert/tools/benchmark_litert_model.h:123] Peak memory usage not available. (peak_mem_mb <= 0)
INFO: [./litert/tools/benchmark_litert_model.h:126] ======================================
"""


def test_the_tool_of_litert_tools_says_the_same_in_other_words():
    found = found_of(Ended(0, "", LITERT_TOOLS), 10)
    assert (found["status"], found["load_ms"], found["first_ms"]) == ("ok", 4.48, 1.03)
    assert found["round"].p50 == 0.462 and found["round"].n == 2112 and found["peak_memory_bytes"] is None
    assert "too old" in found_of(Ended(0, LITERT_TOOLS.replace(" median=462", ""), ""), 10)["reason"]


def test_large_numbers_and_single_inferences():
    large = NEWER.replace("avg=10610.4", "avg=1.29e+06").replace("Init: 49191", "Init: 1.2e+07")
    printed = parse(large)
    assert printed is not None and printed.round.mean == 1290 and printed.load_ms == 12000
    one = parse(NEWER.replace("count=5 first=10945 curr=10517 min=10492 max=10945 avg=10610.4 std=170 p5=10492 "
                              "median=10517 p95=10945", "count=1 curr=10517"))  # fmt: skip
    assert one is not None and (one.round.n, one.round.p50, one.round.mean, one.round.std) == (1, 10.517, 10.517, 0)


@pytest.mark.parametrize(
    "ended, status, reason",
    [
        (Ended(None, "", ""), "timeout", "no result within 10 s"),
        (
            Ended(1, "", "ERROR: Failed to load model\nERROR: Benchmarking failed.\n"),
            "failed",
            "status 1: Failed to load",
        ),
        (
            Ended(
                1,
                "",
                "ERROR: Didn't find op for builtin opcode 'FULLY_CONNECTED' version '12'. An older version of this builtin "
                "might be supported.\nERROR: Registration failed.\nERROR: Failed to initialize the interpreter\n",
            ),
            "failed",
            "might be supported. This benchmark_model is older than the file: use a newer build",
        ),
        (Ended(137, NEWER, ""), "crashed", "SIGKILL in benchmark_model: most likely stopped by the system for lack of"),
        (Ended(132, "", ""), "crashed", "SIGILL"),
        (Ended(0, "INFO: STARTING!", ""), "failed", "no complete measurement: INFO: STARTING!"),
        (Ended(0, NEWER.replace(" median=10517", ""), ""), "failed", "too old to report a median"),
        (Ended(0, NEWER.replace("count=", "c="), ""), "failed", "no complete measurement"),
    ],
)
def test_what_is_no_measurement(ended: Ended, status: str, reason: str):
    found = found_of(ended, 10)
    assert found["status"] == status and reason in found["reason"] and "round" not in found


def test_rounds_are_put_together_without_inventing_percentiles():
    rounds = [Round(10, 2.0, 1.0, p95=4.0), Round(30, 4.0, 3.0, p95=6.0), Round(10, 2.0, 2.0, p95=5.0)]
    latency = latency_of_rounds(rounds)
    assert (latency.p50, latency.p95, latency.mean, latency.n) == (2.0, 5.0, 3.2, 50)
    assert latency.p90 is None and latency.p99 is None
    assert latency_of_rounds([*rounds, Round(1, 2.0, 2.0)]).p95 is None
