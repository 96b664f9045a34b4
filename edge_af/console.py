"""What the user sees while work goes on. Everything here goes to standard error: standard output holds results only."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Self

import click


def say(message: str) -> None:
    """One line of news for the person at the terminal."""
    click.echo(message, err=True)


def warn(message: str) -> None:
    """One line that the user should not miss."""
    click.echo(click.style("warning: ", fg="yellow") + message, err=True)


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
            click.echo("\r\033[K", err=True, nl=False)
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
        click.echo(f"\r\033[K{self._label} {bar}{count}{left}{tail}", err=True, nl=False)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d}"
