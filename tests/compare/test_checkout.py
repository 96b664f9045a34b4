"""Base and candidate built by one command, in a repository made for it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from edge_af.compare.checkout import built
from edge_af.errors import EdgeAfError


def git(folder: Path, *arguments: str) -> str:
    settings = ("-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false")
    command = ["git", "-C", str(folder), *settings, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository whose commit says `old` and whose working tree says `new`."""
    folder = tmp_path / "repository"
    (folder / "inner").mkdir(parents=True)
    git(tmp_path, "init", "--quiet", "--initial-branch", "main", str(folder))
    (folder / "inner/what").write_text("old")
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "-m", "first")
    (folder / "inner/what").write_text("new")
    return folder


@pytest.mark.parametrize("script", ['mkdir "$EDGE_AF_OUT" && cp what "$EDGE_AF_OUT"', "mkdir {out} && cp what {out}"])
def test_each_is_built_from_its_own_tree_and_nothing_is_left(repository: Path, script: str):
    with built("main", ["sh", "-c", script], repository / "inner") as (base, candidate):
        assert (base / "what").read_text() == "old" and (candidate / "what").read_text() == "new"
    assert not base.exists() and not candidate.exists()
    assert len(git(repository, "worktree", "list").splitlines()) == 1
    assert git(repository, "status", "--porcelain").split() == ["M", "inner/what"]


def test_each_runs_the_packages_of_its_own_tree(repository: Path, monkeypatch: pytest.MonkeyPatch):
    """Also from a folder below, and where the search path already leads to the repository as it is here."""
    import sys

    (repository / "what.py").write_text("name = 'old'")
    git(repository, "add", ".")
    git(repository, "commit", "--quiet", "-m", "second")
    (repository / "what.py").write_text("name = 'new'")
    (repository / "inner/that.py").write_text("")
    monkeypatch.setenv("PYTHONPATH", f"{repository}/inner::{repository}:/elsewhere")
    script = "import os, sys, what; os.mkdir('{out}'); open('{out}/' + what.name, 'w').write(os.environ['PYTHONPATH'])"
    with built("main", [sys.executable, "-c", script], repository / "inner") as (base, candidate):
        (first,), (second,) = base.iterdir(), candidate.iterdir()
        assert (first.name, second.name) == ("old", "new")
        assert str(repository) not in first.read_text() and first.read_text().endswith(":/elsewhere")
        assert second.read_text() == f"{repository}:{repository}/inner:/elsewhere"


@pytest.mark.parametrize(
    "ref, command, said",
    [
        ("nowhere", ["true"], "nowhere: no such commit"),
        ("--help", ["true"], "--help: no such commit"),
        ("main", ["false"], "ended with status 1 for the base"),
        ("main", ["true"], "wrote nothing to the folder $EDGE_AF_OUT for the base"),
        ("main", ["no-such-program"], "no-such-program: cannot be run for the base"),
        ("main", [], "needs a command"),
    ],
)
def test_what_goes_wrong_is_told_and_nothing_is_left(repository: Path, ref: str, command: list[str], said: str):
    with pytest.raises(EdgeAfError) as refused, built(ref, command, repository):
        pass
    assert said in str(refused.value)
    assert len(git(repository, "worktree", "list").splitlines()) == 1


def test_outside_a_repository(tmp_path: Path):
    with pytest.raises(EdgeAfError, match="git rev-parse"), built("main", ["true"], tmp_path):
        pass
