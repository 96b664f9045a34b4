"""Combine results: each row with its baseline, and the formatting of figures and their relations.

Derived figures are shown but never stored: a results file holds only measurements.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from edge_af.artifacts import CPU_OF_MACHINE
from edge_af.machine.device import Device
from edge_af.records.results import OK, Latency, Results, Row
from edge_af.runtime.kernels import integer_instructions

MODEL_NAMES = {"attend-fusion": "Attend-Fusion", "fc-late-fusion": "FC Late Fusion"}
RUNTIME_NAMES = {"onnxruntime": "ONNX Runtime", "litert": "LiteRT", "torch": "PyTorch"}
PRECISION_ORDER = ("fp32", "fp16", "int8", "int4")


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
    """What distinguishes it from rows with the same network, runtime and precision; empty if there are none."""

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


@dataclass(frozen=True)
class Column:
    """A column of the table: a figure of a row."""

    key: str
    title: str
    unit: str
    value: Callable[[Row], float | None]
    write: Callable[[float], str]
    is_ratio: bool
    """True to compare with the baseline as a factor, False as a difference."""

    def text(self, row: Row) -> str:
        """Return the figure without its unit; empty if there is none."""
        value = self.value(row)
        return "" if value is None else self.write(value)

    def relation(self, row: Row, base: Row | None) -> str:
        """Return the relation to the baseline, `0.09×` or `+0.0123`; empty for the baseline and for missing figures."""
        value, reference = self.value(row), self.value(base) if base is not None else None
        if value is None or reference is None or row is base:
            return ""
        if not self.is_ratio:
            return signed(value - reference)
        return factor(value / reference) if reference else ""


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


def signed(difference: float) -> str:
    """Format a difference of accuracies with its sign: `+0.0123`, `−0.0004`, `±0`."""
    text = f"{abs(difference):.4f}"
    if float(text) == 0:
        return "±0"
    return f"+{text}" if difference > 0 else f"−{text}"


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


def percent(share: float) -> str:
    """Format a share: `34 %`, below 10 % `3.4 %`."""
    return f"{100 * share:.0f} %" if share >= 0.0995 else f"{100 * share:.1f} %"


def factor(ratio: float) -> str:
    """Format a multiple of the baseline with two digits: `0.0081×`, `0.034×`, `0.52×`, `1.70×`, `2.3×`, `12×`."""
    for least, digits in ((9.95, 0), (1.995, 1), (0.0995, 2), (0.00995, 3)):
        if ratio >= least:
            return f"{ratio:,.{digits}f}×"
    return f"{ratio:.4f}×"


def quantity(value: float) -> str:
    """Format with about three digits: `0.034`, `1.23`, `12.3`, `1,363`."""
    if value >= 99.95:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 9.995 else f"{value:.2f}" if value >= 0.995 else f"{value:.3f}"


def megabytes(value: float) -> str:
    """Format bytes in units of 1,000,000."""
    return quantity(value / 1e6)


def parameters(row: Row) -> str:
    """Format a number of parameters: `341 M` or `3,950`."""
    return f"{quantity(row.params / 1e6)} M" if row.params >= 1e5 else f"{row.params:,}"


def parameters_relation(line: Line) -> str:
    """Return the network's size relative to the baseline's; empty for the baseline's network."""
    base = line.base
    if base is None or _identity(base) == _identity(line.row):
        return ""
    return PARAMS.relation(line.row, base)


def _four(value: float) -> str:
    return f"{value:.4f}"


def _latency(pick: Callable[[Latency], float | None]) -> Callable[[Row], float | None]:
    return lambda row: pick(row.latency_ms) if row.latency_ms is not None else None


GAP = Column("gap_at_20", "GAP@20", "", lambda row: row.gap_at_20, _four, False)
F1 = Column("f1_micro", "F1", "", lambda row: row.f1_micro, _four, False)
PARAMS = Column("params", "Parameters", "M", lambda row: row.params, lambda value: quantity(value / 1e6), True)
SIZE = Column("size_bytes", "File", "MB", lambda row: row.size_bytes, megabytes, True)
P50 = Column("p50", "p50", "ms", _latency(lambda latency: latency.p50), quantity, True)
P90 = Column("p90", "p90", "ms", _latency(lambda latency: latency.p90), quantity, True)
MEMORY = Column("peak_memory_bytes", "Memory", "MB", lambda row: row.peak_memory_bytes, megabytes, True)

LIMIT = Column("limit_share", "Of the limit", "", lambda row: row.limit_share, percent, False)

MAIN_COLUMNS = (GAP, F1, SIZE, P50, P90, MEMORY)
"""Columns of the table, each with its relation. Parameters are shown with the network's name."""

UNTIMED_COLUMNS = (GAP, F1, SIZE)
"""Columns for emulated boards."""

MORE_COLUMNS = (
    Column("f1_macro", "Macro F1", "", lambda row: row.f1_macro, _four, False),
    Column("f1_micro_at_half", "F1 at 0.5", "", lambda row: row.f1_micro_at_half, _four, False),
    Column("f1_threshold", "F1 threshold", "", lambda row: row.f1_threshold, _four, False),
    Column("hit_at_1", "Hit@1", "", lambda row: row.hit_at_1, _four, False),
    Column("perr", "PERR", "", lambda row: row.perr, _four, False),
    Column("map", "mAP", "", lambda row: row.map, _four, False),
    Column("ties_share", "Ties", "", lambda row: row.ties_share, percent, False),
    Column("p95", "p95", "ms", _latency(lambda latency: latency.p95), quantity, True),
    Column("p99", "p99", "ms", _latency(lambda latency: latency.p99), quantity, True),
    Column("mean", "Mean", "ms", _latency(lambda latency: latency.mean), quantity, True),
    Column("n", "Inferences", "", _latency(lambda latency: latency.n), lambda value: f"{value:,.0f}", True),
    Column("load_ms", "Load", "ms", lambda row: row.load_ms, quantity, True),
    Column("first_ms", "First", "ms", lambda row: row.first_ms, quantity, True),
    Column("videos_per_s", "Videos", "a second", lambda row: row.videos_per_s, quantity, True),
    Column("limit_ms", "Limit", "ms", lambda row: row.limit_ms, quantity, True),
    Column("runtime_memory_bytes", "Bare runtime", "MB", lambda row: row.runtime_memory_bytes, megabytes, True),
)
"""Columns shown on request."""


def summary(line: Line) -> dict[str, object]:
    """Return a row with its relations for machine-readable output, without raw latencies."""
    from dataclasses import asdict

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
        others = [row.file for row in results.rows if row.cpu not in (None, kind)]
        if others:
            found.append(
                f"Made for another kind of processor than {kind}, and slower here for it: {', '.join(others)}."
            )
        where = f"{title}: " if len(set(titles)) > 1 else ""
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
