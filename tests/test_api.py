"""The public Python API: its names, the choice of a file, scores and predictions, and messages that say the fix."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import typing
import zipfile
from pathlib import Path

import click.testing
import numpy as np
import pytest
from small_dataset import REPOSITORY

import edge_af
from edge_af import EdgeAfError, Features, Prediction
from edge_af.cli import cli
from edge_af.data import YOUTUBE8M
from edge_af.data.dataset import Dataset
from edge_af.files import write_json
from edge_af.metrics import top_k
from edge_af.runtime import load, score_all

VISUAL, AUDIO = np.zeros((2, 1024), np.float32), np.zeros((2, 128), np.float32)


@pytest.fixture
def folder(exports: Path) -> Path:
    """An export folder with FP32 and INT8 in both formats."""
    return exports / "fc-late-fusion"


def test_the_public_names_are_these():
    assert edge_af.__all__ == ["EdgeAfError", "Features", "Network", "Prediction", "VideoStream", "__version__", "load"]
    assert set(edge_af.__all__) <= set(dir(edge_af))
    for name in edge_af.__all__:
        assert getattr(edge_af, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'loads'"):
        edge_af.loads  # noqa: B018


def test_importing_the_package_imports_nothing_heavy():
    heavy = "{'numpy', 'torch', 'onnxruntime', 'ai_edge_litert', 'msgspec', 'click'}"
    code = f"import sys, edge_af; edge_af.__version__, edge_af.EdgeAfError; print({heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_type_hints_resolve():
    network = edge_af.Network
    assert typing.get_type_hints(edge_af.load)["return"] is network
    assert typing.get_type_hints(network.predict)["return"] == list[list[Prediction]]
    assert typing.get_type_hints(network.score)["features"] is not None
    assert typing.get_type_hints(network)["class_names"] == tuple[str, ...]
    assert typing.get_type_hints(Prediction) == {"name": str, "class_index": int, "score": float}


@pytest.mark.slow
@pytest.mark.slow
def test_a_type_checker_sees_the_types_and_refuses_misspelled_names(tmp_path: Path):
    (tmp_path / "user.py").write_text(
        "import numpy as np\nimport edge_af\n"
        "network = edge_af.load('x', precision='int8')\n"
        "features = edge_af.Features(visual=np.zeros((1, 1024)), audio=np.zeros((1, 128)))\n"
        "score: float = network.predict(features, top=1)[0][0].score\n"
        "wrong: str = network.classes\n"
        "edge_af.loads('x')\n"
    )
    command = [sys.executable, "-m", "mypy", "--strict", "user.py"]
    environment = {"MYPYPATH": str(REPOSITORY), "PATH": ""}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    found = [line for line in done.stdout.splitlines() if line.startswith("user.py")]
    assert len(found) == 2 and "user.py:6" in found[0] and '"loads"' in found[1], done.stdout + done.stderr


@pytest.mark.slow
def test_the_wheel_is_typed(tmp_path: Path):
    pytest.importorskip("hatchling")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True)
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as wheel:
        assert {"edge_af/py.typed", "edge_af/api.py"} <= set(wheel.namelist())


@pytest.mark.parametrize("runtime", ["onnxruntime", "litert"])
def test_scores_are_those_of_the_chosen_file(folder: Path, eval_dataset: Dataset, runtime: str):
    network = edge_af.load(folder, runtime=runtime)
    name = f"fc-late-fusion-int8.{'onnx' if runtime == 'onnxruntime' else 'tflite'}"
    assert network.path == folder / name and name in repr(network)
    assert (network.runtime, network.classes) == (runtime, 30)
    assert network.class_names == tuple(f"name of {index}" for index in range(30))
    features = eval_dataset.features(slice(20))
    scores = network.score(features)
    assert scores.shape == (20, 30) and scores.dtype == np.float32
    np.testing.assert_array_equal(scores, score_all(load(folder / name), features))
    # A video's scores do not depend on the others.
    np.testing.assert_array_equal(network.score(features.take([7])), scores[7:8])
    # Plain tuples and other float dtypes are fine.
    np.testing.assert_array_equal(network.score(tuple(features)), scores)
    np.testing.assert_array_equal(network.score((features.visual.astype(np.float64), features.audio)), scores)
    np.testing.assert_array_equal(network.score(eval_dataset.stored.take(slice(20))), scores)  # float16


def test_precision_and_runtime_choose_the_file(folder: Path, tmp_path: Path):
    assert edge_af.load(folder, precision="fp32", runtime="litert").path.name == "fc-late-fusion-fp32.tflite"
    lone = edge_af.load(folder / "fc-late-fusion-int8.onnx", precision="int8", runtime="onnxruntime")
    assert lone.path.name == "fc-late-fusion-int8.onnx"
    # INT4 comes before FP32, and one format needs no choice of a runtime. The same bytes stand in for INT4.
    manifest = json.loads((folder / "manifest.json").read_text())
    files = [file for file in manifest["files"] if file["path"] == "fc-late-fusion-fp32.onnx"]
    files.append({**files[0], "path": "int4.onnx", "precision": "int4"})
    for file in files:
        shutil.copy(folder / "fc-late-fusion-fp32.onnx", tmp_path / file["path"])
    write_json(tmp_path / "manifest.json", {**manifest, "files": files})
    assert edge_af.load(tmp_path).path.name == "int4.onnx"
    assert edge_af.load(tmp_path, precision="fp32").path.name == "fc-late-fusion-fp32.onnx"
    # Two recipes may give files of one precision and format.
    files[1]["precision"] = "fp32"
    write_json(tmp_path / "manifest.json", {**manifest, "files": files})
    with pytest.raises(EdgeAfError, match="holds 2 fp32 files"):
        edge_af.load(tmp_path)


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({}, "holds 2 int8 files. Name one of them, or choose with `runtime`"),
        ({"precision": "fp32"}, "holds 2 fp32 files. Name one of them, or choose with `runtime`"),
        ({"precision": "int4"}, "holds no int4 file."),
        ({"precision": "fp16", "runtime": "litert"}, "holds no fp16 file for litert."),
        ({"runtime": "torch"}, "holds no file for torch."),
    ],
)
def test_a_choice_that_is_ambiguous_or_missing_lists_the_files(folder: Path, choice: dict[str, str], message: str):
    with pytest.raises(EdgeAfError) as error:
        edge_af.load(folder, **choice)
    first, second = str(error.value).splitlines()
    assert message in first
    assert "fc-late-fusion-fp32.tflite (fp32, litert)" in second and "fc-late-fusion-int8.onnx (int8, onn" in second


@pytest.mark.parametrize(
    ("name", "choice", "message"),
    [
        ("fc-late-fusion-int8.onnx", {"precision": "fp32"}, "int8.onnx: is int8, not fp32"),
        ("fc-late-fusion-int8.onnx", {"runtime": "litert"}, "opens in onnxruntime, not in litert"),
        ("fc-late-fusion-int8.onnx", {"precision": "int9"}, "unknown precision 'int9'. Did you mean 'int8'"),
        ("fc-late-fusion-int8.onnx", {"runtime": "tflite"}, "unknown runtime 'tflite'"),
        ("fc-late-fusion-int8.onnx", {"threads": 0}, "threads=0: expected at least 1"),
        ("absent", {}, "no such file or folder"),
        ("..", {}, "neither a run folder .no run.json. nor an export folder .no manifest.json"),
    ],
)
def test_what_cannot_be_loaded_is_refused(folder: Path, name: str, choice: dict[str, typing.Any], message: str):
    with pytest.raises(EdgeAfError, match=message):
        edge_af.load(folder / name, **choice)


def test_a_file_without_a_manifest_has_no_names_and_no_known_precision(folder: Path, tmp_path: Path):
    lone = shutil.copy(folder / "fc-late-fusion-int8.tflite", tmp_path)
    network = edge_af.load(str(lone))
    assert network.class_names == tuple(f"class {index}" for index in range(30))
    assert network.predict((VISUAL, AUDIO), top=1)[0][0].name.startswith("class ")
    with pytest.raises(EdgeAfError, match="Leave out `precision`"):
        edge_af.load(lone, precision="int8")


def test_a_run_opens_as_fp32(eval_dataset: Dataset, tmp_path: Path):
    import torch
    from tiny_export import CONFIGS

    from edge_af.models.networks import build
    from edge_af.models.run import Run, save_run

    torch.manual_seed(0)
    config = CONFIGS["fc-late-fusion"]
    save_run(tmp_path, Run("tiny", config, 30, 1, 0.5, ["first", ""], "weights-e1.safetensors"), build(config, 30))
    network = edge_af.load(tmp_path, precision="fp32", runtime="torch")
    assert network.class_names[:3] == ("first", "class 1", "class 2")
    assert network.score(eval_dataset.features(slice(3))).shape == (3, 30)
    with pytest.raises(EdgeAfError, match="is fp32, not int8"):
        edge_af.load(tmp_path, precision="int8")


def test_predict_gives_the_best_classes_as_the_command_does(folder: Path, eval_dataset: Dataset):
    network = edge_af.load(folder, runtime="litert")
    features = eval_dataset.features(slice(5))
    found = network.predict(features, top=4)
    command = ["predict", str(network.path), str(eval_dataset.folder), "--videos", "5", "--top", "4", "--json"]
    said = json.loads(click.testing.CliRunner().invoke(cli, command, catch_exceptions=False).stdout)
    assert [video["labels"] for video in said] == [
        [{"class": one.class_index, "name": one.name, "score": round(one.score, 6)} for one in video] for video in found
    ]
    assert [[one.class_index for one in video] for video in found] == top_k(network.score(features), 4).tolist()
    assert [len(video) for video in network.predict(features)] == [3] * 5
    assert len(network.predict(features, top=99)[0]) == 30
    with pytest.raises(EdgeAfError, match="top=0: expected at least 1"):
        network.predict(features, top=0)


def test_equal_scores_come_in_the_order_of_the_classes():
    class Constant:
        runtime, classes, widths, max_batch = "onnxruntime", 4, YOUTUBE8M, None

        def score(self, features: Features):
            return np.tile(np.float32([0.5, 0.75, 0.5, 0.75]), (features.videos, 1))

    network = edge_af.Network(Path("x.onnx"), Constant(), ["a", "", "c"])
    (best, _) = network.predict((VISUAL, AUDIO))
    assert best == [Prediction("class 1", 1, 0.75), Prediction("class 3", 3, 0.75), Prediction("a", 0, 0.5)]


@pytest.mark.parametrize(
    ("features", "message"),
    [
        ((VISUAL[0], AUDIO[0]), r"'visual' is float32 \(1024,\), .*One video is a row: visual\[np.newaxis\]"),
        ((VISUAL, AUDIO[0]), r"'audio' is float32 \(128,\), .*audio\[np.newaxis\]"),
        ((VISUAL[:, :1000], AUDIO), "'visual' has 1000 features per video; the network takes 1024"),
        ((AUDIO, VISUAL), "'visual' has 128 features per video; the network takes 1024"),
        ((VISUAL.astype(np.uint8), AUDIO), r"whole numbers \(uint8\).* dequantize its 8-bit codes"),
        ((VISUAL.astype(np.int64), AUDIO), r"whole numbers \(int64\)"),
        ((VISUAL + 128, AUDIO), "'visual', row 0: holds 128.* dequantize its 8-bit codes"),
        ((VISUAL.astype(object), AUDIO), r"'visual' is object .*Convert it: visual.astype\(np.float32\)"),
        ((VISUAL, AUDIO.astype(bool)), r"'audio' is bool .*Convert it: audio.astype\(np.float32\)"),
        ((VISUAL, AUDIO[:1]), "2 rows in 'visual' and 1 in 'audio'"),
        ((VISUAL[:0], AUDIO[:0]), "holds no videos"),
        ((VISUAL, np.full_like(AUDIO, np.nan)), "'audio', row 0: NaN or infinite"),
        ((VISUAL.tolist(), AUDIO), r"'visual' is list, expected a NumPy array: np.asarray\(visual, np.float32\)"),
        ((VISUAL, None), "'audio' is NoneType, expected a NumPy array"),
        ([VISUAL, AUDIO], r"expected edge_af.Features\(visual, audio\) or a tuple of these arrays, got list"),
        (VISUAL, r"expected edge_af.Features\(visual, audio\) .* got numpy.ndarray"),
        ((VISUAL,), r"expected edge_af.Features\(visual, audio\) .* got a tuple of 1"),
        ({"visual": VISUAL, "audio": AUDIO}, r"expected edge_af.Features\(visual, audio\) .* got dict"),
    ],
)
def test_features_that_cannot_be_scored_are_refused_with_the_fix(folder: Path, features: typing.Any, message: str):
    network = edge_af.load(folder / "fc-late-fusion-fp32.onnx")
    for call in (network.score, network.predict):
        with pytest.raises(EdgeAfError, match=f"features: .*{message}") as error:
            call(features)
        assert len(str(error.value).splitlines()) == 1


def blocks_of_the_page() -> list[str]:
    page = (REPOSITORY / "docs/reference/python-api.md").read_text(encoding="utf-8")
    return re.findall(r"```python\n(.*?)\n```", page, re.DOTALL)


def run_code(blocks: list[str], exports: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run code blocks in one namespace, in a folder with `artifacts/`."""
    (folder / "artifacts").symlink_to(exports)
    monkeypatch.chdir(folder)
    namespace: dict[str, typing.Any] = {"__name__": "__main__"}
    for block in blocks:
        exec(compile(block, "example", "exec"), namespace)


