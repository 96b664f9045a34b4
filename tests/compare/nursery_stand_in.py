"""A nursery that misbehaves while it loads a file."""

from __future__ import annotations

import sys
import textwrap


def with_load(body: str) -> list[str]:
    """Return the command of a real worker that runs `body` at the start of `load(path)`."""
    head = """
        import os, signal, time
        from edge_af.compare import worker
        real = worker.load
        def load(path, **options):
    """
    tail = """
            return real(path, **options)
        worker.load = load
        worker.main()
    """
    code = textwrap.dedent(head) + textwrap.indent(textwrap.dedent(body), "    ") + textwrap.dedent(tail)
    return [sys.executable, "-P", "-c", code]
