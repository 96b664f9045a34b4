"""Read untrusted JSON and YAML: plain values only, bounded in depth and size, one exception for all faults.

Python's parsers accept values that fail later, far from the file: NaN, numbers too large for an array, duplicate keys, dates,
lone surrogates, nesting too deep for a recursive function. All JSON and YAML input is read here.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from functools import cache
from typing import Any

DEEPEST = 64
"""Deepest nesting of lists and objects. Our own files have at most eight levels."""
MOST_BYTES = {"JSON": 1 << 28, "YAML": 1 << 20}
"""Largest file read, in bytes. PyYAML takes ten seconds for a megabyte."""
MOST_YAML_VALUES = 100_000
"""Most values in a YAML file after expanding aliases: a few lines of aliases can stand for billions."""
LARGEST_INTEGER = 2**63 - 1


class DocumentError(ValueError):
    """A document that cannot be used; the message says why and where."""


def parse_json(text: str | bytes) -> Any:
    """Parse a JSON document.

    Raises:
        DocumentError: the document is not JSON in UTF-8, or fails `check_plain`.
    """
    try:
        value = json.loads(text if isinstance(text, str) else text.decode(), object_pairs_hook=_object)
    except RecursionError:
        raise DocumentError(f"nested more than {DEEPEST} levels deep") from None
    except DocumentError:
        raise
    except ValueError as error:
        # JSONDecodeError, UnicodeDecodeError, and an integer with too many digits for Python.
        raise DocumentError(str(error)) from None
    check_plain(value)
    return value


def parse_yaml(text: str | bytes) -> Any:
    """Parse a YAML document; a date stays text.

    Raises:
        DocumentError: the document is not YAML in UTF-8, or fails `check_plain`.
    """
    import yaml

    try:
        value = yaml.load(text if isinstance(text, str) else text.decode(), Loader=_yaml_loader())
    except RecursionError:
        raise DocumentError(f"nested more than {DEEPEST} levels deep") from None
    except (yaml.YAMLError, ValueError, LookupError, ArithmeticError, TypeError, AttributeError) as error:
        # A tag that does not fit its text makes PyYAML raise almost any exception.
        raise DocumentError(" ".join(str(error).split()) or type(error).__name__) from None
    check_plain(value, most=MOST_YAML_VALUES)
    return value


def check_plain(value: Any, most: int | None = None) -> None:
    """Refuse values other than objects with text keys, lists, text, numbers, true, false and null.

    Args:
        value: a parser's result.
        most: largest number of values.

    Raises:
        DocumentError: another kind of value, a key that is not text, a number that is not finite or needs more than 64
            bits, text with lone surrogates (except those that stand for a file name's bytes), deep nesting, too many values.
    """
    waiting: list[tuple[Any, str, int]] = [(value, "", 1)]
    seen = 0
    while waiting:
        one, where, depth = waiting.pop()
        seen += 1
        if most is not None and seen > most:
            raise DocumentError(f"holds more than {most:,} values")
        if isinstance(one, dict | list):
            if depth > DEEPEST:
                raise DocumentError(f"nested more than {DEEPEST} levels deep")
            if isinstance(one, list):
                waiting += [(inner, f"{where}[{index}]", depth + 1) for index, inner in enumerate(one)]
                continue
            for key, inner in one.items():
                if not isinstance(key, str):
                    raise DocumentError(f"{where or 'the top'}: the key {key!r:.40} is not text; put it in quotes")
                if wrong := _wrong_with(key):
                    raise DocumentError(f"{where or 'the top'}: a key {wrong}")
                waiting.append((inner, f"{where}.{key}".lstrip(".")[:200], depth + 1))
        elif wrong := _wrong_with(one):
            raise DocumentError(f"{where or 'the top'}: {wrong}")


def _wrong_with(value: Any) -> str | None:
    """Return why a single value cannot be used; None if it can."""
    if value is None or isinstance(value, bool):
        return None
    if isinstance(value, str):
        try:
            # Python holds the other bytes of a file name that is not UTF-8 as lone surrogates.
            value.encode(errors="surrogateescape")
        except UnicodeEncodeError:
            return "holds half of a surrogate pair, which is not text"
        return None
    if isinstance(value, int):
        return None if -LARGEST_INTEGER - 1 <= value <= LARGEST_INTEGER else "a number of more than 64 bits"
    if isinstance(value, float):
        return None if math.isfinite(value) else f"{value} is not a number that can be used"
    return f"a value of type {type(value).__name__}, which is not supported"


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(name for name, count in Counter(name for name, _ in pairs).items() if count > 1)
        raise DocumentError(f"the key {twice!r:.40} is given twice")
    return found


@cache
def _yaml_loader() -> Any:
    """PyYAML's SafeLoader, but dates stay text, duplicate keys are refused, and merges are bounded."""
    import yaml

    class Loader(yaml.SafeLoader):
        def compose_mapping_node(self, anchor: Any) -> Any:
            node = super().compose_mapping_node(anchor)
            keys = [(key.tag, key.value) for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
            if twice := next((key for key, count in Counter(keys).items() if count > 1), None):
                raise DocumentError(f"the key {twice[1]!r:.40} is given twice")
            return node

        def flatten_mapping(self, node: Any) -> None:
            super().flatten_mapping(node)
            if len(node.value) > MOST_YAML_VALUES:
                raise DocumentError(f"holds more than {MOST_YAML_VALUES:,} values")

    Loader.yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    return Loader
