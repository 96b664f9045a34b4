"""Files that users copy into their CI: action.yml and docs/ci. They run here as in CI, on real exports."""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
import yaml
from tiny_export import in_other_bytes

from edge_af.compare.limits import read_budget_file

ROOT = Path(__file__).parents[2]
ACTION = ROOT / "action.yml"
WORKFLOWS = sorted((ROOT / "docs/ci").glob("*.yml"))
SCRIPT = ROOT / "docs/ci/compare.sh"
OWN_SCRIPT, OWN_BUDGET = ROOT / ".ci/compare_base.sh", ROOT / ".ci/budget.yaml"
STEPS_OF_GITHUB = ("bash", "--noprofile", "--norc", "-e", "-o", "pipefail")
"""GitHub's command line for a step with `shell: bash`."""
SURE = "--budget 20s --max-slowdown 900%"
"""An eighth of this budget is enough to rule out a tenfold slowdown, even on a busy machine."""


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A PATH that contains an `edge-af` program, as after installation."""
    folder = tmp_path_factory.mktemp("bin")
    program = folder / "edge-af"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m edge_af "$@"\n')
    program.chmod(0o755)
    return f"{folder}{os.pathsep}{os.environ['PATH']}"


def environment(path: str, **more: str) -> dict[str, str]:
    plain = {name: value for name, value in os.environ.items() if not name.startswith("GITHUB_")}
    search = os.pathsep.join([str(ROOT), *filter(None, [plain.get("PYTHONPATH")])])
    return {**plain, "PATH": path, "PYTHONPATH": search, "PYTHONSAFEPATH": "1", **more}


class Runner:
    """Runs a composite action's steps with the files that GitHub provides."""

    def __init__(self, folder: Path, path: str) -> None:
        self.folder, self._path = folder, path

    def __call__(self, **given: str) -> tuple[int, dict[str, str], str, str]:
        """Run the action; return the exit code of the last step run, the outputs, the step summary and standard error."""
        action = yaml.safe_load(ACTION.read_text())
        inputs = {name: given.pop(name, one.get("default")) for name, one in action["inputs"].items()}
        assert not given and None not in inputs.values()
        files = {name: self.folder / name for name in ("GITHUB_OUTPUT", "GITHUB_STEP_SUMMARY")}
        outputs: dict[str, str] = {}
        status, error = 0, ""
        for step in action["runs"]["steps"]:
            for file in files.values():
                file.touch()
            files["GITHUB_OUTPUT"].write_text("")
            assert step["shell"] == "bash"
            script = self.folder / "step.sh"
            script.write_text(step["run"])
            own = {name: _filled(value, {f"inputs.{key}": one for key, one in inputs.items()})
                   for name, value in step["env"].items()}  # fmt: skip
            github = {name: str(file) for name, file in files.items()}
            done = subprocess.run(
                [*STEPS_OF_GITHUB, str(script)], cwd=self.folder, capture_output=True, text=True,
                env=environment(self._path, GITHUB_ACTIONS="true", **github, **own),
            )  # fmt: skip
            status, error = done.returncode, error + done.stderr
            for line in files["GITHUB_OUTPUT"].read_text().splitlines():
                name, _, value = line.partition("=")
                outputs[f"steps.{step['id']}.outputs.{name}"] = value
            if status:
                break
        told = {name: _filled(one["value"], outputs) for name, one in action["outputs"].items()}
        return status, told, files["GITHUB_STEP_SUMMARY"].read_text(), error


def _filled(text: str, known: dict[str, str]) -> str:
    return re.sub(r"\$\{\{ *([\w.-]+) *\}\}", lambda found: known[found[1]], text)


@pytest.fixture
def action(tmp_path: Path, path: str) -> Runner:
    return Runner(tmp_path, path)


def test_the_action_passes_what_is_no_worse(action: Runner, exports: Path):
    file = str(exports / "attend-fusion/attend-fusion-int8.tflite")
    # Options may span several lines.
    options = f"{SURE}\n--junit found.xml\n--markdown found.md\n"
    status, told, summary, error = action(base=file, candidate=file, options=options, out="found.json")
    assert (status, told) == (0, {"status": "0"}), error
    assert summary.startswith("### edge-af compare: no worse than the base") and "::error" not in error
    assert all((action.folder / name).is_file() for name in ("found.json", "found.xml", "found.md"))


