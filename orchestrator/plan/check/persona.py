"""Checks of the face pack and the persona's images: scores them once, as a sweep would."""

import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from orchestrator import errors
from orchestrator import images as media
from orchestrator import scoring as scorer
from orchestrator.config.schema import Dataset, Settings
from orchestrator.errors import OrchestrateError, Problem
from orchestrator.model import FaceStatus, Score
from orchestrator.plan.check.report import CheckReport
from orchestrator.scoring import embedding
from orchestrator.scoring.faces.similarity import SAME_PHOTO
from orchestrator.text import first_names


def check_persona(settings: Settings, datasets: Sequence[Dataset]) -> CheckReport:
    """Score the datasets' images in a scorer process without the face cache, so that the pack runs."""
    references = media.list_images(settings.scoring.references).paths
    trained = {path: one for one in datasets if not one.is_prior for path in media.list_images(one.image_dir).paths}
    if not references or not settings.scoring.pack.is_dir():
        return CheckReport()  # reported by preflight
    second = settings.scoring.second_pack
    try:
        scored, _ = embedding.score(settings.scoring, list(trained), references=references)
        other = (
            embedding.score(replace(settings.scoring, pack=second), [], references=references)[0] if second else None
        )
    except (OrchestrateError, OSError, subprocess.SubprocessError) as error:
        remedy = 'fix the cause, or use `device = "cpu"` under [score]'
        what, pack = f"scoring does not work: {error}", str(settings.scoring.pack)
        return CheckReport(problems=(errors.error("score", what, remedy, where=str(settings.path), value=pack),))
    faces = f"{settings.scoring.pack.name} on {scored.provider}"
    broken = [scored.pack_problem(settings.scoring.pack)]
    if second and other:
        broken.append(other.pack_problem(second, "score.second_pack"))
    problems = (*filter(None, broken), *_problems(scored, trained))
    return CheckReport(facts={"face pack": faces}, problems=problems)


def _problems(scored: scorer.Scored, trained: Mapping[Path, Dataset]) -> Iterator[Problem]:
    for name, why in scored.references.rejected.items():
        remedy = "replace it with another photo that shows exactly one face"
        yield errors.warning("score.references", f"is not used as a reference: {why}", remedy, where=name)
    for dataset in {one.name: one for one in trained.values()}.values():
        own = [score for score in scored.scores if trained[Path(score.image.file)] is dataset]
        yield from _of_dataset(own, dataset)


def _of_dataset(scores: Sequence[Score], dataset: Dataset) -> Iterator[Problem]:
    no_face = [score for score in scores if score.status is FaceStatus.NO_FACE]
    multi_face = [score for score in scores if score.faces > 1]
    copies = [score for score in scores if (score.nearest_reference or 0) >= SAME_PHOTO]
    for found, what, remedy in (
        (no_face, "show no face", "remove them: they teach the background, not the persona"),
        (multi_face, "show more than one face", "crop them to the persona: training learns every face"),
        (
            copies,
            f"are nearly identical to a reference (cosine {SAME_PHOTO:g} or more)",
            "remove them here or from the references: they inflate the score",
        ),
    ):
        if found:
            named = first_names([Path(score.image.file).name for score in found])
            text = f"{len(found)} of {len(scores)} images {what}: {named}"
            yield errors.warning(f"datasets.{dataset.name}", text, remedy, where=str(dataset.image_dir))
