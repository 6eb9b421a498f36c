"""Confirmation images of the best runs, stored apart from the runs' own images."""

import csv
import re
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from click.testing import CliRunner, Result
from standins.world import World

from orchestrator import cli
from orchestrator.errors import InputError
from orchestrator.evidence import confirmation as fresh
from orchestrator.evidence import run_metrics, summary
from orchestrator.kohya import resume
from orchestrator.model import FaceStatus, Image, Score, State
from orchestrator.report.followup import CONFIRM
from orchestrator.run import followup
from orchestrator.store import layout, state

FloatArray = npt.NDArray[np.float64]
GRID = "[dims]\nnetwork_dim = [2, 4, 8]\n"


def call(world: World, command: str, *arguments: str) -> Result:
    where = [command, "--settings", str(world.settings)]
    return CliRunner().invoke(cli.main, [*where, *arguments])


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, shared: Path) -> World:
    """A finished sweep of three runs and their baseline, made once."""
    made = World.build(tmp_path_factory.mktemp("finished") / "world", shared)
    made.ask(GRID)
    made.drive()
    return made


DISK = Path(__file__).parents[1] / "docs/disk.md"
WHOLE = {"images", "output", "logs", "templates", ".faces", ".thumbnails"}
"""Folders that the page describes without the names of their files."""


def test_the_page_about_files_lists_every_file_of_a_finished_sweep(finished: World) -> None:
    listed = set(re.findall(r"[\w.-]+(?:<\w+>[\w.-]+)?", DISK.read_text(encoding="utf-8")))
    runs = finished.sweep.path.parent
    written = [path.relative_to(runs) for path in runs.rglob("*") if path.is_file()]
    assert len(written) > 100
    assert {path.name for path in written if not WHOLE & set(path.parts[:-1])} - listed == set()
    assert resume._record_of(Path("output/lora-000001-state")).name.replace("000001", "<epoch>") in listed


@pytest.fixture
def scored(finished: World, tmp_path: Path) -> Iterator[World]:
    """A copy that a test may change."""
    shutil.copytree(finished.folder, tmp_path / "world")
    copied = World(folder=tmp_path / "world", shared=finished.shared)
    yield copied
    copied.kill_all()


def products(world: World) -> dict[Path, bytes]:
    """The files of the sweep's own runs, which must not change."""
    found = {path for run in world.sweep.runs() for path in run.path.rglob("*") if path.is_file()}
    return {path: path.read_bytes() for path in found if "confirm" not in path.parts}


def table(world: World) -> list[dict[str, str]]:
    with (world.sweep.report / CONFIRM).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_the_best_runs_and_their_baseline_get_new_seeds(scored: World) -> None:
    before = products(scored)
    done = call(scored, "confirm", "grid", "--top", "2")
    assert done.exit_code == 0, done.output
    assert "\nnetwork_dim 8: generate\n" in done.stderr, "runs are named by the dims that vary"
    assert products(scored) == before, "the runs' own files are unchanged"
    assert not list(scored.sweep.path.rglob(".thumbnails")), "no report shows these images"
    found = [one for one in summary.gather(scored.sweep) if one.confirmation]
    assert [one.run.point.is_baseline for one in found] == [False, False, True]
    for one in found:
        assert one.confirmation
        assert one.choice
        assert {s.image.seed for s in one.confirmation.scores} == {2}, "the sweep's only seed is 1"
        assert {s.image.text for s in one.confirmation.scores} == {s.image.text for s in one.choice.reported}
        expected = run_metrics.by_prompt(one.confirmation.scores)
        assert one.confirmation.comparison.confirmed == pytest.approx(sum(expected.values()) / len(expected))
    rows = {row["run"]: row for row in table(scored)}
    assert {name for name, row in rows.items() if row["gain"]} == {
        o.run.point.name for o in found if o.gain is not None
    }
    assert sum(row["confirmed_similarity"] != "" for row in scored.rows().values()) == 3


def test_the_best_runs_have_the_highest_reported_value(scored: World) -> None:
    best = [one for one in followup.best_runs(scored.sweep, 2) if not one.run.point.is_baseline]
    every = [one for one in summary.gather(scored.sweep) if not one.run.point.is_baseline]

    def value(one: summary.RunSummary) -> float:
        assert one.choice
        values = run_metrics.by_prompt(one.choice.reported).values()
        return sum(values) / len(values)

    assert [value(one) for one in best] == pytest.approx(sorted(map(value, every), reverse=True)[:2])


def test_a_second_call_makes_nothing_again(scored: World) -> None:
    call(scored, "confirm", "grid", "--top", "1")
    records = sorted(scored.sweep.path.rglob("confirm/*/*/*/attempt.json"))
    assert len(records) == 4, "two runs, each generated and scored"
    again = call(scored, "confirm", "grid", "--top", "1")
    assert again.exit_code == 0
    assert sorted(scored.sweep.path.rglob("confirm/*/*/*/attempt.json")) == records


