"""Build base and candidate with the same command: the base in a checkout of another commit, the candidate here."""

from __future__ import annotations

import contextlib
import os
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from edge_af.console import say
from edge_af.errors import EdgeAfError
from edge_af.git import git, without_git

OUT_VARIABLE = "EDGE_AF_OUT"
OUT, REPOSITORY = "{out}", "{repository}"
"""Placeholders in the command: the folder to write to, and this repository, including files that git does not track."""


@contextlib.contextmanager
def built(ref: str, command: Sequence[str], repository: Path | None = None) -> Iterator[tuple[Path, Path]]:
    """Yield the folders of base and candidate that `command` wrote; they and the checkout are removed with the block.

    The command runs twice: in a git worktree of `ref`, and in the repository with its uncommitted changes. Its working
    directory is the folder that corresponds to this process's. The environment variable `EDGE_AF_OUT`, or `{out}` in its
    arguments, tells it where to write. Its Python finds packages of its own tree first.

    Args:
        ref: a commit, branch or tag.
        command: program and arguments, run without a shell.
        repository: a folder in the repository; the working directory when None.

    Raises:
        EdgeAfError: this is not a git repository, it has no such commit, or the command fails or writes nothing.
    """
    here = (repository or Path.cwd()).resolve()
    root = Path(git(here, "rev-parse", "--show-toplevel"))
    try:
        commit = git(root, "rev-parse", "--verify", "--end-of-options", f"{ref}^{{commit}}")
    except EdgeAfError:
        raise EdgeAfError(f"{ref}: no such commit in {root}.") from None
    if not command:
        raise EdgeAfError("--base-ref needs a command after `--` that exports to the folder $EDGE_AF_OUT.")
    with tempfile.TemporaryDirectory(prefix="edge-af-compare-") as name:
        scratch = Path(name)
        checkout = scratch / "checkout"
        git(root, "worktree", "add", "--detach", str(checkout), commit)
        try:
            outs = (scratch / "base", scratch / "candidate")
            for role, tree, out in (("base", checkout, outs[0]), ("candidate", root, outs[1])):
                say(f"{role}: {' '.join(command)} ({commit[:12] if role == 'base' else 'working tree'})")
                _build(role, tree, here.relative_to(root), out, command, root)
            yield outs
        finally:
            git(root, "worktree", "remove", "--force", str(checkout))


def _build(role: str, tree: Path, inner: Path, out: Path, command: Sequence[str], root: Path) -> None:
    folder = tree / inner
    if not folder.is_dir():
        raise EdgeAfError(f"the {role} has no folder {folder.name} to run the command in.")
    words = [word.replace(OUT, str(out)).replace(REPOSITORY, str(root)) for word in command]
    try:
        # Its output goes to standard error; standard output is for the comparison only.
        done = subprocess.run(
            words,
            cwd=folder,
            env={**without_git(os.environ), OUT_VARIABLE: str(out), "PYTHONPATH": _search_path(tree, root)},
            stdout=2,
            stdin=subprocess.DEVNULL,
        )
    except OSError as error:
        raise EdgeAfError(f"{words[0]}: cannot be run for the {role} ({error.strerror}).") from None
    if done.returncode != 0:
        raise EdgeAfError(f"the command ended with status {done.returncode} for the {role}: {' '.join(words)}")
    if not out.is_dir() or not any(out.iterdir()):
        raise EdgeAfError(f"the command wrote nothing to the folder ${OUT_VARIABLE} for the {role}: {' '.join(words)}")


def _search_path(tree: Path, root: Path) -> str:
    """Return a PYTHONPATH that starts with the tree and has entries in the repository moved into the tree."""
    given = [Path(entry) for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry]
    moved = [
        tree / entry.resolve().relative_to(root) if entry.resolve().is_relative_to(root) else entry for entry in given
    ]
    return os.pathsep.join(map(str, dict.fromkeys([tree, *moved])))
