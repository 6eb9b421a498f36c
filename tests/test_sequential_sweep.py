"""Sweeps that add training seeds in rounds until every question is decided."""

import json

import pytest
from click.testing import CliRunner, Result
from standins.world import Heard, World

from orchestrator import cli
from orchestrator.errors import InputError
from orchestrator.evidence import summary
from orchestrator.evidence.stats import sequential
from orchestrator.evidence.stats.contrast import ContrastResult, TestSettings
from orchestrator.report import answers
from orchestrator.report.answers import contrasts

QUESTION = '[[question]]\nid = "Q3"\nask = "Too low?"\ncontrast = { network_dim = [2, 4] }\n'
GRID = f"[dims]\nnetwork_dim = [2, 4]\n[seeds]\nfirst = 2\nmax = 4\n{QUESTION}"


class Messages(Heard):
    def __init__(self) -> None:
        super().__init__()
        self.messages: list[str] = []

    def message(self, text: str) -> None:
        self.messages.append(text)


def call(world: World, command: str, *arguments: str) -> Result:
    return CliRunner().invoke(cli.main, [command, "--settings", str(world.settings), *arguments])


def seeds(world: World) -> list[int]:
    return sorted({int(str(run.point.params["seed"])) for run in world.sweep.runs() if not run.point.is_baseline})


def undecided(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the question stay open at the first `count` looks."""
    looks = iter([True] * count)

    def still_open(read: summary.SweepSummary, settings: TestSettings) -> list[ContrastResult]:
        found = contrasts.contrast.evaluate_together(
            [contrasts._family(read, contrasts.rows.rows(read.runs))], settings=settings
        )
        return list(found[0]) if next(looks, False) else []

    monkeypatch.setattr(contrasts, "open_questions", still_open)


def test_a_decided_sweep_stops_after_the_first_seeds(world: World) -> None:
    """The stand-ins always draw equal images, so every question is decided."""
    world.ask(GRID)
    listener = Messages()
    ended = world.session(listener=listener).run()
    assert len(ended) == 5
    assert seeds(world) == [1, 2]
    assert any("no further seeds" in line for line in listener.messages)


def test_an_open_question_gets_one_seed_at_a_time_for_all_configurations(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.ask(GRID)
    undecided(1, monkeypatch)
    listener = Messages()
    ended = world.session(listener=listener).run()
    assert seeds(world) == [1, 2, 3]
    assert len(ended) == 7
    assert all(status.state.value == "finished" for status in ended.values())
    assert any("one more seed, because it may decide Q3" in line for line in listener.messages)
    assert [line for line in listener.messages if "Q3" in line or "further" in line][-1].startswith("no further seeds")


def test_a_sweep_never_exceeds_its_maximum_and_resumes_at_its_round(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.ask(GRID)
    undecided(1, monkeypatch)
    world.session().run()
    assert {point.params["seed"] for point in world.plan().points if not point.is_baseline} == {1, 2, 3}
    undecided(99, monkeypatch)
    world.session().run()
    assert seeds(world) == [1, 2, 3, 4]
    assert world.plan().later == ()


def test_only_some_runs_start_no_round(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.ask(GRID)
    undecided(99, monkeypatch)
    world.session().run("network_dim=2*")
    assert seeds(world) == [1, 2]


def test_the_answer_names_the_round_and_the_correction(world: World) -> None:
    world.ask(GRID)
    world.session().run()
    read = summary.read(world.sweep)
    assert (read.design, read.seeds_extended) == (sequential.SequentialDesign(first=2, max=4), False)
    ((answer,),) = answers.answer_questions([read])
    assert dict(answer.facts)["Seeds"].startswith("2 of at most 4")


def test_plan_shows_the_least_and_the_most(world: World) -> None:
    world.ask(GRID)
    planned = call(world, "plan", "--grid", str(world.grid))
    assert planned.exit_code == 0, planned.output
    assert "Seeds in rounds, 2 to 4: at least 4 trainings" in planned.stdout
    assert "at most 8 trainings" in planned.stdout
    found = json.loads(call(world, "plan", "--grid", str(world.grid), "--json").stdout)
    assert (len(found["runs"]), found["most"]["runs"]) == (5, 9)
    assert found["most"]["gpu_seconds"] > found["gpu_seconds"]


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        (GRID.replace("first = 2", "first = 5"), "5 is more than max = 4"),
        (GRID.replace("first = 2", "first = 1"), "must be at least 2"),
        (GRID.replace("network_dim = [2, 4]\n[", "network_dim = [2, 4]\nseed = [1, 2]\n["), "seed is also set at"),
        (GRID.partition("[[question]]")[0], "there is no question that could decide when to stop"),
    ],
)
def test_mistakes_in_the_table_are_named(world: World, grid: str, message: str) -> None:
    world.ask(grid)
    with pytest.raises(InputError) as caught:
        world.plan()
    assert message in str(caught.value)
    assert "seeds" in str(caught.value)


def extended(world: World, *lists: str) -> bool:
    for seeds in lists:
        world.ask(f"[dims]\nnetwork_dim = [2, 4]\n{seeds}\n{QUESTION}")
        world.drive()
    return summary.read(world.sweep).seeds_extended


def test_a_seed_list_that_grows_after_results_costs_the_error_level(world: World) -> None:
    assert not extended(world, "seed = [1, 2]")
    assert extended(world, "seed = [1, 2, 3]")
    ((answer,),) = answers.answer_questions([summary.read(world.sweep)])
    assert answer.warnings == "" or "no longer holds" in answer.warnings
    assert extended(world, "seed = [1, 2]"), "the results stay known"


def test_other_points_and_unscored_runs_are_no_extension(world: World) -> None:
    assert not extended(world, "seed = [1, 2]", "seed = [1, 2, 3]\nmax_train_steps = [8]")
    world.sweep.path.rename(world.folder / "aside")
    world.ask("[dims]\nnetwork_dim = [2, 4]\nseed = [1]\n")
    world.context()
    assert not extended(world, "seed = [1, 2, 3]")


def test_a_maximum_that_is_raised_later_is_an_extension(world: World) -> None:
    world.ask(GRID)
    world.session().run()
    world.ask(GRID.replace("max = 4", "max = 6"))
    world.session().run()
    assert summary.read(world.sweep).seeds_extended
