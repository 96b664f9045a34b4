"""Configuration of the documentation site, built by `make docs`. The sources are the Markdown files of the repository."""

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
nitpicky = True


def add_title(app: object, name: str, source: list[str]) -> None:
    """Give a recorded result without a heading its file name as the title."""
    if name.startswith("benchmarks/results/") and not source[0].startswith("# "):
        source[0] = f"# {name.rpartition('/')[2]}\n\n{source[0]}"


def setup(app: object) -> None:
    """Connect to Sphinx's events."""
    app.connect("source-read", add_title)  # type: ignore[attr-defined]
