"""The report page in a real browser: headless Chromium, driven by Playwright."""

import itertools
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

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
    """The page, opened from disk; afterwards: no errors in the console, no requests except the file."""
    opened, messages, asked = browser.new_page(viewport={"width": 1280, "height": 900}), [], []
    opened.on("console", lambda message: messages.append(message.text))
    opened.on("pageerror", lambda error: messages.append(str(error)))
    opened.on("request", lambda request: asked.append(request.url))
    opened.goto(report.as_uri())
    yield opened
    assert messages == []
    assert [url for url in asked if not url.startswith("data:")] == [report.as_uri()]
    opened.close()


def column(tab, heading: str) -> list[str]:
    """The texts of a column; hidden ones are shown first."""
    if tab.locator("#table.narrow").count():
        tab.get_by_label("all columns").check()
    at = tab.locator("#table thead th").all_inner_texts().index(heading)
    return [row.locator("th, td").nth(at).inner_text() for row in tab.locator("#table tbody tr:visible").all()]


def heading(tab, name: str):
    return tab.locator("#table thead").get_by_role("button", name=name)


def select(tab, name: str):
    return tab.locator(f"#filter select[data-dim={name}]")


def test_the_best_run_comes_first_and_a_click_sorts(tab):
    order = [float(text) for text in column(tab, "gain") if text][:5]
    assert order == sorted(order, reverse=True)
    heading(tab, "similarity").click()
    up = [float(text) for text in column(tab, "similarity") if text]
    assert up == sorted(up)
    assert column(tab, "similarity")[-3:] == ["", "", ""], "unknown values stand last"
    heading(tab, "similarity").click()
    down = [float(text) for text in column(tab, "similarity") if text]
    assert down == sorted(up, reverse=True)
    assert column(tab, "similarity")[-3:] == ["", "", ""]
    assert tab.locator("#table th[aria-sort=descending]").inner_text() == "similarity"


def test_numbers_sort_as_numbers_by_keyboard(tab):
    tab.get_by_label("all columns").check()
    heading(tab, "network_dim").focus()
    tab.keyboard.press("Enter")
    found = [int(text) for text in column(tab, "network_dim") if text]
    assert found == sorted(found)
    assert {8, 16, 32, 64} <= set(found)


def test_words_states_and_dims_filter(tab):
    tab.get_by_label("Find").fill("prodigy seed=2")
    assert set(column(tab, "optimizer_type")) == {"Prodigy"}
    assert set(column(tab, "seed")) == {"2"}
    assert "of 15 runs" in tab.locator("#count").inner_text()
    tab.get_by_label("Find").fill("")
    tab.get_by_label("State").select_option("failed")
    assert [text.split() for text in column(tab, "state")] == [["failed", "nan"]]
    tab.get_by_label("State").select_option("degraded")
    assert "Prodigy → AdamW8bit" in column(tab, "optimizer_type")
    tab.get_by_label("State").select_option("")
    select(tab, "network_dim").select_option("64")
    assert set(column(tab, "network_dim")) == {"64"}
    assert select(tab, "network_dim").locator("option").all_inner_texts() == ["all", "8", "16", "32", "64"]


def test_the_table_fits_at_1440_pixels_and_shows_name_and_similarity_on_a_phone(browser, report):
    for width, headings in (
        (1440, {"run", "state", "similarity", "gain", "no face", "time", "files"}),
        (390, {"run", "similarity"}),
    ):
        tab = browser.new_page(viewport={"width": width, "height": 900})
        tab.goto(report.as_uri())
        scroll = tab.locator("#runs .scroll")
        assert scroll.evaluate("one => one.scrollWidth - one.clientWidth") <= 1, width
        shown = {text for text in tab.locator("#table thead th:visible").all_inner_texts() if text}
        assert shown == headings
        tab.close()


def rows(tab):
    return tab.locator("#matrix tbody tr")


def test_the_matrix_shows_the_baseline_first_and_follows_the_filter(tab):
    assert rows(tab).first.locator("th").inner_text().startswith("baseline")
    assert tab.locator("#matrix thead th[scope=colgroup]").count() == 2
    image = tab.locator("#matrix tbody img").first
    assert image.evaluate("image => image.decode().then(() => image.naturalWidth)") > 0
    assert "similarity" in image.get_attribute("alt") or "no face" in image.get_attribute("alt")
    select(tab, "network_dim").select_option("8")
    playwright.expect(rows(tab)).to_have_count(2)
    assert {text.splitlines()[0] for text in rows(tab).locator("th").all_inner_texts()} == {
        "network_dim 8, optimizer_type AdamW8bit",
        "network_dim 8, optimizer_type Prodigy",
    }
    tab.locator("#seed").select_option("")
    playwright.expect(rows(tab)).to_have_count(4)
    tab.locator("#prompt").select_option("1")
    assert tab.locator("#matrix thead th[scope=col]").count() == 3


def test_the_worst_images_come_first(tab):
    tab.locator("#order").select_option("worst")
    values = [-1.0 if "no face" in text else float(text) for text in rows(tab).nth(1).locator("td").all_inner_texts()]
    assert len(values) == 6
    assert values == sorted(values)


def test_a_click_shows_an_image_in_full_size_with_details(browser, report):
    tab = browser.new_page(viewport={"width": 1280, "height": 900})
    errors = []
    tab.on("console", lambda message: errors.append(message.text))
    tab.goto(report.as_uri())
    tab.locator("#matrix tbody td a").nth(8).click()
    image = tab.locator("#full img")
    assert image.evaluate("image => image.decode().then(() => image.naturalWidth)") == 96
    assert (report.parent / unquote(tab.locator("#full a").get_attribute("href"))).exists()
    facts = tab.locator("#full dt").all_inner_texts()
    assert {"configuration", "training seed", "prompt", "image seed", "similarity", "run"} <= set(facts)
    tab.keyboard.press("Escape")
    playwright.expect(tab.locator("#full")).to_be_hidden()
    assert errors == []
    tab.close()


def test_a_figure_is_saved_as_svg(tab):
    with tab.expect_download() as waiting:
        tab.get_by_role("button", name="as SVG").first.click()
    text = Path(waiting.value.path()).read_text(encoding="utf-8")
    assert text.startswith("<svg")
    assert "var(--" not in text
    assert waiting.value.suggested_filename == "similarity-by-network_dim.svg"


def test_a_row_leads_to_its_run(tab):
    name = tab.locator("#table tbody th a").first.get_attribute("title")
    tab.locator("#table tbody th a").first.click()
    opened = tab.locator("details.run[open] > summary")
    assert name in opened.inner_text()
    playwright.expect(opened).to_be_focused()


def test_hostile_text_stays_text(tab):
    assert tab.title() == "sweep <b>x: report"
    assert HOSTILE in tab.locator("#matrix th.prompt").nth(1).inner_text()
    assert tab.locator("h1").inner_text() == "sweep <b>x"


@pytest.mark.parametrize("width", [360, 390, 1440, 2560])
def test_the_page_is_not_wider_than_the_window(browser, report, width):
    tab = browser.new_page(viewport={"width": width, "height": 740})
    tab.goto(report.as_uri())
    assert tab.evaluate("document.documentElement.scrollWidth") == width
    tab.close()


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
