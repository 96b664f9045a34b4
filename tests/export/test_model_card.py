"""The model card of an export folder: its metadata, its figures, hostile names, and figures of a bench."""

from __future__ import annotations

import dataclasses
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from small_networks import CLASSES, CONFIGS

from edge_af.artifacts import CARD, CARD_END, CARD_MARK, MANIFEST, Gate, Manifest, TrainingData, read_manifest
from edge_af.cli import cli
from edge_af.documents import parse_yaml
from edge_af.errors import EdgeAfError
from edge_af.machine.device import Device
from edge_af.models.run import Run
from edge_af.records.results import Baseline, Data, Instructions, Latency, Method, Modeled, Results, Row, write_results
from edge_af.report.model_card import measured_card, model_card

HELD_OUT = {"videos": 12, "gap_at_20": 0.61234, "f1_micro": 0.5432, "f1_threshold": 0.25, "later": "ignored"}
TRAINING = {"held_out": HELD_OUT, "data": {"name": "train", "videos": 240, "fingerprint": "f" * 64}}
HOSTILE = "x\n---\nlicense: mit\n# |`*_[a](http://b)<script>" + CARD_MARK + "\u202e\x1b[2J: {{ 7 * 7 }} 'q' \"q\""


def front_matter(card: str) -> dict[str, Any]:
    """Return the metadata of a card; only its own end may look like one."""
    head, front, body = card.split("---\n", 2)
    assert head == "" and body.startswith("\n# ")
    value = parse_yaml(front)
    assert isinstance(value, dict)
    return value


def tables(card: str) -> list[list[list[str]]]:
    """Return the cells of each table without its head; all rows of a table have as many cells."""
    found = []
    for block in re.findall(r"(?:^\|.*\n)+", card, re.M):
        rows = [re.split(r"(?<!\\)\|", line)[1:-1] for line in block.splitlines()]
        assert len({len(row) for row in rows}) == 1, block
        found.append([[cell.strip() for cell in row] for row in rows[2:]])
    return found


def table_with(card: str, text: str) -> list[list[str]]:
    return next(rows for rows in tables(card) if any(text in cell for row in rows for cell in row))


def without_code(card: str) -> str:
    return re.sub(r"^```.*?^```$", "", card, flags=re.M | re.S)


@pytest.fixture
def folder(exports: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(exports / "attend-fusion", tmp_path / "attend-fusion"))


@pytest.fixture
def manifest(exports: Path) -> Manifest:
    return read_manifest(exports / "attend-fusion")


@pytest.fixture
def run(manifest: Manifest) -> Run:
    return Run(
        manifest.preset, CONFIGS["attend-fusion"], CLASSES, manifest.params, manifest.f1_threshold,
        manifest.class_names, weights="", weights_sha256="a" * 64, training=TRAINING,
    )  # fmt: skip


def test_the_metadata_is_that_of_a_model_hub(manifest: Manifest, run: Run):
    manifest = dataclasses.replace(manifest, training_data=run.data)
    front = front_matter(model_card(manifest, run))
    assert (front["license"], front["license_name"]) == ("other", "not-stated")
    assert (front["library_name"], front["pipeline_tag"]) == ("edge-af", "video-classification")
    assert {"attend-fusion", "onnx", "tflite", "int8"} <= set(front["tags"])
    assert (front["datasets"], front["metrics"]) == (["train"], ["gap_at_20", "f1"])
    ((result,),) = (model["results"] for model in front["model-index"])
    assert result["task"]["type"] == "video-classification"
    assert (result["dataset"]["type"], result["dataset"]["split"]) == ("train", "held-out")
    assert "held-out" in result["dataset"]["name"]
    assert {metric["type"]: metric["value"] for metric in result["metrics"]} == {
        "gap_at_20": HELD_OUT["gap_at_20"],
        "f1": HELD_OUT["f1_micro"],
    }
    stated = front_matter(model_card(manifest, run, "cc-by-4.0"))
    assert stated["license"] == "cc-by-4.0" and "license_name" not in stated


