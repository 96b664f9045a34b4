"""Build dataclasses from JSON and YAML with every field checked, and generate their JSON Schema."""

from __future__ import annotations

import dataclasses
import re
import types
from functools import cache
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin, get_type_hints

import msgspec

T = TypeVar("T")

Count = Annotated[int, msgspec.Meta(ge=0)]
Positive = Annotated[int, msgspec.Meta(ge=1)]
Amount = Annotated[float, msgspec.Meta(ge=0)]


def one_of(*choices: str) -> msgspec.Meta:
    """Allow only these texts, as in `Annotated[str, one_of("a", "b")]`."""
    return msgspec.Meta(pattern=f"^({'|'.join(map(re.escape, choices))})$")


class Mismatch(ValueError):
    """A value that does not fit; the message names its place, such as `files[2].gate.videos`."""


def built(kind: type[T], value: Any, *, unknown: bool = False) -> T:
    """Build a dataclass from its JSON object, as `dataclasses.asdict` made it.

    Args:
        kind: the dataclass. Fields may be dataclasses, lists, tuples and dicts of them, and unions with None.
        value: parsed and checked by `edge_af.documents.check_plain`.
        unknown: ignore unknown fields instead of refusing them.

    Raises:
        Mismatch: a field is missing, unknown, of the wrong type or out of range.
    """
    try:
        found = msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        text, _, place = str(error).partition(" - at `")
        where = place.rstrip("`").removeprefix("$").lstrip(".") or "the top level"
        raise Mismatch(f"{where}: {text[0].lower()}{text[1:]}") from None
    if not unknown and (odd := _unknown_field(kind, value)) is not None:
        raise Mismatch(f"{odd.lstrip('.')}: unknown field")
    return found


@cache
def _hints(kind: Any) -> dict[str, Any]:
    return get_type_hints(kind)


def _unknown_field(wanted: Any, value: Any, where: str = "") -> str | None:
    """Return the place of the first unknown field in a value that otherwise fits."""
    origin, args = get_origin(wanted), get_args(wanted)
    inner: list[tuple[Any, Any, str]] = []
    if isinstance(wanted, type) and dataclasses.is_dataclass(wanted) and isinstance(value, dict):
        hints = _hints(wanted)
        for name, one in value.items():
            if name not in hints:
                return f"{where}.{name}"
            inner.append((hints[name], one, f"{where}.{name}"))
    elif origin in (Union, types.UnionType):
        inner = [(one, value, where) for one in args if dataclasses.is_dataclass(one) or get_origin(one) is not None]
    elif origin in (list, tuple) and isinstance(value, list):
        kinds = args if origin is tuple and args[-1] is not ... else [args[0]] * len(value)
        inner = [(one, item, f"{where}[{at}]") for at, (one, item) in enumerate(zip(kinds, value, strict=False))]
    elif origin is dict and isinstance(value, dict):
        inner = [(args[1], item, f"{where}.{name}") for name, item in value.items()]
    return next(filter(None, (_unknown_field(*one) for one in inner)), None)
