"""Checks a value against the part of JSON Schema that our schemas use, with a message that names the place.

A Raspberry Pi has no `jsonschema` package, and a results file that came by mail or from another version must not end in
a traceback. Keywords: type, const, enum, minimum, required, properties, additionalProperties, items, $ref to `#/$defs/…`.
"""

from __future__ import annotations

import math
from typing import Any

_TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "null": (type(None),),
}


def violation(value: Any, schema: dict[str, Any]) -> str | None:
    """The first place where `value` does not follow `schema`, as in `rows[3].threads: 0 is below 1`; None if it does."""
    return _violation(value, schema, schema, "")


def _violation(value: Any, schema: dict[str, Any], root: dict[str, Any], where: str) -> str | None:
    if "$ref" in schema:
        schema = root["$defs"][schema["$ref"].removeprefix("#/$defs/")]
    place = where or "the file"
    if "const" in schema and value != schema["const"]:
        return f"{place}: {value!r} where {schema['const']!r} is expected"
    if "enum" in schema and value not in schema["enum"]:
        return f"{place}: {_short(value)} is none of {', '.join(schema['enum'])}"
    if "type" in schema:
        names = [schema["type"]] if isinstance(schema["type"], str) else schema["type"]
        if not any(_is(value, name) for name in names):
            return f"{place}: {_short(value)} where {' or '.join(names)} is expected"
    if "minimum" in schema and isinstance(value, int | float) and value < schema["minimum"]:
        return f"{place}: {value} is below {schema['minimum']}"
    if isinstance(value, dict):
        for name in schema.get("required", []):
            if name not in value:
                return f"{place}: has no {name!r}"
        for name, inner in value.items():
            rule = schema.get("properties", {}).get(name, schema.get("additionalProperties"))
            if isinstance(rule, dict) and (found := _violation(inner, rule, root, f"{where}.{name}".lstrip("."))):
                return found
    if isinstance(value, list) and "items" in schema:
        for index, inner in enumerate(value):
            if found := _violation(inner, schema["items"], root, f"{where}[{index}]"):
                return found
    return None


def _is(value: Any, name: str) -> bool:
    # Python counts True as an integer; JSON does not. NaN and infinities pass Python's parser and are no JSON numbers.
    if isinstance(value, bool):
        return name == "boolean"
    return isinstance(value, _TYPES[name]) and not (isinstance(value, float) and not math.isfinite(value))


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else text[:37] + "…"
