"""`edge-af bench --target adb` against a real adb daemon: the main path, and interruptions."""

from __future__ import annotations

import dataclasses
import html
import json
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from benches import run_bench
from click.testing import CliRunner, Result
from loopback import LoopbackBoard, Started, wait_for
from loopback_phone import LoopbackPhone

from edge_af.bench.backend import TargetOptions
from edge_af.bench.subject import subjects_of
from edge_af.cli import cli
from edge_af.data.dataset import Dataset
from edge_af.errors import EdgeAfError
from edge_af.records.results import Method, Results, read_results
from edge_af.targets import adb, open_backend
from edge_af.targets.adb import AdbTarget
from edge_af.targets.adb_backend import AdbBackend

METHOD = Method(inferences=4, seconds=None, warm_up=2, rounds=2, timeout_seconds=120)
FILES = f"{adb.FOLDER}/files"
HOSTILE = """it's $(touch pwned) `touch pwned` "q" ; touch pwned \\
& | * -rf"""


def bench(phone: LoopbackPhone, path: Path, program: Path | None = None, **options: Any) -> Results:
    """Bench `path` from this process."""
    backend = AdbBackend(AdbTarget(), program or phone.program(), options.pop("cores", None))
    return run_bench(subjects_of([path]), backend=backend, **{"method": METHOD, **options})


def edge_af(*arguments: object) -> Result:
    return CliRunner().invoke(cli, [*map(str, arguments)])


def file_of(exports: Path) -> Path:
    return exports / "attend-fusion/attend-fusion-int8.tflite"


def running(phone: LoopbackPhone) -> str:
    """Ask the phone for processes of a benchmark. It sees only processes of its namespace."""
    return phone.adb("shell", "grep -la 'edge-a[f]/files/' /proc/[0-9]*/cmdline 2>/dev/null")


