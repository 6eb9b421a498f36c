"""Finds faces and compares them to a persona: InsightFace behind a protocol, its pack checked, its results cached.

pack = faces.inspect(folder, det_size=640, decode_rule=...)     reads no weights, imports no InsightFace
model = faces.load(pack, device="cpu")                          loads, tries, and refuses a silent fallback
sighting = model.find(picture)                                  faces, largest first
embeddings = model.embed([sighting.crop])                       of many pictures at once
"""

from orchestrator.faces.cache import Cache
from orchestrator.faces.finding import Embedding, Face, Faces, Finding, Outcome, Picture, Refusal, Sighting
from orchestrator.faces.insight import load, runtime_problems
from orchestrator.faces.pack import Pack, inspect
from orchestrator.faces.persona import Persona, leave_one_out, persona, score

__all__ = [
    "Cache",
    "Embedding",
    "Face",
    "Faces",
    "Finding",
    "Outcome",
    "Pack",
    "Persona",
    "Picture",
    "Refusal",
    "Sighting",
    "inspect",
    "leave_one_out",
    "load",
    "persona",
    "runtime_problems",
    "score",
]
