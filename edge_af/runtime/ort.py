"""ONNX files in ONNX Runtime, on the CPU.

On x86-64 without VNNI, ONNX Runtime multiplies unsigned activations by signed weights (U8S8) with an instruction that
adds pairs of products in 16 bits and saturates. Weights within ±`PAIR_LIMIT` cannot saturate, and edge-af writes no others
for x86-64. For larger weights, ONNX Runtime has the setting `session.x64quantprecision`, which also makes the weights
unsigned (U8U8): exact, but slower. `session_options` sets it if the file has such weights and a test product saturates on
this processor.
"""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_af.data import Features, random_features
from edge_af.errors import EdgeAfError
from edge_af.files import package_data, staged_folder
from edge_af.runtime import MissingRuntime
from edge_af.runtime.packed_onnx import align_packed
from edge_af.runtime.probe import OUTPUT, check_names, has_operator, input_widths, may_hold_weights_beyond


def onnxruntime_module() -> Any:
    """Import the package `onnxruntime` with its telemetry off.

    Raises:
        MissingRuntime: it cannot be imported.
    """
    # The Linux wheels of 1.31 collect telemetry unless it is disabled before the import.
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingRuntime(
            f"onnxruntime cannot be imported here ({error}).\nInstall it with: pip install onnxruntime"
        ) from None
    return onnxruntime


PAIR_LIMIT = (2**15 - 1) // (2 * 255)
"""Largest INT8 weight for which the sum of two products with unsigned bytes fits into 16 bits: 64."""
EXACT = "session.x64quantprecision"
"""Setting that makes ONNX Runtime multiply INT8 exactly on every x86-64 processor."""


def session_options(path: Path, threads: int | None = None) -> Any:
    """Create session options that log only errors and make integer products exact on every processor.

    Args:
        path: the ONNX file.
        threads: threads of the session's own pool; ONNX Runtime's default when None.
    """
    options = quiet_options()
    if threads is not None:
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
    if unsigned_weights(path):
        options.add_session_config_entry(EXACT, "1")
    return options


def unsigned_weights(path: Path) -> bool:
    """Return True if the file's INT8 weights must be made unsigned for exact products on this processor."""
    return u8s8_saturates() and may_hold_weights_beyond(path, PAIR_LIMIT)


@cache
def u8s8_saturates() -> bool:
    """Return True if ONNX Runtime's U8S8 products saturate on this processor. The instruction sets do not tell, so test it."""
    model = package_data("runtime", "saturation.onnx").read_bytes()
    options = quiet_options()
    options.intra_op_num_threads = 1
    session = onnxruntime_module().InferenceSession(model, options, providers=["CPUExecutionProvider"])
    # Each sum has 64 products of 255 and 127, two of which already exceed 16 bits.
    (sums,) = session.run(None, {"activations": np.full((1, 64), 255, np.uint8)})
    return bool((sums != 64 * 255 * 127).any())


def quiet_options() -> Any:
    """Create session options that log only errors. For float graphs; `session_options` is for files."""
    options = onnxruntime_module().SessionOptions()
    options.log_severity_level = 3
    return options


PACKED = "packed.onnx"
"""The graph optimized by onnxruntime in the folder of packed weights; its weights are in another file there."""
SAME_SCORES = 1e-5
"""Largest allowed difference of scores with packed weights, caused by another order of the sums."""


class OnnxScorer:
    """An ONNX file, ready to score. See `edge_af.runtime.Scorer` and `edge_af.runtime.load`."""

    runtime = "onnxruntime"

    def __init__(self, path: Path, threads: int, packed: Path | None = None) -> None:
        onnxruntime = onnxruntime_module()
        options = session_options(path, threads)
        self._path = path
        try:
            if packed is not None:
                if not (packed / PACKED).exists():
                    _pack(onnxruntime, path, packed)
                # The arena allocates ever larger blocks for a few tensors of a few kilobytes.
                options.enable_cpu_mem_arena = False
            file = path if packed is None else packed / PACKED
            self._session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        except EdgeAfError:
            raise
        except Exception as error:  # onnxruntime's exceptions for damaged files have no common base class
            raise EdgeAfError(f"{path}: onnxruntime cannot load this file: {_first_line(error)}") from None
        outputs = {value.name: value.shape for value in self._session.get_outputs()}
        check_names(path, [value.name for value in self._session.get_inputs()], list(outputs))
        shape = outputs[OUTPUT]
        if len(shape) != 2 or not isinstance(shape[1], int):
            raise EdgeAfError(f"{path}: output {OUTPUT} has the shape {shape}; expected (videos, number of classes).")
        self.classes, self.widths = shape[1], input_widths(path)
        # It uses one range for the whole batch, so a video's scores would depend on the other videos.
        self.max_batch = 1 if has_operator(path, "DynamicQuantizeLinear") else None

    def score(self, features: Features) -> NDArray[np.float32]:
        try:
            scores: NDArray[np.float32] = self._session.run(
                [OUTPUT], {"visual": features.visual, "audio": features.audio}
            )[0]
        except Exception as error:  # as above
            raise EdgeAfError(f"{self._path}: onnxruntime cannot run this graph: {_first_line(error)}") from None
        return scores


def _pack(onnxruntime: Any, path: Path, folder: Path) -> None:
    """Write the optimized graph to `folder`, with its weights both unpacked and in the kernels' layout.

    Raises:
        EdgeAfError: scores with the packed weights differ from those of the file.
    """
    options = session_options(path)
    with staged_folder(folder, (PACKED, f"{PACKED}.data")) as stage:
        options.optimized_model_filepath = str(stage / PACKED)
        for name, value in {
            "optimized_model_external_initializers_file_name": f"{PACKED}.data",
            "optimized_model_external_initializers_min_size_in_bytes": "1024",
            "save_external_prepacked_constant_initializers": "1",
        }.items():
            options.add_session_config_entry(f"session.{name}", value)
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        align_packed(stage / PACKED, stage / f"{PACKED}.data")
        packed = onnxruntime.InferenceSession(
            str(stage / PACKED), session_options(path), providers=["CPUExecutionProvider"]
        )
        features = random_features(2, input_widths(path))
        for videos in (1, 2):
            one, two = (each.run([OUTPUT], features.take(slice(videos))._asdict())[0] for each in (session, packed))
            if not np.allclose(one, two, rtol=0, atol=SAME_SCORES):
                raise EdgeAfError(
                    f"{path}: this onnxruntime scores differently with packed weights; load it without them."
                )


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
