"""The options of `edge-af compare`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edge_af.compare.limits import BudgetFile, parse_share, with_overrides
from edge_af.options import option, parse_seconds
from edge_af.records.comparison import Relative

GATES, HOW, OUTPUT = "Gates", "How to compare", "Output"


@dataclass(frozen=True)
class CompareOptions:
    """The options of `edge-af compare`."""

    base_ref: str | None = option(
        "Commit to build the base from: COMMAND runs in its checkout, into $EDGE_AF_OUT.",
        default=None,
        metavar="COMMIT",
        group=HOW,
    )
    data: Path | None = option(
        "Prepared evaluation data. Without it, accuracy is not compared.", default=None, group=HOW
    )
    budget: float = option(
        "Time for timing, shared by all pairs.", default="100s", metavar="TIME", parse=parse_seconds, group=HOW
    )
    threads: int = option("Threads of each runtime.", default=1, at_least=1, group=HOW)
    runtime: tuple[str, ...] = option(
        "Compare in this runtime only. Repeatable.", default=(), choices=("onnxruntime", "litert"), group=HOW
    )
    seed: int = option("Random seed for the order in which processes take turns.", default=0, group=HOW)
    timeout: float = option("Timeout of each step of a process, in seconds.", default=300.0, at_least=1, group=HOW)
    max_slowdown: float | None = option(
        "Largest slowdown allowed.", default=None, metavar="PERCENT", parse=parse_share, shown_default="5%", group=GATES
    )
    max_gap_drop: float | None = option(
        "Largest drop of GAP@20 allowed.", default=None, at_least=0, shown_default="0.002", group=GATES
    )
    max_growth: float | None = option(
        "Largest growth of file bytes, weight bytes and MACs allowed.",
        default=None,
        metavar="PERCENT",
        parse=parse_share,
        shown_default="1%",
        group=GATES,
    )
    max_memory_growth: float | None = option(
        "Largest growth of peak memory allowed.",
        default=None,
        metavar="PERCENT",
        parse=parse_share,
        shown_default="10%",
        group=GATES,
    )
    min_agreement: float | None = option(
        "Smallest correlation of the scores allowed.",
        default=None,
        at_least=0,
        at_most=1,
        shown_default="0.5 with --data, 0.25 on random values",
        group=GATES,
    )
    budget_file: Path | None = option(
        "YAML file with absolute limits and gate options (see docs/how-to/ci.md).",
        default=None,
        is_file=True,
        group=GATES,
    )
    dry_run: bool = option(
        "Print the pairs, the gates and the duration; measure and write nothing.", default=False, group=OUTPUT
    )
    out: Path | None = option("JSON file to write the comparison to.", default=None, is_file=True, group=OUTPUT)
    markdown: Path | None = option("Markdown file to write the table to.", default=None, is_file=True, group=OUTPUT)
    junit: Path | None = option("JUnit XML file to write the checks to.", default=None, is_file=True, group=OUTPUT)
    history: Path | None = option(
        "History file to append to, for `edge-af report --history`. No gate depends on it.",
        default=None,
        is_file=True,
        group=OUTPUT,
    )
    commit: str | None = option(
        "Name of the candidate in the history.",
        default=None,
        metavar="NAME",
        shown_default="its git commit",
        group=OUTPUT,
    )
    json: bool = option("Print the comparison as JSON instead of the table.", default=False, group=OUTPUT)

    def relative(self, budget: BudgetFile | None) -> Relative:
        """Merge the gates of the command line with a budget file's; the command line wins."""
        names = ("max_slowdown", "max_growth", "max_memory_growth", "max_gap_drop", "min_agreement")
        return with_overrides(budget, {name: getattr(self, name) for name in names})
