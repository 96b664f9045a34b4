"""Errors that the user can act on, and the exit codes.

A message is one or two plain lines: what is wrong, where (file, record, field), what to do.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

DONE, GATE_FAILED, BAD_INPUT, INCONCLUSIVE, DEFECT = 0, 1, 2, 3, 70
"""Exit codes of all commands. An unexpected error is a defect of edge-af: 70, EX_SOFTWARE of sysexits.h. A process ended by a
signal has 128 + the signal's number."""


class EdgeAfError(Exception):
    """The command line or the input is at fault."""

    exit_code = BAD_INPUT


class GateFailed(EdgeAfError):
    """A measured limit was exceeded (slower, larger, less accurate)."""

    exit_code = GATE_FAILED


class Stopped(EdgeAfError):
    """A signal stopped the work; the message says how to continue."""

    def __init__(self, message: str, number: int) -> None:
        super().__init__(message)
        self.number, self.exit_code = number, 128 + number


def unknown(what: str, name: str, known: Iterable[str]) -> str:
    """Return the message for an unknown name, which suggests the nearest known one or lists them all."""
    names = list(known)
    near = difflib.get_close_matches(name, names, n=1)
    return f"unknown {what} {name!r}. " + (f"Did you mean {near[0]!r}?" if near else f"Choose from {', '.join(names)}.")
