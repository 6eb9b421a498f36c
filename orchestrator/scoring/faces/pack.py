"""A face pack on disk, checked by us before InsightFace sees it: it would download, hang, or assert without a word."""

import hashlib
import importlib.metadata
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from orchestrator.errors import NotReady, Problem
from orchestrator.scoring.faces import onnx_head

DET_THRESH = 0.5
"""InsightFace's own default: a detection below it is no face."""

KEY = "scoring.pack"

SOURCES = (
    "https://github.com/deepinsight/insightface/releases/download/v0.7/buffalo_l.zip "
    "(InsightFace's buffalo_l: non-commercial research only) or "
    "https://huggingface.co/fal/AuraFace-v1 (AuraFace: Apache-2.0, same layout)"
)

_STEP = 32  # the detector's coarsest stride
_PADDING = 0.25


@dataclass(frozen=True, slots=True, kw_only=True)
class DetectorPass:
    """One try of the detector: the square it works in, and black added on each side as a share of the longer side."""

    size: int
    padding: float = 0.0

    def __str__(self) -> str:
        return f"{self.size} px, padded" if self.padding else f"{self.size} px"


@dataclass(frozen=True, slots=True, kw_only=True)
class Pack:
    """The two models that are used, how they are asked, and a fingerprint of all that shapes an embedding."""

    detector: Path
    recogniser: Path
    passes: tuple[DetectorPass, ...]
    fingerprint: str


def inspect(folder: Path, *, det_size: int, decode_rule: str) -> Pack:
    """Check the pack without loading it; raises NotReady with everything that is wrong with it.

    folder: holds the .onnx files of exactly one detector and one recogniser, others are passed over.
    det_size: side of the detector's square in pixels. decode_rule: names how pictures become pixels.
    """
    heads, problems = _heads(folder)
    if problems:
        raise NotReady(*problems)
    detectors = [path for path, head in heads.items() if _is_detector(head)]
    recognisers = [path for path, head in heads.items() if _is_recogniser(head)]
    problems = [*_one("detector", detectors, folder), *_one("recogniser", recognisers, folder)]
    problems += [problem for path in detectors for problem in _size_problems(path, heads[path], det_size)]
    if problems:
        raise NotReady(*problems)
    passes = _passes(det_size, fixed=heads[detectors[0]].inputs[0][2] is not None)
    fingerprint = _fingerprint((detectors[0], recognisers[0]), passes, decode_rule)
    return Pack(
        detector=detectors[0].resolve(), recogniser=recognisers[0].resolve(), passes=passes, fingerprint=fingerprint
    )


def _heads(folder: Path) -> tuple[dict[Path, onnx_head.Head], list[Problem]]:
    files = sorted(folder.glob("*.onnx"))
    if not files:
        return {}, [_absent(folder)]
    if (folder / "manifest.json").exists():
        return {}, [_manifest(folder / "manifest.json")]
    heads, problems = {}, []
    for path in files:
        try:
            heads[path] = onnx_head.read(path)
        except (OSError, ValueError) as error:
            problems.append(_broken(path, error))
    return heads, problems


def _absent(folder: Path) -> Problem:
    what = "holds no .onnx files" if folder.is_dir() else "there is no such folder"
    deeper = sorted({path.parent for path in folder.glob("*/*.onnx")})
    remedy = f"unpack the .onnx files of {SOURCES} into {folder.absolute()}"
    if deeper:
        remedy = f"they are one folder deeper: name {deeper[0]}"
    return Problem(what=f"the face pack: {what}", where=str(folder), key=KEY, remedy=remedy)


def _manifest(path: Path) -> Problem:
    what = "this pack describes its own preprocessing, which is not read here"
    return Problem(what=what, where=str(path), key=KEY, remedy=f"use {SOURCES}")


def _broken(path: Path, error: Exception) -> Problem:
    return Problem(
        what=f"is not a whole ONNX model: {error}", where=str(path), key=KEY, remedy=f"unpack it again from {SOURCES}"
    )


def _is_detector(head: onnx_head.Head) -> bool:
    """Scores, boxes and landmarks at three or five strides; without landmarks nothing can be aligned."""
    return len(head.inputs) == 1 and len(head.inputs[0]) == 4 and head.outputs in (9, 15)


def _is_recogniser(head: onnx_head.Head) -> bool:
    """One aligned square in, one embedding out, in a size that InsightFace has a template for."""
    if len(head.inputs) != 1 or len(head.inputs[0]) != 4 or head.outputs != 1:
        return False
    height, width = head.inputs[0][2:]
    return height is not None and height == width and (height % 112 == 0 or height % 128 == 0)


def _one(role: str, found: list[Path], folder: Path) -> Iterable[Problem]:
    if len(found) == 1:
        return
    names = ", ".join(path.name for path in found) or "none"
    yield Problem(
        what=f"the face pack needs exactly one {role}, found: {names}",
        where=str(folder),
        key=KEY,
        remedy=f"unpack the whole pack: {SOURCES}" if not found else f"move all but one {role} out of the folder",
    )


def _size_problems(path: Path, head: onnx_head.Head, det_size: int) -> Iterable[Problem]:
    height, width = head.inputs[0][2:]
    if height is not None and (height, width) != (det_size, det_size):
        what = f"this detector works at {width} x {height} pixels only"
        remedy = f"det_size = {height}" if height == width else "use a detector that takes squares"
        yield Problem(what=what, where=str(path), key="scoring.det_size", value=str(det_size), remedy=remedy)
    elif det_size <= 0 or det_size % _STEP:
        what = f"must be a multiple of {_STEP}"
        yield Problem(what=what, key="scoring.det_size", value=str(det_size), remedy="det_size = 640")


def _passes(det_size: int, *, fixed: bool) -> tuple[DetectorPass, ...]:
    """A face that fills the frame is missed at 640 and found smaller: in half the size, or with black around it."""
    half = max(_STEP, det_size // 2 // _STEP * _STEP)
    smaller = () if fixed else (DetectorPass(size=half),)
    return (DetectorPass(size=det_size), *smaller, DetectorPass(size=det_size, padding=_PADDING))


def _fingerprint(models: tuple[Path, Path], passes: tuple[DetectorPass, ...], decode_rule: str) -> str:
    """Another fingerprint is another embedding. onnxruntime is not in it: its releases agree to rounding."""
    hashes = []
    for path in models:
        with path.open("rb") as file:
            hashes.append(hashlib.file_digest(file, "sha256").hexdigest())
    major = importlib.metadata.version("insightface").split(".")[0]
    parts = [*hashes, [asdict(one) for one in passes], DET_THRESH, decode_rule, major]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
