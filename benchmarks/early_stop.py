"""Savings and errors of early stopping.

    python -m benchmarks.early_stop FOLDER            # a grid with bad runs on the miniature, with and without (20 min)
    python -m benchmarks.early_stop --simulate 500    # simulated sweeps of each kind (minutes)

Prints the tables of docs/statistics.md.
"""

import argparse
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from benchmarks.planted import orchestrate
from orchestrator.config.schema import EarlyStop
from orchestrator.evidence import summary
from orchestrator.evidence.choice import Cell
from orchestrator.evidence.stats import contrast, early_stop_rule, pairs
from orchestrator.evidence.summary import RunSummary
from orchestrator.miniature import world
from orchestrator.model import Question, State
from orchestrator.plan import plan

FloatArray = npt.NDArray[np.float64]

# --- on the miniature -------------------------------------------------------------------------------------------------

RATES = (1e-3, 2e-3, 1e-4, 5e-5, 2e-5, 1e-5, 5e-6, 2e-6)
"""The first two are good, the others far too low."""
GRID = """
[dims]
learning_rate = {rates}
seed = {seeds}

[fixed]
optimizer_type = "AdamW"
optimizer_args = []
max_train_steps = {steps}
"""
TABLE = "\n[early_stop]\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """A finished sweep. steps: of all its trainings, including the stopped ones."""

    best: str
    steps: int
    stopped: int
    runs: int


def on_miniature(folder: Path, grid_text: str) -> Iterator[tuple[str, Trained]]:
    """The same grid twice: without early stopping, and with the defaults of [early_stop]."""
    world.write(folder, folder / "runs")
    grid, plain, stopping = folder / "bad.toml", folder / "orchestrate.toml", folder / "stopping.toml"
    grid.write_text(grid_text, encoding="utf-8")
    stopping.write_text(plain.read_text(encoding="utf-8") + TABLE, encoding="utf-8")
    for name, settings in (("complete", plain), ("stopped early", stopping)):
        sweep = name.replace(" ", "-")
        orchestrate("run", "--settings", str(settings), "--grid", str(grid), "--name", sweep)
        yield name, _trained(summary.gather(plan.read(settings, grid, sweep).sweep))


def _trained(found: Sequence[RunSummary]) -> Trained:
    trainings = [one for one in found if not one.run.point.is_baseline]
    return Trained(
        best=summary.rank_runs(found)[0].run.point.name,
        steps=sum(attempt.result.steps or 0 for one in trainings for attempt in one.training),
        stopped=sum(one.status.state is State.STOPPED for one in trainings),
        runs=len(trainings),
    )


# --- simulation -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """Sweeps of one kind: `arms` x `seeds` trainings, one after the other, each seed's arms in any order.

    spread: sd of the arms' true ends. losses: how much lower the first arms end. slow: largest share of the training
    before an arm starts to learn; late: the same of the first arm; these arms end as high as the others. run_sd,
    paired, picture_sd: as in benchmarks.evidence_simulation. lasting: correlation of a run's deviation at a check and
    at its end. no_face: share of images.
    """

    arms: int = 6
    seeds: int = 3
    spread: float = 0.05
    losses: tuple[float, ...] = ()
    slow: float = 0.0
    late: float = 0.0
    run_sd: float = 0.07
    paired: float = 0.5
    picture_sd: float = 0.1
    lasting: float = 0.7
    no_face: float = 0.02


FAR_WORSE = (0.3, 0.35, 0.4, 0.45)
KINDS = {
    "all arms alike": Kind(spread=0.0),
    "arms that differ a little": Kind(),
    "four of six far worse": Kind(losses=FAR_WORSE),
    "four of six far worse, run sd 0.10": Kind(losses=FAR_WORSE, run_sd=0.1),
    "24 arms alike, one seed": Kind(arms=24, seeds=1, spread=0.0),
    "5 % without a face": Kind(no_face=0.05),
    "correlation 0.3": Kind(lasting=0.3),
    "some start to learn later, by up to a quarter": Kind(slow=0.25),
    "some start to learn later, by up to half": Kind(slow=0.5),
}
PAIRS = {
    "alike, far from the others": Kind(arms=4, seeds=4, spread=0.0, losses=(0.4, 0.4)),
    "alike, near the limit": Kind(arms=4, seeds=4, spread=0.0, losses=(0.25, 0.25)),
    "alike, near the limit, 3 seeds": Kind(arms=4, seeds=3, spread=0.0, losses=(0.25, 0.25)),
    "second better by 0.1, first near the limit": Kind(arms=4, seeds=4, spread=0.0, losses=(0.25, 0.15)),
    "second better by 0.1, both near the limit": Kind(arms=4, seeds=4, spread=0.0, losses=(0.3, 0.2)),
    "second better by 0.3": Kind(arms=4, seeds=4, spread=0.0, losses=(0.3, 0.0)),
    "alike at the end, the first starts to learn at a quarter": Kind(arms=4, seeds=4, spread=0.0, late=0.25),
}
"""The question compares the first two arms."""
QUESTION = Question(id="Q", ask="Is the second arm better?", dim="arm", levels=(0, 1))
PROMPTS, SEEDS_OF_PICTURES, TOTAL = 8, 4, 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Swept:
    """One simulated sweep, by (arm, training seed).

    curves: true means of the arms at each check and at the end. means: the same of each run, with its deviation.
    stopped: the check that stopped a run. looked: image values at each check. ended: image values at the end, also of
    stopped runs.
    """

    curves: FloatArray
    means: FloatArray
    stopped: dict[tuple[int, int], int]
    looked: dict[tuple[int, int], list[dict[Cell, float]]]
    ended: dict[tuple[int, int], dict[Cell, float]]


def sweep(kind: Kind, asked: EarlyStop, rng: np.random.Generator) -> Swept:
    """As `orchestrate run` on one GPU: a training is compared with the earlier ones at the same check."""
    curves, means = truth(kind, asked, rng)
    found = Swept(curves=curves, means=means, stopped={}, looked={}, ended={})
    for seed in range(kind.seeds):
        for arm in map(int, rng.permutation(kind.arms)):
            found.looked[arm, seed] = []
            for look in range(curves.shape[1] - 1):
                found.looked[arm, seed].append(pictures(kind, means[arm, seed, look], rng, asked.pictures))
                if is_stopped(kind, asked, found, arm, seed):
                    found.stopped[arm, seed] = look
                    break
            found.ended[arm, seed] = pictures(kind, means[arm, seed, -1], rng, PROMPTS * SEEDS_OF_PICTURES)
    return found


def truth(kind: Kind, asked: EarlyStop, rng: np.random.Generator) -> tuple[FloatArray, FloatArray]:
    """Curves of the arms (arms, checks and end) and means of the runs (arms, seeds, checks and end)."""
    at = np.array([*early_stop_rule.preview_steps(TOTAL, asked.after), TOTAL]) / TOTAL
    ends = rng.normal(0.5, kind.spread, kind.arms)
    ends[: len(kind.losses)] -= kind.losses
    late = rng.uniform(0, kind.slow, kind.arms)
    late[0] += kind.late
    learned = 1 - np.exp(-np.clip(at - late[:, None], 0, None) / 0.2)
    curves = ends[:, None] * learned / learned[:, -1:]
    own = rng.normal(0, kind.run_sd * np.sqrt(1 - kind.paired), (kind.arms, kind.seeds, len(at)))
    end = own[..., -1:]
    deviation = np.concatenate([kind.lasting * end + np.sqrt(1 - kind.lasting**2) * own[..., :-1], end], axis=2)
    shared = rng.normal(0, kind.run_sd * np.sqrt(kind.paired), kind.seeds)
    return curves, curves[:, None, :] + deviation + shared[None, :, None]


def pictures(kind: Kind, mean: float, rng: np.random.Generator, count: int) -> dict[Cell, float]:
    """Image values, every prompt before a second seed; differences between prompts cancel in a pair."""
    drawn = np.where(rng.random(count) < kind.no_face, -1.0, rng.normal(mean, kind.picture_sd, count))
    return {(number % PROMPTS, number // PROMPTS): float(value) for number, value in enumerate(drawn)}


def is_stopped(kind: Kind, asked: EarlyStop, found: Swept, arm: int, seed: int) -> bool:
    """Whether the last check of a run stops it."""
    own = found.looked[arm, seed]
    others = [found.looked.get((other, seed), []) for other in range(kind.arms) if other != arm]
    compared = (
        early_stop_rule.compare(own[-1], other[len(own) - 1], asked.margin)
        for other in others
        if len(other) >= len(own)
    )
    share = early_stop_rule.per_comparison_alpha(asked.p, checks=found.curves.shape[1] - 1, others=kind.arms - 1)
    return any(one is not None and one.p < share for one in compared)


def tally(kind: Kind, asked: EarlyStop, count: int, rng: np.random.Generator) -> list[float]:
    """Shares over `count` sweeps.

    Sweeps in which the best run was stopped; in which every run of the best arm was; of the runs that end within the
    margin of the best of their seed, those stopped; runs stopped; steps saved.
    """
    steps, hits, near, runs = (
        early_stop_rule.preview_steps(TOTAL, asked.after),
        Counter[str](),
        0,
        count * kind.arms * kind.seeds,
    )
    for _ in range(count):
        one = sweep(kind, asked, rng)
        scored = {run: float(np.mean(list(values.values()))) for run, values in one.ended.items()}
        arms = [np.mean([scored[arm, seed] for seed in range(kind.seeds)]) for arm in range(kind.arms)]
        good = one.means[..., -1] > one.means[..., -1].max(axis=0) - asked.margin
        near += int(good.sum())
        hits["run"] += max(scored, key=lambda run: scored[run]) in one.stopped
        hits["arm"] += all((int(np.argmax(arms)), seed) in one.stopped for seed in range(kind.seeds))
        hits["wrong"] += sum(bool(good[run]) for run in one.stopped)
        hits["stopped"] += len(one.stopped)
        hits["saved"] += sum(TOTAL - steps[look] for look in one.stopped.values())
    return [
        hits["run"] / count,
        hits["arm"] / count,
        hits["wrong"] / near,
        hits["stopped"] / runs,
        hits["saved"] / (TOTAL * runs),
    ]


# --- contrasts with stopped runs --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """Shares over sweeps, and the mean error of the difference."""

    covered: float
    yes: float
    no: float
    bias: float


def answered(asked: EarlyStop, sweeps: Sequence[Swept], *, leave_out: bool) -> Answered:
    """leave_out: drop stopped runs as if they had failed, which the program does not do."""
    steps, held, bias = [*early_stop_rule.preview_steps(TOTAL, asked.after), TOTAL], Counter[str](), []
    for one in sweeps:
        found = contrast.evaluate_questions(list(rows(one, steps, leave_out=leave_out)), [QUESTION])[0]
        at = steps.index(found.step) if found.step else -1
        true = float(one.curves[1, at] - one.curves[0, at])
        held[found.verdict] += 1
        held["covered"] += found.interval is not None and found.interval.low <= true <= found.interval.high
        held["intervals"] += found.interval is not None
        bias += [] if found.difference is None else [found.difference - true]
    return Answered(
        covered=held["covered"] / max(held["intervals"], 1),
        yes=held[contrast.Verdict.YES] / len(sweeps),
        no=held[contrast.Verdict.NO] / len(sweeps),
        bias=float(np.mean(bias)) if bias else math.nan,
    )


def rows(one: Swept, steps: Sequence[int], *, leave_out: bool) -> Iterator[pairs.RunRow]:
    """The runs of a sweep as input of the contrast."""
    for (arm, seed), ended in one.ended.items():
        bare = pairs.RunRow(
            run=f"{arm}-{seed}", params={"arm": arm, "seed": seed}, dims=("arm", "seed"), state=State.FINISHED
        )
        looks = {steps[look]: seen(bare, values) for look, values in enumerate(one.looked[arm, seed])}
        if (arm, seed) in one.stopped:
            yield replace(bare, state=State.STOPPED, previews={} if leave_out else looks)
        else:
            yield replace(seen(bare, ended), previews=looks)


def seen(bare: pairs.RunRow, values: Mapping[Cell, float]) -> pairs.RunRow:
    """The run with the mean of each prompt."""
    by_prompt: dict[int, list[float]] = {}
    for (prompt, _), value in values.items():
        by_prompt.setdefault(prompt, []).append(value)
    return replace(bare, by_prompt={prompt: float(np.mean(found)) for prompt, found in by_prompt.items()})


# --- the tables -------------------------------------------------------------------------------------------------------


def main() -> None:
    """Prints the tables as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--rates", type=int, default=len(RATES))
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--simulate", type=int, metavar="SWEEPS")
    parser.add_argument("--after", type=float, default=EarlyStop().after)
    options = parser.parse_args()
    if options.folder:
        rates, seeds = list(RATES[: options.rates]), list(range(1, options.seeds + 1))
        grid = GRID.format(rates=rates, seeds=seeds, steps=options.steps)
        _print_trained(on_miniature(options.folder, grid))
    if options.simulate:
        asked = EarlyStop(after=options.after)
        _print_rule(asked, options.simulate)
        _print_answers(asked, options.simulate)


