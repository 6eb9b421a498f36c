"""The report page in a real browser: headless Chromium, driven by Playwright."""

import itertools
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks import page as paper
from orchestrator.evidence import summary
from orchestrator.report import html
from orchestrator.store.layout import Sweep

playwright = pytest.importorskip(
    "playwright.sync_api", reason="no Playwright: pip install -c constraints.txt playwright"
)
CHROMIUM = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on the PATH: apt-get install chromium")

HOSTILE = '<img src=x onerror="document.title=1"></script><script>document.title=2</script>'
_QUIET = ["--disable-gpu", "--disable-background-networking", "--disable-component-update", "--disable-sync"]


@pytest.fixture(scope="module")
def report(tmp_path_factory) -> Path:
    """The page of a sweep with 12 runs of which two are pending, one failed and one is degraded."""
    folder = tmp_path_factory.mktemp("browser")
    sweep = Sweep(folder / "runs" / "sweep <b>x")
    album = paper.album(folder / "album", px=96, count=4)
    paper.write(sweep, 14, paper.Made(album=album, seeds=3, prompts=("a portrait", HOSTILE)), pending=2)
    return html.write(summary.read(sweep))


@pytest.fixture(scope="module")
def browser() -> Iterator["playwright.Browser"]:
    with playwright.sync_playwright() as started:
        root = ["--no-sandbox"] if os.geteuid() == 0 else []
        chromium = started.chromium.launch(executable_path=CHROMIUM, args=[*_QUIET, *root])
        yield chromium
        chromium.close()


@pytest.fixture
def tab(browser, report) -> Iterator["playwright.Page"]:
    """The page, opened from disk; afterwards: no error was told, and nothing but the file was asked for."""
    opened, told, asked = browser.new_page(viewport={"width": 1280, "height": 900}), [], []
    opened.on("console", lambda message: told.append(message.text))
    opened.on("pageerror", lambda error: told.append(str(error)))
    opened.on("request", lambda request: asked.append(request.url))
    opened.goto(report.as_uri())
    yield opened
    assert told == []
    assert [url for url in asked if not url.startswith("data:")] == [report.as_uri()]
    opened.close()


def column(tab, heading: str) -> list[str]:
    at = tab.locator("#table thead th").all_inner_texts().index(heading)
    return [row.locator("th, td").nth(at).inner_text() for row in tab.locator("#table tbody tr:visible").all()]


def test_a_click_sorts_and_another_turns_round(tab):
    tab.get_by_role("button", name="similarity").click()
    up = [float(text) for text in column(tab, "similarity") if text]
    assert up == sorted(up)
    assert column(tab, "similarity")[-3:] == ["", "", ""], "what is not known stands last"
    tab.get_by_role("button", name="similarity").click()
    down = [float(text) for text in column(tab, "similarity") if text]
    assert down == sorted(up, reverse=True)
    assert column(tab, "similarity")[-3:] == ["", "", ""]
    assert tab.locator("#table th[aria-sort=descending]").inner_text() == "similarity"


def test_numbers_sort_as_numbers_by_keyboard(tab):
    tab.get_by_role("button", name="network_dim").focus()
    tab.keyboard.press("Enter")
    found = [int(text) for text in column(tab, "network_dim") if text]
    assert found == sorted(found)
    assert {8, 16, 32, 64} <= set(found)


def test_words_and_states_filter(tab):
    tab.get_by_label("Find").fill("prodigy seed=2")
    assert set(column(tab, "optimizer_type")) == {"Prodigy"}
    assert set(column(tab, "seed")) == {"2"}
    assert "of 15 runs" in tab.locator("#count").inner_text()
    tab.get_by_label("Find").fill("")
    tab.get_by_label("Show").select_option("failed")
    assert [text.split() for text in column(tab, "state")] == [["failed", "nan"]]
    tab.get_by_label("Show").select_option("degraded")
    assert "Prodigy → AdamW8bit" in column(tab, "optimizer_type")


def test_a_contact_sheet_opens_with_the_rows_of_the_table(tab):
    tab.get_by_label("Find").fill("network_dim=64")
    tab.locator("details.sheet summary").nth(1).click()
    sheet = tab.locator("details.sheet").nth(1)
    rows = sum(row.is_visible() for row in tab.locator("#table tbody tr").all())
    playwright.expect(sheet.locator("h3")).to_have_count(rows)
    picture = sheet.locator("img").first
    assert picture.evaluate("image => image.decode().then(() => image.naturalWidth)") > 0
    assert "similarity" in picture.get_attribute("alt") or "no face" in picture.get_attribute("alt")


def test_an_original_is_where_its_picture_leads(tab, report):
    link = tab.locator("details.sheet[open] a").first.get_attribute("href")
    assert (report.parent / link.replace("%3D", "=")).exists()


def test_a_row_leads_to_its_run(tab):
    name = tab.locator("#table tbody th .unseen").first.inner_text()
    tab.locator("#table tbody th a").first.click()
    opened = tab.locator("details.run[open] > summary")
    assert name in opened.inner_text()
    playwright.expect(opened).to_be_focused()


def test_hostile_words_are_text(tab):
    assert tab.title() == "sweep <b>x: report"
    assert HOSTILE in tab.locator("details.sheet summary").nth(1).inner_text()
    assert tab.locator("h1").inner_text() == "sweep <b>x"


def test_nothing_is_wider_than_a_phone(browser, report):
    phone = browser.new_page(viewport={"width": 360, "height": 740})
    phone.goto(report.as_uri())
    assert phone.evaluate("document.documentElement.scrollWidth") == 360
    phone.close()


def test_headings_are_in_order_and_everything_has_a_name(tab):
    levels = [int(tag[1]) for tag in tab.locator("h1, h2, h3").evaluate_all("all => all.map((one) => one.tagName)")]
    assert levels[0] == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))
    unnamed = tab.locator("img:not([alt]), .plot:not([aria-label]), input:not(label input), select:not(label select)")
    assert unnamed.count() == 0


def test_the_dark_page_is_dark(browser, report):
    night = browser.new_page(color_scheme="dark")
    night.goto(report.as_uri())
    assert night.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(19, 21, 25)"
    night.close()
