"""Command options as dataclass fields with help, unit and check. `edge_af.cli.build` turns them into commands.

```python
@dataclass(frozen=True)
class EvalOptions:
    data: Path = option("Prepared evaluation data.")
    threads: int = option("Threads of the runtime.", default=1, at_least=1)
```
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from edge_af.errors import EdgeAfError

T = TypeVar("T")

OTHER = "Options"
"""Heading of the options without a group."""


def option(
    help: str,
    *,
    default: Any = dataclasses.MISSING,
    flag: str | None = None,
    group: str = OTHER,
    shown_default: str | None = None,
    **check: Any,
) -> Any:
    """Describe an option as a dataclass field.

    Args:
        help: a noun phrase or an imperative, with the unit.
        default: without one, the option is required. A field of a tuple type is repeatable and defaults to ().
        flag: name on the command line, if it differs from the field's.
        group: heading in `--help`.
        shown_default: text in `--help` instead of the default.
        check: `choices`, `at_least`, `at_most`, `above` or `below`, tested by `check`; for the command line also
            `is_file` (the path of a file), `metavar`, `complete` (a name in `edge_af.cli.completion`), or `parse`, a
            function that raises ValueError.
    """
    about = {"help": help, "flag": flag, "group": group, "shown_default": shown_default, **check}
    return dataclasses.field(default=default, metadata=about)


def flag_of(field: dataclasses.Field[Any]) -> str:
    """Return an option's name on the command line."""
    return field.metadata.get("flag") or f"--{field.name.replace('_', '-')}"


def check(options: Any) -> None:
    """Refuse options whose values are out of range.

    Raises:
        EdgeAfError: names the option, its value and the allowed values.
    """
    for field in dataclasses.fields(options):
        value, about = getattr(options, field.name), field.metadata
        for one in value if isinstance(value, tuple) else (value,):
            if one is not None and (rule := _broken_rule(one, about)) is not None:
                raise EdgeAfError(f"{flag_of(field)} {one}: must be {rule}.")


def _broken_rule(value: Any, about: Mapping[str, Any]) -> str | None:
    if "choices" in about and value not in about["choices"]:
        return f"one of {', '.join(about['choices'])}"
    # NaN fails every comparison.
    rules = (
        ("at_least", "at least", lambda limit: value >= limit),
        ("at_most", "at most", lambda limit: value <= limit),
        ("above", "above", lambda limit: value > limit and math.isfinite(value)),
        ("below", "below", lambda limit: value < limit),
    )
    for name, words, holds in rules:
        if name in about and not holds(about[name]):
            return f"{words} {about[name]}"
    return None


def given(options: Any, names: Sequence[str]) -> list[str]:
    """Return the flags of the named fields whose values differ from their defaults, for messages."""
    fields = {field.name: field for field in dataclasses.fields(options)}
    return [flag_of(fields[name]) for name in names if getattr(options, name) != fields[name].default]


def part(options: Any, kind: type[T]) -> T:
    """Build another dataclass from the options' fields of the same names."""
    names = [field.name for field in dataclasses.fields(kind)]  # type: ignore[arg-type]
    return kind(**{name: getattr(options, name) for name in names if hasattr(options, name)})


def parse_seconds(text: str) -> float:
    """Parse `120s`, `2m`, `1.5min` or `90` as seconds.

    Raises:
        ValueError: it is not a duration above 0.
    """
    found = re.fullmatch(r"\s*(\d+\.?\d*|\.\d+)\s*(s|sec|m|min|h)?\s*", text)
    if found is None:
        raise ValueError(f"{text!r} is not a duration: write 120s or 2m")
    if float(found[1]) <= 0:
        raise ValueError(f"{text!r} must be above 0")
    return float(found[1]) * {"m": 60, "min": 60, "h": 3600}.get(found[2] or "s", 1)