def test_the_figures_are_those_of_the_manifest_and_the_run(manifest: Manifest, run: Run):
    gate = Gate("gate data", 50, 0.001, 0.6, -0.0002, ["visual.fc1"])
    files = [dataclasses.replace(file, gate=gate if file.recipe else None) for file in manifest.files]
    card = model_card(dataclasses.replace(manifest, files=files, training_data=run.data), run, None, ("train", 64))
    for file, row in zip(files, table_with(card, "attend-fusion-int8.onnx"), strict=True):
        assert file.integer_share is not None and file.max_difference is not None
        assert (row[0], row[2], row[5]) == (file.path, file.precision.upper(), file.io)
        assert (row[3], row[4]) == (file.recipe or "–", file.cpu or "any")
        assert row[6:] == [f"{file.size_bytes:,}", f"{file.integer_share:.1%}", f"{file.max_difference:.1e}"]
    assert [row[1:] for row in table_with(card, "gate data")] == 2 * [
        ["gate data", "50", "0.60000", "+0.00020", "0.001", "visual.fc1"]
    ]
    assert table_with(card, "0.6123") == [["12", "0.6123", "0.5432", "0.2500"]]
    assert [row[1] for row in table_with(card, files[0].sha256)] == [file.sha256 for file in files]
    provenance = dict(table_with(card, "a" * 64))
    assert provenance["Training data"] == "train, 240 videos"
    assert provenance["Fingerprint of the training data"] == "f" * 64
    assert provenance["Calibration data"] == "train, 64 videos, for the rounding of weights"
    assert f"{manifest.params:,}, as trained" in card and "No gate" not in card


def test_without_records_the_card_says_so(manifest: Manifest, run: Run):
    card = model_card(
        dataclasses.replace(manifest, training_data=TrainingData(), class_names=[]),
        dataclasses.replace(run, training={"held_out": {"videos": "many"}}, weights_sha256=None),
    )
    front = front_matter(card)
    assert "model-index" not in front and "datasets" not in front
    assert "records no accuracy" in card and "No figure has been measured yet" in card and "No gate" in card
    assert "Training data: not recorded." in card and "Calibration data: none." in card


def test_hostile_names_stay_text(manifest: Manifest, run: Run):
    usual = model_card(manifest, run)
    hostile = dataclasses.replace(
        manifest,
        class_names=[HOSTILE] * manifest.classes,
        training_data=TrainingData(HOSTILE, 3, HOSTILE),
        files=[
            dataclasses.replace(file, path=HOSTILE, recipe=HOSTILE, gate=Gate(HOSTILE, 1, 1, 1, 0, [HOSTILE]))
            for file in manifest.files
        ],
        versions={HOSTILE: HOSTILE, "edge-af": HOSTILE},
    )
    card = model_card(hostile, run)
    front = front_matter(card)
    assert front["license"] == "other" and set(front) == {*front_matter(usual), "datasets"}
    assert re.fullmatch(r"[\w.-]+", front["datasets"][0])
    code = re.findall(r"^```.*?^```$", card, re.M | re.S)
    text = without_code(card.split("---\n", 2)[2])
    assert len(tables(text)) == len(tables(usual)) + 1  # The gate's.
    assert re.findall(r"^#+ .*", text, re.M) == re.findall(r"^#+ .*", without_code(usual), re.M)
    assert "<script" not in text and "](http" not in text.replace("\\]", "") and "{{ 7" in text
    assert card.count("\x1b") == card.count("\u202e") == 0
    assert len(code) == 2 and all(block.count("```") == 2 for block in code)
    compile(code[0].removeprefix("```python\n").removesuffix("```"), "example", "exec")


def test_a_hostile_name_is_no_mark(manifest: Manifest, run: Run, folder: Path):
    names = dataclasses.replace(manifest, class_names=[CARD_MARK, CARD_END], training_data=TrainingData(CARD_MARK))
    (folder / CARD).write_text(model_card(names, run))
    card = measured_card(folder, [results_of(manifest)])
    assert front_matter(card) == front_matter((folder / CARD).read_text())
    assert "Raspberry Pi 5" in card.split(CARD_MARK)[-1]


