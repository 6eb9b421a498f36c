"""Side effects of a better similarity: margins, their default, verdicts at a cost, and the Pareto set of a sweep."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from standins.world import World

from orchestrator.evidence import choice, run_metrics, side_effects, summary
from orchestrator.evidence.summary import RunSummary, SweepSummary
from orchestrator.model import FaceStatus, Image, Params, Point, Question, Score, State
from orchestrator.report import answers
from orchestrator.report.answers import answer as answer_text
from orchestrator.report.answers.answer import Answer
from orchestrator.store.layout import Run, Sweep
from orchestrator.store.state import Status

QUESTION = Question(id="Q", ask="?", dim="network_dim", levels=(16, 32))


def score(prompt: int, seed: int, similarity: float, adherence: float) -> Score:
    image = Image(file=f"p{prompt}_{seed}.png", checkpoint="c", strength=1.0, prompt=prompt, seed=seed)
    return Score(image=image, status=FaceStatus.OK, similarity=similarity, adherence=adherence, seed_distance=0.3)


def run(params: Params, similarity: float, adherence: float, **effects: Mapping[int, float]) -> RunSummary:
    name = "_".join(f"{key}={value}" for key, value in params.items())
    scores = tuple(score(prompt, seed, similarity + 0.01 * prompt, adherence) for prompt in range(4) for seed in (1, 2))
    measured = side_effects.by_prompt(scores, {}, {}) | effects
    return RunSummary(
        run=Run(Path("/nowhere") / name, Point(id="0" * 8, name=name, params=params, dims=tuple(params))),
        status=Status(state=State.FINISHED),
        training=(),
        scores=scores,
        choice=choice.choose(scores, choice.split({choice.cell(one) for one in scores})),
        metrics=run_metrics.summary(scores),
        side_effects=measured,
    )


def sweep(costs: list[float], margins: Mapping[str, float], gain: float = 0.1) -> SweepSummary:
    """One pair of runs for each cost: the second level is more similar by about `gain`, and less adherent."""
    runs = [
        one
        for seed, cost in enumerate(costs)
        for one in (
            run({"network_dim": 16, "seed": seed}, 0.5, 0.30),
            run({"network_dim": 32, "seed": seed}, 0.5 + gain + 0.001 * seed, 0.30 - cost),
        )
    ]
    return SweepSummary(sweep=Sweep(Path("/nowhere")), questions=(QUESTION,), runs=tuple(runs), margins=margins)


def answer(found: SweepSummary) -> Answer:
    ((only,),) = answers.answer_questions([found])
    return only


def test_a_yes_that_costs_more_than_a_margin_is_a_yes_at_a_cost() -> None:
    found = answer(sweep([0.03, 0.04, 0.05], {"adherence": 0.01}))
    assert found.verdict == "yes, at a cost"
    assert found.sentence.endswith("It comes at a cost of 0.040 adherence (margin 0.01).")
    effect = next(one for one in found.side_effects if one.name == "adherence")
    half = float(stats.t.ppf(0.975, 2)) * 0.01 / np.sqrt(3)
    assert effect.interval is not None
    assert (effect.change, effect.interval.low, effect.interval.high) == pytest.approx(
        (-0.04, -0.04 - half, half - 0.04)
    )
    assert dict(found.facts)["Adherence"] == "-0.040 (-0.065 to -0.015), margin 0.01"
    header, row = answer_text.table([found]).splitlines()
    cells = dict(zip(header.split(",")[-12:], row.split(",")[-12:], strict=True))
    assert (float(cells["adherence"]), float(cells["adherence_margin"])) == pytest.approx((-0.04, 0.01))
    assert (float(cells["diversity"]), cells["diversity_margin"], cells["drift"]) == (0.0, "", "")


@pytest.mark.parametrize(
    ("costs", "margins", "gain", "verdict"),
    [
        ([0.03, 0.04, 0.05], {"adherence": 0.05}, 0.1, "yes"),
        ([-0.03, -0.04, -0.05], {"adherence": 0.01}, 0.1, "yes"),
        ([0.03, 0.04, 0.05], {}, 0.1, "yes"),
        ([0.03, 0.04, 0.05], {"adherence": 0.01}, -0.1, "no"),
    ],
)
def test_costs_within_the_margin_and_other_verdicts_stay(
    costs: list[float], margins: Mapping[str, float], gain: float, verdict: str
) -> None:
    assert answer(sweep(costs, margins, gain)).verdict == verdict


def test_more_drift_is_a_cost() -> None:
    found = sweep([0.0, 0.0, 0.0], {"drift": 0.02})
    drifting = tuple(
        replace(one, side_effects={"drift": {9: 0.2 if one.run.point.params["network_dim"] == 32 else 0.1}})
        for one in found.runs
    )
    assert answer(replace(found, runs=drifting)).verdict == "yes, at a cost"


def test_the_default_margin_is_the_deviation_between_the_baselines_seeds() -> None:
    values = {(0, 1): 0.30, (1, 1): 0.32, (0, 2): 0.34, (1, 2): 0.36, (0, 3): 0.27, (1, 3): 0.29}
    scores = [score(prompt, seed, 0.1, value) for (prompt, seed), value in values.items()]
    vectors = {
        (5, seed): np.array([np.cos(angle), np.sin(angle)], "f4") for seed, angle in ((1, 0.0), (2, 0.5), (3, 0.7))
    }
    distances = [2 - np.cos(0.5) - np.cos(0.7), 2 - np.cos(0.5) - np.cos(0.2), 2 - np.cos(0.7) - np.cos(0.2)]
    found = side_effects.seed_deviations(scores, vectors)
    assert found["adherence"] == pytest.approx(np.std([0.31, 0.35, 0.28], ddof=1))
    assert found["diversity"] == pytest.approx(0.0)
    assert found["drift"] == pytest.approx(np.std(np.array(distances) / 2, ddof=1), rel=1e-4)
    one_seed = [one for one in scores if one.image.seed == 1]
    assert side_effects.seed_deviations(one_seed, {}) == {}
    two_seeds = [one for one in scores if one.image.seed != 3]
    two_vectors = {at: row for at, row in vectors.items() if at[1] != 3}
    assert side_effects.seed_deviations(two_seeds, two_vectors) == {
        "adherence": pytest.approx(np.std([0.31, 0.35], ddof=1))
    }


def test_a_declared_margin_replaces_the_default() -> None:
    found = sweep([0.04, 0.04, 0.05], {})
    baseline = run({"seed": 0}, 0.1, 0.3)
    point = replace(baseline.run.point, is_baseline=True)
    baseline = replace(baseline, run=Run(baseline.run.path, point), seed_deviations={"adherence": 0.02})
    found = replace(found, runs=(*found.runs, baseline))
    assert answer(found).verdict == "yes, at a cost"
    assert answer(replace(found, margins={"adherence": 0.06})).verdict == "yes"


def test_runs_that_are_worse_in_all_criteria_are_not_in_the_pareto_set() -> None:
    found = sweep([0.0], {"adherence": 0.01})
    assert list(found.pareto_best) == ["network_dim=32_seed=0"]
    assert len(sweep([0.04], {"adherence": 0.01}).pareto_best) == 2


def test_a_grid_overrides_margins_of_the_settings(world: World) -> None:
    text = world.settings.read_text(encoding="utf-8")
    world.settings.write_text(f"{text}\n[margins]\nadherence = 0.01\ndrift = 0.03\n", encoding="utf-8")
    world.grid.write_text(f"{world.grid.read_text(encoding='utf-8')}\n[margins]\nadherence = 0.02\n", encoding="utf-8")
    world.context()
    assert summary.read(world.sweep).margins == {"adherence": 0.02, "drift": 0.03}
