"""Coverage and error rates of the verdicts in simulations:  python -m benchmarks.evidence_simulation

Prints the tables of docs/statistics.md from 2,000 simulated sweeps each (minutes on one core); `--sweeps 200` is quick.
"""

import argparse
import itertools
import math
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy import stats

from orchestrator.evidence.calibration import statistics
from orchestrator.evidence.stats import contrast, estimates, learning_curve, pairs, pass_rate, sequential
from orchestrator.evidence.stats.estimates import Estimate, Interval
from orchestrator.model import Question, SequentialDesign, State

FloatArray = npt.NDArray[np.float64]
QUESTION = Question(id="Q3", ask="Is network_dim 16 too low?", dim="network_dim", levels=(16, 32))


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """A grid (2 ranks x cells of other dims x training seeds) and the truth behind its similarities.

    run_sd: of a run's mean around its settings. paired: the share of that variance which a training seed gives to all
    runs. shared: of what remains, the share that a seed repeats at every cell of the other dims. prompt_effect_sd: how
    differently prompts answer to the rank. interaction: how much the effect differs between cells (it sums to zero).
    no_face: share of images without a face, at both ranks. collapse: share of runs at the second rank whose images
    are 0.3 worse; skewed: their noise is exponential. The truth includes both, so without an effect it is zero.
    gain: each rank has a baseline of its own with as many images of each prompt, as each base model has; its noise is
    common to all seeds.
    """

    effect: float = 0.0
    seeds: int = 3
    cells: int = 1
    prompts: int = 8
    pictures: int = 4
    run_sd: float = 0.07
    paired: float = 0.5
    shared: float = 0.0
    prompt_effect_sd: float = 0.0
    picture_sd: float = 0.1
    interaction: float = 0.0
    no_face: float = 0.0
    collapse: float = 0.0
    skewed: bool = False
    gain: bool = False

    @property
    def truth(self) -> float:
        """Expected difference of the mean image value."""
        return self.effect * (1 - self.no_face)


def sweeps(world: World, count: int, rng: np.random.Generator) -> FloatArray:
    """(count, 2 ranks, cells, seeds, prompts): mean image values of simulated sweeps."""

    def noise(variance: float, *shape: int) -> FloatArray:
        return rng.normal(0.0, math.sqrt(variance), (count, *shape))

    c, s, p, own = world.cells, world.seeds, world.prompts, world.run_sd**2 * (1 - world.paired)
    base = 0.5 + noise(0.05**2, 1, c, 1, 1) + noise(world.run_sd**2 * world.paired, 1, 1, s, 1)
    deviation = noise(own * world.shared, 2, 1, s, 1) + noise(own * (1 - world.shared), 2, c, s, 1)
    if world.skewed:
        deviation[:, 1] = math.sqrt(own) * (1 - rng.exponential(1.0, (count, c, s, 1)))
    if world.collapse:
        deviation[:, 1] -= 0.3 * ((rng.random((count, c, s, 1)) < world.collapse) - world.collapse)
    prompts = noise(0.08**2, 1, 1, 1, p) + noise(world.prompt_effect_sd**2 / 2, 2, 1, 1, p)
    effect = world.effect + world.interaction * np.linspace(-1, 1, c) if c > 1 else np.full(1, world.effect)
    if world.gain:
        prompts = prompts - noise(world.picture_sd**2 / world.pictures, 2, 1, 1, p)
    means = base + deviation + prompts + np.multiply.outer([0.0, 1.0], effect)[None, :, :, None, None]
    images = means[..., None] + noise(world.picture_sd**2, 2, c, s, p, world.pictures)
    missing = rng.random(images.shape) < world.no_face
    values: FloatArray = np.where(missing, -1.0, images).mean(axis=-1)
    return values


