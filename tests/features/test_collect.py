"""Many videos become a dataset or TFRecords; bad ones are named, and an interrupted extraction continues."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

av = pytest.importorskip("av", reason="video files need PyAV")

from clips import tone, write_clip  # noqa: E402

import edge_af  # noqa: E402
from edge_af.data import Widths  # noqa: E402
from edge_af.data.dataset import open_dataset  # noqa: E402
from edge_af.data.prepare import prepare  # noqa: E402
from edge_af.errors import EdgeAfError  # noqa: E402
from edge_af.features.collect import FeaturesOptions, LabelOptions, OutputOptions, collect, ids_of  # noqa: E402
from edge_af.features.extract import Extraction  # noqa: E402
from edge_af.features.extractor import load_extractor  # noqa: E402


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six clips in two folders and a table of labels."""
    folder = tmp_path_factory.mktemp("clips")
    for number in range(6):
        place = folder / ("day" if number % 2 else "night")
        place.mkdir(exist_ok=True)
        times = [n / 10 for n in range(21)]
        write_clip(place / f"{number}.mkv", times, [30 * number + n for n in range(21)], tone(2, 200 + 300 * number))
    rows = [f"{n}.mkv,{'dark' if n < 3 else 'bright'};{'day' if n % 2 else 'night'}" for n in range(6)]
    (folder / "labels.csv").write_text("\n".join(["video,labels", *rows]) + "\n")
    return folder


def gather(clips: Path, out: Path, *, labels: bool = True, features: Any = None, how: Any = None, **given: Any) -> Any:
    table = clips / "labels.csv" if labels else None
    return collect([clips], out, features or FeaturesOptions(), LabelOptions(table, **given), how or OutputOptions())


def test_a_prepared_dataset(clips: Path, tmp_path: Path):
    done = gather(clips, tmp_path / "out")
    data = open_dataset(tmp_path / "out")
    assert data.widths == Widths(1280, 128)
    assert [id.decode() for id in data.ids] == ["1.mkv", "3.mkv", "5.mkv", "0.mkv", "2.mkv", "4.mkv"]
    assert data.class_names == ["bright", "dark", "day", "night"]
    assert data.labels(slice(1)).tolist() == [[0, 1, 1, 0]]
    assert data.index["layout"] == "video-files"
    assert data.index["features"]["visual"]["name"] == "efficientnet-lite0"
    assert data.index["extractor"] == {**load_extractor().record, "every": 1.0}
    assert data.index["sources"][0]["visual_count"] == 3
    assert done.seconds == pytest.approx(12, abs=0.5)
    one = Extraction(clips / "day" / "1.mkv", load_extractor())
    list(one)
    assert np.array_equal(data.visual[0], one.features.visual[0])
    assert np.array_equal(data.audio[0], one.features.audio[0])
    assert not list(tmp_path.glob(".out*partial"))


@pytest.mark.parametrize("format", ["video-level", "frame-level"])
def test_tfrecords_of_youtube8m_s_layouts(clips: Path, tmp_path: Path, format: str):
    gather(clips, tmp_path / "whole")
    gather(clips, tmp_path / "records", how=OutputOptions(format=format))
    prepare([str(tmp_path / "records")], tmp_path / "out")
    wanted, found = open_dataset(tmp_path / "whole"), open_dataset(tmp_path / "out")
    assert found.widths == wanted.widths
    assert found.class_names == wanted.class_names
    assert found.index["extractor"] == wanted.index["extractor"]
    assert found.index["features"]["audio"]["name"] == "log-mel-statistics"
    assert np.array_equal(found.label_values, wanted.label_values)
    assert list(found.ids) == list(wanted.ids)
    if format == "video-level":
        assert np.abs(found.audio - wanted.audio).max() < 2e-3
        assert np.abs(found.visual - wanted.visual).max() < 2e-3
    else:
        # 8-bit codes of ±2: half a step, and the release's offset of 1/128. The sound of the clips does not change.
        assert np.abs(found.audio - np.clip(wanted.audio, -2, 2)).max() < 0.02


