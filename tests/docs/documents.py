"""Read the project's Markdown documents: their shell blocks, headings and links."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = sorted(
    path.relative_to(ROOT) for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), ROOT / "benchmarks/README.md"]
)
GENERATED = Path("docs/reference/commands.md")


@dataclass(frozen=True)
class Block:
    """A shell block of a document."""

    document: Path
    line: int
    needs: str
    """Hardware or setup that it needs, from a comment above it; empty if a test runs it."""
    text: str

    def commands(self) -> Iterator[str]:
        """Yield its command lines, with continued lines joined."""
        for command in self.text.replace("\\\n", " ").splitlines():
            if command.strip() and not command.lstrip().startswith("#"):
                yield command


def shell_blocks(document: Path) -> list[Block]:
    """Return the shell blocks of a document."""
    text = (ROOT / document).read_text(encoding="utf-8")
    found = re.finditer(r"^(?:<!-- needs: (.*) -->\n)?```sh\n(.*?)^```$", text, re.M | re.S)
    return [Block(document, text.count("\n", 0, each.start()) + 1, each[1] or "", each[2]) for each in found]


def without_code(document: Path) -> str:
    """Return a document's text without fenced code."""
    return re.sub(r"^```.*?^```$", "", (ROOT / document).read_text(encoding="utf-8"), flags=re.M | re.S)


def anchors(document: Path) -> set[str]:
    """Return the anchors of a document's headings, as GitHub and MyST make them."""
    headings = re.findall(r"^#+ (.*)$", without_code(document), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
