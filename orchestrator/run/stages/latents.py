"""LATENTS: pictures -> sd-scripts' own tool, once for many trainings -> proven latents, which these share."""

import os
import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from orchestrator import datasets
from orchestrator import images as media
from orchestrator.config.schema import Dataset
from orchestrator.errors import NotReady, Problem
from orchestrator.kohya import argv, config_files, latents
from orchestrator.kohya.outputs import log
from orchestrator.model import Failure, Params, PreparedDataset, Result
from orchestrator.run import attempt
from orchestrator.run.attempt import Command, Stage
from orchestrator.run.context import Context
from orchestrator.store import files, layout, provenance
from orchestrator.store.layout import Attempt, Run
from orchestrator.store.outcome import FailureReason, Outcome

NAME = "latents"
_LOOK_S = 0.1


def perform(run: Run, ctx: Context) -> Result:
    """Carry out one attempt to make a run's latents, or wait for the sweep that is making them already."""
    with layout.hold(run, patient=lambda: _patient(ctx)) as ours:
        if not ours:
            return Result(failure=Failure.KILLED, reason="interrupted by the user", retry=True)
        past = run.attempts(NAME)
        made = past[-1].result() if past and run.done(NAME) else None
        return made or attempt.run_attempt(run, _job(run, ctx), ctx)


def _patient(ctx: Context) -> bool:
    time.sleep(_LOOK_S)
    return not ctx.stop


def _job(run: Run, ctx: Context) -> Stage:
    return Stage(
        stage=NAME,
        prepare=lambda attempt: _prepare(run, attempt, ctx),
        progress=lambda _: None,
        record=lambda attempt, outcome: _judge(run, attempt, outcome, ctx),
    )


def images(run: Run) -> Path:
    """The folder of pictures with their latents, to train on; NotReady unless they are as they were proven."""
    if not run.done(NAME):
        what, remedy = "its latents are not made", "run the same command again: it makes them"
        raise NotReady(Problem(what=what, where=str(run.path), remedy=remedy))
    record = run.product(NAME)
    folder = run.path / str(record["folder"])
    if not folder.is_dir() or provenance.content(folder) != record["content"]:
        what = "latents that trainings share are not as they were made: a file was changed, added or removed"
        remedy = f"`chmod -R u+w {run.path}`, then delete it: they are made again"
        raise NotReady(Problem(what=what, where=str(folder), remedy=remedy))
    return folder


# --- one attempt ------------------------------------------------------------------------------------------------------


def _prepare(run: Run, attempt: Attempt, ctx: Context) -> Command:
    dataset, prepared = _dataset(run, ctx)
    attempt.open({"card": ctx.card, "packed": ctx.packed})
    shutil.copytree(prepared.folder, attempt.path / "images", copy_function=shutil.copyfile)
    for name, text in _rendered(run, attempt, dataset, ctx).items():
        (attempt.path / name).write_text(text, encoding="utf-8", newline="\n")
    trainer = ctx.settings.trainer  # whose checkout Python does not search for a program in its tools/
    inherited = {**ctx.environ, **trainer.env}.get("PYTHONPATH")
    path = os.pathsep.join(filter(None, [str(trainer.sd_scripts), inherited]))
    return Command(
        argv=argv.latents_argv(trainer, attempt.path / "config.toml"),
        env={**argv.environment(trainer, card=ctx.card or None), "PYTHONPATH": path},
        cwd=attempt.path,
    )


def _dataset(run: Run, ctx: Context) -> tuple[Dataset, PreparedDataset]:
    """The dataset with nothing in it that its latents do not follow from, and where it lies."""
    dataset = datasets.dataset_for_point(run.point.params, ctx.settings.datasets)
    return replace(dataset, subset=latents.deciding(dataset.subset), num_repeats=1), ctx.datasets[dataset.name]


def _rendered(run: Run, attempt: Attempt, dataset: Dataset, ctx: Context) -> dict[str, str]:
    """sd-scripts' two files: they say what the latents' key is made of, and nothing else."""
    renderer = config_files.Renderer(ctx.templates)
    ours: Params = {
        "dataset_config": str(attempt.path / "dataset.toml"),
        "seed": latents.SEED,
        "vae_batch_size": 1,
        latents.ON_DISK: True,
    }
    config = renderer.train_toml(
        run.point,
        base=ctx.settings.base_models[str(run.point.params["base_model"])],
        ours=ours,
        trainer=ctx.settings.trainer,
        params=latents.deciding(run.point.params),
    )
    pictures = renderer.dataset_toml(run.point, dataset=dataset, image_dir=attempt.path / "images")
    return {"config.toml": config, "dataset.toml": pictures}


# --- its end ----------------------------------------------------------------------------------------------------------


def _judge(run: Run, attempt: Attempt, outcome: Outcome, ctx: Context) -> Mapping[str, Any] | FailureReason:
    """The proof of the files decides; what is proven is made read-only."""
    dataset, prepared = _dataset(run, ctx)
    folder = attempt.path / "images"
    problems = list(_problems(folder, prepared, {**run.point.params, **dataset.subset}))
    if problems:
        return _failed(dataset.name, problems, outcome)
    _seal(folder)
    return {
        "attempt": attempt.number,
        "folder": str(folder.relative_to(run.path)),
        "pictures": len(prepared.pictures),
        "content": provenance.content(folder),
    }


def _problems(folder: Path, prepared: PreparedDataset, params: Params) -> Iterator[Problem]:
    """What is wrong with the copied pictures, or with what was made of them."""
    copied = {path.name for path in folder.glob("*") if path.suffix != latents.SUFFIX}
    differing = sorted(copied ^ {path.name for path in prepared.folder.iterdir()})
    if differing:
        what = f"holds other files than the dataset: {', '.join(differing[:_TOLD])}"
        yield Problem(what=what, where=str(folder), remedy="run the same command again")
    sizes = {name: media.size(prepared.folder / name) for name in prepared.pictures}
    yield from latents.prove(folder, sizes, params)


_TOLD = 3
"""So many of what is wrong: all pictures have it as a rule."""


def _failed(dataset: str, problems: list[Problem], outcome: Outcome) -> FailureReason:
    """Why: as the program's log has it, else as the files show it."""
    told = log.classify(outcome.log, outcome.exit.code) if outcome.exit else None
    if told:
        return FailureReason(told[0], f"latents of {dataset}: {told[1]}")
    found = "; ".join(problem.what for problem in problems[:_TOLD])
    if any(latents.NOT_FINITE in problem.what for problem in problems):
        return FailureReason(
            Failure.NAN, f"latents of {dataset}: {found}; no_half_vae = true, or mixed_precision bf16, helps"
        )
    return FailureReason(Failure.NO_PRODUCT, f"latents of {dataset}: {found}")


def _seal(folder: Path) -> None:
    """On the disk itself, and for reading alone."""
    for path in folder.iterdir():
        files.sync(path)
        path.chmod(0o444)
    files.sync(folder)
    folder.chmod(0o555)
