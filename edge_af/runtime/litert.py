"""TFLite files in LiteRT (or tflite-runtime, where only that is installed), on the CPU with XNNPACK."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_af.errors import EdgeAfError
from edge_af.runtime import MissingRuntime
from edge_af.runtime.probe import OUTPUT, check_names


def interpreter_class() -> Any:
    """LiteRT's `Interpreter`, or that of its predecessor.

    Raises:
        MissingRuntime: neither package can be imported.
    """
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError as first:
        try:
            from tflite_runtime.interpreter import Interpreter
        except ImportError:
            raise MissingRuntime(
                f"no TFLite runtime can be imported here ({first}).\nInstall one with: pip install ai-edge-litert"
            ) from None
    return Interpreter


class LiteRtScorer:
    """A TFLite file, ready to score. See `edge_af.runtime.Scorer`."""

    runtime = "litert"
    # Hybrid layers quantise their input row by row.
    max_batch: int | None = None

    def __init__(self, path: Path, threads: int) -> None:
        interpreter = interpreter_class()
        self._path = path
        try:
            # Loading by path maps the file, so that its weights are shared and not copied.
            self._interpreter = interpreter(model_path=str(path), num_threads=threads)
            self._interpreter.allocate_tensors()
        except (ValueError, RuntimeError) as error:
            raise EdgeAfError(f"{path}: LiteRT cannot load this file: {error}") from None
        names: dict[str, list[str]] = next(
            iter(self._interpreter.get_signature_list().values()), {"inputs": [], "outputs": []}
        )
        check_names(path, names["inputs"], names["outputs"])
        # A signature runner finds its tensors by name at each call; by index an inference is two calls less.
        runner = self._interpreter.get_signature_runner()
        self._inputs = runner.get_input_details()
        self._output = output = runner.get_output_details()[OUTPUT]
        self.classes = int(output["shape"][-1])
        self._batch = int(runner.get_input_details()["visual"]["shape"][0])

    def score(self, visual: NDArray[np.float32], audio: NDArray[np.float32]) -> NDArray[np.float32]:
        try:
            if len(visual) != self._batch:
                for name, array in (("visual", visual), ("audio", audio)):
                    self._interpreter.resize_tensor_input(self._inputs[name]["index"], array.shape)
                self._interpreter.allocate_tensors()
                self._batch = len(visual)
            self._interpreter.set_tensor(self._inputs["visual"]["index"], _held(visual, self._inputs["visual"]))
            self._interpreter.set_tensor(self._inputs["audio"]["index"], _held(audio, self._inputs["audio"]))
            self._interpreter.invoke()
        except (ValueError, RuntimeError) as error:
            raise EdgeAfError(f"{self._path}: LiteRT cannot run this graph: {error}") from None
        scores: NDArray[np.float32] = self._interpreter.get_tensor(self._output["index"])
        if self._output["dtype"] == np.int8:
            scale, zero_point = self._output["quantization"]
            scores = (scores.astype(np.float32) - zero_point) * np.float32(scale)
        return scores


def _held(array: NDArray[np.float32], input: dict[str, Any]) -> NDArray[Any]:
    """Features as a file's input takes them: float32, or INT8 on the input's scale."""
    if input["dtype"] != np.int8:
        return array
    scale, zero_point = input["quantization"]
    return np.clip(np.rint(array / np.float32(scale)) + zero_point, -128, 127).astype(np.int8)
