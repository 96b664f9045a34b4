"""`edge-af targets`: prepare this machine to bench on other machines."""

from __future__ import annotations

from dataclasses import dataclass

import click

from edge_af.cli.build import OneOf, verb
from edge_af.console import say, tell
from edge_af.options import option


@click.group()
def command() -> None:
    """Prepare this machine for `edge-af bench --target`."""


@dataclass(frozen=True)
class SetupOptions:
    """The options of `edge-af targets setup`."""

    mirror: str | None = option("Debian mirror.", default=None, metavar="URL", shown_default="this machine's own")


@verb(
    SetupOptions,
    kind=click.Argument(["kind"], type=OneOf(["emulated"])),
    example="edge-af targets setup emulated",
)
def setup(kind: str, options: SetupOptions) -> None:
    """Install what a kind of target needs on this machine, once.

    emulated: QEMU, an arm64 Debian and the aarch64 wheels, about 400 MB, in ~/.cache/edge-af/emulated. Packages are
    unpacked there instead of installed, so root is not needed.
    """
    from edge_af.emulation.setup import setup_emulated

    system, was_there = setup_emulated(options.mirror)
    versions = ", ".join(f"{name} {version}" for name, version in system.versions.items())
    say(f"{'already set up' if was_there else 'set up'}: {system.folder}")
    tell(f"QEMU {system.qemu}, Python {system.python}, {versions}")


command.add_command(setup)
