"""Readings of the machine's state, and the warnings made from them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from edge_af.bench.bandwidth import buffers, measure_apart, measure_bandwidth
from edge_af.machine import conditions
from edge_af.machine.conditions import Activity, available_memory, decode_throttled, remarks
from edge_af.subprocesses import environment


@pytest.mark.parametrize(
    "word, said",
    [
        (0x0, []),
        (0x50005, ["under-voltage", "throttled"]),
        (0x50000, ["under-voltage since boot", "throttled since boot"]),
        (
            0xE0008,
            ["slowed down by the soft temperature limit", "the clock was capped since boot", "throttled since boot"],
        ),
    ],
)
def test_the_firmwares_word_is_decoded(word: int, said: list[str]):
    assert decode_throttled(word) == said


def test_a_raspberry_pi_tells_through_sys_or_its_tool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(conditions, "PLATFORM", tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert conditions.throttled() == []
    tool = tmp_path / "vcgencmd"
    tool.write_text("#!/bin/sh\necho throttled=0x4")
    tool.chmod(0o755)
    assert conditions.throttled() == ["throttled"]
    tool.write_text("#!/bin/sh\necho VCHI initialization failed")
    assert conditions.throttled() == []
    flags = tmp_path / "soc/soc:firmware/get_throttled"
    flags.parent.mkdir(parents=True)
    flags.write_text("50005\n")
    assert conditions.throttled() == ["under-voltage", "throttled"]


def test_temperature_and_clock_come_from_the_kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for index, text in enumerate(("48312", "-273200", "61000", "broken")):
        (tmp_path / f"thermal_zone{index}").mkdir()
        (tmp_path / f"thermal_zone{index}/temp").write_text(text)
    (tmp_path / "scaling_cur_freq").write_text("1500000\n")
    (tmp_path / "scaling_governor").write_text("ondemand\n")
    (tmp_path / "meminfo").write_text("MemTotal: 100 kB\nSwapTotal: 50 kB\nSwapFree: 20 kB\n")
    for name in ("THERMAL", "CPUFREQ"):
        monkeypatch.setattr(conditions, name, tmp_path)
    monkeypatch.setattr(conditions, "MEMORY_INFO", tmp_path / "meminfo")
    found = conditions.conditions()
    assert (found.temperature_c, found.frequency_mhz, found.governor) == (61.0, 1500.0, "ondemand")
    assert found.swap_used_bytes == 30 * 1024


def test_what_disturbs_is_said():
    quiet = Activity(seconds=0, busy=0, stolen=0, own=0, swapped=0, killed=0)
    assert remarks(quiet, Activity(10, 10, 0, 9.9, 0, 0), 2) == {}
    said = remarks(quiet, Activity(10, 18, 2, 10, 5000, 0), 2)
    texts = [text.format(worst) for text, worst in said.items()]
    assert texts == [
        "The machine was busy: other processes used up to 0.8 of its cores",
        "The host of this virtual machine took up to 10% of its processor time away",
        "The machine was swapping (5000 pages)",
    ]


SPIN = [sys.executable, "-c", "import time\nwhile time.process_time() < 0.6: pass"]


def test_another_process_is_seen_and_ones_own_is_not():
    before = Activity.now()
    subprocess.run(SPIN, check=True)
    after = Activity.now()
    assert after.own - before.own > 0.5
    # A child counts as another process until it has been waited for.
    other = subprocess.Popen([*SPIN[:2], SPIN[2] + "\nprint(flush=True)\ntime.sleep(600)"], stdout=subprocess.PIPE)
    before = Activity.now()
    assert other.stdout is not None and other.stdout.readline()
    after = Activity.now()
    other.kill()
    other.wait()
    assert (after.busy - before.busy) - (after.own - before.own) > 0.4


def test_memory_that_can_be_had_is_bounded_by_every_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "meminfo").write_text("MemAvailable: 4000000 kB\nSwapFree: 0 kB\n")
    monkeypatch.setattr(conditions, "MEMORY_INFO", tmp_path / "meminfo")
    monkeypatch.setattr(conditions, "CGROUPS", tmp_path)
    assert available_memory() == 4_096_000_000
    for folder, limit, usage in (
        (tmp_path, "memory.max", "memory.current"),
        (tmp_path / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes"),
    ):
        folder.mkdir(exist_ok=True)
        (folder / limit).write_text("500000000\n")
        (folder / usage).write_text("300000000\n")
        (folder / "memory.stat").write_text("anon 5\ninactive_file 1000\n")
    assert available_memory() == 200_001_000
    code = (
        "import resource; resource.setrlimit(resource.RLIMIT_AS, (3 * 10**9,) * 2); "
        "from edge_af.machine.conditions import available_memory; print(available_memory())"
    )
    done = subprocess.run([sys.executable, "-c", code], env=environment(), capture_output=True, text=True, check=True)
    assert 10**9 < int(done.stdout) < 3 * 10**9


def test_reading_memory_has_a_speed(monkeypatch: pytest.MonkeyPatch):
    found = measure_bandwidth(2, 10**7)
    assert (found.threads, found.buffer_bytes) == (2, 10**7) and 1e8 < found.bytes_per_s < 1e13
    apart = measure_apart([1, 2], [10**6])
    assert [(one.threads, one.buffer_bytes) for one in apart] == [(1, 10**6), (2, 10**6)]
    monkeypatch.setenv("PYTHONHOME", "/nowhere")
    assert measure_apart([1], [10**6]) == []


def test_one_buffer_lies_beyond_the_cache_if_there_is_room(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("edge_af.bench.bandwidth.available_memory", lambda: 16 * 2**30)
    assert buffers([100, 2**34], 2**28) == [100, 2**30]
    monkeypatch.setattr("edge_af.bench.bandwidth.available_memory", lambda: 2**28)
    assert buffers([100, 2**28], 2**28) == [100, 2**26]
