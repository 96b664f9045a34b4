"""Progress of `edge-af data prepare`."""

from __future__ import annotations

import time
from types import TracebackType
from typing import TYPE_CHECKING

from edge_af.console import Progress

if TYPE_CHECKING:
    from edge_af.data.prepare import Source


class SourceMeter:
    """Progress bar in megabytes of source files, with videos per second."""

    def __init__(self, sources: list[Source], done: int) -> None:
        self._bytes = sum(source.size_bytes for source in sources[:done])
        self._shown = 0
        self._videos = 0
        self._started = time.monotonic()
        self._bar = Progress("prepare", _megabytes(sum(source.size_bytes for source in sources)), "MB")

    def __enter__(self) -> SourceMeter:
        self._bar.__enter__()
        self._show(self._bytes)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.__exit__(kind, error, trace)

    def videos(self, count: int, position: int | None) -> None:
        """Count `count` more videos; `position` is the offset in the source, if known."""
        self._videos += count
        self._show(self._bytes + (position or 0))

    def source_done(self, source: Source) -> None:
        self._bytes += source.size_bytes
        self._show(self._bytes)

    def _show(self, total: int) -> None:
        rate = self._videos / max(time.monotonic() - self._started, 1e-9)
        steps = _megabytes(total) - self._shown
        self._shown += steps
        self._bar.update(steps, f"{self._videos:,} videos, {rate:,.0f} videos/s" if self._videos else None)


def _megabytes(count: int) -> int:
    return -(-count // 1_000_000)
