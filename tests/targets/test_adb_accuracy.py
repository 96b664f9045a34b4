"""Accuracy on a phone: `benchmark_model` scores the evaluation set there, over a real adb daemon."""

from __future__ import annotations

import dataclasses
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from benches import run_bench
from loopback_phone import LoopbackPhone
from tiny_export import export_tiny

from edge_af.bench.subject import subjects_of
from edge_af.data.dataset import Dataset
from edge_af.errors import EdgeAfError
from edge_af.metrics import evaluate
from edge_af.records.results import Method, Results
from edge_af.report.notes import caveats
from edge_af.runtime import load, score_all
from edge_af.targets import adb, adb_backend
from edge_af.targets.adb import AdbTarget
from edge_af.targets.adb_backend import AdbBackend

METHOD = Method(inferences=2, seconds=None, warm_up=1, rounds=1, timeout_seconds=120)


@pytest.fixture(autouse=True)
def several_batches(monkeypatch: pytest.MonkeyPatch, eval_dataset: Dataset) -> None:
    """The evaluation set in three batches, the last one short."""
    monkeypatch.setattr(adb_backend, "VIDEOS", eval_dataset.videos // 2 - 1)


def bench(
    phone: LoopbackPhone, path: Path, dataset: Dataset, program: Path | None = None, **options: object
) -> Results:
    backend = AdbBackend(AdbTarget(), program or phone.program())
    return run_bench(subjects_of([path], ("litert",)), dataset, backend=backend, **{"method": METHOD, **options})


def gap_here(file: Path, dataset: Dataset) -> float:
    scores = score_all(load(file), dataset.stored)
    return evaluate(scores, dataset.labels(slice(None)), 0.25).gap_at_20


def test_the_phones_scores_are_measured(
    phone: LoopbackPhone, exports: Path, eval_dataset: Dataset, capsys: pytest.CaptureFixture[str]
):
    results = bench(phone, exports / "attend-fusion", eval_dataset, threads=(1, 2))
    assert results.is_complete and len(results.rows) == 4 and results.inputs == "random"
    assert results.data is not None and results.data.videos == eval_dataset.videos
    for row in results.rows:
        # The stand-in is the same LiteRT on the same processor.
        assert row.gap_at_20 == pytest.approx(gap_here(exports / "attend-fusion" / row.file, eval_dataset), abs=1e-6)
        assert row.status == "ok" and row.latency_ms is not None and row.videos == eval_dataset.videos
        assert row.gap_at_20_interval is not None and row.f1_micro is not None and row.f1_micro_interval is not None
        assert (row.gap_at_20_delta is None) == (row.precision == "fp32")
    assert results.gallery is not None and len(results.gallery.videos[0].predictions) == 2
    # Each file is scored once for all thread counts, and no scores are left on the phone.
    assert f"accuracy: {2 * eval_dataset.videos} videos" in capsys.readouterr().err.replace(",", "")
    assert "scores" not in phone.adb("shell", f"ls {adb.FOLDER}").split()
    assert any("A phone's latency was measured on random values" in text for text in caveats([results]))
    assert not any("No evaluation data" in text for text in caveats([results]))


@pytest.mark.slow
def test_integer_inputs_and_outputs(phone: LoopbackPhone, dataset: Dataset, eval_dataset: Dataset, tmp_path: Path):
    folder = export_tiny("fc-late-fusion", tmp_path / "io", dataset, name="int8-static", integer_io=True)
    file = folder / "fc-late-fusion-int8.tflite"
    results = bench(phone, file, eval_dataset, batches=(8, 1))
    several, row = results.rows
    assert several.status == "failed" and "one video per inference" in (several.reason or "") and results.is_complete
    assert row.gap_at_20 == pytest.approx(gap_here(file, eval_dataset), abs=1e-6)


OLDER = """for word; do
    shift
    case "$word" in --output_filepath=*) ;; *) set -- "$@" "$word" ;; esac
done
exec {model} "$@"
"""
ONCE = """case "$*" in *--output_filepath*) [ ! -e {mark} ] || set -- "$@" --output_filepath=/dev/null; touch {mark} ;; esac
exec {model} "$@"
"""
SHORT = """{model} "$@" || exit
case "$*" in *--output_filepath*) truncate -s -4 {folder}/scores ;; esac
"""


@pytest.mark.parametrize(
    "text, reason",
    [
        (OLDER, "leaves no scores: a build without --output_filepath"),
        # The first batch's scores must not be taken for the second's.
        (ONCE, "leaves no scores"),
        (SHORT, "scores of"),
        ('case "$*" in *--output_filepath*) kill -ILL $$ ;; esac; exec {model} "$@"', "SIGILL in benchmark_model"),
    ],
)
def test_latency_is_kept_where_there_are_no_scores(
    phone: LoopbackPhone, exports: Path, eval_dataset: Dataset, text: str, reason: str
):
    made = text.format(model=phone.program(), mark=phone.folder / "mark", folder=adb.FOLDER)
    results = bench(phone, exports / "attend-fusion/attend-fusion-int8.tflite", eval_dataset, phone.program(made))
    (row,) = results.rows
    assert row.status == "ok" and row.latency_ms is not None and row.gap_at_20 is None
    assert (row.reason or "").startswith("no accuracy: ") and reason in (row.reason or ""), row.reason
    assert results.is_complete and any(reason in text for text in results.warnings)


@pytest.mark.slow
def test_unplugged_while_scoring(phone: LoopbackPhone, exports: Path, eval_dataset: Dataset, tmp_path: Path):
    """Finished measurements and scores are kept, and the same command continues once the phone is back."""
    kept: list[Results] = []
    marks, out, folder = phone.folder / "calls", tmp_path / "r.json", exports / "attend-fusion"
    # Hang in the second batch of the second file.
    program = phone.program(
        f'case "$*" in *--output_filepath*) echo x >>{marks}; [ "$(wc -l <{marks})" != 5 ] || {{ touch {phone.folder}/slow; '
        f'sleep 600; }} ;; esac\nexec {phone.program()} "$@"'
    )

    def unplug() -> None:
        while not (phone.folder / "slow").exists():
            time.sleep(0.05)
        phone.unplug()

    thread = threading.Thread(target=unplug, daemon=True)
    thread.start()
    with pytest.raises(adb.Gone):
        bench(phone, folder, eval_dataset, program, out=out, on_saved=kept.append)
    thread.join()
    begun = kept[-1]
    assert [row.gap_at_20 is not None for row in begun.rows] == [True, False] and not begun.is_complete
    phone.plug()
    results = bench(phone, folder, eval_dataset, program, out=out)
    assert results.is_complete and results.created == begun.created and len([*tmp_path.iterdir()]) == 1
    assert [row.rounds_ms for row in results.rows] == [row.rounds_ms for row in begun.rows]
    assert len(marks.read_text().split()) == 5 + 3 and all(row.gap_at_20_interval for row in results.rows)


def test_data_that_does_not_fit_is_refused_first(exports: Path, eval_dataset: Dataset):
    unlabeled = dataclasses.replace(
        eval_dataset,
        label_offsets=np.zeros_like(eval_dataset.label_offsets),
        label_values=eval_dataset.label_values[:0],
    )
    with pytest.raises(EdgeAfError, match="no accuracy to measure"):
        run_bench(subjects_of([exports]), unlabeled, method=METHOD, backend=AdbBackend(AdbTarget()))
