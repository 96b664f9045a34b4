"""`manifest.json`: round trip, and clear messages for damaged ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from edge_af.artifacts import (
    MANIFEST,
    ArtifactFile,
    Calibration,
    Manifest,
    check_file,
    checked_files,
    read_manifest,
    write_manifest,
)
from edge_af.errors import EdgeAfError
from edge_af.files import sha256_file


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "a.onnx").write_bytes(b"network")
    file = ArtifactFile("a.onnx", "onnx", "int8", "int8", 7, sha256_file(tmp_path / "a.onnx"), max_difference=0)
    manifest = Manifest(
        model="attend-fusion", preset="tiny", classes=3, params=10, f1_threshold=0.25, class_names=["a", "b", "c"],
        calibration=Calibration("train", 8, "0" * 64, "min-max"), files=[file], versions={"python": "3"},
    )  # fmt: skip
    write_manifest(tmp_path, manifest)
    assert read_manifest(tmp_path) == manifest
    return tmp_path


@pytest.mark.parametrize(
    "place, value",
    [
        (("files", 0, "path"), 5),
        (("files", 0, "path"), None),
        (("files", 0, "sha256"), 5),
        (("files", 0, "size_bytes"), "7"),
        (("files", 0, "max_difference"), "small"),
        (("files", 0, "unknown"), 1),
        (("files", 0), "a.onnx"),
        (("files",), None),
        (("classes",), "3"),
        (("classes",), True),
        (("f1_threshold",), None),
        (("class_names",), "abc"),
        (("class_names",), [1, 2, 3]),
        (("calibration",), "train"),
        (("calibration", "videos"), None),
        (("versions",), {"python": 3}),
    ],
)
def test_a_field_of_another_type_is_refused(folder: Path, place: tuple[Any, ...], value: Any) -> None:
    manifest = json.loads((folder / MANIFEST).read_text())
    inner = manifest
    for step in place[:-1]:
        inner = inner[step]
    inner[place[-1]] = value
    (folder / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(EdgeAfError, match=r"manifest\.json: not an edge-af manifest"):
        list(checked_files(folder, name="a.onnx"))


@pytest.mark.parametrize("path", ["../a.onnx", "/etc/passwd", "a\0b"])
def test_a_path_that_leads_elsewhere_is_refused(folder: Path, path: str) -> None:
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest["files"][0]["path"] = path
    (folder / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(EdgeAfError, match="outside its folder"):
        check_file(folder, read_manifest(folder).files[0])


def test_a_manifest_of_version_1_is_still_read(folder: Path) -> None:
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest["schema_version"] = 1
    for name in ("integer_share", "undelegated"):
        del manifest["files"][0][name]
    (folder / MANIFEST).write_text(json.dumps(manifest))
    (file,) = read_manifest(folder).files
    assert (file.integer_share, file.undelegated) == (None, [])
    (folder / MANIFEST).write_text(json.dumps({**manifest, "schema_version": 4}))
    with pytest.raises(EdgeAfError, match=r"schema_version 4; this edge-af reads 1 and 2 and 3"):
        read_manifest(folder)
