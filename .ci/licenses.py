"""Write docs/reference/licenses.md from the installed packages: `python .ci/licenses.py PIP-LICENSES`."""

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
"""Licenses of packages whose metadata names none, with the file that does."""
HEAD = """# Licenses

The packages that `make install` installs, each with the license in its metadata. `make licenses`
updates this page. A plain install needs click, numpy and one runtime: onnxruntime or
ai-edge-litert.

MPL-2.0 (certifi, hypothesis, pathspec, tqdm) is a weak copyleft: it covers changes to those
packages' own files. codespell (GPL-2.0) only checks spelling in `make lint`. PyTorch's entry is long
because its wheel includes other libraries. edge-af itself has the Apache License 2.0 (`LICENSE`,
`NOTICE`).

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
            license = "not checked: for other platforms"
        elif license == "UNKNOWN":
            license = READ[name]
        lines.append(f"| {name} | {version} | {license} |")
    (ROOT / "docs/reference/licenses.md").write_text(HEAD + "\n".join(lines) + "\n", encoding="utf-8")


def normal(name: str) -> str:
    """Normalize a package's name as the packaging standards do."""
    return re.sub(r"[-_.]+", "-", name).lower()


def pinned() -> list[tuple[str, str]]:
    """Read the normalized names and the versions from constraints.txt."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return sorted((normal(one[1]), one[2]) for line in lines if (one := re.match(r"([\w.-]+)==([^\s;]+)", line)))


if __name__ == "__main__":
    main(*sys.argv[1:])
