"""Ground: small inputs of every verb, made once by the verbs themselves, and helpers that run edge-af."""

from __future__ import annotations

import contextlib
import hashlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from outcome import Ended

CLASSES = 24
SUITE = """\
name: tortured
networks:
  - {model: fc-late-fusion, preset: linear}
precisions: [fp32, int8]
runtimes: [onnxruntime]
method: {inferences: 2, seconds: 1, rounds: 1, warm_up: 0, packed: false}
"""
RECIPE = """\
description: "weights INT8, activations INT8 as they come"
weights: int8
activations: dynamic
layers:
  "hea*": {weights: float, activations: float}
"""
BUDGET = """\
relative:
  max_slowdown: 25%
  max_gap_drop: 0.01
limits:
  "fc-late-fusion-*":
    size_bytes: 4.3 MB
    gap_at_20: 0.0
"""
TARGETS = """\
targets:
  - ssh://127.0.0.1:9
  - {target: "ssh://nobody@127.0.0.1:9", offline: true}
"""


@dataclass(frozen=True)
class Ground:
    """Folder with the inputs of every verb."""

    folder: Path

    def __truediv__(self, name: str) -> Path:
        return self.folder / name


def run(
    *arguments: object,
    folder: Path,
    timeout: float = 600,
    environment: dict[str, str] | None = None,
    **more: object,
) -> Ended:
    """Run `edge-af` in its own session, and end every process of that session afterwards."""
    return finish(start(*arguments, folder=folder, environment=environment, **more), timeout)


def start(
    *arguments: object,
    folder: Path,
    environment: dict[str, str] | None = None,
    before: Sequence[str] = (),
    **more: object,
) -> subprocess.Popen[bytes]:
    """Start `edge-af` in its own session. `before` is a command prefix."""
    command = [*before, sys.executable, "-m", "edge_af", *map(str, arguments)]
    options: dict[str, object] = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    return subprocess.Popen(  # type: ignore[call-overload, no-any-return]
        command,
        cwd=folder,
        start_new_session=True,
        env=environment or dict(os.environ),
        **{**options, **more},
    )


def finish(process: subprocess.Popen[bytes], timeout: float = 600) -> Ended:
    """Wait for a process, and end what is left of its session."""
    try:
        said, _ = process.communicate(timeout=timeout)
        status: int | None = process.returncode
    except subprocess.TimeoutExpired:
        status = None
        end_session(process.pid)
        said, _ = process.communicate()
    end_session(process.pid)
    return Ended(status, said or b"")


def session(leader: int) -> list[int]:
    """Return the process IDs of a session, without zombies."""
    found = []
    for place in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, _, own = place.read_text(errors="replace").rpartition(")")[2].split()[:4]
        except OSError:
            continue
        if int(own) == leader and state != "Z":
            found.append(int(place.parent.name))
    return found


def end_session(leader: int) -> None:
    """Kill every process of a session."""
    for one in session(leader):
        with contextlib.suppress(ProcessLookupError):
            os.kill(one, signal.SIGKILL)


def tree(place: Path) -> dict[str, str]:
    """Return the SHA-256 of every file at or below a path, by relative name."""
    files = [place] if place.is_file() else [path for path in place.rglob("*") if path.is_file()]
    return {str(path.relative_to(place)): hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(files)}


def make(folder: Path) -> Ground:
    """Make the inputs of every verb in a new folder.

    Raises:
        RuntimeError: a verb fails.
    """
    ground = Ground(folder)
    folder.mkdir(parents=True)
    texts = {"suite.yaml": SUITE, "recipe.yaml": RECIPE, "budget.yaml": BUDGET, "targets.yaml": TARGETS}
    texts["vocabulary.csv"] = "index,name\n" + "".join(f"{one},class {one}\n" for one in range(CLASSES))
    for name, text in texts.items():
        (folder / name).write_text(text)
    subprocess.run(
        ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "me@example", "-f", folder / "key"], check=True
    )
    (folder / "signers").write_text(f"me@example {(folder / 'key.pub').read_text()}")
    prepare = ("data", "prepare", "--vocabulary", "vocabulary.csv")
    train = ("train", "--model", "fc-late-fusion", "--preset", "linear", "--data", "train", "--epochs")
    export = ("--calibration-data", "train", "--calibration-videos", 32)
    bench = ("--data", "eval", "--runs", 2, "--rounds", 1, "--no-packed")
    for arguments in (
        ("data", "synth", "raw", "--videos-train", 300, "--videos-eval", 90, "--classes", CLASSES),
        (*prepare, "raw/train", "--out", "train"),
        (*prepare, "raw/eval", "--out", "eval"),
        (*train, 1, "--out", "run"),
        ("export", "run", "--int8", "--out", "artifacts", *export),
        ("bench", "artifacts", *bench, "--out", "results.json"),
        (
            "compare",
            "artifacts/fc-late-fusion-int8.onnx",
            "artifacts/fc-late-fusion-int8.onnx",
            "--history",
            "history.jsonl",
        ),
        ("bundle", "artifacts", "--sign", "key", "--out", "bundle.zip"),
    ):
        ended = run(*arguments, folder=folder)
        if ended.status != 0:
            raise RuntimeError(f"{arguments}: {ended.said.decode(errors='replace')}")
    # An interrupted training run, to resume from.
    process = start(*train, 400, "--checkpoint-steps", 5, "--out", "unfinished", folder=folder)
    while process.poll() is None and not (folder / "unfinished/checkpoint.safetensors").exists():
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    finish(process)
    return ground
