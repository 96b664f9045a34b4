"""One command builds base and candidate from a temporary repository."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from small_dataset import REPOSITORY

from edge_af.compare.checkout import built
from edge_af.errors import EdgeAfError
from edge_af.git import commit_at
from edge_af.git import git as run_git


def git(folder: Path, *arguments: str) -> str:
    settings = ("-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false")
    command = ["git", "-C", str(folder), *settings, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository with the text `old` in its commit and `new` in its working tree."""
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
    """This also holds in a subfolder, and with the repository already on PYTHONPATH."""
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


@pytest.mark.parametrize("linked", [False, True])
def test_in_a_git_hook_the_users_commit_and_index_stay_theirs(tmp_path: Path, linked: bool):
    """Git passes its index to a hook in the environment, and every git process that the hook starts would inherit it."""
    home = tmp_path / "repository"
    home.mkdir()
    git(home, "init", "-q", "-b", "main")
    for name in ("one", "two"):
        (home / name).write_text(name)
    git(home, "add", ".")
    git(home, "commit", "-qm", "first")
    code = (
        "from pathlib import Path; from edge_af.compare.checkout import built\n"
        "with built('HEAD', ['sh', '-c', 'mkdir -p $EDGE_AF_OUT; git status > $EDGE_AF_OUT/status; cp one $EDGE_AF_OUT'])"
        " as (base, new):\n"
        f"    Path({str(tmp_path / 'seen')!r}).write_text((base / 'one').read_text() + (new / 'one').read_text())\n"
    )
    hook = home / ".git/hooks/pre-commit"
    hook.parent.mkdir(exist_ok=True)
    python = shlex.join(["env", f"PYTHONPATH={REPOSITORY}", sys.executable, "-c", code])
    hook.write_text(f"#!/bin/sh\n{python}\n")
    hook.chmod(0o755)
    folder = home
    if linked:
        folder = tmp_path / "linked"
        git(home, "worktree", "add", "-q", str(folder), "-b", "other")
    (folder / "one").write_text("changed")
    git(folder, "commit", "-qam", "second")
    assert (tmp_path / "seen").read_text() == "onechanged"
    assert git(folder, "show", "--format=", "--name-status", "HEAD").split() == ["M", "one"]
    assert git(folder, "status", "--porcelain") == ""


def test_a_strangers_repository_runs_no_program_when_its_commit_is_asked_for(tmp_path: Path):
    ran = tmp_path / "ran"
    folder = tmp_path / "export"
    (folder / "inner").mkdir(parents=True)
    (folder / "inner/file").write_text("x")
    for arguments in (["init", "-q"], ["add", "."], ["commit", "-qm", "x"]):
        git(folder, *arguments)
    program = f"touch {ran}"
    (folder / ".gitattributes").write_text("* filter=evil diff=evil\n")
    (folder / ".git/config").write_text(
        f"[core]\n\tfsmonitor = {program}\n\tpager = {program}\n\tsshCommand = {program}\n"
        f'[filter "evil"]\n\tclean = {program}\n\tprocess = {program}\n[alias]\n\trev-parse = !{program}\n'
    )
    (folder / "inner/file").write_text("y")
    assert len(commit_at(folder / "inner") or "") == 40
    assert not ran.exists()


def test_the_callers_repository_is_not_taken_for_the_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "plain").mkdir()
    monkeypatch.setenv("GIT_DIR", str(REPOSITORY / ".git"))
    monkeypatch.setenv("GIT_WORK_TREE", str(REPOSITORY))
    assert commit_at(tmp_path / "plain") is None


def test_a_repository_of_somebody_else_is_named_with_what_to_do(tmp_path: Path):
    if os.geteuid() != 0:
        pytest.skip("only root can give a folder away")
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    os.chown(tmp_path, 12345, 12345)
    with pytest.raises(EdgeAfError, match=r"belongs to somebody else.*git config --global --add safe.directory"):
        run_git(tmp_path, "rev-parse", "--show-toplevel")
