"""Faces of pictures as directions, found in a process of its own, for comparisons other than with the references.

    python -m orchestrator.scoring.embedding JOB.json

Exit codes and cache are the scorer's; so is the file that names the pictures in hand.
"""

import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from orchestrator import scoring as scorer
from orchestrator.config.schema import Scoring
from orchestrator.errors import NotReady, OrchestrateError, Problem
from orchestrator.scoring import faces
from orchestrator.scoring.batch_embedder import BatchEmbedder
from orchestrator.scoring.in_progress import InProgressFile
from orchestrator.store import records


@dataclass(frozen=True, slots=True, kw_only=True)
class FaceEmbedding:
    """What is known of one picture. embedding: of its largest face, not normalised; None where there is no face.

    note: why it could not be looked at, empty when it could.
    """

    faces: int
    embedding: tuple[float, ...] | None
    note: str = ""

    @property
    def unfit(self) -> str:
        """Why it does not show exactly one face; empty when it does."""
        if self.note or self.faces == 1:
            return self.note
        return f"shows {self.faces} faces" if self.faces else "shows no face"


def embed(scoring: Scoring, pictures: Sequence[Path], *, cache: Path) -> list[FaceEmbedding]:
    """One result per picture, in order, by the settings' face pack. Raises NotReady with what the child said."""
    with tempfile.TemporaryDirectory(prefix="orchestrate-") as folder:
        job = _Job(scoring=scoring, pictures=tuple(pictures), cache=cache, out=Path(folder) / "looked.json")
        records.write(Path(folder) / "job.json", scorer.plain(asdict(job)))
        argv = [sys.executable, "-m", "orchestrator.scoring.embedding", str(Path(folder) / "job.json")]
        done = subprocess.run(argv, capture_output=True, text=True, errors="replace", check=False)
        if done.returncode:
            raise NotReady(_died(done, scorer.in_hand(job.out)))
        return [_looked(record) for record in records.read(job.out)["pictures"]]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Job:
    scoring: Scoring
    pictures: tuple[Path, ...]
    cache: Path
    out: Path


def _died(done: subprocess.CompletedProcess[str], held: Sequence[str]) -> Problem:
    if done.returncode < 0:
        what = f"looking for faces ended by signal {-done.returncode} with {', '.join(held) or 'no picture'} in hand"
        return Problem(what=what, remedy="take the picture away, and run the same command again")
    said = done.stderr.strip() or f"exit code {done.returncode}"
    return Problem(what=f"looking for faces failed: {said}", remedy="`orchestrate check` tells what is missing")


def _looked(record: dict[str, Any]) -> FaceEmbedding:
    vector = record["embedding"]
    return FaceEmbedding(faces=record["faces"], embedding=tuple(vector) if vector else None, note=record["note"])


# --- the child --------------------------------------------------------------------------------------------------------


def main(path: Path) -> int:
    """The exit code."""
    try:
        job = _read(path)
        records.write(job.out, {"pictures": [asdict(_plain(outcome)) for outcome in _outcomes(job)]})
    except OrchestrateError as error:
        print(error, file=sys.stderr)
        return NotReady.exit_code if isinstance(error, NotReady) else 1
    return 0


def _read(path: Path) -> _Job:
    record = records.read(path)
    used = record["scoring"]
    paths = {key: Path(used[key]) for key in ("pack", "references", "second_pack", "clip") if used[key]}
    return _Job(
        scoring=Scoring(**{**used, **paths}),
        pictures=tuple(Path(name) for name in record["pictures"]),
        cache=Path(record["cache"]),
        out=Path(record["out"]),
    )


def _outcomes(job: _Job) -> list[faces.Outcome]:
    used = job.scoring
    pack = faces.inspect(used.pack, det_size=used.det_size)
    looker = BatchEmbedder(
        load=lambda: faces.load(pack, device=used.device),
        cache=faces.Cache(job.cache, pack.fingerprint),
        workers=used.workers,
        hand=InProgressFile(scorer.in_hand_path(job.out)),
    )
    return looker.look(job.pictures)


def _plain(outcome: faces.Outcome) -> FaceEmbedding:
    if isinstance(outcome, faces.ReadError):
        return FaceEmbedding(faces=0, embedding=None, note=outcome.note)
    vector = None if outcome.embedding is None else tuple(float(value) for value in outcome.embedding)
    return FaceEmbedding(faces=len(outcome.faces), embedding=vector)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
