"""Measure how often `edge-af compare` is right by comparing a network with itself and with slower ones many times.

    python -m benchmarks.compare_trials --work artifacts/compare-trials --out benchmarks/results/compare-trials

exports a network of about 36 million multiply-adds to INT8 TFLite (about 2 ms per inference on a server core) and two
networks with 5 % and 10 % more. Their first layer has additional units with zero weight in the next layer, so all three
give the same scores. It then runs `edge-af compare BASE CANDIDATE --budget 10s --max-slowdown 2%` for each kind in turn
and writes `compare-trials.json` and `compare-trials.md` after each trial. In every second trial, other processes load all
cores intermittently. The same command continues where it stopped.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
import numpy as np

from edge_af.bench.worker import die_with_parent
from edge_af.compare.facts import multiply_adds
from edge_af.console import say
from edge_af.errors import EdgeAfError
from edge_af.export.pipeline import ExportRequest
from edge_af.files import read_json, sha256_file, write_atomic, write_json
from edge_af.machine.device import core_count, project_commit, this_device

WIDTH, DEPTH, CLASSES = 2560, 2, 3862
MORE_WORK = {"same": 0.0, "5-percent": 0.05, "10-percent": 0.10}
"""Additional multiply-adds of the candidate, as a share of the base's, for each kind of trial."""
FILE = "fc-late-fusion-int8.tflite"
BURST_SECONDS = (0.3, 3.0)
"""Shortest and longest time that the load stays on, or off."""


@dataclass(frozen=True)
class Trial:
    """One comparison."""

    kind: str
    number: int
    loaded: bool
    """True if other processes loaded all cores intermittently."""
    created: str
    exit_code: int
    verdict: str
    ratio: list[float] | None
    """Value and the ends of its interval: value, low, high."""
    noise: list[float] | None
    generations: int
    rounds: int
    seconds: float
    preempted_share: float | None
    core_share: float | None
    """Share of its core's time that a timed process got."""
    load_average: float | None


def make_networks(work: Path, kinds: list[str]) -> dict[str, Path]:
    """Export the missing networks and return the file of each kind."""
    files = {kind: work / kind / FILE for kind in kinds}
    if all(path.is_file() for path in files.values()):
        return files
    import torch

    from edge_af.export.pipeline import export_network
    from edge_af.export.recipes import load_recipe
    from edge_af.models.networks import FCLateFusion, count_params
    from edge_af.models.presets import FCLateFusionConfig
    from edge_af.models.run import Run

    config = FCLateFusionConfig(width=WIDTH, depth=DEPTH, dropout=0.0)
    base_work = WIDTH * 1152 + 2 * WIDTH * WIDTH + 2 * WIDTH * CLASSES
    for kind, path in files.items():
        if path.is_file():
            continue
        say(f"exporting {path}")
        torch.manual_seed(0)
        network = FCLateFusion(config, CLASSES).eval()
        units = round(MORE_WORK[kind] * base_work / (1024 + WIDTH))
        if units:
            _widen(network.visual, units)
        run = Run(
            "trial", config, CLASSES, count_params(network), 0.25, [f"class {c}" for c in range(CLASSES)], weights=""
        )
        recipe = load_recipe("int8-dynamic")
        export_network(
            network, run, path.parent, ExportRequest(formats=("tflite",), recipes={"tflite": (recipe,)}, cpu="x86-64")
        )
    return files


def _widen(stream: Any, units: int) -> None:
    """Add units to the first linear layer of Linear, ReLU, BatchNorm, Dropout, Linear; the second gives them zero weight."""
    import torch
    from torch import nn

    first, norm, second = stream[0], stream[2], stream[4]
    wider = nn.Linear(first.in_features, first.out_features + units)
    after = nn.Linear(second.in_features + units, second.out_features)
    with torch.no_grad():
        wider.weight[: first.out_features] = first.weight
        wider.bias[: first.out_features] = first.bias
        after.weight[:, : second.in_features] = second.weight
        after.weight[:, second.in_features :] = 0
        after.bias.copy_(second.bias)
    stream[0], stream[2], stream[4] = wider, nn.BatchNorm1d(norm.num_features + units).eval(), after


