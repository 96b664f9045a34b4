"""The README's picture: drawn from recorded results, in both color schemes, with every file labeled."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from click.testing import CliRunner
from small_dataset import REPOSITORY

from benchmarks.picture import command


def test_the_picture_shows_every_file_in_both_schemes(tmp_path: Path):
    pytest.importorskip("vl_convert", reason="vl-convert-python is not installed")
    results = REPOSITORY / "benchmarks/results/paper-comparison-vnni.json"
    done = CliRunner().invoke(command, [str(results), "--out", str(tmp_path)])
    assert done.exit_code == 0, done.output
    texts = {}
    for scheme in ("light", "dark"):
        svg = (tmp_path / f"gap-latency-{scheme}.svg").read_text(encoding="utf-8")
        assert "var(--" not in svg
        texts[scheme] = re.findall(r"<text[^>]*>([^<]+)</text>", svg)
        for network in ("Attend-Fusion", "FC Late Fusion"):
            assert {f"{network} {precision}" for precision in ("FP32", "INT8", "INT4")} <= set(texts[scheme])
    assert texts["light"] == texts["dark"]
    assert (tmp_path / "gap-latency-light.svg").read_text() != (tmp_path / "gap-latency-dark.svg").read_text()


def test_the_front_leaves_out_what_others_dominate(tmp_path: Path):
    pytest.importorskip("vl_convert", reason="vl-convert-python is not installed")
    results = REPOSITORY / "benchmarks/results/paper-comparison-vnni.json"
    done = CliRunner().invoke(command, [str(results), "--front", "--out", str(tmp_path)])
    assert done.exit_code == 0, done.output
    svg = (tmp_path / "gap-latency-light.svg").read_text(encoding="utf-8")
    texts = re.findall(r"<text[^>]*>([^<]+)</text>", svg)
    assert {"INT8", "FC Late Fusion FP32"} <= set(texts)
    assert "FC Late Fusion INT8" not in texts
