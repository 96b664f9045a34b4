"""What `bench FOLDER` measures, and what it says of the rest."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from edge_af.bench.subject import subjects_of
from edge_af.errors import EdgeAfError


def test_files_that_are_passed_over_are_named(
    exports: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "exported"
    shutil.copytree(exports / "fc-late-fusion", folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    listed = len(manifest["files"])
    assert len(subjects_of([folder])) == listed and capsys.readouterr().err == ""
    manifest["files"].append({**manifest["files"][0], "path": "network.bin"})
    (folder / "manifest.json").write_text(json.dumps(manifest))
    (folder / "network.bin").write_bytes(b"")
    (folder / "mine.tflite").write_bytes(b"")
    assert len(subjects_of([folder])) == listed
    err = capsys.readouterr().err
    assert "lists 'network.bin'" in err
    assert "1 file(s) that manifest.json does not list passed over: mine.tflite" in err


def test_a_manifest_that_leads_nowhere_is_no_folder_without_one(exports: Path, tmp_path: Path) -> None:
    shutil.copytree(exports / "fc-late-fusion", tmp_path / "all" / "one")
    (tmp_path / "all" / "notes.txt").write_text("none of ours")
    assert subjects_of([tmp_path / "all"])
    (tmp_path / "all" / "two").mkdir()
    (tmp_path / "all" / "two" / "manifest.json").symlink_to("/nonexistent/manifest.json")
    with pytest.raises(EdgeAfError, match="all/two"):
        subjects_of([tmp_path / "all"])
