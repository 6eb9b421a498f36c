"""Finds faces and compares them with a persona: InsightFace behind a protocol, with checks of its pack and a cache.

pack = faces.inspect(folder, det_size=640)    checks the files, runs nothing
model = faces.load(pack, device="cpu")        loads and tests the models; fails if not on the device
detection = model.find(image)                 the faces, largest first
embeddings = model.embed(detection.crops)     of many faces at once
"""

from orchestrator.scoring.faces.cache import Cache
from orchestrator.scoring.faces.insight import load, runtime_problems
from orchestrator.scoring.faces.pack import Pack, inspect
from orchestrator.scoring.faces.similarity import (
    Persona,
    embeddings,
    leave_one_out,
    most_similar,
    persona,
    reference_closeness,
    score,
    unit,
    with_seed_distances,
)
from orchestrator.scoring.faces.types import Detection, Embedding, Face, FaceRecord, Faces, Outcome, Pixels, ReadError

__all__ = [
    "Cache",
    "Detection",
    "Embedding",
    "Face",
    "FaceRecord",
    "Faces",
    "Outcome",
    "Pack",
    "Persona",
    "Pixels",
    "ReadError",
    "embeddings",
    "inspect",
    "leave_one_out",
    "load",
    "most_similar",
    "persona",
    "reference_closeness",
    "runtime_problems",
    "score",
    "unit",
    "with_seed_distances",
]
