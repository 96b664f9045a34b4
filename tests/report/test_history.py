"""A history of comparisons: reading, messages about damage, and escaping of names in the page."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from report_results import MANY, Reader, edge_af, entry

from edge_af.errors import EdgeAfError
from edge_af.records.history import Entry, History, read_history
from edge_af.report import history as report


def line(one: Entry, **changes: object) -> str:
    return json.dumps({"schema_version": 1, **dataclasses.asdict(one), **changes}) + "\n"


@pytest.fixture
def page(monkeypatch: pytest.MonkeyPatch) -> str:
    """The page without the chart library, which is large and slow."""
    monkeypatch.setattr("edge_af.report.page.library", lambda: "0;")
    return report.page(MANY)


def test_lines_are_read_in_order_and_what_cannot_be_used_is_named(tmp_path: Path):
    path, other = tmp_path / "history.jsonl", tmp_path / "other.jsonl"
    whole = line(entry(3))
    odd = [line(entry(), schema_version=2), line(entry(), checks=[]), line(entry(), max_slowdown=-1), "[]\n", "\xff\n"]
    path.write_bytes((whole + whole[:100] + "\n" + "".join(odd)).encode("latin-1") + line(entry(1)).encode())
    other.write_text(line(entry(2)) + "\n" + whole[:50])
    found = read_history([path, other])
    assert [one.created[8:10] for one in found.entries] == ["02", "03", "04"]
    assert found.entries[2] == entry(3)
    assert [said.partition(": line ")[2].partition(" ")[0] for said in found.skipped] == [
        "2:", "3:", "4:", "5:", "6:", "7:", "3:",
    ]  # fmt: skip
    assert "schema_version 2; this edge-af reads 1" in found.skipped[1]
    assert "checks" in found.skipped[2] and "max_slowdown: expected `float` >= 0" in found.skipped[3]


@pytest.mark.parametrize(
    "text, said",
    [
        (None, "no such history"),
        ("", "holds no comparison yet"),
        ("\n \n", "holds no comparison yet"),
        ('{"schema_version": 9}\n{', "none of 2 lines can be used. The first one: "),
    ],
)
def test_a_history_without_a_line_to_use_is_refused(tmp_path: Path, text: str | None, said: str):
    path = tmp_path / "history.jsonl"
    if text is not None:
        path.write_text(text)
    with pytest.raises(EdgeAfError, match=said):
        read_history([path])


def test_every_form_says_that_it_judges_nothing_and_what_was_left_out(page: str):
    for text in (report.table(MANY), report.markdown_table(MANY), Reader(page).text):
        assert "Verdicts never depend" in text and "1 line left out" in text
        for words in ("2026-01-06 03:04", "5555555+", "+40.0 % [+30.0 %, +50.0 %]"[:7], "CANNOT TELL", "FAILED"):
            assert words in text


def test_charts_mark_verdicts_and_draw_what_is_known(page: str):
    content = json.loads(page.split('id="content">')[1].split("</script>")[0])
    charts = {chart["name"]: chart for chart in content["charts"]}
    assert list(charts)[:4] == [f"chart-0-{name}" for name in ("ratio", "size_bytes", "peak_memory_bytes", "gap_at_20")]
    ratio = charts["chart-0-ratio"]
    assert [row["mark"] for row in ratio["data"]["rows"]] == ["held", "failed", "cannot tell", "faster", "held"]
    assert len({row["place"] for row in ratio["data"]["rows"]}) == 5
    assert len(charts["chart-0-gap_at_20"]["data"]["rows"]) == 4
    y = next(scale for scale in ratio["spec"]["scales"] if scale["name"] == "y")
    # One huge interval must not flatten the others.
    assert -90 < y["domain"][0] < -30 and 50 < y["domain"][1] < 120
    assert "Failed: 2026-01-02 03:04, 1111111: +40.0 % [+30.0 %, +50.0 %], slower" in ratio["spec"]["description"]


def test_names_that_are_markup_stay_text(page: str):
    reader = Reader(page)
    assert not reader.of("img") and not reader.of("a") and len(reader.of("script")) == 3
    assert reader.text.count('<img src=x onerror="alert(1)">') > 5
    text = report.markdown_table(MANY)
    assert "<img" not in text and "](http" not in text.replace("\\]", "")
    dark = History([entry(0, pair="\x1b[2Ja")], [])
    assert "\x1b" not in report.table(dark)


@pytest.mark.slow
def test_report_reads_a_history(tmp_path: Path):
    path = tmp_path / "history.jsonl"
    path.write_text(line(entry()) + line(entry(1, "failed")))
    done = edge_af("--history", path, "--html", tmp_path / "page.html", "--markdown", tmp_path / "table.md")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == report.table(read_history([path])).strip()
    assert (tmp_path / "table.md").read_text() == report.markdown_table(read_history([path]))
    assert Reader((tmp_path / "page.html").read_text()).of("table")
    assert len(json.loads(edge_af("--history", path, "--json").stdout)["entries"]) == 2
    for arguments in ([], ["a.json", "--history", path]):
        done = edge_af(*arguments)
        assert done.returncode == 2 and "or --history FILE" in done.stderr
