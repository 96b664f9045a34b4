"""Dataclasses from JSON: round trip, and errors that name the field."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import pytest

from edge_af.typed import Mismatch, Positive, built, one_of


@dataclass(frozen=True)
class Inner:
    name: str
    share: float = 0.5


@dataclass(frozen=True)
class Outer:
    count: int
    inner: Inner
    kind: Literal["a", "b"] = "a"
    more: list[Inner] = field(default_factory=list)
    pair: tuple[int, int] = (1, 2)
    by_name: dict[str, Inner] = field(default_factory=dict)
    maybe: Inner | None = None
    either: int | str = 0
    anything: Any = None
    positive: Positive = 1
    choice: Annotated[str, one_of("a", "b.")] = "a"


def test_what_was_written_comes_back() -> None:
    one = Outer(3, Inner("x", 1), "b", [Inner("y")], (4, 5), {"k": Inner("z")}, Inner("w"), "text", {"free": [1]})
    assert built(Outer, json.loads(json.dumps(dataclasses.asdict(one)))) == one


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"count": True}, "count: expected `int`, got `bool`"),
        ({"count": 1.5}, "count: expected `int`, got `float`"),
        ({"inner": {"name": "x", "share": "y"}}, "inner.share: expected `float`, got `str`"),
        ({"inner": {}}, "inner: object missing required field `name`"),
        ({"inner": []}, "inner: expected `object`, got `array`"),
        ({"inner": None}, "inner: expected `object`, got `null`"),
        ({"other": 1}, "other: unknown field"),
        ({"inner": {"name": "x", "other": 1}}, "inner.other: unknown field"),
        ({"more": [{"name": "x", "other": 1}]}, r"more\[0\].other: unknown field"),
        ({"by_name": {"k": {"name": "x", "other": 1}}}, "by_name.k.other: unknown field"),
        ({"maybe": {"name": "x", "other": 1}}, "maybe.other: unknown field"),
        ({"kind": "c"}, "kind: invalid enum value 'c'"),
        ({"kind": ["a"]}, "kind: expected `str`, got `array`"),
        ({"more": [{"name": "x"}, {"name": 3}]}, r"more\[1\].name: expected `str`, got `int`"),
        ({"pair": [1]}, "pair: expected `array` of length 2"),
        ({"pair": [1, None]}, r"pair\[1\]: expected `int`, got `null`"),
        ({"by_name": {"k": 1}}, r"by_name\[...\]: expected `object`, got `int`"),
        ({"maybe": {"name": None}}, "maybe.name: expected `str`, got `null`"),
        ({"either": None}, r"either: expected `int \| str`, got `null`"),
        ({"positive": 0}, "positive: expected `int` >= 1"),
        ({"choice": "c"}, "choice: expected `str` matching regex"),
    ],
)
def test_what_does_not_fit_is_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(Mismatch, match=f"^{message}"):
        built(Outer, {"count": 1, "inner": {"name": "x"}, **change})


def test_unknown_fields_may_be_passed_over() -> None:
    assert built(Inner, {"name": "x", "later": 1}, unknown=True) == Inner("x")
