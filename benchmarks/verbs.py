"""Run edge-af's commands from the scripts in this folder."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

from edge_af.console import say


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


def this_command(module: str) -> str:
    """Return the command line of the running script."""
    return shlex.join(["python", "-m", f"benchmarks.{module}", *sys.argv[1:]])
