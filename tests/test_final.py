"""`run --final`: seeds of the settings, selected on some images, confirmed on others, exported."""

import csv
import hashlib
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from standins.world import World
from test_answers import run, trained_with

from orchestrator import cli
from orchestrator.evidence import choice, confirmation, summary
from orchestrator.evidence.confirmation import ConfirmationResult
from orchestrator.evidence.summary import RunSummary
from orchestrator.report import export
from orchestrator.store.layout import Sweep


def final(world: World, *more: str, command: str = "run") -> Result:
    return CliRunner().invoke(cli.main, [command, "--settings", str(world.settings), "--final", *more])


def attempts(sweep: Sweep) -> int:
    return len(list(sweep.path.rglob("attempt.json")))


@pytest.mark.nightly
def test_the_selected_seed_is_confirmed_on_other_prompts_and_exported(world: World) -> None:
    world.settle(length="max_train_epochs = 2\nsave_every_n_epochs = 1")
    text = world.settings.read_text(encoding="utf-8")
    world.settings.write_text(text.replace("[generate]", '[generate]\ncheckpoints = "all"'), encoding="utf-8")
    planned = final(world, "--seeds", "2", command="plan")
    assert "final: 2 trainings and 1 baseline" in planned.output
    done = final(world, "--seeds", "2")
    assert done.exit_code == 0, done.output
    sweep = Sweep(world.folder / "runs" / "final")
    found = summary.gather(sweep)
    trained = [one for one in found if not one.run.point.is_baseline]
    assert [one.run.point.params["seed"] for one in trained] == [1, 2]
    (best,) = [one for one in trained if one.confirmation]
    assert best.choice
    assert best.choice.candidates[0].selection_mean == max(
        one.choice.candidates[0].selection_mean for one in trained if one.choice
    )
    assert best.confirmation
    assert not {score.image.text for score in best.confirmation.scores} & best.choice.selection_texts
    assert best.confirmation.gain is not None, "the baseline is confirmed, too"
    (row,) = (row for row in csv.DictReader((sweep.report / "confirm.csv").open()) if row["run"] == best.run.point.name)
    assert f"Similarity to quote: {float(row['confirmed_similarity']):.3f}" in done.output.splitlines()[-1]
    (lora,) = (sweep.path / "export").rglob("*.safetensors")
    chosen = next(one for one in best.run.checkpoints() if one.file == best.choice.checkpoint)
    assert hashlib.sha256(lora.read_bytes()).hexdigest() == chosen.sha256
    before = attempts(sweep)
    again = final(world, "--seeds", "2")
    assert (again.exit_code, attempts(sweep)) == (0, before), "a second time makes nothing again"
    assert again.output.splitlines()[-1] == done.output.splitlines()[-1]


def biased(name: str, selected: float, reported: float) -> RunSummary:
    """A run with different similarities on the images for selection and on the reported ones."""
    made = run({"name": name}, 0.0)
    halves = choice.split({choice.cell(score) for score in made.scores})
    scores = tuple(
        replace(one, similarity=selected if choice.cell(one) in halves.selection else reported) for one in made.scores
    )
    return replace(made, scores=scores, choice=choice.choose(scores, halves))


def test_runs_are_ranked_by_the_images_for_selection() -> None:
    runs = [biased("a", selected=0.4, reported=0.9), biased("b", selected=0.6, reported=0.3)]
    assert summary.rank_runs(runs, by_selection=True) == runs[::-1]
    assert summary.rank_runs(runs) == runs


def confirmed(name: str, value: float, *, degraded: bool = False) -> RunSummary:
    comparison = confirmation.confirmation({0: 0.5}, {0: value})
    assert comparison
    training = (trained_with(degraded=degraded),)
    result = ConfirmationResult(scores=(), comparison=comparison)
    return replace(run({"name": name}, 0.5, training=training), confirmation=result)


def test_the_best_confirmed_run_is_exported() -> None:
    ranked = [run({"name": "a"}, 0.9), confirmed("b", 0.4), confirmed("c", 0.5), confirmed("d", 0.6, degraded=True)]
    assert export.choose(ranked, "", Sweep(Path("s"))) == ranked[2]
    assert export.choose(ranked[:1], "", Sweep(Path("s"))) == ranked[0]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["run", "--final", "grid.toml"], "name no grid"),
        (["run", "grid.toml", "--seeds", "2"], "--seeds belongs to --final"),
        (["run", "--final", "--only", "seed=1"], "leave out --only"),
    ],
)
def test_contradicting_options_are_refused(words: list[str], message: str, tmp_path: Path) -> None:
    result = CliRunner().invoke(cli.main, [*words, "--settings", str(tmp_path / "none.toml")])
    assert result.exit_code == 2
    assert message in result.output
