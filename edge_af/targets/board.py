"""The board's half of a bench over ssh: serve requests one at a time, with the same code as `edge_af.bench.local`.

`python -m edge_af.targets.board` replaces the agent's process (`edge_af.targets.agent.serve`) in the `files` folder of its
session. It reads requests, one JSON object per line, and answers like the agent. If the workstation disconnects or falls
silent, the running worker is ended.
"""

from __future__ import annotations

import base64
import dataclasses
import json
import os
import queue
import select
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edge_af.bench.local import Measurer
from edge_af.bench.worker import Job
from edge_af.machine.conditions import conditions
from edge_af.targets.agent import SILENCE_SECONDS, emit

IDLE_SECONDS = 600.0
"""Longest silence between requests, during which the workstation may be computing."""


class BoardSession:
    """A bench running on this board."""

    def __init__(self) -> None:
        self._folder = Path.cwd().parent
        scratch = self._folder / "scratch"
        scratch.mkdir(exist_ok=True)
        self._measurer = Measurer(scratch)

    def describe(self, request: dict[str, Any]) -> dict[str, Any]:
        return {"device": dataclasses.asdict(self._measurer.device), "conditions": dataclasses.asdict(conditions())}

    def bandwidth(self, request: dict[str, Any]) -> dict[str, Any]:
        found = self._measurer.bandwidth(request["threads"], request["weight_bytes"])
        return {"bandwidth": [dataclasses.asdict(one) for one in found]}

    def measure(self, request: dict[str, Any]) -> dict[str, Any]:
        return dataclasses.asdict(self._measurer.measure(Job.from_dict(request["job"]), _tell_stage))

    def score(self, request: dict[str, Any]) -> dict[str, Any]:
        place = self._folder / "outcomes.npz"
        place.unlink(missing_ok=True)
        job = dataclasses.replace(Job.from_dict(request["job"]), outcomes=str(place))
        found = self._measurer.score(job, _tell_stage)
        outcomes = base64.b64encode(place.read_bytes()).decode() if place.is_file() else None
        return {"fields": found, "outcomes": outcomes}

    def end(self, request: dict[str, Any]) -> dict[str, Any]:
        """Remove the session's files after a complete bench."""
        shutil.rmtree(self._folder, ignore_errors=True)
        return {}


def _tell_stage(stage: str) -> None:
    emit({"say": stage})


def _read_requests(requests: queue.Queue[bytes | None], busy: threading.Event) -> None:
    """Queue each line. If the workstation disconnects or falls silent, interrupt the running request."""
    rest, heard = b"", time.monotonic()
    while True:
        silence = time.monotonic() - heard
        part = b""
        if select.select([0], [], [], 1.0)[0]:
            part = os.read(0, 1 << 16)
        elif silence <= (SILENCE_SECONDS if busy.is_set() else IDLE_SECONDS):
            continue
        if not part:
            requests.put(None)
            if busy.is_set():
                os.kill(os.getpid(), signal.SIGINT)
            return
        heard = time.monotonic()
        *lines, rest = (rest + part).split(b"\n")
        for line in lines:
            if line.strip():
                requests.put(line)


def main() -> None:
    """Answer requests until the workstation disconnects."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    session, busy = BoardSession(), threading.Event()
    operations: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
        operation.__name__: operation
        for operation in (session.describe, session.bandwidth, session.measure, session.score, session.end)
    }
    requests: queue.Queue[bytes | None] = queue.Queue()
    threading.Thread(target=_read_requests, args=(requests, busy), daemon=True).start()
    try:
        emit({"done": {}})
        while (line := requests.get()) is not None:
            request = json.loads(line)
            busy.set()
            emit({"done": operations[request["do"]](request)})
            busy.clear()
    except (KeyboardInterrupt, BrokenPipeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        sys.exit(1)


if __name__ == "__main__":
    main()
