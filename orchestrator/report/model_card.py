"""The model card of an exported LoRA: usage, scores with their uncertainty, training arguments, licences."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from orchestrator.config.schema import Generation, Settings
from orchestrator.evidence import configurations
from orchestrator.evidence.stats import estimates
from orchestrator.evidence.stats.estimates import Interval
from orchestrator.evidence.stats.pairs import REPLICATE
from orchestrator.evidence.summary import RunSummary, SweepSummary
from orchestrator.kohya import networks
from orchestrator.model import LORA, Params, State
from orchestrator.report import workflow
from orchestrator.store import layout, records
from orchestrator.store.layout import Sweep
from orchestrator.text import code_span, escape_markdown, pluralize
from orchestrator.values import toml_repr

SAMPLES = "samples.jpg"


def text(one: RunSummary, name: str, summary: SweepSummary, settings: Settings, loading: Sequence[str] = ()) -> str:
    """The card of a run as Markdown. The other runs of the sweep give the spread over training seeds.

    loading: what to know before it is loaded in ComfyUI or A1111.
    """
    parts = (
        _usage(one, name, settings, loading),
        _scores(one, summary),
        _training(one, summary.sweep),
        _licences(one, settings),
    )
    return "\n\n".join("\n".join(lines) for lines in parts) + "\n"


def _usage(one: RunSummary, name: str, settings: Settings, loading: Sequence[str]) -> Iterator[str]:
    words = _trigger(one, settings)
    trigger = escape_markdown(words) or "as in the captions"
    yield "---"
    yield "tags: [text-to-image, lora, stable-diffusion-xl]"
    yield from ([f"instance_prompt: {json.dumps(words, ensure_ascii=False)}"] if words else [])
    yield "---"
    yield ""
    yield f"# {escape_markdown(name)}"
    yield ""
    yield f"- base model: {escape_markdown(str(one.run.point.params['base_model']))}"
    yield f"- trigger: {trigger}"
    yield f"- strength: {one.choice.strength if one.choice else 1:g}"
    yield f"- scored images: {_images(settings.generation_of(str(one.run.point.params['base_model'])))}"
    yield from _network(one.run.point.params)
    yield from (f"- {escape_markdown(sentence)}" for sentence in loading)
    yield f"- files: the LoRA, a ComfyUI workflow, a prompt for A1111, and [images]({SAMPLES})"
    if one.degraded:
        yield "- degraded: the training ran out of memory and continued with other settings than requested (see below)"


def _network(params: Params) -> Iterator[str]:
    """What a network other than a plain LoRA is."""
    module = networks.module_of(params)
    if module != networks.LORA:
        dora = " with decomposed weights (DoRA)" if networks.is_dora(params) else ""
        yield f"- network: {networks.algorithm(params)}{dora} of {escape_markdown(module)}"


def _trigger(one: RunSummary, settings: Settings) -> str:
    """Of the training's dataset, or of an existing LoRA file; empty if unknown."""
    params = one.run.point.params
    lora, dataset = settings.loras.get(str(params.get(LORA))), str(params.get("dataset", settings.dataset))
    found = settings.datasets.get(dataset)
    return (lora.trigger if lora else "") or (found.trigger if found else "")


def _images(made: Generation) -> str:
    other = workflow.sampler_instead(made)
    note = (
        f"; the workflow and the prompt use {other}, because ComfyUI and A1111 have no {made.sampler}" if other else ""
    )
    return f"{made.width}x{made.height}, {made.steps} steps of {made.sampler}, scale {made.scale:g}{note}"


