"""InsightFace's detector and recogniser on onnxruntime, loaded, tested and shared between threads."""

import importlib.metadata
import sys
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from orchestrator.errors import NotReady, Problem, Severity
from orchestrator.scoring.faces.pack import DET_THRESH, KEY, SOURCES, DetectorPass, Pack
from orchestrator.scoring.faces.types import MAX_FACES, Detection, Embedding, Face, Faces, Pixels

_CPU, _CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
_CERTAIN, _MARGIN, _MISPLACED = 0.7, 0.05, 0.2
"""Of detection scores: upright faces reach 0.74 and more, rotated ones at most 0.67 (SCRFD-2.5G on real photos)."""
_RUNTIMES = ("onnxruntime", "onnxruntime-gpu", "onnxruntime-directml", "onnxruntime-openvino")


def load(pack: Pack, *, device: str) -> Faces:
    """Load both models and run them on black images; raises NotReady when they do not run, or not on `device`.

    device: `cpu`, `cuda` (the first GPU) or `cuda:N`.
    """
    provider, options = _provider(device)
    get_model = _import_insightface()
    try:
        models = [
            get_model(
                str(path),
                providers=[provider],
                provider_options=[options],
                sess_options=_session_options(),
                static_shape_sessions=False,  # one session for all sizes: as fast, half the memory
            )
            for path in (pack.detector, pack.recogniser)
        ]
        model = InsightFace(models[0], models[1], pack.passes)
        model.try_out()
    except Exception as error:  # of onnxruntime, InsightFace or OpenCV, about a broken model
        text = next(iter(str(error).splitlines()), "") or type(error).__name__
        what = f"the face pack does not run ({pack.detector.name}, {pack.recogniser.name}): {text}"
        remedy, where = f"unpack it again from {SOURCES}", str(pack.detector.parent)
        raise NotReady(Problem(what=what, where=where, key=KEY, remedy=remedy)) from error
    if model.provider != provider:
        what = f"onnxruntime fell back to {model.provider}"
        remedy = 'install onnxruntime-gpu with its CUDA and cuDNN instead of onnxruntime, or device = "cpu"'
        fallback = Problem(what=what, key="score.device", value=device, remedy=remedy)
        raise NotReady(fallback, *runtime_problems())
    return model


def runtime_problems(path: Sequence[str] | None = None) -> list[Problem]:
    """A warning when several onnxruntime distributions are installed in `path` (default: sys.path).

    They share one folder: the one installed last has overwritten the other, and removing either breaks both.
    """
    found = {str(one.name).lower() for one in importlib.metadata.distributions(path=list(path or sys.path))}
    names = [name for name in _RUNTIMES if name in found]
    if len(names) < 2:
        return []
    what = f"{' and '.join(names)} are both installed and overwrite each other's files"
    remedy = f"pip uninstall {' '.join(names)}, then install the one you want"
    return [Problem(what=what, remedy=remedy, severity=Severity.WARNING)]


