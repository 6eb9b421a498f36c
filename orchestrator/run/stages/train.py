"""TRAIN: templates -> kohya TOML -> attempts, down the ladder when memory runs out -> proven checkpoints."""

from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

from orchestrator import datasets
from orchestrator.config.schema import Settings
from orchestrator.kohya import argv, config_files, oom_fallback, previews, prompts, resume
from orchestrator.kohya.oom_fallback import Step
from orchestrator.kohya.outputs import log, verify
from orchestrator.kohya.resume import ResumeSegment
from orchestrator.model import (
    MACHINE_FAILURES,
    MEMORY_FAILURES,
    TREATMENTS,
    Checkpoint,
    Failure,
    Params,
    Progress,
    Result,
)
from orchestrator.run import attempt, early_stop
from orchestrator.run.attempt import Command, Stage
from orchestrator.run.context import Context
from orchestrator.store import process
from orchestrator.store.layout import Attempt, Run
from orchestrator.store.outcome import FailureReason, Outcome
from orchestrator.values import from_json

NAME = "train"
OUTPUT_NAME = "lora"
PREVIEWS = 4
"""So many prompts, from the first, are drawn while training, when a point asks for it."""


def perform(run: Run, ctx: Context) -> Result:
    """Carry out one attempt to train the run's point."""
    step = next_overrides(run, ctx.settings)
    resumed = resume_from(run, step, ctx.settings)
    watch = early_stop.Watch(run, ctx)
    job = Stage(
        stage=NAME,
        prepare=lambda attempt: _prepare(run, attempt, {**asdict(step), "resumed": resumed}, ctx),
        progress=lambda text: _progress(run, text),
        record=lambda attempt, outcome: _judge(run, attempt, outcome),
        another=lambda failure: _another(run, step, failure, ctx.settings),
        look=watch.look,
        note=", ".join(step.fallbacks),
    )
    result = attempt.run_attempt(run, job, ctx)
    watch.score(run.attempts(NAME)[-1])
    return result


def next_overrides(run: Run, settings: Settings) -> Step:
    """What the next attempt concedes: as much as the last one, and one rung more if that alone ran out of memory."""
    past = run.attempts(NAME)
    asked = [attempt_overrides(attempt) for attempt in past]
    last = asked[-1] if asked else Step(overrides={}, fallbacks=(), degraded=False)
    result = past[-1].result() if past else None
    if result is None or result.failure not in MEMORY_FAILURES or past[-1].failed_colocated():
        return last
    return _below(run, last, settings) or last


def _another(run: Run, step: Step, failure: Failure, settings: Settings) -> bool:
    """Memory has the ladder; a state that cannot be taken up has the beginning."""
    if failure in MEMORY_FAILURES:
        return _below(run, step, settings) is not None
    return failure not in _NOT_ITS_STATES and resume_chain(run, run.attempts(NAME)[-1])[-1].epoch > 0


def _below(run: Run, step: Step, settings: Settings) -> Step | None:
    tried = [attempt_overrides(attempt).overrides for attempt in run.attempts(NAME)]
    return oom_fallback.next_overrides(run.point.params, [*tried, step.overrides], settings.oom_fallback)


def attempt_overrides(attempt: Attempt) -> Step:
    """What an attempt was told to concede."""
    record = attempt.request()
    return Step(
        overrides={key: from_json(value) for key, value in record.get("overrides", {}).items()},
        fallbacks=tuple(record.get("fallbacks", ())),
        degraded=record.get("degraded", False),
    )


# --- resuming ---------------------------------------------------------------------------------------------------------

_NOT_ITS_STATES = MACHINE_FAILURES | {Failure.KILLED, Failure.TIMEOUT, Failure.NAN, Failure.LOG_FLOOD}
"""What ends a training without a doubt about the state that it began with."""


