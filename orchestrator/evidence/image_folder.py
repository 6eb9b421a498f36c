"""Scores a folder of images of any origin with the settings' face pack, references and calibration."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from scipy import stats

from orchestrator import images, scoring
from orchestrator.config.schema import Settings
from orchestrator.errors import InputError, Problem, warning
from orchestrator.evidence import run_metrics
from orchestrator.evidence.calibration import record
from orchestrator.evidence.calibration.record import CalibrationRecord
from orchestrator.evidence.run_metrics import RunMetrics
from orchestrator.evidence.stats.estimates import Interval
from orchestrator.files import why_no_folder
from orchestrator.model import Image, Score
from orchestrator.scoring import isolated
from orchestrator.store import layout
from orchestrator.store.hashes import HashCache, sha256

MIN_FOR_INTERVAL = 8
"""Fewer images with a face give no interval."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FolderScores:
    """The scores of a folder's images by name, and what they amount to.

    mean_interval, median_interval: 95 %, over the images with a face as independent observations. no_interval: why they
    are None. calibration: None without one for the same face pack and references.
    """

    folder: Path
    scores: tuple[Score, ...]
    metrics: RunMetrics
    calibration: CalibrationRecord | None
    mean_interval: Interval | None
    median_interval: Interval | None
    no_interval: str
    problems: tuple[Problem, ...]


def score(settings: Settings, folder: Path) -> FolderScores:
    """Score the images directly in `folder`, which is only read.

    Raises InputError for a folder without images, NotReady without a usable face pack or reference.
    """
    folder = folder.resolve()
    paths, problems = _printable_names(folder)
    references = images.list_images(settings.scoring.references).paths
    with tempfile.TemporaryDirectory(prefix="orchestrate-") as name:
        temporary = Path(name)
        job = scoring.Job(
            settings=settings.scoring,
            # One prompt each: the images are not seeds of one prompt, so they have no distance between seeds.
            images=tuple(
                Image(file=path.name, checkpoint="", strength=0.0, prompt=number, seed=0)
                for number, path in enumerate(paths)
            ),
            root=folder,
            out=temporary / "scored.json",
            cache=settings.runs / scoring.FACE_CACHE,
            references=references,
        )
        scored = isolated.run(temporary, job)
    fingerprint = {"face pack": scored.fingerprint, "references": HashCache(settings.runs).of_all(references)}
    calibration, reasons = record.load_matching(layout.calibration(settings.runs), fingerprint)
    thresholds = calibration.calibration.thresholds if calibration else None
    similarities = [one.similarity for one in scored.scores if one.similarity is not None]
    why = _no_interval(similarities, [folder / one.image.file for one in scored.scores if one.similarity is not None])
    return FolderScores(
        folder=folder,
        scores=scored.scores,
        metrics=run_metrics.summary(scored.scores, thresholds),
        calibration=calibration,
        mean_interval=None if why else _mean_interval(similarities),
        median_interval=None if why else _median_interval(similarities),
        no_interval=why,
        problems=(*problems, *(_as_folder(problem) for problem in reasons)),
    )


def _printable_names(folder: Path) -> tuple[list[Path], list[Problem]]:
    """The images with printable names, and a problem for each file that is left out."""
    listing = images.list_images(folder)
    valid = [path for path in listing.paths if path.name.isprintable()]
    remedy = "rename it to printable letters"
    problems = [
        warning("", "is left out: its name has unprintable characters", remedy, where=repr(str(path)))
        for path in listing.paths
        if path not in valid
    ]
    if not valid:
        what = "contains no images" if folder.is_dir() else why_no_folder(folder)
        remedy = f"name a folder with images ({', '.join(sorted(images.SUFFIXES))})"
        none = Problem(what=what, where=str(folder), key="--images", remedy=remedy)
        raise InputError(*((folder.is_dir() and listing.why_empty("--images")) or [none]))
    return valid, [*listing.problems, *problems]


def _as_folder(problem: Problem) -> Problem:
    return replace(problem, what=problem.what.replace("the sweep has", "the settings have"))


def _no_interval(similarities: Sequence[float], paths: Sequence[Path]) -> str:
    if len(similarities) < MIN_FOR_INTERVAL:
        return f"fewer than {MIN_FOR_INTERVAL} images with a face"
    copies = len(paths) - len({sha256(path) for path in paths})
    return f"{copies} of the images are copies of others" if copies else ""


def _mean_interval(values: Sequence[float]) -> Interval | None:
    if not np.ptp(values):
        return None
    found = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    return Interval(low=float(found.low), high=float(found.high))


def _median_interval(values: Sequence[float]) -> Interval:
    """By order statistics, without assuming a distribution."""
    found = stats.quantile_test(values, p=0.5).confidence_interval(0.95)
    return Interval(low=float(found.low), high=float(found.high))
