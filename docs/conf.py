"""Configuration of the documentation site, built by `make docs`. The sources are the Markdown files of the repository."""

import shutil
from pathlib import Path

project = "edge-af"
author = "edge-af contributors"
root_doc = "docs/index"
include_patterns = [
    "docs/**.md",
    "README.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "SECURITY.md",
    "benchmarks/README.md",
    "benchmarks/results/*.md",
]
exclude_patterns = ["docs/ci/**"]
extensions = ["myst_parser"]
myst_heading_anchors = 3
myst_enable_extensions = ["colon_fence"]
html_theme = "furo"
html_title = "edge-af"
html_copy_source = False
html_show_copyright = False
html_show_sourcelink = False
html_show_search_summary = False
nitpicky = True


def add_title(app: object, name: str, source: list[str]) -> None:
    """Give a recorded result without a heading its file name as the title."""
    if name.startswith("benchmarks/results/") and not source[0].startswith("# "):
        source[0] = f"# {name.rpartition('/')[2]}\n\n{source[0]}"


def make_accessible(app: object, name: str, template: str, context: dict[str, str], doctree: object) -> None:
    """Let the keyboard scroll wide code and tables, and give the navigation's headings a level."""
    for part in ("body", "furo_navigation_tree"):
        text = context.get(part) or ""
        text = text.replace("<pre>", '<pre tabindex="0">').replace('role="heading"', 'role="heading" aria-level="2"')
        context[part] = text.replace('<div class="table-wrapper', '<div tabindex="0" class="table-wrapper')


def copy_images(app: object, error: Exception | None) -> None:
    """Copy the pictures that the README shows with HTML, which Sphinx does not look at."""
    out = Path(app.outdir) / "docs/images"  # type: ignore[attr-defined]
    shutil.copytree(Path(__file__).with_name("images"), out, dirs_exist_ok=True)


def setup(app: object) -> None:
    """Connect to Sphinx's events."""
    app.connect("source-read", add_title)  # type: ignore[attr-defined]
    app.connect("html-page-context", make_accessible, priority=900)  # type: ignore[attr-defined]
    app.connect("build-finished", copy_images)  # type: ignore[attr-defined]
