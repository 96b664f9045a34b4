"""Records and files in YouTube-8M's formats, written by TensorFlow, and a fixture that runs the command line."""

from __future__ import annotations

import gzip
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest


@dataclass(frozen=True)
class Ran:
    """Result of a command."""

    status: int
    out: str
    err: str


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Ran]:
    """Call `edge-af` through the console script's function."""
    from edge_af.cli import main

    def call(*arguments: object) -> Ran:
        monkeypatch.setattr(sys, "argv", ["edge-af", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            main()
        captured = capsys.readouterr()
        assert isinstance(stop.value.code, int)
        return Ran(stop.value.code, captured.out, captured.err)

    return call


class Records:
    """Makes records and files with given or random features."""

    def __init__(self) -> None:
        from edge_af.data.tfrecord import tensorflow

        self.tf = tensorflow()
        self._random = np.random.default_rng(5)

    def feature(self, value: Any) -> Any:
        train = self.tf.train
        if isinstance(value, bytes):
            return train.Feature(bytes_list=train.BytesList(value=[value]))
        values = np.asarray(value)
        if values.dtype.kind == "f":
            return train.Feature(float_list=train.FloatList(value=values.tolist()))
        return train.Feature(int64_list=train.Int64List(value=values.tolist()))

    def video(self, name: str, labels: Any = (1, 2), *, key: str = "id", **changes: Any) -> bytes:
        """Return a video-level record. `changes` replaces features by name; the value None removes one."""
        features = {
            key: name.encode(),
            "labels": np.array(labels, np.int64) if isinstance(labels, list | tuple) else labels,
            "mean_rgb": self._random.normal(0, 0.46, 1024).clip(-1.99, 2).astype(np.float32),
            "mean_audio": self._random.normal(0, 0.69, 128).clip(-1.99, 2).astype(np.float32),
        }
        features |= changes
        train = self.tf.train
        kept = {key: self.feature(value) for key, value in features.items() if value is not None}
        return train.Example(features=train.Features(feature=kept)).SerializeToString()

    def frames(
        self,
        name: str,
        rgb: Any = 4,
        audio: Any = 4,
        labels: Sequence[int] = (1, 2),
        *,
        key: str = "id",
    ) -> bytes:
        """Return a frame-level record. `rgb`, `audio`: a number of random frames, a (frames, length) uint8 array, a list of
        byte strings, or None to omit the list."""
        train = self.tf.train
        lists = {}
        for field, length, frames in (("rgb", 1024, rgb), ("audio", 128, audio)):
            if frames is None:
                continue
            if isinstance(frames, int):
                frames = self._random.integers(0, 256, (frames, length), dtype=np.uint8)
            strings = [frame if isinstance(frame, bytes) else frame.tobytes() for frame in frames]
            lists[field] = train.FeatureList(feature=[self.feature(string) for string in strings])
        context = {key: self.feature(name.encode()), "labels": self.feature(np.array(labels, np.int64))}
        return train.SequenceExample(
            context=train.Features(feature=context), feature_lists=train.FeatureLists(feature_list=lists)
        ).SerializeToString()

    def write(self, path: Path, records: Sequence[bytes], *, packed: bool = False) -> Path:
        """Write a TFRecord file with TensorFlow, compressed with GZIP if `packed`."""
        path.parent.mkdir(parents=True, exist_ok=True)
        with self.tf.io.TFRecordWriter(str(path)) as writer:
            for record in records:
                writer.write(record)
        if packed:
            path.write_bytes(gzip.compress(path.read_bytes(), mtime=0))
        return path


@pytest.fixture(scope="session")
def records() -> Records:
    return Records()


def offsets(records: Sequence[bytes]) -> list[int]:
    """Return the offset of each record in an uncompressed file."""
    return np.concatenate([[0], np.cumsum([len(record) + 16 for record in records])]).tolist()
