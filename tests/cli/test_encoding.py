"""Text is UTF-8 in every locale; file names may be any bytes."""

from __future__ import annotations

import ast
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from edge_af.files import read_json, read_yaml, write_json

ROOT = Path(__file__).resolve().parents[2]
SOURCES = [*sorted((ROOT / "edge_af").rglob("*.py")), *sorted((ROOT / "benchmarks").glob("*.py"))]

# The defaults are ASCII for files and Latin-1 for standard output.
OTHER_LOCALE = {
    "LC_ALL": "POSIX",
    "PYTHONCOERCECLOCALE": "0",
    "PYTHONUTF8": "0",
    "PYTHONIOENCODING": "iso-8859-1",
}


def edge_af(*arguments, **options):
    command = [sys.executable, "-m", "edge_af", *map(os.fsencode, arguments)]
    return subprocess.run(command, capture_output=True, timeout=120, **options)


def in_other_locale(*arguments):
    return edge_af(*arguments, env={**os.environ, **OTHER_LOCALE})


NO_TEXT_FILES = {"av", "os", "gzip", "archive", "self", "tarfile"}
"""Modules and objects with an `open` that is neither the built-in one nor that of `Path`."""


def _lacks_encoding(call: ast.Call) -> bool:
    """Return True if a call reads or writes text in the locale's encoding."""
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    given = {keyword.arg: keyword.value for keyword in call.keywords}
    if "encoding" in given:
        return False
    owner = getattr(getattr(call.func, "value", None), "id", "")
    if name in ("open", "fdopen") and (name, owner) not in {("open", one) for one in NO_TEXT_FILES}:
        values = [*call.args, *filter(None, [given.get("mode")])]
        texts = [node.value for value in values for node in ast.walk(value) if isinstance(node, ast.Constant)]
        return not any(isinstance(text, str) and "b" in text and len(text) <= 3 for text in texts)
    if (owner, name) == ("distribution", "read_text"):
        return False  # importlib.metadata reads UTF-8 and takes no encoding.
    return name in ("read_text", "write_text") or bool({"text", "universal_newlines"} & {*given})


def test_text_is_read_and_written_with_its_encoding_said():
    lacking = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in SOURCES
        for node in ast.walk(ast.parse(path.read_bytes()))
        if isinstance(node, ast.Call) and _lacks_encoding(node)
    ]
    assert lacking == []


def test_json_and_yaml_are_read_as_utf8_whatever_the_locale(tmp_path):
    write_json(tmp_path / "a.json", {"name": "Pokémon ≤ 5"})
    code = (
        "import sys; from pathlib import Path; from edge_af.files import read_json, read_yaml\n"
        "print(ascii([read(Path(sys.argv[1]), 'file')['name'] for read in (read_json, read_yaml)]))"
    )
    command = [sys.executable, "-c", code, tmp_path / "a.json"]
    done = subprocess.run(command, capture_output=True, env={**os.environ, **OTHER_LOCALE}, timeout=60)
    assert done.stdout.decode().strip() == ascii(["Pokémon ≤ 5"] * 2), done.stderr.decode()


def test_a_name_that_is_not_utf8_survives_json(tmp_path):
    name = os.fsdecode(b"caf\xe9")
    write_json(tmp_path / "a.json", {"path": name})
    assert (tmp_path / "a.json").read_bytes().isascii()
    assert read_json(tmp_path / "a.json", "file") == {"path": name}
    assert read_yaml(tmp_path / "a.json", "file") == {"path": name}


@pytest.mark.parametrize("verb", ["bench", "compare", "report", "verify"])
def test_help_is_printed_in_a_locale_that_lacks_its_signs(verb):
    done = in_other_locale(verb, "--help")
    assert done.returncode == 0 and done.stderr == b""


def test_json_on_standard_output_stays_json_in_any_locale(eval_dataset):
    """Class names and file names survive the round trip."""
    folder = eval_dataset.folder.parent / os.fsdecode("Größe ≤ 5 😀".encode())
    shutil.copytree(eval_dataset.folder, folder, dirs_exist_ok=True)
    done = in_other_locale("data", "info", folder, "--json")
    assert done.returncode == 0, done.stderr.decode()
    assert json.loads(done.stdout.decode("iso-8859-1"))["videos"] == eval_dataset.videos
