"""Finds faces and compares them to a persona: InsightFace behind a protocol, its pack checked, its results cached.

pack = faces.inspect(folder, det_size=640,   checks the files, runs nothing
model = faces.load(pack, device="cpu")                          loads, tries, and refuses a silent fallback
sighting = model.find(picture)                                  faces, largest first
embeddings = model.embed([sighting.crop])                       of many pictures at once
"""

from orchestrator.scoring.faces.cache import Cache
from orchestrator.scoring.faces.insight import load, runtime_problems
from orchestrator.scoring.faces.pack import Pack, inspect
from orchestrator.scoring.faces.similarity import Persona, leave_one_out, persona, score
from orchestrator.scoring.faces.types import Detection, Embedding, Face, FaceRecord, Faces, Outcome, Picture, ReadError

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
    "Picture",
    "ReadError",
    "inspect",
    "leave_one_out",
    "load",
    "persona",
    "runtime_problems",
    "score",
]
