"""Build click commands from dataclasses; see `edge_af.options`."""

from __future__ import annotations

import dataclasses
import difflib
import re
import textwrap
import types
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any, Union

import click

from edge_af.options import OTHER, check, flag_of


class GroupedCommand(click.Command):
    """A command whose `--help` groups the options and ends with an example.

    It may have commands of its own, in `commands`: they win over a first argument of the same name.
    """

    def __init__(self, *arguments: Any, example: str = "", groups: dict[str, str] | None = None, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self._example, self._groups = example, groups or {}
        self.commands: dict[str, click.Command] = {}

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        if args and args[0] in self.commands:
            return self.commands[args[0]].make_context(f"{info_name} {args[0]}", args[1:], parent, **extra)
        return super().make_context(info_name, args, parent, **extra)

    def format_options(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        sections: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(context):
            if isinstance(parameter, click.Option) and (record := parameter.get_help_record(context)) is not None:
                sections.setdefault(self._groups.get(parameter.name or "", OTHER), []).append(record)
        # General options come last.
        for heading in sorted(sections, key=lambda heading: heading == OTHER):
            with formatter.section(heading):
                formatter.write_dl(sections[heading])
        if self.commands:
            with formatter.section("Commands"):
                formatter.write_dl([(name, one.get_short_help_str(80)) for name, one in self.commands.items()])

    def format_epilog(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        if self._example:
            with formatter.section("Example"):
                for line in self._example.splitlines():
                    formatter.write(textwrap.indent(_continued(line, formatter.width - 4), "  ") + "\n")


def _continued(command: str, width: int) -> str:
    """Break a command line into lines of at most `width` characters, joined by backslashes. Options keep their values."""
    lines = [""]
    for word in re.findall(r"(?:--\S+ (?!-))?(?:'[^']*'|\S)+", command):
        if lines[-1] and len(lines[-1]) + len(word) + 1 > width - 2:
            lines.append(f"    {word}")
        else:
            lines[-1] = f"{lines[-1]} {word}".lstrip() if len(lines) == 1 else f"{lines[-1]} {word}"
    return " \\\n".join(lines)


class Parsed(click.ParamType):
    """An option parsed by a function that raises ValueError."""

    def __init__(self, parse: Callable[[str], Any], name: str) -> None:
        self.name, self._parse = name, parse

    def convert(self, value: Any, parameter: click.Parameter | None, context: click.Context | None) -> Any:
        if not isinstance(value, str):
            return value
        try:
            return self._parse(value)
        except ValueError as error:
            self.fail(f"{error}.", parameter, context)


class OneOf(click.Choice[str]):
    """One of several names; the message about an unknown name also suggests the nearest."""

    def get_invalid_choice_message(self, value: Any, ctx: click.Context | None) -> str:
        message = super().get_invalid_choice_message(value, ctx)
        near = difflib.get_close_matches(str(value), self.choices, n=1, cutoff=0.7)
        return f"{message} Did you mean {near[0]!r}?" if near else message


def path_argument(metavar: str, *, several: bool = False) -> click.Argument:
    """Describe a positional argument that is a path."""
    return click.Argument(
        ["unnamed"], type=click.Path(path_type=Path), metavar=metavar, nargs=-1 if several else 1, required=True
    )


def verb(
    options: type[Any], *, example: str, name: str | None = None, **arguments: click.Argument
) -> Callable[[Callable[..., None]], GroupedCommand]:
    """Make a click command of a function. Its docstring is the help.

    Args:
        options: a dataclass; the function takes an instance as `options`.
        example: example command lines, one per line.
        name: the command's name; the function's by default.
        arguments: positional arguments, passed to the function by name.
    """

    def decorate(function: Callable[..., None]) -> GroupedCommand:
        fields = dataclasses.fields(options)
        for argument_name, argument in arguments.items():
            argument.name, argument.opts = argument_name, [argument_name]
        hints = typing.get_type_hints(options)

        def callback(**given: Any) -> None:
            positional = {name: given.pop(name) for name in arguments}
            made = options(**given)
            check(made)
            function(**positional, options=made)

        return GroupedCommand(
            name or function.__name__,
            callback=callback,
            params=[*arguments.values(), *(_parameter(field, hints[field.name]) for field in fields)],
            help=function.__doc__,
            example=example,
            groups={field.name: field.metadata.get("group", OTHER) for field in fields},
        )

    return decorate


def _parameter(field: dataclasses.Field[Any], hint: Any) -> click.Option:
    about = field.metadata
    if typing.get_origin(hint) in (Union, types.UnionType):
        hint = next(one for one in typing.get_args(hint) if one is not type(None))
    several = typing.get_origin(hint) is tuple
    kind = _click_type(typing.get_args(hint)[0] if several else hint, about)
    name, required = flag_of(field), field.default is dataclasses.MISSING
    # An explicit default, even None, would satisfy `required`.
    default: dict[str, Any] = {} if required else {"default": field.default}
    text = about["help"] + (f"  [default: {about['shown_default']}]" if about["shown_default"] is not None else "")
    if hint is bool:
        declared = f"{name}/--no-{name.removeprefix('--')}" if field.default is True else name
        return click.Option([declared, field.name], is_flag=True, help=text, **default)
    return click.Option(
        [name, field.name],
        type=kind,
        multiple=several,
        required=required,
        show_default=not required and field.default not in (None, ()) and about["shown_default"] is None,
        metavar=about.get("metavar"),
        help=text,
        shell_complete=_complete(about["complete"]) if "complete" in about else None,
        **default,
    )


def _complete(name: str) -> Callable[[click.Context, click.Parameter, str], list[Any]]:
    """Return the completer of this name, which is imported when a shell asks for it."""

    def complete(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[Any]:
        from edge_af.cli.completion import COMPLETE

        return COMPLETE[name](context, parameter, incomplete)

    return complete


def paths(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[Any]:
    """Let the shell complete files and folders, for an argument of type text."""
    from click.shell_completion import CompletionItem

    return [CompletionItem(incomplete, type="file")]


def _click_type(kind: Any, about: typing.Mapping[str, Any]) -> click.ParamType:
    if "parse" in about:
        return Parsed(about["parse"], about.get("metavar") or "text")
    if "choices" in about:
        return OneOf(list(about["choices"]))
    if kind is Path:
        return click.Path(path_type=Path, dir_okay=not about.get("is_file", False))
    return click.INT if kind is int else click.FLOAT if kind is float else click.STRING
