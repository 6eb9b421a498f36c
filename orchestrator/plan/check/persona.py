"""The face pack at work on the persona's pictures: does it run where it should, and whose faces does it see."""

import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from orchestrator import images as media
from orchestrator import scoring as scorer
from orchestrator.config.schema import Dataset, Settings
from orchestrator.errors import OrchestrateError, Problem, Severity
from orchestrator.model import FaceStatus, Score
from orchestrator.plan.check import pictures
from orchestrator.plan.check.look import CheckResult
from orchestrator.scoring import embedding

SAME = 0.98
"""Cosine between two pictures above which they are one photo, cut or saved otherwise."""


def check_persona(settings: Settings, datasets: Sequence[Dataset]) -> CheckResult:
    """Score the datasets' pictures in a scorer of its own, without its memory, so that the pack is really tried."""
    references = media.pictures(settings.scoring.references).pictures
    trained = {path: one for one in datasets for path in media.pictures(one.image_dir).pictures}
    if not references or not settings.scoring.pack.is_dir():
        return CheckResult()  # told by readiness
    try:
        scored, _ = embedding.score(settings.scoring, list(trained), references=references)
    except (OrchestrateError, OSError, subprocess.SubprocessError) as error:
        return CheckResult(problems=(_not_running(settings, str(error)),))
    faces = f"{settings.scoring.pack.name} on {scored.provider}"
    return CheckResult(facts={"face pack": faces}, problems=tuple(_problems(scored, trained)))


def _not_running(settings: Settings, error: str) -> Problem:
    return Problem(
        what=f"scoring does not work: {error}",
        where=str(settings.path),
        key="score",
        value=str(settings.scoring.pack),
        remedy='mend what it says; `device = "cpu"` under [score] always works',
    )


def _problems(scored: scorer.Scored, trained: Mapping[Path, Dataset]) -> Iterator[Problem]:
    for name, why in scored.references.rejected.items():
        remedy = "put a picture with exactly one face in its place"
        yield _doubt(f"is not used as a reference: {why}", name, "score.references", remedy)
    for dataset in {one.name: one for one in trained.values()}.values():
        own = [score for score in scored.scores if trained[Path(score.image.file)] is dataset]
        yield from _of_dataset(own, dataset)


def _of_dataset(scores: Sequence[Score], dataset: Dataset) -> Iterator[Problem]:
    nobody = [score for score in scores if score.status is FaceStatus.NO_FACE]
    several = [score for score in scores if score.faces > 1]
    copies = [score for score in scores if score.nearest_reference is not None and score.nearest_reference >= SAME]
    for found, what, remedy in (
        (nobody, "show no face", "look at them: they teach scenery, not the persona"),
        (several, "show more than one face", "crop them to the persona: another face is learned, too"),
        (
            copies,
            f"show the face as a reference shows it (cosine {SAME:g} or more)",
            "take them out, or their twins out of the references: copying would be praised",
        ),
    ):
        if found:
            named = pictures.first_names([Path(score.image.file).name for score in found])
            text = f"{len(found)} of {len(scores)} pictures {what}: {named}"
            yield _doubt(text, str(dataset.image_dir), f"datasets.{dataset.name}", remedy)


def _doubt(what: str, where: str, key: str, remedy: str) -> Problem:
    return Problem(what=what, where=where, key=key, remedy=remedy, severity=Severity.WARNING)
