"""The whole export: files, manifest, ranges. It writes everything or nothing."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from small_networks import CLASSES, CONFIGS, random_network
from torch import nn

from edge_af.artifacts import check_file, checked_files, read_manifest
from edge_af.cli import cli
from edge_af.data import Features
from edge_af.data.batches import split
from edge_af.data.dataset import Dataset, open_dataset
from edge_af.errors import EdgeAfError
from edge_af.export.pipeline import CalibrationData, ExportRequest, export_network
from edge_af.export.ranges import choose_videos, read_ranges
from edge_af.export.recipes import Form, Recipe, load_recipe
from edge_af.metrics import gap_at_20
from edge_af.models.run import Run
from edge_af.runtime import load, score_all
from edge_af.runtime.ort import PAIR_LIMIT
from edge_af.runtime.probe import may_hold_weights_beyond

STATIC = {format: (load_recipe("int8-static"),) for format in ("onnx", "tflite")}


def run_of(model: str, classes: int = CLASSES) -> Run:
    names = [f"name of {index}" for index in range(classes)]
    return Run("small", CONFIGS[model], classes, 1234, 0.3, names, weights="")


def export(network: nn.Module, model: str, out: Path, calibration: CalibrationData | None, **more: object) -> None:
    export_network(
        network,
        run_of(model),
        out,
        ExportRequest(recipes=STATIC, calibration=calibration, cpu="x86-64", **more),  # type: ignore[arg-type]
    )


def test_an_export_holds_four_checked_files(network: nn.Module, model: str, dataset: Dataset, tmp_path: Path) -> None:
    out = tmp_path / "artifacts"
    rows = choose_videos(np.arange(dataset.videos), 128, seed=0)
    export(network, model, out, CalibrationData(dataset, rows, 0))
    expected = {f"{model}-{precision}.{suffix}" for precision in ("fp32", "int8") for suffix in ("onnx", "tflite")}
    assert {path.name for path in out.iterdir()} == expected | {"manifest.json", "ranges.json", "README.md"}
    manifest = read_manifest(out)
    assert (manifest.model, manifest.classes, len(manifest.class_names)) == (model, CLASSES, CLASSES)
    assert manifest.calibration is not None
    assert (manifest.calibration.videos, manifest.calibration.method) == (128, "mse")
    assert manifest.calibration.sha256 == dataset.sha256(rows) == read_ranges(out / "ranges.json").sha256
    layers = sum(isinstance(module, nn.Linear) for module in network.modules())
    visual, audio = dataset.features(slice(0, 3))
    for file in manifest.files:
        path = check_file(out, file)
        assert list(checked_files(path.parent, name=path.name)) == [(manifest, file)]
        assert path.stat().st_size == file.size_bytes
        integer = file.precision == "int8"
        assert (file.integer_layers, file.float_layers) == ((layers, 0) if integer else (0, layers))
        assert (file.integer_share, file.undelegated) == (float(integer), [])
        assert file.recipe == ("int8-static" if integer else None)
        assert file.cpu == ("x86-64" if integer and file.format == "onnx" else None)
        assert file.max_difference is not None
        assert file.max_difference < (0.25 if integer else 1e-5)
        scores = load(path).score(Features(visual, audio))
        assert scores.shape == (3, CLASSES)
    # Paths are relative to the folder, so the folder can be moved.
    shutil.move(out, tmp_path / "moved")
    assert list(checked_files(tmp_path / "moved", name=f"{model}-int8.onnx"))


@pytest.mark.slow
def test_the_order_of_calibration_videos_changes_no_byte(
    network: nn.Module, model: str, dataset: Dataset, tmp_path: Path
) -> None:
    rows = choose_videos(np.arange(dataset.videos), 90, seed=4)
    for name, order in {"one": rows, "two": np.random.default_rng(1).permutation(rows)}.items():
        export(network, model, tmp_path / name, CalibrationData(dataset, order, 4))
    one, two = ({path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in ("one", "two"))
    manifests = [json.loads(files.pop("manifest.json")) for files in (one, two)]
    del one["README.md"], two["README.md"]  # The model card shows the manifest's figures.
    assert one == two
    for manifest in manifests:
        for file in manifest["files"]:
            # The order determines which videos are compared.
            file.pop("max_difference")
    assert manifests[0] == manifests[1]


def test_nothing_is_left_when_an_export_fails(dataset: Dataset, tmp_path: Path) -> None:
    shutil.copytree(dataset.folder, tmp_path / "bad")
    audio = np.load(tmp_path / "bad" / "audio.npy")
    audio[80, 0] = np.inf
    np.save(tmp_path / "bad" / "audio.npy", audio)
    bad = CalibrationData(open_dataset(tmp_path / "bad"), np.arange(100), 0)
    with pytest.raises(EdgeAfError, match="'audio' is not finite"):
        export(random_network("fc-late-fusion"), "fc-late-fusion", tmp_path / "out", bad)
    assert {path.name for path in tmp_path.iterdir()} == {"bad"}


@pytest.mark.slow
def test_a_network_that_gives_nan_is_not_exported(dataset: Dataset, tmp_path: Path) -> None:
    network = random_network("fc-late-fusion")
    nn.init.constant_(network.head.bias, float("nan"))  # type: ignore[union-attr, arg-type]
    with pytest.raises(EdgeAfError, match="not finite"):
        export(network, "fc-late-fusion", tmp_path / "out", CalibrationData(dataset, np.arange(64), 0))
    assert not list(tmp_path.iterdir())


def test_data_of_other_classes_and_missing_data_are_refused(dataset: Dataset, tmp_path: Path) -> None:
    network, data = random_network("fc-late-fusion"), CalibrationData(dataset, np.arange(10), 0)
    with pytest.raises(EdgeAfError, match="30 classes, but the network has 31"):
        export_network(
            network,
            run_of("fc-late-fusion", 31),
            tmp_path / "out",
            ExportRequest(recipes=STATIC, calibration=data, cpu="x86-64"),
        )
    with pytest.raises(EdgeAfError, match="--calibration-data"):
        export(network, "fc-late-fusion", tmp_path / "out", None)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_an_existing_export_is_kept_unless_told(tmp_path: Path) -> None:
    network, out = random_network("fc-late-fusion"), tmp_path / "out"

    def names() -> set[str]:
        return {path.name for path in out.iterdir()}

    export_network(network, run_of("fc-late-fusion"), out, ExportRequest(cpu="x86-64"))
    exported = names()
    with pytest.raises(EdgeAfError, match="--overwrite"):
        export_network(network, run_of("fc-late-fusion"), out, ExportRequest(cpu="x86-64"))
    export_network(
        network, run_of("fc-late-fusion"), out, ExportRequest(formats=("onnx",), cpu="x86-64", overwrite=True)
    )
    assert names() == exported - {"fc-late-fusion-fp32.tflite"}


def test_overwriting_deletes_nothing_foreign(tmp_path: Path) -> None:
    thesis = tmp_path / "out" / "thesis.txt"
    thesis.parent.mkdir()
    thesis.write_text("the only copy")
    network = random_network("fc-late-fusion")
    with pytest.raises(EdgeAfError, match=r"holds 'thesis.txt', which --overwrite would delete"):
        export_network(network, run_of("fc-late-fusion"), thesis.parent, ExportRequest(cpu="x86-64", overwrite=True))
    assert thesis.read_text() == "the only copy"


def run_verb(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    cli.main(["export", *map(str, arguments)], standalone_mode=False)
    return capsys.readouterr().out


@pytest.mark.slow
def test_the_verb_prints_one_json_object(
    make_run: Callable[..., Path], dataset: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    flags = ("--int8", "--calibration-data", dataset.folder, "--calibration-videos", 64, "--cpu", "arm64", "--json")
    value = json.loads(run_verb(capsys, make_run(), "--out", out, *flags))
    assert [file["path"] for file in value["files"]] == [
        f"fc-late-fusion-{precision}.{suffix}" for precision in ("fp32", "int8") for suffix in ("onnx", "tflite")
    ]
    assert value["files"][2]["cpu"] == "arm64"
    assert value["peak_memory_bytes"] > 0
    assert value["seconds"] > 0
    assert "class_names" not in value
    assert read_manifest(out).class_names[3] == "name of 3"


@pytest.mark.slow
def test_the_verb_takes_a_recipe_for_each_format(
    make_run: Callable[..., Path], dataset: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    flags = ("--int8", "--recipe", "tflite=int8-dynamic", "--calibration-data", dataset.folder)
    text = run_verb(capsys, make_run("attend-fusion"), "--out", out, *flags)
    assert {(file.format, file.recipe) for file in read_manifest(out).files if file.recipe} == {
        ("onnx", "int8-static"),
        ("tflite", "int8-dynamic"),
    }
    assert "attend-fusion-int8.tflite" in text
    assert "peak memory" in text


@pytest.mark.slow
@pytest.mark.parametrize(("cpu", "wide"), [("x86-64", False), pytest.param("arm64", True, marks=pytest.mark.slow)])
def test_pairs_of_products_fit_16_bits_in_files_for_x86_64(
    make_run: Callable[..., Path], tmp_path: Path, cpu: str, wide: bool
) -> None:
    """Sums then fit in any session on any processor. Files for ARM and weight-only files use all 8 bits."""
    flags = ["--format", "onnx", "--int4", "--recipe", "int8-dynamic", "--recipe", "int8-weights", "--cpu", cpu]
    cli.main(["export", str(make_run("attend-fusion")), "--out", str(tmp_path / "out"), *flags], standalone_mode=False)
    assert {path.name: may_hold_weights_beyond(path, PAIR_LIMIT) for path in tmp_path.glob("out/*int*.onnx")} == {
        "attend-fusion-int8-dynamic.onnx": wide,
        "attend-fusion-int8-weights.onnx": True,
        # The attention's inputs are not a multiple of the block size, so its weights are INT8.
        "attend-fusion-int4.onnx": wide,
    }


@pytest.mark.slow
def test_flags_and_recipes_make_a_file_each(
    make_run: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--int4", "--fp16", "--recipe", "int8-dynamic", "--recipe", "tflite=int8-weights", "--cpu", "x86-64"]
    run = make_run("fc-late-fusion")
    for name in ("one", "two"):
        text = run_verb(capsys, run, "--out", tmp_path / name, *flags)
    files = {file.path: file for file in read_manifest(tmp_path / "one").files}
    assert {path.removeprefix("fc-late-fusion-") for path in files} == {
        *("fp32.onnx", "fp32.tflite", "int4.onnx", "int4.tflite", "fp16.onnx", "fp16.tflite"),
        # Two files of one precision and format are named after their recipes.
        *("int8.onnx", "int8-dynamic.tflite", "int8-weights.tflite"),
    }
    assert files["fc-late-fusion-int4.tflite"].recipe == "int4-block32-dynamic"
    assert files["fc-late-fusion-int8-weights.tflite"].integer_share == 0
    assert "100.0%" in text
    # Both exports have the same bytes.
    one, two = ({path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in ("one", "two"))
    assert one == two


@pytest.mark.slow
def test_a_flag_says_which_recipe_it_picked(
    make_run: Callable[..., Path], dataset: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--out", str(tmp_path / "out"), "--int8", "--calibration-data", str(dataset.folder)]
    cli.main(["export", str(make_run()), *flags], standalone_mode=False)
    assert "--int8: int8-static for onnx, int8-dynamic for tflite" in capsys.readouterr().err


@pytest.mark.slow
def test_int8_and_int4_of_a_linear_network_lose_little_on_real_videos(
    yt8m: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Train on 3,450 videos, measure GAP@20 on 1,188. With a single layer, no other layer can compensate errors."""
    for name, parts in (("train", (0, 1, 2)), ("eval", (3,))):
        sources = [str(yt8m / f"rounded-2018/eval/part0{part}.tfrecord.gz") for part in parts]
        arguments = ["data", "prepare", *sources, "--classes", "3862", "--out", str(tmp_path / name)]
        cli.main(arguments, standalone_mode=False)
    arguments = ["train", "--model", "fc-late-fusion", "--preset", "linear", "--epochs", "4", "--lr", "3e-3"]
    cli.main([*arguments, "--data", str(tmp_path / "train"), "--out", str(tmp_path / "run")], standalone_mode=False)
    out = tmp_path / "out"
    run_verb(capsys, tmp_path / "run", "--out", out, "--int8", "--int4", "--calibration-data", tmp_path / "train")
    assert {file.recipe for file in read_manifest(out).files if file.precision == "int4"} == {
        "int4-block32-dynamic-gptq-corrected"
    }
    data = open_dataset(tmp_path / "eval")
    visual, audio = data.features(slice(None))
    labels = data.labels(slice(None))
    gap = {path.name: gap_at_20(score_all(load(path), Features(visual, audio)), labels) for path in out.glob("fc-*")}
    for name, value in gap.items():
        lost = gap["fc-late-fusion-fp32.onnx"] - value
        assert lost <= (0.001 if "int4" in name else 0.0005), (name, lost)


