"""Messages and progress on standard error. Standard output holds results only."""

from __future__ import annotations

import codecs
import contextlib
import math
import os
import re
import select
import sys
import tempfile
import time
from collections.abc import Iterator
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any, NoReturn, Self

import click

if TYPE_CHECKING:
    from tqdm import tqdm


def prepare_streams() -> None:
    """Make standard output and error open, and able to take any text.

    Characters that the locale lacks become JSON escapes, so JSON stays valid. A stream that was closed when the process
    started (`>&-`, some service managers) becomes the null device. Otherwise the next file opened would take its
    number and receive what libraries print.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            null = os.open(os.devnull, os.O_RDWR)
            if null != number:
                os.dup2(null, number)
                os.close(null)
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, "r" if number == 0 else "w", encoding="utf-8"))  # noqa: PTH123, SIM115
    codecs.register_error("json-escape", _json_escape)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="json-escape")


def _json_escape(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(map(_escaped, error.object[error.start : error.end])), error.end


def _escaped(character: str) -> str:
    """Return the JSON escape of a character."""
    units = character.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[index]:02x}{units[index + 1]:02x}" for index in range(0, len(units), 2))


def plain(text: str) -> str:
    """Make untrusted text (file names, class names) safe to show: one line, every character visible.

    Line ends, control characters and characters that change the writing direction become escapes.
    """
    return "".join(one if one.isprintable() else _escaped(one) for one in text)


_CONTROLS = re.compile("(?!\x1b\\[[0-9;]*m)[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
"""Control characters except tabs, line ends and our own colors."""


def _shown(text: str) -> str:
    """Make text that contains untrusted parts safe for a terminal and a CI log."""
    text = _CONTROLS.sub(lambda found: _escaped(found[0]), text)
    # CI systems execute such lines: GitHub Actions those that start with `::` or contain `##[`, Azure Pipelines
    # `##vso[`, TeamCity `##teamcity[`.
    return re.sub(r"##(?=\w*\[)", r"#\\u0023", re.sub(r"(?m)^(\s*):(?=:)", r"\1\\u003a", text))


@contextlib.contextmanager
def _unheard() -> Iterator[None]:
    """Ignore errors of standard error: a full or closed stream must not end the work or change the exit code."""
    try:
        yield
    except OSError:
        discard(sys.stderr)


@contextlib.contextmanager
def without_chatter(*beginnings: str) -> Iterator[None]:
    """Hide a native library's lines on standard error with one of these beginnings; print the others after the block."""
    try:
        kept = os.dup(2)
    except OSError:  # It is closed.
        yield
        return
    with tempfile.TemporaryFile() as caught:
        try:
            os.dup2(caught.fileno(), 2)
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            caught.seek(0)
            for line in caught.read().decode(errors="replace").splitlines():
                if not line.startswith(beginnings):
                    say(line)


def discard(stream: IO[str]) -> None:
    """Redirect a stream to the null device. Its buffer would fail again at exit and change the exit code."""
    with contextlib.suppress(OSError, ValueError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)


_lost: list[OSError] = []


def tell(text: str, *, nl: bool = True) -> None:
    """Print a result on standard output.

    If that fails, work continues, so that files are written and the exit code stands. `lost_output` gives the reason,
    unless the reader has gone (`… | head`).
    """
    try:
        click.echo(_shown(text), nl=nl)
    except OSError as error:
        lose(error)


def lose(error: OSError) -> None:
    """Continue without standard output after it has failed."""
    if not isinstance(error, BrokenPipeError):
        _lost.append(error)
    discard(sys.stdout)


def reader_gone() -> bool:
    """Return True if the reader of standard output has closed it."""
    poll = select.poll()
    poll.register(sys.stdout.fileno(), select.POLLOUT)
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))


def lost_output() -> OSError | None:
    """Return why results could not be printed; None if they were, or if the reader has gone."""
    return next(iter(_lost), None)


_prefix: list[str] = []


def prefix_lines(label: str) -> None:
    """Prefix each line of this process with a label and draw no progress bar: others share the terminal."""
    _prefix.append(label)


def say(message: str) -> None:
    """Print a message."""
    if _prefix and _prefix[0] not in message:
        message = f"{_prefix[0]}: {message}"
    with _unheard():
        click.echo(_shown(message), err=True)


