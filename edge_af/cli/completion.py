"""Completion of option values in the shell, by click's own protocol. Nothing here imports a runtime or a framework."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import click
from click.shell_completion import BashComplete, CompletionItem, add_completion_class, split_arg_string

from edge_af.artifacts import FORMATS
from edge_af.models.presets import PRESETS

BREAKS = frozenset(":=")
"""Characters at which bash splits a word for completion (its COMP_WORDBREAKS)."""

Complete = Callable[[click.Context, click.Parameter, str], list[CompletionItem]]


def _starting(values: Iterable[str], incomplete: str) -> list[CompletionItem]:
    return [CompletionItem(value) for value in dict.fromkeys(values) if value.startswith(incomplete)]


def _presets(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete the presets of the network in --model, or of all networks."""
    model = context.params.get("model")
    return _starting((name for one in PRESETS if model in (None, one) for name in PRESETS[one]), incomplete)


def _recipes(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete `[FORMAT=]NAME|FILE`."""
    from edge_af.export.recipes import known_recipes

    format, equals, name = incomplete.rpartition("=")
    found = [*known_recipes(), *_yaml_files(name)]
    if equals:
        return _starting((f"{format}={one}" for one in found), incomplete) if format in FORMATS else []
    return _starting([*found, *(f"{one}=" for one in FORMATS)], incomplete)


def _yaml_files(incomplete: str) -> Iterator[str]:
    """Yield the YAML files of the folder in `incomplete`, and the folders that match it."""
    folder = incomplete.rpartition("/")[0] + "/" if "/" in incomplete else ""
    try:
        entries = sorted(Path(folder or ".").iterdir())
    except OSError:
        return
    for path in entries:
        if path.name.startswith("."):
            continue
        if path.suffix in (".yaml", ".yml"):
            yield f"{folder}{path.name}"
        elif incomplete and path.is_dir():
            yield f"{folder}{path.name}/"


def _targets(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete the schemes of targets, and the names of emulated boards."""
    from edge_af.emulation.boards import BOARDS, SCHEME

    return _starting(["ssh://", "adb", "adb:", *(f"{SCHEME}{board}" for board in BOARDS)], incomplete)


def _ssh(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    return _starting(["ssh://"], incomplete)


COMPLETE: dict[str, Complete] = {"preset": _presets, "recipe": _recipes, "target": _targets, "ssh": _ssh}
"""Functions by the name that an option gives in `complete`."""


class _Bash(BashComplete):
    """Completion for bash, which passes `emulated:pi5` as three words and replaces only the last one."""

    # No space after a value that goes on, such as `ssh://`.
    source_template = BashComplete.source_template.replace(
        "COMPREPLY+=($value)", "COMPREPLY+=($value)\n            [[ $value == *[:/=] ]] && compopt -o nospace"
    )
    _cut = ""

    def get_completion_args(self) -> tuple[list[str], str]:
        count = int(os.environ["COMP_CWORD"])
        given = split_arg_string(os.environ["COMP_WORDS"])[1 : count + 1]
        words: list[str] = []
        was_break = False
        for word in [*given, *([""] if len(given) < count else [])]:
            is_break = bool(word) and BREAKS.issuperset(word)
            is_joined = bool(words) and (is_break or was_break)
            words[-1:] = [words[-1] + word] if is_joined else [*words[-1:], word]
            self._cut = words[-1].removesuffix("" if is_break else word) if is_joined else ""
            was_break = is_break
        if self._cut.startswith("-"):  # `--target=emulated:` completes the value.
            self._cut = self._cut.partition("=")[2]
        return words[:-1], words[-1] if words else ""

    def format_completion(self, item: CompletionItem[Any]) -> str:
        return f"{item.type},{item.value.removeprefix(self._cut)}"


def register() -> None:
    """Use the completion for bash from this module."""
    add_completion_class(_Bash)
