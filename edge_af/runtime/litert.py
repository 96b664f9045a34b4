"""TFLite files in LiteRT (or tflite-runtime if only that is installed), on the CPU with XNNPACK."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_af.console import without_chatter
from edge_af.data import Features
from edge_af.errors import EdgeAfError
from edge_af.files import staged_folder
from edge_af.runtime import MissingRuntime
from edge_af.runtime.probe import INPUTS, OUTPUT, check_names, input_widths


def interpreter_class() -> Any:
    """Return LiteRT's `Interpreter`, or its predecessor's.

    Raises:
        MissingRuntime: neither package can be imported.
    """
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError as first:
        _check_numpy()
        try:
            from tflite_runtime.interpreter import Interpreter
        except ImportError:
            raise MissingRuntime(
                f"no TFLite runtime can be imported here ({first}).\nInstall one with: pip install ai-edge-litert"
            ) from None
    return Interpreter


def _check_numpy() -> None:
    """Explain an import failure of tflite-runtime in one line: its last release, 2.14, was built for numpy 1.

    Raises:
        MissingRuntime: it is installed with a newer numpy.
    """
    try:
        version = metadata.version("tflite-runtime")
    except metadata.PackageNotFoundError:
        return
    if int(np.__version__.split(".")[0]) >= 2 and version.split(".")[:2] <= ["2", "14"]:
        raise MissingRuntime(
            f"tflite-runtime {version} does not run with numpy {np.__version__}.\n"
            "Install its successor: pip install ai-edge-litert (or, for tflite-runtime itself, pip install 'numpy<2')"
        )


class LiteRtScorer:
    """A TFLite file, ready to score. See `edge_af.runtime.Scorer`."""

    runtime = "litert"
    # Hybrid layers quantize their input row by row.
    max_batch: int | None = None

    def __init__(self, path: Path, threads: int) -> None:
        interpreter = interpreter_class()
        self._path = path
        try:
            with without_chatter("INFO: "):
                # Loading by path memory-maps the file, so its weights are shared, not copied.
                self._interpreter = interpreter(model_path=str(path), num_threads=threads)
                self._interpreter.allocate_tensors()
        except (ValueError, RuntimeError) as error:
            raise EdgeAfError(f"{path}: LiteRT cannot load this file: {error}") from None
        names: dict[str, list[str]] = next(
            iter(self._interpreter.get_signature_list().values()), {"inputs": [], "outputs": []}
        )
        check_names(path, names["inputs"], names["outputs"])
        # A signature runner looks up its tensors by name on each call; with indexes, an inference saves two calls.
        runner = self._interpreter.get_signature_runner()
        self._inputs = runner.get_input_details()
        self._output = output = runner.get_output_details()[OUTPUT]
        self.classes, self.widths = int(output["shape"][-1]), input_widths(path)
        self._batch = int(runner.get_input_details()["visual"]["shape"][0])

    def score(self, features: Features) -> NDArray[np.float32]:
        try:
            if features.videos != self._batch:
                for name, array in features._asdict().items():
                    self._interpreter.resize_tensor_input(self._inputs[name]["index"], array.shape)
                self._interpreter.allocate_tensors()
                self._batch = features.videos
            for array, input in zip(features, (self._inputs["visual"], self._inputs["audio"]), strict=True):
                self._interpreter.set_tensor(input["index"], held_features(array, input))
            self._interpreter.invoke()
        except (ValueError, RuntimeError) as error:
            raise EdgeAfError(f"{self._path}: LiteRT cannot run this graph: {error}") from None
        return float_scores(self._interpreter.get_tensor(self._output["index"]), self._output)


def tensor_details(path: Path) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
    """Return LiteRT's details (`name`, `dtype`, `quantization`) of a file's inputs, by name, and of its output `scores`.

    Raises:
        EdgeAfError: it cannot be loaded, or its inputs and outputs differ from edge-af's.
    """
    try:
        runner = interpreter_class()(model_path=str(path)).get_signature_runner()
    except (ValueError, RuntimeError) as error:
        raise EdgeAfError(f"{path}: LiteRT cannot load this file: {error}") from None
    inputs, outputs = runner.get_input_details(), runner.get_output_details()
    check_names(path, list(inputs), list(outputs))
    return inputs, outputs[OUTPUT]


def held_features(array: NDArray[np.float32], input: dict[str, Any]) -> NDArray[Any]:
    """Convert features to a file's input type: float32, or INT8 with the input's scale."""
    if input["dtype"] != np.int8:
        return array
    scale, zero_point = input["quantization"]
    return np.clip(np.rint(array / np.float32(scale)) + zero_point, -128, 127).astype(np.int8)


def float_scores(array: NDArray[Any], output: dict[str, Any]) -> NDArray[np.float32]:
    """Convert a file's output to float32 scores, from float32 or from INT8 with the output's scale."""
    if output["dtype"] != np.int8:
        return array
    scale, zero_point = output["quantization"]
    return (array.astype(np.float32) - zero_point) * np.float32(scale)


PACKED = "weights.xnnpack"
"""XNNPACK's own cache file in the folder of packed weights."""

