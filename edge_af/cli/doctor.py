"""`edge-af doctor`: check which commands this machine can run."""

from __future__ import annotations

import json
import textwrap
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edge_af.cli import build
from edge_af.console import line_width, tell
from edge_af.options import option
from edge_af.packages import install_command

if TYPE_CHECKING:
    from edge_af.doctor import Health

WIDE = 110


@dataclass(frozen=True)
class DoctorOptions:
    """The options of `edge-af doctor`."""

    timeout: float = option("Time limit of one check, in seconds.", default=120.0, at_least=1)
    target: str | None = option(
        "Machine to examine (see docs/how-to/targets.md).",
        default=None,
        metavar="ssh://[USER@]HOST[:PORT]",
        complete="ssh",
    )
    offline: bool = option("Download packages for --target here and copy them.", default=False)
    json: bool = option("Print JSON instead of text.", default=False)


@build.verb(DoctorOptions, example="edge-af doctor --target ssh://pi@raspberrypi.local")
def command(options: DoctorOptions) -> None:
    """Check which commands this machine can run, and what the others need.

    Each runtime is imported and runs a tiny network in its own process. The exit code is 0 if a runtime works, else 1.
    """
    from edge_af.console import Progress
    from edge_af.doctor import check_health
    from edge_af.errors import EdgeAfError, GateFailed

    nothing_runs = "no runtime works{}, so no exported file can be run or measured{}."
    if options.offline and options.target is None:
        raise EdgeAfError("--offline needs a --target.")
    if options.target is not None:
        from edge_af.targets.ssh import parse_ssh
        from edge_af.targets.ssh_backend import doctor_on_target

        if not options.target.startswith("ssh:"):
            raise EdgeAfError(f"{options.target}: the doctor examines machines with Python, over ssh://.")
        target = parse_ssh(options.target)
        arguments = ["--timeout", str(options.timeout), *(["--json"] if options.json else [])]
        status, output = doctor_on_target(target, arguments, offline=options.offline)
        tell(output, nl=False)
        if status == 1:
            raise GateFailed(nothing_runs.format(f" on {target.label}", " there"))
        if status:
            raise EdgeAfError(f"{target.label}: `edge-af doctor` there ended with exit code {status}.")
        return
    with Progress("doctor", None, "checks") as progress:
        health = check_health(options.timeout, on_step=lambda step: progress.update(1, f"trying {step}"))
        progress.update(0, note="")
    tell(json.dumps(health.as_dict(), indent=2, ensure_ascii=False) if options.json else _text(health))
    if not health.runs:
        raise GateFailed(nothing_runs.format(" here", " on this machine"))


def _text(health: Health) -> str:
    device, state = health.device, health.conditions
    memory = [_gib(device.memory_bytes), f"{_gib(health.available_memory_bytes)} available"]
    memory += [f"{name} leaves {_gib(left)}" for name, left in health.memory_limits.items()]
    clock = [f"{state.frequency_mhz:.0f} MHz"] if state.frequency_mhz else []
    clock += [f"governor {state.governor}"] if state.governor else []
    clock += [f"{state.temperature_c:.0f} °C"] if state.temperature_c else []
    facts = {
        "system": f"{device.machine}, {device.kernel}, {health.bits}-bit Python {device.python}",
        "instructions": " ".join(device.features or ()) or "not known",
        "memory": ", ".join(memory),
        "memory pages": f"{health.page_bytes // 1024} KiB",
        "clock": ", ".join(clock) or "not known",
        "slowed down": ", ".join(state.throttled) or "nothing is reported",
    }
    lines = [device.label, *(line for name, text in facts.items() for line in _row(name, text)), ""]
    for check in health.runtimes:
        name = f"{check.package} {check.version}" if check.package else "not installed"
        lines += _row(
            check.runtime, f"{name}: " + ("runs" if check.status == "ok" else f"{check.status}: {check.reason}")
        )
        if check.advice:
            lines += _row("", check.advice)
    lines.append("")
    for verb in health.verbs:
        text = "works" if verb.works else "does not work"
        text += f": {verb.reason}" if verb.reason else ""
        lines += _row(verb.verb, text)
        if verb.extra:  # Not wrapped, so that it can be copied.
            lines.append(f"{'':16}{install_command(verb.extra)}")
    if health.remarks:
        lines.append("")
        for remark in health.remarks:
            lines += textwrap.wrap(
                remark, _width(), initial_indent="* ", subsequent_indent="  ", break_long_words=False
            )
    return "\n".join(lines)


def _row(name: str, text: str) -> list[str]:
    return textwrap.wrap(
        text, _width(), initial_indent=f"  {name:<14}", subsequent_indent=" " * 16, break_long_words=False
    ) or [f"  {name}"]


def _width() -> int:
    return min(WIDE, line_width() or WIDE)


def _gib(amount: int | None) -> str:
    return f"{amount / 2**30:.1f} GiB" if amount is not None else "not known"
