"""Different rows, devices and columns have different names."""

from __future__ import annotations

import dataclasses

import pytest
from report_results import LAPTOP, PI, results, row

from edge_af.records.results import Gallery, GalleryPrediction, GalleryVideo, Modeled, Results
from edge_af.report.counted import counted_titles
from edge_af.report.gallery import shown_gallery
from edge_af.report.rows import compare, device_titles
from edge_af.report.specs import history_spec
from edge_af.report.text import markdown_table, table
from edge_af.runtime.kernels import kernels

VNNI = dataclasses.replace(LAPTOP, features=["avx2", "avx512_vnni"])
NO_VNNI = dataclasses.replace(LAPTOP, features=["avx2"])


def with_recipes(*recipes: str | None) -> Results:
    rows = [row("attend-fusion", "onnxruntime", "fp32")]
    rows += [
        row("attend-fusion", "onnxruntime", "int8", recipe=recipe, file=f"{at}.onnx", kernels="U8S8 AVX-512 VNNI")
        for at, recipe in enumerate(recipes)
    ]
    return results(rows=rows, rows_planned=len(rows))


def test_two_recipes_of_one_precision_are_told_apart():
    many = [with_recipes("int8-static", "int8-dynamic")]
    for text in (table(many), markdown_table(many)):
        assert "INT8 static" in text and "INT8 dynamic" in text
    assert [line.weights for line in compare(many)] == ["FP32", "INT8 dynamic", "INT8 static"]
    # A single recipe is not named, and two files of one recipe are distinguished by file name.
    assert "INT8 static" not in table([with_recipes("int8-static")])
    assert {line.weights for line in compare([with_recipes("int8-static", "int8-static")])} == {
        "FP32", "INT8 0.onnx", "INT8 1.onnx",
    }  # fmt: skip


def test_two_machines_of_one_name_are_told_apart():
    many = [results(VNNI), results(NO_VNNI)]
    first, second = device_titles(many)
    assert first.endswith("(AVX-512 VNNI)") and second.endswith("(AVX2)")
    assert f"on {first}" in table(many) and f"on {second}" in table(many)
    assert second in markdown_table(many)
    # A row of one machine is not the baseline for the other.
    alone = results(NO_VNNI, rows=[row("attend-fusion", "litert", "int8")])
    assert all(line.base is None for line in compare([results(VNNI), alone]) if line.results is alone)
    kernel = dataclasses.replace(NO_VNNI, kernel="Linux 6.9")
    assert {title.rpartition("(")[2] for title in device_titles([results(NO_VNNI), results(kernel)])} == {
        "Linux 6.1)", "Linux 6.9)",
    }  # fmt: skip


def test_two_benches_of_one_machine_are_told_apart_where_they_share_rows():
    later = results(created="2026-02-03T04:05:06+00:00")
    assert [title.rpartition("(")[2] for title in device_titles([results(), later])] == [
        "benched 2026-01-02T03:04:05+00:00)", "benched 2026-02-03T04:05:06+00:00)",
    ]  # fmt: skip
    parts = [results(rows=results().rows[:4]), results(rows=results().rows[4:])]
    assert device_titles(parts) == [LAPTOP.label] * 2
    assert len({line.base.artifact for line in compare(parts) if line.base is not None}) == 1


def test_columns_of_the_gallery_have_names_of_their_own():
    one = results(PI)
    lines = compare([one, results(LAPTOP)])
    keys = {line.row.key for line in lines}
    video = GalleryVideo("id", ["Car"], {key: [GalleryPrediction("Car", 0.5, True)] for key in keys})
    many = [dataclasses.replace(one, gallery=Gallery(0, [video])), results(LAPTOP)]
    shown = shown_gallery(many, compare(many))
    assert shown is not None and len(set(shown.names.values())) == len(shown.names) == 2 and PI.label in shown.where
    # Each network and precision has one column; columns of two runtimes get different names.
    same = [row("attend-fusion", runtime, "fp32", file=f"a.{runtime}") for runtime in ("litert", "onnxruntime")]
    alone = results(rows=same, gallery=Gallery(0, [GalleryVideo("id", [], {r.key: [] for r in same})]))
    shown = shown_gallery([alone], compare([alone]))
    assert shown is not None and len(set(shown.names.values())) == len(shown.names) >= 1


@pytest.mark.parametrize("is_ratio, expected", [(True, "+,.3~f"), (False, ",.4~f")])
def test_the_historys_axis_is_written_out(is_ratio: bool, expected: str):
    """The format `g` would print -20 as -2e+1."""
    spec = history_spec("t", "change, %", "d", (-20, 20), {"ok": ("circle", "red")}, is_ratio)
    assert spec["axes"][1]["format"] == expected


def test_the_modeled_latency_is_the_first_of_what_was_counted():
    assert counted_titles()[0].startswith("Modeled latency")
    modeled = row("attend-fusion", "litert", "int8", modelled_latency_ms=Modeled(1.0, 0.5, 2.0))
    assert modeled.modelled_latency_ms is not None


def test_kernels_are_named_in_the_table():
    many = [with_recipes("int8-static")]
    assert "Kernels: ONNX Runtime INT8 U8S8 AVX-512 VNNI." in table(many)
    assert "| Kernels |" in markdown_table(many) and "U8S8 AVX-512 VNNI" in markdown_table(many)
    assert "Kernels" not in table([results()]) + markdown_table([results()])
    assert kernels("litert", "int8", integer=True, features=["avx2"]) == "S8S8 AVX2"
