"""The nursery and its child processes: turns, exits, hangs and their messages."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import pytest
from nursery_stand_in import with_load

from edge_af.compare.nursery import CRASHED, HANGS, NO_WORKER, REFUSED, WORKER, BrokenFile, nursery
from edge_af.compare.worker import PairJob

ORDER = {"generation": 0, "seed": 0, "seconds": 0.0, "at_most": 10.0}


def job(base: Path, candidate: Path | None = None, runtime: str = "onnxruntime") -> PairJob:
    cores = sorted(os.sched_getaffinity(0))[-1:]
    return PairJob(str(base), str(candidate or base), (runtime, runtime), 1, cores, None, -1)


@pytest.fixture
def pair(exports: Path, tmp_path: Path) -> tuple[Path, Path]:
    """A base and a candidate with the same bytes."""
    base = exports / "attend-fusion/attend-fusion-fp32.onnx"
    candidate = tmp_path / "candidate.onnx"
    candidate.write_bytes(base.read_bytes())
    return base, candidate


@pytest.mark.parametrize("runtime, suffix", [("onnxruntime", "onnx"), ("litert", "tflite")])
def test_a_generation_times_all_three_in_turns(exports: Path, runtime: str, suffix: str):
    stages: list[str] = []
    wanted = job(exports / f"attend-fusion/attend-fusion-int8.{suffix}", runtime=runtime)
    with nursery(wanted, timeout_seconds=60, on_stage=stages.append) as started:
        first = started.order(ORDER)
        second = started.order({**ORDER, "generation": 1})
    for found in (first, second):
        cpu, wall = np.array(found["cpu"]), np.array(found["wall"])
        assert cpu.shape == wall.shape == (3, 2 * found["rounds"], 6)
        assert (cpu > 0).all() and (wall > 0).all()
        assert np.array(found["preempted"]).shape == cpu.shape[:2]
        assert min(found["load_ms"]) > 0
    assert "loading the candidate" in stages and stages[-1] == "timing"


def test_children_are_gone_when_the_nursery_is(exports: Path):
    with nursery(job(exports / "attend-fusion/attend-fusion-fp32.onnx"), timeout_seconds=60) as started:
        started.order(ORDER)
        group = started._worker.process.pid
    with pytest.raises(ProcessLookupError):
        os.killpg(group, 0)


def test_both_score_the_same_videos(pair: tuple[Path, Path], tmp_path: Path):
    targets = {"base_to": str(tmp_path / "b.npy"), "candidate_to": str(tmp_path / "c.npy")}
    with nursery(job(*pair), timeout_seconds=60) as started:
        started.order(targets)
    base, candidate = (np.load(path) for path in targets.values())
    assert base.shape == (256, 30) and np.array_equal(base, candidate)


SIGNALS = [("SIGSEGV", "SIGSEGV"), ("SIGKILL", "lack of memory"), ("SIGILL", "instructions")]


@pytest.mark.parametrize("name, words", SIGNALS)
@pytest.mark.parametrize("which", ["base", "candidate"])
def test_a_child_that_dies_is_told_with_its_signal(pair: tuple[Path, Path], which: str, name: str, words: str):
    condition = "'candidate' in str(path)" if which == "candidate" else "'candidate' not in str(path)"
    command = with_load(f"if {condition}: os.kill(os.getpid(), signal.{name})")
    with pytest.raises(BrokenFile) as broken, nursery(job(*pair), timeout_seconds=60, command=command) as started:
        started.order(ORDER)
    assert (broken.value.which, broken.value.kind) == (which, CRASHED)
    assert broken.value.reason.startswith(name) and words in broken.value.reason and "loading" in broken.value.reason


def test_a_child_that_dies_while_it_is_timed(pair: tuple[Path, Path]):
    body = """
        if 'candidate' in str(path):
            scorer = real(path, **options)
            class Dying:
                count = 0
                def score(self, features):
                    self.count += 1
                    if self.count > 8:
                        os.kill(os.getpid(), signal.SIGSEGV)
                    return scorer.score(features)
            return Dying()
    """
    with (
        pytest.raises(BrokenFile) as broken,
        nursery(job(*pair), timeout_seconds=60, command=with_load(body)) as started,
    ):
        started.order(ORDER)
    assert broken.value.which == "candidate" and "SIGSEGV while timing" in broken.value.reason


@pytest.mark.slow
def test_a_child_that_hangs_is_ended_and_told(pair: tuple[Path, Path]):
    command = with_load("if 'candidate' in str(path): time.sleep(600)")
    with pytest.raises(BrokenFile) as broken, nursery(job(*pair), timeout_seconds=5, command=command) as started:
        started.order(ORDER)
    assert (broken.value.which, broken.value.kind) == ("candidate", HANGS)
    assert broken.value.reason == "no answer within 5 s while loading the candidate"


def test_a_file_that_will_not_load_is_refused_by_name(exports: Path, tmp_path: Path):
    broken_file = tmp_path / "broken.onnx"
    broken_file.write_bytes(b"\x08\x0a nothing")
    good = exports / "attend-fusion/attend-fusion-fp32.onnx"
    with pytest.raises(BrokenFile) as broken, nursery(job(good, broken_file), timeout_seconds=60) as started:
        started.order(ORDER)
    assert (broken.value.which, broken.value.kind) == ("candidate", REFUSED)
    assert "cannot load this file" in broken.value.reason


def test_a_nursery_that_does_not_start_is_told():
    with (
        pytest.raises(BrokenFile) as broken,
        nursery(job(Path("x.onnx")), timeout_seconds=60, command=[sys.executable, "-c", "raise KeyError('odd')"]),
    ):
        pass
    assert broken.value.which is None and broken.value.kind == NO_WORKER and "KeyError: 'odd'" in broken.value.reason


def test_what_libraries_print_does_not_spoil_the_answers(exports: Path):
    noisy = ["bash", "-c", 'echo "{not json"; echo "warning: {" >&2; exec "$@"', "bash", *WORKER]
    with nursery(job(exports / "attend-fusion/attend-fusion-fp32.onnx"), timeout_seconds=60, command=noisy) as started:
        assert started.order(ORDER)["rounds"] >= 3