class InsightFace:
    """Implements Faces. onnxruntime's sessions can be run from many threads at once."""

    def __init__(self, detector: Any, recogniser: Any, passes: Sequence[DetectorPass]) -> None:
        detector.det_thresh = DET_THRESH
        self._detector = detector
        self._recogniser = recogniser
        self._passes = passes
        unlimited = not isinstance(recogniser.input_shape[0], int)
        self._batch_size = sys.maxsize if unlimited else int(recogniser.input_shape[0])

    @property
    def provider(self) -> str:
        return str(self._recogniser.session.get_providers()[0])

    def try_out(self) -> None:
        """Run each model once, so that a broken one fails before the first image."""
        side = self._passes[0].size
        self._detect(np.zeros((side, side, 3), np.uint8), self._passes[0])
        width, height = self._recogniser.input_size
        self.embed([np.zeros((height, width, 3), np.uint8)])

    def find(self, image: Pixels) -> Detection:
        """Detectors miss rotated faces or misplace their landmarks; both give a low score or a large roll angle."""
        bgr = np.ascontiguousarray(image[..., ::-1])
        faces, fallback = self._detect_any(bgr)
        rotation, best = 0, _quality(faces)
        for quarter in (1, 2, 3) if best < _CERTAIN else ():
            turned, turned_fallback = self._detect_any(np.ascontiguousarray(np.rot90(bgr, quarter)))
            if _quality(turned) > best + _MARGIN:
                best, rotation, fallback = _quality(turned), 90 * quarter, turned_fallback
                faces = tuple(_turn_back(face, quarter, bgr.shape[1], bgr.shape[0]) for face in turned)
        crops = tuple(self._align(bgr, face) for face in faces[:MAX_FACES])
        return Detection(faces=faces, crops=crops, fallback=fallback, rotation=rotation)

    def _detect_any(self, bgr: Pixels) -> tuple[tuple[Face, ...], str]:
        """The faces by the first pass that finds some, and the name of the pass, empty for the first."""
        for number, one in enumerate(self._passes):
            if faces := self._detect(bgr, one):
                return faces, str(one) if number else ""
        return (), ""

    def embed(self, crops: Sequence[Pixels]) -> list[Embedding]:
        bgr = [np.ascontiguousarray(crop[..., ::-1]) for crop in crops]
        found: list[Embedding] = []
        for start in range(0, len(bgr), self._batch_size):
            found.extend(self._recogniser.get_feat(bgr[start : start + self._batch_size]))
        return found

    def _detect(self, bgr: Pixels, one: DetectorPass) -> tuple[Face, ...]:
        """Faces in the image's own pixels, the largest first; among equals, the nearest to the image's middle."""
        border = round(max(bgr.shape[:2]) * one.padding)
        padded = np.pad(bgr, ((border, border), (border, border), (0, 0))) if border else bgr
        boxes, landmarks = self._detector.detect(padded, input_size=(one.size, one.size))
        faces = [_face(box, points, border) for box, points in zip(boxes, landmarks, strict=True)]
        height, width = bgr.shape[:2]

        def rank(face: Face) -> tuple[float, float]:
            left, top, right, bottom = face.box
            off_centre = ((left + right - width) / 2) ** 2 + ((top + bottom - height) / 2) ** 2
            return -(right - left) * (bottom - top), off_centre

        return tuple(sorted(faces, key=rank))

    def _align(self, bgr: Pixels, face: Face) -> Pixels:
        from insightface.utils import face_align

        points = np.array(face.landmarks, np.float32)
        crop = face_align.norm_crop(bgr, landmark=points, image_size=self._recogniser.input_size[0])
        return np.ascontiguousarray(crop[..., ::-1])


def _quality(faces: Sequence[Face]) -> float:
    """Detection score of the largest face, reduced if it lies on its side or head; 0 without a face."""
    return faces[0].det_score - (_MISPLACED if abs(faces[0].roll) > 45 else 0.0) if faces else 0.0


def _turn_back(face: Face, quarter: int, width: int, height: int) -> Face:
    """A face found in the image after np.rot90(image, quarter), in pixels of the image of width x height."""

    def back(x: float, y: float) -> tuple[float, float]:
        return {1: (width - 1 - y, x), 2: (width - 1 - x, height - 1 - y), 3: (y, height - 1 - x)}[quarter]

    (x1, y1), (x2, y2) = back(*face.box[:2]), back(*face.box[2:])
    return Face(
        box=(min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2)),
        landmarks=tuple(back(*point) for point in face.landmarks),
        det_score=face.det_score,
    )


def _provider(device: str) -> tuple[str, dict[str, str]]:
    kind, _, number = device.partition(":")
    if device == "cpu":
        return _CPU, {}
    if kind == "cuda" and (number.isdigit() or device == "cuda"):
        # TF32 would round where the CPU does not, and both use the same cache.
        return _CUDA, {"device_id": number or "0", "use_tf32": "0"}
    raise NotReady(
        Problem(what="is not a device", key="score.device", value=device, remedy='"cpu", "cuda" or "cuda:1"')
    )


def _import_insightface() -> Any:
    """InsightFace's loader of one model file; it selects the class by the shapes that `inspect` has checked."""
    try:
        import onnxruntime
        from insightface.model_zoo import model_zoo
    except ImportError as error:
        remedy = "pip install 'insightface>=2.1,<3'"
        if "lib" in str(error) and ".so" in str(error):
            remedy = "install the system library named above, or replace opencv-python by opencv-python-headless"
        raise NotReady(Problem(what=f"InsightFace cannot be imported: {error}", remedy=remedy)) from error
    onnxruntime.set_default_logger_severity(3)  # errors only
    # scikit-image deprecates what InsightFace calls, once per aligned face
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"insightface\.")
    return model_zoo.get_model


def _session_options() -> Any:
    """One thread per run and no spinning, because several images are processed at the same time."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


def _face(box: Any, points: Any, border: int) -> Face:
    """box: left, top, right, bottom, score, in the padded image."""
    left, top, right, bottom, score = (float(value) for value in box)
    return Face(
        box=(left - border, top - border, right - border, bottom - border),
        landmarks=tuple((float(x) - border, float(y) - border) for x, y in points),
        det_score=score,
    )
