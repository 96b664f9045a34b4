"""Latency from counts: a model, never a measurement.

For one inference with counts n on a board with clock f, B bytes from memory and read bandwidth b:

    cycles  = max over classes c of n_c / (instructions of that class per cycle), and of all instructions / (issue width)
    compute = cycles / (e · f)          memory = B / b
    low  = max(compute / r, B / highest b)          computing and reading overlap
    high = compute · r + B / lowest b               one after the other
    value = sqrt(low · high)

The efficiency e is the share of that bound that real programs reach. It is fitted on published single-thread latencies of
known networks on the same board in the same number format (`published.yaml`), as the geometric mean over every second network
by name. The spread r is two standard deviations of the residuals over all boards with that format. The other networks are
held out and show the error (`python -m edge_af.emulation.latency_model`).

Those networks ran in ncnn, whose instructions were not counted; the multiply-adds of the published architectures are used
instead. So e also includes ncnn's savings from fast convolutions and its time in layers without products.
"""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from functools import cache
from typing import Any

from edge_af.emulation.boards import BOARDS, Profile, read_profile
from edge_af.files import package_data, read_yaml
from edge_af.records.results import Instructions, Modeled


@dataclass(frozen=True)
class Core:
    """Instructions per cycle on 128-bit vectors, assumed from the cores' widths and not measured."""

    issue: int
    vector: int
    float_multiply_add: int
    integer_multiply: int
    dot_product: int
    load: int
    store: int


CORES = {
    "Cortex-A53": Core(2, 1, 1, 1, 0, 1, 1),
    "Cortex-A72": Core(3, 2, 1, 1, 0, 1, 1),
    "Cortex-A76": Core(4, 2, 2, 1, 2, 2, 1),
}


@dataclass(frozen=True)
class Fit:
    """Fit for one board and number format."""

    efficiency: float
    spread: float
    """A factor of at least 1."""
    figures: int
    """Number of figures that the efficiency is fitted on."""


def bound_cycles(counts: Instructions, core: Core) -> float:
    """Return the cycles that the busiest part of a core needs."""
    parts = [
        counts.instructions / core.issue,
        counts.vector / core.vector,
        counts.float_multiply_add / core.float_multiply_add,
        counts.integer_multiply / core.integer_multiply,
        counts.loads / core.load,
        counts.stores / core.store,
    ]
    if core.dot_product:
        parts.append(counts.dot_product / core.dot_product)
    return max(parts)


def modeled_latency(counts: Instructions, profile: Profile) -> Modeled | None:
    """Model the latency of one inference, with its band; None for a board without published figures."""
    board = next((key for key, name in BOARDS.items() if read_profile(name).name == profile.name), None)
    kind = "fp32" if counts.float_multiply_add > counts.dot_product + counts.integer_multiply else "int8"
    if board is None or profile.core not in CORES:
        return None
    cycles = bound_cycles(counts, CORES[profile.core])
    read = counts.memory_read_bytes + counts.memory_written_bytes
    return modeled(cycles, read, profile, fits()[board, kind])


def modeled(cycles: float, memory_bytes: float, profile: Profile, fit: Fit) -> Modeled:
    """Evaluate the model, in milliseconds, at the board's highest clock."""
    compute = cycles / (fit.efficiency * max(profile.clock_ghz) * 1e6)
    slowest, fastest = (memory_bytes / (speed * 1e6) for speed in profile.read_gb_per_s_one_core)
    low, high = max(compute / fit.spread, fastest), compute * fit.spread + slowest
    return Modeled(*(float(f"{value:.3g}") for value in (math.sqrt(low * high), low, high)))


@cache
def fits() -> dict[tuple[str, str], Fit]:
    """Fit the model for each board and number format."""
    logs = {
        (board, kind): [
            math.log(_cycles(network, board, kind) / (latency * 1e6 * max(read_profile(BOARDS[board]).clock_ghz)))
            for network, latency in figures.items()
            if is_fitted(network)
        ]
        for (board, kind), figures in _figures().items()
    }
    means = {key: sum(values) / len(values) for key, values in logs.items()}
    spreads = {}
    for kind in ("fp32", "int8"):
        left = [value - means[key] for key, values in logs.items() if key[1] == kind for value in values]
        free = len(left) - sum(key[1] == kind for key in logs)
        spreads[kind] = math.exp(2 * math.sqrt(sum(one * one for one in left) / free))
    return {key: Fit(math.exp(mean), spreads[key[1]], len(logs[key])) for key, mean in means.items()}


