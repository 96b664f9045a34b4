"""The table, the Markdown and the page: relations between rows, complete text, and escaping."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import pytest
from report_results import HOSTILE, PI, Reader, edge_af, results, row

from edge_af.machine.memory import MemoryReading
from edge_af.records.results import Data, Delta, Latency, Results, Sensitivity, write_results
from edge_af.report.charts import charts, memory_parts
from edge_af.report.columns import GAP, MEMORY, P50, SIZE, factor, quantity, signed
from edge_af.report.page import page as whole_page
from edge_af.report.rows import compare, summary
from edge_af.report.text import markdown_table, table


def page(many: list[Results]) -> str:
    """Return the page without the chart library, which is large and slow; test_page_in_chromium.py tests it all."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("edge_af.report.page.library", lambda: "0;")
        return whole_page(many)


def find(many: list[Results], model: str, runtime: str, precision: str):
    wanted = (model, runtime, precision)
    return next(line for line in compare(many) if (line.row.model, line.row.runtime, line.row.precision) == wanted)


def test_relations_are_to_the_baseline_in_the_same_runtime():
    many = [results()]
    int8 = find(many, "attend-fusion", "litert", "int8")
    assert int8.base is not None and (int8.base.runtime, int8.base.precision) == ("litert", "fp32")
    assert SIZE.relation(int8.row, int8.base) == "0.050×"
    assert P50.relation(int8.row, int8.base) == "0.050×"
    assert GAP.relation(int8.row, int8.base) == "+0.0048"
    assert int8.fp32 is not None and GAP.relation(int8.row, int8.fp32) == "+0.0008"
    base = find(many, "fc-late-fusion", "litert", "fp32")
    assert base.is_baseline and SIZE.relation(base.row, base.base) == ""
    assert [line.network for line in compare(many)] == ["FC Late Fusion small"] * 4 + ["Attend-Fusion small"] * 4


def test_what_was_not_measured_has_no_relation():
    broken = row(
        "fc-late-fusion", "litert", "fp32", status="crashed", reason="SIGKILL", latency_ms=None, gap_at_20=None
    )
    one = results()
    many = [dataclasses.replace(one, rows=[*(r for r in one.rows if (r.model, r.runtime, r.precision) != KEY), broken])]
    line = find(many, "attend-fusion", "litert", "int8")
    assert P50.relation(line.row, line.base) == "" and GAP.relation(line.row, line.base) == ""
    # The file's size is known without running it.
    assert SIZE.relation(line.row, line.base) == "0.050×"
    for text in (table(many), markdown_table(many), page(many)):
        assert "crashed: SIGKILL" in text


KEY = ("fc-late-fusion", "litert", "fp32")


def test_a_devices_rows_are_set_beside_that_devices_baseline():
    slow = results(PI)
    slow = dataclasses.replace(
        slow,
        rows=[dataclasses.replace(r, latency_ms=Latency(*[70.0] * 4, n=9), peak_memory_bytes=9) for r in slow.rows],
    )
    lines = compare([results(), slow])
    assert len(lines) == 16
    for line in lines:
        if line.device == PI.label:
            assert P50.relation(line.row, line.base) == ("" if line.is_baseline else "1.00×")
            assert MEMORY.relation(line.row, line.base) == ("" if line.is_baseline else "1.00×")
    assert f"on {PI.label}" in table([results(), slow])
    assert "| Device |" in markdown_table([results(), slow])
    assert [chart.name for chart in charts([results(), slow]).accuracy] == [
        "chart-latency-0",
        "chart-latency-1",
        "chart-bytes",
    ]


def test_networks_of_two_files_from_one_device_share_a_baseline():
    alone = results()
    attend = dataclasses.replace(alone, rows=[r for r in alone.rows if r.model == "attend-fusion"])
    fully = dataclasses.replace(alone, rows=[r for r in alone.rows if r.model == "fc-late-fusion"])
    assert (
        SIZE.relation(*(lambda line: (line.row, line.base))(find([attend, fully], "attend-fusion", "litert", "int8")))
        == "0.050×"
    )
    assert find([attend], "attend-fusion", "litert", "int8").base is None
    assert "Attend-Fusion" in table([attend]) and "Attend-Fusion" in page([attend])


@pytest.mark.parametrize(
    "written, expected",
    [
        (factor(0.00812), "0.0081×"), (factor(0.0341), "0.034×"), (factor(0.0996), "0.10×"), (factor(0.523), "0.52×"),
        (factor(1.0), "1.00×"), (factor(2.345), "2.3×"), (factor(1234.0), "1,234×"),
        (signed(0.01234), "+0.0123"), (signed(-0.00041), "−0.0004"), (signed(-0.00001), "±0"),
        (quantity(0.0331), "0.033"), (quantity(1.234), "1.23"), (quantity(12.34), "12.3"), (quantity(1363.2), "1,363"),
    ],
)  # fmt: skip
def test_figures_are_written_with_as_many_digits_as_they_carry(written: str, expected: str):
    assert written == expected