def test_an_interrupted_confirmation_resumes(scored: World) -> None:
    call(scored, "confirm", "grid", "--top", "1")
    (run, *_) = [one for run in scored.sweep.runs() for one in run.confirmations() if not run.point.is_baseline]
    made = fresh.latest(run_of(scored, run), chosen(scored, run))
    for name in ("scores.json", "images.json"):
        (run.path / name).unlink()
    next(run.images.glob("*.png")).unlink()
    assert state.status(run).state is State.PENDING
    assert call(scored, "confirm", "grid", "--top", "1").exit_code == 0
    assert fresh.latest(run_of(scored, run), chosen(scored, run)) == made


def test_confirm_prompts_are_used_and_must_be_new(scored: World) -> None:
    text = scored.settings.read_text(encoding="utf-8")
    scored.settings.write_text(text.replace("[generate]", '[generate]\nconfirm_prompts = "new.txt"'), encoding="utf-8")
    prompts = scored.folder / "new.txt"
    prompts.write_text("ohwx person in a boat\nphoto of ohwx person\n", encoding="utf-8")
    refused = call(scored, "confirm", "grid")
    assert refused.exit_code == InputError.exit_code
    assert "is a prompt of the sweep, so it confirms nothing" in " ".join(refused.stderr.split())
    prompts.write_text("ohwx person in a boat\nohwx person asleep\n", encoding="utf-8")
    done = call(scored, "confirm", "grid", "--top", "1")
    assert done.exit_code == 0, done.output
    (one,) = [one for one in summary.gather(scored.sweep) if one.confirmation and not one.run.point.is_baseline]
    assert one.confirmation
    assert {s.image.text for s in one.confirmation.scores} == {"ohwx person in a boat", "ohwx person asleep"}
    assert one.confirmation.gain is not None


def test_each_confirmation_is_compared_with_the_baseline_on_its_own_prompts(scored: World) -> None:
    assert call(scored, "confirm", "grid", "--top", "2").exit_code == 0
    text = scored.settings.read_text(encoding="utf-8")
    scored.settings.write_text(text.replace("[generate]", '[generate]\nconfirm_prompts = "new.txt"'), encoding="utf-8")
    (scored.folder / "new.txt").write_text("ohwx person in a boat\nohwx person asleep\n", encoding="utf-8")
    assert call(scored, "confirm", "grid", "--top", "1").exit_code == 0
    before = gains(scored)
    (floor,) = [run for run in scored.sweep.runs() if run.point.is_baseline]
    latest = max((one.path / "scores.json" for one in floor.confirmations()), key=lambda path: path.stat().st_mtime_ns)
    latest.write_text(latest.read_text(encoding="utf-8").replace('"similarity": ', '"similarity": -'), encoding="utf-8")
    best, second = (one.run.point.name for one in followup.best_runs(scored.sweep, 2) if not one.run.point.is_baseline)
    assert gains(scored)[best] != before[best], "it was confirmed on these prompts"
    assert gains(scored)[second] == before[second], "it was confirmed on others"


def gains(world: World) -> dict[str, float | None]:
    """The gain over the baseline of each confirmed run."""
    return {one.run.point.name: one.confirmation.gain for one in summary.gather(world.sweep) if one.confirmation}


def test_a_changed_sweep_is_rejected(scored: World) -> None:
    text = scored.settings.read_text(encoding="utf-8").replace("seeds = [1]", "seeds = [1]\nsteps = 30")
    scored.settings.write_text(text, encoding="utf-8")
    refused = call(scored, "confirm", "grid")
    assert refused.exit_code == 5
    assert "generate.steps" in refused.stderr


def test_a_sweep_without_scores_has_nothing_to_confirm(world: World) -> None:
    world.context()
    refused = call(world, "confirm", "grid")
    assert refused.exit_code == 3
    assert "no run of grid is scored yet" in " ".join(refused.stderr.split())


def test_seeds_of_the_same_prompts_are_compared_prompt_by_prompt() -> None:
    """Prompts differ by far more than the change, so only the paired interval excludes zero."""
    reported = {prompt: 0.1 * prompt + 0.03 + 0.001 * (prompt % 2) for prompt in range(8)}
    again = {prompt: 0.1 * prompt for prompt in range(8)}
    paired = fresh.confirmation(reported, again)
    unpaired = fresh.confirmation(reported, {prompt + 100: value for prompt, value in again.items()})
    assert paired
    assert unpaired
    assert paired.change == unpaired.change == pytest.approx(-0.0305)
    assert paired.change_interval
    assert unpaired.change_interval
    assert paired.change_interval.high < 0 < unpaired.change_interval.high


