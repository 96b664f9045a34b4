"""The board's half of a bench over ssh: measures one request after the other, as `edge_af.bench.local` does here.

`python -m edge_af.targets.board` takes the agent's place (`edge_af.targets.agent.serve`) in the folder `files` of its session.
It reads requests, one JSON object per line, and answers like the agent. When the workstation hangs up or falls silent, the
worker under way is ended.
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
"""Longest silence between requests: the workstation may be computing."""


class BoardSession:
    """A bench under way on this board."""

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
        """Remove the session's files: the bench is complete."""
        shutil.rmtree(self._folder, ignore_errors=True)
        return {}


def _tell_stage(stage: str) -> None:
    emit({"say": stage})


def _read_requests(requests: queue.Queue[bytes | None], busy: threading.Event) -> None:
    """Queue each line. When the workstation hangs up or falls silent, interrupt the request under way."""
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
    """Answer requests until the workstation hangs up."""
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
