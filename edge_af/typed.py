"""Dataclasses from JSON: every field is checked against its annotation, however deep it lies."""

from __future__ import annotations

import dataclasses
import math
import types
from functools import cache
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

T = TypeVar("T")


class Mismatch(ValueError):
    """A value that does not fit; the message names the place, as in `files[2].gate.videos`."""


def built(kind: type[T], value: Any, *, unknown: bool = False) -> T:
    """Build a dataclass from the object that its `dataclasses.asdict` became in JSON.

    Args:
        kind: the dataclass. Fields may be dataclasses, lists, tuples and dicts of such, and unions with None.
        value: what JSON gave.
        unknown: pass over fields that it does not have, instead of refusing them.

    Raises:
        Mismatch: a field is missing, unknown or of another type.
    """
    made: T = _fit(kind, value, "", unknown)
    return made


@cache
def _hints(kind: Any) -> dict[str, Any]:
    return get_type_hints(kind)


def _fit(wanted: Any, value: Any, where: str, unknown: bool) -> Any:
    """`value` as what `wanted` promises: dataclasses built, lists that stand for tuples turned into tuples."""
    if wanted is Any:
        return value
    if dataclasses.is_dataclass(wanted) and isinstance(wanted, type):
        if isinstance(value, wanted):
            return value
        return _build(wanted, value, where, unknown)
    origin, args = get_origin(wanted), get_args(wanted)
    if origin in (Union, types.UnionType):
        return _fit_one_of(args, value, where, unknown)
    if origin is Literal and value in args and type(value) in map(type, args):
        return value
    if origin in (list, tuple) and isinstance(value, list | tuple):
        kinds = [args[0]] * len(value) if origin is list or args[-1] is ... else args
        if len(kinds) == len(value):
            fitted = [
                _fit(one, inner, f"{where}[{at}]", unknown)
                for at, (one, inner) in enumerate(zip(kinds, value, strict=True))
            ]
            return fitted if origin is list else tuple(fitted)
    if origin is dict and isinstance(value, dict):
        return {
            _fit(args[0], key, where, unknown): _fit(args[1], inner, f"{where}.{key}", unknown)
            for key, inner in value.items()
        }
    if isinstance(wanted, type) and _is(value, wanted):
        return value
    name = origin.__name__ if origin in (dict, list) else getattr(wanted, "__name__", str(wanted))
    raise Mismatch(f"{where.lstrip('.') or 'the whole'} is {value!r:.60}, not {NAMES.get(name, name)}")


NAMES = {
    "int": "a whole number",
    "float": "a number",
    "str": "text",
    "bool": "true or false",
    "dict": "an object",
    "list": "a list",
}
"""What a type is called in a message."""


def _is(value: Any, wanted: type) -> bool:
    """Whether a value is of a plain type. A whole number passes for a float; true and false pass for no number."""
    if wanted is float:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return isinstance(value, wanted) and (wanted is not int or not isinstance(value, bool))


def _fit_one_of(kinds: tuple[Any, ...], value: Any, where: str, unknown: bool) -> Any:
    if value is None and type(None) in kinds:
        return None
    others = [kind for kind in kinds if kind is not type(None)]
    for kind in others[:-1]:
        try:
            return _fit(kind, value, where, unknown)
        except Mismatch:
            continue
    return _fit(others[-1], value, where, unknown)


def _build(kind: Any, value: Any, where: str, unknown: bool) -> Any:
    if not isinstance(value, dict):
        raise Mismatch(f"{where.lstrip('.') or 'the whole'} is {value!r:.60}, not an object")
    fields = {field.name: field for field in dataclasses.fields(kind) if field.init}
    if not unknown and (other := next((name for name in value if name not in fields), None)) is not None:
        raise Mismatch(f"{where}.{other}".lstrip(".") + " is no field that is known")
    needed = [
        name
        for name, field in fields.items()
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    ]
    if lacking := next((name for name in needed if name not in value), None):
        raise Mismatch(f"{where}.{lacking}".lstrip(".") + " is missing")
    hints = _hints(kind)
    return kind(
        **{
            name: _fit(hints[name], inner, f"{where}.{name}", unknown)
            for name, inner in value.items()
            if name in fields
        }
    )
