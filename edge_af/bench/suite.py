"""A suite: a file that defines what is compared and how, so that the comparison can be repeated elsewhere.

YAML:

```yaml
name: paper-comparison
networks:                     # in this order; `preset` is optional
  - {model: attend-fusion, preset: paper}
  - {model: fc-late-fusion, preset: paper}
precisions: [fp32, int8, int4]
recipes: []                   # names; empty for any
runtimes: [onnxruntime, litert]
threads: [1]
batch: [1]
devices: [x86_64, aarch64]    # machine types it is meant for; empty for any
method: {inferences: 1024, seconds: 10, rounds: 4}   # missing keys have the defaults
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
from edge_af.typed import Mismatch, Positive, built


@dataclass(frozen=True)
class SuiteNetwork:
    """A network to compare."""

    model: str
    preset: str | None = None
    """None for any."""


@dataclass(frozen=True)
class Suite:
    """Networks to compare, and how. An empty list of names stands for any."""

    name: str
    networks: list[SuiteNetwork]
    """Networks in the order of the table."""
    precisions: list[str] = field(default_factory=list)
    recipes: list[str] = field(default_factory=list)
    runtimes: list[str] = field(default_factory=list)
    threads: list[Positive] = field(default_factory=lambda: [1])
    batch: list[Positive] = field(default_factory=lambda: [1])
    devices: list[str] = field(default_factory=list)
    """Machine types as in `uname -m`."""
    method: dict[str, Any] = field(default_factory=dict)
    """Fields of `Method`."""

    def method_from(self, standard: Method) -> Method:
        """Return the standard method with the suite's changes."""
        return dataclasses.replace(standard, **self.method)

    def choose(self, subjects: Sequence[Subject], machine: str | None = None) -> list[Subject]:
        """Choose the files that the suite compares, in its order.

        Args:
            subjects: the files.
            machine: type of the machine that runs them, as in `uname -m`; this machine's when None.

        Raises:
            EdgeAfError: the suite is meant for other machines, or one of its combinations has no file.
        """
        runs_on = machine or platform.machine()
        if self.devices and runs_on not in self.devices:
            which = "this machine" if machine is None else "the target"
            raise EdgeAfError(f"suite {self.name}: meant for {' and '.join(self.devices)}; {which} is {runs_on}.")
        chosen: list[Subject] = []
        for network in self.networks:
            of_network = [one for one in subjects if one.model == network.model]
            of_network = [one for one in of_network if network.preset in (None, one.preset)]
            of_network = [one for one in of_network if not self.recipes or one.recipe in (None, *self.recipes)]
            for runtime in self.runtimes or sorted({one.runtime for one in of_network}):
                for precision in self.precisions or list(dict.fromkeys(one.precision for one in of_network)):
                    found = [one for one in of_network if (one.runtime, one.precision) == (runtime, precision)]
                    if not found and self.precisions and self.runtimes:
                        name = " ".join(filter(None, (network.model, network.preset)))
                        raise EdgeAfError(
                            f"suite {self.name}: compares {name} in {precision} in {runtime}; no path holds such a file.\n"
                            "Export it (`edge-af export`), or remove it from the suite."
                        )
                    chosen += [one for one in found if one not in chosen]
        if not chosen:
            raise EdgeAfError(f"suite {self.name}: none of the paths holds a file that this suite compares.")
        return chosen


def read_suite(path: Path) -> Suite:
    """Read a suite.

    Raises:
        EdgeAfError: it is missing, is not YAML, or has an unknown field; names the field.
    """
    try:
        suite = built(Suite, read_yaml(path, "suite"))
        built(Method, {**dataclasses.asdict(Method()), **suite.method})
    except Mismatch as error:
        raise EdgeAfError(f"{path}: not a suite: {error}.") from None
    return suite