def _scores(one: RunSummary, summary: SweepSummary) -> Iterator[str]:
    run, record, replicates = one.metrics, summary.calibration, _replicates(one, summary.runs)
    yield "## Scores"
    yield ""
    if run is None or one.choice is None:
        yield "This run has no scores."
        return
    if one.choice.disjoint:
        yield f"From {run.images} images that were not used to select the checkpoint."
    else:
        yield f"From {run.images} images that also selected the checkpoint, so the scores are too high."
    yield ""
    yield (
        f"- similarity to the reference photos: median {_number(run.similarity_median)}, "
        f"mean {_number(run.similarity_mean)}"
    )
    yield f"- images without a face: {_number(run.no_face_rate, '.0%')}"
    yield f"- gain over the base model without LoRA: {_number(one.gain, '+.3f')}"
    if record and run.pass_rate is not None:
        caveats = f" ({'; '.join(record.caveats)})" if record.caveats else ""
        threshold = f"the calibrated threshold of {record.calibration.threshold:.3f}{caveats}"
        yield f"- images that reach {threshold}: {run.pass_rate:.0%}{_bounds(run.pass_interval, '.0%')}"
    if one.run.point.is_trained:
        yield f"- these settings over {pluralize(len(replicates), 'training seed')}: {_over_seeds(replicates)}"
    if one.confirmation:
        found = one.confirmation.comparison
        value = f"mean image value {found.confirmed:.3f}{_bounds(found.confirmed_interval, '.3f')}"
        yield f"- confirmed on {len(one.confirmation.scores)} new images, the number to quote: {value}"


def _replicates(one: RunSummary, runs: Sequence[RunSummary]) -> list[RunSummary]:
    """The finished runs with the same settings and any training seed."""
    own = _without_seed(one.run.point.params)
    return [
        other
        for other in runs
        if other.choice
        and other.status.state is State.FINISHED
        and other.degraded is one.degraded
        and _without_seed(other.run.point.params) == own
    ]


def _without_seed(params: Params) -> Params:
    return {key: value for key, value in params.items() if key != REPLICATE}


def _over_seeds(runs: Sequence[RunSummary]) -> str:
    estimate = estimates.over_seeds((run.seed, configurations.values_by_prompt(run)) for run in runs if run.choice)
    if estimate is None:
        return "no interval, because one seed does not show the variance between seeds"
    return f"mean image value {estimate.mean:.3f}{_bounds(estimate.interval(), '.3f')}"


def _training(one: RunSummary, sweep: Sweep) -> Iterator[str]:
    point, used = one.run.point, one.trained.overrides if one.trained else {}
    yield "## Training"
    yield ""
    if point.is_trained:
        faces = f", {one.trained_faces} images with a face" if one.trained_faces else ""
        yield f"- dataset: {escape_markdown(str(point.params['dataset']))}{faces}"
    else:
        origin = records.read(one.run.path / layout.LORA_ORIGIN)
        yield f"- not trained here: the file {escape_markdown(Path(origin['path']).name)}, SHA-256 {origin['sha256']}"
        named = {"module": origin["module"], "base model": origin["base_name"]}
        yield from (f"- {key} in its metadata: {code_span(text)}" for key, text in named.items() if text)
    yield f"- sweep: {escape_markdown(sweep.name)}, run {point.id}"
    fingerprint = {_without_folder(key): value for key, value in sweep.fingerprint().items()}
    yield from (f"- {escape_markdown(key)}: {code_span(value)}" for key, value in fingerprint.items())
    yield ""
    yield "| argument | value |"
    yield "|---|---|"
    for key in dict.fromkeys((*point.params, *used)):
        requested = _cell(point.params[key]) if key in point.params else "sd-scripts' default"
        changed = f", changed after out of memory to {_cell(used[key])}" if key in used else ""
        yield f"| `{key}` | {requested}{changed} |"


def _without_folder(key: str) -> str:
    """The key of an input without the folders of this machine."""
    return f"file {Path(key).name}" if key.startswith("file ") else key


def _licences(one: RunSummary, settings: Settings) -> Iterator[str]:
    base = settings.base_models.get(str(one.run.point.params["base_model"]))
    yield "## Licences"
    yield ""
    yield f"- Base model: its licence applies to images made with this LoRA: {_link(base.url if base else '')}"
    yield "- Training images: you need the rights to them and the consent of the person they show."
    yield f"- Face pack: the scores come from a face pack with its own licence: {_link(settings.scoring.url)}"


def _link(url: str) -> str:
    return escape_markdown(url) or "see its page"


def _cell(value: Any) -> str:
    """A TOML value as code in a table cell."""
    return code_span(toml_repr(tuple(value) if isinstance(value, list) else value)).replace("|", "\\|")


def _number(value: float | None, form: str = ".3f") -> str:
    return "unknown" if value is None else format(value, form)


def _bounds(interval: Interval | None, form: str) -> str:
    return f" (95 %: {interval:{form}})" if interval else ""
