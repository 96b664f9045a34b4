"""Where a bench runs when not on this machine: a board that OpenSSH reaches, an Android phone that adb does, or a board that is
not there and is emulated.

Imports run one way: cli -> targets -> bench -> runtime.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from edge_af.emulation.boards import FORM, SCHEME, Board, parse_emulated
from edge_af.errors import EdgeAfError

# OpenSSH hands user and host to whatever its configuration runs for them (ProxyCommand, Match exec): no character of theirs
# may mean anything to a shell, and none may make an option of them.
_USER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+@-]*")
_HOST = re.compile(r"[A-Za-z0-9_:][A-Za-z0-9_.:%-]*")
# As `adb devices` prints it: letters and digits over USB, an address and a port or a service's name over the network.
_SERIAL = re.compile(r"[A-Za-z0-9_\[][A-Za-z0-9_.:%\[\]() -]*(?<! )")
"""Over Wi-Fi there may be a space in it: `adb-13e7-Up (2)._adb-tls-connect._tcp`."""


@dataclass(frozen=True)
class SshTarget:
    """A machine and an account on it. What is None is left to OpenSSH's own configuration."""

    host: str
    """A name, an alias of `~/.ssh/config`, or an address."""
    user: str | None = None
    port: int | None = None

    @property
    def label(self) -> str:
        """What messages call it: `pi@raspberrypi.local`."""
        host = f"[{self.host}]" if self.port is not None and ":" in self.host else self.host
        return (f"{self.user}@" if self.user else "") + host + (f":{self.port}" if self.port is not None else "")


@dataclass(frozen=True)
class AdbTarget:
    """An Android phone."""

    serial: str | None = None
    """As `adb devices` prints it; None for the only one there is."""

    @property
    def label(self) -> str:
        """What messages call it: `adb:8A1X0LZ5K`."""
        return f"adb:{self.serial}" if self.serial is not None else "adb"


Target = SshTarget | AdbTarget | Board


def parse_target(text: str) -> Target:
    """The machine that `ssh://[user@]host[:port]`, `adb[:SERIAL]` or `emulated:BOARD[:MEMORY]` names.

    Raises:
        EdgeAfError: it is nothing of these forms, or holds what may not stand in a user's or host's name or a serial number.
    """
    form = f"a target is ssh://[user@]host[:port], adb[:SERIAL] or {FORM}"
    if text.startswith(SCHEME):
        return parse_emulated(text)
    if text == "adb":
        return AdbTarget()
    if text.startswith("adb:"):
        serial = text.removeprefix("adb:")
        if not _SERIAL.fullmatch(serial):
            raise EdgeAfError(f"--target {text!r}: {serial!r} is no serial number as `adb devices` prints it; {form}.")
        return AdbTarget(serial)
    try:
        parts = urlsplit(text)
        port, user, password = parts.port, parts.username, parts.password
    except ValueError as error:
        raise EdgeAfError(f"--target {text!r}: {error}; {form}.") from None
    # urlsplit drops line breaks and tabs without a word.
    if parts.scheme != "ssh" or not text.isprintable() or any(character.isspace() for character in text):
        raise EdgeAfError(f"--target {text!r}: {form}.")
    if parts.path not in ("", "/") or parts.query or parts.fragment:
        raise EdgeAfError(f"--target {text!r}: nothing may follow the host; {form}.")
    if password is not None:
        raise EdgeAfError(f"--target: a password is not taken; log in by key (ssh-copy-id makes that so). {form}.")
    # `hostname` is in lower case; an alias of the configuration may not be.
    host = parts.netloc.rpartition("@")[2]
    if host.startswith("["):
        host = host[1:].partition("]")[0]
    elif port is not None or host.endswith(":"):
        host = host.rpartition(":")[0]
    for name, value, allowed in (("host", host, _HOST), ("user", user, _USER)):
        if value is not None and not allowed.fullmatch(value):
            raise EdgeAfError(f"--target {text!r}: {value!r} is no name of a {name}; {form}.")
    return SshTarget(host, user, port)
