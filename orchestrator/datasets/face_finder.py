"""Finds faces in images with the settings' face pack, and compares them with the persona's references."""

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
    """Uses the scorer's cache and loads the pack only for unknown images. Raises NotReady without a usable pack."""

    def __init__(self, scoring: Scoring, *, cache: Path, in_progress: Path) -> None:
        pack = faces.inspect(scoring.pack, det_size=scoring.det_size)
        self._references = scoring.references
        self._embedder = BatchEmbedder(
            load=lambda: faces.load(pack, device=scoring.device),
            cache=faces.Cache(cache, pack.fingerprint),
            workers=scoring.workers,
            in_progress=InProgressFile(in_progress),
        )

    def find(self, paths: Sequence[Path]) -> list[faces.Outcome]:
        """One outcome per image, in order."""
        return self._embedder.embed(paths)

    def similarity(self, embedding: faces.Embedding) -> float:
        """Cosine to the references' centroid. Raises NotReady without a usable reference."""
        return float(np.dot(embedding, self._persona.centroid) / np.linalg.norm(embedding))

    @cached_property
    def _persona(self) -> faces.Persona:
        found = self.find(images.list_images(self._references).paths)
        single = [one for one in found if isinstance(one, faces.FaceRecord) and len(one.faces) == 1]
        if embeddings := faces.embeddings(single):
            return faces.persona(embeddings)
        what = "no reference photo shows exactly one face: stills of the persona cannot be recognised"
        where, remedy = str(self._references), "put photos of the persona there"
        raise NotReady(Problem(what=what, where=where, key="score.references", remedy=remedy))
