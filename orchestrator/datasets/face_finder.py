"""Looks for faces in pictures, loading the face pack only when some picture is unknown, and knows the persona."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np

from orchestrator import images
from orchestrator.config.schema import Scoring
from orchestrator.errors import NotReady, Problem
from orchestrator.scoring import faces
from orchestrator.scoring.batch_embedder import BatchEmbedder, InProgressFile


class FaceFinder:
    """The settings' face pack with the scorer's own cache. Raises NotReady where the pack is missing or broken."""

    def __init__(self, scoring: Scoring, *, cache: Path, in_progress: Path) -> None:
        pack = faces.inspect(scoring.pack, det_size=scoring.det_size)
        self._scoring = scoring
        self._embedder = BatchEmbedder(
            load=lambda: faces.load(pack, device=scoring.device),
            cache=faces.Cache(cache, pack.fingerprint),
            workers=scoring.workers,
            in_progress=InProgressFile(in_progress),
        )

    def see(self, pictures: Sequence[Path]) -> list[faces.Outcome]:
        """One outcome per picture, in order."""
        return self._embedder.embed(pictures)

    def likeness(self, embedding: faces.Embedding) -> float:
        """Cosine to the references' centroid."""
        return float(np.dot(embedding, self._persona.centroid) / np.linalg.norm(embedding))

    @cached_property
    def _persona(self) -> faces.Persona:
        found = self.see(images.pictures(self._scoring.references).pictures)
        alone = [one for one in found if isinstance(one, faces.FaceRecord) and len(one.faces) == 1]
        embeddings = [one.embedding for one in alone if one.embedding is not None]
        if not embeddings:
            what = "no reference picture with exactly one face, so that nobody knows whose video it is"
            where = str(self._scoring.references)
            raise NotReady(Problem(what=what, where=where, key="score.references", remedy="put some there"))
        return faces.persona(embeddings)