@contextlib.contextmanager
def load_beside(seed: int, wanted: bool) -> Iterator[None]:
    """Load every core intermittently with a process that computes or reads memory, all in the same rhythm."""
    if not wanted:
        yield
        return
    command = [sys.executable, "-m", "benchmarks.compare_trials", "--burn", str(seed)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    burners = [subprocess.Popen(command, env=environment) for _ in range(core_count())]
    try:
        yield
    finally:
        for burner in burners:
            burner.send_signal(signal.SIGKILL)
            burner.wait()


def burn(seed: int) -> None:
    """Alternate between work and rest until killed; processes with the same seed do so at the same times."""
    die_with_parent()
    random = np.random.default_rng(seed)
    square = np.ones((256, 256), np.float32)
    large = np.ones(16_000_000, np.float32)
    until = time.monotonic()
    while True:
        on, off = random.uniform(*BURST_SECONDS, 2)
        act = (lambda: square @ square) if random.random() < 0.5 else large.max
        until += on
        while time.monotonic() < until:
            act()
        until += off
        time.sleep(max(0.0, until - time.monotonic()))


def run_trial(kind: str, number: int, loaded: bool, base: Path, candidate: Path, options: list[str]) -> Trial:
    """Run one comparison in a separate process."""
    command = [sys.executable, "-m", "edge_af", "compare", str(base), str(candidate), *options]
    # The candidate is larger on purpose; only the timing is tested.
    command += ["--max-growth", "100%", "--max-memory-growth", "100%", "--seed", str(number), "--json"]
    created = datetime.now(UTC).isoformat(timespec="seconds")
    load_average = round(os.getloadavg()[0], 2)
    with load_beside(number, loaded):
        done = subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace")
    try:
        found = json.loads(done.stdout)
    except json.JSONDecodeError:
        raise EdgeAfError(f"a comparison printed no JSON: {done.stderr.strip()[-400:]}") from None
    timing = found["pairs"][0]["timing"]
    if timing is None:
        raise EdgeAfError(f"a comparison was not timed: {found['pairs'][0]['checks'][0]['verdict']}")
    return Trial(
        kind=kind,
        number=number,
        loaded=loaded,
        created=created,
        exit_code=done.returncode,
        verdict=timing["verdict"],
        ratio=_numbers(timing["ratio"]),
        noise=_numbers(timing["noise"]),
        generations=timing["generations"],
        rounds=timing["rounds"],
        seconds=timing["seconds"],
        preempted_share=timing["preempted_share"],
        core_share=timing["core_share"],
        load_average=load_average,
    )


def _numbers(interval: dict[str, float] | None) -> list[float] | None:
    return [round(interval[name], 5) for name in ("value", "low", "high")] if interval else None


def markdown(trials: list[Trial], note: str) -> str:
    """Return a table that counts the verdicts by kind and load."""
    lines = ["# Trials of `edge-af compare`", "", note, ""]
    head = (
        "| candidate | other load | comparisons | slower | not slower, faster | cannot tell | median ratio | median s "
    )
    lines += [head + "| median share of a core |", "|:--|:--|" + "--:|" * 7]
    for kind in MORE_WORK:
        for loaded in (False, True, None):
            own = [one for one in trials if one.kind == kind and loaded in (None, one.loaded)]
            if not own:
                continue
            counts = [
                sum(one.verdict in names for one in own)
                for names in (("slower",), ("not slower", "faster"), ("cannot tell",))
            ]
            ratios = [one.ratio[0] for one in own if one.ratio]
            beside = {False: "none", True: "all cores, intermittently", None: "both"}[loaded]
            cells = [f"{count} ({count / len(own):.1%})" for count in counts]
            middle = f"{np.median(ratios):.4f}" if ratios else ""
            seconds = f"{np.median([one.seconds for one in own]):.1f}"
            share = f"{np.median([one.core_share or 0.0 for one in own]):.0%}"
            lines.append(f"| {kind} | {beside} | {len(own)} | {' | '.join(cells)} | {middle} | {seconds} | {share} |")
    return "\n".join(lines) + "\n"


@click.command()
@click.option("--work", type=click.Path(path_type=Path), help="Folder for the networks; it is kept.")
@click.option("--out", type=click.Path(path_type=Path), help="Writes OUT.json and OUT.md.")
@click.option("--trials", default=100, show_default=True, type=click.IntRange(1), help="Comparisons per kind.")
@click.option(
    "--kind", "kinds", multiple=True, type=click.Choice(list(MORE_WORK)), help="Run only this kind; repeatable."
)
@click.option("--budget", default="10s", show_default=True)
@click.option("--max-slowdown", default="2%", show_default=True)
@click.option("--burn", "burn_seed", type=int, hidden=True)
def main(
    work: Path | None,
    out: Path | None,
    trials: int,
    kinds: tuple[str, ...],
    budget: str,
    max_slowdown: str,
    burn_seed: int | None,
) -> None:
    """Run the trials that --out does not contain yet. Trials with even numbers run under load."""
    if burn_seed is not None:
        burn(burn_seed)
    if work is None or out is None:
        raise click.UsageError("--work and --out are required.")
    files = make_networks(work, list(MORE_WORK))
    counts = {kind: multiply_adds(path) for kind, path in files.items()}
    options = ["--budget", budget, "--max-slowdown", max_slowdown]
    setting = {
        "schema_version": 1,
        "options": options,
        "device": asdict(this_device()),
        "files": {kind: {"sha256": sha256_file(path), "multiply_adds": counts[kind]} for kind, path in files.items()},
    }
    target = out.with_suffix(".json")
    done: list[Trial] = []
    sessions: list[dict[str, Any]] = []
    if target.is_file():
        earlier = read_json(target, "file of trials")
        if any(earlier.get(name) != value for name, value in setting.items()):
            raise EdgeAfError(
                f"{target}: made with other networks or options, or on another machine. Give another --out."
            )
        done = [
            Trial(**{field.name: one[field.name] for field in dataclasses.fields(Trial)}) for one in earlier["trials"]
        ]
        sessions = earlier["sessions"]
    command = "python -m benchmarks.compare_trials " + shlex.join(sys.argv[1:])
    sessions.append(
        {"command": command, "commit": project_commit(), "begun": datetime.now(UTC).isoformat(timespec="seconds")}
    )
    base = counts["same"] or 1
    more = ", ".join(f"{kind} {(count or 0) / base - 1:+.2%}" for kind, count in counts.items())
    note = (
        f"Made by `{command}` at commit {sessions[-1]['commit']} on {this_device().label}; each comparison is `edge-af compare "
        f"{shlex.join(options)}` of {FILE}. Multiply-adds against the base's {base:,}: {more}."
    )
    there = {(one.kind, one.number) for one in done}
    for number in range(1, trials + 1):
        for kind in kinds or MORE_WORK:
            if (kind, number) in there:
                continue
            done.append(run_trial(kind, number, number % 2 == 0, files["same"], files[kind], options))
            say(f"{kind} {number}: {done[-1].verdict}, {done[-1].ratio}, {done[-1].seconds:.1f} s")
            write_json(target, {**setting, "sessions": sessions, "trials": [asdict(one) for one in done]})
            write_atomic(out.with_suffix(".md"), markdown(done, note))
    click.echo(json.dumps({"json": str(target), "markdown": str(out.with_suffix(".md"))}))


if __name__ == "__main__":
    try:
        main()
    except EdgeAfError as error:
        click.echo(f"compare_trials: {error}", err=True)
        sys.exit(error.exit_code)
