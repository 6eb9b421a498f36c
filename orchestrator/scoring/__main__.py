"""The child: reads a job, looks at the references, the training pictures and the images, writes the scores."""

import contextlib
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from orchestrator import scoring
from orchestrator.errors import NotReady, OrchestrateError, Problem, Severity
from orchestrator.scoring import faces, prompt_adherence, thumbnails
from orchestrator.scoring.batch_embedder import BatchEmbedder
from orchestrator.scoring.in_progress import InProgressFile

_REFERENCES = "score.references"


def main(argv: Sequence[str]) -> int:
    """The exit code."""
    if len(argv) != 1:
        print("usage: python -m orchestrator.scoring JOB.json", file=sys.stderr)
        return 1
    try:
        job = scoring.read_job(Path(argv[0]))
        scoring.write_scored(job.out, _score(job))
        scoring.in_hand_path(job.out).unlink(missing_ok=True)
        if job.thumbnails:
            with contextlib.suppress(OSError):  # costs the report some time, and no score
                thumbnails.prepare(job.root, [image.file for image in job.images], job.thumbnails)
    except OrchestrateError as error:
        _tell(error.problems)
        return NotReady.exit_code if isinstance(error, NotReady) else 1
    return 0


def _score(job: scoring.Job) -> scoring.Scored:
    scored = _by_faces(job)
    if job.adherence is None:
        return scored
    scores = prompt_adherence.with_adherence(scored.scores, job.adherence, root=job.root, folder=job.out.parent)
    return replace(scored, scores=scores)


def _by_faces(job: scoring.Job) -> scoring.Scored:
    first = _by(job.pack, job)
    if job.second_pack is None:
        return first
    second = _by(job.second_pack, job)
    pairs = zip(first.scores, second.scores, strict=True)
    scores = tuple(replace(one, second_similarity=other.similarity) for one, other in pairs)
    return replace(first, scores=scores, second_fingerprint=second.fingerprint)


def _by(folder: Path, job: scoring.Job) -> scoring.Scored:
    """The scores by one face pack."""
    pack = faces.inspect(folder, det_size=job.det_size)
    looker = BatchEmbedder(
        load=lambda: faces.load(pack, device=job.device),
        cache=faces.Cache(job.cache, pack.fingerprint),
        workers=job.workers,
        hand=InProgressFile(scoring.in_hand_path(job.out)),
        skip=[job.root / name for name in job.skip],
        alone=[job.root / name for name in job.alone],
    )
    references, rejected = _references(looker, job.references)
    training = _embeddings(looker.look(job.training))
    someone = faces.persona(list(references.values()), training)
    outcomes = looker.look([job.root / image.file for image in job.images], lambda done: _progress(done, job))
    return scoring.Scored(
        fingerprint=pack.fingerprint,
        provider=looker.provider,
        references=scoring.References(
            leave_one_out=dict(zip(references, faces.leave_one_out(someone), strict=True)), rejected=rejected
        ),
        training=len({embedding.tobytes() for embedding in training}),  # repeats are no further pictures
        scores=tuple(faces.score(*pair, someone) for pair in zip(job.images, outcomes, strict=True)),
    )


def _references(looker: BatchEmbedder, paths: Sequence[Path]) -> tuple[dict[str, faces.Embedding], dict[str, str]]:
    """Those in use, and why the others are not; raises NotReady when none is left."""
    used, rejected = {}, {}
    for path, outcome in zip(paths, looker.look(paths), strict=True):
        if isinstance(outcome, faces.FaceRecord) and len(outcome.faces) == 1 and outcome.embedding is not None:
            used[str(path)] = outcome.embedding
        else:
            rejected[str(path)] = _why(outcome)
    severity = Severity.WARNING if used else Severity.ERROR
    problems = [_rejected(name, why, severity) for name, why in rejected.items()]
    if not used:
        raise NotReady(*problems, Problem(what="no reference picture is left to compare with", key=_REFERENCES))
    _tell(problems)
    return used, rejected


def _why(outcome: faces.Outcome) -> str:
    if isinstance(outcome, faces.ReadError):
        return outcome.note
    return f"shows {len(outcome.faces)} faces" if outcome.faces else "shows no face"


def _rejected(name: str, why: str, severity: Severity) -> Problem:
    return Problem(
        what=f"is not used as a reference: {why}",
        where=name,
        key=_REFERENCES,
        remedy="put a picture with exactly one face in its place",
        severity=severity,
    )


def _embeddings(outcomes: Sequence[faces.Outcome]) -> list[faces.Embedding]:
    found = [outcome.embedding for outcome in outcomes if isinstance(outcome, faces.FaceRecord)]
    return [embedding for embedding in found if embedding is not None]


def _progress(done: int, job: scoring.Job) -> None:
    print(f"scored: {done}/{len(job.images)}", flush=True)


def _tell(problems: Sequence[Problem]) -> None:
    for problem in problems:
        print(problem, file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
