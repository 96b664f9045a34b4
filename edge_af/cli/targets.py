"""`edge-af targets`: what benching elsewhere needs here."""

from __future__ import annotations

import click

from edge_af.console import say, tell


@click.group()
def command() -> None:
    """Prepare this machine for `edge-af bench --target`."""


@command.command()
@click.argument("kind", type=click.Choice(["emulated"]))
@click.option("--mirror", metavar="URL", help="A Debian mirror.  [default: this machine's own]")
def setup(kind: str, mirror: str | None) -> None:
    """Get what a target needs here, once.

    emulated: QEMU, an arm64 Debian and the aarch64 wheels, into ~/.cache/edge-af/emulated, some 400 MB. Without root: packages
    are unpacked there and not installed.
    """
    from edge_af.emulation.setup import setup_emulated

    system, was_there = setup_emulated(mirror)
    versions = ", ".join(f"{name} {version}" for name, version in system.versions.items())
    say(f"{'already set up' if was_there else 'set up'}: {system.folder}")
    tell(f"QEMU {system.qemu}, Python {system.python}, {versions}")