def resume_from(run: Run, step: Step, settings: Settings) -> dict[str, int] | None:
    """The attempt and epoch that the next attempt goes on from, where the settings allow it; None: from the beginning.

    Only an attempt that the machine or the user ended is gone on from, and only with the same arguments.
    """
    past = run.attempts(NAME)
    result = past[-1].result() if past else None
    resumable = result is not None and result.failure in MACHINE_FAILURES | {Failure.KILLED, Failure.TIMEOUT}
    if not (settings.trainer.resume and resumable and attempt_overrides(past[-1]).overrides == step.overrides):
        return None
    epoch = resume.last_state(past[-1].path / "output", OUTPUT_NAME)
    begun: dict[str, int] | None = past[-1].request().get("resumed")
    return {"attempt": past[-1].number, "epoch": epoch} if epoch else begun


def resume_chain(run: Run, attempt: Attempt) -> list[ResumeSegment]:
    """The attempts that an attempt's training is made of, oldest first, itself the last."""
    begun = attempt.request().get("resumed")
    before = resume_chain(run, Attempt(attempt.path.with_name(str(begun["attempt"])))) if begun else []
    return [*before, ResumeSegment(epoch=begun["epoch"] if begun else 0, folder=attempt.path / "output")]


def _states(run: Run, attempt: Attempt, settings: Settings) -> tuple[Params, Params]:
    """The arguments that leave states, and those that take one up."""
    params = effective_params(run, attempt)
    if not (settings.trainer.resume and resume.possible(params)):
        return {}, {}
    *before, this = resume_chain(run, attempt)
    if not before:
        return resume.save_state_args(params), {}
    state = resume.state_of(before[-1].folder, OUTPUT_NAME, this.epoch)
    return resume.save_state_args(params), resume.resume_args(state, this.epoch)


