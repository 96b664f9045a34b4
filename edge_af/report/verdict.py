"""Show a comparison: a terminal table, Markdown, JUnit, GitHub's step summary and annotations."""

from __future__ import annotations

import os
from pathlib import Path
from xml.etree import ElementTree

from edge_af.console import command_ci, styled, warn
from edge_af.records.comparison import FAILED, FASTER, INVALID, PASSED, UNKNOWN, Check, Comparison, Interval, PairResult
from edge_af.report.tables import aligned_rows, escape, table_lines, wrapped

MARKS = {PASSED: "ok", FAILED: "FAILED", INVALID: "INVALID", UNKNOWN: "CANNOT TELL"}
_COLORS = {PASSED: "green", FAILED: "red", INVALID: "red", UNKNOWN: "yellow"}
_BYTES = ("size_bytes", "weight_bytes", "peak_memory_bytes")
_HEADINGS = ("check", "base", "candidate", "limit", "result")
_TITLES = {
    "runs": "runs",
    "time": "time",
    "agreement": "same scores (r)",
    "size_bytes": "file",
    "weight_bytes": "weights read",
    "multiply_adds": "multiply-adds",
    "peak_memory_bytes": "peak memory",
    "integer_share": "integer share",
    "gap_at_20": "GAP@20",
}


def percent(ratio: float) -> str:
    """Format a ratio as a change: 1.031 is `+3.1 %`."""
    text = f"{(ratio - 1) * 100:+.1f} %"
    return text if text != "-0.0 %" else "+0.0 %"


def interval_text(interval: Interval) -> str:
    """Format a ratio and its interval as changes."""
    return f"{percent(interval.value)} [{percent(interval.low)}, {percent(interval.high)}]"


def table(comparison: Comparison, width: int | None = None) -> str:
    """Return the table for a terminal of this width."""
    lines: list[str] = []
    inner = width - 2 if width is not None else None
    for pair in comparison.pairs:
        mark = MARKS[pair.status]
        *title, last = wrapped([f"{pair.name}:"], width - len(mark) - 1 if width is not None else None)
        lines += [*title, f"{last} {styled(mark, fg=_COLORS[pair.status], bold=True)}"]
        rows = [_HEADINGS, *(_cells(pair, check) for check in pair.checks)]
        head, *body = aligned_rows(rows, (0, 4), inner)
        lines += [f"  {line}" for line in head]
        # The verdict, the last column, has a color.
        first = next(at for at, line in enumerate(head) if line.endswith(_HEADINGS[-1]))
        start = head[first].index(_HEADINGS[-1])
        for check, row in zip(pair.checks, body, strict=True):
            for at, line in enumerate(row):
                verdict = line[start:] if at >= first else ""
                if verdict and check.status != PASSED:
                    verdict = styled(verdict, fg=_COLORS[check.status])
                lines.append(f"  {line[:start] if at >= first else line}{verdict}".rstrip())
        lines += wrapped([f"  {note}" for note in _notes(pair)], width)
        lines.append("")
    rest = [*_unmatched(comparison), *(f"warning: {text}" for text in comparison.warnings), _summary(comparison)]
    lines += wrapped(rest, width)
    return "\n".join(lines) + "\n"


def markdown_table(comparison: Comparison) -> str:
    """Return the table in Markdown, for a pull request comment or a step summary."""
    lines = [f"### edge-af compare: {_summary(comparison)}", ""]
    for pair in comparison.pairs:
        lines += [f"**{escape(pair.name)}**: {MARKS[pair.status]}", ""]
        lines += table_lines([_HEADINGS, *(list(map(escape, _cells(pair, check))) for check in pair.checks)], (0, 4))
        lines += ["", *(f"* {escape(note)}" for note in _notes(pair)), ""]
    lines += [f"* {escape(text)}" for text in (*_unmatched(comparison), *comparison.warnings)]
    packages = ", ".join(f"{name} {version}" for name, version in comparison.device.versions.items())
    lines.append(
        f"* {comparison.created}, {escape(comparison.device.label)}, {comparison.threads} thread"
        f"{'s' if comparison.threads > 1 else ''}, Python {comparison.device.python}, {escape(packages)}"
    )
    return "\n".join(lines) + "\n"


