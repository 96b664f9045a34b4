"""The documentation site in a real Chromium, opened from its folder, offline. Run with `make test-browser`."""

from __future__ import annotations

from typing import Any

import pytest
from documents import ROOT

SITE = ROOT / "site"
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(not (SITE / "docs/index.html").is_file(), reason="the site is not built (make docs)"),
]
PAGES = ("docs/index", "docs/tutorial", "docs/reference/commands", "docs/explanation/decisions", "README")


def open_page(browser: Any, name: str, **options: Any) -> tuple[Any, list[str]]:
    """Open a page without a network; return it and what went wrong."""
    context = browser.new_context(**options)
    context.set_offline(True)
    tab, wrong = context.new_page(), []
    tab.on("console", lambda message: wrong.append(message.text))
    tab.on("pageerror", lambda error: wrong.append(str(error)))
    tab.on("request", lambda one: wrong.append(one.url) if not one.url.startswith(("file:", "data:")) else None)
    tab.goto((SITE / name).with_suffix(".html").as_uri())
    return tab, wrong


@pytest.mark.parametrize("width", [390, 1300])
@pytest.mark.parametrize("colors", ["light", "dark"])
@pytest.mark.parametrize("name", PAGES)
def test_pages_are_accessible(browser: Any, name: str, colors: str, width: int):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe is not installed")
    tab, wrong = open_page(browser, name, color_scheme=colors, viewport={"width": width, "height": 900})
    assert wrong == []
    found = axe.Axe().run(tab, options={"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"]})
    assert found.violations_count == 0, found.generate_report()
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    tab.context.close()


def test_search_works_without_a_server(browser: Any):
    tab, wrong = open_page(browser, "search")
    tab.goto(f"{(SITE / 'search.html').as_uri()}?q=calibration")
    tab.wait_for_selector("#search-results li")
    assert tab.locator("#search-results li").count() >= 3 and wrong == []
    tab.context.close()
