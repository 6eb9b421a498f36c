"""`orchestrate check`: what `run` looks at before it starts, and what takes longer to find out. It trains nothing."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from orchestrator.config.schema import Dataset, Settings
from orchestrator.datasets import prepare
from orchestrator.errors import Problem
from orchestrator.gpu import VramProbe
from orchestrator.kohya import step_count
from orchestrator.kohya.arguments import schema
from orchestrator.model import Point
from orchestrator.plan import forecast, preflight
from orchestrator.plan.check import card, interpreter, persona, pictures, tokenizers
from orchestrator.plan.plan import Plan
from orchestrator.store import provenance


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckReport:
    """What was found out, by name, and what is wrong or doubtful."""

    facts: Mapping[str, str]
    problems: tuple[Problem, ...]


def inspect(settings: Settings, probe: VramProbe, asked: Plan | None = None) -> CheckReport:
    """Everything about this machine and about the inputs of a plan; without one, of what points take by default."""
    points = asked.points if asked else (_default(settings),)
    trained = [point for point in points if not point.is_baseline]
    datasets = _folders(settings, trained)
    trainer, driver = (
        interpreter.check_interpreter(settings, [one.params for one in trained]),
        card.facts(probe, settings),
    )
    problems = [*(asked.warnings if asked else ()), *preflight.findings(settings, points, probe)]
    problems += [*trainer.problems, *tokenizers.problems(settings), *_pictures(settings, trained, datasets)]
    faces = persona.check_persona(settings, datasets)
    problems += faces.problems
    if asked:
        sizes = card.sizes_gib(probe, settings)
        told = forecast.forecast(asked.sweep, asked.runs(), settings, prompts=len(asked.prompts), cards_gib=sizes)
        problems += [*card.too_small(told), *forecast.shortage(told)]
    facts = {**_versions(settings), **trainer.facts, **driver, **faces.facts}
    return CheckReport(facts=facts, problems=tuple(dict.fromkeys(problems)))


def _versions(settings: Settings) -> dict[str, str]:
    commit = provenance.commit(settings.trainer.sd_scripts) or "no checkout of its own"
    pinned = ", as pinned" if commit == schema.PINNED else ""
    own = ", ".join(f"{name} {version}" for name, version in provenance.versions().items())
    return {"orchestrate": own, "sd-scripts": commit + pinned}


def _default(settings: Settings) -> Point:
    params = {**settings.arguments, "base_model": settings.base_model, "dataset": settings.dataset}
    return Point(id="", name="", params=params)


def _folders(settings: Settings, points: Iterable[Point]) -> list[Dataset]:
    """The datasets that the owner made; what recipes make of them is theirs to judge."""
    names = prepare.with_ancestors((str(point.params["dataset"]) for point in points), settings.datasets)
    return [settings.datasets[name] for name in names if settings.datasets[name].recipe is None]


def _pictures(settings: Settings, points: Iterable[Point], datasets: Sequence[Dataset]) -> list[Problem]:
    largest = max((point.params for point in points), key=step_count.area)
    found = [problem for one in datasets for problem in pictures.problems(one, largest)]
    references = [problem for one in datasets for problem in pictures.trained_on(one, settings.scoring.references)]
    return [*found, *references]
