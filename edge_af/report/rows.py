"""Combine results: each row with the rows that it is compared with.

Derived figures are shown but never stored: a results file holds only measurements.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

from edge_af.machine.device import Device
from edge_af.records.results import OK, Results, Row
from edge_af.report.columns import MAIN_COLUMNS, PARAMS, UNTIMED_COLUMNS, Column, signed
from edge_af.runtime.kernels import integer_instructions

MODEL_NAMES = {"attend-fusion": "Attend-Fusion", "fc-late-fusion": "FC Late Fusion"}
RUNTIME_NAMES = {"onnxruntime": "ONNX Runtime", "litert": "LiteRT", "torch": "PyTorch"}
PRECISION_ORDER = ("fp32", "fp16", "int8", "int4", "int2")


@dataclass(frozen=True)
class Line:
    """A row, and the rows that it is compared with."""

    row: Row
    results: Results
    device: str
    """The device's label, with an addition if machines, or benches of one machine, share it."""
    network: str
    """Model and preset, and the artifact's name if networks share them."""
    base: Row | None
    """The baseline with the same runtime, threads and device; None if it was not measured."""
    fp32: Row | None
    """The same network in FP32 with the same runtime, threads and device."""
    variant: str
    """Distinguishes it from other rows with the same network, runtime and precision; empty for a single row."""

    @property
    def runtime(self) -> str:
        return RUNTIME_NAMES.get(self.row.runtime, self.row.runtime)

    @property
    def precision(self) -> str:
        return self.row.precision.upper()

    @property
    def weights(self) -> str:
        """The precision, with the variant if any."""
        return f"{self.precision} {self.variant}".rstrip()

    @property
    def name(self) -> str:
        """The row's name outside the table."""
        return f"{self.network} {self.weights} in {self.runtime}"

    @property
    def is_baseline(self) -> bool:
        return self.base is self.row

    @property
    def problem(self) -> str | None:
        """Reason why figures are missing; None if nothing failed."""
        if self.row.status == OK:
            return None
        return f"{self.row.status.replace('-', ' ')}: {self.row.reason or 'no reason was recorded'}"


def compare(many: Sequence[Results]) -> list[Line]:
    """Return all rows with their baselines, grouped by network, the baseline's network first.

    A baseline is searched in the row's own results, then in others of the same device.
    """
    titles = device_titles(many)
    pairs = [(row, results, title) for results, title in zip(many, titles, strict=True) for row in results.rows]
    names = _network_names([row for row, _, _ in pairs])
    variants = _variants([(row, title) for row, _, title in pairs])

    def find(row: Row, results: Results, wanted: tuple[str, str, str, str]) -> Row | None:
        machine = _machine(results.device)
        same_device = [other for other in many if other is not results and _machine(other.device) == machine]
        for other in (results, *same_device):
            for found in other.rows:
                if (found.runtime, found.threads, found.batch) == (row.runtime, row.threads, row.batch) and (
                    found.artifact, found.model, found.preset, found.precision
                ) == wanted:  # fmt: skip
                    return found
        return None

    lines = []
    for (row, results, title), variant in zip(pairs, variants, strict=True):
        base = results.baseline
        lines.append(
            Line(
                row=row,
                results=results,
                device=title,
                network=names[_identity(row)],
                base=find(row, results, (base.artifact, base.model, base.preset, base.precision)),
                fp32=find(row, results, (row.artifact, row.model, row.preset, "fp32")),
                variant=variant,
            )
        )
    bases = sorted((line.base for line in lines if line.base is not None), key=lambda base: -base.params)
    networks = list(dict.fromkeys([*(names[_identity(base)] for base in bases), *networks_of(lines)]))
    devices = devices_of(lines)
    return sorted(
        lines,
        key=lambda line: (
            networks.index(line.network),
            devices.index(line.device),
            list(RUNTIME_NAMES).index(line.row.runtime) if line.row.runtime in RUNTIME_NAMES else 99,
            line.row.threads,
            line.row.batch,
            PRECISION_ORDER.index(line.row.precision) if line.row.precision in PRECISION_ORDER else 99,
            line.variant,
        ),
    )


def device_titles(many: Sequence[Results]) -> list[str]:
    """Return the title of each results' device: its label, and what distinguishes it from others of the same label."""

    def differing(about: Callable[[Results], str], group: Sequence[Results]) -> bool:
        return len({about(one) for one in group}) == len(group)

    found = []
    for results in many:
        alike = [other for other in many if other.device.label == results.device.label]
        machines = {_machine(one.device): one for one in alike}
        if len(machines) > 1:
            ways = (_instructions, lambda one: one.device.kernel, lambda one: f"benched {one.created}")
            about = next((way for way in ways if differing(way, list(machines.values()))), ways[-1])
            found.append(f"{results.device.label} ({about(results)})")
        elif len(alike) > 1 and len({key for one in alike for key in set(map(_key, one.rows))}) < sum(
            len(set(map(_key, one.rows))) for one in alike
        ):
            found.append(f"{results.device.label} (benched {results.created})")
        else:
            found.append(results.device.label)
    return found


