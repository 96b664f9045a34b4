"""Notes on the results: caveats, method, kernels and evaluation set, as sentences."""

from __future__ import annotations

from collections.abc import Sequence

from edge_af.artifacts import CPU_OF_MACHINE
from edge_af.records.results import Results
from edge_af.report.rows import Line, device_titles, devices_of
from edge_af.report.tables import escape


def caveats(many: Sequence[Results]) -> list[str]:
    """List caveats about the figures."""
    found = []
    titles = device_titles(many)
    if any(results.quick for results in many):
        found.append("Quick run with fewer inferences than the standard measurement. Not for publication.")
    for results, title in zip(many, titles, strict=True):
        if len(results.rows) < results.rows_planned:
            found.append(
                f"Interrupted: {len(results.rows)} of {results.rows_planned} rows were measured ({results.created})."
            )
        kind = CPU_OF_MACHINE.get(results.device.machine.lower(), results.device.machine)
        where = f"{title}: " if len(set(titles)) > 1 else ""
        others = dict.fromkeys(row.file for row in results.rows if row.cpu not in (None, kind))
        if others:
            found.append(
                f"{where}{'m' if where else 'M'}ade for another kind of processor than {kind}, and slower here for it: "
                f"{', '.join(others)}."
            )
        found += [where + text for text in results.warnings]
    if any(results.tool is not None for results in many):
        found.append("A phone's latency was measured on random values.")
    without = [results for results in many if results.data is None]
    if without:
        where = (
            ""
            if len(without) == len(many)
            else "; ".join(dict.fromkeys(title for one, title in zip(many, titles, strict=True) if one.data is None))
            + ": "
        )
        timed = any(results.device.emulator is None and results.tool is None for results in without)
        more = ", and latency was measured on random values" if timed else ""
        found.append(f"{where}{'n' if where else 'N'}o evaluation data was given: no accuracy{more}.")
    if len({results.data for results in many if results.data is not None}) > 1:
        found.append("The results come from different evaluation sets: their accuracies cannot be compared.")
    return found


def method_text(results: Results) -> str:
    """Describe how latency and memory were measured."""
    method = results.method
    if results.device.emulator is not None:
        return (
            f"Emulated by {results.device.emulator}: instructions of one inference after {method.warm_up} to warm up, counted "
            "on one thread. Nothing was timed."
        )
    limit = f" or {method.seconds:g} seconds, whichever came first" if method.seconds is not None else ""
    source = "videos of the evaluation set" if results.inputs == "videos" else "random values"
    if (tool := results.tool) is not None:
        return (
            f"Each row in {method.rounds} fresh process{'es' if method.rounds > 1 else ''} of {tool.name} (SHA-256 "
            f"{tool.sha256[:12]}), {' '.join(tool.options)}: p50 and p95 are the medians of the processes' own, the mean is of "
            "all inferences. Peak memory is the process's, as the tool tells it."
        )
    return (
        f"Each row in a fresh process: {method.warm_up} inferences to warm up, then {method.inferences:,} timed{limit}, "
        f"one video at a time, on {source}. Peak memory is the kernel's high-water mark up to then."
    )


def measured_text(results: Results, device: str) -> str:
    """Describe when, on what and how a bench measured, in Markdown; `device` is its title."""
    packages = ", ".join(f"{name} {version}" for name, version in results.device.versions.items())
    python = f"Python {results.device.python}" if results.device.python else None
    system = ", ".join(filter(None, (results.device.system, python, packages)))
    return (
        f"{escape(results.created)}, {escape(device)}, {escape(results.device.kernel)}, "
        f"{escape(system)}. Data: {escape(data_text(results))}. "
        f"{escape(method_text(results))}"
    )


def kernels_text(lines: Sequence[Line]) -> list[str]:
    """Name the kernels that ran, one sentence per device; empty if unknown."""
    found: dict[str, dict[str, None]] = {}
    for line in lines:
        if line.row.kernels is not None:
            found.setdefault(line.device, {})[f"{line.runtime} {line.precision} {line.row.kernels}"] = None
    where = len(devices_of(lines)) > 1
    return [f"Kernels{f' on {device}' if where else ''}: {', '.join(names)}." for device, names in found.items()]


def data_text(results: Results) -> str:
    """Describe the evaluation set in a few words."""
    data = results.data
    return f"{data.name}: {data.videos:,} videos, {data.classes:,} classes" if data is not None else "none"