@pytest.mark.slow
def test_two_exports_give_the_same_card(
    make_run: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    run = make_run(training=TRAINING)
    flags = ("--recipe", "int8-dynamic", "--format", "tflite", "--license", "mit")
    for name in ("one", "two"):
        cli.main(["export", str(run), "--out", str(tmp_path / name), *flags], standalone_mode=False)
    files = [{path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in ("one", "two")]
    assert files[0] == files[1]
    card = files[0][CARD].decode()
    front = front_matter(card)
    assert front["license"] == "mit" and front["model-index"][0]["results"][0]["metrics"][0]["value"] == 0.61234
    # The card's own example and command run in its folder.
    blocks = re.findall(r"^```\w+\n(.*?)^```$", card, re.M | re.S)
    command = blocks[1].replace("edge-af", f"{sys.executable} -m edge_af")
    subprocess.run([sys.executable, "-c", blocks[0]], cwd=tmp_path / "one", check=True, capture_output=True)
    done = subprocess.run(command, cwd=tmp_path / "one", shell=True, check=True, capture_output=True, text=True)
    assert "name of" in done.stdout
    # An edited card is replaced too.
    (tmp_path / "one" / "features.npz").unlink()
    (tmp_path / "one" / CARD).write_text(card + "edited\n")
    cli.main(["export", str(run), "--out", str(tmp_path / "one"), *flags, "--overwrite"], standalone_mode=False)
    assert (tmp_path / "one" / CARD).read_text() == card


def test_another_readme_is_not_overwritten(make_run: Callable[..., Path], folder: Path):
    (folder / CARD).write_text("notes of the user\n")
    with pytest.raises(EdgeAfError, match=r"holds 'README.md', which --overwrite would delete"):
        cli.main(["export", str(make_run()), "--out", str(folder), "--overwrite"], standalone_mode=False)
    assert (folder / CARD).read_text() == "notes of the user\n"


@pytest.mark.parametrize("license", ["MIT", "a: b", "", "mit\n---"])
def test_a_license_is_an_identifier(make_run: Callable[..., Path], tmp_path: Path, license: str):
    with pytest.raises(EdgeAfError, match="--license"):
        cli.main(
            ["export", str(make_run()), "--out", str(tmp_path / "out"), "--license", license], standalone_mode=False
        )


def results_of(manifest: Manifest, device: str = "Raspberry Pi 5", **changes: object) -> Results:
    """Return a bench of the manifest's files, and of one other file."""
    rows = [
        Row(
            artifact="renamed", file=f"renamed-{at}", model=manifest.model, preset=manifest.preset,
            runtime="onnxruntime" if file.format == "onnx" else "litert", precision=file.precision, recipe=file.recipe,
            cpu=file.cpu, threads=1, status="ok", reason=None, params=manifest.params, classes=manifest.classes,
            size_bytes=file.size_bytes, sha256=file.sha256, latency_ms=Latency(1.5 + at, 2.5 + at, 9, 2, 100),
            peak_memory_bytes=40_000_000, gap_at_20=0.7 - 0.01 * at, f1_micro=0.6,
        )
        for at, file in enumerate(manifest.files)
    ]  # fmt: skip
    rows.append(dataclasses.replace(rows[0], file="another", sha256="0" * 64, gap_at_20=0.1))
    base = Results(
        created="2026-01-02T03:04:05+00:00",
        device=Device("aarch64", device, 4, 4 * 2**30, "Linux 6.6", "3.11.2", None, {"numpy": "2.4"}),
        quick=False, inputs="videos", data=Data("eval", 400, manifest.classes),
        baseline=Baseline("renamed", manifest.model, manifest.preset, "fp32"), method=Method(), rows_planned=len(rows),
        rows=rows,
    )  # fmt: skip
    return dataclasses.replace(base, **changes)  # type: ignore[arg-type]


def test_figures_of_the_same_files_are_put_into_the_card(
    manifest: Manifest, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    edited = (folder / CARD).read_text().replace("license: other", "license: mit") + "\nMy own words.\r\n"
    (folder / CARD).write_bytes(edited.encode())
    manifest_before = (folder / MANIFEST).read_bytes()
    write_results(tmp_path / "pi.json", results_of(manifest))
    report = ["report", str(tmp_path / "pi.json"), "--model-card", str(folder)]
    for _ in range(2):  # The second time replaces the figures.
        cli.main(report, standalone_mode=False)
        card = (folder / CARD).read_bytes().decode()
    assert (folder / MANIFEST).read_bytes() == manifest_before
    before, rest = edited.split(CARD_MARK)
    assert card.startswith(before) and card.endswith(rest.split(CARD_END)[1])
    rows = table_with(card, "Raspberry Pi 5")
    assert {row[0]: row[4] for row in rows} == {
        file.path: f"{0.7 - 0.01 * at:.4f}" for at, file in enumerate(manifest.files)
    }
    int8 = next(row for row in rows if row[0] == "attend-fusion-int8.onnx")
    assert int8[2:] == ["ONNX Runtime", "1", "0.6800", "−0.0200", "0.6000", "3.50", "4.50", "40.0"]
    assert "0.1000" not in card and "eval: 400 videos" in card and "2026-01-02" in card


def test_emulated_latency_is_marked_as_modeled(manifest: Manifest, folder: Path):
    found, counts = results_of(manifest), Instructions(*[1] * len(dataclasses.fields(Instructions)))
    rows = [
        dataclasses.replace(row, latency_ms=None, modelled_latency_ms=Modeled(5, 4, 6), instructions=counts)
        for row in found.rows
    ]
    found = dataclasses.replace(found, rows=rows, device=dataclasses.replace(found.device, emulator="qemu-user 7.2"))
    card = measured_card(folder, [found])
    assert "5.00 [4.00, 6.00]" in card and "modeled latency, ms" in card and "Nothing was timed" in card


def test_hostile_results_stay_text(manifest: Manifest, folder: Path):
    found = results_of(manifest, HOSTILE, created=HOSTILE, data=Data(HOSTILE, 1, 1), warnings=[HOSTILE])
    card = measured_card(folder, [found])
    assert card.count(CARD_MARK) == card.count(CARD_END) == 1
    assert len(tables(card)) == len(tables((folder / CARD).read_text())) + 1
    assert "<script" not in card and "](http" not in card.replace("\\]", "") and "\x1b" not in card


def test_what_has_no_place_for_figures(manifest: Manifest, folder: Path, tmp_path: Path):
    found, card = results_of(manifest), (folder / CARD).read_text()
    other = dataclasses.replace(found, rows=found.rows[-1:])
    with pytest.raises(EdgeAfError, match="no row of these results measured"):
        measured_card(folder, [other])
    for text in ("", card.replace(CARD_MARK, ""), card.replace(CARD_END, ""), card + CARD_MARK):
        (folder / CARD).write_text(text)
        with pytest.raises(EdgeAfError, match="has no place for measured figures"):
            measured_card(folder, [found])
    (folder / CARD).unlink()
    with pytest.raises(EdgeAfError, match="cannot read this model card"):
        measured_card(folder, [found])
    with pytest.raises(EdgeAfError, match="no such manifest"):
        measured_card(tmp_path, [found])
    with pytest.raises(EdgeAfError, match="not --history"):
        history = tmp_path / "history.jsonl"
        cli.main(["report", "--history", str(history), "--model-card", str(folder)], standalone_mode=False)


def test_no_card_is_written_if_one_is_at_fault(manifest: Manifest, folder: Path, exports: Path, tmp_path: Path):
    before = (folder / CARD).read_bytes()
    write_results(tmp_path / "pi.json", results_of(manifest))
    report = ["report", str(tmp_path / "pi.json"), "--model-card", str(folder)]
    with pytest.raises(EdgeAfError, match="no row of these results"):
        cli.main([*report, "--model-card", str(exports / "fc-late-fusion")], standalone_mode=False)
    assert (folder / CARD).read_bytes() == before
