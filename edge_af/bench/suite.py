"""A suite: a file that says what is compared and how, so that the same comparison can be made again elsewhere.

YAML, for people to write:

```yaml
name: paper-comparison
networks:                     # the first ones are looked for first; `preset` may be left out
  - {model: attend-fusion, preset: paper}
  - {model: fc-late-fusion, preset: paper}
precisions: [fp32, int8, int4]
recipes: []                   # names; empty for any
runtimes: [onnxruntime, litert]
threads: [1]
batch: [1]
devices: [x86_64, aarch64]    # kinds of machine it is meant for; empty for any
method: {inferences: 1024, seconds: 10, rounds: 4}   # what is left out is as without a suite
```
"""

from __future__ import annotations

import dataclasses
import platform
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edge_af.bench.subject import Subject
from edge_af.errors import EdgeAfError
from edge_af.files import read_yaml
from edge_af.records.results import Method
from edge_af.records.schema import violation

_NAMES = {"type": "array", "items": {"type": "string"}}
_COUNTS = {"type": "array", "items": {"type": "integer", "minimum": 1}}
_METHOD = {
    "inferences": {"type": "integer", "minimum": 1},
    "seconds": {"type": ["number", "null"], "minimum": 0},
    "rounds": {"type": "integer", "minimum": 1},
    "warm_up": {"type": "integer", "minimum": 0},
    "timeout_seconds": {"type": "number", "minimum": 1},
    "packed": {"type": "boolean"},
}
SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["name", "networks"],
    "properties": {
        "name": {"type": "string"},
        "networks": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["model"],
                "properties": {"model": {"type": "string"}, "preset": {"type": "string"}},
            },
        },
        "precisions": _NAMES,
        "recipes": _NAMES,
        "runtimes": _NAMES,
        "threads": _COUNTS,
        "batch": _COUNTS,
        "devices": _NAMES,
        "method": {"type": "object", "properties": _METHOD},
    },
}


@dataclass(frozen=True)
class Suite:
    """What is compared. An empty list of names stands for any."""

    name: str
    networks: list[dict[str, str]]
    """Each with `model`, and `preset` where it matters."""
    precisions: list[str] = field(default_factory=list)
    recipes: list[str] = field(default_factory=list)
    runtimes: list[str] = field(default_factory=list)
    threads: list[int] = field(default_factory=lambda: [1])
    batch: list[int] = field(default_factory=lambda: [1])
    devices: list[str] = field(default_factory=list)
    """Kinds of machine, as `uname -m` names them."""
    method: dict[str, Any] = field(default_factory=dict)
    """Fields of `Method`."""
    path: Path | None = None
    """The file that it was read from, for messages."""

    def method_from(self, standard: Method) -> Method:
        """The standard method with what the suite says otherwise."""
        return dataclasses.replace(standard, **self.method)

    def choose(self, subjects: Sequence[Subject], machine: str | None = None) -> list[Subject]:
        """Of the files found, those that the suite compares, in its order.

        Args:
            subjects: the files.
            machine: the kind of machine that will run them, as `uname -m` names it; this one's when None.

        Raises:
            EdgeAfError: the machine is none that it is meant for, or there is no file for one of its combinations.
        """
        where = self.path or self.name
        runs_on = machine or platform.machine()
        if self.devices and runs_on not in self.devices:
            which = "this machine" if machine is None else "the target"
            raise EdgeAfError(f"{where}: meant for {' and '.join(self.devices)}; {which} is {runs_on}.")
        chosen: list[Subject] = []
        for network in self.networks:
            of_network = [one for one in subjects if one.model == network["model"]]
            of_network = [one for one in of_network if network.get("preset") in (None, one.preset)]
            of_network = [one for one in of_network if not self.recipes or one.recipe in (None, *self.recipes)]
            for runtime in self.runtimes or sorted({one.runtime for one in of_network}):
                for precision in self.precisions or list(dict.fromkeys(one.precision for one in of_network)):
                    found = [one for one in of_network if (one.runtime, one.precision) == (runtime, precision)]
                    if not found and self.precisions and self.runtimes:
                        name = " ".join(network.values())
                        raise EdgeAfError(
                            f"{where}: compares {name} in {precision} in {runtime}, and none of the paths holds such a file.\n"
                            "Export it (`edge-af export`), or take it out of the suite."
                        )
                    chosen += [one for one in found if one not in chosen]
        if not chosen:
            raise EdgeAfError(f"{where}: none of the paths holds a file that this suite compares.")
        return chosen


def read_suite(path: Path) -> Suite:
    """Read a suite.

    Raises:
        EdgeAfError: it is missing, no YAML, or says something that a suite does not; names the place.
    """
    value = read_yaml(path, "suite")
    if wrong := violation(value, SCHEMA):
        raise EdgeAfError(f"{path}: not a suite: {wrong}.")
    for inner, allowed in ((value, SCHEMA["properties"]), (value.get("method", {}), _METHOD)):
        if unknown := [str(name) for name in inner if name not in allowed]:
            raise EdgeAfError(
                f"{path}: not a suite: no field is called {unknown[0]!r}; there are {', '.join(allowed)}."
            )
    return Suite(**value, path=path)
