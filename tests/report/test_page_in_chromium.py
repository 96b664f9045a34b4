"""The page in a real Chromium, opened from a file, offline. Run with `make test-browser`."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import pytest
from report_results import HOSTILE, LAPTOP, PI, results
from report_results import MANY as HISTORY

from edge_af.records.results import Gallery, GalleryPrediction, GalleryVideo, Results, Sensitivity
from edge_af.report import history
from edge_af.report.charts import charts, library
from edge_af.report.page import page

pytestmark = pytest.mark.browser

ENDING = "</script><script>document.title='broken'</script>"


def full(device: Any, **changes: Any) -> Results:
    """Return results with everything that the page can show."""
    one = results(device, **changes)
    rows = [
        dataclasses.replace(row, latency_raw_us=[900 + 7 * (i % 50) + 400 * (i % 99 == 0) for i in range(400)])
        for row in one.rows
    ]
    rows[0] = dataclasses.replace(
        rows[0], status="does-not-fit", reason=f"needs 2 GB {HOSTILE}{ENDING}", latency_ms=None, latency_raw_us=None,
        gap_at_20=None, f1_micro=None, peak_memory_bytes=None,
    )  # fmt: skip
    names = [HOSTILE, ENDING, "Guitar"]
    said = [GalleryPrediction(name, 0.9 - 0.3 * index, index != 1) for index, name in enumerate(names)]
    videos = [GalleryVideo(f"{ENDING}{i}", names, {row.key: said for row in rows}) for i in range(8)]
    layers = [
        Sensitivity("attend-fusion", "attend-fusion", "small", "tflite", "int8", "int8", name, 10**6, snr, 0.001)
        for name, snr in (("fc1", 31.0), (HOSTILE, 12.5), ("sum", None))
    ]
    return dataclasses.replace(one, rows=rows, sensitivity=layers, gallery=Gallery(1, videos))


MANY = [full(LAPTOP), full(PI)]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory, browser: Any) -> dict[str, str]:
    """URLs of the pages: results and history."""
    if library() is None:
        pytest.skip("vl-convert-python, which contains the chart library, is not installed")
    folder = tmp_path_factory.mktemp("page")
    found = {}
    for name, text in (("results", page(MANY)), ("history", history.page(HISTORY))):
        path = folder / f"{name}.html"
        path.write_text(text, encoding="utf-8")
        found[name] = path.as_uri()
    return found


@pytest.fixture
def opened(browser: Any, files: dict[str, str], request: pytest.FixtureRequest) -> Iterator[Any]:
    """The page after its charts are drawn, in the test's width and colors. Fails on console messages and requests."""
    options = getattr(request, "param", {})
    file = files[options.get("page", "results")]
    context = browser.new_context(
        viewport={"width": options.get("width", 1300), "height": 900}, color_scheme=options.get("colors", "light")
    )
    context.set_offline(True)
    tab = context.new_page()
    said: list[str] = []
    asked: list[str] = []
    tab.on("console", lambda message: said.append(message.text))
    tab.on("pageerror", lambda error: said.append(str(error)))
    tab.on("request", lambda one: asked.append(one.url))
    tab.goto(file)
    tab.wait_for_selector("html[data-drawn]")
    yield tab
    assert said == [] and asked == [file]
    context.close()


def column(tab: Any, title: str) -> list[str]:
    return tab.evaluate(
        """title => {
            const table = document.querySelector('#table table');
            const at = [...table.tHead.rows[0].cells].findIndex(cell => cell.innerText.startsWith(title));
            return [...table.tBodies[0].rows].filter(row => !row.hidden).map(row => row.cells[at].dataset.value);
        }""",
        title,
    )


def test_every_chart_is_drawn_and_named(opened: Any):
    expected = charts(MANY).all
    assert len(expected) == 8 and opened.locator(".chart svg").count() == len(expected)
    for chart in expected:
        drawn = opened.locator(f"#{chart.name} [role=graphics-document], #{chart.name}[role=graphics-document]").first
        assert (drawn.get_attribute("aria-label") or "").startswith(chart.title)
    # One of the device's 8 rows has no GAP.
    assert opened.locator("#chart-latency-0 .mark-symbol.role-mark path").count() == 7


@pytest.mark.parametrize("key", ["mouse", "keyboard"])
def test_columns_sort_both_ways_with_the_missing_last(opened: Any, key: str):
    for title, first in (("p50", "ascending"), ("GAP@20", "descending"), ("Network", "ascending")):
        button = opened.locator("thead button", has_text=title).first
        for order in (first, "descending" if first == "ascending" else "ascending"):
            if key == "mouse":
                button.click()
            else:
                button.focus()
                opened.keyboard.press("Enter")
            assert opened.locator(f"th[aria-sort={order}]").count() == 1
            values = column(opened, title)
            assert len(values) == 16
            if title == "Network":
                assert values == sorted(values, reverse=order == "descending")
                continue
            known = [float(value) for value in values if value]
            assert len(known) == 14 and values[14:] == ["", ""]
            assert known == sorted(known, reverse=order == "descending")