def test_the_terminal_table_is_aligned_and_fits():
    text = table([results()])
    lines = text.splitlines()
    assert max(map(len, lines)) <= 140
    body = [line for line in lines if line.startswith(("ONNX Runtime", "LiteRT"))]
    assert len(body) == 8
    assert len({line.index(".") for line in body}) == 1
    wide = results()
    wide = dataclasses.replace(
        wide,
        rows=[dataclasses.replace(r, size_bytes=1_363_000_000, peak_memory_bytes=2_600_000_000) for r in wide.rows],
    )
    assert max(map(len, table([wide]).splitlines())) <= 140


def test_caveats_stand_in_every_form():
    odd = results(quick=True, rows_planned=9, data=None, inputs="random")
    odd = dataclasses.replace(odd, rows=[dataclasses.replace(odd.rows[0], cpu="arm64"), *odd.rows[1:]])
    for text in (table([odd]), markdown_table([odd]), page([odd])):
        for words in ("Quick run", "8 of 9 rows", "random values", "another kind of processor than x86-64"):
            assert words in text
    assert "Quick run" not in table([results()])


def test_results_without_rows_make_a_page_too():
    empty = results(rows=[])
    assert "No row was measured" in page([empty]) and "Interrupted" in table([empty]) and markdown_table([empty])


@pytest.fixture(scope="module")
def hostile() -> str:
    device = dataclasses.replace(PI, cpu=HOSTILE, kernel=HOSTILE, governor=HOSTILE, versions={HOSTILE: HOSTILE})
    one = results(device, second=HOSTILE, data=Data(HOSTILE, 1, 2), created=HOSTILE)
    rows = [
        dataclasses.replace(r, runtime=HOSTILE, precision=HOSTILE, status="failed", reason=HOSTILE)
        for r in one.rows[:1]
    ]
    return page([dataclasses.replace(one, rows=[*rows, *one.rows[1:]]), results()])


def test_names_that_are_markup_stay_text(hostile: str):
    reader = Reader(hostile)
    assert not reader.of("img") and len(reader.of("script")) == 3 and not reader.of("a")
    assert reader.text.count('<img src=x onerror="alert(1)">') > 10
    assert not any(name.startswith("on") for _, attributes in reader.tags for name in attributes)
    assert "default-src 'none'" in (reader.of("meta")[3]["content"] or "")


def test_names_that_are_markup_stay_text_in_markdown():
    one = results(second=HOSTILE)
    lines = markdown_table([one]).splitlines()
    columns = {len(re.findall(r"(?<!\\)\|", line)) for line in lines if line.startswith("|")}
    assert len(columns) == 1
    assert "<img" not in "\n".join(lines) and "](http" not in "\n".join(lines).replace("\\]", "")


def test_escape_sequences_do_not_reach_the_terminal():
    assert "\x1b" not in table([results(second="\x1b]0;title\x07 \x1b[2J")])