def command_ci(line: str) -> None:
    """Print a workflow command for GitHub Actions; the caller has escaped its parts."""
    with _unheard():
        click.echo(line, err=True)


def warn(message: str) -> None:
    """Print a warning."""
    say(styled("warning: ", fg="yellow") + message)


def styled(text: str, **style: Any) -> str:
    """Color the text, unless the terminal is a plain one."""
    return text if is_plain() else click.style(text, **style)


def is_plain() -> bool:
    """Return True if colors and cursor movement are unwanted: NO_COLOR (https://no-color.org) or TERM=dumb is set."""
    return bool(os.environ.get("NO_COLOR")) or os.environ.get("TERM") == "dumb"


NARROWEST = 40


def line_width(stream: IO[str] | None = None) -> int | None:
    """Return the columns that lines have on a stream, by default standard output: COLUMNS, or those of the terminal.

    None where lines may have any length, as in a file or a pipe without COLUMNS.
    """
    columns = os.environ.get("COLUMNS", "")
    width = int(columns) if columns.isascii() and columns.isdecimal() else 0
    if not width:
        with contextlib.suppress(OSError, ValueError):  # A stream without a file, or a terminal without a size.
            width = os.get_terminal_size((stream or sys.stdout).fileno()).columns
    return max(width, NARROWEST) if width else None


def duration(seconds: float) -> str:
    """Format a duration: `56 s`, `3 min 20 s`, `2 h 5 min`."""
    whole = math.ceil(seconds)
    if whole < 120:
        return f"{whole} s"
    if whole < 7200:
        return f"{whole // 60} min" + (f" {whole % 60} s" if whole % 60 else "")
    return f"{whole // 3600} h" + (f" {whole % 3600 // 60} min" if whole % 3600 >= 60 else "")


class Progress:
    """A progress bar on a terminal, occasional plain lines elsewhere (a log, CI).

    Use as a context manager; call `update(steps, note)`. `total` may be None when it is not known.
    """

    PLAIN_SECONDS = 10.0
    """Minimum seconds between lines outside a terminal."""

    WITHOUT_BAR = 40
    """Columns that tqdm needs for count, duration and rate when the total is unknown."""

    def __init__(self, label: str, total: int | None, unit: str = "") -> None:
        self._label, self._total = label, total
        self._unit = f" {unit}" if unit else ""
        self._done, self._note = 0, ""
        self._bar: tqdm[NoReturn] | None = None
        self._started = self._last = time.monotonic()

    def __enter__(self) -> Self:
        if sys.stderr.isatty() and not is_plain() and not _prefix:
            from tqdm import tqdm

            tqdm.monitor_interval = 0  # tqdm would start a monitor thread.
            with _unheard():
                self._bar = tqdm(
                    total=self._total,
                    desc=self._label,
                    unit=self._unit,
                    file=sys.stderr,
                    leave=False,
                    dynamic_ncols=True,
                )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            with _unheard():
                self._bar.close()
        if kind is None:
            seconds = time.monotonic() - self._started
            note = f", {self._note}" if self._note else ""
            say(_cut(f"{self._label}: {self._done:,}{self._unit} in {seconds:.1f} s{note}"))

    def update(self, steps: int = 1, note: str | None = None) -> None:
        """Advance by `steps`; `note` is a short text for the end of the line."""
        self._done += steps
        if note is not None:
            self._note = note
        if self._bar is not None:
            with _unheard():
                note = plain(self._note)
                if self._total is None:  # tqdm does not cut such a line.
                    note = _cut(note, self.WITHOUT_BAR + len(self._label) + len(self._unit))
                self._bar.set_postfix_str(note, refresh=False)
                self._bar.update(steps)
                if not steps:
                    self._bar.refresh()
        elif (now := time.monotonic()) - self._last >= self.PLAIN_SECONDS:
            self._last = now
            if self._done:
                total = f"/{self._total:,}" if self._total else ""
                say(_cut(f"{self._label}: {self._done:,}{total}{self._unit}{f'  {self._note}' if self._note else ''}"))


def _cut(line: str, taken: int = 0) -> str:
    """Shorten a line of progress to the width of standard error, less `taken` columns."""
    width = line_width(sys.stderr)
    taken += len(f"{_prefix[0]}: ") if _prefix else 0
    if width is None or len(line) <= width - taken:
        return line
    return line[: max(width - taken - 1, 0)] + "…"
