"""`orchestrate check`: everything that `run` checks before it starts, and slower checks. Trains nothing."""

from collections.abc import Iterable, Sequence

from orchestrator import datasets as recipes
from orchestrator import errors, scoring
from orchestrator.config.schema import Dataset, Settings
from orchestrator.errors import Problem
from orchestrator.gpu import VramProbe
from orchestrator.kohya import release, step_count
from orchestrator.kohya.inheritance import Inheritance
from orchestrator.kohya.prompts import read_prompts
from orchestrator.model import Point
from orchestrator.plan import forecast, freeze, preflight
from orchestrator.plan.check import configurations, dataset_images, gpus, interpreter, persona, token_counts, tokenizers
from orchestrator.plan.check.report import CheckReport
from orchestrator.plan.plan import Plan, untriggered
from orchestrator.store import provenance


def inspect(settings: Settings, probe: VramProbe, asked: Plan | None = None, *, deep: bool = False) -> CheckReport:
    """Check this machine and the inputs of a plan; without a plan, the defaults of the settings.

    deep: sd-scripts reads the configurations of the plan, too, if everything else is in order.
    """
    default = {**Inheritance(settings).params({}), "base_model": settings.base_model, "dataset": settings.dataset}
    points = asked.points if asked else (Point(id="", name="", params=default),)
    trained = [point for point in points if point.is_trained]
    datasets = _user_datasets(settings, trained)
    trainer = interpreter.check_interpreter(settings, [one.params for one in trained])
    warnings = asked.warnings if asked else untriggered(read_prompts(settings.generation.prompts)[0], settings, points)
    chosen = preflight.choose_gpus(probe.gpus(), settings.vram.card)
    problems = [*warnings, *preflight.findings(settings, points, probe)]
    if offline := list(tokenizers.problems(settings)):  # then the warning that they are downloaded is wrong
        problems = [one for one in problems if one.key != offline[0].key]
    problems += [*trainer.problems, *offline, *_images(settings, trained, datasets)]
    faces = persona.check_persona(settings, datasets)
    problems += faces.problems
    if asked:
        planned = forecast.forecast(asked.sweep, asked.runs(), settings, prompts=len(asked.prompts), gpus=chosen)
        problems += [*gpus.too_small(planned), *forecast.shortage(planned)]
        if not errors.errors_of(problems):
            problems += freeze.conflicts(asked)
    facts = {**_versions(settings), **trainer.facts, **gpus.facts(chosen), **faces.facts}
    if asked and deep:
        ready = not errors.errors_of(problems)
        checked = configurations.check_configurations(settings, trained, asked.prompts) if ready else _NOT_DEEP
        facts |= checked.facts
        problems = token_counts.without_estimates(problems, checked)
        problems += checked.problems
    return CheckReport(facts=facts, problems=tuple(dict.fromkeys(problems)))


_NOT_DEEP = CheckReport(facts={"deep check": "not done: correct the errors first"})


def _versions(settings: Settings) -> dict[str, str]:
    own = ", ".join(f"{name} {version}" for name, version in provenance.versions().items())
    return {"orchestrate": own, "sd-scripts": release.describe(settings.trainer.sd_scripts)}


def _user_datasets(settings: Settings, points: Iterable[Point]) -> list[Dataset]:
    """The datasets without a recipe that these points need, directly or as a source."""
    used = recipes.with_ancestors((str(point.params["dataset"]) for point in points), settings.datasets)
    return [dataset for dataset in used if dataset.recipe is None]


def _images(settings: Settings, points: Iterable[Point], datasets: Sequence[Dataset]) -> list[Problem]:
    largest = max((point.params for point in points), key=step_count.area)
    found = [problem for one in datasets for problem in dataset_images.problems(one, largest)]
    references, cache = settings.scoring.references, settings.runs / scoring.FACE_CACHE
    return [*found, *(problem for one in datasets for problem in dataset_images.trained_on(one, references, cache))]