def test_the_action_fails_what_is_worse(action: Runner, exports: Path):
    (action.folder / "budget.yaml").write_text("limits: {'*': {size_bytes: 1 kB}}")
    file = str(exports / "attend-fusion/attend-fusion-int8.tflite")
    given = {"base": file, "candidate": file, "options": "--budget 0.01s --budget-file budget.yaml"}
    status, told, summary, error = action(**given, **{"cannot-tell": "pass"})
    assert (status, told) == (1, {"status": "1"}), error
    assert "worse than the base" in summary and "::error title=" in error


@pytest.mark.slow
@pytest.mark.parametrize("cannot_tell, ends", [("fail", 3), ("pass", 0)])
def test_the_action_when_it_cannot_be_told(action: Runner, exports: Path, tmp_path: Path, cannot_tell: str, ends: int):
    base = exports / "attend-fusion/attend-fusion-int8.tflite"
    candidate = in_other_bytes(base, tmp_path / base.name)
    given = {"base": str(base), "candidate": str(candidate), "options": "--budget 0.01s"}
    status, told, summary, error = action(**given, **{"cannot-tell": cannot_tell})
    assert (status, told) == (ends, {"status": "3"}), error
    assert "cannot tell" in summary and "::warning title=" in error


def test_the_action_says_what_is_at_fault(action: Runner):
    status, told, _, error = action(base="-nowhere", candidate="two words", **{"cannot-tell": "pass"})
    assert (status, told) == (2, {"status": "2"})
    assert "-nowhere: no such file or folder" in error


def test_the_action_is_whole():
    action = yaml.safe_load(ACTION.read_text())
    assert action["runs"]["using"] == "composite" and action["name"] and action["description"]
    assert all(set(one) <= {"description", "required", "default"} for one in action["inputs"].values())
    used = set(re.findall(r"\$\{\{ *inputs\.([\w-]+)", ACTION.read_text()))
    assert used == set(action["inputs"])
    # Text from a pull request is never pasted into a script.
    assert all("${{" not in step["run"] for step in action["runs"]["steps"])


@pytest.mark.parametrize("file", WORKFLOWS, ids=lambda file: file.name)
def test_a_workflow_is_whole(file: Path):
    workflow = yaml.safe_load(file.read_text())
    # YAML 1.1 reads the key `on` as true.
    assert workflow[True] and workflow["permissions"] == {"contents": "read"}
    known = yaml.safe_load(ACTION.read_text())["inputs"]
    for job in workflow["jobs"].values():
        assert job["runs-on"] and job["timeout-minutes"]
        assert set([job["needs"]] if "needs" in job else []) <= set(workflow["jobs"])
        for step in job["steps"]:
            assert ("uses" in step) != ("run" in step)
            assert "${{" not in step.get("run", "")
            if "edge-af@" in step.get("uses", ""):
                assert set(step["with"]) <= set(known)
                assert {name for name, one in known.items() if one.get("required")} <= set(step["with"])
            if "run" in step:
                subprocess.run(["bash", "-n"], input=step["run"], text=True, check=True)


def _commands(text: str) -> Iterator[list[str]]:
    """Yield the arguments of each `edge-af` command in a shell text."""
    for found in re.finditer(r"edge[-_]af\"? +([a-z]+ [^;|&)\n]*)", text.replace("\\\n", " ").replace(" -- ", "\n")):
        yield found[1].split()


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _texts(inner)


@pytest.mark.parametrize("file", [*WORKFLOWS, SCRIPT, OWN_SCRIPT], ids=lambda file: file.name)
def test_every_option_that_is_named_exists(file: Path):
    if file.suffix == ".sh":
        lines = [line for line in file.read_text().splitlines() if not line.lstrip().startswith(("#", "echo"))]
        commands = list(_commands("\n".join(lines)))
    else:
        workflow = yaml.safe_load(file.read_text())
        commands = [words for text in _texts(workflow) for words in _commands(text)]
        steps = [step for job in workflow["jobs"].values() for step in job["steps"]]
        commands += [
            ["compare", *step["with"]["options"].split()] for step in steps if "options" in step.get("with", {})
        ]
    # The generic script only compares; the others also export.
    assert {words[0] for words in commands} >= ({"compare"} if file == SCRIPT else {"compare", "export"})
    for verb, *words in commands:
        command: click.Command = importlib.import_module(f"edge_af.cli.{verb}").command
        known = {name for parameter in command.params for name in parameter.opts}
        assert {word for word in words if word.startswith("--")} <= known


