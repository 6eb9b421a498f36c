"""Checks a face pack on disk before InsightFace opens it, which would download, hang or fail with an empty message."""

import importlib.metadata
import shlex
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from orchestrator import images
from orchestrator.errors import NotReady, Problem
from orchestrator.files import read_bytes, why_no_folder
from orchestrator.store.hashes import sha256, sha256_json

DET_THRESH = 0.5
"""InsightFace's default: detections below it are ignored."""

FIND_RULE = "2: rotations when the face is not found, unlikely or on its side; up to 8 faces"
"""Part of every fingerprint: change it when the same pack finds other faces."""

KEY = "score.pack"

SOURCES = (
    "https://github.com/deepinsight/insightface/releases/download/v0.7/buffalo_l.zip "
    "(InsightFace's buffalo_l: non-commercial research only) or "
    "https://huggingface.co/fal/AuraFace-v1 (AuraFace: Apache-2.0, same layout)"
)

_MAX_BYTES = 2**31
"""The limit of the ONNX format."""

_STEP = 32  # the detector's coarsest stride
_PADDING = 0.25


@dataclass(frozen=True, slots=True, kw_only=True)
class Signature:
    """The shape of every input of an ONNX model, None where a size is open, and the number of its outputs."""

    inputs: tuple[tuple[int | None, ...], ...]
    outputs: int

    @property
    def is_detector(self) -> bool:
        """Scores, boxes and landmarks at three or five strides; without landmarks no face can be aligned."""
        return len(self.inputs) == 1 and len(self.inputs[0]) == 4 and self.outputs in (9, 15)

    @property
    def has_weights_as_inputs(self) -> bool:
        """A recogniser that lists quantised weights as inputs, which InsightFace cannot load."""
        return len(self.inputs) > 2 and replace(self, inputs=self.inputs[:1]).is_recogniser

    @property
    def is_recogniser(self) -> bool:
        """One aligned square in, one embedding out, in a size for which InsightFace has a template."""
        if len(self.inputs) != 1 or len(self.inputs[0]) != 4 or self.outputs != 1:
            return False
        height, width = self.inputs[0][2:]
        return height is not None and height == width and (height % 112 == 0 or height % 128 == 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class DetectorPass:
    """One run of the detector. size: side of its square, pixels. padding: black added per side, of the longer side."""

    size: int
    padding: float = 0.0

    def __str__(self) -> str:
        return f"{self.size} px, padded" if self.padding else f"{self.size} px"


@dataclass(frozen=True, slots=True, kw_only=True)
class Pack:
    """The two models, the detector's passes in order, and a fingerprint of everything that changes an embedding."""

    detector: Path
    recogniser: Path
    passes: tuple[DetectorPass, ...]
    fingerprint: str


def inspect(folder: Path, *, det_size: int, decode_rule: str = images.DECODE_RULE) -> Pack:
    """Check the pack without running it; raises NotReady with all its problems.

    folder: holds the .onnx files of exactly one detector and one recogniser; other models are ignored.
    det_size: side of the detector's square in pixels. decode_rule: names how images become pixels.
    """
    signatures = _signatures(folder)
    detectors = [path for path, signature in signatures.items() if signature.is_detector]
    recognisers = [path for path, signature in signatures.items() if signature.is_recogniser]
    problems = [*_count_problems("detector", detectors, folder), *_count_problems("recogniser", recognisers, folder)]
    quantised = [path for path, signature in signatures.items() if signature.has_weights_as_inputs]
    if quantised and not recognisers:
        what = "has quantised weights, which InsightFace cannot load"
        target = f"{quantised[0].with_suffix('')}_fp32.onnx"
        paths = f"{shlex.quote(str(quantised[0]))} {shlex.quote(target)}"
        command = f"python -m orchestrator.scoring.faces.dequantise {paths}"
        remedy = f"`{command}` writes it with float32 weights; remove the quantised file then"
        problems = [Problem(what=what, where=str(quantised[0]), key=KEY, remedy=remedy)]
    for path in detectors:
        problems += _size_problems(path, signatures[path], det_size)
    if problems:
        raise NotReady(*problems)
    passes = _passes(det_size, fixed=signatures[detectors[0]].inputs[0][2] is not None)
    fingerprint = _fingerprint((detectors[0], recognisers[0]), passes, decode_rule)
    return Pack(
        detector=detectors[0].resolve(), recogniser=recognisers[0].resolve(), passes=passes, fingerprint=fingerprint
    )


def _signatures(folder: Path) -> dict[Path, Signature]:
    """Those of all ONNX files of the folder; raises NotReady where there are none or some are broken."""
    files = sorted(folder.glob("*.onnx"))
    if not files:
        raise NotReady(_missing(folder))
    manifest = folder / "manifest.json"
    if manifest.exists():
        what = "this pack declares its own preprocessing, which is not supported"
        raise NotReady(Problem(what=what, where=str(manifest), key=KEY, remedy=f"use {SOURCES}"))
    found, problems = {}, []
    for path in files:
        try:
            found[path] = read_signature(path)
        except (OSError, ValueError) as error:
            what, remedy = f"is not a complete ONNX model: {error}", f"unpack it again from {SOURCES}"
            problems.append(Problem(what=what, where=str(path), key=KEY, remedy=remedy))
    if problems:
        raise NotReady(*problems)
    return found


def read_signature(path: Path) -> Signature:
    """Raises OSError, or ValueError when the file is not a complete ONNX model."""
    import onnx
    from google.protobuf.message import DecodeError

    try:
        graph = onnx.load_from_string(read_bytes(path, max_bytes=_MAX_BYTES)).graph
    except DecodeError as error:
        raise ValueError(str(error)) from error
    if not graph.node:
        raise ValueError("it has no graph")
    weights = {tensor.name for tensor in graph.initializer}  # before IR version 4, every weight was an input too
    shapes = [value.type.tensor_type.shape.dim for value in graph.input if value.name not in weights]
    return Signature(
        inputs=tuple(tuple(dim.dim_value if dim.dim_value > 0 else None for dim in shape) for shape in shapes),
        outputs=len(graph.output),
    )


def _missing(folder: Path) -> Problem:
    what = "contains no .onnx files" if folder.is_dir() else why_no_folder(folder)
    nested = sorted({path.parent for path in folder.glob("*/*.onnx")})
    remedy = f"unpack the .onnx files of {SOURCES} into {folder.absolute()}"
    if nested:
        remedy = f'the files are one folder deeper: pack = "{nested[0]}"'
    return Problem(what=f"the face pack: {what}", where=str(folder), key=KEY, remedy=remedy)


def _count_problems(role: str, found: list[Path], folder: Path) -> Iterable[Problem]:
    if len(found) == 1:
        return
    names = ", ".join(path.name for path in found) or "none"
    yield Problem(
        what=f"the face pack needs exactly one {role}, found: {names}",
        where=str(folder),
        key=KEY,
        remedy=f"unpack the whole pack: {SOURCES}" if not found else f"move all but one {role} out of the folder",
    )


def _size_problems(path: Path, detector: Signature, det_size: int) -> Iterable[Problem]:
    height, width = detector.inputs[0][2:]
    if height is not None and (height, width) != (det_size, det_size):
        what = f"this detector accepts only {width} x {height} pixels"
        remedy = f"det_size = {height}" if height == width else "use a detector that accepts squares"
        yield Problem(what=what, where=str(path), key="score.det_size", value=str(det_size), remedy=remedy)
    elif det_size <= 0 or det_size % _STEP:
        what = f"must be a multiple of {_STEP}"
        yield Problem(what=what, key="score.det_size", value=str(det_size), remedy="det_size = 640")


def _passes(det_size: int, *, fixed: bool) -> tuple[DetectorPass, ...]:
    """Detectors miss faces that fill the frame; they find them at half the size, or with black around the image."""
    half = max(_STEP, det_size // 2 // _STEP * _STEP)
    smaller = () if fixed else (DetectorPass(size=half),)
    return (DetectorPass(size=det_size), *smaller, DetectorPass(size=det_size, padding=_PADDING))


def _fingerprint(models: tuple[Path, Path], passes: tuple[DetectorPass, ...], decode_rule: str) -> str:
    """A hash of what changes an embedding. The version of onnxruntime does so only by rounding, and is left out."""
    major = importlib.metadata.version("insightface").split(".")[0]
    parts = [*map(sha256, models), [asdict(one) for one in passes], DET_THRESH, FIND_RULE, decode_rule, major]
    return sha256_json(parts)
