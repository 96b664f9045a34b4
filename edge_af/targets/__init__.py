"""Benches on other machines: boards over ssh, Android phones over adb, and the registry of all backends."""

from __future__ import annotations

import importlib

from edge_af.bench.backend import Backend, TargetOptions
from edge_af.errors import EdgeAfError

BACKENDS = {
    "ssh": "edge_af.targets.ssh_backend",
    "adb": "edge_af.targets.adb_backend",
    "emulated": "edge_af.emulation.backend",
}
"""Module of each kind of target, by the scheme of its address. Each has a function `open_backend` like the one below."""

FORMS = "ssh://[user@]host[:port], adb[:SERIAL] or emulated:BOARD[:MEMORY]"


def open_backend(address: str, options: TargetOptions) -> Backend:
    """Create the backend for a target's address, without connecting.

    Raises:
        EdgeAfError: the address is malformed, or an option does not apply to this kind of target.
    """
    module = BACKENDS.get(address.partition(":")[0])
    if module is None:
        raise EdgeAfError(f"--target {address!r}: expected {FORMS}.")
    backend: Backend = importlib.import_module(module).open_backend(address, options)
    return backend
