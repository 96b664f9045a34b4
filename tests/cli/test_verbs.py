"""The command line as a whole: help, imports, exit codes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator

import click
import pytest

from edge_af.cli import EXTRA_OF, VERBS, cli

HEAVY = {*EXTRA_OF, "numpy", "onnxruntime", "ai_edge_litert"}


def edge_af(*arguments, code=None):
    command = [sys.executable, "-c", code] if code else [sys.executable, "-m", "edge_af"]
    return subprocess.run([*command, *map(str, arguments)], capture_output=True, text=True, timeout=120)


def test_help_lists_every_verb_and_each_has_its_own():
    listed = edge_af("--help")
    assert listed.returncode == 0
    assert all(verb in listed.stdout for verb in VERBS)
    code = (
        "import sys\nfrom edge_af.cli import VERBS, cli\n"
        "for verb in VERBS: cli.main([verb, '--help'], standalone_mode=False)\n"
        "import json; print('\\x00' + json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))"
    )
    helped = edge_af(code=code)
    assert helped.returncode == 0, helped.stderr
    loaded = set(json.loads(helped.stdout.partition("\x00")[2]))
    # A command's module may import numpy, but no framework and no runtime.
    assert not loaded & (HEAVY - {"numpy"})


def test_the_package_itself_imports_nothing_heavy():
    found = edge_af(code="import sys, edge_af; print(*sorted({name.partition('.')[0] for name in sys.modules}))")
    assert not set(found.stdout.split()) & HEAVY


def test_a_misspelt_verb_is_answered_with_the_nearest():
    found = edge_af("exprot")
    assert found.returncode == 2
    assert "Did you mean 'export'?" in found.stderr


def commands(group: click.Group = cli, *names: str) -> Iterator[tuple[str, ...]]:
    """Yield the words of every command."""
    for name in group.list_commands(click.Context(group)):
        found = group.get_command(click.Context(group), name)
        if isinstance(found, click.Group):
            yield from commands(found, *names, name)
        else:
            yield *names, name


@pytest.mark.parametrize("words", list(commands()), ids=" ".join)
def test_a_missing_option_is_named(words):
    command, context = cli, click.Context(cli)
    for word in words:
        command = command.get_command(context, word)
    required = [one for one in command.params if isinstance(one, click.Option) and one.required]
    positional = ["x" for one in command.params if isinstance(one, click.Argument) and one.required]
    if words == ("targets", "setup"):
        positional = ["emulated"]
    for missing in required:
        given = [word for one in required if one is not missing for word in (one.opts[0], _valid(one))]
        with pytest.raises(click.MissingParameter) as raised:
            command.make_context(" ".join(words), [*positional, *given])
        assert raised.value.param is missing


def _valid(option: click.Option) -> str:
    return option.type.choices[0] if isinstance(option.type, click.Choice) else "1"


def test_a_misspelt_choice_is_answered_with_the_nearest():
    found = edge_af("train", "--model", "atend-fusion", "--data", "x", "--out", "y")
    assert found.returncode == 2
    assert "Did you mean 'attend-fusion'?" in found.stderr
    found = edge_af("train", "--model", "attend-fusion", "--device", "tpu", "--data", "x", "--out", "y")
    assert found.returncode == 2
    assert "'auto', 'cpu', 'cuda'" in found.stderr and "Did you mean" not in found.stderr


def test_a_reader_that_has_gone_is_no_failure():
    """Like `edge-af models | head -1`, but the reader has already exited."""
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "edge_af", "models"]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, timeout=120)
    os.close(writer)
    assert done.returncode == 0 and done.stderr == ""


@pytest.mark.slow
@pytest.mark.parametrize(("verb", "package", "extra"), [("train", "torch", "train"), ("export", "onnx", "export")])
def test_a_verb_without_its_packages_says_which_extra_has_them(verb, package, extra, dataset, tmp_path):
    arguments = {
        "train": ["train", "--model", "attend-fusion", "--data", dataset.folder, "--out", tmp_path / "run"],
        "export": ["export", tmp_path, "--out", tmp_path / "out", "--int8", "--calibration-data", dataset.folder],
    }[verb]
    code = f"import sys\nsys.modules[{package!r}] = None\nfrom edge_af.cli import main\nmain()"
    found = edge_af(*arguments, code=code)
    assert found.returncode == 2, found.stderr
    assert f"[{extra}]'" in found.stderr and "pip install -e" in found.stderr
    assert "Traceback" not in found.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["train", "--model", "attend-fusion", "--data", "nowhere", "--out", "run"], "nowhere: no such folder"),
        (
            ["train", "--model", "attend-fusion", "--preset", "smal", "--data", "x", "--out", "y"],
            "Did you mean 'small'",
        ),
        (
            ["train", "--model", "attend-fusion", "--lr", "-1", "--data", "x", "--out", "y"],
            "--lr -1.0: must be above 0",
        ),
        (["demo", "--data", "nowhere"], "nowhere: the demo needs the folders train/ and eval/"),
        (["eval", "nowhere.onnx", "--data", "nowhere"], "nowhere"),
        (["bench", "nowhere"], "nowhere"),
    ],
)
def test_bad_input_is_one_or_two_lines_and_status_2(arguments, said, tmp_path):
    found = subprocess.run(
        [sys.executable, "-m", "edge_af", *arguments], capture_output=True, text=True, timeout=120, cwd=tmp_path
    )
    assert found.returncode == 2
    assert said in found.stderr
    assert len(found.stderr.strip().splitlines()) <= 2
    assert list(tmp_path.iterdir()) == []


def test_models_are_listed_with_the_papers_counts():
    rows = json.loads(edge_af("models", "--json").stdout)
    assert {"fc-late-fusion": 340_820_716}.items() <= {
        row["model"]: row["params"] for row in rows if row["preset"] == "paper"
    }.items()
