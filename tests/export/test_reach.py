"""Our TFLite files in the old tflite-runtime, and compared with files of TensorFlow's converter."""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from small_dataset import REPOSITORY

from edge_af.data import Features
from edge_af.data.dataset import Dataset
from edge_af.export.graph import Graph
from edge_af.export.quantize import plan
from edge_af.export.ranges import Ranges
from edge_af.export.recipes import load_recipe
from edge_af.export.to_tflite import write_tflite
from edge_af.runtime import load
from edge_af.runtime.litert import interpreter_class

OLD = ("tflite-runtime==2.14.0", "numpy<2", "click", "msgspec", "packaging", "PyYAML", "tqdm", "flatbuffers")
SCORE = """
import sys
import numpy as np
import edge_af
from edge_af.data import Features
from edge_af.runtime.litert import interpreter_class
assert interpreter_class().__module__.startswith("tflite_runtime"), interpreter_class().__module__
file, features, scores = sys.argv[1:]
given = np.load(features)
np.save(scores, edge_af.load(file).score(Features(given["visual"], given["audio"])))
"""


@pytest.fixture(scope="module")
def old_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of a virtual environment with tflite-runtime."""
    if sys.version_info[:2] != (3, 11):
        pytest.skip("tflite-runtime 2.14 needs Python 3.11 or older")
    folder = tmp_path_factory.mktemp("old") / "venv"
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    found = subprocess.run([python, "-m", "pip", "install", "--quiet", *OLD], capture_output=True, text=True)
    if found.returncode:
        pytest.skip(f"{OLD[0]} cannot be installed here: {found.stderr.strip().splitlines()[-1]}")
    return python


@pytest.mark.slow
@pytest.mark.parametrize(
    ("recipe", "integer_io"),
    [("int8-static", False), ("int8-static", True), ("int8-weights", False), ("fp16", False)],
)
def test_files_run_in_tflite_runtime(
    graph: Graph,
    ranges: Ranges,
    dataset: Dataset,
    tmp_path: Path,
    old_python: Path,
    recipe: str,
    integer_io: bool,
) -> None:
    """Everything runs except dynamic activations. Its kernels round differently, so scores differ slightly."""
    file, features, scores = tmp_path / "net.tflite", tmp_path / "features.npz", tmp_path / "scores.npy"
    made = plan(graph, load_recipe(recipe), ranges, everything=integer_io)
    write_tflite(graph, file, made, integer_io=integer_io)
    visual, audio = dataset.features(slice(100, 132))
    np.savez(features, visual=visual, audio=audio)
    done = _scored(old_python, file, features, scores)
    assert done.returncode == 0, done.stderr
    error = np.abs(np.load(scores) - load(file).score(Features(visual, audio)))
    assert error.max() < (1e-4 if load_recipe(recipe).form.activations == "float" else 0.1)
    assert error.mean() < 0.01


def _scored(python: Path, file: Path, features: Path, scores: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    return subprocess.run(
        [python, "-c", SCORE, file, features, scores], env=environment, capture_output=True, text=True
    )


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["int8-dynamic", "int4-block32-dynamic"])
def test_tflite_runtime_refuses_what_it_would_compute_wrongly(
    graph: Graph, ranges: Ranges, dataset: Dataset, tmp_path: Path, old_python: Path, recipe: str
) -> None:
    """It would use the first weight scale for all features; the operator's version prevents that."""
    write_tflite(graph, tmp_path / "net.tflite", plan(graph, load_recipe(recipe), ranges))
    visual, audio = dataset.features(slice(100, 132))
    np.savez(tmp_path / "features.npz", visual=visual, audio=audio)
    done = _scored(old_python, tmp_path / "net.tflite", tmp_path / "features.npz", tmp_path / "scores.npy")
    assert done.returncode != 0 and not (tmp_path / "scores.npy").exists()
    assert "net.tflite" in done.stderr and "FULLY_CONNECTED" in done.stderr


def tensorflow_scores(graph: Graph) -> Any:
    """Return the graph as a TensorFlow function with the same operators and weights."""
    import tensorflow as tf

    constants = {
        name: tf.constant(array if array.dtype != np.int64 else array.astype(np.int32))
        for name, array in graph.constants.items()
    }

    def compute(visual: Any, audio: Any) -> Any:
        tensors = {**constants, "visual": visual, "audio": audio}
        for node in graph.nodes:
            x, *rest = (tensors[name] for name in node.inputs)
            match node.op:
                case "Gemm":
                    made = [tf.matmul(x, rest[0], transpose_b=True) + rest[1]]
                case "Split":
                    made = tf.split(x, len(node.outputs), axis=node.attributes["axis"])
                case "Concat":
                    made = [tf.concat([x, *rest], node.attributes["axis"])]
                case "Transpose":
                    made = [tf.transpose(x, node.attributes["perm"])]
                case "Reshape":
                    made = [tf.reshape(x, rest[0])]
                case op:
                    function = {
                        "Relu": tf.nn.relu, "Add": tf.add, "Mul": tf.multiply, "Div": tf.divide, "MatMul": tf.matmul,
                        "Softmax": tf.nn.softmax, "Sigmoid": tf.sigmoid,
                    }[op]  # fmt: skip
                    made = [function(x, *rest)]
            tensors.update(zip(node.outputs, made, strict=True))
        return {name: tensors[name] for name in graph.outputs}

    return tf.function(
        compute,
        input_signature=[
            tf.TensorSpec((None, shape[1]), tf.float32, name=name) for name, shape in graph.inputs.items()
        ],
    )


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_tensorflows_converter_agrees(
    graph: Graph, ranges: Ranges, dataset: Dataset, tmp_path: Path, precision: str
) -> None:
    """FP32 agrees up to rounding, dynamic INT8 up to the quantization error of both."""
    import tensorflow as tf

    function = tensorflow_scores(graph)
    holder = tf.Module()
    holder.call = function
    converter = tf.lite.TFLiteConverter.from_concrete_functions([function.get_concrete_function()], holder)
    recipe = None
    if precision == "int8":
        recipe = load_recipe("int8-dynamic")
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    theirs = interpreter_class()(model_content=converter.convert())
    visual, audio = dataset.features(slice(100, 132))
    expected = theirs_scores(theirs, visual, audio)
    write_tflite(graph, tmp_path / "net.tflite", *([plan(graph, recipe)] if recipe else []))
    found = load(tmp_path / "net.tflite").score(Features(visual, audio))
    error = np.abs(found - expected)
    if precision == "fp32":
        assert error.max() < 1e-5
    else:
        assert error.mean() < 0.02


def theirs_scores(interpreter: Any, visual: NDArray[np.float32], audio: NDArray[np.float32]) -> NDArray[np.float32]:
    """Score with the converter's file, one video at a time."""
    runner = interpreter.get_signature_runner()
    rows = [
        next(iter(runner(visual=visual[at : at + 1], audio=audio[at : at + 1]).values())) for at in range(len(visual))
    ]
    return np.concatenate(rows)
