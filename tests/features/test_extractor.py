"""The parts of an extractor agree with independent float64 computations; a wrong description gives one line."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from numpy.typing import NDArray

from edge_af.data import Widths
from edge_af.data.examples import dequantize
from edge_af.data.records import quantize
from edge_af.errors import EdgeAfError
from edge_af.features.extractor import DESCRIPTION, load_extractor
from edge_af.files import package_data

LITE = package_data("features", "lite")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of `lite`."""
    return Path(shutil.copytree(LITE, tmp_path / "own"))


def change(folder: Path, part: str, **fields: object) -> None:
    value = yaml.safe_load((folder / DESCRIPTION).read_text())
    value[part].update(fields)
    (folder / DESCRIPTION).write_text(yaml.safe_dump(value))


def frame(seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (224, 224, 3), dtype=np.uint8)


def test_lite():
    lite = load_extractor()
    assert lite.widths == Widths(1280, 128)
    assert lite.record["name"] == "lite"
    found = lite.visual(frame())
    # Averages of ReLU6.
    assert found.dtype == np.float32 and found.min() >= 0 and found.max() <= 6 and found.std() > 0.05
    assert not np.allclose(found, lite.visual(frame(1)))


def test_statistics_of_the_sound():
    patch = np.random.default_rng(0).normal(-2, 1.5, (96, 64)).astype(np.float32)
    exact = patch.astype(np.float64)
    wanted = np.concatenate(
        [(exact.mean(axis=0) + 2) / 2, np.sqrt(((exact - exact.mean(axis=0)) ** 2).mean(axis=0)) - 1]
    )
    assert np.abs(load_extractor().audio(patch) - wanted).max() < 1e-5


def test_whitening_and_scaling(folder: Path):
    random = np.random.default_rng(0)
    mean, projection = random.normal(size=1280), random.normal(size=(1280, 40)) / 36
    np.save(folder / "mean.npy", mean)
    np.save(folder / "projection.npy", projection)
    raw = load_extractor().visual(frame())
    before = load_extractor(folder).record
    change(folder, "visual", whitening={"mean": "mean.npy", "projection": "projection.npy"})
    own = load_extractor(folder)
    assert own.widths == Widths(40, 128)
    assert own.record != before
    assert np.abs(own.visual(frame()) - (raw.astype(np.float64) - mean) @ projection).max() < 1e-4
    change(folder, "visual", pixels={"offset": 10.0, "scale": 2.0}, whitening=None)
    scaled = load_extractor(folder).visual(frame())
    network = load_extractor().networks["visual"]
    assert np.array_equal(scaled, network((frame().astype(np.float32)[None] - 10) / 2).reshape(-1))


def test_codes_agree_with_float64():
    values = np.concatenate([np.linspace(-3, 3, 10_001), [-2, 2, 0]]).astype(np.float32)
    exact = np.clip(values.astype(np.float64), -2, 2)
    codes = quantize(values)
    position = (exact + 2) * 255 / 4
    assert np.abs(codes - position).max() <= 0.5 + 1e-4
    # The release's inverse lies half a step of 1/256 higher.
    assert np.abs(dequantize(codes) - 4 / 512 - exact).max() <= 2 / 255 + 1e-6


@pytest.mark.parametrize(
    "part, fields, message",
    [
        ("visual", {"file": "gone.tflite"}, "gone.tflite: missing"),
        ("visual", {"file": DESCRIPTION}, "neither .tflite nor .onnx"),
        ("visual", {"width": "wide"}, "visual.width"),
        ("visual", {"width": 225}, r"extractor.yaml: visual: the network does not take an input of \(224, 225, 3\)"),
        ("visual", {"pixels": {"scale": 0}}, "scale is 0"),
        ("visual", {"odd": 1}, "visual.odd: unknown field"),
        ("visual", {"whitening": {"mean": "a.npy", "projection": "b.npy"}}, "a.npy: this array of the whitening"),
        ("audio", {"statistics": {}}, "needs either a file or statistics"),
        ("audio", {"statistics": {"median": {}}}, "needs either a file or statistics"),
    ],
)  # fmt: skip
def test_a_wrong_description(folder: Path, part: str, fields: dict[str, object], message: str):
    change(folder, part, **fields)
    with pytest.raises(EdgeAfError, match=message):
        load_extractor(folder)


def test_a_damaged_network_and_an_unknown_name(folder: Path):
    (folder / "visual-int8.tflite").write_bytes(b"TFL3")
    with pytest.raises(EdgeAfError, match="cannot be loaded"):
        load_extractor(folder)
    with pytest.raises(EdgeAfError, match="no extractor"):
        load_extractor("nothing")
