"""The command that adds an extra: it names the checkout or the wheel that the installation came from, or the packages."""

from __future__ import annotations

import importlib.metadata
import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from small_dataset import REPOSITORY

from edge_af.data.dataset import Dataset
from edge_af.packages import install_command


class Installed:
    """A distribution whose installer recorded an origin."""

    requires = importlib.metadata.requires("edge-af")

    def __init__(self, origin: dict[str, object] | None) -> None:
        self._origin = origin

    def read_text(self, name: str) -> str | None:
        return None if self._origin is None else json.dumps(self._origin)


def command_of(monkeypatch: pytest.MonkeyPatch, origin: dict[str, object] | None) -> list[str]:
    monkeypatch.setattr(importlib.metadata, "distribution", lambda name: Installed(origin))
    return shlex.split(install_command("train"))


def test_a_checkout_is_named():
    words = shlex.split(install_command("export"))
    assert words[-2:] == ["-e", f"{REPOSITORY}[export]"]


def test_a_folder_or_a_wheel_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    wheel = tmp_path / "with space" / "edge_af-0.1.0-py3-none-any.whl"
    wheel.parent.mkdir()
    wheel.touch()
    assert command_of(monkeypatch, {"url": wheel.as_uri(), "archive_info": {}})[-1] == f"{wheel}[train]"
    assert command_of(monkeypatch, {"url": tmp_path.as_uri(), "dir_info": {}})[-2:] == ["install", f"{tmp_path}[train]"]


@pytest.mark.parametrize("origin", [None, {"url": "file:///gone/edge_af.whl", "archive_info": {}}])
def test_without_its_origin_the_packages_are_named(monkeypatch: pytest.MonkeyPatch, origin: dict[str, object] | None):
    words = command_of(monkeypatch, origin)
    names = [word.split(">")[0] for word in words[words.index("install") + 1 :]]
    assert {"torch", "safetensors"} < set(names) and sum(name.startswith("tensorflow") for name in names) == 1
    assert not [word for word in words if "edge-af" in word]


def test_the_pip_is_this_pythons(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(shutil, "which", lambda name: str(Path(sys.executable).parent / name))
    assert install_command("train").startswith("pip install")
    monkeypatch.setattr(shutil, "which", lambda name: "/somewhere/else/pip")
    assert shlex.split(install_command("train"))[:3] == [sys.executable, "-m", "pip"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    subprocess.run([sys.executable, "-m", "pip", "wheel", "-q", REPOSITORY, "--no-deps", "-w", folder], check=True)
    (found,) = folder.glob("*.whl")
    return found


def environment(python: str | Path, folder: Path, wheel: Path) -> Path:
    """Install a wheel in a fresh virtual environment; return the folder of its programs."""
    subprocess.run([python, "-m", "venv", folder], check=True)
    subprocess.run([folder / "bin/python", "-m", "pip", "install", "-q", wheel], check=True)
    return folder / "bin"


@pytest.mark.slow
def test_a_wheels_command_works(tmp_path: Path, wheel: Path):
    """Run the command that an installed wheel prints for the smallest extra."""
    programs = environment(sys.executable, tmp_path / "env", wheel)
    code = "from edge_af.packages import install_command; print(install_command('report'))"
    printed = subprocess.run(
        [programs / "python", "-c", code], check=True, capture_output=True, text=True, cwd=tmp_path
    )
    subprocess.run(printed.stdout, shell=True, check=True, cwd=tmp_path)
    subprocess.run([programs / "python", "-c", "import vl_convert"], check=True)


@pytest.mark.slow
@pytest.mark.parametrize("version", ["3.11", "3.12", "3.13", "3.14"])
def test_the_wheel_works_on(version: str, tmp_path: Path, wheel: Path, exports: Path, eval_dataset: Dataset):
    """Score an ONNX and a TFLite file with a plain install; PYTHON311 and so on may name the interpreters."""
    python = os.environ.get(f"PYTHON{version.replace('.', '')}") or shutil.which(f"python{version}")
    if python is None or subprocess.run([python, "--version"], capture_output=True).returncode:
        pytest.skip(f"there is no python{version} here")
    programs = environment(python, tmp_path / "env", wheel)
    for file in ("fc-late-fusion-int8.onnx", "fc-late-fusion-int8.tflite"):
        command = ["eval", exports / "fc-late-fusion" / file, "--data", eval_dataset.folder]
        done = subprocess.run([programs / "edge-af", *command], capture_output=True, text=True, cwd=tmp_path)
        assert done.returncode == 0 and "GAP@20" in done.stdout, done.stderr
    assert subprocess.run([programs / "edge-af", "doctor"], capture_output=True, cwd=tmp_path).returncode == 0
