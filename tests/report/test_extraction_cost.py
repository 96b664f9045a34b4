"""The table of what turning a video into features costs."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from report_results import PI, results

from edge_af.records.results import (
    STAGES,
    ExtractionCost,
    Modeled,
    StageCost,
    read_results,
    write_results,
)
from edge_af.report.page import page
from edge_af.report.text import markdown_table, table

HERE = ExtractionCost(
    "clip.mp4", 1280, 720, "h264", 60.0, "lite", 1.0,
    [StageCost(stage, processor_ms=ms) for stage, ms in zip(STAGES, (70.0, 5.0, 1.5), strict=True)],
)  # fmt: skip
MODELED = dataclasses.replace(
    HERE,
    every=2.0,
    stages=[StageCost(stage, modelled_ms=Modeled(200.0, 100.0, 400.0)) for stage in STAGES],
)


def test_the_table_adds_up_and_survives_the_file(tmp_path: Path):
    many = [results(extraction=HERE), results(PI, extraction=MODELED), results()]
    write_results(tmp_path / "a.json", many[0])
    assert read_results(tmp_path / "a.json").extraction == HERE
    for text in (table(many), markdown_table(many).replace("\\", ""), page(many)):
        assert "70.0" in text and "200 [100, 400]" in text
        assert "clip.mp4 (1280 × 720, h264) with lite, one frame per second" in text
        assert "one frame every 2 s" in text and "band of a modeled time" in text
    # 70 + 5 + 1.5 ms and the fastest file's 0.25 ms make 13.0 seconds of video in a second.
    line = next(line for line in table(many).splitlines() if "70.0" in line)
    assert line.split()[-6:] == ["70.0", "5.00", "1.50", "0.250", "13.0", "×"]
    assert "From video" not in table([results()]) + markdown_table([results()]) + page([results()])
