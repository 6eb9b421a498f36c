"""report.html: its content for finished and unfinished sweeps, and hostile text."""

import os
import re
from dataclasses import asdict, replace
from html.parser import HTMLParser
from itertools import product
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
from PIL import Image
from scipy import stats

from benchmarks import page as paper
from orchestrator.evidence import configurations, run_metrics, summary
from orchestrator.evidence.calibration import statistics
from orchestrator.evidence.calibration.record import CalibrationRecord
from orchestrator.evidence.confirmation import Confirmation, ConfirmationResult
from orchestrator.evidence.stats.contrast import Verdict
from orchestrator.report import answers, files, html, overview, results_view
from orchestrator.report.answers.answer import Answer
from orchestrator.report.html import figures, first_screen, image_matrix, rows
from orchestrator.scoring import thumbnails
from orchestrator.store import layout, records
from orchestrator.store.layout import Run, Sweep

HOSTILE = '</script><script>alert(1)</script><img src=x onerror=alert(2)> & "quotes" `code`'


@pytest.fixture(scope="module")
def album(tmp_path_factory) -> list[Path]:
    folder = tmp_path_factory.mktemp("album") / "pictures"
    return paper.album(folder, px=96, count=4)


def made(folder: Path, album: list[Path], *, runs: int = 16, pending: int = 0, **images) -> Sweep:
    sweep = Sweep(folder / "runs" / "s")
    paper.write(sweep, runs, paper.Made(album=album, **{"seeds": 2, **images}), pending=pending)
    return sweep


def written(sweep: Sweep, answered=()) -> str:
    return html.write(summary.read(sweep), answered).read_text(encoding="utf-8")


