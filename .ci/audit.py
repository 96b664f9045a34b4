"""Check the pinned packages for known vulnerabilities: `python .ci/audit.py PIP-AUDIT`.

Exit code 0: none; 1: some; 3: inconclusive. pip-audit reports "none found" for packages that its database does not
answer for. Without network access these are all packages. This script reports such cases as inconclusive.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

CONSTRAINTS = Path(__file__).parents[1] / "constraints.txt"


def main(pip_audit: str) -> int:
    command = [pip_audit, "--requirement", str(CONSTRAINTS), "--disable-pip", "--no-deps", "--progress-spinner", "off"]
    done = subprocess.run([*command, "--format", "json"], capture_output=True, encoding="utf-8", errors="replace")
    try:
        found = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError, TypeError):
        print(f"audit: inconclusive: {(done.stderr.strip() or 'no answer').splitlines()[-1]}", file=sys.stderr)
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
        print(
            f"audit: inconclusive: the database does not answer for {unknown}. Try with network access.",
            file=sys.stderr,
        )
        return 3
    print(f"audit: no known vulnerability in {len(found)} packages")
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
