"""`edge-af bench --with-features` adds what turning a video into features costs."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from clips import tone

from edge_af.bench.options import BenchOptions
from edge_af.cli import cli
from edge_af.emulation.counts import counts_between
from edge_af.errors import EdgeAfError
from edge_af.records.results import STAGES, Instructions, read_results

QUICK = ("--runs", "20", "--rounds", "1", "--runtime", "litert", "--no-packed")


def test_counts_add_up_over_parts():
    names = [field.name for field in dataclasses.fields(Instructions)]
    text = "\n".join(json.dumps({"mark": at, **dict.fromkeys(names, 10 * at * at)}) for at in range(1, 5))
    assert set(counts_between(text, [(1, 2), (3, 4)]).values()) == {30 + 70}
    with pytest.raises(EdgeAfError, match="expected counts"):
        counts_between(text, [(4, 5)])


def test_options_that_do_not_go_together():
    with pytest.raises(EdgeAfError, match="--with-features and --target-file exclude"):
        BenchOptions(with_features=Path("clip.mp4"), target_file=Path("fleet.yaml"))
    with pytest.raises(EdgeAfError, match="--extractor needs --with-features"):
        BenchOptions(extractor=Path("own"))


def test_a_bench_with_features(exports: Path, clip: Any, tmp_path: Path):
    video = clip("clip.mkv", [at / 10 for at in range(40)], [10] * 40, tone(4))
    out = tmp_path / "results.json"
    words = ["bench", str(exports / "attend-fusion"), *QUICK, "--with-features", str(video), "--out", str(out)]
    done = CliRunner().invoke(cli, words, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    cost = read_results(out).extraction
    assert cost is not None
    assert (cost.video, cost.width, cost.height, cost.codec) == ("clip.mkv", 64, 48, "h264")
    assert cost.seconds == pytest.approx(3.9, abs=0.01) and (cost.extractor, cost.every) == ("lite", 1.0)
    assert [one.stage for one in cost.stages] == list(STAGES)
    assert all(one.processor_ms and one.processor_ms > 0 and one.instructions is None for one in cost.stages)
    assert "clip.mkv (64 × 48, h264) with lite" in done.stdout


def test_a_video_that_cannot_be_read_measures_nothing(exports: Path, tmp_path: Path):
    (tmp_path / "clip.mp4").write_bytes(b"not a video")
    words = ["bench", str(exports / "attend-fusion"), *QUICK, "--out", str(tmp_path / "results.json")]
    for name, why in (("clip.mp4", "cannot be opened as a video"), ("gone.mp4", "no such file")):
        done = CliRunner().invoke(cli, [*words, "--with-features", str(tmp_path / name)])
        assert isinstance(done.exception, EdgeAfError) and why in str(done.exception)
        assert not (tmp_path / "results.json").exists()


@pytest.mark.emulated
def test_an_emulated_board_counts_each_stage(exports: Path, clip: Any, tmp_path: Path):
    video = clip("clip.mkv", [at / 10 for at in range(40)], [10] * 40, tone(4), size=(320, 240))
    found = {}
    for board in ("pi4", "pi5"):
        out = tmp_path / f"{board}.json"
        words = ["bench", str(exports / "attend-fusion"), "--runtime", "litert", "--target", f"emulated:{board}"]
        done = CliRunner().invoke(
            cli, [*words, "--with-features", str(video), "--out", str(out)], catch_exceptions=False
        )
        assert done.exit_code == 0, done.output
        cost = read_results(out).extraction
        assert cost is not None
        found[board] = {one.stage: one for one in cost.stages}
        for one in cost.stages:
            assert one.processor_ms is None and one.instructions is not None and one.instructions.instructions > 1e5
            assert one.modelled_ms is not None and one.modelled_ms.low < one.modelled_ms.value < one.modelled_ms.high
    # EfficientNet-Lite0 in INT8 has 0.4 billion multiply-adds; with the dot product, most of them run by it.
    visual = {board: stages["visual"].instructions for board, stages in found.items()}
    assert visual["pi5"] is not None and visual["pi4"] is not None
    assert visual["pi4"].dot_product == 0 and visual["pi4"].integer_multiply_macs > 3e8
    assert visual["pi5"].dot_product_macs > 3e8
