"""`edge-af doctor`: what this machine can run, and why not."""

from __future__ import annotations

import json
import textwrap
from typing import TYPE_CHECKING

import click

from edge_af.console import tell

if TYPE_CHECKING:
    from edge_af.doctor import Health

WIDTH = 110


@click.command()
@click.option(
    "--timeout",
    type=click.FloatRange(1),
    default=120.0,
    show_default=True,
    help="Seconds that trying one package may take.",
)
@click.option(
    "--target", "target_text", metavar="ssh://[USER@]HOST[:PORT]", help="Look at that machine: see docs/targets.md."
)
@click.option("--offline", is_flag=True, help="With --target: it has no network, so get packages here and copy them.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")
def command(timeout: float, target_text: str | None, offline: bool, as_json: bool) -> None:
    """Say what this machine can run, and why not.

    Each runtime is imported and run on a tiny network in a process of its own: one that the processor cannot run is named,
    with what to do about it. Exit status 0 when a runtime works, 1 when none does.
    """
    from edge_af.console import Progress
    from edge_af.doctor import check_health
    from edge_af.errors import EdgeAfError, GateFailed

    nothing_runs = "no runtime works{}, so no exported file can be run or measured{}."
    if offline and target_text is None:
        raise click.UsageError("--offline is about a --target.")
    if target_text is not None:
        from edge_af.targets import SshTarget, parse_target
        from edge_af.targets.bench import doctor_on_target

        target = parse_target(target_text)
        if not isinstance(target, SshTarget):
            raise EdgeAfError(
                f"{target.label}: the doctor goes to machines with Python, by ssh://; bench says what it lacks."
            )
        arguments = ["--timeout", str(timeout), *(["--json"] if as_json else [])]
        status, output = doctor_on_target(target, arguments, offline=offline)
        tell(output, nl=False)
        if status == 1:
            raise GateFailed(nothing_runs.format(f" on {target.label}", " there"))
        if status:
            raise EdgeAfError(f"{target.label}: `edge-af doctor` there ended with status {status}.")
        return
    with Progress("doctor", None, "checks") as progress:
        health = check_health(timeout, on_step=lambda step: progress.update(1, f"trying {step}"))
        progress.update(0, note="")
    tell(json.dumps(health.as_dict(), indent=2, ensure_ascii=False) if as_json else _text(health))
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
        text += f"; pip install 'edge-af[{verb.extra}]'" if verb.extra else ""
        lines += _row(verb.verb, text)
    if health.remarks:
        lines.append("")
        for remark in health.remarks:
            lines += textwrap.wrap(remark, WIDTH, initial_indent="* ", subsequent_indent="  ", break_long_words=False)
    return "\n".join(lines)


def _row(name: str, text: str) -> list[str]:
    return textwrap.wrap(
        text, WIDTH, initial_indent=f"  {name:<14}", subsequent_indent=" " * 16, break_long_words=False
    ) or [f"  {name}"]


def _gib(amount: int | None) -> str:
    return f"{amount / 2**30:.1f} GiB" if amount is not None else "not known"