def _machine(device: Device) -> str:
    """Fields that identify a machine, excluding installed software and settings."""
    about = (device.label, device.machine, device.kernel, device.features, device.last_level_cache_bytes)
    return repr((*about, device.system, device.soc, device.core_max_mhz, device.emulator))


def _instructions(results: Results) -> str:
    return integer_instructions(results.device.features) or "instructions not known"


def _key(row: Row) -> tuple[object, ...]:
    return row.artifact, row.file, row.runtime, row.threads, row.batch


def _variants(rows: Sequence[tuple[Row, str]]) -> list[str]:
    """Return what distinguishes each row from others with its network, runtime, precision and device; else empty."""
    groups: dict[tuple[object, ...], list[Row]] = {}
    for row, device in rows:
        groups.setdefault((device, *_identity(row), row.runtime, row.precision, row.threads, row.batch), []).append(row)
    found = []
    for row, device in rows:
        group = groups[device, *_identity(row), row.runtime, row.precision, row.threads, row.batch]
        recipes = [(one.recipe, one.cpu) for one in group]
        if len(group) == 1:
            found.append("")
        elif recipes.count((row.recipe, row.cpu)) > 1:
            found.append(row.file)
        else:
            recipe = (row.recipe or row.file).removeprefix(f"{row.precision}-")
            same = [one for one in group if one.recipe == row.recipe]
            found.append(f"{recipe} ({row.cpu or 'any processor'})" if len(same) > 1 else recipe)
    return found


def devices_of(lines: Sequence[Line]) -> list[str]:
    """Return the devices' labels, without duplicates."""
    return list(dict.fromkeys(line.device for line in lines))


def device_names(lines: Sequence[Line]) -> dict[str, str]:
    """Return each device's label and a shorter name: the processor or board, if that is unique."""
    short = {
        line.device: line.results.device.cpu + line.device.removeprefix(line.results.device.label) for line in lines
    }
    taken = list(short.values())
    return {label: name if taken.count(name) == 1 else label for label, name in short.items()}


def networks_of(lines: Sequence[Line]) -> list[str]:
    """Return the networks' names, without duplicates, in the order of the lines."""
    return list(dict.fromkeys(line.network for line in lines))


def has_threads(lines: Sequence[Line]) -> bool:
    """Return True if rows differ in their number of threads."""
    return len({line.row.threads for line in lines}) > 1


def has_batches(lines: Sequence[Line]) -> bool:
    """Return True if rows differ in their batch size."""
    return len({line.row.batch for line in lines}) > 1


def _identity(row: Row) -> tuple[str, str, str]:
    return row.artifact, row.model, row.preset


def _network_names(rows: Sequence[Row]) -> dict[tuple[str, str, str], str]:
    identities = list(dict.fromkeys(_identity(row) for row in rows))
    short = {identity: f"{MODEL_NAMES.get(identity[1], identity[1])} {identity[2]}" for identity in identities}
    taken = list(short.values())
    return {identity: name if taken.count(name) == 1 else f"{name} ({identity[0]})" for identity, name in short.items()}


def gap_to_fp32(line: Line) -> float | None:
    """Return GAP@20 minus that of the same network in FP32: the bench's paired figure, or the rows' difference."""
    if line.row.gap_at_20_delta is not None:
        return line.row.gap_at_20_delta.value
    own = line.fp32.gap_at_20 if line.fp32 is not None and line.fp32 is not line.row else None
    return line.row.gap_at_20 - own if line.row.gap_at_20 is not None and own is not None else None


def gap_interval(line: Line) -> str:
    """Format the 95 % interval of `gap_to_fp32`, `[−0.0003, +0.0005]`; empty if none was measured."""
    delta = line.row.gap_at_20_delta
    return f"[{signed(delta.low)}, {signed(delta.high)}]" if delta is not None else ""


def parameters_relation(line: Line) -> str:
    """Return the network's size relative to the baseline's; empty for the baseline's network."""
    base = line.base
    if base is None or _identity(base) == _identity(line.row):
        return ""
    return PARAMS.relation(line.row, base)


def summary(line: Line) -> dict[str, object]:
    """Return a row with its relations for machine-readable output, without raw latencies."""
    row = asdict(line.row)
    row.pop("latency_raw_us")
    base, relation = line.base, {}
    for column in (PARAMS, *MAIN_COLUMNS):
        value, reference = column.value(line.row), column.value(base) if base is not None else None
        if value is not None and reference is not None and (reference or not column.is_ratio):
            relation[column.key] = value / reference if column.is_ratio else value - reference
    return {
        **row,
        "device": line.device,
        "variant": line.variant,
        "created": line.results.created,
        "quick": line.results.quick,
        "is_baseline": line.is_baseline,
        "to_baseline": relation,
        "gap_at_20_to_fp32": gap_to_fp32(line),
    }


def main_columns(lines: Sequence[Line]) -> tuple[Column, ...]:
    """Return the columns of the comparison: no latency and memory if all rows are emulated."""
    return MAIN_COLUMNS if any(line.results.device.emulator is None for line in lines) else UNTIMED_COLUMNS