def test_the_whole_way(phone: LoopbackPhone, exports: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """File names contain shell syntax."""
    monkeypatch.chdir(tmp_path)
    networks, out = tmp_path / HOSTILE, tmp_path / "results.json"
    shutil.copytree(exports / "attend-fusion", networks)
    program = phone.program()
    program = shutil.copy(program, tmp_path / f"{HOSTILE} model")
    arguments = [
        networks,
        "--target",
        "adb",
        "--benchmark-model",
        program,
        "--cores",
        "big",
        "--threads",
        2,
        "--runs",
        5,
    ]
    arguments += ["--rounds", 2, "--out", out]
    done = edge_af("bench", *arguments)
    assert done.exit_code == 0, done.output
    results = read_results(out)
    rows = {(row.runtime, row.precision): row for row in results.rows}
    assert len(rows) == results.rows_planned == 4 and results.is_complete
    for precision in ("fp32", "int8"):
        row = rows["litert", precision]
        assert row.status == "ok" and row.artifact == HOSTILE and row.threads == 2 and row.rounds == [3, 2]
        latency = row.latency_ms
        assert latency is not None and latency.n == 5 and latency.p90 is None and latency.p99 is None
        assert 0 < latency.p50 <= (latency.p95 or 0) and row.load_ms and row.first_ms and row.gap_at_20 is None
        assert (row.peak_memory_bytes or 0) > 1e6 and (row.bare_memory_bytes or 0) > 1e6
        onnx = rows["onnxruntime", precision]
        assert onnx.status == "missing-runtime" and "runs only .tflite files" in (onnx.reason or "")
    device, tool = results.device, results.tool
    assert device.cpu == "Example Phone One (Maker SC1)" and device.system == "Android 16, API 36"
    assert device.soc == "Maker SC1" and device.python is None and device.kernel.startswith("Linux")
    cores = os.cpu_count() or 1
    assert device.core_max_mhz == [1800.0, *[2850.0] * (cores - 1)]
    assert device.affinity == (list(range(1, cores)) if cores > 1 else [0])
    assert tool is not None and tool.name == "benchmark_model" and "--num_runs=3" in tool.options
    assert tool.sha256 == next(path for path in listed(phone) if path == tool.sha256)
    conditions = results.conditions
    assert (
        conditions is not None and conditions["before"].thermal_status == conditions["after"].thermal_status == "none"
    )
    # The current temperature of the processor, not of the battery.
    assert conditions["after"].temperature_c == 43.0 and results.warnings == []
    assert not [*tmp_path.rglob("pwned")] and phone.serials[0] not in out.read_text() and is_quiet(phone)


def is_quiet(phone: LoopbackPhone) -> bool:
    """Wait until no benchmark runs on the phone; return False if one is left after 10 seconds."""
    end = time.monotonic() + 10
    while running(phone):
        if time.monotonic() > end:
            return False
        time.sleep(0.1)
    return True


def listed(phone: LoopbackPhone) -> list[str]:
    return phone.adb("shell", f"ls {FILES}").split()


@pytest.mark.slow
def test_what_is_there_is_not_copied_again_and_what_is_damaged_is(
    phone: LoopbackPhone, exports: Path, capsys: pytest.CaptureFixture[str]
):
    (first,) = bench(phone, file_of(exports)).rows
    assert "copying to" in capsys.readouterr().err and len(listed(phone)) == 3
    phone.adb("shell", f"printf x >>{FILES}/{first.sha256}; touch {FILES}/left.part; touch -d 2001-01-01 {FILES}/old")
    assert bench(phone, file_of(exports)).rows[0].status == "ok"
    assert "copying to" in capsys.readouterr().err
    assert bench(phone, file_of(exports)).rows[0].status == "ok"
    assert "copying to" not in capsys.readouterr().err and len(listed(phone)) == 3


def test_cores_are_pinned_and_heat_is_told(phone: LoopbackPhone, exports: Path):
    said = phone.folder / "said"
    program = phone.program(f'grep Cpus_allowed_list: /proc/self/status >>{said}; exec {phone.program()} "$@"')
    (phone.folder / "thermal").write_text("3")
    results = bench(phone, file_of(exports), program, cores="0")
    assert set(said.read_text().split()) == {"Cpus_allowed_list:", "0"} and results.device.affinity == [0]
    assert results.conditions is not None and results.conditions["after"].thermal_status == "severe"
    assert "thermal status is severe" in results.warnings[0] and results.device.cores == 1
    for text, message in (
        ("4096", "has no core 4096"),
        ("2-", "or a list of cores such as"),
        ("small", "or a list of cores such as"),
    ):
        with pytest.raises(EdgeAfError, match=message):
            bench(phone, file_of(exports), cores=text)


FAILING = """case "$*" in *--num_runs=50*) exec {model} "$@";; esac
{what}"""


@pytest.mark.parametrize(
    "what, status, reason",
    [
        (
            "echo 'ERROR: no such op' >&2; echo 'ERROR: Benchmarking failed.' >&2; exit 1",
            "failed",
            "status 1: no such op",
        ),
        ("sleep 600", "timeout", "no result within 1.5 s"),
        ("kill -9 $$", "crashed", "SIGKILL in benchmark_model"),
        ("kill -ILL $$", "crashed", "SIGILL"),
        ("echo hello", "failed", "no complete measurement: hello"),
    ],
)
def test_a_file_that_fails_is_a_row_that_says_why(
    phone: LoopbackPhone, exports: Path, what: str, status: str, reason: str
):
    program = phone.program(FAILING.format(model=phone.program(), what=what))
    # The empty model has the same time limit, so its program must not have to load Python.
    method = dataclasses.replace(METHOD, timeout_seconds=1.5 if "sleep" in what else 60)
    if "sleep" in what:
        (phone.folder / "benchmark_model").write_text(f"#!/bin/sh\necho '{QUICK}'\n")
    (row,) = bench(phone, file_of(exports), program, method=method).rows
    assert row.status == status and reason in (row.reason or "") and row.latency_ms is None
    assert is_quiet(phone)


QUICK = """count=1 curr=5
Inference timings in us: Init: 5, First inference: 5, Warmup (avg): 5, Inference (avg): 5"""


def test_a_program_that_does_not_run_there_is_told_before_all_else(
    phone: LoopbackPhone, exports: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with pytest.raises(EdgeAfError, match="name it with --benchmark-model FILE, or put it on the PATH"):
        run_bench(subjects_of([file_of(exports)]), method=METHOD, backend=AdbBackend(AdbTarget()))
    # A program for another processor on the PATH.
    program = tmp_path / "benchmark_model"
    program.write_bytes(b"\x7fELF" + bytes(14) + (183 if os.uname().machine != "aarch64" else 62).to_bytes(2, "little"))
    program.chmod(0o755)
    with pytest.raises(EdgeAfError, match="Use the build for"):
        run_bench(subjects_of([file_of(exports)]), method=METHOD, backend=AdbBackend(AdbTarget()))
    assert not any(".part" in name for name in phone.adb("shell", f"ls {FILES}").split())
    program.write_text("no program")
    with pytest.raises(EdgeAfError, match=r"not even on an empty model: .*not found"):
        bench(phone, file_of(exports), program)
    with pytest.raises(EdgeAfError, match="no such file; --benchmark-model names"):
        bench(phone, file_of(exports), tmp_path / "none")


def slow(phone: LoopbackPhone) -> Path:
    """Return a program that hangs from its third call on, and creates a file when it does."""
    marks = phone.folder / "calls"
    return phone.program(
        f'echo x >>{marks}; [ "$(wc -l <{marks})" -lt 3 ] || {{ touch {phone.folder}/slow; sleep 600; }}\n'
        f'exec {phone.program()} "$@"'
    )


@pytest.mark.slow
def test_unplugged_in_the_middle(phone: LoopbackPhone, exports: Path, tmp_path: Path):
    """Finished measurements are kept, and the same command continues once the phone is back."""
    kept: list[Results] = []

    def unplug() -> None:
        while not (phone.folder / "slow").exists():
            time.sleep(0.05)
        phone.unplug()

    thread = threading.Thread(target=unplug, daemon=True)
    thread.start()
    folder, out = exports / "attend-fusion", tmp_path / "r.json"
    program = slow(phone)
    with pytest.raises(adb.Gone, match=r"no longer responds: unplugged[^!]*the same command continues"):
        bench(phone, folder, program, out=out, on_saved=kept.append)
    thread.join()
    begun = kept[-1]
    assert [row.status for row in begun.rows if row.runtime == "litert"] == ["ok"] and not begun.is_complete
    with (
        pytest.MonkeyPatch.context() as patched,
        pytest.raises(EdgeAfError, match="adb sees it, but it does not answer"),
    ):
        patched.setattr(adb, "SETTLE_SECONDS", 0)
        bench(phone, folder, program)
    phone.plug()
    no_longer_slow(phone)
    results = bench(phone, folder, program, out=out)
    assert (
        results.is_complete
        and results.continued
        and results.created == begun.created
        and len([*tmp_path.iterdir()]) == 1
    )
    old = next(row for row in begun.rows if row.status == "ok")
    new = next(row for row in results.rows if row.sha256 == old.sha256)
    assert new.rounds_ms is not None and old.rounds_ms is not None and new.rounds_ms[:1] == old.rounds_ms
    assert is_quiet(phone)


def no_longer_slow(phone: LoopbackPhone) -> None:
    """Stop the program from hanging without changing its bytes."""
    (phone.folder / "calls").unlink()
    (phone.folder / "calls").symlink_to("/dev/null")


@pytest.mark.slow
def test_ctrl_c_ends_both_sides(phone: LoopbackPhone, exports: Path, tmp_path: Path):
    out = tmp_path / "r.json"
    arguments = (exports / "attend-fusion", "--runs", 4, "--rounds", 2, "--out", out, "--target", "adb")
    started = Started(phone, "--benchmark-model", slow(phone), where=arguments)  # type: ignore[arg-type]
    wait_for((phone.folder / "slow").exists, started)
    # Meanwhile no other bench may use the phone.
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("TMPDIR", phone.environment["TMPDIR"])
        patched.setattr("tempfile.tempdir", None)
        with pytest.raises(EdgeAfError, match="another bench is using it"):
            bench(phone, file_of(exports))
    started.process.send_signal(signal.SIGINT)
    status, said, news = started.end()
    assert status == 130 and said == "" and "Traceback" not in news, news
    begun = read_results(out)
    assert "rows are kept in" in news and not begun.is_complete and is_quiet(phone)
    no_longer_slow(phone)
    done = phone.bench("--benchmark-model", phone.folder / "other_model", where=arguments)
    assert done.returncode == 0 and "continuing: 3 of 4 rows" in done.stderr, done.stderr
    results = read_results(out)
    assert results.is_complete and results.created == begun.created and results.rows[1].rounds == [2, 2]


def test_one_that_was_killed_is_ended_by_the_next(phone: LoopbackPhone, exports: Path, tmp_path: Path):
    arguments = (file_of(exports), "--runs", 4, "--rounds", 2, "--out", tmp_path / "r.json", "--target", "adb")
    started = Started(phone, "--benchmark-model", slow(phone), where=arguments)  # type: ignore[arg-type]
    wait_for((phone.folder / "slow").exists, started)
    started.process.kill()
    started.end()
    assert running(phone)
    assert bench(phone, file_of(exports)).rows[0].status == "ok" and is_quiet(phone)


def test_phones_that_cannot_be_used(make_phone: Callable[..., LoopbackPhone], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(adb, "SETTLE_SECONDS", 0)
    phone = make_phone(phones=2)
    with pytest.raises(EdgeAfError, match=r"more than one phone: 127.0.0.1:15555, 127.0.0.1:15556.\nName one"):
        adb.find_phone(AdbTarget())
    assert adb.find_phone(AdbTarget(phone.serials[1])).serial == phone.serials[1]
    with pytest.raises(EdgeAfError, match=r"adb does not see it; it sees 127.0.0.1:15555, 127.0.0.1:15556"):
        adb.find_phone(AdbTarget("8A1X0LZ5K"))
    with pytest.raises(EdgeAfError, match="Connect it first: adb connect pixel:5555"):
        adb.find_phone(AdbTarget("pixel:5555"))
    monkeypatch.setenv("ANDROID_SERIAL", phone.serials[1])
    assert adb.find_phone(AdbTarget()).serial == phone.serials[1]
    with subprocess.Popen(
        ["adb", "connect", phone.silent], env=phone.environment, stdout=subprocess.DEVNULL
    ) as waiting:
        phone.adb("connect", phone.forbidding)
        deadline = time.monotonic() + 60
        while "offline" not in phone.adb("devices") and time.monotonic() < deadline:
            time.sleep(0.05)
        with pytest.raises(EdgeAfError, match="does not answer"):
            adb.find_phone(AdbTarget(phone.silent))
        with pytest.raises(EdgeAfError, match="Unlock it and confirm `Allow USB debugging`"):
            adb.find_phone(AdbTarget(phone.forbidding))
        waiting.kill()
    monkeypatch.delenv("ANDROID_SERIAL")
    for serial in (*phone.serials, phone.silent, phone.forbidding):
        phone.adb("disconnect", serial)
    with pytest.raises(EdgeAfError, match="adb sees no phone"):
        adb.find_phone(AdbTarget())
    monkeypatch.setenv("PATH", "")
    with pytest.raises(EdgeAfError, match="needs the program `adb`"):
        adb.find_phone(AdbTarget())


def test_full_storage(make_phone: Callable[..., LoopbackPhone], exports: Path):
    phone = make_phone(storage="128k")
    with pytest.raises(EdgeAfError, match=r"MB do not fit into .*: 0 MB are free there.\nFree some"):
        bench(phone, exports / "fc-late-fusion")
    # A phone that reports more free space than it has.
    df = phone.folder / "bin/df"
    df.write_text("#!/bin/sh\necho fs 9 9 999999999 1% /data\n")
    df.chmod(0o755)
    with pytest.raises(EdgeAfError, match=r"its storage is full.\nFree some"):
        bench(phone, exports / "fc-late-fusion")
    assert not [name for name in listed(phone) if name.endswith(".part")]


@pytest.mark.slow
def test_a_fleet_of_phones(make_phone: Callable[..., LoopbackPhone], exports: Path, tmp_path: Path):
    phone = make_phone(phones=2)
    fleet, out = tmp_path / "fleet.yaml", tmp_path / "results.json"
    fleet.write_text(json.dumps({"targets": [*(f"adb:{serial}" for serial in phone.serials), "adb:8A1X0LZ5K"]}))
    done = phone.bench(
        file_of(exports), "--benchmark-model", phone.program(), "--cores", "0", "--runs", 2, "--rounds", 1, "--out", out,
        where=("--target-file", fleet),
    )  # fmt: skip
    assert done.returncode == 2 and "1 of 3 targets gave no results" in done.stderr, done.stderr
    assert "adb:8A1X0LZ5K: not measured: adb does not see it" in done.stdout
    for serial in phone.serials:
        (row,) = read_results(tmp_path / f"results-adb-{serial.replace(':', '-')}.json").rows
        assert row.status == "ok"


@pytest.mark.slow
def test_a_phone_a_board_and_this_machine_on_one_page(
    phone: LoopbackPhone, board: LoopbackBoard, exports: Path, eval_dataset: Dataset, tmp_path: Path
):
    quickly = ("--runs", 3, "--rounds", 1, "--no-packed")
    file, (here, there, mobile) = file_of(exports), (tmp_path / f"{name}.json" for name in ("here", "there", "phone"))
    data = ("--data", eval_dataset.folder)
    assert edge_af("bench", file, *data, *quickly, "--out", here).exit_code == 0
    assert board.bench(file, *data, *quickly, "--out", there).returncode == 0
    done = edge_af(
        "bench", file, *data, "--target", "adb", "--benchmark-model", phone.program(), *quickly, "--out", mobile
    )
    assert done.exit_code == 0 and "accuracy: 200 videos" in done.output, done.output
    page, table = tmp_path / "page.html", tmp_path / "table.md"
    assert edge_af("report", here, there, mobile, "--html", page, "--markdown", table).exit_code == 0
    for text in (page.read_text(), table.read_text()):
        assert "Example Phone One (Maker SC1)" in text and "Android 16, API 36" in text
        assert "A phone's latency was measured on random values" in html.unescape(text)
        assert "No evaluation data was given" not in text
    rows = [line for line in table.read_text().splitlines() if "INT8" in line]
    assert len(rows) == 3 and sum("Example Phone" in line for line in rows) == 1
    (mine,) = (line for line in rows if "Example Phone" in line)
    assert mine.count("–") == 1  # p90 is unknown.


@pytest.mark.parametrize(
    "text", ["adb:", "adb:-s", "adb:a ", "adb: a", "adb:a;b", "adb:a\nb", "adb:$(x)", "ADB", "adb://x"]
)
def test_what_is_no_phone(text: str):
    with pytest.raises(EdgeAfError, match=r"expected .*adb\[:SERIAL\]"):
        open_backend(text, TargetOptions())


def test_options_of_phones_are_refused_elsewhere(exports: Path):
    for arguments, message in (
        (("--cores", "big"), "--cores needs a --target"),
        (("--cores", "big", "--target", "ssh://pi"), "--cores does not apply to the target ssh://pi"),
        (("--offline", "--target", "adb"), "--offline does not apply to the target adb"),
        (("--cores", "big", "--target", "emulated:pi5"), "--cores does not apply to the target emulated:pi5"),
    ):
        done = edge_af("bench", file_of(exports), *arguments)
        assert message in str(done.exception)
    assert "adb: the doctor examines machines with Python" in str(edge_af("doctor", "--target", "adb").exception)