@pytest.mark.parametrize("many", [[results()], [results(), results(PI)]], ids=["one device", "two devices"])
def test_the_page_needs_nothing_from_elsewhere_and_can_be_read_without_eyes(many: list[Results]):
    text = page(many)
    reader = Reader(text)
    # Chart specifications contain the URL of their schema, which is never loaded.
    assert not re.search(
        r"https?:|@import|url\(|src=|href=", text.replace("https://vega.github.io/schema/vega/v6.json", "")
    )
    assert reader.of("html")[0]["lang"] == "en" and any(m.get("name") == "viewport" for m in reader.of("meta"))
    ids = [attributes["id"] for _, attributes in reader.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    for _, attributes in reader.tags:
        for name in (attributes.get("aria-labelledby") or "").split():
            assert name in ids
    assert len(reader.of("table")) == len(reader.of("caption")) == 1
    assert all(cell.get("scope") in ("col", "row", "rowgroup") for cell in reader.of("th"))
    assert next(name for name, _ in reader.tags if re.fullmatch("h[1-6]", name)) == "h1"
    assert "color-scheme: light dark" in text and "light-dark(" in text


def test_layers_that_a_recipe_holds_otherwise_stand_in_its_chart():
    file = ("attend-fusion", "attend-fusion", "small", "onnx", "int4-block32-dynamic")
    layers = [
        Sensitivity(*file, precision, name, size, 30.0, None)
        for name, precision, size in (("fc1", "int4", 10**6), ("qkv", "int8", 10**3), ("out", "int8", 10**3))
    ]
    found = charts([dataclasses.replace(results(), sensitivity=layers)])
    (chart,) = found.sensitivity
    assert "INT4, ONNX, int4-block32-dynamic" in chart.title
    assert [(row["label"], row["precision"]) for row in chart.data["rows"]] == [
        ("fc1", "INT4"),
        ("qkv (INT8)", "INT8"),
        ("out (INT8)", "INT8"),
    ]


def test_a_chart_has_each_row_once_and_a_front_has_each_file_once():
    found = charts([results(), results(PI)])
    assert [len(chart.data["rows"]) for chart in found.accuracy] == [8, 8, 4]
    assert {datum["id"] for chart in found.accuracy[:2] for datum in chart.data["rows"]} == set(range(16))
    assert len(found.facets) == 16 and not found.latency and not found.sensitivity
    described = found.accuracy[0].described
    assert "On the Pareto front: Attend-Fusion INT8 · LiteRT: 0.250 ms, GAP@20 0.6398." in described


def test_parts_of_memory_make_up_the_peak():
    before, after = MemoryReading(50, 50, 20, 30), MemoryReading(200, 170, 100, 70)
    line = find([results()], "attend-fusion", "litert", "int8")
    whole = dataclasses.replace(
        line, row=dataclasses.replace(line.row, memory={"before_load": before, "after_run": after})
    )
    assert memory_parts(whole, 200) == {"bare": 50, "file": 80, "anonymous": 40, "passing": 30}
    assert memory_parts(line, 50_000_000) == {"bare": 40_000_000, "network": 10_000_000}


def test_without_the_charts_library_the_page_says_what_to_install():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("edge_af.report.page.library", lambda: None)
        text = whole_page([results()])
    reader = Reader(text)
    assert "pip install vl-convert-python" in reader.text and len(text) < 100_000
    assert "chart" not in [attributes.get("class") for attributes in reader.of("div")]


def test_intervals_and_limits_stand_in_every_form():
    one = results()
    rows = [
        dataclasses.replace(
            r, limit_share=0.42, gap_at_20_delta=Delta(0.0008, -0.0002, 0.0019) if r.precision == "int8" else None
        )
        for r in one.rows
    ]
    many = [dataclasses.replace(one, rows=rows)]
    assert "+0.0008 ±0.0011" in table(many) and "42 %" in table(many)
    assert max(map(len, table(many).splitlines())) <= 140
    for text in (markdown_table(many).replace("\\", ""), page(many)):
        assert "[−0.0002, +0.0019]" in text and "42 %" in text


def test_equal_gaps_and_zero_gaps_can_be_drawn():
    one = results()
    for gap in (0.0, 0.64, 1.0):
        page([dataclasses.replace(one, rows=[dataclasses.replace(r, gap_at_20=gap) for r in one.rows])])
    page([dataclasses.replace(one, rows=one.rows[:1])])


def test_machine_readable_rows_carry_their_relations():
    found = summary(find([results()], "attend-fusion", "litert", "int8"))
    relation = found["to_baseline"]
    assert isinstance(relation, dict) and relation["p50"] == pytest.approx(0.05) and "latency_raw_us" not in found
    assert found["gap_at_20_to_fp32"] == pytest.approx(0.00075)
    json.dumps(found, allow_nan=False)


def test_report_writes_what_is_asked_for(tmp_path: Path):
    one, two = tmp_path / "one.json", tmp_path / "two.json"
    write_results(one, results())
    write_results(two, results(PI))
    done = edge_af(one, two, "--html", tmp_path / "new/page.html", "--markdown", tmp_path / "table.md")
    assert done.returncode == 0 and done.stdout.strip() == table([results(), results(PI)])
    written = (tmp_path / "new/page.html").read_text()
    assert Reader(written).of("table") and "FC Late Fusion small" in written
    assert (tmp_path / "table.md").read_text() == markdown_table([results(), results(PI)])
    done = edge_af(one, two, "--json")
    assert len(json.loads(done.stdout)["rows"]) == 16


def test_report_refuses_what_is_no_results_file(tmp_path: Path):
    good, odd = tmp_path / "good.json", tmp_path / "odd.json"
    write_results(good, results())
    for text in ("{", "[]", json.dumps({**results().as_dict(), "schema_version": 7})):
        odd.write_text(text)
        done = edge_af(good, odd, "--html", tmp_path / "page.html")
        assert done.returncode == 2 and "odd.json" in done.stderr and "Traceback" not in done.stderr
        assert done.stdout == "" and not (tmp_path / "page.html").exists()


def test_a_hidden_column_hides_its_cells():
    known = [dataclasses.replace(one, kernels="U8S8", load_ms=1.0) for one in results().rows]
    tags = Reader(page([results(rows=known)])).tags
    rows: list[list[bool]] = []
    for tag, attributes in tags:
        if tag == "tr":
            rows.append([])
        elif tag in ("th", "td") and rows:
            rows[-1].append("more" in (attributes.get("class") or "").split())
    head, *body = (row for row in rows if len(row) > 5)
    assert any(head) and len(body) == len(known)
    assert all(row == head for row in body)
