"""Results in the terminal: the summary at the end of a run, `orchestrate results` and `orchestrate list`."""

import csv
import io
import json
from collections.abc import Iterable
from contextlib import chdir
from dataclasses import replace

import pytest
from click.testing import CliRunner, Result
from standins.world import World
from test_answers import grid, read, run

from orchestrator import cli
from orchestrator.evidence import configurations
from orchestrator.evidence.summary import RunSummary
from orchestrator.model import Failure, Params, Point, State
from orchestrator.report import overview, results_view
from orchestrator.report.labels import labels
from orchestrator.store.state import Status


def point(params: Params, *, baseline: bool = False) -> Point:
    identity = str(sorted(params.items()))
    return Point(
        id=identity, name=identity, params=params, dims=() if baseline else tuple(params), is_baseline=baseline
    )


def failed(seed: int, failure: Failure, reason: str) -> RunSummary:
    made = run({"network_dim": 64, "seed": seed}, 0.5, state=State.FAILED)
    status = Status(state=State.FAILED, stage="train", failure=failure, reason=reason)
    return replace(made, status=status, run=replace(made.run, point=point(made.run.point.params)))


# --- sentences --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("effect", "seeds", "end"),
    [
        (0.1, 4, "similarity (95 % interval +0.0"),
        (0.0001, 4, "that may be chance."),
        (0.1, 1, "add seeds to see whether that is chance."),
    ],
)
def test_the_best_configuration_is_named_with_its_lead(effect: float, seeds: int, end: str) -> None:
    text = overview.best(configurations.group(list(grid(effect, seeds=seeds))))
    assert text.startswith("Best: network_dim ")
    assert end in text
    assert ("chance" in text) == (end.endswith("chance."))


def test_the_interval_of_the_lead_is_wider_with_more_configurations() -> None:
    two = list(grid(0.1, seeds=4))
    many = [*two, *(run({"network_dim": dim, "seed": seed}, 0.2) for dim in range(40, 50) for seed in range(1, 5))]
    texts = [overview.best(configurations.group(runs)) for runs in (two, many)]
    widths = [text.partition("interval ")[2].partition(",")[0].split(" to ") for text in texts]
    assert float(widths[1][1]) - float(widths[1][0]) > float(widths[0][1]) - float(widths[0][0])


def test_a_better_baseline_is_reported() -> None:
    base = run({"base_model": "x"}, 0.9)
    base = replace(base, run=replace(base.run, point=point({"base_model": "x"}, baseline=True)))
    assert overview.best(configurations.group([*grid(0.1), base])).startswith(
        "No configuration is better than the base"
    )


def test_failures_with_one_reason_are_grouped_and_have_a_remedy() -> None:
    runs = [failed(1, Failure.NAN, "the loss became nan"), failed(2, Failure.NAN, "the loss became nan")]
    found = list(overview.failures(read([*grid(0.1), *runs, failed(3, Failure.UNKNOWN, "odd")])))
    assert [one.text for one in found] == [
        "network_dim 64, seed 1; network_dim 64, seed 2: train failed, nan: the loss became nan",
        "network_dim 64, seed 3: train failed, unknown: odd",
    ]
    assert "`learning_rate`" in found[0].remedy
    assert all("--retry failed" in one.remedy for one in found)


def test_labels_name_the_dims_that_vary_and_differ() -> None:
    points = [point({"network_dim": dim, "seed": seed, "optimizer_type": "AdamW"}) for dim in (2, 4) for seed in (1, 2)]
    assert list(labels(points).values())[:2] == ["network_dim 2, seed 1", "network_dim 2, seed 2"]
    twin = replace(points[0], id="other")
    assert len(set(labels([*points, twin]).values())) == 5
    assert labels([point({"base_model": "x"}, baseline=True)]) == {str([("base_model", "x")]): "baseline x"}


# --- tables -----------------------------------------------------------------------------------------------------------


def test_a_configuration_has_means_over_its_seeds() -> None:
    frame = results_view.table(read(with_ids(grid(0.1, seeds=3))), "config")
    assert frame["configuration"].tolist() == ["network_dim 32", "network_dim 16"]
    assert frame["runs"].tolist() == frame["scored"].tolist() == [3, 3]
    assert frame["similarity_mean"].tolist() == pytest.approx([0.615, 0.515], abs=0.005)
    assert frame["params_network_dim"].tolist() == [32, 16]
    assert "params_seed" not in frame


def with_ids(runs: Iterable[RunSummary]) -> list[RunSummary]:
    return [replace(one, run=replace(one.run, point=replace(one.run.point, id=one.run.point.name))) for one in runs]


def test_runs_are_sorted_best_first() -> None:
    frame = results_view.table(read(with_ids(grid(0.1, seeds=2))), "run")
    assert frame["params_network_dim"].tolist() == [32, 32, 16, 16]


# --- commands ---------------------------------------------------------------------------------------------------------


def invoke(world: World, *args: str) -> Result:
    with chdir(world.folder):
        return CliRunner().invoke(cli.main, args, env={"COLUMNS": "100"})


@pytest.fixture
def finished(world: World) -> World:
    world.ask("[dims]\nnetwork_dim = [2, 4]\nseed = [1, 2]\n")
    world.settle(env={"STANDIN_TRAIN": "bad_config:network_dim=4"})
    world.drive()
    return world


def test_results_in_every_form(finished: World) -> None:
    text = invoke(finished, "results", "grid").stdout
    for part in (
        "2 of 4 trainings finished",
        "network_dim 4  0 of 2",
        "network_dim 4, seed 1; network_dim 4, seed 2: train failed",
        "Next: ",
    ):
        assert part in text
    rows = json.loads(invoke(finished, "results", "runs/grid", "--json").stdout)["rows"]
    assert {row["configuration"] for row in rows} == {"network_dim 2", "network_dim 4", "baseline doll"}
    csv_text = invoke(finished, "results", "grid", "--by", "run", "--csv", "--sort", "-params_seed").stdout
    seeds = [row["params_seed"] for row in csv.DictReader(io.StringIO(csv_text))]
    assert seeds == ["1", "1", "2", "2", ""]
    table = invoke(finished, "results", "grid", "--columns", "configuration,images").stdout
    assert table.splitlines()[0].split() == ["configuration", "images"]


def test_an_unknown_column_has_a_suggestion(finished: World) -> None:
    done = invoke(finished, "results", "grid", "--sort", "similarty_mean")
    assert done.exit_code == 2
    assert "did you mean similarity_mean?" in done.stderr


def test_run_prints_the_summary_and_then_the_paths(world: World) -> None:
    lines = invoke(world, "run", "grid.toml").stdout.splitlines()
    assert any(line.startswith("configuration") for line in lines)
    assert lines[-2:] == [str(world.sweep.report / "report.html"), str(world.sweep.report / "results.csv")]
