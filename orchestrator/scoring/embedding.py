"""Embeddings of images: those that the scorer leaves beside a run's scores, and those of other images."""

import subprocess
import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from orchestrator import scoring
from orchestrator.config.schema import Scoring
from orchestrator.errors import NotReady, Problem
from orchestrator.model import Image

TIMEOUT_S = 3600

NAME = "embeddings.npz"
"""The file beside a run's scores."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Embeddings:
    """Of a run's images in the order of its scores, (images, width); rows are NaN where there is no embedding.

    faces: of the scored face, as the recogniser returned it. clip: of the whole image, of length 1, for prompts without
    a trigger; no columns without a CLIP model.
    """

    faces: NDArray[np.float32]
    clip: NDArray[np.float32]


def write(path: Path, embeddings: Embeddings) -> None:
    """Write the file atomically. Raises OSError."""
    draft = path.with_name(f".{path.name}.tmp.npz")
    np.savez(draft, faces=embeddings.faces, clip=embeddings.clip)
    draft.replace(path)


def read(path: Path) -> Embeddings | None:
    """None when the file is missing or damaged."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return Embeddings(faces=arrays["faces"], clip=arrays["clip"])
    except (OSError, ValueError, KeyError, zipfile.BadZipFile):
        return None


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
    return [
        FaceEmbedding(embedding=None if np.isnan(row).any() else tuple(row.tolist()), unfit=scoring.unfit(one))
        for one, row in zip(scored.scores, rows, strict=True)
    ]


def score(
    settings: Scoring, images: Sequence[Path], *, references: Sequence[Path] = (), cache: Path | None = None
) -> tuple[scoring.Scored, NDArray[np.float32]]:
    """The scores by the settings' face pack, and (images, width) embeddings, NaN without a face.

    cache: without one, every image is processed. With references, the face pack is tested, see `Scored.pack_problem`.
    Raises NotReady with the scorer's message.
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
            embeddings=folder / NAME,
            test_pack=bool(references),
        )
        argv = scoring.write_job(folder, job)
        done = subprocess.run(argv, capture_output=True, text=True, errors="replace", timeout=TIMEOUT_S, check=False)
        if done.returncode:
            raise NotReady(failure(done, scoring.in_progress(job.out)))
        found = read(folder / NAME)
        assert found
        return scoring.read_scored(job.out), found.faces


def failure(done: subprocess.CompletedProcess[str], images: Sequence[str]) -> Problem:
    """Why a scorer failed. images: those that it was processing."""
    if done.returncode < 0:
        what = f"the scorer died of signal {-done.returncode} while it processed {', '.join(images) or 'no image'}"
        return Problem(what=what, remedy="remove that image and run the same command again")
    output = done.stderr.strip() or f"exit code {done.returncode}"
    return Problem(what=f"the scorer failed: {output}")
