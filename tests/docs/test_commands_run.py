"""Run the commands of every document in order, except blocks that are marked with what they need."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from documents import DOCUMENTS, GENERATED, ROOT, shell_blocks

pytestmark = pytest.mark.slow

START = (Path("README.md"), Path("docs/tutorial.md"), Path("docs/tutorial-video.md"))
"""Documents that begin with an empty folder."""
PREPARE = """
edge-af data synth tfrecords --videos-train 400 --videos-eval 250
edge-af data prepare tfrecords/train --out dataset/train
edge-af data prepare tfrecords/eval --out dataset/eval
edge-af data sample dataset/eval --videos 50 --out small-eval
for model in attend-fusion fc-late-fusion; do
    edge-af train --model $model --preset small --epochs 1 --data dataset/train --out runs/$model
    edge-af export runs/$model --int8 --calibration-data dataset/train --out artifacts/$model
done
cp -r artifacts released
edge-af bench artifacts/attend-fusion --quick --out results.json
edge-af bench artifacts/fc-late-fusion --quick --out other-results.json
mkdir -p .ssh && ssh-keygen -q -t ed25519 -N "" -f .ssh/id_ed25519 && cp .ssh/id_ed25519.pub team.pub
echo "me@example.com $(cut -d " " -f 1,2 team.pub)" > allowed_signers
"""
WRITES = {Path("docs/how-to/train.md"): "runs", Path("docs/how-to/export.md"): "artifacts"}
"""Folders that a document itself writes, so that it must not begin with them."""


def run(script: str, folder: Path) -> None:
    """Run a script as a reader in a checkout's environment would."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "HOME": str(folder), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        ["bash", "-ec", script], cwd=folder, env=environment, capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, f"{script}\n{done.stdout[-2000:]}\n{done.stderr[-3000:]}"


@pytest.fixture(scope="session")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a dataset, runs, exports, results and keys."""
    folder = tmp_path_factory.mktemp("workspace")
    run(PREPARE, folder)
    return folder


@pytest.mark.parametrize(
    "document",
    [one for one in DOCUMENTS if one != GENERATED and not all(block.needs for block in shell_blocks(one))],
    ids=str,
)
def test_commands_run(document: Path, request: pytest.FixtureRequest, tmp_path: Path):
    folder = tmp_path / "work"
    if document in START:
        folder.mkdir()
    else:
        shutil.copytree(request.getfixturevalue("workspace"), folder)
    if document in WRITES:
        shutil.rmtree(folder / WRITES[document])
    for block in shell_blocks(document):
        if not block.needs:
            run(block.text, folder)