@pytest.mark.slow
def test_int4_is_rounded_on_videos_where_there_are_some(
    make_run: Callable[..., Path], dataset: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ("--int4", "--format", "tflite", "--sensitivity-videos", "0")
    run = make_run("attend-fusion")
    run_verb(capsys, run, "--out", tmp_path / "without", *flags)
    run_verb(capsys, run, "--out", tmp_path / "with", *flags, "--calibration-data", dataset.folder)
    recipes = {name: read_manifest(tmp_path / name).files[-1].recipe for name in ("without", "with")}
    assert recipes == {"without": "int4-block32-dynamic", "with": "int4-block64-dynamic-gptq-corrected"}


@pytest.mark.slow
def test_integer_inputs_and_outputs(
    make_run: Callable[..., Path], dataset: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, out = make_run("attend-fusion"), tmp_path / "out"
    flags = ("--out", out, "--io", "int8", "--calibration-data", dataset.folder)
    run_verb(capsys, run, *flags, "--int8", "--cpu", "x86-64")
    assert {(file.format, file.recipe, file.io, file.integer_share) for file in read_manifest(out).files} == {
        *(("onnx", None, "float32", 0.0), ("tflite", None, "float32", 0.0)),
        *(("onnx", "int8-static", "float32", 1.0), ("tflite", "int8-static", "int8", 1.0)),
    }
    visual, audio = dataset.features(slice(0, 20))
    one, two = (load(out / f"attend-fusion-{name}.tflite").score(Features(visual, audio)) for name in ("fp32", "int8"))
    assert two.dtype == np.float32
    assert 0 < np.abs(one - two).mean() < 0.04
    with pytest.raises(EdgeAfError, match=r"needs static activations"):
        run_verb(capsys, run, *flags, "--overwrite", "--recipe", "int8-dynamic")


@pytest.mark.slow
def test_fp32_of_one_format_needs_no_data(
    make_run: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_verb(capsys, make_run(), "--out", tmp_path / "out", "--format", "tflite")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        *("manifest.json", "README.md", "fc-late-fusion-fp32.tflite")
    }
    assert read_manifest(tmp_path / "out").calibration is None


@pytest.mark.slow
def test_dynamic_int8_needs_no_data(
    make_run: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_verb(capsys, make_run(), "--out", tmp_path / "out", "--int8", "--recipe", "int8-dynamic")
    manifest = read_manifest(tmp_path / "out")
    assert manifest.calibration is None
    assert [file.recipe for file in manifest.files] == [None, None, "int8-dynamic", "int8-dynamic"]


@pytest.mark.slow
def test_held_out_videos_are_not_calibrated_on(
    make_run: Callable[..., Path], dataset: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trained = {
        "data": {"name": dataset.folder.name, "videos": dataset.videos, "classes": CLASSES},
        "options": {"held_out": 0.3, "seed": 5},
    }
    flags = ("--int8", "--calibration-data", dataset.folder, "--calibration-videos", 10_000, "--format", "onnx")
    run_verb(capsys, make_run(training=trained), "--out", tmp_path / "out", *flags)
    rows, held_out = split(dataset.videos, 0.3, 5)
    calibration = read_manifest(tmp_path / "out").calibration
    assert calibration is not None
    assert calibration.videos == len(rows) == dataset.videos - len(held_out)
    assert calibration.sha256 == dataset.sha256(rows)


@pytest.mark.slow
def test_only_the_data_of_the_run_is_calibrated_on(
    make_run: Callable[..., Path],
    dataset: Dataset,
    eval_dataset: Dataset,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    # The recorded number of videos is the wrong dataset's, so only the fingerprint identifies the data.
    trained = {
        "data": {"name": "train", "videos": eval_dataset.videos, "fingerprint": dataset.fingerprint()},
        "options": {"held_out": 0.3, "seed": 5},
    }
    run, out = make_run(training=trained), tmp_path / "out"
    flags = ("--out", out, "--int8", "--calibration-videos", 10_000, "--format", "onnx", "--calibration-data")
    with pytest.raises(EdgeAfError, match=r"never from evaluation videos\.\nName that data, or add --any") as caught:
        run_verb(capsys, run, *flags, eval_dataset.folder)
    assert "which is train;" in str(caught.value)
    assert not out.exists()
    run_verb(capsys, run, *flags, eval_dataset.folder, "--any-calibration-data")
    calibration = read_manifest(out).calibration
    assert calibration is not None and calibration.videos == eval_dataset.videos
    run_verb(capsys, run, "--overwrite", *flags, dataset.folder)
    calibration = read_manifest(out).calibration
    assert calibration is not None and calibration.sha256 == dataset.sha256(split(dataset.videos, 0.3, 5)[0])


@pytest.mark.slow
def test_recipes_of_the_same_name_are_two_recipes(
    make_run: Callable[..., Path], dataset: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two `mine.yaml` differ only in the order of their patterns, of which the last match applies."""
    recipe = "description: Mine.\nweights: int8\nactivations: dynamic\nlayers:\n"
    patterns = {
        "onnx": ['"*": float', '"*head": {activations: dynamic}'],
        "tflite": ['"*head": {activations: dynamic}', '"*": float'],
    }
    flags = []
    for format, lines in patterns.items():
        path = tmp_path / format / "mine.yaml"
        path.parent.mkdir()
        path.write_text(recipe + "".join(f"  {line}\n" for line in lines))
        flags += ["--recipe", f"{format}={path}"]
    run_verb(capsys, make_run(), "--out", tmp_path / "out", "--int8", *flags)
    files = read_manifest(tmp_path / "out").files
    assert {file.format: file.integer_layers for file in files if file.recipe} == {"onnx": 1, "tflite": 0}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--int8"], "--calibration-data"),
        (["--recipe", "int8-static"], "int8-static finds activation ranges"),
        (["--int8", "--recipe", "int8-dinamic"], "Did you mean 'int8-dynamic'"),
        (["--int8", "--recipe", "tflit=int8-dynamic"], "none of the formats"),
        (["--int8", "--calibration-data", "nowhere"], "nowhere"),
        (["--format", "tflit"], "tflite"),
        (["--io", "int8"], "add --int8"),
        (["--io", "int8", "--fp16"], "needs static activations"),
    ],
)
def test_slips_are_named_and_leave_nothing(
    make_run: Callable[..., Path], tmp_path: Path, flags: list[str], message: str
) -> None:
    import click

    run = make_run()
    with pytest.raises((EdgeAfError, click.ClickException)) as caught:
        cli.main(["export", str(run), "--out", str(tmp_path / "out"), *flags], standalone_mode=False)
    text = caught.value.format_message() if isinstance(caught.value, click.ClickException) else str(caught.value)
    assert message in text
    assert [path.name for path in tmp_path.iterdir()] == [run.name]


def test_a_folder_that_is_no_run_is_named(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(EdgeAfError, match=r"empty: not a run"):
        cli.main(["export", str(tmp_path / "empty"), "--out", str(tmp_path / "out")], standalone_mode=False)


@pytest.mark.slow
def test_ranges_of_one_export_serve_the_next_without_videos(
    make_run: Callable[..., Path], dataset: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, flags = make_run("attend-fusion"), ("--recipe", "int8-static")
    run_verb(capsys, run, "--out", tmp_path / "one", *flags, "--calibration-data", dataset.folder)
    run_verb(capsys, run, "--out", tmp_path / "two", *flags, "--ranges", tmp_path / "one" / "ranges.json")
    one, two = ({path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in ("one", "two"))
    # Sensitivity cannot be measured without videos.
    assert set(one) - set(two) == {"sensitivity.json"}
    for name in set(two) - {"manifest.json", "README.md"}:
        assert one[name] == two[name], name
    assert read_manifest(tmp_path / "two").calibration == read_manifest(tmp_path / "one").calibration


@pytest.mark.slow
def test_ranges_of_another_network_are_refused(
    make_run: Callable[..., Path], dataset: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ("--recipe", "onnx=int8-static", "--format", "onnx")
    run_verb(capsys, make_run("attend-fusion"), "--out", tmp_path / "one", *flags, "--calibration-data", dataset.folder)
    ranges = tmp_path / "one" / "ranges.json"
    with pytest.raises(EdgeAfError, match=r"ranges.json: holds no range of .* of another network"):
        run_verb(capsys, make_run("fc-late-fusion"), "--out", tmp_path / "two", *flags, "--ranges", ranges)
    value = json.loads(ranges.read_text())
    value["network_sha256"] = "0" * 64
    ranges.write_text(json.dumps(value))
    with pytest.raises(EdgeAfError, match="other weights"):
        run_verb(capsys, tmp_path / "run-attend-fusion", "--out", tmp_path / "two", *flags, "--ranges", ranges)
    assert not (tmp_path / "two").exists()


@pytest.mark.slow
def test_rounding_by_inputs_does_not_depend_on_the_order_of_videos(dataset: Dataset, tmp_path: Path) -> None:
    form = Form("int4", "dynamic", 32, "gptq", True)
    recipe = {format: (Recipe("test", "", form),) for format in ("onnx", "tflite")}
    rows, network = np.arange(100), random_network("fc-late-fusion")
    for name, order in {"one": rows, "two": rows[::-1]}.items():
        calibration = CalibrationData(dataset, order, 0)
        export_network(
            network,
            run_of("fc-late-fusion"),
            tmp_path / name,
            ExportRequest(recipes=recipe, calibration=calibration, cpu="x86-64", sensitivity_videos=50),
        )
    for path in (tmp_path / "one").iterdir():
        if path.name not in ("manifest.json", "README.md"):
            assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes(), path.name
    with pytest.raises(EdgeAfError, match="pass --calibration-data"):
        export_network(
            network, run_of("fc-late-fusion"), tmp_path / "three", ExportRequest(recipes=recipe, cpu="x86-64")
        )
