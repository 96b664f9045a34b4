"""Limits of a candidate: relative to its base, and absolute ones from a budget file kept in the repository.

YAML:

```yaml
relative:                       # missing keys have the command line's defaults
  max_slowdown: 5%
  max_growth: 1%                # of file bytes, weight bytes and multiply-adds
  max_memory_growth: 10%
  max_gap_drop: 0.002
  min_agreement: 0.9
limits:                         # by the candidate's file name; every matching pattern counts
  "*": {gap_at_20: 0.65}
  "attend-fusion-int8.*":
    size_bytes: 12 MB           # at most
    weight_bytes: 12 MB
    multiply_adds: 12000000
    peak_memory_bytes: 110 MB
    integer_share: 99%          # at least
    operators: {Reshape: 14}    # at most, by type
    instructions:               # per inference on an emulated board: dot products at least, all others at most
      pi5: {dot_product: 730000, integer_multiply: 15000}
```

Milliseconds have no limit: they depend on the machine and its load.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from edge_af.errors import EdgeAfError, unknown
from edge_af.files import read_yaml
from edge_af.records.comparison import Relative
from edge_af.records.results import Instructions

AT_MOST = ("size_bytes", "weight_bytes", "multiply_adds", "peak_memory_bytes")
AT_LEAST = ("integer_share", "gap_at_20", "f1_micro")
OPERATORS = "operators"
INSTRUCTIONS = "instructions"
NEEDS_DATA = ("gap_at_20", "f1_micro")
_UNITS = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 2**10, "mib": 2**20, "gib": 2**30}


@dataclass(frozen=True)
class BudgetFile:
    """A budget file's contents."""

    relative: dict[str, float] = field(default_factory=dict)
    """Fields of `Relative`."""
    limits: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Limits by file pattern: a number for names in `AT_MOST` and `AT_LEAST`, numbers by type for `OPERATORS`,
    numbers by board and class for `INSTRUCTIONS`."""

    def limits_of(self, file: str) -> list[tuple[str, dict[str, Any]]]:
        """Return the patterns that match a file name, with their limits."""
        return [(pattern, limits) for pattern, limits in self.limits.items() if fnmatchcase(file, pattern)]

    def check_use(self, files: Iterable[str], has_data: bool, where: Path) -> None:
        """Refuse limits that could not be checked.

        Raises:
            EdgeAfError: a pattern does not match any file, or a limit on accuracy needs evaluation data.
        """
        names = list(files)
        for pattern, limits in self.limits.items():
            if not any(fnmatchcase(name, pattern) for name in names):
                raise EdgeAfError(f"{where}: limits of {pattern!r} match none of the files: {', '.join(names)}.")
            if not has_data and (needing := [name for name in limits if name in NEEDS_DATA]):
                raise EdgeAfError(f"{where}: limits {needing[0]}, which needs an evaluation set: pass --data.")


def with_overrides(budget: BudgetFile | None, given: Mapping[str, float | None]) -> Relative:
    """Return the defaults, overridden by the budget file, then by `given` (the command line; None: not given)."""
    found = replace(Relative(), **(budget.relative if budget is not None else {}))
    return replace(found, **{name: value for name, value in given.items() if value is not None})


def read_budget_file(path: Path) -> BudgetFile:
    """Read a budget file.

    Raises:
        EdgeAfError: it is missing, is not YAML, or has an unknown key or a value of the wrong type.
    """
    value = read_yaml(path, "budget file")
    top = _mapping(value, path, "the file", ("relative", "limits"))
    known = tuple(one.name for one in fields(Relative))
    relative = {
        name: _number(inner, path, f"relative.{name}", share=True)
        for name, inner in _mapping(top.get("relative") or {}, path, "relative", known).items()
    }
    limits: dict[str, dict[str, Any]] = {}
    for pattern, inner in _mapping(top.get("limits") or {}, path, "limits", None).items():
        place = f"limits.{pattern}"
        limits[pattern] = {}
        for name, limit in _mapping(inner, path, place, (*AT_MOST, *AT_LEAST, OPERATORS, INSTRUCTIONS)).items():
            if name == INSTRUCTIONS:
                limits[pattern][name] = _instructions(limit, path, f"{place}.{name}")
            elif name == OPERATORS:
                limits[pattern][name] = {
                    op: _number(count, path, f"{place}.{name}.{op}")
                    for op, count in _mapping(limit, path, f"{place}.{name}", None).items()
                }
            else:
                limits[pattern][name] = _number(limit, path, f"{place}.{name}", share=name in AT_LEAST)
    if not relative and not limits:
        raise EdgeAfError(f"{path}: the budget file limits nothing. Add `relative:` or `limits:`.")
    return BudgetFile(relative, limits)


def _instructions(value: Any, path: Path, place: str) -> dict[str, dict[str, float]]:
    """Read limits by board and instruction class."""
    from edge_af.emulation.boards import BOARDS

    classes = tuple(one.name for one in fields(Instructions))
    return {
        board: {
            name: _number(count, path, f"{place}.{board}.{name}")
            for name, count in _mapping(inner, path, f"{place}.{board}", classes).items()
        }
        for board, inner in _mapping(value, path, place, tuple(BOARDS)).items()
    }


def parse_share(text: str) -> float:
    """Parse `5%` or `0.05` as 0.05.

    Raises:
        ValueError: it is neither, or below 0.
    """
    words = text.strip()
    try:
        number = float(words.removesuffix("%")) / (100 if words.endswith("%") else 1)
    except ValueError:
        raise ValueError(f"{text!r} is not a share: write 5% or 0.05") from None
    if not 0 <= number < float("inf"):
        raise ValueError(f"{text!r} must be 0 or more")
    if number > 1 and not words.endswith("%"):
        raise ValueError(f"{text!r} would be {number * 100:g} %: write {words}% if that percentage is meant")
    return number


def _mapping(value: Any, path: Path, place: str, known: tuple[str, ...] | None) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise EdgeAfError(f"{path}: {place}: expected a mapping of keys to values, found {str(value)[:40]!r}.")
    for name in value:
        if not isinstance(name, str):
            raise EdgeAfError(f"{path}: {place}: {name!r} is not text; keys must be.")
        if known is not None and name not in known:
            if "latency" in name or name.endswith(("_ms", "p50", "p90")):
                raise EdgeAfError(
                    f"{path}: {place}: {name!r}: times have no limits because they depend on the machine and its load.\n"
                    "max_slowdown compares with the base, which is measured beside the candidate."
                )
            raise EdgeAfError(f"{path}: {place}: {unknown('key', name, known)}")
    return value


def _number(value: Any, path: Path, place: str, share: bool = False) -> float:
    if isinstance(value, str):
        found = re.fullmatch(r"\s*(\d[\d_]*\.?\d*)\s*([kmg]?i?b)?\s*", value.lower())
        if share and value.strip().endswith("%"):
            try:
                return parse_share(value)
            except ValueError as error:
                raise EdgeAfError(f"{path}: {place}: {error}.") from None
        if found is None or share:
            raise EdgeAfError(f"{path}: {place}: {value!r} is not a number{'' if share else ' such as 12 MB'}.")
        return float(found[1].replace("_", "")) * _UNITS[found[2] or ""]
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < float("inf"):
        raise EdgeAfError(f"{path}: {place}: {value!r}: expected a number of 0 or more.")
    return float(value)
