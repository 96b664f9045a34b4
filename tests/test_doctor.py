"""`edge-af doctor` reports what runs on this machine, even if a package crashes or hangs on import."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
from small_dataset import REPOSITORY

from edge_af.doctor import no_wheels, remarks
from edge_af.machine.conditions import Conditions
from edge_af.machine.device import this_device

BLOCKER = """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {blocked!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Blocker())
"""
HEAVY = ("torch", "tensorflow", "onnx", "safetensors")


def doctor(
    folder: Path, *arguments: str, fakes: dict[str, str] | None = None, blocked: tuple[str, ...] = ()
) -> subprocess.CompletedProcess[str]:
    """Run the command with the packages `fakes`, by name and source text, and without those `blocked`."""
    for name, body in (fakes or {}).items():
        (folder / name).mkdir()
        (folder / name / "__init__.py").write_text(textwrap.dedent(body))
    (folder / "sitecustomize.py").write_text(BLOCKER.format(blocked=(*HEAVY, *blocked)))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), str(REPOSITORY)])}
    # -P, so that the working directory is not on the path, as for a console script.
    command = [sys.executable, "-P", "-m", "edge_af", "doctor", *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, cwd=folder)
    assert "Traceback" not in done.stderr
    return done


def found(done: subprocess.CompletedProcess[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the checks of runtimes and of commands, by name."""
    value = json.loads(done.stdout)
    return {one["runtime"]: one for one in value["runtimes"]}, {one["verb"]: one for one in value["verbs"]}


DIE = """
import os, signal
os.kill(os.getpid(), signal.{signal})
"""


def test_a_plain_install_is_well(tmp_path: Path):
    done = doctor(tmp_path, "--json")
    assert done.returncode == 0, done.stderr
    runtimes, verbs = found(done)
    assert {name: one["status"] for name, one in runtimes.items()} == {"onnxruntime": "ok", "litert": "ok"}
    assert all(verbs[verb]["works"] and verbs[verb]["reason"] is None for verb in ("bench", "eval", "predict"))
    assert not verbs["train"]["works"] and verbs["train"]["extra"] == "train"
    assert verbs["export"]["extra"] == "export" and "torch is not installed" in verbs["export"]["reason"]
    value = json.loads(done.stdout)
    assert value["page_bytes"] == os.sysconf("SC_PAGE_SIZE") and value["device"] == dataclasses.asdict(this_device())


def test_a_runtime_that_dies_of_sigill_is_named_with_what_to_do(tmp_path: Path):
    done = doctor(tmp_path, fakes={"onnxruntime": DIE.format(signal="SIGILL")})
    assert done.returncode == 0, done.stderr  # LiteRT works
    text = " ".join(done.stdout.split())
    assert "crashed: SIGILL while importing the runtime" in text
    version = this_device().versions["onnxruntime"]
    assert f"pip install 'onnxruntime!={version}'" in text and "or use .tflite files" in text
    assert "bench works: for .tflite files only" in text


def test_status_1_where_no_runtime_works(tmp_path: Path):
    fakes = {name: DIE.format(signal="SIGSEGV") for name in ("onnxruntime", "ai_edge_litert")}
    done = doctor(tmp_path, "--json", fakes=fakes)
    assert done.returncode == 1 and "no runtime works here" in done.stderr
    runtimes, verbs = found(done)
    assert all(one["status"] == "crashed" and "SIGSEGV" in one["reason"] for one in runtimes.values())
    assert "--force-reinstall --no-cache-dir ai-edge-litert" in runtimes["litert"]["advice"]
    assert not any(one["works"] for one in verbs.values())


@pytest.mark.slow
def test_a_runtime_that_hangs_is_stopped(tmp_path: Path):
    done = doctor(tmp_path, "--json", "--timeout", "4", fakes={"onnxruntime": "import time\ntime.sleep(3600)"})
    runtime = found(done)[0]["onnxruntime"]
    assert runtime["status"] == "timeout" and "within 4 s" in runtime["reason"] and "--timeout" in runtime["advice"]


def test_a_runtime_that_is_missing_and_one_that_misses_a_library(tmp_path: Path):
    message = "libgomp.so.1: cannot open shared object file: No such file or directory"
    done = doctor(
        tmp_path, "--json", fakes={"onnxruntime": f"raise ImportError({message!r})"},
        blocked=("ai_edge_litert", "tflite_runtime"),
    )  # fmt: skip
    assert done.returncode == 1
    runtimes, _ = found(done)
    assert runtimes["litert"]["status"] == runtimes["onnxruntime"]["status"] == "missing-runtime"
    assert "pip install ai-edge-litert" in runtimes["litert"]["reason"]
    assert "library of the system" in runtimes["onnxruntime"]["advice"]


@pytest.mark.parametrize("numpy", [None, DIE.format(signal="SIGILL")])
def test_it_speaks_where_numpy_cannot(tmp_path: Path, numpy: str | None):
    broken = {"fakes": {"numpy": numpy}} if numpy else {"blocked": ("numpy",)}
    done = doctor(tmp_path, "--json", **broken)  # type: ignore[arg-type]
    assert done.returncode == 1, done.stderr
    for one in found(done)[0].values():
        assert one["reason"].startswith("it needs numpy: ") and "numpy" in one["advice"]
        assert one["status"] == ("crashed" if numpy else "missing-runtime")


@pytest.mark.parametrize(
    "machine, bits, said",
    [
        ("aarch64", 64, None),
        ("x86_64", 64, None),
        ("aarch64", 32, "32-bit, on a 64-bit kernel"),
        ("armv7l", 32, "tflite-runtime 2.14.0 has one for armv7l"),
        ("armv6l", 32, "older boards cannot run edge-af"),
        ("i686", 32, "have no wheels for it"),
    ],
)
def test_what_32_bit_systems_are_told(machine: str, bits: int, said: str | None):
    text = no_wheels(machine, bits)
    assert text is None if said is None else said in (text or "")


def test_what_is_to_be_known_of_a_board():
    state = Conditions(None, 48.0, [], 2400.0, "performance", 0)
    pi5 = dataclasses.replace(this_device(), machine="aarch64", features=["asimd", "asimddp"])
    assert remarks(pi5, state, 64, 4096, "glibc") == []
    (pages,) = remarks(pi5, state, 64, 16384, "glibc")
    assert "16 KiB" in pages and "kernel=kernel8.img" in pages
    pi4 = dataclasses.replace(pi5, features=["asimd"])
    slowed = dataclasses.replace(state, governor="ondemand", throttled=["under-voltage since boot"])
    kinds = ["no dot-product", "governor ondemand", "under-voltage since boot"]
    assert all(kind in said for kind, said in zip(kinds, remarks(pi4, slowed, 64, 4096, "glibc"), strict=True))
    laptop = dataclasses.replace(pi5, machine="x86_64", features=["avx2"])
    assert "no VNNI" in remarks(laptop, state, 64, 4096, "glibc")[0]
    assert "not glibc" in remarks(pi5, state, 64, 4096, "")[0]
