"""`edge-af bench`: bad input is refused before measuring, and a failure in one row leaves the others intact."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from benches import interrupt_after, run_bench

from edge_af.bench import local
from edge_af.bench.session import OtherBench
from edge_af.bench.subject import subjects_of
from edge_af.data.dataset import Dataset, open_dataset
from edge_af.errors import EdgeAfError
from edge_af.metrics import evaluate
from edge_af.records.results import Method, Results, read_results, write_results
from edge_af.report.rows import compare
from edge_af.runtime import load, score_all

SHORT = Method(inferences=5, warm_up=1)


def edge_af(*arguments: object, **options: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "edge_af", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, **options)  # type: ignore[call-overload]


def refused(*arguments: object, out: Path) -> str:
    """Run a command that must end with exit code 2, print no result and write no file; return its one or two lines."""
    done = edge_af(*arguments, "--out", out)
    assert done.returncode == 2, done.stderr
    assert done.stdout == "" and not out.exists() and not list(out.parent.glob(f".{out.name}*"))
    lines = [line for line in done.stderr.splitlines() if not line.startswith("no --data")]
    assert 1 <= len(lines) <= 2 and lines[0].startswith("edge-af: ")
    return "\n".join(lines)


def test_weights_that_the_disk_has_no_room_for_are_told(exports: Path, monkeypatch: pytest.MonkeyPatch):
    """Without packed weights the memory figures are too high, so a warning says so."""
    path = exports / "attend-fusion/attend-fusion-int8.tflite"
    monkeypatch.setattr(local.shutil, "disk_usage", lambda folder: SimpleNamespace(free=999))
    results = run_bench(subjects_of([path]), None, method=dataclasses.replace(SHORT, packed=True))
    (row,) = results.rows
    assert row.status == "ok" and row.latency_ms is not None
    (warning,) = (text for text in results.warnings if "packed" in text)
    assert "the disk has 0 MB left" in warning and row.file.split("-int8")[0] in warning.lower().replace(" ", "-")


def test_the_whole_comparison(exports: Path, eval_dataset: Dataset, tmp_path: Path):
    out, markdown, page = tmp_path / "results.json", tmp_path / "table.md", tmp_path / "page.html"
    done = edge_af(
        "bench", exports / "attend-fusion", exports / "fc-late-fusion", "--data", eval_dataset.folder, "--quick",
        "--out", out, "--markdown", markdown, "--html", page,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    results = read_results(out)
    assert results.quick and results.inputs == "videos" and results.rows_planned == len(results.rows) == 8
    assert {(row.model, row.runtime, row.precision) for row in results.rows} == {
        (model, runtime, precision)
        for model in ("attend-fusion", "fc-late-fusion")
        for runtime in ("onnxruntime", "litert")
        for precision in ("fp32", "int8")
    }
    assert all(row.status == "ok" and row.videos == eval_dataset.videos for row in results.rows)
    assert (results.baseline.model, results.baseline.precision) == ("fc-late-fusion", "fp32")
    for row in results.rows:
        path = exports / row.artifact / row.file
        assert row.size_bytes == path.stat().st_size
        assert row.latency_ms is not None and row.latency_ms.n <= 200
    # The worker's accuracy equals the accuracy measured in this process.
    row = next(row for row in results.rows if row.runtime == "litert" and row.precision == "int8")
    scorer = load(exports / row.artifact / row.file)
    labels = eval_dataset.labels(slice(None))
    here = evaluate(score_all(scorer, eval_dataset.stored), labels, 0.25)
    assert row.gap_at_20 == pytest.approx(here.gap_at_20, abs=1e-9) and row.f1_micro == pytest.approx(here.f1_micro)
    for row in results.rows:
        assert row.weight_bytes is not None and 0.5 * row.size_bytes < row.weight_bytes <= row.size_bytes
        assert (
            row.limit_ms
            and row.limit_share
            and row.limit_ms == pytest.approx(row.limit_share * row.latency_ms.p50, rel=0.02)
        )
        assert row.bare_memory_bytes and row.runtime_memory_bytes and row.bare_memory_bytes > 1e7
        assert row.videos_per_s == pytest.approx(1e3 / row.latency_ms.mean, rel=0.01)
        low, high = row.gap_at_20_interval
        assert low < row.gap_at_20 < high and row.f1_micro_interval[0] <= row.f1_micro <= row.f1_micro_interval[1]
        delta = row.gap_at_20_delta
        assert (delta is None) == (row.precision == "fp32")
        assert delta is None or delta.low <= delta.value <= delta.high
    assert results.method.packed and results.conditions is not None and results.data.fingerprint
    assert all(one.bytes_per_s > 1e8 for one in results.bandwidth) and results.bandwidth
    gallery = results.gallery
    assert gallery is not None and len(gallery.videos) == 24
    names = eval_dataset.class_names
    for video in gallery.videos:
        index = eval_dataset.ids.tolist().index(video.id.encode())
        true = eval_dataset.labels(np.array([index]))[0]
        assert video.labels == [names[c] for c in np.nonzero(true)[0]]
        assert set(video.predictions) == {row.key for row in results.rows}
        for best in video.predictions.values():
            assert len(best) == 3 and [one.hit for one in best] == [one.name in video.labels for one in best]
            assert best[0].score >= best[1].score >= best[2].score
    # The folder for continuing is removed at the end.
    assert not (tmp_path / ".results.json.bench").exists()
    assert "FC Late Fusion tiny" in done.stdout and "GAP@20" in done.stdout
    assert markdown.read_text().count("| **") == 8
    assert page.read_text().startswith("<!doctype html>")


@pytest.mark.slow
def test_json_is_the_results_file_and_nothing_else(exports: Path, tmp_path: Path):
    out = tmp_path / "results.json"
    file = exports / "attend-fusion/attend-fusion-int8.tflite"
    done = edge_af(
        "bench", file, file, "--runs", 3, "--rounds", 1, "--threads", 1, "--threads", 2, "--json", "--out", out
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == json.loads(out.read_text())
    results = read_results(out)
    assert [(row.file, row.threads) for row in results.rows] == [(file.name, 1), (file.name, 2)]
    assert results.data is None and results.inputs == "random" and "random" in done.stderr
    assert all(row.gap_at_20 is None and row.latency_ms and row.latency_ms.n == 3 for row in results.rows)


def test_a_changed_file_is_refused_before_anything_is_measured(own_exports: Path, tmp_path: Path):
    path = own_exports / "fc-late-fusion/fc-late-fusion-int8.tflite"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    for named in (own_exports, path):
        assert "fc-late-fusion-int8.tflite: SHA-256" in refused("bench", named, "--quick", out=tmp_path / "r.json")


@pytest.mark.parametrize("suffix", ["onnx", "tflite"])
def test_what_is_no_model_is_refused_even_if_the_manifest_vouches_for_it(
    own_exports: Path, tmp_path: Path, suffix: str
):
    folder = own_exports / "attend-fusion"
    path = folder / f"attend-fusion-fp32.{suffix}"
    path.write_bytes(np.random.default_rng(1).bytes(3000))
    _vouch(path)
    assert f"attend-fusion-fp32.{suffix}: not a" in refused("bench", folder, out=tmp_path / "r.json")


@pytest.mark.parametrize(
    "prepare, message",
    [
        (
            lambda folder: (folder / "attend-fusion-fp32.onnx").unlink(),
            "attend-fusion-fp32.onnx: named in manifest.json but",
        ),
        (lambda folder: (folder / "manifest.json").unlink(), "no manifest.json here"),
        (lambda folder: (folder / "manifest.json").write_text("{"), "manifest.json: cannot read"),
        (lambda folder: (folder / "manifest.json").write_text("[]"), "manifest.json: schema_version None"),
    ],
)
def test_a_folder_that_is_not_whole_is_refused(own_exports: Path, tmp_path: Path, prepare, message: str):
    folder = own_exports / "attend-fusion"
    prepare(folder)
    assert message in refused("bench", folder, out=tmp_path / "r.json")


@pytest.mark.slow
def test_other_bad_input_is_refused(exports: Path, dataset: Dataset, tmp_path: Path):
    out = tmp_path / "r.json"
    folder = exports / "attend-fusion"
    lone = Path(shutil.copy(folder / "attend-fusion-fp32.onnx", tmp_path))
    assert "no manifest.json beside it lists this file" in refused("bench", lone, out=out)
    assert "no such file or folder" in refused("bench", tmp_path / "absent", out=out)
    assert "not a prepared dataset" in refused("bench", folder, "--data", folder, out=out)
    assert "cannot write here" in refused("bench", folder, out=lone / "r.json")
    file = folder / "attend-fusion-fp32.onnx"
    assert "none of the files opens in litert" in refused("bench", file, "--runtime", "litert", out=out)


def test_data_of_other_classes_without_labels_or_with_nan_is_refused_before_anything_is_measured(
    exports: Path, eval_dataset: Dataset, tmp_path: Path
):
    folder = Path(shutil.copytree(eval_dataset.folder, tmp_path / "data"))
    visual = np.load(folder / "visual.npy")
    visual[17, 3] = np.nan
    np.save(folder / "visual.npy", visual)
    message = refused("bench", exports, "--data", folder, out=tmp_path / "r.json")
    assert "array 'visual', row 17: NaN" in message
    bare = Path(shutil.copytree(eval_dataset.folder, tmp_path / "bare"))
    np.save(bare / "label_values.npy", np.zeros(0, np.uint16))
    np.save(bare / "label_offsets.npy", np.zeros(eval_dataset.videos + 1, np.int64))
    assert "has a label" in refused("bench", exports, "--data", bare, out=tmp_path / "r.json")
    index = json.loads((folder / "index.json").read_text())
    (folder / "index.json").write_text(json.dumps({**index, "classes": 31}))
    message = refused("bench", exports, "--data", folder, out=tmp_path / "r.json")
    assert "scores 30 classes" in message and "has 31" in message


@pytest.mark.slow
def test_a_missing_runtime_is_a_row_and_the_others_go_on(
    exports: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "ai_edge_litert.py").write_text("raise ImportError('not for this processor')")
    (tmp_path / "tflite_runtime.py").write_text("raise ImportError('nor this')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    results = run_bench(subjects_of([exports / "attend-fusion"]), None, method=SHORT)
    by_runtime = {
        runtime: [row for row in results.rows if row.runtime == runtime] for runtime in ("onnxruntime", "litert")
    }
    assert [row.status for row in by_runtime["onnxruntime"]] == ["ok", "ok"]
    assert [row.status for row in by_runtime["litert"]] == ["missing-runtime"] * 2
    assert "not for this processor" in (by_runtime["litert"][0].reason or "")
    assert all(row.size_bytes and row.params for row in by_runtime["litert"])


@pytest.mark.slow
def test_nothing_measured_at_all_is_no_success(exports: Path, tmp_path: Path):
    (tmp_path / "onnxruntime.py").write_text("raise ImportError('broken wheel')")
    out = tmp_path / "r.json"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), os.getcwd()])}  # noqa: PTH109
    done = edge_af("bench", exports, "--runtime", "onnxruntime", "--rounds", 1, "--out", out, env=environment)
    assert done.returncode == 2 and "nothing could be measured" in done.stderr
    assert {row.status for row in read_results(out).rows} == {"missing-runtime"}
    assert "broken wheel" in done.stdout


@pytest.mark.slow
def test_rows_are_saved_as_they_come(exports: Path):
    saved: list[Results] = []
    run_bench(subjects_of([exports / "attend-fusion"], ("litert",)), None, method=SHORT, on_saved=saved.append)
    assert [len(results.rows) for results in saved] == [1, 2, 2]
    assert [results.is_complete for results in saved] == [False, True, True]


@pytest.mark.slow
def test_an_interruption_keeps_the_finished_rows_and_leaves_no_process(exports: Path, tmp_path: Path):
    out = tmp_path / "results.json"
    # The first row times out soon; the interrupt arrives during the second.
    arguments = [exports / "attend-fusion", "--runtime", "litert", "--runs", 100_000_000, "--timeout", 5, "--out", out]
    command = [sys.executable, "-m", "edge_af", "bench", *map(str, arguments)]
    # The tests may run in the background of a shell, which ignores SIGINT, and children inherit that.
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    _wait_for(out.exists)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    _wait_for(lambda: children.read_text().split() != [])
    worker = int(children.read_text().split()[0])
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=60)
    assert process.returncode == 130
    assert f"1 finished rows are kept in {out}" in told and "Traceback" not in told
    results = read_results(out)
    assert (len(results.rows), results.rows_planned) == (1, 2) and results.rows[0].status == "timeout"
    _wait_for(lambda: not Path(f"/proc/{worker}").exists())


@pytest.mark.slow
def test_a_killed_bench_takes_its_worker_with_it(exports: Path, tmp_path: Path):
    arguments = [exports / "attend-fusion", "--runtime", "litert", "--runs", 100_000_000, "--out", tmp_path / "r.json"]
    process = subprocess.Popen(
        [sys.executable, "-m", "edge_af", "bench", "--no-packed", *map(str, arguments)], stderr=subprocess.DEVNULL
    )
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    workers: list[Path] = []

    def measures() -> bool:
        # Other children come first: git, the bandwidth measurement, the worker with the empty model.
        for child in children.read_text().split():
            with contextlib.suppress(OSError):
                if "attend-fusion-fp32.tflite" in Path(f"/proc/{child}/maps").read_text():
                    workers.append(Path(f"/proc/{child}"))
        return bool(workers)

    _wait_for(measures)
    worker = workers[0]
    process.kill()
    process.wait()
    _wait_for(lambda: not worker.exists() or "Z" in (worker / "stat").read_text().split()[2])


def _wait_for(condition, seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.05)


def _vouch(path: Path) -> None:
    """Update a file's checksum in its manifest."""
    import hashlib

    manifest = json.loads((path.parent / "manifest.json").read_text())
    for file in manifest["files"]:
        if file["path"] == path.name:
            file["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    (path.parent / "manifest.json").write_text(json.dumps(manifest))


@pytest.mark.slow
def test_the_baseline_is_the_largest_networks_fp32(exports: Path):
    quantized = [exports / f"{model}/{model}-int8.onnx" for model in ("attend-fusion", "fc-late-fusion")]
    small = exports / "attend-fusion/attend-fusion-fp32.onnx"
    results = run_bench(subjects_of([*quantized, small]), None, method=SHORT)
    assert (results.baseline.model, results.baseline.precision) == ("attend-fusion", "fp32")
    with pytest.raises(EdgeAfError, match="no such folder"):
        open_dataset(exports / "absent")


@pytest.mark.slow
def test_folders_of_the_same_name_stay_two_networks(exports: Path, tmp_path: Path):
    """Otherwise both would be compared with the FP32 file of the first."""
    for path in ("old", "new", "new/deeper"):
        shutil.copytree(exports / "attend-fusion", tmp_path / path / "attend-fusion")
    paths = [tmp_path / "old/attend-fusion", tmp_path / "new/attend-fusion", exports / "fc-late-fusion"]
    subjects = subjects_of(paths, ("litert",))
    names = ["old/attend-fusion", "new/attend-fusion", "fc-late-fusion"]
    assert [subject.artifact for subject in subjects] == [name for name in names for _ in ("fp32", "int8")]
    results = run_bench(subjects, None, method=SHORT)
    lines = compare([results])
    assert len({line.network for line in lines}) == 3
    assert all(line.fp32 is not None and line.fp32.artifact == line.row.artifact for line in lines)
    assert {line.row.artifact for line in lines if line.is_baseline} == {"fc-late-fusion"}
    deeper = subjects_of([tmp_path / "new/attend-fusion", tmp_path / "new/deeper/attend-fusion"], ("litert",))
    assert [subject.artifact for subject in deeper[::2]] == ["new/attend-fusion", "deeper/attend-fusion"]
    assert {subject.artifact for subject in subjects_of(paths[:1])} == {"attend-fusion"}


@pytest.mark.slow
def test_rounds_add_up_and_batches_are_rows(exports: Path, eval_dataset: Dataset):
    file = exports / "attend-fusion/attend-fusion-int8.tflite"
    method = Method(inferences=10, warm_up=1, rounds=4, packed=True)
    results = run_bench(subjects_of([file]), eval_dataset, batches=(1, 8), method=method)
    assert results.is_complete and [row.batch for row in results.rows] == [1, 8]
    for row in results.rows:
        assert row.status == "ok" and row.rounds == [3, 3, 2, 2]
        assert row.latency_ms is not None and row.latency_raw_us is not None
        assert row.latency_ms.n == len(row.latency_raw_us) == 10
        assert row.latency_ms.p50 == pytest.approx(np.median(row.latency_raw_us) / 1e3)
        assert row.videos_per_s == pytest.approx(1e3 * row.batch / row.latency_ms.mean, rel=0.01)
    # Accuracy does not depend on the batch size.
    assert results.rows[0].gap_at_20 is not None
    assert results.rows[0].gap_at_20_interval == results.rows[1].gap_at_20_interval


@pytest.mark.slow
def test_an_interrupted_bench_goes_on_and_what_was_measured_stays(exports: Path, eval_dataset: Dataset, tmp_path: Path):
    subjects = subjects_of([exports / "attend-fusion"], ("litert",))
    method, out = Method(inferences=6, warm_up=1, rounds=2), tmp_path / "r.json"
    kept, on_saved = interrupt_after(3)
    with pytest.raises(KeyboardInterrupt):
        run_bench(subjects, eval_dataset, method=method, out=out, on_saved=on_saved)
    assert [row.rounds for row in kept[-1].rows] == [[3, 3], [3]] and read_results(out) == kept[-1]
    scratch = tmp_path / ".r.json.bench"
    assert scratch.is_dir()
    interrupted = out.read_bytes()
    # A bench with another method, other data or other files cannot be continued.
    renamed = dataclasses.replace(kept[-1], rows=[dataclasses.replace(row, file="x") for row in kept[-1].rows])
    for earlier, data, other, what in (
        (kept[-1], eval_dataset, dataclasses.replace(method, inferences=4), "differs in its method"),
        (kept[-1], None, method, "differs in its data and inputs"),
        (renamed, eval_dataset, method, "differs in its files"),
    ):
        write_results(out, earlier)
        with pytest.raises(OtherBench, match=what):
            run_bench(subjects, data, method=other, out=out)
    out.write_bytes(interrupted)
    whole = run_bench(subjects, eval_dataset, method=method, out=out)
    assert whole.is_complete and whole.created == kept[-1].created and len(whole.continued) == 1
    assert [row.rounds for row in whole.rows] == [[3, 3], [3, 3]]
    first, second = whole.rows
    assert first.latency_raw_us == kept[-1].rows[0].latency_raw_us
    assert second.latency_raw_us[:3] == kept[-1].rows[1].latency_raw_us
    assert all(row.gap_at_20_interval for row in whole.rows) and second.gap_at_20_delta is not None
    assert not scratch.exists()


@pytest.mark.slow
def test_the_verb_goes_on_unless_told_otherwise(exports: Path, tmp_path: Path):
    out = tmp_path / "results.json"
    file = exports / "attend-fusion/attend-fusion-int8.tflite"
    arguments = ["bench", file, "--runs", 4, "--rounds", 1, "--no-packed", "--threads", 1, "--threads", 2, "--out", out]
    assert edge_af(*arguments).returncode == 0
    whole = read_results(out)
    # Mark the kept row with an impossible latency: two quick runs can agree to the microsecond.
    first = dataclasses.replace(whole.rows[0], latency_raw_us=[10**9] * 4)
    part = dataclasses.replace(whole, rows=[first])
    write_results(out, part)
    (tmp_path / ".results.json.bench").mkdir()
    done = edge_af(*arguments)
    assert "continuing: 1 of 2 rows" in done.stderr, done.stderr
    again = read_results(out)
    assert again.is_complete and again.rows[0] == first and max(again.rows[1].latency_raw_us) < 10**9
    write_results(out, part)
    (tmp_path / ".results.json.bench").mkdir()
    assert edge_af(*arguments, "--fresh").returncode == 0
    anew = read_results(out)
    assert max(anew.rows[0].latency_raw_us) < 10**9 and anew.continued == []


@pytest.mark.slow
def test_a_row_that_fails_in_a_later_round_keeps_its_figures_and_says_so(exports: Path):
    subjects = subjects_of([exports / "attend-fusion/attend-fusion-int8.tflite"])
    method = Method(inferences=6, warm_up=1, rounds=3)
    calls = 0
    real = local.run_worker

    def crashing(job, **options):
        nonlocal calls
        calls += 1
        # The first call is for the empty model.
        command = [sys.executable, "-c", "import os; os.kill(os.getpid(), 4)"]
        return real(job, **({**options, "command": command} if calls == 3 else options))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(local, "run_worker", crashing)
        row = run_bench(subjects, None, method=method).rows[0]
    assert row.status == "crashed" and row.reason.startswith("in round 2: SIGILL") and calls == 3
    assert row.rounds == [2] and row.latency_ms is not None


@pytest.mark.slow
def test_a_crash_and_a_hang_are_rows_and_the_table_goes_on(exports: Path, monkeypatch: pytest.MonkeyPatch):
    """Replace two workers with real processes, one that crashes and one that hangs."""
    real = local.run_worker
    bodies = {
        "attend-fusion-fp32.onnx": "import ctypes; ctypes.string_at(0)",
        "attend-fusion-int8.tflite": "import time; time.sleep(600)",
    }

    def some_misbehave(job, **options):
        body = bodies.get(Path(job.path).name)
        if body is None:
            return real(job, **options)
        job = dataclasses.replace(job, method=dataclasses.replace(job.method, timeout_seconds=2))
        return real(job, **{**options, "command": [sys.executable, "-c", f"import sys; sys.stdin.read(); {body}"]})

    monkeypatch.setattr(local, "run_worker", some_misbehave)
    results = run_bench(subjects_of([exports / "attend-fusion"]), None, method=SHORT)
    rows = {row.file: row for row in results.rows}
    assert {name: row.status for name, row in rows.items()} == {
        "attend-fusion-fp32.onnx": "crashed",
        "attend-fusion-fp32.tflite": "ok",
        "attend-fusion-int8.onnx": "ok",
        "attend-fusion-int8.tflite": "timeout",
    }
    assert (rows["attend-fusion-fp32.onnx"].reason or "").startswith("SIGSEGV")
    assert "no result within 2 s" in (rows["attend-fusion-int8.tflite"].reason or "")
    assert results.is_complete


@pytest.mark.slow
def test_a_suite_says_what_is_compared(exports: Path, tmp_path: Path):
    suite, out = tmp_path / "s.yaml", tmp_path / "r.json"
    suite.write_text(
        "name: mine\nnetworks: [{model: fc-late-fusion, preset: tiny}, {model: attend-fusion}]\nprecisions: [int8]\n"
        "runtimes: [litert, onnxruntime]\nthreads: [1, 2]\nmethod: {inferences: 4, rounds: 1, packed: false}\n"
    )
    done = edge_af("bench", exports, "--suite", suite, "--out", out)
    assert done.returncode == 0, done.stderr
    results = read_results(out)
    assert results.suite == "mine" and results.method.rounds == 1 and not results.method.packed
    assert [(row.model, row.runtime, row.precision, row.threads) for row in results.rows] == [
        (model, runtime, "int8", threads)
        for model in ("fc-late-fusion", "attend-fusion")
        for runtime in ("litert", "onnxruntime")
        for threads in (1, 2)
    ]
