"""The vote page in headless Chromium, by keyboard only and at phone width."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from test_page_browser import CHROMIUM, browser, playwright  # noqa: F401 (a fixture)

from benchmarks import page as sweeps
from orchestrator.evidence import ballot, summary, vote_design
from orchestrator.evidence.ballot import Ballot
from orchestrator.evidence.summary import SweepSummary
from orchestrator.report import vote_page
from orchestrator.store.layout import Sweep

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on the PATH: apt-get install chromium")
PROMPT = "</script><b>prompt</b>"


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> tuple[SweepSummary, Ballot, Path]:
    folder = tmp_path_factory.mktemp("vote")
    sweep = Sweep(folder / "runs" / "s")
    album = sweeps.album(folder / "album", px=64, count=3)
    sweeps.write(sweep, 2, sweeps.Made(album=album, prompts=(PROMPT, "another"), seeds=2))
    read = summary.read(sweep)
    design, _ = vote_design.design(read, best=2, pairs=3, singles=2)
    ballot.write(sweep, design)
    return read, design, vote_page.write(read, design)


@pytest.fixture
def tab(browser, made) -> Iterator["playwright.Page"]:  # noqa: F811
    """The page, opened from disk; afterwards: no errors in the console, no requests except the file."""
    opened, messages, asked = browser.new_page(viewport={"width": 1280, "height": 900}), [], []
    opened.on("console", lambda message: messages.append(message.text))
    opened.on("pageerror", lambda error: messages.append(str(error)))
    opened.on("request", lambda request: asked.append(request.url))
    opened.goto(made[2].as_uri())
    yield opened
    assert messages == []
    assert {url.split(":")[0] for url in asked if url != made[2].as_uri()} <= {"data", "blob"}
    opened.context.clear_cookies()
    opened.close()


def start(tab, name: str) -> None:
    tab.keyboard.type(name)
    tab.keyboard.press("Enter")


def save(tab, path: Path) -> Path:
    with tab.expect_download() as waiting:
        tab.keyboard.press("s")
    waiting.value.save_as(path)
    return path


def test_a_person_votes_by_keyboard_and_the_file_is_imported(tab, made, tmp_path):
    read, design, _ = made
    start(tab, "Ann")
    pressed = []
    for trial in design.trials:
        for question in ("persona", "image") if trial.right else ("publish",):
            key = ("ArrowLeft", "ArrowDown", "ArrowRight")[len(pressed) % 3] if trial.right else "ArrowRight"
            pressed.append((trial.id, question, key))
    total = len(pressed)
    for number, (_, question, key) in enumerate(pressed):
        assert tab.locator("#count").inner_text() == f"{number + 1} of {total}"
        expected = ballot.QUESTIONS.get(question, "Would you publish this image?")
        assert tab.locator("#question").inner_text() == expected
        assert tab.locator("#left").evaluate("one => one.decode().then(() => one.naturalWidth)") == 64
        tab.keyboard.press(key)
    playwright.expect(tab.get_by_role("heading", name="All questions are answered")).to_be_visible()
    tab.keyboard.press("Backspace")
    tab.keyboard.press("ArrowLeft" if design.trials[-1].right is None else "ArrowRight")
    path = save(tab, tmp_path / "votes.json")
    sheet, is_new = ballot.import_sheet(read.sweep, path)
    assert is_new
    assert (sheet.voter, sheet.revision, sheet.ballot) == ("Ann", total + 1, design.id)
    meaning = {"ArrowLeft": "left", "ArrowDown": "equal", "ArrowRight": "right"}
    for identity, question, key in pressed[:-1]:
        found = getattr(sheet.answers[identity], question)
        assert found == (True if question == "publish" else meaning[key])
    assert sheet.answers[pressed[-1][0]].publish is False


def test_a_session_continues_after_a_reload(tab, tmp_path):
    start(tab, "Bob")
    tab.keyboard.press("ArrowLeft")
    tab.keyboard.press("ArrowLeft")
    first = json.loads(save(tab, tmp_path / "1.json").read_text())
    tab.reload()
    start(tab, "Bob")
    assert tab.locator("#count").inner_text().startswith("3 of ")
    tab.keyboard.press("ArrowDown")
    second = json.loads(save(tab, tmp_path / "2.json").read_text())
    assert second["session"] == first["session"]
    assert (first["revision"], second["revision"]) == (2, 3)
    tab.reload()
    start(tab, "Cleo")
    assert tab.locator("#count").inner_text().startswith("1 of ")


def test_a_name_is_required_and_the_prompt_is_text(tab):
    tab.keyboard.press("Enter")
    assert tab.locator("#start").is_visible()
    start(tab, "Dan")
    texts = set()
    while tab.locator("#vote").is_visible():
        texts.add(tab.locator("#prompt").inner_text())
        tab.keyboard.press("ArrowRight")
    assert texts == {PROMPT, "another"}


@pytest.mark.parametrize("width", [360, 390, 1440])
def test_both_images_and_the_buttons_fit_into_the_window(browser, made, width):  # noqa: F811
    tab = browser.new_page(viewport={"width": width, "height": 740})
    tab.goto(made[2].as_uri())
    start(tab, "Eve")
    assert tab.evaluate("document.documentElement.scrollWidth") == width
    boxes = [tab.locator(one).bounding_box() for one in ("#left", "#right", "#choices")]
    assert all(box["x"] >= 0 and box["x"] + box["width"] <= width for box in boxes)
    assert boxes[0]["y"] == boxes[1]["y"], "side by side"
    assert boxes[2]["y"] + boxes[2]["height"] <= 740, "no scrolling to answer"
    assert min(one.bounding_box()["height"] for one in tab.locator("#choices button").all()) >= 44
    tab.locator("#choices button").first.click()
    assert tab.locator("#count").inner_text().startswith("2 of ")
    tab.close()