def _run(path: str, folder: Path, *arguments: object, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["sh", str(SCRIPT), *map(str, arguments)],
        cwd=folder, capture_output=True, text=True, env=environment(path, **more),
    )  # fmt: skip


@pytest.mark.slow
def test_the_script_passes_on_what_was_found(path: str, exports: Path, tmp_path: Path):
    file = exports / "attend-fusion/attend-fusion-int8.onnx"
    done = _run(path, tmp_path, file, file, *SURE.split())
    assert done.returncode == 0, done.stderr
    assert sorted(one.name for one in (tmp_path / "edge-af-compare").iterdir()) == [
        "compare.json", "compare.md", "compare.xml",
    ]  # fmt: skip
    (tmp_path / "budget.yaml").write_text("limits: {'*': {size_bytes: 1 kB}}")
    done = _run(path, tmp_path, file, file, "--budget", "0.01s", "--budget-file", "budget.yaml", CANNOT_TELL="pass")
    assert done.returncode == 1 and "file bytes is" in done.stdout
    done = _run(path, tmp_path, file)
    assert done.returncode == 2 and "usage:" in done.stderr
    done = _run(path, tmp_path, file, tmp_path / "nowhere")
    assert done.returncode == 2 and "nowhere: no such file" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("cannot_tell, ends", [("fail", 3), ("pass", 0)])
def test_the_script_tries_again_what_could_not_be_told(
    path: str, exports: Path, tmp_path: Path, cannot_tell: str, ends: int
):
    file = exports / "attend-fusion/attend-fusion-int8.onnx"
    again = in_other_bytes(file, tmp_path / "again.onnx")  # Identical bytes would not be timed.
    done = _run(path, tmp_path, file, again, "--budget", "0.01s", CANNOT_TELL=cannot_tell, OUT="kept here")
    assert done.returncode == ends
    assert "try 2 of 2" in done.stderr and (tmp_path / "kept here/compare.json").is_file()


def test_this_repositorys_own_limits_are_of_files_that_the_demo_exports():
    names = [f"attend-fusion-{precision}.{suffix}" for precision in ("fp32", "int8") for suffix in ("onnx", "tflite")]
    read_budget_file(OWN_BUDGET).check_use(names, has_data=True, where=OWN_BUDGET)


@pytest.mark.parametrize(
    "commit, statuses, ends, exports",
    [
        ("HEAD", [0], 0, 0),
        ("HEAD", [1], 1, 0),
        ("HEAD", [3], 0, 0),
        ("HEAD", [2, 0], 0, 1),
        ("HEAD", [2, 2], 2, 1),
        ("no-such-commit", [0], 0, 1),
        ("", [1], 1, 1),
    ],
)
def test_this_repositorys_own_comparison_ends_as_the_verb_does(
    tmp_path: Path, commit: str, statuses: list[int], ends: int, exports: int
):
    """Stand-ins exit with the given codes and record their arguments, so that only the script is tested."""
    (tmp_path / "prepared/data").mkdir(parents=True)
    (tmp_path / "statuses").write_text("".join(f"{status}\n" for status in statuses))
    for name, then in (
        ("python", "exit 0"),
        ("edge-af", f'read -r s < "{tmp_path}/statuses"; sed -i 1d "{tmp_path}/statuses"; exit "$s"'),
    ):
        (tmp_path / name).write_text(f'#!/bin/sh\necho "{name} $*" >> "{tmp_path}/calls"\n{then}\n')
        (tmp_path / name).chmod(0o755)
    done = subprocess.run(["sh", str(OWN_SCRIPT), str(tmp_path), str(tmp_path), commit], capture_output=True, text=True)
    assert done.returncode == ends, done.stderr
    calls = (tmp_path / "calls").read_text().splitlines()
    assert len(calls) == len(statuses) + exports
    assert ("--base-ref HEAD" in calls[0]) == (commit == "HEAD")
    assert ("inconclusive" in done.stderr) == (statuses == [3])
