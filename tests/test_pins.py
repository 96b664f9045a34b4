"""The pinned packages: hashes, licenses, and the audit's exit codes."""

from __future__ import annotations

import json
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
from small_dataset import REPOSITORY

LICENSES = runpy.run_path(str(REPOSITORY / ".ci/licenses.py"))


def pins(file: str) -> dict[str, str]:
    lines = (REPOSITORY / file).read_text(encoding="utf-8").splitlines()
    return {LICENSES["normal"](one[1]): one[2] for line in lines if (one := re.match(r"([\w.-]+)==([^\s;]+)", line))}


def test_every_pin_but_pytorchs_has_hashes():
    pinned = pins("constraints.txt")
    assert pins("hashes.txt") == {name: version for name, version in pinned.items() if name != "torch"}
    text = (REPOSITORY / "hashes.txt").read_text(encoding="utf-8")
    for entry in re.split(r"\n(?=\S)", text.strip()):
        assert re.findall(r"--hash=sha256:[0-9a-f]{64}\b", entry), entry.splitlines()[0]


def test_pins_name_no_place_to_get_packages_from():
    for file in ("constraints.txt", "hashes.txt", "pyproject.toml", "Makefile"):
        text = (REPOSITORY / file).read_text(encoding="utf-8")
        assert not re.search(r"(?i)https?://|file:/|index-url|find-links", text), file


def test_the_list_of_licenses_is_of_what_is_pinned():
    page = (REPOSITORY / "docs/reference/licenses.md").read_text(encoding="utf-8")
    assert page.startswith(LICENSES["HEAD"]), "run `make licenses`"
    lines = page.splitlines()
    rows = [line.strip("| ").split(" | ", 2) for line in lines if line.startswith("| ") and "package" not in line]
    assert {name: version for name, version, _ in rows} == pins("constraints.txt"), "run `make licenses`"
    assert all(license and license != "UNKNOWN" for _, _, license in rows)


KNOWN = {"name": "six", "version": "1.0", "vulns": []}
BROKEN = {"name": "old", "version": "0.1", "vulns": [{"id": "CVE-1", "fix_versions": ["0.2"]}]}
UNKNOWN = {"name": "other", "version": "1.0", "skip_reason": "not found"}


@pytest.mark.parametrize(
    ("answer", "status", "said"),
    [
        ({"dependencies": [KNOWN]}, 0, "no known vulnerability in 1 packages"),
        ({"dependencies": [KNOWN, BROKEN]}, 1, "old 0.1: CVE-1, fixed in 0.2"),
        ({"dependencies": [KNOWN, UNKNOWN]}, 3, "does not answer for 1 of 2 packages"),
        ({"dependencies": []}, 3, "inconclusive"),
        (None, 3, "inconclusive"),
    ],
)
def test_an_audit_without_its_data_is_no_clean_one(tmp_path: Path, answer: object, status: int, said: str):
    """Replace pip-audit, which needs a network."""
    stand_in = tmp_path / "pip-audit"
    stand_in.write_text(f"#!{sys.executable}\nprint({json.dumps(answer) if answer else ''!r})\n")
    stand_in.chmod(0o755)
    command = [sys.executable, str(REPOSITORY / ".ci/audit.py"), str(stand_in)]
    done = subprocess.run(command, capture_output=True, encoding="utf-8")
    assert done.returncode == status and said in done.stdout + done.stderr, done
