"""Known vulnerabilities of the pinned packages, by pip-audit: `python .ci/audit.py PIP-AUDIT`.

pip-audit says "none found" of packages that its list does not know, which is all of them where the list cannot be had. Here
that is exit status 3, could not tell; 1: there are some; 0: there are none.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

HASHES = Path(__file__).parents[1] / "hashes.txt"
CONSTRAINTS = HASHES.with_name("constraints.txt")


def main(pip_audit: str) -> int:
    torch = next(line for line in CONSTRAINTS.read_text().splitlines() if line.startswith("torch=="))
    with tempfile.TemporaryDirectory() as folder:
        # Its build is anybody's, so it has no hash; its version is looked up all the same.
        pinned = Path(folder) / "pinned.txt"
        lines = [line.rstrip(" \\") for line in HASHES.read_text().splitlines() if "==" in line]
        pinned.write_text("\n".join([*lines, torch]))
        command = [pip_audit, "--requirement", str(pinned), "--disable-pip", "--no-deps", "--progress-spinner", "off"]
        done = subprocess.run([*command, "--format", "json"], capture_output=True, encoding="utf-8", errors="replace")
    try:
        found = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError, TypeError):
        print(f"audit: could not tell: {(done.stderr.strip() or 'no answer').splitlines()[-1]}", file=sys.stderr)
        return 3
    known = [one for one in found if "skip_reason" not in one]
    for one in known:
        for vulnerability in one["vulns"]:
            fixed = ", ".join(vulnerability["fix_versions"]) or "no version"
            print(f"{one['name']} {one['version']}: {vulnerability['id']}, fixed in {fixed}")
    if any(one["vulns"] for one in known):
        return 1
    if len(known) < len(found) or not found:
        unknown = f"{len(found) - len(known)} of {len(found)} packages"
        print(f"audit: could not tell of {unknown}: no list of them can be had from here.", file=sys.stderr)
        return 3
    print(f"audit: no known vulnerability in {len(found)} packages")
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
