"""Documents: links and anchors lead somewhere, commands parse, and the generated reference is current."""

from __future__ import annotations

import dataclasses
import importlib.util
import re
import shlex
from pathlib import Path

import click
import pytest
from documents import DOCUMENTS, GENERATED, ROOT, Block, anchors, shell_blocks, without_code

from edge_af.cli import cli
from edge_af.metrics import Metrics

BLOCKS = [block for document in DOCUMENTS for block in shell_blocks(document)]


def script(name: str):
    spec = importlib.util.spec_from_file_location(name, ROOT / f".ci/{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_generated_reference_is_current():
    for name, text in script("reference").pages().items():
        assert (ROOT / "docs/reference" / name).read_text(encoding="utf-8") == text, f"{name}: run `make reference`"


def test_every_command_and_option_is_in_the_reference():
    page = (ROOT / GENERATED).read_text(encoding="utf-8")

    def walk(command: click.Command, name: str) -> None:
        assert re.search(rf"^#+ {name}$", page, re.M) or name == "edge-af", name
        for parameter in command.params:
            if isinstance(parameter, click.Option):
                assert all(f"`{flag}" in page or f", {flag}" in page for flag in parameter.opts), (name, parameter.opts)
        if isinstance(command, click.Group):
            context = click.Context(command)
            for sub in command.list_commands(context):
                inner = command.get_command(context, sub)
                assert inner is not None
                walk(inner, f"{name} {sub}")

    for verb in cli.list_commands(click.Context(cli)):
        command = cli.get_command(click.Context(cli), verb)
        assert command is not None
        walk(command, f"edge-af {verb}")


def test_every_page_is_in_the_contents():
    """`make docs` refuses a page that the index does not list."""
    index = (ROOT / "docs/index.md").read_text(encoding="utf-8")
    listed = {line.rpartition("<")[2].rstrip(">") for line in index.splitlines()}
    for folder, base in (("docs", ""), ("benchmarks", "../benchmarks/")):
        for page in (ROOT / folder).rglob("*.md"):
            name = base + page.relative_to(ROOT / folder).with_suffix("").as_posix()
            assert name in listed or name == "index", f"add {name} to docs/index.md"


def test_every_metric_is_in_the_reference():
    page = (ROOT / "docs/reference/metrics.md").read_text(encoding="utf-8")
    for field in dataclasses.fields(Metrics):
        assert field.name == "videos" or f"| `{field.name}` |" in page


@pytest.mark.parametrize("document", DOCUMENTS, ids=str)
def test_links_lead_somewhere(document: Path):
    for target in re.findall(r"\]\(([^)\s]+)\)", without_code(document)):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        path = (ROOT / document).parent / name if name else ROOT / document
        assert path.exists(), target
        if anchor:
            assert anchor in anchors(path.resolve().relative_to(ROOT)), target


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: f"{block.document}:{block.line}")
def test_commands_parse(block: Block):
    for line in block.commands():
        words = shlex.split(line.replace("…", " "), comments=True)
        if "edge_af" in words and "-m" in words:
            words = ["edge-af", *words[words.index("edge_af") + 1 :]]
        if words[:1] != ["edge-af"]:
            continue
        command: click.Command = cli
        context = click.Context(cli)
        arguments = words[1:]
        while isinstance(command, click.Group):
            inner = command.get_command(context, arguments.pop(0))
            assert inner is not None, line
            command = inner
        command.make_context(command.name, arguments)


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").split()) <= 600
