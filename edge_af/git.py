"""Run git independently of the caller's environment and of an untrusted repository's configuration."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

from edge_af.errors import EdgeAfError

SECONDS = 60
_KEPT = ("GIT_CONFIG_GLOBAL", "GIT_CONFIG_SYSTEM", "GIT_CONFIG_NOSYSTEM", "GIT_CONFIG_COUNT", "GIT_CEILING_DIRECTORIES")
_KEPT_BEGINNINGS = ("GIT_CONFIG_KEY_", "GIT_CONFIG_VALUE_")


def without_git(environment: Mapping[str, str]) -> dict[str, str]:
    """Return an environment without the variables that git sets for hooks (GIT_INDEX_FILE, GIT_DIR and so on).

    With them, git would read and write the caller's repository and index. Variables that locate git's configuration
    stay.
    """
    return {
        name: value
        for name, value in environment.items()
        if not name.startswith("GIT_") or name in _KEPT or name.startswith(_KEPT_BEGINNINGS)
    }


def git(folder: Path, *arguments: str) -> str:
    """Return the output of a git command, run in `folder`.

    Raises:
        EdgeAfError: git is not installed or fails; the message quotes git.
    """
    command = ["git", "-C", str(folder), "-c", "core.fsmonitor=false", *arguments]
    try:
        done = subprocess.run(
            command, capture_output=True, encoding="utf-8", errors="replace", env=without_git(os.environ),
            stdin=subprocess.DEVNULL, timeout=SECONDS if arguments[0] != "worktree" else None,
        )  # fmt: skip
    except FileNotFoundError:
        raise EdgeAfError("git is needed for this, and not installed.") from None
    except subprocess.TimeoutExpired:
        raise EdgeAfError(f"git {arguments[0]}: did not end within {SECONDS} s.") from None
    if done.returncode != 0:
        raise EdgeAfError(f"git {arguments[0]}: {_reason(done.stderr, folder)}")
    return done.stdout.strip()


def _reason(said: str, folder: Path) -> str:
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    # git prints the reason first, then advice.
    reason = next((line for line in lines if line.startswith("fatal: ")), (lines or ["no message"])[-1])
    if "dubious ownership" in reason:
        return (
            f"{folder} belongs to somebody else, and git does not trust it. If you do: "
            f"git config --global --add safe.directory {folder}"
        )
    return reason.removeprefix("fatal: ")


def commit_at(folder: Path, *, trusted: bool = False) -> str | None:
    """Return the commit checked out in a folder; None outside a repository.

    Args:
        folder: any folder.
        trusted: also add `-changed` if files are modified. This may run programs that the repository's configuration
            names (filters), so use it only for trusted folders.
    """
    try:
        commit = git(folder, "rev-parse", "--verify", "HEAD")
        changed = trusted and git(folder, "status", "--porcelain", "--untracked-files=no")
    except EdgeAfError:
        return None
    return commit + ("-changed" if changed else "")
