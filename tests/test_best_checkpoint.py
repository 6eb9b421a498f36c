"""`checkpoints = "best"`: all checkpoints are compared on a few images, the best one is scored on all."""

import pytest
from standins.world import Heard, World

from orchestrator.evidence import choice, summary
from orchestrator.model import Result, State
from orchestrator.run.context import Stop
from orchestrator.store import state
from orchestrator.store.layout import STAGES, Run


def settle(world: World, length: str) -> None:
    world.settle(length=length)
    text = world.settings.read_text(encoding="utf-8")
    world.settings.write_text(text.replace("[generate]", '[generate]\ncheckpoints = "best"'), encoding="utf-8")
    world.ask("[dims]\nnetwork_dim = [2]\n")


def files(run: Run) -> set[str]:
    return {f"images/{path.name}" for path in run.images.iterdir()}


@pytest.mark.nightly
def test_the_best_checkpoint_is_scored_on_images_that_did_not_select_it(world: World) -> None:
    settle(world, "max_train_epochs = 3\nsave_every_n_epochs = 1")
    (planned, _) = world.session().forecast().runs
    assert (planned.images, planned.candidates) == (4, 3), "3 checkpoints on 1 of 2 prompts, the best on the other"
    world.drive()
    trained, baseline = world.sweep.runs()
    assert {state.status(run).state for run in (trained, baseline)} == {State.FINISHED}
    assert (trained.stages, baseline.stages) == (STAGES, STAGES[3:])
    assert len(files(trained)) == planned.images
    compared = {image.file for image in trained.generated_images("select")}
    assert len({image.checkpoint for image in trained.generated_images("select")}) == 3
    (checkpoint,) = {image.checkpoint for image in trained.generated_images()}
    assert len(trained.generated_images()) == 2
    assert world.session().forecast().gpu_seconds == 0
    read, _ = summary.gather(world.sweep)
    assert read.choice
    assert read.choice.checkpoint == checkpoint
    assert len(read.choice.candidates) == 3
    assert read.choice.disjoint
    assert [score.image.file for score in read.choice.reported] == list(files(trained) - compared)
    assert len(read.scores) == 4, "no image counts twice"
    assert world.rows()["network_dim=2"]["state"] == "finished"


def test_a_run_killed_between_select_and_rank_resumes(world: World) -> None:
    settle(world, "max_train_epochs = 3\nsave_every_n_epochs = 1")
    stop, only = Stop(), "network_dim=2*"

    class Ends(Heard):
        def ended(self, run: Run, stage: str, result: Result) -> None:
            super().ended(run, stage, result)
            stop.asked = 2 if stage == "select" else 0

    world.drive(world.context(listener=Ends(), stop=stop), only=only)
    run = world.run(only)
    assert [stage for stage in run.stages if run.done(stage)] == ["train", "select"]
    assert not run.attempts("rank")
    run.new_attempt("rank").open({})  # a kill before its program started
    compared = {name: (run.path / name).stat().st_mtime_ns for name in files(run)}
    world.drive(only=only)
    assert world.statuses()["network_dim=2"].state is State.FINISHED
    assert [len(run.attempts(stage)) for stage in run.stages] == [1, 1, 2, 1, 1]
    assert compared.items() <= {name: (run.path / name).stat().st_mtime_ns for name in files(run)}.items()


def test_a_single_checkpoint_is_not_compared(world: World) -> None:
    settle(world, "max_train_steps = 4")
    world.drive()
    trained, _ = world.sweep.runs()
    assert trained.stages == ("train", "generate", "score")
    read, _ = summary.gather(world.sweep)
    assert read.choice
    assert len(read.choice.reported) == 2, "all images are reported"
    assert [one.candidates for one in world.session().forecast().runs] == [0, 0]


@pytest.mark.parametrize(("prompts", "seeds", "selected"), [(12, 2, 8), (4, 2, 2), (3, 3, 3), (2, 1, 1), (2, 2, 2)])
def test_few_images_select(prompts: int, seeds: int, selected: int) -> None:
    cells = {(prompt, seed) for prompt in range(prompts) for seed in range(seeds)}
    found = choice.split(cells, choice.FEW)
    assert len(found.selection) == selected
    assert found.disjoint
    assert found.selection | found.reporting == cells
