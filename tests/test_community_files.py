"""License, citation, contribution guide and the files of the hosting platform: complete, and consistent with the repository."""

from __future__ import annotations

import hashlib
import re
import tomllib
from pathlib import Path

import pytest
import yaml
from small_dataset import REPOSITORY

import edge_af

APACHE = "cfc7749b96f63bd31c3c42b5c471bf756814053e847c10f3eb003417bc523d30"
"""SHA-256 of the standard text of the Apache License 2.0."""
YAML_FILES = sorted(
    [*REPOSITORY.glob(".github/**/*.yml"), REPOSITORY / ".pre-commit-config.yaml", REPOSITORY / "CITATION.cff"]
)
PAGES = [
    REPOSITORY / name for name in ("CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md", ".github/pull_request_template.md")
]
PLACEHOLDER = "NAME"
"""Part of a path that the reader chooses."""


def parsed(name: str) -> dict:
    return yaml.safe_load((REPOSITORY / name).read_text(encoding="utf-8"))


def code_in(text: str) -> list[str]:
    """Return the code spans and the lines of code blocks."""
    blocks = re.findall(r"^```\w*\n(.*?)^```", text, re.M | re.S)
    return [*re.findall(r"`([^`\n]+)`", text), *"\n".join(blocks).splitlines()]


def registries_in(text: str) -> list[tuple[str, str]]:
    """Return names and files of the form: `NAME` in `file.py`."""
    found = re.findall(r"`(\w+)`[^.`]*? in\s+`([\w/]+\.py)`", text)
    return [(name, path) for name, path in found if PLACEHOLDER not in path]


def test_the_license_is_the_standard_text():
    assert hashlib.sha256((REPOSITORY / "LICENSE").read_bytes()).hexdigest() == APACHE
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["license"] == parsed("CITATION.cff")["license"] == "Apache-2.0"
    assert all((REPOSITORY / name).is_file() for name in project["license-files"])


@pytest.mark.parametrize("file", YAML_FILES, ids=lambda file: file.name)
def test_yaml_files_are_objects(file: Path):
    assert isinstance(yaml.safe_load(file.read_text(encoding="utf-8")), dict)


def test_the_workflow_runs_the_checks_on_both_architectures():
    workflow = parsed(".github/workflows/ci.yml")
    # YAML 1.1 reads the key `on` as true.
    assert set(workflow[True]) == {"push", "pull_request"} and workflow["permissions"] == {"contents": "read"}
    (job,) = workflow["jobs"].values()
    runners = [one["runner"] for one in job["strategy"]["matrix"]["include"]]
    assert [runner.endswith("-arm") for runner in runners] == [False, True]
    assert [step["run"] for step in job["steps"] if "run" in step][-1] == ".ci/run"
    # Text from a pull request is never pasted into a script.
    assert all("${{" not in step.get("run", "") for step in job["steps"])
    assert all(re.search(r"@v\d+$", step["uses"]) for step in job["steps"] if "uses" in step)


@pytest.mark.parametrize("name", ["bug", "feature"])
def test_issue_forms_have_a_label_for_each_field(name: str):
    form = parsed(f".github/ISSUE_TEMPLATE/{name}.yml")
    fields = [one for one in form["body"] if one["type"] != "markdown"]
    assert form["name"] and form["description"] and all(one["attributes"]["label"] for one in fields)
    assert len({one["id"] for one in fields}) == len(fields)


def test_the_citation_is_complete():
    citation = parsed("CITATION.cff")
    assert citation["cff-version"] == "1.2.0" and citation["version"] == edge_af.__version__
    for work in (citation, *citation["references"]):
        assert work["title"] and work["type"] and work["authors"]
    assert citation["message"] and len(citation["references"]) == 2


def test_hooks_run_the_linters_of_make_lint():
    (source,) = parsed(".pre-commit-config.yaml")["repos"]
    assert source["repo"] == "local" and all(hook["language"] == "system" for hook in source["hooks"])
    lint = re.search(r"^lint:.*\n((?:\t.*\n)+)", (REPOSITORY / "Makefile").read_text(encoding="utf-8"), re.M)
    assert lint is not None
    commands = [re.sub(r" --check| \.$", "", line.strip().removeprefix("$(BIN)/")) for line in lint[1].splitlines()]
    entries = [hook["entry"].removeprefix(".venv/bin/").removesuffix(" --force-exclude") for hook in source["hooks"]]
    assert [re.sub(r" \.$", "", command) for command in commands] == entries


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_pages_name_files_and_targets_that_exist(page: Path):
    text = page.read_text(encoding="utf-8")
    links = [target.partition("#")[0] for target in re.findall(r"\]\(([^)]+)\)", text) if not target.startswith("http")]
    is_path = re.compile(r"[\w.-]*/[\w./-]*|[\w.-]+\.(py|md|txt|yaml|toml)")
    paths = [one for one in code_in(text) if is_path.fullmatch(one) and PLACEHOLDER not in one]
    assert [path for path in (*links, *paths) if not (REPOSITORY / path).exists()] == []
    targets = set(re.findall(r"^([\w-]+):", (REPOSITORY / "Makefile").read_text(encoding="utf-8"), re.M))
    used = [one.partition("#")[0].split()[1:] for one in code_in(text) if one.startswith("make ")]
    assert {name for names in used for name in names} <= targets


def test_the_guide_names_registries_that_exist():
    found = registries_in((REPOSITORY / "CONTRIBUTING.md").read_text(encoding="utf-8"))
    assert len(found) >= 10
    missing = [
        (name, path)
        for name, path in found
        if not re.search(rf"\b{name}\b", (REPOSITORY / path).read_text(encoding="utf-8"))
    ]
    assert not missing
