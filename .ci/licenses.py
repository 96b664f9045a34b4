"""Writes docs/licenses.md of the pinned packages that are installed: `python .ci/licenses.py PIP-LICENSES`."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
READ = {
    "axe-playwright-python": "MIT (its LICENSE file)",
    "namex": "Apache-2.0 (its LICENSE file)",
}
"""Of packages whose metadata says nothing: what was read in their files."""
HEAD = """# Licenses

What `make install` puts beside edge-af, with the license that each package states of itself; `make licenses` writes this anew.
The packages of a plain install are click, numpy and a runtime, onnxruntime or ai-edge-litert. The weak copyleft among them,
MPL-2.0 (certifi, hypothesis, pathspec, tqdm), covers changes to those packages' own files. PyTorch's list is long because its
wheel carries other libraries. edge-af itself states no license yet: ask its authors before you pass it on.

| package | version | license |
|---|---|---|
"""


def main(pip_licenses: str) -> None:
    command = [pip_licenses, f"--python={sys.executable}", "--from=mixed", "--format=json"]
    found = json.loads(subprocess.run(command, capture_output=True, check=True, encoding="utf-8").stdout)
    licenses = {normal(one["Name"]): " ".join(one["License"].split()) for one in found}
    lines = []
    for name, version in pinned():
        license = licenses.get(name)
        if license is None:
            license = "of another platform, not looked at"
        elif license == "UNKNOWN":
            license = READ[name]
        lines.append(f"| {name} | {version} | {license} |")
    (ROOT / "docs/licenses.md").write_text(HEAD + "\n".join(lines) + "\n", encoding="utf-8")


def normal(name: str) -> str:
    """A package's name as the packaging standards normalise it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def pinned() -> list[tuple[str, str]]:
    """Name and version of every line in constraints.txt."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return sorted((normal(one[1]), one[2]) for line in lines if (one := re.match(r"([\w.-]+)==([^\s;]+)", line)))


if __name__ == "__main__":
    main(*sys.argv[1:])