def is_fitted(network: str) -> bool:
    """Return True if the model is fitted on a network, which is every second one by name."""
    return sorted(_published()["networks"]).index(network) % 2 == 0


@dataclass(frozen=True)
class Trial:
    """The model compared with a published figure."""

    board: str
    kind: str
    network: str
    fitted: bool
    published_ms: float
    modeled_ms: Modeled

    @property
    def error(self) -> float:
        """Relative error: +0.2 is 20 % too slow."""
        return self.modeled_ms.value / self.published_ms - 1

    @property
    def in_band(self) -> bool:
        return self.modeled_ms.low <= self.published_ms <= self.modeled_ms.high


def trials() -> list[Trial]:
    """Compare the model with every published figure, those it was fitted on first."""
    found = []
    for (board, kind), figures in _figures().items():
        profile = read_profile(BOARDS[board])
        for network, latency in figures.items():
            facts = _published()["networks"][network]
            size = facts["params"] * 1e6 * (_published()["float_bytes"][board] if kind == "fp32" else 1)
            value = modeled(_cycles(network, board, kind), size, profile, fits()[board, kind])
            found.append(Trial(board, kind, network, is_fitted(network), latency, value))
    return sorted(found, key=lambda trial: not trial.fitted)


def _cycles(network: str, board: str, kind: str) -> float:
    """Return the cycles of the MACs alone. A vector holds as many floats as fit, eight integers, or sixteen in dot products."""
    core = CORES[read_profile(BOARDS[board]).core]
    integer = 16 * core.dot_product if core.dot_product else 8 * core.integer_multiply
    lanes = 16 // _published()["float_bytes"][board]
    per_cycle = lanes * core.float_multiply_add if kind == "fp32" else integer
    return float(_published()["networks"][network]["multiply_adds"] * 1e6 / per_cycle)


@cache
def _published() -> dict[str, Any]:
    found: dict[str, Any] = read_yaml(
        package_data("emulation", "published.yaml"),
        "table of published latencies",
    )
    return found


def _figures() -> dict[tuple[str, str], dict[str, float]]:
    return {
        (board, kind): figures
        for board, kinds in _published()["latencies_ms"].items()
        for kind, figures in kinds.items()
    }


def main() -> None:
    """Print the fits and the errors as Markdown."""
    lines = ["| board | format | figures | e | r |", "|---|---|---:|---:|---:|"]
    lines += [
        f"| {b} | {k} | {fit.figures} | {fit.efficiency:.2f} | {fit.spread:.2f} |" for (b, k), fit in fits().items()
    ]
    lines += ["", "| board | format | network | fitted on | published, ms | modeled, ms | error | in band |"]
    lines += ["|---|---|---|---|---:|---:|---:|---|"]
    for one in trials():
        band = f"{one.modeled_ms.value:g} [{one.modeled_ms.low:g}, {one.modeled_ms.high:g}]"
        lines.append(
            f"| {one.board} | {one.kind} | {one.network} | {'yes' if one.fitted else 'no'} | {one.published_ms:g} | {band} | "
            f"{one.error:+.0%} | {'yes' if one.in_band else 'no'} |"
        )
    for fitted, name in ((True, "fitted on"), (False, "not fitted on")):
        errors = sorted(abs(one.error) for one in trials() if one.fitted is fitted)
        inside = sum(one.in_band for one in trials() if one.fitted is fitted)
        lines += [
            "",
            f"{len(errors)} figures {name}: median error {errors[len(errors) // 2]:.0%}, largest {errors[-1]:.0%}, ",
        ]
        lines[-1] += f"{inside} of {len(errors)} in the band."
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
