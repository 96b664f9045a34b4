"""The `Next:` line: commands that continue from what was written, and run as printed."""

from __future__ import annotations

import json
import shlex
import shutil
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from edge_af.cli import cli
from edge_af.cli.next_step import WITHOUT, suggest, unused
from edge_af.data.dataset import Dataset


def run(words: list[str]) -> list[str]:
    """Run a command; return the words of the command that it suggests."""
    done = CliRunner().invoke(cli, words, catch_exceptions=False, standalone_mode=False)
    assert done.exit_code == 0 and "Next:" not in done.stdout
    lines = [line for line in done.stderr.splitlines() if line.startswith("Next: ")]
    return shlex.split(lines[0].removeprefix("Next: edge-af ")) if lines else []


def parse(words: list[str]) -> None:
    """Parse a command without running it."""
    command: click.Command = cli
    context = click.Context(cli)
    while isinstance(command, click.Group):
        inner = command.get_command(context, words[0])
        assert inner is not None
        command, words = inner, words[1:]
    command.make_context(command.name, list(words))


@pytest.mark.slow
def test_each_step_leads_to_the_next(
    dataset: Dataset, eval_dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    folder = tmp_path / "a folder's name"
    folder.mkdir()
    monkeypatch.chdir(folder)
    run(["data", "synth", "raw", "--videos-train", "20", "--videos-eval", "5", "--classes", "10"])
    following = run(["data", "prepare", "raw/train", "--out", "new data/train"])
    assert following == shlex.split(
        "train --model attend-fusion --preset small --data 'new data/train' --out runs/attend-fusion"
    )
    parse(following)
    following = run(["data", "prepare", "raw/eval", "--out", "new data/eval"])
    assert following == ["data", "info", "new data/eval"]
    assert run(following) == []

    shutil.copytree(dataset.folder, "my data/train")
    shutil.copytree(eval_dataset.folder, "my data/eval")
    train = "train --model fc-late-fusion --preset linear --epochs 1 --data 'my data/train' --out 'my run'"
    following = run(shlex.split(train))
    assert following == shlex.split(
        "export 'my run' --int8 --calibration-data 'my data/train' --out artifacts/fc-late-fusion"
    )
    following = run([*following, "--calibration-videos", "64", "--sensitivity-videos", "0"])
    assert following == shlex.split("bench artifacts/fc-late-fusion --data 'my data/eval' --out results.json")
    following = run([*following, "--runs", "2", "--no-packed"])
    assert following == ["report", "results.json", "--html", "results.html"]
    assert run(following) == [] and Path("results.html").is_file()

    again = [
        "bench",
        "artifacts/fc-late-fusion/fc-late-fusion-int8.tflite",
        "--quick",
        "--no-packed",
        "--html",
        "r.html",
    ]
    following = run([*again, "--data", "my data/eval", "--out", "-r.json"])
    assert following == ["predict", again[1], "my data/eval", "--videos", "3"]
    run(following)


@pytest.mark.slow
def test_nothing_is_suggested_beside_json(exports: Path, tmp_path: Path):
    file = exports / "attend-fusion/attend-fusion-int8.tflite"
    words = ["bench", str(file), "--runs", "2", "--no-packed", "--json", "--out", str(tmp_path / "r.json")]
    done = CliRunner().invoke(cli, words, catch_exceptions=False, standalone_mode=False)
    assert json.loads(done.stdout)["rows"] and "Next:" not in done.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["report", Path("a b.json")], "Next: edge-af report 'a b.json'\n"),
        (["report", Path("-r.json"), "--html", "x"], "Next: edge-af report ./-r.json --html x\n"),
        (["report", Path("it's $(x);")], """Next: edge-af report 'it'"'"'s $(x);'\n"""),
        (["report", Path("line\nbreak")], ""),
        (["report", Path("caf\udce9")], ""),
    ],
)
def test_names_are_quoted(words: list[object], said: str, capsys: pytest.CaptureFixture[str]):
    with click.Context(cli):
        suggest(*words)
    assert capsys.readouterr().err == said
    with click.Context(cli, obj=WITHOUT):
        suggest(*words)
    assert capsys.readouterr().err == ""


def test_a_name_that_is_taken_gets_a_number(tmp_path: Path):
    assert unused(tmp_path / "results.json") == tmp_path / "results.json"
    for name in ("results.json", "results-2.json"):
        (tmp_path / name).touch()
    assert unused(tmp_path / "results.json") == tmp_path / "results-3.json"
