"""Shell completion: click's protocol gives commands, options and values, and loads no framework."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from edge_af.cli import EXTRA_OF, VERBS
from edge_af.emulation.boards import BOARDS
from edge_af.export.recipes import known_recipes
from edge_af.models.presets import PRESETS

HEAVY = {*EXTRA_OF, "onnxruntime", "ai_edge_litert"} - {"yaml"}
CODE = """
import json, sys
from edge_af.cli import main
try:
    main()
finally:
    sys.stdout.flush()
    print("\\x00" + json.dumps(sorted({name.partition(".")[0] for name in sys.modules})))
"""


def completed(line: str, folder: Path, shell: str = "bash") -> list[str]:
    """Return the candidates for the last word of a line, which may be empty."""
    words = line.split(" ")
    position = words[-1] if shell == "fish" else str(len(words) - 1)
    environment = {**os.environ, "_EDGE_AF_COMPLETE": f"{shell}_complete", "COMP_WORDS": line, "COMP_CWORD": position}
    command = [sys.executable, "-c", CODE]
    done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and done.stderr == "", done.stderr
    answer, _, modules = done.stdout.partition("\x00")
    assert not set(json.loads(modules)) & HEAVY
    if shell == "zsh":
        return answer.splitlines()[1::3]
    return [one.partition(",")[2].partition("\t")[0] for one in answer.splitlines() if one]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("edge-af ", list(VERBS)),
        ("edge-af d", ["demo", "data", "doctor"]),
        ("edge-af data p", ["prepare"]),
        ("edge-af bench --dr", ["--dry-run"]),
        ("edge-af train --model attend-fusion --preset ", list(PRESETS["attend-fusion"])),
        ("edge-af train --model fc-late-fusion --preset ", list(PRESETS["fc-late-fusion"])),
        ("edge-af models --preset l", ["linear"]),
        ("edge-af export run --recipe int8-s", ["int8-static", "int8-static-minmax"]),
        ("edge-af export run --recipe onnx=fp", ["onnx=fp16"]),
        ("edge-af export run --format ", ["onnx", "tflite"]),
        ("edge-af bundle x --precision ", ["fp32", "fp16", "int8", "int4", "int2"]),
        ("edge-af bench x --target ", ["ssh://", "adb", "adb:", *(f"emulated:{board}" for board in BOARDS)]),
        ("edge-af bench x --target emulated:z", ["emulated:zero2w"]),
        ("edge-af bench x --target=emulated:z", ["emulated:zero2w"]),
        ("edge-af misspelt --", ["--version", "--help"]),
    ],
)
def test_candidates(line: str, expected: list[str], shell: str, tmp_path: Path):
    assert completed(line, tmp_path, shell) == expected


def test_recipes_are_names_and_yaml_files(tmp_path: Path):
    (tmp_path / "recipes").mkdir()
    for name in ("mine.yaml", "recipes/other.yml", "recipes/notes.txt", ".hidden.yaml"):
        (tmp_path / name).touch()
    found = completed("edge-af export run --recipe ", tmp_path)
    assert found == [*known_recipes(), "mine.yaml", "onnx=", "tflite="]
    assert completed("edge-af export run --recipe rec", tmp_path) == ["recipes/"]
    assert completed("edge-af export run --recipe recipes/", tmp_path) == ["recipes/other.yml"]
    assert completed("edge-af export run --recipe nowhere/", tmp_path) == []


@pytest.mark.parametrize(
    "line", ["edge-af bench x", "edge-af data prepare x", "edge-af data info x", "edge-af compare a x"]
)
def test_paths_are_left_to_the_shell(line: str, tmp_path: Path):
    assert completed(line, tmp_path) == ["x"]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["bench", "--target", "emulated", ":", "z"], ["zero2w"]),
        (["bench", "--target", "emulated", ":"], list(BOARDS)),
        (["bench", "--target", "=", "emulated", ":", "z"], ["zero2w"]),
        (["bench", "--target", "=", "ss"], ["ssh://"]),
        (["export", "--recipe", "onnx", "=", "fp"], ["fp16"]),
        (["export", "--recipe", "="], [*known_recipes(), "onnx=", "tflite="]),
    ],
    ids=" ".join,
)
def test_bash_itself_gets_the_part_of_the_word_that_it_replaces(words: list[str], expected: list[str], tmp_path: Path):
    """Bash splits words at colons and equal signs."""
    (tmp_path / "edge-af").write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m edge_af "$@"\n')
    (tmp_path / "edge-af").chmod(0o755)
    (tmp_path / "empty").mkdir()
    script = f"""
        compopt() {{ :; }}
        source <(_EDGE_AF_COMPLETE=bash_source {shlex.quote(sys.executable)} -c '
import sys; sys.argv[0] = "edge-af"
from edge_af.cli import main
main()')
        COMP_WORDS=(edge-af {shlex.join(words)})
        COMP_CWORD={len(words)}
        _edge_af_completion edge-af
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    environment = {**os.environ, "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", "-c", script], env=environment, cwd=tmp_path / "empty", capture_output=True, text=True, timeout=60
    )
    assert done.stderr == "" and done.stdout.split() == expected
