"""Run edge-af's commands from the scripts in this folder."""

from __future__ import annotations

import shlex
import subprocess
import sys
import textwrap
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from edge_af.console import say
from edge_af.machine.device import this_device


def edge_af(*words: object) -> str:
    """Show a command and run it in a process of its own; return its standard output. Exit with its code if it fails."""
    command = [str(word) for word in words]
    say(f"\n$ edge-af {shlex.join(command)}")
    done = subprocess.run(
        [sys.executable, "-m", "edge_af", *command], stdout=subprocess.PIPE, encoding="utf-8", errors="replace"
    )
    if done.returncode:
        sys.exit(done.returncode)
    return done.stdout


def commit() -> str | None:
    """Return the short hash of this checkout's commit; None without git."""
    here = Path(__file__).resolve().parent
    done = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=here, capture_output=True, encoding="utf-8", errors="replace"
    )
    return done.stdout.strip() or None


def record(module: str) -> dict[str, Any]:
    """Return the first fields of a results file: its command, commit, time and machine."""
    return {
        "schema_version": 1,
        "command": this_command(module),
        "commit": commit(),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "device": asdict(this_device()),
    }


def made_by(found: dict[str, Any]) -> str:
    """Name the command, machine and commit of a results file in a sentence."""
    device = found["device"]
    return f"Made by `{found['command']}` on {device['cpu']}, {device['cores']} cores, commit {found['commit']}."


def paragraph(text: str) -> list[str]:
    """Wrap a text at 100 columns, as all Markdown here."""
    return textwrap.wrap(text, 99, break_long_words=False, break_on_hyphens=False)


def is_exported(run: Path, out: Path) -> bool:
    """Return True if the export folder `out` is newer than the run."""
    manifest = out / "manifest.json"
    return manifest.exists() and manifest.stat().st_mtime_ns >= (run / "run.json").stat().st_mtime_ns


def this_command(module: str) -> str:
    """Return the command line of the running script."""
    return shlex.join(["python", "-m", f"benchmarks.{module}", *sys.argv[1:]])
