"""The options of `edge-af bench`."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from edge_af.bench.backend import TargetOptions
from edge_af.bench.request import QUICK, STANDARD, BenchRequest
from edge_af.bench.suite import read_suite
from edge_af.data.dataset import open_dataset
from edge_af.errors import EdgeAfError
from edge_af.files import check_writable
from edge_af.options import given, option

WHAT, HOW, WHERE, OUTPUT = "What to measure", "How to measure", "Where to measure", "Output"
ADDRESS = "ssh://[USER@]HOST[:PORT]|adb[:SERIAL]|emulated:BOARD[:MEMORY]"


@dataclass(frozen=True)
class BenchOptions:
    """The options of `edge-af bench`."""

    data: Path | None = option(
        "Prepared evaluation data. Without it, accuracy is not measured.", default=None, group=WHAT
    )
    runtime: tuple[str, ...] = option(
        "Measure in this runtime only. Repeatable.", default=(), choices=("onnxruntime", "litert"), group=WHAT
    )
    suite: Path | None = option(
        "Suite file: what to compare, and how (see benchmarks/*.yaml).", default=None, is_file=True, group=WHAT
    )
    with_features: Path | None = option(
        "Video whose extraction into features is measured too.",
        default=None,
        is_file=True,
        metavar="VIDEO",
        group=WHAT,
    )
    extractor: Path = option(
        "Extractor of --with-features: lite, or the folder of another.", default=Path("lite"), group=WHAT
    )
    threads: tuple[int, ...] = option("Threads. Repeatable.", default=(), at_least=1, shown_default="1", group=HOW)
    batch: tuple[int, ...] = option(
        "Videos per inference. Repeatable.", default=(), at_least=1, shown_default="1", group=HOW
    )
    runs: int | None = option(
        "Timed inferences per row.",
        default=None,
        at_least=1,
        shown_default="1024, or fewer within 10 seconds",
        group=HOW,
    )
    rounds: int | None = option(
        "Measurement rounds.", default=None, at_least=1, shown_default="4; 1 with --quick", group=HOW
    )
    quick: bool = option("Time 200 inferences or 2 seconds, and mark the results as quick.", default=False, group=HOW)
    packed: bool = option("Pack weights for this processor once, and memory-map them.", default=True, group=HOW)
    timeout: float = option("Timeout of each row's process, in seconds.", default=600.0, at_least=1, group=HOW)
    target: str | None = option(
        "Machine to measure on (see docs/how-to/targets.md).",
        default=None,
        metavar=ADDRESS,
        complete="target",
        shown_default="this one",
        group=WHERE,
    )
    target_file: Path | None = option(
        "YAML file of machines to measure on, all at once.", default=None, is_file=True, group=WHERE
    )
    offline: bool = option("ssh: download packages here and copy them.", default=False, group=WHERE)
    benchmark_model: Path | None = option(
        "adb: LiteRT's benchmark_model for Android.",
        default=None,
        is_file=True,
        shown_default="on the PATH",
        group=WHERE,
    )
    cores: str | None = option(
        "adb: cores to measure on.", default=None, metavar="big|0,1,…", shown_default="Android chooses", group=WHERE
    )
    dry_run: bool = option(
        "Print the rows and the longest duration; measure and write nothing.", default=False, group=OUTPUT
    )
    out: Path = option("Results file.", default=Path("results.json"), is_file=True, group=OUTPUT)
    fresh: bool = option("Start over if --out contains a bench of the same files.", default=False, group=OUTPUT)
    overwrite: bool = option("Replace any contents of --out.", default=False, group=OUTPUT)
    markdown: Path | None = option("Markdown file to write the table to.", default=None, is_file=True, group=OUTPUT)
    html: Path | None = option("HTML file to write the page to.", default=None, is_file=True, group=OUTPUT)
    json: bool = option("Print the results as JSON instead of the table.", default=False, group=OUTPUT)

    def __post_init__(self) -> None:
        for name, others in (
            ("quick", ("runs",)),
            ("suite", ("runtime", "threads", "batch")),
            ("target", ("target_file",)),
            ("with_features", ("target_file",)),
        ):
            if getattr(self, name) and (clashing := given(self, others)):
                raise EdgeAfError(f"--{name.replace('_', '-')} and {clashing[0]} exclude each other.")
        if self.with_features is None and (alone := given(self, ("extractor",))):
            raise EdgeAfError(f"{alone[0]} needs --with-features.")
        needing = given(self, ("offline", "benchmark_model", "cores"))
        if needing and not (self.target or self.target_file):
            raise EdgeAfError(f"{needing[0]} needs a --target.")

    @property
    def for_target(self) -> TargetOptions:
        """The options that only some kinds of targets have."""
        return TargetOptions(self.offline, self.benchmark_model, self.cores)

    def request(self) -> BenchRequest:
        """Build the request and read the files it names.

        Raises:
            EdgeAfError: a file is missing, damaged, or not writable.
        """
        if not self.dry_run:  # The check creates missing parent folders.
            for path in filter(None, (self.out, self.markdown, self.html)):
                check_writable(path)
        suite = read_suite(self.suite) if self.suite is not None else None
        method = dataclasses.replace(
            QUICK if self.quick else STANDARD, timeout_seconds=self.timeout, packed=self.packed
        )
        if suite is not None and not self.quick:
            method = suite.method_from(method)
        if self.runs is not None:
            method = dataclasses.replace(method, inferences=self.runs, seconds=None)
        if self.rounds is not None:
            method = dataclasses.replace(method, rounds=self.rounds)
        return BenchRequest(
            dataset=open_dataset(self.data) if self.data is not None else None,
            threads=tuple(suite.threads) if suite is not None else self.threads or (1,),
            batches=tuple(suite.batch) if suite is not None else self.batch or (1,),
            method=method,
            quick=self.quick,
            suite=suite,
            out=self.out,
            fresh=self.fresh,
            overwrite=self.overwrite,
        )