CHATTER = ("INFO: ", "WARNING: [npu_registry.cc", "WARNING: [compiler_plugin.cc", "└ Could not load shared library")
"""Beginnings of LiteRT's log lines about unused accelerators."""


def maps_weights() -> bool:
    """Return True if this LiteRT can keep packed weights in a file; older ones and tflite-runtime cannot."""
    try:
        from ai_edge_litert import compiled_model, options
    except ImportError:
        return False
    return hasattr(compiled_model, "CompiledModel") and hasattr(options, "CpuOptions")


class MappedLiteRtScorer:
    """A TFLite file with packed weights that are memory-mapped from another file. See `edge_af.runtime.load`."""

    runtime = "litert"
    max_batch: int | None = None

    def __init__(self, path: Path, threads: int, packed: Path) -> None:
        from ai_edge_litert.compiled_model import CompiledModel
        from ai_edge_litert.hardware_accelerator import HardwareAccelerator
        from ai_edge_litert.options import CpuOptions, Options

        def compiled(folder: Path) -> Any:
            cpu = CpuOptions(num_threads=threads, xnnpack_weight_cache_path=str(folder / PACKED))
            options = Options(hardware_accelerators=HardwareAccelerator.CPU, cpu_options=cpu)
            return CompiledModel.from_file(str(path), options=options)

        self._path = path
        try:
            with without_chatter(*CHATTER):
                if not (packed / PACKED).exists():
                    with staged_folder(packed, (PACKED,)) as stage:
                        compiled(stage)
                self._model = compiled(packed)
                self._key, names = next(iter(self._model.get_signature_list().items()))
                check_names(path, names["inputs"], names["outputs"])
                self._names = names["inputs"]
                # The compiled model lacks its tensors' scales, which files with integer inputs and outputs need.
                interpreter = interpreter_class()(model_path=str(path))
                details = {detail["index"]: detail for detail in interpreter.get_tensor_details()}
                inputs, outputs = (
                    getter(self._key)
                    for getter in (self._model.get_input_tensor_details, self._model.get_output_tensor_details)
                )
                self._details = {name: details[inputs[name]["index"]] for name in self._names}
                self._output = details[outputs[OUTPUT]["index"]]
                self.classes = int(self._model.get_output_tensor_details(self._key)[OUTPUT]["shape"][-1])
                self.widths = input_widths(path)
                self._resize(1)
        except (ValueError, RuntimeError, StopIteration) as error:
            raise EdgeAfError(f"{path}: LiteRT cannot load this file: {error}") from None

    def _resize(self, videos: int) -> None:
        for name in INPUTS:
            self._model.resize_input_tensor_by_name(self._key, name, [videos, self.widths.of(name)])
        self._buffers = self._model.create_input_buffers(0)
        self._inputs = dict(zip(self._names, self._buffers, strict=True))
        self._outputs = self._model.create_output_buffers(0)
        self._batch = videos

    def score(self, features: Features) -> NDArray[np.float32]:
        try:
            if features.videos != self._batch:
                self._resize(features.videos)
            self._inputs["visual"].write(held_features(features.visual, self._details["visual"]))
            self._inputs["audio"].write(held_features(features.audio, self._details["audio"]))
            self._model.run_by_index(0, self._buffers, self._outputs)
            scores: NDArray[Any] = self._outputs[0].read(self._batch * self.classes, self._output["dtype"])
        except (ValueError, RuntimeError) as error:
            raise EdgeAfError(f"{self._path}: LiteRT cannot run this graph: {error}") from None
        return float_scores(scores, self._output).reshape(self._batch, self.classes)