def test_a_selected_strength_is_confirmed_on_prompts_outside_the_selection_and_paired(world: World) -> None:
    """With four prompts and two strengths, two prompts select the strength; the others report and confirm it.

    The fifth prompt has no trigger, so its images measure drift only.
    """
    prompts = world.folder / "five.txt"
    places = "".join(f"ohwx person {place}\n" for place in ("at sea", "in bed", "at work", "asleep"))
    prompts.write_text(f"{places}a quiet street\n", encoding="utf-8")
    text = world.settings.read_text(encoding="utf-8").replace(
        f'prompts = "{world.shared}/prompts.txt"', f'prompts = "{prompts}"\nstrengths = [0.5, 1.0]'
    )
    world.settings.write_text(text, encoding="utf-8")
    world.drive()
    done = call(world, "confirm", "grid", "--top", "1")
    assert done.exit_code == 0, done.output
    (one,) = [one for one in summary.gather(world.sweep) if one.confirmation and not one.run.point.is_baseline]
    assert one.confirmation
    assert one.choice
    reported = {s.image.text for s in one.choice.reported}
    assert len(reported) == len(one.choice.selection_texts) == 2
    assert {s.image.text for s in one.confirmation.scores} == reported
    (confirmed_run,) = one.run.confirmations()
    made = {image.text for image in confirmed_run.generated_images()}
    assert made == reported, "no image is generated for a prompt of the selection, or for drift only"
    assert one.confirmation.comparison.paired
    assert one.confirmation.comparison.change_interval
    assert one.confirmation.comparison.reported == pytest.approx(mean(one.choice.reported))
    assert one.confirmation.reported_gain == pytest.approx(one.gain)
    row = next(row for row in table(world) if row["run"] == one.run.point.name)
    assert (row["paired"], row["new_prompts"]) == ("yes", "yes")
    assert "on the same prompts" in " ".join(done.output.split())


def mean(scores: Sequence[Score]) -> float:
    """Mean image value by prompt."""
    values = run_metrics.by_prompt(scores).values()
    return sum(values) / len(values)


def test_the_best_confirmed_run_is_corrected_for_its_selection(scored: World) -> None:
    done = call(scored, "confirm", "grid", "--top", "3")
    output = " ".join(done.output.split())
    assert "was selected as the best of 3 confirmed runs, so its value is too high" in output
    trained = [row for row in table(scored) if row["run"] in {o.run.point.name for o in confirmed(scored)}]
    assert [float(row["optimism"]) > 0 for row in trained] == [True, False, False]
    first = trained[0]
    corrected = float(first["confirmed_similarity"]) - float(first["optimism"])
    assert float(first["corrected_similarity"]) == pytest.approx(corrected, abs=1e-5)
    assert f"quote {corrected:.3f}" in output


def confirmed(world: World) -> list[summary.RunSummary]:
    """The confirmed runs with a LoRA."""
    return [one for one in summary.gather(world.sweep) if one.confirmation and not one.run.point.is_baseline]


def test_the_optimism_among_equal_runs_is_the_mean_excess_of_the_best() -> None:
    """Simulated: three equal runs on eight common prompts of different difficulty."""
    rng = np.random.default_rng(1)
    excess, stated = [], []
    for _ in range(300):
        values = 0.5 + rng.normal(0, 0.1, 8) + rng.normal(0, 0.05, (3, 8))
        results = [result(row) for row in values]
        excess.append(values.mean(axis=1).max() - values.mean())
        stated.append(fresh.optimism(results))
    assert np.mean(stated) == pytest.approx(np.mean(excess), rel=0.08)
    assert fresh.optimism(results[:1]) == 0.0
    assert fresh.optimism([result(values[0, :1]), result(values[1, :1])]) is None


def result(values: FloatArray) -> fresh.ConfirmationResult:
    """The confirmation of a run with one image for each prompt."""
    scores = tuple(
        Score(
            image=Image(file=f"{n}", checkpoint="c", strength=1.0, prompt=n, seed=1, text=f"prompt {n}"),
            status=FaceStatus.OK,
            similarity=float(value),
        )
        for n, value in enumerate(values)
    )
    by_prompt = run_metrics.by_prompt(scores)
    comparison = fresh.confirmation(by_prompt, by_prompt)
    assert comparison
    return fresh.ConfirmationResult(scores=scores, comparison=comparison)


# --- helpers ----------------------------------------------------------------------------------------------------------


def run_of(world: World, confirmation: layout.Run) -> layout.Run:
    return next(run for run in world.sweep.runs() if run.path == confirmation.path.parents[1])


def chosen(world: World, confirmation: layout.Run) -> summary.Choice:
    path = confirmation.path.parents[1]
    found = next(one.choice for one in summary.gather(world.sweep) if one.run.path == path)
    assert found
    return found
