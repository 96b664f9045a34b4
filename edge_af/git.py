"""Git, called so that neither the caller's environment nor a stranger's repository has a say in it."""

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
    """An environment without what git tells its hooks (GIT_INDEX_FILE, GIT_DIR and their kin).

    With them, git would read and write the repository and the index that the caller is at work on. Where git's
    configuration lies stays.
    """
    return {
        name: value
        for name, value in environment.items()
        if not name.startswith("GIT_") or name in _KEPT or name.startswith(_KEPT_BEGINNINGS)
    }


def git(folder: Path, *arguments: str) -> str:
    """Return the output of a git command, run in `folder`.

    Raises:
        EdgeAfError: git is not installed, or says no; the message has its own words.
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
    # Advice follows the reason.
    reason = next((line for line in lines if line.startswith("fatal: ")), (lines or ["no message"])[-1])
    if "dubious ownership" in reason:
        return (
            f"{folder} belongs to somebody else, and git does not trust it. If you do: "
            f"git config --global --add safe.directory {folder}"
        )
    return reason.removeprefix("fatal: ")


def commit_at(folder: Path, *, trusted: bool = False) -> str | None:
    """The commit that is checked out where a folder lies; None outside a repository.

    Args:
        folder: any folder.
        trusted: whether to look for changed files as well, and to add `-changed` if there are some. That may run programs
            which the repository's own configuration names (filters): not to be done in a folder from elsewhere.
    """
    try:
        commit = git(folder, "rev-parse", "--verify", "HEAD")
        changed = trusted and git(folder, "status", "--porcelain", "--untracked-files=no")
    except EdgeAfError:
        return None
    return commit + ("-changed" if changed else "")
