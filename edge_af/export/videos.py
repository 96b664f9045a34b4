"""Calibration videos and gate videos of an export."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge_af.console import warn
from edge_af.data.batches import split
from edge_af.data.dataset import Dataset, open_dataset
from edge_af.errors import EdgeAfError
from edge_af.export.gate import GateData
from edge_af.export.options import ExportOptions
from edge_af.export.ranges import CalibrationData, choose_videos
from edge_af.models.run import Run
from edge_af.runtime.accuracy import check_labels


def calibration_of(options: ExportOptions, run_folder: Path, run: Run) -> CalibrationData | None:
    """Sample the calibration videos; None without calibration data.

    Raises:
        EdgeAfError: the run was trained on other data.
    """
    if options.calibration_data is None:
        return None
    dataset = open_dataset(options.calibration_data)
    rows = _training_rows(run_folder, run, dataset, options.any_calibration_data)
    return CalibrationData(dataset, choose_videos(rows, options.calibration_videos, options.seed), options.seed)


def gate_of(options: ExportOptions, run: Run) -> GateData | None:
    """Open the gate's data; of the run's training data, use only held-out videos. Return None without a gate."""
    folder, max_gap_drop = options.gate_data, options.max_gap_drop
    if folder is None or max_gap_drop is None:
        return None

    dataset = open_dataset(folder)
    check_labels(dataset)
    if _trained_on(run, dataset):
        rows = _split(run, dataset)[1]
    else:
        rows = np.arange(dataset.videos, dtype=np.int64)
        warn(f"{folder}: gated on all its {dataset.videos:,} videos; do not report results on the same ones.")
    return GateData(dataset, rows, max_gap_drop)


def _trained_on(run: Run, dataset: Dataset) -> bool:
    """Return True if a run was trained on a dataset."""
    if run.data.fingerprint is None:
        # A run of an earlier version. Its folder may have been renamed, and splitting other data of that size is
        # harmless.
        return dataset.videos == run.data.videos
    return dataset.fingerprint() == run.data.fingerprint


def _split(run: Run, dataset: Dataset) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the rows of the run's data that it was trained on, and those held out."""
    how = run.split
    if how is None:
        raise EdgeAfError(
            f"the run of {run.model} does not say how its data was split (training.options). Train again."
        )
    return split(dataset.videos, how.held_out, how.seed)


def _training_rows(run_folder: Path, run: Run, dataset: Dataset, any_data: bool) -> NDArray[np.int64]:
    """Return the rows of the calibration data that training did not hold out.

    Raises:
        EdgeAfError: the run was trained on other data, and `any_data` is not set.
    """
    if not _trained_on(run, dataset):
        if run.data.fingerprint is not None:
            name = f"{dataset.folder}: not the data that {run_folder} was trained on"
            if not any_data:
                raise EdgeAfError(
                    f"{name}, which is {run.data.name or 'other data'}; "
                    "ranges must come from the run's training videos, never from evaluation videos.\n"
                    "Name that data, or add --any-calibration-data if these are training videos too, such as a sample."
                )
            warn(f"{name}; using it anyway.")
        return np.arange(dataset.videos, dtype=np.int64)
    # The held-out videos chose the best epoch and the F1 threshold, so ranges must not use them.
    return _split(run, dataset)[0]