def junit_xml(comparison: Comparison) -> str:
    """Return JUnit XML, a suite per pair and a case per check: failures for gates, errors for faults, skips for
    inconclusive checks."""
    root = ElementTree.Element("testsuites", name="edge-af compare")
    for pair in comparison.pairs:
        statuses = [check.status for check in pair.checks]
        suite = ElementTree.SubElement(
            root,
            "testsuite",
            name=_printable(pair.name),
            tests=str(len(statuses)),
            failures=str(statuses.count(FAILED)),
            errors=str(statuses.count(INVALID)),
            skipped=str(statuses.count(UNKNOWN)),
            timestamp=comparison.created,
        )
        for check in pair.checks:
            case = ElementTree.SubElement(
                suite, "testcase", classname=_printable(pair.name), name=_printable(check.name)
            )
            if check.name == "time" and pair.timing is not None:
                case.set("time", f"{pair.timing.seconds:.3f}")
            kind = {FAILED: "failure", INVALID: "error", UNKNOWN: "skipped"}.get(check.status)
            if kind is not None:
                ElementTree.SubElement(case, kind, message=_printable(_line(pair, check)))
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def step_summary(comparison: Comparison) -> None:
    """Append the Markdown to the file in `GITHUB_STEP_SUMMARY`, which GitHub Actions sets."""
    if not (target := os.environ.get("GITHUB_STEP_SUMMARY")):
        return
    try:
        with Path(target).open("ab") as file:
            file.write((markdown_table(comparison) + "\n").encode(errors="backslashreplace"))
    except OSError as error:
        # A container may lack this file of the host.
        warn(f"GITHUB_STEP_SUMMARY: {target}: cannot write here ({error.strerror}); the step has no summary.")


def annotate(comparison: Comparison) -> None:
    """Print annotations for GitHub Actions if it runs this, on standard error, because standard output may be JSON."""
    if os.environ.get("GITHUB_ACTIONS") != "true":
        return
    for pair in comparison.pairs:
        for check in pair.checks:
            if check.status != PASSED:
                command = "warning" if check.status == UNKNOWN else "error"
                _command(command, f"{pair.name}: {check.name}", _line(pair, check))
        if pair.status == PASSED and pair.timing is not None and pair.timing.verdict == FASTER:
            check = next(check for check in pair.checks if check.name == "time")
            _command("notice", f"{pair.name}: faster", _line(pair, check))


def _command(command: str, title: str, message: str) -> None:
    def data(text: str) -> str:
        return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")

    # A colon or comma would end a property.
    name = data(title).replace(":", "%3A").replace(",", "%2C")
    command_ci(f"::{command} title={name}::{data(message)}")


def _line(pair: PairResult, check: Check) -> str:
    """Return a check in one line."""
    if check.name == "time" and pair.timing is not None:
        return "; ".join([check.verdict, *_notes(pair)[:1]])
    return check.verdict


def _cells(pair: PairResult, check: Check) -> tuple[str, str, str, str, str]:
    """Return a check's name, base, candidate, limit and verdict."""
    title = _TITLES.get(check.name, check.name)
    if check.name == "time":
        timing = pair.timing
        if timing is None:
            return title, "", "", "", check.verdict
        base, candidate = (f"{one:.3f} ms" if one is not None else "" for one in (timing.base_ms, timing.candidate_ms))
        change = f"{interval_text(timing.ratio)} " if timing.ratio is not None else ""
        return title, base, candidate, f"{percent(1 + timing.max_slowdown)}", f"{change}{check.verdict}"
    name = check.name.rpartition(": ")[2]
    figures = [_figure(name, one) for one in (check.base, check.candidate, check.limit)]
    if check.name == "agreement":
        figures[0] = ""
    return title, figures[0], figures[1], figures[2], check.verdict


def _figure(name: str, value: float | None) -> str:
    if value is None:
        return ""
    if name in _BYTES:
        return f"{value / 1e6:,.2f} MB"
    if name == "integer_share":
        return f"{value:.1%}"
    if name in ("gap_at_20", "f1_micro", "agreement"):
        return f"{value:.4f}"
    return f"{value:,.0f}"


def _notes(pair: PairResult) -> list[str]:
    """List notes that do not fit the table, the clock's first."""
    notes = []
    if timing := pair.timing:
        noise = f"; base against itself {interval_text(timing.noise)}" if timing.noise is not None else ""
        clock = "processor time" if timing.clock == "cpu" else "time on the clock"
        notes.append(
            f"{timing.generations} loads, {timing.rounds:,} rounds, {timing.seconds:.1f} s of {timing.budget_seconds:.0f} s, "
            f"{clock}{noise}"
        )
    # Formats have different names for the same operators.
    if pair.operators_changed and pair.runtimes[0] == pair.runtimes[1]:
        changes = ", ".join(f"{op} {before} → {after}" for op, (before, after) in pair.operators_changed.items())
        notes.append(f"operators: {changes}")
    return notes


def _unmatched(comparison: Comparison) -> list[str]:
    return [
        f"not compared, only in the {where}: {', '.join(names)}"
        for where, names in (("base", comparison.only_base), ("candidate", comparison.only_candidate))
        if names
    ]


def _summary(comparison: Comparison) -> str:
    worst = {
        PASSED: "no worse than the base",
        FAILED: "worse than the base",
        INVALID: "the comparison could not be made",
        UNKNOWN: "cannot tell",
    }[comparison.status]
    failing = [pair.name for pair in comparison.pairs if pair.status == comparison.status != PASSED]
    return f"{worst} ({', '.join(failing)})" if failing else worst


def _printable(text: str) -> str:
    """Remove characters that XML cannot hold."""
    return "".join(character for character in text if character.isprintable() or character == " ")
