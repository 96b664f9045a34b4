"""The extractor of YouTube-8M's features, made from files of the published form with random weights."""

from __future__ import annotations

import functools
import http.server
import json
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

pytest.importorskip("av", reason="video files need PyAV")
pytest.importorskip("tensorflow", reason="the networks are converted by TensorFlow")

from youtube8m_files import FEATURES, SIDE, SUMS, WIDTH, matrix_data, write_files

from edge_af.cli import cli
from edge_af.data import Widths
from edge_af.data.dataset import open_dataset
from edge_af.errors import EdgeAfError
from edge_af.features import download, youtube8m
from edge_af.features.extractor import load_extractor
from edge_af.features.youtube8m import INCEPTION, VGGISH, FetchOptions, read_graph, read_matrix, vggish_function


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None: ...


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("published")
    write_files(folder)
    return folder


@pytest.fixture(scope="module")
def address(published: Path) -> Iterator[str]:
    """The address of a server with the files."""
    handler = functools.partial(Quiet, directory=str(published))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


@pytest.fixture(scope="module")
def fetched(address: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("fetched") / "youtube-8m"
    done = CliRunner().invoke(
        cli, ["features", "fetch", "youtube-8m", "--from", address, "--out", str(out), "--yes"], catch_exceptions=False
    )
    assert done.exit_code == 0, done.output
    assert "Apache-2.0" in done.stderr and "int8" in done.stdout
    assert not any(path.name.startswith(".") for path in out.parent.iterdir())
    return out


def test_both_precisions_agree_with_the_float_graph(fetched: Path):
    cosines = json.loads((fetched / "sources.json").read_text())["cosine_to_float_graph"]
    for halves in cosines.values():
        assert set(halves) == {"visual", "audio"}
    assert min(value for half in cosines["fp32"].values() for value in half.values()) > 0.999999
    assert min(value for half in cosines["int8"].values() for value in half.values()) > 0.97


def test_each_stage_agrees_with_float64(fetched: Path, published: Path):
    extractor = load_extractor(fetched / "fp32")
    assert extractor.widths == Widths(FEATURES["inception3"], FEATURES["vggish"])
    random = np.random.default_rng(1)
    frame = random.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    patch = random.normal(-2, 1.5, (96, 64)).astype(np.float32)
    for name, own, given, width in (
        ("inception3", extractor.visual(frame), frame, WIDTH),
        ("vggish", extractor.audio(patch), patch, SUMS),
    ):
        half = "visual" if name == "inception3" else "audio"
        features = extractor.networks[half](given[np.newaxis].astype(np.float32)).reshape(-1)
        assert features.shape == (width,) and features.std() > 0
        mean, projection = (
            read_matrix(published / f"{name}_{part}_matrix_data.pb").astype(np.float64)
            for part in ("mean", "projection")
        )
        wanted = np.clip(projection @ (features.astype(np.float64) - mean[:, 0]), -2, 2)
        assert np.abs(own - wanted).max() < 1e-4
        assert np.abs(wanted).max() == 2 and np.abs(wanted).min() < 1


def test_features_of_a_clip(fetched: Path, tmp_path: Path):
    clips, out = tmp_path / "clips", tmp_path / "prepared"
    run = functools.partial(CliRunner().invoke, cli, catch_exceptions=False)
    assert run(["data", "clips", str(clips), "--clips", "1", "--seconds", "2"]).exit_code == 0
    words = ["features", str(clips), "--labels", str(clips / "labels.csv"), "--out", str(out)]
    assert run([*words, "--extractor", str(fetched / "int8")]).exit_code == 0
    dataset = open_dataset(out)
    assert dataset.widths == Widths(24, 16)
    features = dataset.features(slice(None))
    assert np.abs(features.visual).max() <= 2 and features.visual.std() > 0.1
    assert np.abs(features.audio).max() <= 2 and features.audio.std() > 0.1


def test_without_consent_nothing_is_downloaded(tmp_path: Path):
    words = ["features", "fetch", "youtube-8m", "--from", "http://127.0.0.1:1", "--out", str(tmp_path / "out")]
    for answer, message in (("n\n", "nothing was downloaded"), ("", "Pass --yes")):
        done = CliRunner().invoke(cli, words, input=answer)
        assert isinstance(done.exception, EdgeAfError) and message in str(done.exception)
        assert not any(tmp_path.iterdir())


def test_an_unreachable_server_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(download, "PAUSE_SECONDS", 0.0)
    words = ["features", "fetch", "youtube-8m", "--from", "http://127.0.0.1:1", "--out", str(tmp_path / "out"), "--yes"]
    done = CliRunner().invoke(cli, words)
    assert isinstance(done.exception, EdgeAfError) and "Connection refused" in str(done.exception)
    assert not (tmp_path / "out").exists()


def test_a_damaged_download_is_not_kept(published: Path, tmp_path: Path):
    shutil.copytree(published, tmp_path / "served")
    (tmp_path / "served" / INCEPTION).write_bytes(b"<html>")
    handler = functools.partial(Quiet, directory=str(tmp_path / "served"))
    words = ["features", "fetch", "youtube-8m", "--out", str(tmp_path / "out"), "--yes", "--from"]
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        address = f"http://127.0.0.1:{server.server_address[1]}"
        done = CliRunner().invoke(cli, [*words, address])
        assert isinstance(done.exception, EdgeAfError) and "not a readable archive" in str(done.exception)
        shutil.copy(published / INCEPTION, tmp_path / "served" / INCEPTION)
        done = CliRunner().invoke(cli, [*words, address])
        server.shutdown()
    assert done.exit_code == 0
    files = json.loads((tmp_path / "out" / "sources.json").read_text())["files"]
    assert {one["origin"].removeprefix(address) for one in files.values()} == {f"/{name}" for name in files}


def test_sources_that_are_not_there(published: Path, tmp_path: Path):
    (tmp_path / "some").mkdir()
    shutil.copy(published / INCEPTION, tmp_path / "some")
    clip = FetchOptions(source=str(published), calibration_videos=(tmp_path / "gone.mp4",))
    for options, message in (
        (FetchOptions(source="ftp://127.0.0.1/x"), "expected a folder, or an address with http"),
        (FetchOptions(source=str(tmp_path / "gone")), "no such folder"),
        (FetchOptions(source=str(tmp_path / "some")), f"lacks {VGGISH}, inception3_mean"),
        (clip, "gone.mp4: no such file or folder"),
    ):
        with pytest.raises(EdgeAfError, match=message):
            youtube8m.check(options)


def test_matrices():
    matrix = np.arange(6, dtype=np.float32).reshape(2, 3)
    for row_major in (False, True):
        assert np.array_equal(_read(matrix_data(matrix, row_major=row_major)), matrix)


@pytest.mark.parametrize(
    "data", [b"", b"<html>", b"\x08\x02\x10\x03\x1a\x04\0\0\0\0", matrix_data(np.full((2, 2), np.nan, np.float32))]
)
def test_a_wrong_matrix(data: bytes):
    with pytest.raises(EdgeAfError, match=r"matrix.pb: is"):
        _read(data)


def _read(data: bytes) -> np.ndarray:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "matrix.pb"
        path.write_bytes(data)
        return read_matrix(path)


@pytest.mark.parametrize("damage", ["truncated", "html", "empty"])
def test_damaged_networks(published: Path, tmp_path: Path, damage: str):
    for name, read in ((INCEPTION, read_graph), (VGGISH, vggish_function)):
        data = (published / name).read_bytes()
        changed = {"truncated": data[: len(data) // 2], "html": b"<html>not here</html>", "empty": b""}[damage]
        (tmp_path / name).write_bytes(changed)
        with pytest.raises(EdgeAfError, match=name):
            read(tmp_path / name)


def test_a_projection_of_another_network(published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    frame, patch = np.zeros((1, SIDE, SIDE, 3), np.float32), np.zeros((1, 96, 64), np.float32)
    monkeypatch.setattr(youtube8m, "_inputs", lambda videos, side: ([frame], [patch]))
    files = {path.name: path for path in published.iterdir()}
    files["vggish_projection_matrix_data.pb"] = tmp_path / "other.pb"
    (tmp_path / "other.pb").write_bytes(matrix_data(np.zeros((7, 5), np.float32)))
    with pytest.raises(EdgeAfError, match="vggish: the network has 32 features"):
        youtube8m._halves(files, ())
