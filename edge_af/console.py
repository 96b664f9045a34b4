"""What the user sees while work goes on. Everything here goes to standard error: standard output holds results only."""

from __future__ import annotations

import codecs
import contextlib
import os
import sys
import time
from collections.abc import Iterator
from types import TracebackType
from typing import IO, Self

import click


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
    units = error.object[error.start : error.end].encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[i]:02x}{units[i + 1]:02x}" for i in range(0, len(units), 2)), error.end


@contextlib.contextmanager
def unheard() -> Iterator[None]:
    """Let news be lost when nobody can take it: standard error that is full or closed ends no work and changes no status."""
    try:
        yield
    except OSError:
        discard(sys.stderr)


def discard(stream: IO[str]) -> None:
    """Lead a stream to the null device: what it still holds would fail again at exit and change the exit status."""
    with contextlib.suppress(OSError, ValueError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)


def say(message: str) -> None:
    """One line of news for the person at the terminal."""
    with unheard():
        click.echo(message, err=True)


def warn(message: str) -> None:
    """One line that the user should not miss."""
    say(click.style("warning: ", fg="yellow") + message)


class Progress:
    """A bar on a terminal, a plain line now and then elsewhere (a log, CI).

    Use as a context manager; call `update(steps, note)`. `total` may be None when it is not known.
    """

    PLAIN_SECONDS = 10.0
    """Outside a terminal: at most one line in so many seconds."""

    def __init__(self, label: str, total: int | None, unit: str = "") -> None:
        self._label = label
        self._total = total
        self._unit = f" {unit}" if unit else ""
        self._done = 0
        self._note = ""
        self._terminal = sys.stderr.isatty()
        self._started = self._last = time.monotonic()

    def __enter__(self) -> Self:
        self._draw()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._terminal:
            _draw_over("")
        if kind is None:
            seconds = time.monotonic() - self._started
            note = f", {self._note}" if self._note else ""
            say(f"{self._label}: {self._done:,}{self._unit} in {seconds:.1f} s{note}")

    def update(self, steps: int = 1, note: str | None = None) -> None:
        """Count `steps` more; `note` is a short text that stands at the end of the line."""
        self._done += steps
        if note is not None:
            self._note = note
        now = time.monotonic()
        if now - self._last >= (0.1 if self._terminal else self.PLAIN_SECONDS):
            self._last = now
            self._draw()

    def _draw(self) -> None:
        elapsed = time.monotonic() - self._started
        rate = self._done / elapsed if elapsed > 0 else 0.0
        if self._total:
            share = min(1.0, self._done / self._total)
            count = f"{self._done:,}/{self._total:,}{self._unit}"
            left = (
                f", {_clock((self._total - self._done) / rate)} left" if rate > 0 and self._done < self._total else ""
            )
        else:
            share, count, left = 0.0, f"{self._done:,}{self._unit}", ""
        tail = f"  {self._note}" if self._note else ""
        if not self._terminal:
            if self._done:
                say(f"{self._label}: {count}{left}{tail}")
            return
        bar = f"[{'#' * round(24 * share):<24}] " if self._total else ""
        _draw_over(f"{self._label} {bar}{count}{left}{tail}")


def _draw_over(text: str) -> None:
    with unheard():
        click.echo(f"\r\033[K{text}", err=True, nl=False)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d}"