def test_filters_choose_rows_and_what_the_charts_show(opened: Any):
    from playwright.sync_api import expect

    points = opened.locator("#chart-latency-1 .mark-symbol.role-mark path")
    opened.locator("#filters input[name=precision][value=INT8]").uncheck(force=True)
    opened.locator("#filters input[name=runtime][value=LiteRT]").uncheck(force=True)
    assert opened.locator("#count").inner_text() == "4 of 16 rows shown"
    expect(points).to_have_count(1)
    # Only TFLite files have layers to show, and they are filtered out.
    assert not opened.locator("#layers").is_visible()
    opened.locator(f"#filters input[name=device][value='{PI.label}']").uncheck(force=True)
    assert opened.locator("#count").inner_text() == "2 of 16 rows shown"
    assert not opened.locator("#chart-latency-1").is_visible()
    opened.locator("#filters button[type=reset]").click()
    expect(opened.locator("#count")).to_have_text("16 of 16 rows shown")
    expect(points).to_have_count(7)
    assert opened.locator("#layers").is_visible()


def test_the_gallery_shows_two_networks_and_marks_hits_in_words(opened: Any):
    card = opened.locator(".card").first
    assert card.locator("h4").all_inner_texts() == ["Attend-Fusion small INT8", "FC Late Fusion small FP32"]
    assert card.locator("li.hit .mark").all_inner_texts() == ["✓"] * 4
    assert card.locator("li.miss .mark").all_inner_texts() == ["✗"] * 2
    assert opened.locator("#gallery").is_visible() and not opened.locator(".card").nth(7).is_visible()
    opened.locator("summary").click()
    assert opened.locator(".card").nth(7).is_visible()


def test_hostile_names_stay_text(opened: Any):
    assert opened.locator("img").count() == 0 and opened.title() != "broken"
    assert opened.locator("script").count() == 3
    text = opened.locator("body").inner_text()
    assert HOSTILE in text and ENDING in text
    opened.locator("#chart-sensitivity-0 .mark-rect path").first.hover()
    assert HOSTILE in opened.locator("#vg-tooltip-element.visible").inner_text()
    assert opened.locator("img").count() == 0


def test_colors_follow_the_choice(opened: Any):
    def paper() -> str:
        return opened.evaluate("getComputedStyle(document.body).backgroundColor")

    light = paper()
    opened.locator("#theme").select_option("dark")
    assert paper() != light
    opened.locator("#theme").select_option("")
    assert paper() == light


@pytest.mark.parametrize(
    "opened",
    [
        {"page": page, "width": width, "colors": colors}
        for page in ("results", "history")
        for width in (360, 1300)
        for colors in ("light", "dark")
    ],
    indirect=True,
    ids=str,
)
def test_nothing_overflows_and_the_accessibility_checker_finds_nothing(opened: Any):
    assert opened.evaluate("document.documentElement.scrollWidth <= innerWidth")
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")
    # Injected through the debugger, the checker's script needs no exception in the page's security policy.
    found = axe.Axe().run(opened)
    broken = [(one["id"], [node["html"][:200] for node in one["nodes"][:3]]) for one in found.response["violations"]]
    assert broken == []


@pytest.mark.parametrize("opened", [{"page": "history"}], indirect=True, ids=str)
def test_a_history_is_drawn_and_filtered(opened: Any):
    from playwright.sync_api import expect

    points = opened.locator("#chart-0-ratio .mark-symbol.role-mark.points path")
    expect(points).to_have_count(5)
    assert opened.locator(".chart svg").count() == 8
    labels = opened.locator("#chart-0-size_bytes .role-axis-label").first.text_content()
    assert "1010101" in labels and "01-01" in labels
    points.nth(1).hover()
    assert "slower, +5.0 % allowed" in opened.locator("#vg-tooltip-element.visible").inner_text()
    opened.locator("#filters input[name=status][value=FAILED]").uncheck(force=True)
    assert opened.locator("#count").inner_text() == "4 of 7 rows shown"
    expect(points).to_have_count(4)
    # The other pair has only failed comparisons.
    assert not opened.locator("#pair-1").is_visible()
    opened.locator("thead button", has_text="Time").first.click()
    assert opened.locator("th[aria-sort=ascending]").count() == 1
    assert opened.locator("img").count() == 0 and HOSTILE in opened.locator("body").text_content()
