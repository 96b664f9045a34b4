"""A row's figures belong to the file that it names, and disturbances are reported with them."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from benches import interrupt_after, run_bench
from tiny_export import export_tiny

from edge_af.bench import local
from edge_af.bench.accuracy import Judge
from edge_af.bench.subject import subjects_of
from edge_af.data.dataset import Dataset
from edge_af.machine import conditions
from edge_af.machine.conditions import Activity, memory_limits, processor_quota, remarks
from edge_af.models.presets import AttendFusionConfig
from edge_af.records.results import Method, Results, read_results
from edge_af.subprocesses import environment

METHOD = Method(inferences=8, warm_up=1, rounds=2, packed=True)


def edge_af(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "edge_af", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="session")
def other_exports(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Exports of another network under the same file names as the tiny Attend-Fusion's; read-only."""
    config = AttendFusionConfig(tokens=4, token_width=12, heads=2, dropout=0.0)
    return export_tiny("attend-fusion", tmp_path_factory.mktemp("exports") / "other", dataset, config=config)


@pytest.mark.slow
def test_nothing_kept_of_another_file_is_measured_in_its_place(
    own_exports: Path, other_exports: Path, eval_dataset: Dataset, tmp_path: Path
):
    """The network is exported again between the interruption and the continuation, under the same paths."""
    folder, out = own_exports / "attend-fusion", tmp_path / "r.json"
    kept, on_saved = interrupt_after(5)
    with pytest.raises(KeyboardInterrupt):
        run_bench(subjects_of([folder]), eval_dataset, method=METHOD, out=out, on_saved=on_saved)
    shutil.rmtree(folder)
    shutil.copytree(other_exports, folder)
    anew = run_bench(subjects_of([folder]), eval_dataset, method=METHOD, out=out, overwrite=True)
    clean = run_bench(subjects_of([other_exports]), eval_dataset, method=METHOD)
    figures = [(row.sha256, row.gap_at_20, row.gap_at_20_interval, row.weight_bytes) for row in anew.rows]
    assert figures == [(row.sha256, row.gap_at_20, row.gap_at_20_interval, row.weight_bytes) for row in clean.rows]
    assert {row.gap_at_20 for row in anew.rows}.isdisjoint(row.gap_at_20 for row in kept[-1].rows)
    assert anew.is_complete and not (tmp_path / ".r.json.bench").exists()


@pytest.mark.slow
@pytest.mark.parametrize("suffix", ["onnx", "tflite"])
@pytest.mark.parametrize("when", ["before it is loaded", "while it is measured"])
def test_a_file_that_is_replaced_is_no_row_of_the_one_before(
    own_exports: Path, other_exports: Path, monkeypatch: pytest.MonkeyPatch, suffix: str, when: str
):
    path = own_exports / f"attend-fusion/attend-fusion-fp32.{suffix}"
    other = other_exports / path.name
    subjects = subjects_of([path])
    real = local.run_worker

    def replacing(job, **options):
        if job.path == str(path) and job.task != "pack":
            if when == "before it is loaded":
                shutil.copy(other, path)
            else:
                # Replace the file, because writing to a memory-mapped file may crash the process.
                threading.Timer(1.5, lambda: Path(shutil.copy(other, path.with_suffix(".new"))).replace(path)).start()
        return real(job, **options)

    monkeypatch.setattr(local, "run_worker", replacing)
    (row,) = run_bench(subjects, None, method=Method(inferences=10**9, seconds=3.0, warm_up=1)).rows
    assert row.status == "failed" and "was replaced or changed" in (row.reason or "")


@pytest.mark.slow
def test_weights_packed_of_a_file_that_is_replaced_meanwhile_are_not_kept(
    own_exports: Path, other_exports: Path, monkeypatch: pytest.MonkeyPatch
):
    path = own_exports / "attend-fusion/attend-fusion-fp32.onnx"
    original, real = path.read_bytes(), local.run_worker

    def replacing(job, **options):
        if job.path == str(path):
            shutil.copy(other_exports / path.name, path) if job.task == "pack" else path.write_bytes(original)
        return real(job, **options)

    monkeypatch.setattr(local, "run_worker", replacing)
    results = run_bench(subjects_of([path]), None, method=METHOD)
    assert results.rows[0].status == "ok" and any("was replaced or changed" in text for text in results.warnings)