def test_bad_videos_are_named_and_the_rest_goes_on(clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    bad = tmp_path / "bad"
    bad.mkdir()
    (bad / "empty.mp4").touch()
    (bad / "text.mp4").write_text("no video")
    how = OutputOptions(jobs=2)
    done = collect([bad, clips, tmp_path / "gone.mp4"], tmp_path / "out", FeaturesOptions(), LabelOptions(), how)
    assert done.index["videos"] == 6
    assert [entry["file"] for entry in done.index["left_out"]] == ["empty.mp4", "text.mp4", "gone.mp4"]
    err = capsys.readouterr().err
    for name in ("empty.mp4: is empty", "text.mp4: cannot be opened as a video", "gone.mp4: no such file"):
        assert err.count(name) == 1
    with pytest.raises(EdgeAfError, match="none of the 2 videos can be used"):
        collect([bad], tmp_path / "none", FeaturesOptions(), LabelOptions(), how)
    assert not (tmp_path / "none").exists()


def test_a_worker_that_dies_costs_one_video(
    clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    from edge_af.features import collect as module

    script = tmp_path / "worker.py"
    script.write_text(
        "import os, sys\nfrom edge_af.features import worker\nextract = worker.extract\n"
        "def dies(source, *rest):\n"
        "    if source.endswith('3.mkv'): os.kill(os.getpid(), 11)\n"
        "    return extract(source, *rest)\n"
        "worker.extract = dies\nworker.main()\n"
    )
    monkeypatch.setattr(module, "WORKER", (sys.executable, str(script)))
    done = gather(clips, tmp_path / "out", how=OutputOptions(jobs=1))
    assert done.index["videos"] == 5
    assert "3.mkv: its decoder crashed" in capsys.readouterr().err


def test_an_interrupted_extraction_continues(clips: Path, tmp_path: Path):
    gather(clips, tmp_path / "whole")
    command = ["features", clips, "--labels", clips / "labels.csv", "--jobs", 1, "--out", tmp_path / "out"]
    words = [sys.executable, "-m", "edge_af", *map(str, command)]
    partial = tmp_path / ".out.partial"
    for sent in (signal.SIGINT, signal.SIGKILL):
        process = subprocess.Popen(words, stderr=subprocess.PIPE, start_new_session=True)
        before = len(list(partial.glob("*.json")))
        while len(list(partial.glob("*.json"))) < before + 1 + (sent == signal.SIGINT):
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.01)
        os.kill(process.pid, sent)
        process.wait()
        process.stderr.close()
    done = subprocess.run(words, capture_output=True, encoding="utf-8", check=True)
    assert "continuing after" in done.stderr
    for name in ("visual.npy", "audio.npy", "label_values.npy", "ids.npy", "index.json"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert not partial.exists()


def test_other_options_do_not_continue(clips: Path, tmp_path: Path):
    (tmp_path / ".out.partial").mkdir()
    (tmp_path / ".out.partial" / "plan.json").write_text("{}")
    with pytest.raises(EdgeAfError, match="an interrupted extraction of other videos"):
        gather(clips, tmp_path / "out")
    gather(clips, tmp_path / "out", how=OutputOptions(overwrite=True))
    with pytest.raises(EdgeAfError, match="overwrite"):
        gather(clips, tmp_path / "out")


def test_labels_and_names(clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    table = tmp_path / "some.csv"
    table.write_text("file,labels\n1.mkv,sun\n9.mkv,moon\n")
    collect([clips], tmp_path / "out", FeaturesOptions(), LabelOptions(table), OutputOptions())
    err = capsys.readouterr().err
    assert "no labels for 5 video(s)" in err
    assert "1 row(s) name none of the videos, 9.mkv first" in err
    with pytest.raises(EdgeAfError, match=r"'sun'.* is not one of the 4 classes"):
        gather(clips, tmp_path / "whole")
        labels = LabelOptions(table, vocabulary=tmp_path / "whole")
        collect([clips], tmp_path / "no", FeaturesOptions(), labels, OutputOptions())
    assert ids_of([Path("a/x.mp4"), Path("b/x.mp4"), Path("c/y.mp4")]) == ["a/x.mp4", "b/x.mp4", "y.mp4"]
    assert len(ids_of([Path("é" * 80)])[0].encode()) <= 64
    # A name that several videos have is not guessed.
    (tmp_path / "night").mkdir()
    write_clip(tmp_path / "night" / "1.mkv", [0], [9])
    with pytest.raises(EdgeAfError, match=r"'1\.mkv' may be several of the videos"):
        collect([clips, tmp_path / "night"], tmp_path / "no", FeaturesOptions(), LabelOptions(table), OutputOptions())


@pytest.mark.slow
def test_watch_ends_with_the_labels_of_features_and_predict(clips: Path, tmp_path: Path):
    gather(clips, tmp_path / "data")

    def run(*words: object) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "edge_af", *map(str, words)], capture_output=True, encoding="utf-8"
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    small = ("--preset", "1m", "--epochs", 1, "--batch", 4, "--threads", 1, "--held-out", 0.2)
    run("train", "--model", "attend-fusion", *small, "--data", tmp_path / "data", "--out", tmp_path / "run")
    export = ("--int8", "--calibration-data", tmp_path / "data", "--sensitivity-videos", 0)
    run("export", tmp_path / "run", *export, "--out", tmp_path / "artifacts")
    artifact, video = tmp_path / "artifacts" / "attend-fusion-int8.tflite", clips / "day" / "1.mkv"
    wanted = json.loads(run("predict", artifact, tmp_path / "data", "--rows", 0, "--json"))[0]["labels"]
    lines = [json.loads(line) for line in run("watch", artifact, video, "--json").splitlines()]
    assert [line["time"] for line in lines][:3] == [0.0, 1.0, 2.0]
    assert lines[-1]["labels"] == wanted
    assert json.loads(run("predict", artifact, video, "--json"))[0]["labels"] == wanted
    with video.open("rb") as file:
        command = [sys.executable, "-m", "edge_af", "watch", str(artifact), "-", "--json", "--threads", "2"]
        piped = subprocess.run(command, stdin=file, capture_output=True, encoding="utf-8", check=True).stdout
    assert json.loads(piped.splitlines()[-1])["labels"] == wanted
    # Ctrl-C ends it while it waits for a silent pipe, too.
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdin.write(video.read_bytes()[:1000])
        process.stdin.flush()
        time.sleep(3)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=30) == 0
        assert b"KeyboardInterrupt" not in process.stderr.read()
    # The same after its first labels: the decoding thread waits for the pipe.
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        seconds = write_clip(tmp_path / "loud.mkv", [float(n) for n in range(60)], [9] * 60, tone(60))
        process.stdin.write(seconds.read_bytes()[:1_500_000])
        process.stdin.flush()
        assert json.loads(process.stdout.readline())["time"] == 0
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=30) == 0
    # Ctrl-C ends a long video, as it ends a camera.
    long = write_clip(tmp_path / "long.mkv", [float(n) for n in range(3000)], [n % 200 for n in range(3000)])
    command = [sys.executable, "-m", "edge_af", "watch", str(artifact), str(long), "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert json.loads(process.stdout.readline())["time"] == 0
        process.send_signal(signal.SIGINT)
        rest, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert rest.count(b"\n") < 2999
    stream = edge_af.VideoStream(video, edge_af.load(artifact), top=2)
    last = list(stream)[-1]
    assert [one.name for one in last.predictions] == [one["name"] for one in wanted[:2]]
    # Features of another extractor are refused.
    own = tmp_path / "own"
    subprocess.run(["cp", "-r", edge_af.features.extractor.package_data("features", "lite"), own], check=True)
    (own / "extractor.yaml").write_text((own / "extractor.yaml").read_text().replace("scale: 2.0", "scale: 3.0"))
    done = subprocess.run(
        [sys.executable, "-m", "edge_af", "watch", artifact, video, "--extractor", own],
        capture_output=True,
        encoding="utf-8",
    )
    assert done.returncode == 2
    assert "another version of the extractor" in done.stderr