def test_the_page_documents_every_name_and_runs(
    exports: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    page = (REPOSITORY / "docs/reference/python-api.md").read_text(encoding="utf-8")
    public = [name for name in (*vars(edge_af.Network), *Features._fields) if not name.startswith("_")]
    assert {"score", "predict", "visual"} <= set(public)
    for name in (
        *edge_af.__all__,
        *public,
        *typing.get_type_hints(Prediction),
        *typing.get_type_hints(edge_af.Network),
    ):
        assert f"`{name}" in page, name
    run_code(blocks_of_the_page(), exports, tmp_path, monkeypatch)
    said = capsys.readouterr().out
    assert "artifacts/attend-fusion/attend-fusion-int8.onnx 30 ('name of 0'" in said
    assert "(2, 30) float32" in said and "visual[np.newaxis]" in said


def test_the_notebook_is_valid_and_runs_the_same_code(exports: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    notebook = json.loads((REPOSITORY / "docs/reference/python-api.ipynb").read_text(encoding="utf-8"))
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5) and "kernelspec" in notebook["metadata"]
    code = []
    for cell in notebook["cells"]:
        assert set(cell) == {"cell_type", "id", "metadata", "source"} | (
            {"execution_count", "outputs"} if cell["cell_type"] == "code" else set()
        )
        if cell["cell_type"] == "code":
            code.append("".join(cell["source"]))
    assert len({cell["id"] for cell in notebook["cells"]}) == len(notebook["cells"])
    assert code == blocks_of_the_page()
    run_code(code, exports, tmp_path, monkeypatch)
