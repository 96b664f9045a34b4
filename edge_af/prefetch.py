"""Work ahead in another thread."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from typing import TypeVar

T = TypeVar("T")


def prefetched(items: Iterator[T], ahead: int, on_stop: Callable[[], None] = lambda: None) -> Iterator[T]:
    """Yield the items of an iterator, which another thread draws at most `ahead` items in advance.

    Args:
        items: iterator without None; its exceptions are raised here.
        ahead: number of items that wait.
        on_stop: called when the consumer stops early, to end a blocking read of the other thread.
    """
    ready: queue.Queue[T | BaseException | None] = queue.Queue(ahead)
    stop = threading.Event()

    def put(item: T | BaseException | None) -> bool:
        while not stop.is_set():
            try:
                ready.put(item, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def work() -> None:
        try:
            for item in items:
                if not put(item):
                    return
            put(None)
        except BaseException as error:
            put(error)

    thread = threading.Thread(target=work, name="prefetch", daemon=True)
    thread.start()
    try:
        while (item := ready.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stop.set()
        on_stop()
        thread.join()
