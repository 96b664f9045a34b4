"""Suites: the rows that they select, and refusal of invalid ones."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from small_dataset import REPOSITORY

from edge_af.bench.request import STANDARD
from edge_af.bench.subject import subjects_of
from edge_af.bench.suite import read_suite
from edge_af.errors import EdgeAfError


@pytest.mark.parametrize(
    "text, message",
    [
        (
            "name: x\nnetworks: [{model: attend-fusion}]\nprecisions: [int4]\nruntimes: [litert]\n",
            "attend-fusion in int4",
        ),
        ("name: x\nnetworks: [{model: absent}]\n", "none of the paths"),
        ("name: x\nnetworks: [{model: attend-fusion}]\ndevices: [pdp11]\n", "meant for pdp11; this machine is"),
        ("name: x\nnetworks: attend-fusion\n", "networks: expected `array`, got `str`"),
        ("name: x\nnetworks: [{model: attend-fusion}]\nthread: [1]\n", "thread: unknown field"),
        ("name: x\nnetworks: [{model: attend-fusion}]\nmethod: {run: 1}\n", "run: unknown field"),
        ("networks: []\n", "missing required field `name`"),
        ("- 1\n", "expected `object`, got `array`"),
        ("a: [", "cannot read this suite"),
        ("!!python/object/apply:os.system ['true']", "cannot read this suite"),
    ],
)
def test_a_suite_that_says_something_else_is_refused(exports: Path, tmp_path: Path, text: str, message: str):
    (tmp_path / "s.yaml").write_text(text)
    with pytest.raises(EdgeAfError, match=re.escape(message)):
        read_suite(tmp_path / "s.yaml").choose(subjects_of([exports]))


@pytest.mark.parametrize("path", sorted((REPOSITORY / "benchmarks").glob("*.yaml")), ids=lambda path: path.name)
def test_the_suites_of_the_repository_are_read(path: Path):
    suite = read_suite(path)
    assert suite.name == path.stem and {network.model for network in suite.networks} == {
        "attend-fusion",
        "fc-late-fusion",
    }
    suite.method_from(STANDARD)