def _progress(run: Run, text: str) -> Progress | None:
    """How far the whole training is: a resumed one counts from zero again, towards the total of all."""
    shown, past = log.read_progress(text), run.attempts(NAME)
    begun = resume_chain(run, past[-1])[-1].epoch if past else 0
    if shown is None or not begun:
        return shown
    epochs = effective_params(run, past[-1])["max_train_epochs"]
    return replace(shown, step=shown.step + begun * shown.total // int(epochs)) if isinstance(epochs, int) else shown


# --- one attempt ------------------------------------------------------------------------------------------------------


def effective_params(run: Run, attempt: Attempt) -> Params:
    """The arguments that an attempt trains with: the point's without dataset and base model, with its overrides."""
    point = {key: value for key, value in run.point.params.items() if key not in TREATMENTS}
    return {**point, **attempt_overrides(attempt).overrides}


def _prepare(run: Run, attempt: Attempt, asked: Mapping[str, Any], ctx: Context) -> Command:
    attempt.open({**asked, "card": ctx.card, "colocated": ctx.colocated, "others": _others(ctx)})
    for name, text in rendered(run, attempt, ctx).items():
        (attempt.path / name).write_text(text, encoding="utf-8", newline="\n")
    trainer = ctx.settings.trainer
    return Command(
        argv=argv.train_argv(trainer, attempt.path / "config.toml"),
        env={**argv.environment(trainer, card=ctx.card or None), **budget(ctx.settings)},
        cwd=attempt.path,
    )


def rendered(run: Run, attempt: Attempt, ctx: Context) -> dict[str, str]:
    """The files that an attempt is started from, proven to read back as what is meant."""
    renderer, dataset = (
        config_files.Renderer(ctx.templates),
        datasets.dataset_for_point(run.point.params, ctx.settings.datasets),
    )
    files = {
        "config.toml": config_toml(run, attempt, ctx.settings, renderer),
        "dataset.toml": renderer.dataset_toml(run.point, dataset=dataset, image_dir=ctx.datasets[dataset.name].folder),
    }
    if lines := _preview_lines(run, attempt, ctx):
        files["prompts.txt"] = renderer.prompts_txt(run.point, lines)
    return files


def _preview_lines(run: Run, attempt: Attempt, ctx: Context) -> list[str]:
    """What is drawn on the way: to look at, as the point asks for it, or to be scored, as the settings do."""
    generation = ctx.settings.generation
    cells = [(prompt, generation.seeds[0]) for prompt in range(len(ctx.prompts[:PREVIEWS]))]
    if ctx.settings.early_stop:
        cells = early_stop.cells(len(ctx.prompts), ctx.settings)
    elif not previews.enabled(effective_params(run, attempt)):
        return []
    return [prompts.preview(ctx.prompts[prompt], generation, seed) for prompt, seed in cells]


def config_toml(
    run: Run, attempt: Attempt, settings: Settings, renderer: config_files.Renderer, *, prove: bool = True
) -> str:
    """sd-scripts' config of an attempt, which need not exist yet."""
    saving, taking_up = _states(run, attempt, settings)
    ours: Params = {
        "output_dir": str(attempt.path / "output"),
        "output_name": OUTPUT_NAME,
        "logging_dir": str(attempt.path / "logs"),
        "training_comment": comment(run, attempt),
        "dataset_config": str(attempt.path / "dataset.toml"),
        **_previews(run, attempt, settings),
        **taking_up,
    }
    return renderer.train_toml(
        run.point,
        base=settings.base_models[str(run.point.params["base_model"])],
        ours=ours,
        trainer=settings.trainer,
        params={**effective_params(run, attempt), **saving},
        prove=prove,
    )


def _previews(run: Run, attempt: Attempt, settings: Settings) -> Params:
    """The arguments that have pictures drawn on the way."""
    if settings.early_stop:
        every: Params = {previews.EVERY: early_stop.steps(run.point.params, settings.early_stop).step}
    elif previews.enabled(effective_params(run, attempt)):
        every = {}
    else:
        return {}
    return {**every, "sample_prompts": str(attempt.path / "prompts.txt")}


def comment(run: Run, attempt: Attempt) -> str:
    """Goes into every checkpoint's metadata: which run and attempt it is of."""
    return f"orchestrate {run.point.id} {attempt.number}"


def budget(settings: Settings) -> dict[str, str]:
    """A budget below the card's size, told to the child; the miniature takes it for its card."""
    gib = settings.vram.budget_gib
    return {"ORCHESTRATE_VRAM_BUDGET_GIB": f"{gib:g}"} if gib else {}


def _others(ctx: Context) -> dict[str, int | None]:
    """Foreign processes on the card as the attempt starts, MiB each: an out-of-memory may be theirs.

    Not the attempt before this one, which the driver still lists for a moment.
    """
    cards = [card for card in ctx.probe.cards() if card.uuid == ctx.card]
    return {str(pid): mib for card in cards for pid, mib in card.processes.items() if not process.is_exiting(pid)}


def _judge(run: Run, attempt: Attempt, outcome: Outcome) -> Mapping[str, Any] | FailureReason:
    """The proof of the files decides: a program may well die after its work is done."""
    *earlier, this = resume_chain(run, attempt)
    shown = verify.verify(
        this.folder,
        OUTPUT_NAME,
        effective_params(run, attempt),
        outcome.log,
        training_comment=comment(run, attempt),
        earlier=earlier,
        begun=this.epoch,
    )
    if shown.failure:
        told = log.classify(outcome.log, outcome.exit.code) if outcome.exit else None
        if told:
            return FailureReason(told[0], told[1] + _blame(attempt, told[0]))
        return FailureReason(shown.failure, "; ".join(str(problem) for problem in shown.problems))
    checkpoints = [_placed(run, checkpoint, [*earlier, this]) for checkpoint in shown.checkpoints]
    return {"attempt": attempt.number, "checkpoints": checkpoints}


def _placed(run: Run, checkpoint: Checkpoint, legs: list[ResumeSegment]) -> dict[str, Any]:
    """The record of a checkpoint, its file relative to the run's folder."""
    leg = legs[-1] if checkpoint.epoch is None else resume.segment_of(legs, checkpoint.epoch)
    return {**asdict(checkpoint), "file": str((leg.folder / checkpoint.file).relative_to(run.path))}


def _blame(attempt: Attempt, failure: Failure) -> str:
    others = attempt.request().get("others") if failure in MEMORY_FAILURES else None
    if not others:
        return ""
    named = ", ".join(f"process {pid} with {mib if mib is not None else '?'} MiB" for pid, mib in others.items())
    return f" (the card was shared with {named})"
