"""Check the mechanical rules of how the project is written: docstrings, help texts, spelling, line and file lengths."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
NOT_FIRST = {"Of", "What", "Whether", "That", "Why", "How", "Where", "Which", "Who", "When"}
"""Words that start a genitive fragment or an indirect question, not a noun phrase or an imperative."""
MOST_LINES = 500
WIDTH = 100
BRITISH = re.compile(
    r"(?i)(quanti|normali|initiali|optimi|recogni|seriali|summari|organi|symboli|minimi|maximi|generali|synthe|paralleli)s(e|es|ed|ing|ation|er)\b"
    r"|\b\w*(colour|behaviour|centre|favour|neighbour|labelled(?!by)|cancelled|licence|artefact)\w*"
)
GENERATED = ("docs/reference/licenses.md", "benchmarks/results/")


def tracked(*suffixes: str) -> list[Path]:
    done = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True)
    paths = [ROOT / name for name in done.stdout.decode().split("\0") if name.endswith(suffixes)]
    return [path for path in paths if path.is_file() and not path.is_symlink()]


def docstrings(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Yield the docstrings of modules, classes, functions, fields and constants with their lines."""
    for node in ast.walk(tree):
        body = getattr(node, "body", [])
        if not isinstance(body, list):  # The body of a lambda.
            continue
        for before, one in zip([None, *body], body, strict=False):
            first = before is None and isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
            if not first and not isinstance(before, ast.Assign | ast.AnnAssign):
                continue
            if isinstance(one, ast.Expr) and isinstance(one.value, ast.Constant) and isinstance(one.value.value, str):
                yield one.lineno, one.value.value


def helps(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Yield the help texts of options with their lines."""
    for node in ast.walk(tree):
        is_option = isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "option"
        if is_option and node.args and isinstance(node.args[0], ast.Constant):
            yield node.lineno, str(node.args[0].value)


def python_faults(path: Path) -> Iterator[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for line, text in [*docstrings(tree), *helps(tree)]:
        if text.split()[0].strip(",.:;") in NOT_FIRST:
            yield f"{line}: begins with {text.split()[0]!r}; say what it is or does"
    for line, text in helps(tree):
        if not text[0].isupper() and not text.startswith(("adb:", "ssh:", "ranges.json", "fp32", "cpu")):
            yield f"{line}: a help text begins with a capital letter: {text[:30]!r}"
        if len(text) > 84:
            yield f"{line}: a help text fits one line of 84 characters: {len(text)}"


def prose_faults(path: Path) -> Iterator[str]:
    """Yield Markdown lines that are too long, code included, except in tables and for links that cannot be broken."""
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        can_be_wrapped = " " in line.strip() and not line.lstrip().startswith("|")
        if can_be_wrapped and len(line) > WIDTH:
            yield f"{number}: {len(line)} characters; wrap at {WIDTH}"


def main() -> int:
    """Print the faults; exit code 1 if there are any."""
    faults = []
    for path in tracked(".py", ".c", ".md"):
        name, text = path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8")
        if name.startswith(GENERATED):
            continue
        found = list(prose_faults(path)) if path.suffix == ".md" else []
        if name.startswith("edge_af/") and path.suffix == ".py":
            found += python_faults(path)
        if path.suffix != ".md" and (lines := text.count("\n")) > MOST_LINES:
            found.append(f"{lines} lines; a file has {MOST_LINES} at most")
        if name != ".ci/prose.py":
            found += [f"British spelling: {word[0]!r}" for word in BRITISH.finditer(text)]
        faults += [f"{name}:{fault}" for fault in found]
    checked = [
        str(path.relative_to(ROOT)) for path in tracked(".py", ".md", ".yaml", ".toml", ".c", ".html", ".css", ".js")
    ]
    spelling = subprocess.run(
        [str(Path(sys.executable).parent / "codespell"), *checked], cwd=ROOT, capture_output=True, text=True
    )
    faults += spelling.stdout.splitlines()
    sys.stdout.write("".join(f"{fault}\n" for fault in faults))
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
