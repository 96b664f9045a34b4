"""Scores computed by a phone's own kernels: `benchmark_model` reads videos from files and writes its outputs to one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_af.data import Features
from edge_af.errors import EdgeAfError
from edge_af.files import explain_os_errors, sha256_file
from edge_af.records.results import OK
from edge_af.runtime.litert import float_scores, held_features, tensor_details
from edge_af.runtime.probe import input_widths
from edge_af.targets.adb import FOLDER, File, Phone
from edge_af.targets.benchmark_model import NAME, scoring_options

VIDEOS = 256
"""Videos per process, each of which loads the file again. Their scores take 4 MB, their activations some tens of MB."""
SCORES = f"{FOLDER}/scores"
"""File on the phone that holds the scores until they are fetched."""


class PhoneScorer:
    """A .tflite file on a phone, run by `benchmark_model`. See `edge_af.runtime.Scorer`."""

    runtime = "litert"
    max_batch: int | None = None

    def __init__(
        self,
        phone: Phone,
        path: Path,
        classes: int,
        run: Callable[[Sequence[str]], dict[str, Any]],
        folder: Path,
        on_scored: Callable[[int], None] = lambda videos: None,
    ) -> None:
        """Read the types and scales of inputs and output.

        Args:
            phone: the phone, which already has the file.
            path: the local copy of the file.
            classes: number of classes of the network.
            run: runs `benchmark_model` with these arguments on the file there, and returns the result of `found_of`.
            folder: local folder for inputs and outputs in transfer.
            on_scored: called after each batch with its number of videos.
        """
        self.classes, self.widths = classes, input_widths(path)
        self._phone, self._path, self._run, self._folder, self._on_scored = phone, path, run, folder, on_scored
        self._inputs, self._output = tensor_details(path)

    def score(self, features: Features) -> NDArray[np.float32]:
        """See `edge_af.runtime.Scorer`.

        Raises:
            Gone: the phone no longer responds.
            EdgeAfError: its storage is full, `benchmark_model` fails, or it writes no scores for these videos.
        """
        videos, inputs, files = features.videos, {}, []
        for name, array in features._asdict().items():
            file = self._file(name, held_features(array, self._inputs[name]))
            inputs[self._inputs[name]["name"]] = (file.place, array.shape[1])
            files.append(file)
        for file in self._phone.lacking(files):
            self._phone.push(file)
        # Scores of an interrupted bench must not be mistaken for these.
        self._phone.shell('rm -f "$1"', SCORES)
        found = self._run(scoring_options(videos, inputs, SCORES))
        if found["status"] != OK:
            raise EdgeAfError(f"{self._path}: {found['reason']}")
        return self._fetched(videos)

    def _file(self, name: str, values: NDArray[Any]) -> File:
        path = self._folder / f"{name}.bin"
        with explain_os_errors(path):
            values.tofile(path)
        return File(path, sha256_file(path), path.stat().st_size)

    def _fetched(self, videos: int) -> NDArray[np.float32]:
        if self._phone.shell('[ -s "$1" ]', SCORES).status != 0:
            raise EdgeAfError(
                f"{self._path}: {NAME} leaves no scores: a build without --output_filepath, or no room there"
            )
        path = self._folder / "scores.bin"
        self._phone.pull(SCORES, path)
        self._phone.shell('rm -f "$1"', SCORES)
        values = np.fromfile(path, self._output["dtype"])
        if values.size != videos * self.classes:
            raise EdgeAfError(
                f"{self._path}: {NAME} left {values.size:,} scores of {videos} videos, not {videos * self.classes:,}"
            )
        self._on_scored(videos)
        return float_scores(values, self._output).reshape(videos, self.classes)
