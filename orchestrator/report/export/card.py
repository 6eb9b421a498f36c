"""A model card: what the LoRA was trained on, how good it is and how surely, how to call it; licences."""

from collections.abc import Iterator, Sequence
from typing import Any

from orchestrator.config.schema import Generation, Settings
from orchestrator.evidence import run_metrics
from orchestrator.evidence.calibration.record import CalibrationRecord
from orchestrator.evidence.confirmation import ConfirmationResult
from orchestrator.evidence.stats import estimates
from orchestrator.evidence.stats.estimates import Interval
from orchestrator.evidence.stats.pairs import REPLICATE
from orchestrator.evidence.summary import RunSummary, SweepSummary
from orchestrator.model import Params, State
from orchestrator.report.export import workflow
from orchestrator.store.layout import Sweep
from orchestrator.values import toml_repr


def text(one: RunSummary, name: str, summary: SweepSummary, settings: Settings) -> str:
    """The card of a run as Markdown; its sweep adds the other seeds of the same settings."""
    scores = _scores(one, summary.runs, summary.calibration)
    parts = (_head(one, name, settings), scores, _training(one, summary.sweep), _licences(one, settings))
    return "\n\n".join("\n".join(lines) for lines in parts) + "\n"


def _head(one: RunSummary, name: str, settings: Settings) -> Iterator[str]:
    assert one.choice
    dataset = settings.datasets.get(str(one.run.point.params["dataset"]))
    yield f"# {name}"
    yield ""
    yield f"- base model: {one.run.point.params['base_model']}"
    yield f"- trigger: {dataset.trigger if dataset and dataset.trigger else 'as in the captions'}"
    yield f"- strength: {one.choice.strength:g}"
    yield f"- scored pictures: {_pictures(settings.generation)}"
    if one.degraded:
        yield "- degraded: memory ran out in training, and other settings than asked made this LoRA (see below)"


def _pictures(made: Generation) -> str:
    instead = workflow.sampler_instead(made)
    note = f"; workflow and prompt say {instead}, for ComfyUI and A1111 have no {made.sampler}" if instead else ""
    return f"{made.width}x{made.height}, {made.steps} steps of {made.sampler}, scale {made.scale:g}{note}"


def _scores(one: RunSummary, found: Sequence[RunSummary], kept: CalibrationRecord | None) -> Iterator[str]:
    assert one.choice
    run, runs = one.metrics, _alike(one, found)
    yield "## Scores"
    yield ""
    if run is None:
        yield "None."
        return
    yield (
        f"Of {run.images} pictures that took no part in choosing the checkpoint."
        if one.choice.disjoint
        else (f"Of {run.images} pictures that also chose the checkpoint: too good by an unknown amount.")
    )
    yield ""
    median, mean = _number(run.similarity_median), _number(run.similarity_mean)
    yield f"- similarity to the references: median {median}, mean {mean}"
    yield f"- pictures without a face: {_share(run.no_face_rate)}"
    yield f"- over the base model without it: {_number(one.gain, '+.3f')}"
    if kept and run.pass_rate is not None:
        yield f"- pictures above {_threshold(kept)}: {_share(run.pass_rate)}{_bounds(run.pass_interval, '.0%')}"
    seeds = "1 training seed" if len(runs) == 1 else f"{len(runs)} training seeds"
    yield f"- these settings over {seeds}: {_over_seeds(runs)}"
    if one.confirmation:
        yield f"- confirmed on {len(one.confirmation.scores)} fresh pictures, the number to quote: {_confirmed(one.confirmation)}"


def _threshold(kept: CalibrationRecord) -> str:
    caveats = f" ({'; '.join(kept.caveats)})" if kept.caveats else ""
    return f"the persona's own threshold of {kept.calibration.threshold:.3f}{caveats}"


def _alike(one: RunSummary, found: Sequence[RunSummary]) -> list[RunSummary]:
    """The finished runs with the same settings under whatever training seed."""
    own = _without_seed(one.run.point.params)
    return [
        other
        for other in found
        if other.choice
        and other.status.state is State.FINISHED
        and other.degraded is one.degraded
        and _without_seed(other.run.point.params) == own
    ]


def _without_seed(params: Params) -> Params:
    return {key: value for key, value in params.items() if key != REPLICATE}


def _over_seeds(runs: Sequence[RunSummary]) -> str:
    values = [
        (run.run.point.params.get(REPLICATE), run_metrics.by_prompt(run.choice.reported)) for run in runs if run.choice
    ]
    estimate = estimates.over_seeds(values)
    if estimate is None:
        return "no interval, for one seed's luck cannot be told from the settings"
    return f"mean picture value {estimate.mean:.3f}{_bounds(estimate.interval(), '.3f')}"


def _confirmed(found: ConfirmationResult) -> str:
    told = found.comparison
    return f"mean picture value {told.confirmed:.3f}{_bounds(told.confirmed_interval, '.3f')}"


def _training(one: RunSummary, sweep: Sweep) -> Iterator[str]:
    point, made_from = one.run.point, sweep.record()["fingerprint"]
    faces = f", {one.trained_faces} pictures with a face" if one.trained_faces else ""
    yield "## Training"
    yield ""
    yield f"- dataset: {point.params['dataset']}{faces}"
    yield f"- sweep: {sweep.name}, run {point.id}"
    for key, value in made_from.items():
        yield f"- {key}: `{value}`"
    yield ""
    yield "| argument | value |"
    yield "|---|---|"
    used = one.trained.overrides if one.trained else {}
    for key in dict.fromkeys((*point.params, *used)):
        asked = f"`{_cell(point.params[key])}`" if key in point.params else "sd-scripts' default"
        conceded = f", conceded to `{_cell(used[key])}`" if key in used else ""
        yield f"| `{key}` | {asked}{conceded} |"


def _licences(one: RunSummary, settings: Settings) -> Iterator[str]:
    base = settings.base_models.get(str(one.run.point.params["base_model"]))
    yield "## Licences"
    yield ""
    url = base.url if base and base.url else "see its page"
    yield f"- The base model's licence holds for what is made with this LoRA: {url}"
    yield "- The pictures' rights, and the consent of whoever they show, are the owner's to have."
    pack = settings.scoring.url or "see its page"
    yield f"- The scores were measured with a face pack that has a licence of its own: {pack}"


def _cell(value: Any) -> str:
    """As in TOML, and without what would end the cell."""
    text = toml_repr(tuple(value) if isinstance(value, list) else value)
    return text.replace("|", "\\|").replace("\n", " ")


def _number(value: float | None, form: str = ".3f") -> str:
    return "not known" if value is None else format(value, form)


def _share(value: float | None) -> str:
    return _number(value, ".0%")


def _bounds(interval: Interval | None, form: str) -> str:
    return f" (95 %: {format(interval.low, form)} to {format(interval.high, form)})" if interval else ""
