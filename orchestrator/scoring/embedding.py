"""Runs the scorer on images that no run made, and waits for it: `check` scores training images, `calibrate` embeds."""

import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from orchestrator import scoring
from orchestrator.config.schema import Scoring
from orchestrator.errors import NotReady, Problem
from orchestrator.model import Image, Score

TIMEOUT_S = 3600


@dataclass(frozen=True, slots=True, kw_only=True)
class FaceEmbedding:
    """The largest face of one image. embedding: not normalised; None where there is no face.

    unfit: why the image does not show exactly one face; empty when it does.
    """

    embedding: tuple[float, ...] | None
    unfit: str


def embed(settings: Scoring, images: Sequence[Path], *, cache: Path) -> list[FaceEmbedding]:
    """One result per image, in order, by the settings' face pack. Raises NotReady with the scorer's message."""
    scored, rows = score(settings, images, cache=cache)
    return [_face_embedding(*pair) for pair in zip(scored.scores, rows, strict=True)]


def score(
    settings: Scoring, images: Sequence[Path], *, references: Sequence[Path] = (), cache: Path | None = None
) -> tuple[scoring.Scored, NDArray[np.float32]]:
    """The scores by the settings' face pack, and (images, width) embeddings, NaN without a face.

    cache: without one, every image is processed. Raises NotReady with the scorer's message.
    """
    with tempfile.TemporaryDirectory(prefix="orchestrate-") as name:
        folder = Path(name)
        job = scoring.Job(
            settings=replace(settings, second_pack=None),
            images=tuple(Image(file=str(path), checkpoint="", strength=0.0, prompt=0, seed=0) for path in images),
            root=folder,
            out=folder / "scored.json",
            cache=cache or folder / "faces",
            references=tuple(references),
            embeddings=folder / "embeddings.npy",
        )
        argv = scoring.write_job(folder, job)
        done = subprocess.run(argv, capture_output=True, text=True, errors="replace", timeout=TIMEOUT_S, check=False)
        if done.returncode:
            raise NotReady(_failure(done, scoring.in_progress(job.out)))
        return scoring.read_scored(job.out), np.load(folder / "embeddings.npy", allow_pickle=False)


def _failure(done: subprocess.CompletedProcess[str], images: Sequence[str]) -> Problem:
    if done.returncode < 0:
        what = f"the scorer died of signal {-done.returncode} while it processed {', '.join(images) or 'no image'}"
        return Problem(what=what, remedy="remove that image and run the same command again")
    output = done.stderr.strip() or f"exit code {done.returncode}"
    return Problem(what=f"the scorer failed: {output}")


def _face_embedding(one: Score, row: NDArray[np.float32]) -> FaceEmbedding:
    return FaceEmbedding(embedding=None if np.isnan(row).any() else tuple(row.tolist()), unfit=scoring.unfit(one))
