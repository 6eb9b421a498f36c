"""The tables and the page of a scored folder of images."""

import tempfile
from dataclasses import asdict
from pathlib import Path

from orchestrator import files
from orchestrator.config.schema import Settings
from orchestrator.errors import InputError, Problem
from orchestrator.evidence.image_folder import FolderScores
from orchestrator.evidence.stats.estimates import Interval
from orchestrator.model import FaceStatus, Score
from orchestrator.report import csv_files, html
from orchestrator.scoring import thumbnails
from orchestrator.store.hashes import sha256_text
from orchestrator.text import pluralize

CSV, PAGE = "images.csv", "scores.html"
_UNKNOWN = ("checkpoint", "strength", "prompt", "seed", "text", "seed_distance", "adherence", "image")
"""Columns of a sweep's images.csv that an image without a known generation does not have."""
_MAX_ON_PAGE = 1000
_UNREADABLE = (FaceStatus.UNREADABLE, FaceStatus.ERROR)


def output_folder(settings: Settings, folder: Path, out: Path | None) -> Path:
    """Where the results go; by default `runs/.scores/<name>-<hash of the path>`.

    Raises InputError if the results or the face cache would be inside `folder`.
    """
    full = folder.resolve()
    name = f"{full.name[:80] or 'root'}-{sha256_text(str(full))[:8]}"
    chosen = (out or settings.runs / ".scores" / name).resolve()
    for key, path in (("--out", chosen), ("runs", settings.runs.resolve())):
        if path.is_relative_to(full):
            what = "is inside the folder of images, which is never written to"
            remedy = "move the images to a folder of their own" if key == "runs" else "choose another folder"
            raise InputError(Problem(what=what, where=str(path), key=key, remedy=remedy))
    return chosen


def write(found: FolderScores, out: Path) -> list[Path]:
    """Write images.csv and scores.html; returns their paths."""
    rows = [_row(one) for one in found.scores]
    csv_files.write(out / CSV, list(rows[0]), rows)
    files.write_text(out / PAGE, _page(found))
    return [out / CSV, out / PAGE]


def _row(score: Score) -> dict[str, object]:
    known = {key: value for key, value in asdict(score).items() if key not in _UNKNOWN}
    return {"file": score.image.file, **known, "status": score.status.value}


def _page(found: FolderScores) -> str:
    """Most similar first; images without a face last."""
    ranked = sorted(found.scores, key=lambda one: (one.similarity is None, -(one.similarity or 0.0)))
    shown = ranked[:_MAX_ON_PAGE]
    readable = [one.image.file for one in shown if one.status not in _UNREADABLE]
    with tempfile.TemporaryDirectory(prefix="orchestrate-") as cache:
        small = thumbnails.thumbnails(found.folder, readable, Path(cache), thumbnails.SIDES[1])
    return (
        html.environment()
        .get_template("scores.html.j2")
        .render(
            folder=found.folder.name,
            summary=sentences(found),
            images=[
                {
                    "file": one.image.file,
                    "small": small.get(one.image.file, ""),
                    "word": word(one),
                    "passes": _passes(one, found),
                }
                for one in shown
            ],
            hidden=len(ranked) - len(shown),
        )
    )


def word(score: Score) -> str:
    """The similarity, or why there is none."""
    if score.similarity is not None:
        return f"{score.similarity:.3f}"
    return "no face" if score.status is FaceStatus.NO_FACE else score.note or score.status.value


def _passes(score: Score, found: FolderScores) -> bool | None:
    if found.calibration is None:
        return None
    return score.similarity is not None and score.similarity >= found.calibration.calibration.threshold


def sentences(found: FolderScores) -> list[str]:
    """The summary, then the unreadable images, one line each."""
    metrics = found.metrics
    first = f"{found.folder.name}: {pluralize(metrics.images, 'image')}"
    if metrics.similarity_mean is not None and metrics.similarity_median is not None:
        first += f"; similarity mean {metrics.similarity_mean:.3f}{_bounds(found.mean_interval)}, "
        first += f"median {metrics.similarity_median:.3f}{_bounds(found.median_interval)}"
    if metrics.no_face_rate is not None:
        first += f"; no face {metrics.no_face_rate:.0%}"
    if metrics.pass_rate is not None and found.calibration:
        first += f"; pass rate {metrics.pass_rate:.0%}{_bounds(metrics.pass_interval, '.0%')} at threshold "
        first += f"{found.calibration.calibration.threshold:.3f}"
        first += "".join(f" ({caveat})" for caveat in found.calibration.caveats)
    else:
        first += "; no pass rate: there is no calibration for these references, see `orchestrate calibrate`"
    notes = [f"no interval of the similarity: {found.no_interval}"] if found.no_interval else []
    if not found.no_interval:
        notes = ["intervals: 95 %, over the images, as if each had a prompt and a seed of its own"]
    unread = [f"{one.image.file}: not scored: {word(one)}" for one in found.scores if one.status in _UNREADABLE]
    return [first, *notes, *unread]


def _bounds(interval: Interval | None, number: str = ".3f") -> str:
    return f" ({interval:{number}})" if interval else ""
