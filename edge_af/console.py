"""Messages to the user while work continues. Everything goes to standard error: standard output holds results only."""

from __future__ import annotations

import codecs
import contextlib
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
    """Make standard output and error take any text, and be there at all.

    A locale that lacks a sign gets its JSON escape, so that JSON stays what it is. A stream that was closed when the
    process started (`>&-`, some service managers) becomes the null device: otherwise the next file opened would take its
    number, and receive what libraries print.
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
    """A character as JSON escapes it."""
    units = character.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[index]:02x}{units[index + 1]:02x}" for index in range(0, len(units), 2))


def plain(text: str) -> str:
    """Make text from outside (names in files, of files, of classes) safe to show: one line, every character visible.

    Line ends, control characters, escape sequences and signs that turn the direction of writing become escapes.
    """
    return "".join(one if one.isprintable() else _escaped(one) for one in text)


_CONTROLS = re.compile("(?!\x1b\\[[0-9;]*m)[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
"""All but tabs, line ends and our own colors."""


def _shown(text: str) -> str:
    """Make text safe for a terminal and the log of a CI system, where text from outside was passed on unchanged."""
    text = _CONTROLS.sub(lambda found: _escaped(found[0]), text)
    # CI systems take for a command: GitHub Actions a line that starts with `::`, or holds `##[`; Azure Pipelines one that
    # holds `##vso[`; TeamCity `##teamcity[`.
    return re.sub(r"##(?=\w*\[)", r"#\\u0023", re.sub(r"(?m)^(\s*):(?=:)", r"\1\\u003a", text))


@contextlib.contextmanager
def _unheard() -> Iterator[None]:
    """Let news be lost when nobody can take it: standard error that is full or closed ends no work and changes no status."""
    try:
        yield
    except OSError:
        discard(sys.stderr)


@contextlib.contextmanager
def without_chatter(beginning: str) -> Iterator[None]:
    """Keep lines that a native library writes to standard error, and that begin so, from the user; others follow the block."""
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
                if not line.startswith(beginning):
                    say(line)


def discard(stream: IO[str]) -> None:
    """Lead a stream to the null device: what it still holds would fail again at exit and change the exit status."""
    with contextlib.suppress(OSError, ValueError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)


_lost: list[OSError] = []


def tell(text: str, *, nl: bool = True) -> None:
    """Print a result on standard output.

    Work continues where that fails, so that files are written and a verdict stands: a reader that has gone (`… | head`) wants
    no more, and `lost_output` tells of all else.
    """
    try:
        click.echo(_shown(text), nl=nl)
    except OSError as error:
        lose(error)


def lose(error: OSError) -> None:
    """Continue without standard output, which has failed."""
    if not isinstance(error, BrokenPipeError):
        _lost.append(error)
    discard(sys.stdout)


def reader_gone() -> bool:
    """Tell whether whoever read standard output has closed it."""
    poll = select.poll()
    poll.register(sys.stdout.fileno(), select.POLLOUT)
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))


def lost_output() -> OSError | None:
    """Return why results could not be printed; None if they were, or if their reader wanted no more."""
    return next(iter(_lost), None)


_prefix: list[str] = []


def prefix_lines(label: str) -> None:
    """Begin each line of this process with a label, and draw no progress bar: others write to the same terminal."""
    _prefix.append(label)


def say(message: str) -> None:
    """One line of news for the person at the terminal."""
    if _prefix and _prefix[0] not in message:
        message = f"{_prefix[0]}: {message}"
    with _unheard():
        click.echo(_shown(message), err=True)


def command_ci(line: str) -> None:
    """Give GitHub Actions a workflow command, whose parts the caller has escaped."""
    with _unheard():
        click.echo(line, err=True)


def warn(message: str) -> None:
    """One line that the user should not miss."""
    say(styled("warning: ", fg="yellow") + message)


def styled(text: str, **style: Any) -> str:
    """The text in color, unless the user wants none (NO_COLOR, https://no-color.org)."""
    return text if os.environ.get("NO_COLOR") else click.style(text, **style)


class Progress:
    """A bar on a terminal, a plain line now and then elsewhere (a log, CI).

    Use as a context manager; call `update(steps, note)`. `total` may be None when it is not known.
    """

    PLAIN_SECONDS = 10.0
    """Outside a terminal: at most one line per this many seconds."""

    def __init__(self, label: str, total: int | None, unit: str = "") -> None:
        self._label, self._total = label, total
        self._unit = f" {unit}" if unit else ""
        self._done, self._note = 0, ""
        self._bar: tqdm[NoReturn] | None = None
        self._started = self._last = time.monotonic()

    def __enter__(self) -> Self:
        if sys.stderr.isatty() and os.environ.get("TERM") != "dumb" and not _prefix:
            from tqdm import tqdm

            tqdm.monitor_interval = 0  # No thread of its own.
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
            say(f"{self._label}: {self._done:,}{self._unit} in {seconds:.1f} s{note}")

    def update(self, steps: int = 1, note: str | None = None) -> None:
        """Count `steps` more; `note` is a short text that stands at the end of the line."""
        self._done += steps
        if note is not None:
            self._note = note
        if self._bar is not None:
            with _unheard():
                self._bar.set_postfix_str(plain(self._note), refresh=False)
                self._bar.update(steps)
                if not steps:
                    self._bar.refresh()
        elif (now := time.monotonic()) - self._last >= self.PLAIN_SECONDS:
            self._last = now
            if self._done:
                total = f"/{self._total:,}" if self._total else ""
                say(f"{self._label}: {self._done:,}{total}{self._unit}{f'  {self._note}' if self._note else ''}")