def rows(sweep: FloatArray) -> list[pairs.RunRow]:
    """The runs of one sweep (2 ranks, cells, seeds, prompts)."""
    return [
        pairs.RunRow(
            run=f"{rank}-{cell}-{seed}",
            params={"network_dim": (16, 32)[rank], "network_alpha": (8, 16)[rank], "unet_lr": cell, "seed": seed},
            dims=("network_dim", "unet_lr", "seed"),
            state=State.FINISHED,
            by_prompt=dict(enumerate(sweep[rank, cell, seed].tolist())),
        )
        for rank, cell, seed in np.ndindex(sweep.shape[:3])
    ]


def answer_all(world: World, count: int, rng: np.random.Generator) -> Iterator[contrast.ContrastResult]:
    """The answer of each of `count` sweeps."""
    for sweep in sweeps(world, count, rng):
        yield contrast.evaluate_questions(rows(sweep), [QUESTION])[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """Shares over the sweeps."""

    covered: float
    yes: float
    no: float
    half_width: float


def tally(world: World, count: int, rng: np.random.Generator) -> Tally:
    """Coverage of the interval, and shares of the verdicts."""
    found = list(answer_all(world, count, rng))
    intervals = [a.interval for a in found if a.interval]
    verdicts = Counter(a.verdict for a in found)
    return Tally(
        covered=sum(holds(i, world.truth) for i in intervals) / len(found),
        yes=verdicts[contrast.Verdict.YES] / len(found),
        no=verdicts[contrast.Verdict.NO] / len(found),
        half_width=float(np.median([(i.high - i.low) / 2 for i in intervals])),
    )


def matching_verdicts(world: World, count: int, rng: np.random.Generator) -> tuple[float, float, int]:
    """For undecided sweeps, repeated with the requested seeds and the measured difference as the truth: the share with
    the matching verdict, the median number of added seeds, and the number of such sweeps."""
    kept, added = [], []
    for pilot in answer_all(world, count, rng):
        if pilot.needs is None or pilot.difference is None:
            continue
        larger = replace(world, effect=pilot.difference, seeds=pilot.replicates + pilot.needs.replicates)
        wanted = contrast.Verdict.YES if pilot.difference >= pilot.settings.smallest else contrast.Verdict.NO
        kept.append(next(answer_all(larger, 1, rng)).verdict is wanted)
        added.append(pilot.needs.replicates)
    return float(np.mean(kept)), float(np.median(added)), len(kept)


@dataclass(frozen=True, slots=True, kw_only=True)
class Looks:
    """Sweeps that are tested after 3 to 12 seeds, and end when no question is open.

    yes, no: shares of the questions. any_yes, any_no: shares of the sweeps with such a verdict on some question.
    uncorrected_yes: the same as any_yes with the test of a fixed number of seeds and Holm's correction at every look.
    seeds: mean number. fixed: the seeds of a sweep with a fixed number of them, the same split of the error level, and
    the same power for yes, at most 99 %; 0 without an effect.
    """

    yes: float
    no: float
    any_yes: float
    any_no: float
    uncorrected_yes: float
    seeds: float
    fixed: int


def looks(
    effect: float,
    count: int,
    rng: np.random.Generator,
    *,
    questions: int = 1,
    sd: float = 0.07,
    smallest: float = 0.02,
) -> Looks:
    """Differences of seeds with mean `effect` and standard deviation `sd`, independent for each question."""
    design, alpha = SequentialDesign(first=3, max=12), 0.05
    nominal = sequential.nominal_level(design, alpha / questions)
    verdicts, uncorrected, seeds = [], 0, 0
    for values in rng.normal(effect, sd, (count, questions, design.max)):
        looked = [[_found(row[:n]) for row in values] for n in range(design.first, design.max + 1)]
        uncorrected += any(
            any(
                p < alpha and found.mean >= smallest
                for found, p in zip(look, contrast.holm([found.p_value(0.0) for found in look]), strict=True)
            )
            for look in looked
        )
        for look in looked:
            decided = [_verdict(found, nominal, smallest) for found in look]
            chances = (
                sequential.chance_to_decide(found, design, nominal=nominal, smallest=smallest, draws=200)
                for found, verdict in zip(look, decided, strict=True)
                if not verdict
            )
            if all(chance < sequential.MIN_CHANCE for chance in chances):
                break
        verdicts.append(decided)
        seeds += look[0].replicates
    found = np.array(verdicts)
    yes = float(np.mean(found == "yes"))
    return Looks(
        yes=yes,
        no=float(np.mean(found == "no")),
        any_yes=float(np.mean((found == "yes").any(axis=1))),
        any_no=float(np.mean((found == "no").any(axis=1))),
        uncorrected_yes=uncorrected / count,
        seeds=seeds / count,
        fixed=_fixed_seeds(effect / sd, min(yes, 0.99), alpha / questions) if effect else 0,
    )


def _found(values: FloatArray) -> Estimate:
    found = estimates.estimate(values[:, None])
    assert found, "random values are never equal"
    return found


def _verdict(found: Estimate, nominal: float, smallest: float) -> str:
    """Empty if the question is undecided."""
    if found.mean >= smallest:
        return "yes" if found.p_value(0.0) < nominal else ""
    return "no" if found.p_value(smallest) < nominal else ""


def _fixed_seeds(standardized: float, power: float, alpha: float) -> int:
    """The smallest number of seeds with this power of the two-sided t test at level alpha."""
    for n in range(2, 1000):
        if stats.nct.sf(stats.t.ppf(1 - alpha / 2, n - 1), n - 1, standardized * math.sqrt(n)) >= power:
            return n
    return 1000


def others_cover(world: World, count: int, rng: np.random.Generator) -> dict[str, float]:
    """Coverage of methods that are not used: a bootstrap over pairs, and a t interval that treats pairs of one seed as
    independent."""
    held = Counter[str]()
    for sweep in sweeps(world, count, rng):
        differences = (sweep[1] - sweep[0]).mean(axis=-1).ravel()
        draws = differences[rng.integers(0, len(differences), (999, len(differences)))].mean(axis=1)
        low, high = np.quantile(draws, [0.025, 0.975])
        t = stats.t.interval(0.95, len(differences) - 1, differences.mean(), stats.sem(differences))
        held["bootstrap"] += low <= world.truth <= high
        held["pairs"] += t[0] <= world.truth <= t[1]
    return {name: held[name] / count for name in ("bootstrap", "pairs")}


PHOTO_SETS: dict[str, Callable[[np.random.Generator, int], FloatArray]] = {
    "alike": lambda rng, n: rng.normal(0.75, 0.05, n),
    "skewed": lambda rng, n: 0.88 - 0.3 * rng.beta(1.5, 5, n),
    "one in seven atypical": lambda rng, n: np.where(rng.random(n) < 6 / 7, rng.normal(0.8, 0.03, n), 0.65),
}
"""Cosine of each photo to the persona's true direction."""


def plain_bootstrap(genuine: FloatArray) -> Interval:
    """A method that is not used: quantiles of the 5 % quantiles of resampled photos."""
    draws = np.random.default_rng(0).choice(genuine, (1000, len(genuine)))
    low, high = np.quantile(np.quantile(draws, 0.05, axis=1), [0.025, 0.975])
    return Interval(low=float(low), high=float(high))


def threshold_coverage(
    kind: str,
    count: int,
    trials: int,
    rng: np.random.Generator,
    method: Callable[[FloatArray], Interval] = statistics.threshold_interval,
    size: int = 512,
) -> float:
    """Coverage of an interval of the threshold: does it contain the score that 95 % of other photos reach?

    A photo is a unit vector of `size`; its first axis is the persona's direction, the rest is random.
    """
    held = 0
    for _ in range(trials):
        along = np.clip(PHOTO_SETS[kind](rng, count), 0.0, 0.98)
        away = statistics.unit(rng.normal(size=(count, size - 1))) * np.sqrt(1 - along**2)[:, None]
        faces = np.column_stack([along, away])
        first, *rest = statistics.centroid(faces)
        others = np.clip(PHOTO_SETS[kind](rng, 2000), 0.0, 0.98)
        chance = rng.normal(0.0, np.linalg.norm(rest) / math.sqrt(size - 1), 2000)
        truth = float(np.quantile(others * first + np.sqrt(1 - others**2) * chance, 0.05))
        held += holds(method(statistics.leave_one_out(faces)), truth)
    return held / trials


def curve_coverage(exponent: float, sizes: tuple[int, ...], seeds: int, trials: int, rng: np.random.Generator) -> float:
    """Coverage of the interval of the true gain from doubling the largest set."""
    amount = 0.25 / (sizes[0] ** -exponent - sizes[-1] ** -exponent)
    truth = amount * (sizes[-1] ** -exponent - (2 * sizes[-1]) ** -exponent)
    held = 0
    for _ in range(trials):
        seed_effect = rng.normal(0, 0.05, seeds)
        points = [
            learning_curve.CurvePoint(
                images=size, replicate=seed, value=seed_effect[seed] - amount * size**-exponent + rng.normal(0, 0.05)
            )
            for size in sizes
            for seed in range(seeds)
        ]
        curve = learning_curve.learning_curve(points, target=2 * sizes[-1])
        held += curve is not None and holds(curve.interval, truth)
    return held / trials


def holds(interval: Interval, truth: float) -> bool:
    """Whether the interval contains the truth."""
    return interval.low <= truth <= interval.high


WORLDS = {
    "2 seeds": World(seeds=2),
    "3 seeds": World(),
    "3 seeds, run sd 0.05": World(run_sd=0.05),
    "3 seeds, run sd 0.10": World(run_sd=0.1),
    "4 seeds": World(seeds=4),
    "6 seeds": World(seeds=6),
    "3 seeds x 4 cells": World(cells=4),
    "3 seeds x 4 cells, seed effect repeated": World(cells=4, shared=1.0),
    "4 seeds x 4 cells, seed effect half repeated": World(seeds=4, cells=4, shared=0.5),
    "3 seeds x 4 cells, effect differs between cells": World(cells=4, interaction=0.05),
    "4 seeds, effect differs between prompts": World(seeds=4, prompt_effect_sd=0.04),
    "6 seeds x 2 cells, effect differs between prompts": World(seeds=6, cells=2, prompt_effect_sd=0.04),
    "4 seeds, 5 % without a face": World(seeds=4, no_face=0.05),
    "4 seeds, 2 prompts": World(seeds=4, prompts=2, prompt_effect_sd=0.04),
    "4 seeds, gain over own baselines": World(seeds=4, gain=True),
    "4 seeds, one arm skewed": World(seeds=4, skewed=True),
    "4 seeds, one in ten runs of an arm collapses": World(seeds=4, collapse=0.1, run_sd=0.03),
}


def main() -> None:
    """Prints the tables as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--sweeps", type=int, default=2000)
    count = parser.parse_args().sweeps
    rng = np.random.default_rng(20260210)
    _table(f"Contrasts, {count} sweeps each", _contrast_lines(count, rng))
    _table("Sequential sweeps of 3 to 12 seeds", _sequential_lines(count, rng))
    _table("Seeds needed, at 80 % power", _promise_lines(count // 2, rng))
    _table("Threshold", _threshold_lines(count // 2, rng))
    _table(f"Threshold question, {count} sweeps each", _threshold_question_lines(count, rng))
    _table("Twice the training images", _curve_lines(count // 2, rng))


def threshold_question(runs: int, images: int, rate: float, count: int, rng: np.random.Generator) -> Counter[str]:
    """Verdicts of a threshold question on `count` sweeps whose runs all pass with the same probability."""
    passed = rng.binomial(images, rate, size=(count, runs))
    counts = ([pass_rate.PassCount(passed=int(n), images=images) for n in sweep] for sweep in passed)
    return Counter(str(pass_rate.judge(sweep).verdict) for sweep in counts)


def _table(title: str, lines: Iterator[tuple[str, ...]]) -> None:
    sys.stdout.write(f"\n{title}\n\n")
    for number, cells in enumerate(lines):
        sys.stdout.write(f"| {' | '.join(cells)} |\n")
        if number == 0:
            sys.stdout.write(f"|{'---|' * len(cells)}\n")
        sys.stdout.flush()


def _contrast_lines(count: int, rng: np.random.Generator) -> Iterator[tuple[str, ...]]:
    yield (
        "simulated sweeps",
        "covered",
        "false yes",
        "half width",
        "yes at +0.10",
        "t over pairs covers",
        "bootstrap covers",
    )
    for name, world in WORLDS.items():
        null = tally(world, count, rng)
        planted = tally(replace(world, effect=0.1), count, rng)
        others = others_cover(world, count, rng)
        shares = (null.covered, null.yes), (planted.yes, others["pairs"], others["bootstrap"])
        yield name, *map(_percent, shares[0]), f"{null.half_width:.2f}", *map(_percent, shares[1])


def _sequential_lines(count: int, rng: np.random.Generator) -> Iterator[tuple[str, ...]]:
    shares = "yes", "no", "some yes", "some no", "some yes without correction"
    yield "questions", "true difference", *shares, "seeds (mean)", "fixed seeds with the same power", "GPU-hours"
    for questions, effect in itertools.product((1, 3), (0.0, 0.02, 0.05, 0.1, 0.2)):
        found = looks(effect, count, rng, questions=questions)
        rates = found.yes, found.no, found.any_yes, found.any_no, found.uncorrected_yes
        hours = _percent(found.seeds / found.fixed) if found.fixed else ""
        yield str(questions), f"{effect:g}", *map(_percent, rates), f"{found.seeds:.1f}", str(found.fixed or ""), hours


def _promise_lines(count: int, rng: np.random.Generator) -> Iterator[tuple[str, ...]]:
    yield "simulated sweeps", "confirmed", "seeds added (median)", "sweeps"
    for seeds, effect in ((2, 0.08), (3, 0.0), (3, 0.08), (4, 0.08), (6, 0.05)):
        kept, added, n = matching_verdicts(World(seeds=seeds, effect=effect), count, rng)
        yield f"{seeds} seeds, effect {effect:g}", _percent(kept), f"{added:.0f}", str(n)


def _threshold_lines(trials: int, rng: np.random.Generator) -> Iterator[tuple[str, ...]]:
    counts = (8, 12, 20, 36, 60)
    yield "photos", *map(str, counts)
    for kind in PHOTO_SETS:
        yield kind, *(_percent(threshold_coverage(kind, n, trials, rng)) for n in counts)
    plain = (threshold_coverage("alike", n, trials, rng, plain_bootstrap) for n in counts)
    yield "alike, by plain bootstrap", *map(_percent, plain)


THRESHOLD_QUESTIONS = (
    (1, 4, 1.0),
    (1, 40, 0.5),
    (1, 40, 0.65),
    (18, 16, 0.5),
    (18, 40, 0.5),
    (18, 40, 0.8),
    (18, 40, 0.2),
)
"""(runs, images of each, true pass rate)"""


def _threshold_question_lines(count: int, rng: np.random.Generator) -> Iterator[tuple[str, ...]]:
    yield "runs", "images", "true pass rate", "yes", "no", "undecided"
    for runs, images, rate in THRESHOLD_QUESTIONS:
        found = threshold_question(runs, images, rate, count, rng)
        shares = (_percent(found[verdict] / count) for verdict in ("yes", "no", "undecided"))
        yield str(runs), str(images), f"{rate:g}", *shares


def _curve_lines(trials: int, rng: np.random.Generator) -> Iterator[tuple[str, ...]]:
    yield "sizes", "seeds", "slow (k 0.3)", "k 1", "fast (k 2)"
    for sizes in ((9, 18, 36), (6, 12, 24, 36)):
        for seeds in (2, 4):
            covered = (curve_coverage(k, sizes, seeds, trials, rng) for k in (0.3, 1.0, 2.0))
            yield ", ".join(map(str, sizes)), str(seeds), *map(_percent, covered)


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


if __name__ == "__main__":
    main()