def _print_trained(sweeps: Iterator[tuple[str, Trained]]) -> None:
    found = dict(sweeps)
    most = max(one.steps for one in found.values())
    print("| trainings | steps | saved | stopped | best run |\n|---|---|---|---|---|")
    for name, one in found.items():
        print(f"| {name} | {one.steps} | {1 - one.steps / most:.1%} | {one.stopped} of {one.runs} | {one.best} |")


def _print_rule(asked: EarlyStop, count: int) -> None:
    print("| sweeps | best run stopped | best arm stopped | wrongly | stopped | saved |\n|---|---|---|---|---|---|")
    for name, kind in KINDS.items():
        shares = tally(kind, asked, count, np.random.default_rng(1))
        print(f"| {name} | {' | '.join(f'{100 * share:.1f} %' for share in shares)} |", flush=True)


def _print_answers(asked: EarlyStop, count: int) -> None:
    print("\n| pairs | method | covered | yes | no | off by |\n|---|---|---|---|---|---|")
    for name, kind in PAIRS.items():
        rng = np.random.default_rng(1)
        sweeps = [sweep(kind, asked, rng) for _ in range(count)]
        for method, leave_out in (("at the common step", False), ("left out", True)):
            one = answered(asked, sweeps, leave_out=leave_out)
            shares = " | ".join(f"{100 * share:.1f} %" for share in (one.covered, one.yes, one.no))
            print(f"| {name} | {method} | {shares} | {one.bias:+.3f} |", flush=True)


if __name__ == "__main__":
    main()
