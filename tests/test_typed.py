"""Dataclasses from JSON: as they were written, or a message that names the field."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest

from edge_af.typed import Mismatch, built


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


def test_what_was_written_comes_back() -> None:
    one = Outer(3, Inner("x", 1), "b", [Inner("y")], (4, 5), {"k": Inner("z")}, Inner("w"), "text", {"free": [1]})
    assert built(Outer, json.loads(json.dumps(dataclasses.asdict(one)))) == one


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"count": True}, "count is True, not a whole number"),
        ({"count": 1.0}, "count is 1.0, not a whole number"),
        ({"inner": {"name": "x", "share": "y"}}, "inner.share is 'y', not a number"),
        ({"inner": {"name": "x", "share": float("nan")}}, "inner.share is nan, not a number"),
        ({"inner": {}}, "inner.name is missing"),
        ({"inner": []}, r"inner is \[\], not an object"),
        ({"inner": None}, "inner is None, not an object"),
        ({"other": 1}, "other is no field that is known"),
        ({"kind": "c"}, "kind is 'c'"),
        ({"kind": ["a"]}, "kind is"),
        ({"more": [{"name": "x"}, {"name": 3}]}, r"more\[1\].name is 3, not text"),
        ({"pair": [1]}, r"pair is \[1\]"),
        ({"pair": [1, None]}, r"pair\[1\] is None"),
        ({"by_name": {"k": 1}}, "by_name.k is 1, not an object"),
        ({"maybe": {"name": None}}, "maybe.name is None, not text"),
        ({"either": None}, "either is None, not text"),
    ],
)
def test_what_does_not_fit_is_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(Mismatch, match=f"^{message}"):
        built(Outer, {"count": 1, "inner": {"name": "x"}, **change})


def test_unknown_fields_may_be_passed_over() -> None:
    assert built(Inner, {"name": "x", "later": 1}, unknown=True) == Inner("x")