class Seen(HTMLParser):
    """Every tag, every attribute, and the text of the table's rows."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    @property
    def chips(self) -> list[str]:
        """The kinds of the marks."""
        classes = (attrs.get("class") or "" for tag, attrs in self.tags if tag == "span")
        return [name.removeprefix("chip ") for name in classes if name.startswith("chip ")]

    def with_class(self, tag: str, name: str) -> int:
        return sum(found == tag and name in (attrs.get("class") or "").split() for found, attrs in self.tags)


def test_every_run_has_a_row_and_details(tmp_path, album):
    sweep = made(tmp_path, album)
    seen = Seen(written(sweep))
    ids = {run.point.id for run in sweep.runs()}
    assert {attrs["data-run"] for tag, attrs in seen.tags if tag == "tr" and "data-run" in attrs} == ids
    assert {attrs["id"] for tag, attrs in seen.tags if tag == "details" and "id" in attrs} == {
        f"run-{one}" for one in ids
    }
    assert seen.with_class("tr", "degraded") == 1
    assert seen.with_class("tr", "failed") == 1


def test_notices_name_unfinished_and_degraded_runs(tmp_path, album):
    text = written(made(tmp_path, album, pending=3))
    assert "4 of 17 runs are not finished (1 failed, 3 pending)" in text
    assert "1 run degraded" in text
    assert "the loss became nan by step 840. Remedy: set a smaller <code>learning_rate</code>" in text
    assert "The grid has no <code>[[question]]</code>" in text


def test_notices_count_faces_that_are_not_the_largest_or_rotated(tmp_path, album):
    read = summary.read(made(tmp_path, album, runs=2))
    one = next(run for run in read.runs if run.choice)
    first, *others = one.choice.reported
    changed = replace(first, faces=2, largest_similarity=0.1, rotation=90)
    run = replace(one, choice=replace(one.choice, reported=(changed, replace(others[0], faces=2), *others[1:])))
    notices = "\n".join(rows.missing([run], None))
    assert "In 1 of 2 images with several faces, the scored face (the most similar one) is not the largest." in notices
    assert "1 image with a face rotated" in notices
    assert "several faces" not in "\n".join(rows.missing([one], None))


def test_a_sweep_without_results_has_a_page(tmp_path, album):
    sweep = made(tmp_path, album, runs=2, pending=2)
    for name in ("scores.json", "images.json"):
        (sweep.runs()[-1].path / name).unlink()
    text = written(sweep)
    assert "There are no images yet" in text
    assert "Similarity by" not in text, "no figure without data"
    assert "Best configuration" not in text


def test_answers_have_a_verdict_a_sentence_and_details(tmp_path, album):
    answered = [
        Answer(
            id="Q3",
            ask="Too low?",
            sweep="s",
            verdict="undecided",
            sentence="Only one seed.",
            details=(("Test", "p = 0.5"),),
            needs="about 2 more seeds",
        )
    ]
    text = written(made(tmp_path, album, runs=2), answered)
    assert 'class="answer undecided"' in text
    assert text.index("Only one seed.") < text.index("<summary>Details</summary>") < text.index("p = 0.5")
    assert "about 2 more seeds" in text


def test_a_yes_at_a_cost_has_a_colour_of_its_own(tmp_path, album):
    answered = [Answer(id="Q3", ask="Too low?", sweep="s", verdict=Verdict.AT_A_COST.value, sentence="Better.")]
    text = written(made(tmp_path, album, runs=2), answered)
    (name,) = re.findall(r'class="answer ([^"]+)"', text)
    assert re.search(rf"\.answer\.{name} \{{ border-top-color: var\(--cost\)", text)
    assert ">yes, at a cost.</strong>" in text


def test_configurations_show_side_effects_with_their_intervals(tmp_path, album):
    read = summary.read(made(tmp_path, album, runs=32))
    by_prompt = {0: 0.31, 1: 0.33}

    def measured(one):
        shift = 0.001 * one.run.point.params["seed"] if not one.run.point.is_baseline else 0.0
        return replace(one, side_effects={"adherence": {at: value + shift for at, value in by_prompt.items()}})

    read = replace(read, runs=tuple(map(measured, read.runs)))
    one = configurations.group(read.runs)[0]
    seeds = [run.run.point.params["seed"] for run in one.counted]
    interval = one.side_effect_interval("adherence")
    expected = stats.t.interval(0.95, len(seeds) - 1, 0.32 + 0.001 * np.mean(seeds), 0.001 * stats.sem(seeds))
    assert interval.low <= expected[0] + 1e-9
    assert interval.high >= expected[1] - 1e-9
    row = results_view.table(read, "config").iloc[0]
    assert (row["adherence_low"], row["adherence_high"]) == pytest.approx((interval.low, interval.high))
    assert (row["value_low"], row["value_high"]) == pytest.approx((one.interval.low, one.interval.high))
    page = html.write(read).read_text(encoding="utf-8")
    assert f"{interval.low:.3f} to {interval.high:.3f}" in page


def test_requested_and_used_values_are_shown(tmp_path, album):
    text = re.sub(r"\s+", " ", written(made(tmp_path, album, runs=8)))
    assert '<del>Prodigy</del> <span class="arrow">→</span> <ins>AdamW8bit</ins>' in text


def test_numbers_that_depend_on_an_uncertain_threshold_are_marked(tmp_path, album):
    photos = np.random.default_rng(1).normal(size=(9, 16)) + 2
    found = statistics.calibrate({f"{number}.png": photo for number, photo in enumerate(photos)})
    kept = CalibrationRecord(
        face_pack="p", references="r", measured_at="", calibration=found, rejected={}, trained_on=("1.png",)
    )
    sweep = made(tmp_path, album, runs=3)
    judged = [
        replace(one, metrics=run_metrics.summary(one.choice.reported, found.thresholds))
        for one in summary.gather(sweep)
    ]
    read = replace(summary.read(sweep), runs=tuple(judged), calibration=kept)
    text = re.sub(r"\s+", " ", html.write(read).read_text(encoding="utf-8"))
    assert len(re.findall(r">\d+%\*<", text)) == len(judged), "the column of what passes"
    assert "*: the threshold is uncertain (provisional: 9 photos; trained on 1 reference)" in text
    assert "Shaded: 90 % of the reference photos (provisional: 9 photos; trained on 1 reference)." in text


def test_copying_is_flagged(tmp_path, album):
    sweep = made(tmp_path, album, runs=3)
    first, *others = summary.gather(sweep)
    copying = replace(first, metrics=replace(first.metrics, copying=True))
    assert "copying" not in Seen(written(sweep)).chips
    html.write(replace(summary.read(sweep), runs=(copying, *others)))
    assert Seen((sweep.report / html.PAGE).read_text(encoding="utf-8")).chips.count("copying") == 2, "row and details"


def test_the_confirmed_similarity_follows_the_gain(tmp_path, album):
    sweep = made(tmp_path, album, runs=2)
    first, second, baseline = summary.gather(sweep)
    answered = Confirmation(
        reported=0.5, confirmed=0.4321, confirmed_interval=None, change=-0.0679, change_interval=None, paired=False
    )
    runs = (first, replace(second, confirmation=ConfirmationResult(scores=(), comparison=answered)), baseline)
    html.write(replace(summary.read(sweep), runs=runs))
    text = (sweep.report / html.PAGE).read_text(encoding="utf-8")
    headings = re.findall(r'class="number \w*">([\w ]+)</th>', text)
    assert headings[headings.index("gain") + 1] == "confirmed"
    assert ">0.432<" in text
    assert "confirmed: the number to quote" in text


def test_the_page_has_no_external_resources_and_a_strict_policy(tmp_path, album):
    text = written(made(tmp_path, album, runs=4))
    sources = [
        attrs[key] for tag, attrs in Seen(text).tags for key in ("src", "srcset", "poster", "data") if attrs.get(key)
    ]
    assert sources == []
    assert not re.search(r"https?://(?!www\.w3\.org)", text), "no address but the name spaces of SVG"
    assert " style=" not in text, "the policy would block it"
    assert not re.search(r"\son\w+=", text)
    (style,), (script,) = (re.findall(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL) for tag in ("style", "script"))
    assert html.policy(style, script) in text.replace("&#39;", "'"), "the hashes are of what stands there"


def test_hostile_names_and_prompts_are_text(tmp_path, album):
    sweep = made(tmp_path, album, runs=4, prompts=(HOSTILE, "$math$"))
    run = sweep.runs()[0]
    (run.attempts("score")[-1].path / "log").write_text(f"{HOSTILE}\x1b[31m\x00", encoding="utf-8")
    (run.path / "train/1/config.toml").write_text(HOSTILE, encoding="utf-8")
    answered = [Answer(id="Q1", ask=HOSTILE, sweep="s", verdict="no", sentence=HOSTILE, facts=((HOSTILE, HOSTILE),))]
    text = written(sweep, answered)
    seen = Seen(text)
    assert seen.with_class("li", "answer") == 1
    assert [attrs for tag, attrs in seen.tags if tag == "img"] == [{"alt": ""}], "the one for the full size"
    assert sum(tag == "script" for tag, _ in seen.tags) == 4, "rows, the images of two prompts, and the page's own"
    assert "\x00" not in text
    assert "\x1b" not in text


def test_the_page_of_an_unchanged_sweep_is_not_written_again(tmp_path, album):
    sweep = made(tmp_path, album, runs=4)
    first = html.write(summary.read(sweep))
    before = first.stat()
    assert html.write(summary.read(sweep)).stat().st_mtime_ns == before.st_mtime_ns
    (sweep.runs()[0].path / "scores.json").unlink()
    assert html.write(summary.read(sweep)).stat().st_ino != before.st_ino


def test_only_a_report_that_shows_the_same_is_left_whatever_the_clock_says(tmp_path, album):
    sweep = made(tmp_path, album, runs=2)
    report = files.write(sweep, {})
    os.utime(report.page, (2**32, 2**32))
    report.table.write_text("left")
    assert files.write(sweep, {}, if_outdated=True).table.read_text() == "left"
    (sweep.runs()[0].path / "scores.json").unlink()
    assert files.write(sweep, {}, if_outdated=True).table.read_text() != "left"
    assert html.is_current(report.summary, report.answers) is False


def test_the_same_numbers_give_the_same_plots(tmp_path, album):
    found = summary.gather(made(tmp_path, album, checkpoints=2, strengths=(0.6, 1.0)))
    plots = [str(figure.svg) for figure in figures.figures(found)]
    assert plots == [str(figure.svg) for figure in figures.figures(found)]
    assert all(plot.startswith("<svg") for plot in plots)
    assert len(plots) == 6, [figure.title for figure in figures.figures(found)]


def test_every_scored_run_is_a_dot_with_a_link(tmp_path, album):
    found = summary.gather(made(tmp_path, album))
    by_dim = next(figure for figure in figures.figures(found) if figure.title == "Similarity by network_dim")
    scored = {one.run.point.id for one in found if one.metrics and not one.run.point.is_baseline}
    assert set(re.findall(r'href="#run-(\w+)"', str(by_dim.svg))) == scored
    assert "network_dim 16: 3 runs, mean 0." in by_dim.alt
    assert "95 % interval" in by_dim.alt


def test_checkpoints_saved_by_step_are_plotted_by_step(tmp_path, album):
    """Only the last checkpoint of such a training has an epoch."""
    sweep = made(tmp_path, album, runs=1, checkpoints=2)
    (run, _baseline) = sweep.runs()
    known = [asdict(one) for one in run.checkpoints()]
    assert [(one["epoch"], one["step"]) for one in known] == [(9, 1800), (10, 2000)]
    saved = [{**known[0], "epoch": None}, known[1]]
    records.write(run.path / layout.PRODUCTS["train"], {"attempt": 1, "checkpoints": saved})
    curve = next(figure for figure in figures.figures(summary.gather(sweep)) if figure.title == "Learning curves")
    assert "from step 1800 to 2000" in curve.alt


def test_the_learning_curve_over_training_images_is_extrapolated(tmp_path, album):
    """Runs on datasets of three sizes, each under two seeds."""
    scored = [one for one in summary.gather(made(tmp_path, album, runs=14)) if one.metrics and not one.degraded]
    trained = [one for one in scored if not one.run.point.is_baseline][:6]
    sized = [
        replace(one, trained_faces=size, run=_on(one.run, f"images-{size}", seed))
        for one, (seed, size) in zip(trained, product((1, 2), (12, 24, 36)), strict=True)
    ]
    (drawn,) = [figure for figure in figures.figures(sized) if figure.title == "Number of training images"]
    assert "72 instead of 36 images: " in drawn.caption
    assert "measured: 2 runs" in drawn.alt
    assert "from training images 12 to 36" in drawn.alt
    assert ">72<" in str(drawn.svg)
    two = [one for one in sized if one.trained_faces != 12]
    assert "Number of training images" not in {figure.title for figure in figures.figures(two)}


def _on(run: Run, dataset: str, seed: int) -> Run:
    params = {"base_model": run.point.params["base_model"], "dataset": dataset, "seed": seed}
    return replace(run, point=replace(run.point, params=params, dims=("dataset", "seed")))


def test_the_vram_plot_shows_oom_fallbacks(tmp_path, album):
    found = summary.gather(made(tmp_path, album))
    memory = next(figure for figure in figures.figures(found) if figure.title == "VRAM over time")
    assert "1 out of memory" in memory.alt
    assert ">AdamW8bit<" in str(memory.svg)


def test_figures_without_data_are_left_out(tmp_path, album):
    sweep = made(tmp_path, album, runs=4)
    for path in sweep.path.glob("*/train/*/vram.csv"):
        path.unlink()
    titles = [figure.title for figure in figures.figures(summary.gather(sweep))]
    assert titles == ["Similarity by network_dim", "Similarity by optimizer_type", "Time per run"]
    (one, *_) = summary.gather(sweep)
    assert [figure.title for figure in figures.figures([one])] == ["Time per run"], "one level is no comparison"


def test_the_losses_of_all_runs_are_in_one_figure(tmp_path, album):
    sweep = made(tmp_path, album, runs=2)
    bars = "\r".join(
        f"steps: 1%|# | {step}/90 [00:01<00:01, 1.0it/s, avr_loss={1 / step:.3f}]" for step in range(1, 91)
    )
    for path in sweep.path.glob("*/train/*/log"):
        path.write_text(bars, encoding="utf-8")
    (loss,) = [figure for figure in figures.figures(summary.gather(sweep)) if figure.title == "Loss"]
    assert loss.alt == "network_dim 8: 2 runs, mean 1.000 to 0.011 from step 1 to 90"


def test_the_validation_losses_of_all_runs_are_in_one_figure(tmp_path, album):
    sweep = made(tmp_path, album, runs=2)
    found = [replace(one, validation={300: 0.5, 600: 0.25}) for one in summary.gather(sweep)]
    (loss,) = [figure for figure in figures.figures(found) if figure.title == "Validation loss"]
    assert "mean 0.500 to 0.250 from step 300 to 600" in loss.alt


def test_the_matrix_has_a_row_for_every_run_and_checkpoint_and_the_baseline_first(tmp_path, album):
    sweep = made(tmp_path, album, runs=4, checkpoints=2)
    found = image_matrix.matrix(summary.read(sweep))
    first, *others = found.rows
    assert first.run.run.point.is_baseline
    assert [row.place for row in found.rows] == sorted(row.place for row in found.rows)
    assert {row.run.run.point.id for row in found.rows} == {run.point.id for run in sweep.runs()}
    for row in others:
        assert set(row.cells) == set(found.columns)
        one = row.run
        chosen = (one.choice.checkpoint, one.choice.strength)
        assert row.selected is (
            {(cell.image.checkpoint, cell.image.strength) for cell in row.cells.values()} == {chosen}
        )
        assert "strength 1" in row.variant
    heads, images = image_matrix.for_page(found)
    assert len({head["id"] for head in heads}) == len(heads) == 1 + 2 * 4
    for cells in images[0].values():
        for file, small, value, word in cells.values():
            assert small, file
            assert (value == -1) is (word == "no face")


def test_a_damaged_image_is_shown_as_missing(tmp_path, album):
    sweep = made(tmp_path, album, runs=2)
    run = sweep.runs()[0]
    damaged = run.path / run.generated_images()[0].file
    content = damaged.read_bytes()
    damaged.unlink()
    damaged.write_bytes(content[:50])
    _, images = image_matrix.for_page(image_matrix.matrix(summary.read(sweep)))
    assert [bool(small) for _, small, _, _ in images[0][run.point.id].values()] == [False, True]


def test_an_answer_shows_its_interval_and_two_pairs_of_images(tmp_path, album):
    sweep = made(tmp_path, album, runs=32)
    read = summary.read(sweep)
    text = html.write(read, answers.answer_questions([read])[0]).read_text(encoding="utf-8")
    assert re.search(r'class="interval".*?aria-label="difference \+0\.\d+, interval [+-]\d.*? to \+', text)
    pairs = re.findall(r"<figcaption>(typical|largest) difference: ([+-][\d.]+)</figcaption>", text)
    assert [name for name, _ in pairs] == ["typical", "largest"]
    assert abs(float(pairs[1][1])) >= abs(float(pairs[0][1]))
    links = re.findall(r'<a href="(\.\./[^"]+\.png)"', text)
    assert len(links) == 4
    shown = [unquote(link) for link in links]
    assert all((sweep.report / link).resolve().exists() for link in shown)
    assert [link.rpartition("_p")[2] for link in shown[::2]] == [link.rpartition("_p")[2] for link in shown[1::2]]


def test_the_first_screen_names_the_best_configuration_and_its_lead(tmp_path, album):
    read = summary.read(made(tmp_path, album, runs=32))
    ranked = configurations.group(read.runs)
    assert ranked[0].label in overview.best(ranked)
    assert "95 % interval" in overview.best(ranked)
    assert overview.best(ranked) in html.write(read).read_text(encoding="utf-8")
    rows = first_screen.ranking(ranked)
    assert [row.label for row in rows if row.is_best] == [rows[0].label]
    assert [row.rank for row in rows if row.is_baseline] == [""]
    values = [float(row.value) for row in rows if "degraded" not in " ".join(row.marks)]
    assert values == sorted(values, reverse=True)


def test_runs_are_listed_best_first_with_links_to_their_files(tmp_path, album):
    read = summary.read(made(tmp_path, album, runs=16, pending=1))
    table = rows.table(read, {})
    assert table[0].label.startswith("network_dim 64")
    assert table[-1].state == "pending"
    assert set(table[0].links) == {"folder", "config", "log", "checkpoint"}
    assert all((read.sweep.report / link).resolve().exists() for link in table[0].links.values())
    assert len({row.label for row in table}) == len(table)


def test_thumbnails_are_cached_until_the_image_changes(tmp_path, album):
    (tmp_path / "a.png").write_bytes(album[0].read_bytes())
    memory = tmp_path / "memory"
    first = thumbnails.thumbnails(tmp_path, ["a.png"], memory)
    kept = (memory / f"{thumbnails.LARGEST}.json").stat().st_mtime_ns
    assert thumbnails.thumbnails(tmp_path, ["a.png"], memory) == first
    assert (memory / f"{thumbnails.LARGEST}.json").stat().st_mtime_ns == kept
    Image.new("RGB", (300, 200), "red").save(tmp_path / "a.png")
    assert thumbnails.thumbnails(tmp_path, ["a.png"], memory) != first


def test_the_scorer_makes_thumbnails(world):
    world.drive()
    run = next(run for run in world.sweep.runs() if run.done("score"))
    kept = layout.thumbnails(run.path) / f"{thumbnails.LARGEST}.json"
    assert kept.exists()
    assert len(thumbnails.thumbnails(run.path, [image.file for image in run.generated_images()], kept.parent)) == len(
        run.generated_images()
    )