@pytest.mark.slow
def test_a_bench_killed_while_intervals_are_computed_is_not_complete(
    exports: Path, eval_dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    subjects, out = subjects_of([exports / "attend-fusion"], ("litert",)), tmp_path / "r.json"
    kept: list[Results] = []

    def killed(*arguments: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Judge, "judged", killed)
        run_bench(subjects, eval_dataset, method=METHOD, out=out, on_saved=kept.append)
    assert all(row.rounds == [4, 4] and row.gap_at_20 is not None for row in kept[-1].rows)
    assert not kept[-1].is_complete
    whole = run_bench(subjects, eval_dataset, method=METHOD, out=out)
    assert whole.is_complete and all(row.gap_at_20_interval for row in whole.rows)
    assert [row.latency_raw_us for row in whole.rows] == [row.latency_raw_us for row in kept[-1].rows]


@pytest.mark.slow
def test_one_bench_at_a_time_writes_to_a_results_file(exports: Path, tmp_path: Path):
    file, out = exports / "attend-fusion/attend-fusion-int8.tflite", tmp_path / "r.json"
    arguments = ["bench", file, "--no-packed", "--rounds", 2, "--out", out]
    first = subprocess.Popen(
        [sys.executable, "-m", "edge_af", *map(str, arguments), "--runs", "100000000"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    lock = tmp_path / ".r.json.lock"
    end = time.monotonic() + 60
    while not lock.exists():
        assert time.monotonic() < end and first.poll() is None
        time.sleep(0.05)
    second = edge_af(*arguments, "--runs", 4)
    first.send_signal(signal.SIGINT)
    assert first.wait(60) == 130
    assert second.returncode == 2 and "another edge-af process is writing here" in second.stderr
    assert edge_af(*arguments, "--runs", 4).returncode == 0 and not lock.exists()


@pytest.mark.slow
def test_a_finished_bench_is_replaced_only_when_asked(exports: Path, tmp_path: Path):
    file, out = exports / "attend-fusion/attend-fusion-int8.tflite", tmp_path / "r.json"
    arguments = ["bench", file, "--no-packed", "--runs", 4, "--rounds", 1, "--out", out]
    assert edge_af(*arguments).returncode == 0
    finished = out.read_bytes()
    done = edge_af(*arguments)
    assert done.returncode == 2 and "holds the finished bench of" in done.stderr and "--fresh" in done.stderr
    other = [exports / "fc-late-fusion/fc-late-fusion-int8.tflite" if one == file else one for one in arguments]
    for more in ((), ("--fresh",)):
        done = edge_af(*other, *more)
        assert done.returncode == 2 and "rows of other files" in done.stderr and "--overwrite" in done.stderr
    assert out.read_bytes() == finished
    for again in ([*arguments, "--fresh"], [*other, "--overwrite"]):
        assert edge_af(*again).returncode == 0
        assert out.read_bytes() != finished and read_results(out).is_complete
    out.write_text("a shopping list")
    done = edge_af(*arguments)
    assert done.returncode == 2 and "is not a results file" in done.stderr and out.read_text() == "a shopping list"


def test_the_limits_of_groups_around_the_own_one_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A pod's limits apply to its own control group; its containers' groups below have none."""
    groups = tmp_path / "groups"
    monkeypatch.setattr(conditions, "CGROUPS", groups)
    monkeypatch.setattr(conditions, "OWN_GROUPS", tmp_path / "own")
    for own, memory, cpu in (
        ("0::/pod/container", ("", "memory.max", "memory.current"), ("", {"cpu.max": "50000 100000"})),
        (
            "4:memory:/pod/container\n3:cpu,cpuacct:/pod/container",
            ("memory", "memory.limit_in_bytes", "memory.usage_in_bytes"),
            ("cpu", {"cpu.cfs_quota_us": "50000", "cpu.cfs_period_us": "100000"}),
        ),
    ):
        shutil.rmtree(groups, ignore_errors=True)
        (tmp_path / "own").write_text(own + "\n")
        for tree in {memory[0], cpu[0]}:
            (groups / tree / "pod/container").mkdir(parents=True, exist_ok=True)
        assert processor_quota() is None and "control group" not in memory_limits()
        pod = groups / memory[0] / "pod"
        (pod / memory[1]).write_text("500000000\n")
        (pod / memory[2]).write_text("300000000\n")
        (pod / "container" / memory[1]).write_text("max\n" if not memory[0] else str(2**63 - 4096))
        (pod / "container" / memory[2]).write_text("100\n")
        for name, text in cpu[1].items():
            (groups / cpu[0] / "pod" / name).write_text(text + "\n")
        assert memory_limits()["control group"] == 200_000_000
        assert processor_quota() == 0.5 and conditions.conditions().processor_quota == 0.5
        stat = groups / cpu[0] / "pod/cpu.stat"
        stat.write_text("nr_periods 500\nnr_throttled 40\n")
        before = Activity.now()
        stat.write_text("nr_periods 900\nnr_throttled 352\n")
        said = [text.format(amount) for text, amount in remarks(before, Activity.now(), 2).items()]
        assert "A processor quota of 0.5 processors held the measurement up in 312 periods" in said


@pytest.mark.skipif(sys.platform != "linux", reason="Linux ends children with their parent")
def test_what_reads_memory_ends_with_the_bench():
    code = (
        "import os, sys; from edge_af.bench.bandwidth import measure_apart;"
        "print(flush=True); measure_apart([1], [10**7] * 500)"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, env=environment())
    assert parent.stdout is not None
    parent.stdout.readline()
    children = Path(f"/proc/{parent.pid}/task/{parent.pid}/children")
    end = time.monotonic() + 60
    while not (found := children.read_text().split()):
        assert time.monotonic() < end
        time.sleep(0.02)
    time.sleep(np.random.default_rng(os.getpid()).uniform(0, 0.5))  # Kill it before or after numpy is imported.
    parent.kill()
    parent.wait()
    while (child := Path(f"/proc/{found[0]}")).exists() and "Z" not in (child / "stat").read_text().split()[2]:
        assert time.monotonic() < end, "it outlives the bench"
        time.sleep(0.05)
