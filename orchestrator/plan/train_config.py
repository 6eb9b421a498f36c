"""The trainer's config of an attempt: its arguments, the attempts it resumes, and its previews. It starts nothing."""

from collections.abc import Mapping, Sequence

from orchestrator import datasets
from orchestrator.config.schema import Settings
from orchestrator.evidence import preview_scores
from orchestrator.kohya import config_files, oom_fallback, previews, prompts, resume
from orchestrator.kohya.oom_fallback import NO_FALLBACK, Fallback
from orchestrator.kohya.resume import ResumeSegment
from orchestrator.model import TREATMENTS, Params, PreparedDataset
from orchestrator.store.layout import Attempt, Run
from orchestrator.values import from_json

STAGE = "train"
OUTPUT_NAME = "lora"
PREVIEWS = 4
"""Number of prompts, from the first, that are drawn during a training when its point sets a `sample_` argument."""


def fallback_of(attempt: Attempt) -> Fallback:
    """The OOM fallback that an attempt was started with."""
    record = attempt.request()
    return Fallback(
        overrides={key: from_json(value) for key, value in record.get("overrides", {}).items()},
        fallbacks=tuple(record.get("fallbacks", ())),
        degraded=record.get("degraded", False),
    )


def last_fallback(run: Run) -> Fallback:
    """The OOM fallback of the last attempt; none before the first."""
    attempts = run.attempts(STAGE)
    return fallback_of(attempts[-1]) if attempts else NO_FALLBACK


def next_fallback(run: Run, settings: Settings, current: Fallback = NO_FALLBACK) -> Fallback | None:
    """The first OOM fallback that is not `current` and that no attempt was started with; None when none is left."""
    tried = [current.overrides, *(fallback_of(attempt).overrides for attempt in run.attempts(STAGE))]
    return oom_fallback.next_fallback(run.point.params, tried, settings.oom_fallback, settings.optimizers)


def effective_params(run: Run, attempt: Attempt) -> Params:
    """The arguments that an attempt trains with: the point's without dataset and base model, with its overrides."""
    point = {key: value for key, value in run.point.params.items() if key not in TREATMENTS}
    return {**point, **fallback_of(attempt).overrides}


def resume_chain(run: Run, attempt: Attempt) -> list[ResumeSegment]:
    """The attempts that an attempt's training consists of, oldest first, the attempt itself last."""
    origin = attempt.request().get("resumed")
    folder = attempt.path / "output"
    if not origin:
        return [ResumeSegment(epoch=0, folder=folder)]
    begun = {key: origin[key] for key in ("epoch", "step", "skip") if key in origin}
    return [
        *resume_chain(run, Attempt(attempt.path.with_name(str(origin["attempt"])))),
        ResumeSegment(folder=folder, **begun),
    ]


def comment(run: Run, attempt: Attempt) -> str:
    """The comment in every checkpoint's metadata: the run and the attempt."""
    return f"orchestrate {run.point.id} {attempt.number}"


def input_files(
    run: Run,
    attempt: Attempt,
    settings: Settings,
    renderer: config_files.Renderer,
    prepared: Mapping[str, PreparedDataset],
    texts: Sequence[str],
) -> dict[str, str]:
    """The trainer's input files by name; each is read back and compared. texts: the prompts of previews."""
    dataset = datasets.dataset_for_point(run.point.params, settings.datasets)
    files = {
        "config.toml": config_toml(run, attempt, settings, renderer),
        "dataset.toml": renderer.dataset_toml(run.point, dataset=dataset, folders=prepared[dataset.name].folders),
    }
    if lines := preview_lines(run, attempt, settings, texts):
        files["prompts.txt"] = renderer.prompts_txt(run.point, lines)
    return files


def config_toml(
    run: Run, attempt: Attempt, settings: Settings, renderer: config_files.Renderer, *, verify: bool = True
) -> str:
    """sd-scripts' config of an attempt, which need not exist yet."""
    save_args, resume_args = _state_args(run, attempt, settings)
    ours: Params = {
        "output_dir": str(attempt.path / "output"),
        "output_name": OUTPUT_NAME,
        "logging_dir": str(attempt.path / "logs"),
        "training_comment": comment(run, attempt),
        "dataset_config": str(attempt.path / "dataset.toml"),
        **_preview_args(run, attempt, settings),
        **resume_args,
    }
    return renderer.train_toml(
        run.point,
        base=settings.base_models[str(run.point.params["base_model"])],
        ours=ours,
        trainer=settings.trainer,
        params={**effective_params(run, attempt), **save_args},
        verify=verify,
    )


def _state_args(run: Run, attempt: Attempt, settings: Settings) -> tuple[Params, Params]:
    """The arguments that save states, and those that resume from one."""
    params = effective_params(run, attempt)
    if not settings.trainer.resume:
        return {}, {}
    *earlier, this = resume_chain(run, attempt)
    if not earlier:
        return resume.save_state_args(params), {}
    state = resume.state_of(earlier[-1].folder, OUTPUT_NAME, this.epoch)
    return resume.save_state_args(params), resume.resume_args(state, this)


def _preview_args(run: Run, attempt: Attempt, settings: Settings) -> Params:
    """The arguments that draw previews during the training."""
    prompt_file = {"sample_prompts": str(attempt.path / "prompts.txt")}
    if settings.early_stop:
        every = preview_scores.check_steps(run.point.params, settings.early_stop).step
        return {previews.EVERY: every, **prompt_file}
    return prompt_file if previews.enabled(effective_params(run, attempt)) else {}


def preview_lines(run: Run, attempt: Attempt, settings: Settings, texts: Sequence[str]) -> list[str]:
    """The lines of the prompt file for previews: those that early stopping scores, or those that the point asks for."""
    generation = settings.generation_of(str(run.point.params["base_model"]))
    if settings.early_stop:
        cells = preview_scores.cells(len(texts), settings)
    elif previews.enabled(effective_params(run, attempt)):
        cells = [(prompt, generation.seeds[0]) for prompt in range(len(texts[:PREVIEWS]))]
    else:
        return []
    return [prompts.preview(texts[prompt], generation, seed) for prompt, seed in cells]
