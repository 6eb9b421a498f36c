"""The scorer's process: reads a job, embeds references, training images and images, and writes the scores."""

import contextlib
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from orchestrator import scoring
from orchestrator.errors import NotReady, OrchestrateError, Problem, Severity
from orchestrator.model import Image
from orchestrator.scoring import embedding, faces, prompt_adherence, same_photo, thumbnails
from orchestrator.scoring.batch_embedder import BatchEmbedder, InProgressFile

_REFERENCES = "score.references"
_TESTED = 8
"""Photos that the test of the face pack uses."""


def main(argv: Sequence[str]) -> int:
    """The exit code."""
    if len(argv) != 1:
        print("usage: python -m orchestrator.scoring JOB.json", file=sys.stderr)
        return 1
    try:
        job = scoring.read_job(Path(argv[0]))
        scoring.write_scored(job.out, _score(job))
    except OrchestrateError as error:
        _print(error.problems)
        return NotReady.exit_code if isinstance(error, NotReady) else 1
    scoring.in_progress_path(job.out).unlink(missing_ok=True)
    if job.thumbnails:
        with contextlib.suppress(OSError):  # the report makes missing thumbnails itself
            thumbnails.prepare(job.root, [image.file for image in job.images], job.thumbnails)
    return 0


def _score(job: scoring.Job) -> scoring.Scored:
    scored, face_embeddings = _score_faces(job.settings.pack, job)
    if job.settings.second_pack:
        second, _ = _score_faces(job.settings.second_pack, job)
        pairs = zip(scored.scores, second.scores, strict=True)
        scores = tuple(replace(one, second_similarity=other.similarity) for one, other in pairs)
        scored = replace(scored, scores=scores, second_fingerprint=second.fingerprint)
    clip_embeddings = np.empty((len(job.images), 0), np.float32)
    if job.clip:
        scores, clip_embeddings = prompt_adherence.measure(
            scored.scores, job.clip, root=job.root, folder=job.out.parent
        )
        scored = replace(scored, scores=scores)
    if job.embeddings:
        embedding.write(job.embeddings, embedding.Embeddings(faces=face_embeddings, clip=clip_embeddings))
    return scored


def _score_faces(folder: Path, job: scoring.Job) -> tuple[scoring.Scored, NDArray[np.float32]]:
    """The scores by one face pack, and the embeddings of the scored faces."""
    pack = faces.inspect(folder, det_size=job.settings.det_size)
    embedder = BatchEmbedder(
        load=lambda: faces.load(pack, device=job.settings.device),
        cache=faces.Cache(job.cache, pack.fingerprint),
        workers=job.settings.workers,
        in_progress=InProgressFile(scoring.in_progress_path(job.out)),
        skip=[job.root / name for name in job.skip],
        alone=[job.root / name for name in job.alone],
    )
    references, rejected = _references(embedder, job.references)
    persona = faces.persona(list(references.values())) if references else None
    training = faces.embeddings(embedder.embed(job.training), persona)
    persona = faces.persona(list(references.values()), training) if references else None
    paths = [job.root / image.file for image in job.images]
    outcomes = embedder.embed(paths, lambda done: print(f"scored: {done}/{len(paths)}", flush=True))
    embeddings = _embeddings(outcomes, persona)
    scores = [faces.score(*pair, persona) for pair in zip(job.images, outcomes, strict=True)]
    left_out = faces.leave_one_out(persona) if persona else []
    nearest, average = faces.reference_closeness(persona) if persona else ([], None)
    scored = scoring.Scored(
        fingerprint=pack.fingerprint,
        provider=embedder.provider,
        references=scoring.References(
            leave_one_out=dict(zip(references, left_out, strict=True)),
            rejected=rejected,
            training=dict(zip(references, nearest, strict=False)),
            average_training=average,
        ),
        training=len({embedding.tobytes() for embedding in training}),  # repeated images count once
        scores=faces.with_seed_distances(scores, embeddings),
        upside_down=_upside_down(embedder, [Path(name) for name in references], persona) if job.test_pack else (),
    )
    return scored, embeddings


def _references(embedder: BatchEmbedder, paths: Sequence[Path]) -> tuple[dict[str, faces.Embedding], dict[str, str]]:
    """The photos in use, and why the others are not; raises NotReady when none is usable."""
    used, rejected, photos = {}, {}, list[same_photo.Photo]()
    for path, outcome in zip(paths, embedder.embed(paths), strict=True):
        image = Image(file=str(path), checkpoint="", strength=0.0, prompt=0, seed=0)
        why = scoring.unfit(faces.score(image, outcome, None))
        if isinstance(outcome, faces.FaceRecord) and outcome.embedding is not None and not why:
            photo = same_photo.photo(path, outcome.embedding)
            if twin := same_photo.first_same(photo, photos):
                rejected[str(path)] = f"is the same photo as {twin.path.name}"
            else:
                used[str(path)] = outcome.embedding
                photos.append(photo)
        else:
            rejected[str(path)] = why
    problems = [
        Problem(
            what=f"is not used as a reference: {why}",
            where=name,
            key=_REFERENCES,
            remedy="replace it with another photo that shows exactly one face",
            severity=Severity.WARNING if used else Severity.ERROR,
        )
        for name, why in rejected.items()
    ]
    if paths and not used:
        raise NotReady(*problems, Problem(what="no reference photo is usable", key=_REFERENCES))
    _print(problems)
    return used, rejected


def _upside_down(embedder: BatchEmbedder, paths: Sequence[Path], persona: faces.Persona | None) -> tuple[float, ...]:
    found = embedder.upside_down(paths[:_TESTED]) if persona else []
    return tuple(float(faces.unit(one) @ persona.centroid) for one in found) if persona else ()


def _embeddings(outcomes: Sequence[faces.Outcome], persona: faces.Persona | None) -> NDArray[np.float32]:
    """(images, width): of the scored face, NaN without a face."""
    found = [next(iter(faces.embeddings([outcome], persona)), None) for outcome in outcomes]
    width = next((len(embedding) for embedding in found if embedding is not None), 1)
    missing = np.full(width, np.nan, np.float32)
    return np.array([missing if one is None else one for one in found], np.float32).reshape(-1, width)


def _print(problems: Sequence[Problem]) -> None:
    for problem in problems:
        print(problem, file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
