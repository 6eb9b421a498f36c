"""An edited grid: reports and answers cover its runs only, and the others stay on disk until they are pruned."""

import csv

from click.testing import CliRunner, Result
from standins.world import World

from orchestrator import cli
from orchestrator.evidence import summary
from orchestrator.model import State
from orchestrator.report import answers
from orchestrator.report.answers.answer import Answer

GRID = """
[fixed]
max_train_steps = {steps}
[dims]
network_dim = [2, 4]
seed = [1, 2]
[[question]]
id = "Q3"
ask = "Is network_dim 2 too low?"
contrast = {{ network_dim = [2, 4] }}
"""


def call(world: World, command: str, *arguments: str) -> Result:
    return CliRunner().invoke(cli.main, [command, "--settings", str(world.settings), *arguments])


def answered(world: World) -> Answer:
    ((only,),) = answers.answer_questions([summary.read(world.sweep)])
    return only


def edited(world: World) -> World:
    """Four runs of 10 steps, then the same grid with 20."""
    for steps in (10, 20):
        world.settle(length="")
        world.ask(GRID.format(steps=steps))
        world.drive()
    return world


def test_an_edited_grid_is_answered_from_its_own_runs(world: World) -> None:
    edited(world)
    found = answered(world)
    facts = dict(found.facts)
    assert facts["Runs"] == "4 of 4 runs"
    assert (found.pairs, found.replicates, found.left_out) == (2, 2, 0)
    assert "Excluded runs" not in facts
    assert len(world.rows()) == 5
    assert all(run.point.is_baseline or run.point.params["max_train_steps"] == 20 for run in world.sweep.runs())


def test_plan_counts_runs_that_are_no_longer_in_the_grid_and_prune_deletes_them(world: World) -> None:
    edited(world)
    planned = call(world, "plan", "--grid", str(world.grid))
    assert "4 runs of grid are no longer in the grid" in planned.stderr
    assert len(list(world.sweep.path.glob("*/point.json"))) == 9
    listed = call(world, "prune", "grid", "--dropped")
    assert listed.exit_code == 0
    assert len(listed.stdout.splitlines()) == 4
    assert len(list(world.sweep.path.glob("*/point.json"))) == 9
    before = answered(world)
    assert call(world, "prune", "grid", "--dropped", "--yes").exit_code == 0
    assert {path.parent.name for path in world.sweep.path.glob("*/point.json")} == {
        run.path.name for run in world.sweep.runs()
    }
    assert answered(world) == before
    assert "no longer" not in call(world, "plan", "--grid", str(world.grid)).stderr


def test_runs_return_to_the_grid_without_being_trained_again(world: World) -> None:
    edited(world)
    trained = len(world.ledger())
    world.ask(GRID.format(steps=10))
    world.drive()
    assert len(world.ledger()) == trained
    assert dict(answered(world).facts)["Runs"] == "4 of 4 runs"


def test_a_failed_run_is_not_listed_beside_its_correction(world: World) -> None:
    world.settle(length="", env={"STANDIN_TRAIN": "bad_config:network_dim=4"})
    world.ask(GRID.format(steps=10))
    world.drive()
    world.settle(length="")
    world.ask(GRID.format(steps=20))
    world.drive()
    assert set(world.states().values()) == {State.FINISHED}
    assert all(row["state"] == "finished" for row in world.rows().values())


def test_a_question_that_is_no_longer_in_the_grid_is_not_answered(world: World) -> None:
    world.ask(GRID.format(steps=4))
    world.settle(length="")
    world.drive()
    world.ask(GRID.format(steps=4).partition("[[question]]")[0])
    world.drive()
    assert answers.answer_questions([summary.read(world.sweep)]) == [()]


def test_dims_are_paired_as_the_grid_writes_them(world: World) -> None:
    """Alpha is a dim that follows from the rank: rank and half of the rank."""
    grid = GRID.format(steps=4).replace(
        "seed = [1, 2]", 'seed = [1, 2]\nnetwork_alpha = ["{{ network_dim }}", "{{ network_dim / 2 }}"]'
    )
    world.settle(length="")
    world.ask(grid)
    world.drive()
    found = answered(world)
    assert (found.pairs, found.left_out) == (4, 0)
    assert "changed with it: network_alpha" in dict(found.facts)["Compared"]


def test_follow_up_images_do_not_change_the_grid(world: World) -> None:
    world.settle(length="")
    world.ask(GRID.format(steps=4))
    world.drive()
    before = world.sweep.record()
    done = call(world, "confirm", "grid", "--top", "1")
    assert done.exit_code == 0, done.output
    assert world.sweep.record()["points"] == before["points"]
    assert world.sweep.record()["questions"] == before["questions"]


def test_the_csv_of_answers_counts_current_pairs(world: World) -> None:
    edited(world)
    assert call(world, "answer", "grid").exit_code == 0
    with (world.sweep.report / "answers.csv").open(encoding="utf-8", newline="") as file:
        assert [row["pairs"] for row in csv.DictReader(file)] == ["2"]
