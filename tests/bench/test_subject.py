"""`bench FOLDER`: the files it measures, and its messages about the others."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from benches import run_bench
from click.testing import CliRunner

from edge_af.bench.subject import sensitivity_of, subjects_of
from edge_af.cli import cli
from edge_af.data.dataset import Dataset
from edge_af.errors import EdgeAfError
from edge_af.files import sha256_file
from edge_af.records.results import Method


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
    assert "'network.bin' is neither an .onnx nor a .tflite file" in err
    assert "skipping 1 file(s) not listed in manifest.json: mine.tflite" in err


def test_a_manifest_that_leads_nowhere_is_no_folder_without_one(exports: Path, tmp_path: Path) -> None:
    shutil.copytree(exports / "fc-late-fusion", tmp_path / "all" / "one")
    (tmp_path / "all" / "notes.txt").write_text("none of ours")
    assert subjects_of([tmp_path / "all"])
    (tmp_path / "all" / "two").mkdir()
    (tmp_path / "all" / "two" / "manifest.json").symlink_to("/nonexistent/manifest.json")
    with pytest.raises(EdgeAfError, match="all/two"):
        subjects_of([tmp_path / "all"])


@pytest.mark.slow
def test_a_folder_made_of_links_is_an_export_like_any_other(
    exports: Path, eval_dataset: Dataset, tmp_path: Path
) -> None:
    """As in the caches of Hugging Face, DVC and Bazel: each file is a link into a store of files named by hash."""
    store, folder = tmp_path / "blobs", tmp_path / "snapshot"
    store.mkdir()
    folder.mkdir()
    for path in (exports / "attend-fusion").iterdir():
        digest = sha256_file(path)
        shutil.copy(path, store / digest)
        (folder / path.name).symlink_to(f"../blobs/{digest}")
    subjects = subjects_of([folder, folder / "attend-fusion-int8.tflite"])
    assert len(subjects) == 4 and {subject.artifact for subject in subjects} == {"snapshot"}
    rows = run_bench(subjects, eval_dataset, method=Method(inferences=3, warm_up=1, packed=True)).rows
    assert all(row.status == "ok" and row.gap_at_20 is not None for row in rows)
    for command in (
        ["eval", folder / "attend-fusion-int8.onnx", "--data", eval_dataset.folder],
        ["predict", folder / "attend-fusion-int8.tflite", eval_dataset.folder, "--videos", 2],
        ["compare", folder, exports / "attend-fusion", "--budget", "1s"],
        ["bundle", folder, "--out", tmp_path / "b.zip"],
    ):
        done = CliRunner().invoke(cli, list(map(str, command)))
        assert done.exit_code == 0, done.output
    # Unlike a link, a path in the manifest must not leave its folder.
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").unlink()
    for name in ("../blobs/x.onnx", str(store / "x.onnx")):
        manifest["files"][0]["path"] = name
        (folder / "manifest.json").write_text(json.dumps(manifest))
        with pytest.raises(EdgeAfError, match="names a file outside its folder"):
            subjects_of([folder])


def test_a_sensitivity_file_is_part_of_the_results(own_exports: Path):
    folder = own_exports / "attend-fusion"
    row = dict(
        format="onnx",
        recipe="int8-static",
        precision="int8",
        layer="head",
        weight_bytes=9,
        snr_db=30.5,
        gap_at_20_drop=None,
    )
    content = {"schema_version": 1, "data": "train", "videos": 64, "rows": [row]}
    (folder / "sensitivity.json").write_text(json.dumps(content))
    (found,) = sensitivity_of(subjects_of([own_exports]))
    assert (found.artifact, found.preset, found.layer, found.snr_db) == ("attend-fusion", "tiny", "head", 30.5)
    for wrong in (
        {**content, "schema_version": 2},
        [],
        {**content, "rows": [{**row, "layer": 3}]},
        {**content, "rows": [3]},
    ):
        (folder / "sensitivity.json").write_text(json.dumps(wrong))
        with pytest.raises(EdgeAfError, match=r"sensitivity\.json: not an edge-af sensitivity file"):
            sensitivity_of(subjects_of([folder]))
