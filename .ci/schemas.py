"""Write docs/schemas: the JSON Schemas of the files that edge-af writes, from their dataclasses."""

from __future__ import annotations

import ast
import inspect
import itertools
import json
import sys
import textwrap
from pathlib import Path
from typing import Any

import msgspec

from edge_af.records import comparison, history, results

FOLDER = Path(__file__).resolve().parents[1] / "docs/schemas"
SCHEMAS = {
    "results.schema.json": (results.Results, results.SCHEMA_VERSION, "`results.json`, written by `edge-af bench`"),
    "compare.schema.json": (
        comparison.Comparison,
        comparison.SCHEMA_VERSION,
        "Comparison, written by `edge-af compare --out`",
    ),
    "history.schema.json": (
        history.Entry,
        history.SCHEMA_VERSION,
        "Line of a history, written by `edge-af compare --history`",
    ),
}


def field_texts(kind: type[Any]) -> dict[str, str]:
    """Return the docstrings of a dataclass's fields by name."""
    body = ast.parse(textwrap.dedent(inspect.getsource(kind))).body[0].body
    return {
        field.target.id: " ".join(text.value.value.split())
        for field, text in itertools.pairwise(body)
        if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant)
    }


def schema_of(kind: type[Any], version: int, title: str) -> dict[str, Any]:
    """Return the JSON Schema of a file, with the fields' docstrings as descriptions."""
    (reference,), definitions = msgspec.json.schema_components([kind])
    classes = {name: found for module in (results, comparison, history) for name, found in vars(module).items()}
    for name, definition in definitions.items():
        for field, text in field_texts(classes[name]).items():
            definition["properties"].get(field, {})["description"] = text
    top = definitions[kind.__name__]
    top["properties"] = {"schema_version": {"const": version}, **top["properties"]}
    top["required"] = ["schema_version", *top["required"]]
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": title,
        "$ref": reference["$ref"],
        "$defs": dict(sorted(definitions.items())),
    }


def texts() -> dict[str, str]:
    """Return the text of each schema by file name."""
    return {name: json.dumps(schema_of(*about), indent=2) + "\n" for name, about in SCHEMAS.items()}


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for name, text in texts().items():
        (FOLDER / name).write_text(text, encoding="utf-8")
        sys.stdout.write(f"{FOLDER / name}\n")
