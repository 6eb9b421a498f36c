"""Embeds images: each once, several at a time, known ones from the cache; an image that fails affects no other."""

import json
import math
import sys
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from orchestrator import images
from orchestrator.model import FaceStatus
from orchestrator.scoring import faces
from orchestrator.store import hashes

BATCH = 4
"""Faces per run of the recogniser. Larger batches are not faster on a CPU and balance the workers less well."""

_SKIPPED = faces.ReadError(status=FaceStatus.ERROR, note="skipped: the scorer died while it processed this image")


class InProgressFile:
    """A JSON list of the images being processed, for the case that the process dies. Safe for several threads."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._names: list[str] = []
        self._lock = threading.Lock()
        self._write()

    @contextmanager
    def listing(self, paths: Iterable[Path]) -> Iterator[None]:
        """List the images while the block runs."""
        names = [str(path) for path in paths]
        with self._lock:
            self._names += names
            self._write()
        try:
            yield
        finally:
            with self._lock:
                for name in names:
                    self._names.remove(name)
                self._write()

    def _write(self) -> None:
        """Not synced to disk: the file matters when this process dies, not when the machine does."""
        draft = self._path.with_name(f"{self._path.name}.tmp")
        draft.write_text(json.dumps(self._names), encoding="utf-8")
        draft.replace(self._path)


@dataclass(kw_only=True)
class BatchEmbedder:
    """Finds and embeds the faces of images.

    load: returns the model; called once, and only when an image is not in the cache.
    workers: threads, each with its own images. skip: images never opened. alone: images processed one at a time, after
    the others.
    """

    load: Callable[[], faces.Faces]
    cache: faces.Cache
    workers: int
    in_progress: InProgressFile
    skip: Collection[Path] = ()
    alone: Collection[Path] = ()
    _model: faces.Faces | None = field(default=None, init=False)

    @property
    def provider(self) -> str:
        """The execution provider; empty while every image came from the cache."""
        return self._model.provider if self._model else ""

    def upside_down(self, paths: Iterable[Path]) -> list[faces.Embedding]:
        """Embeddings of the largest faces, turned upside down after alignment. Loads the model, uses no cache."""
        self._model = self._model or self.load()
        detections = [self._find(self._model, path) for path in paths]
        crops = [one.crops[0] for one in detections if isinstance(one, faces.Detection) and one.crops]
        return self._model.embed([np.ascontiguousarray(crop[::-1]) for crop in crops]) if crops else []

    def embed(self, paths: Sequence[Path], progress: Callable[[int], None] = lambda _: None) -> list[faces.Outcome]:
        """One outcome per image, in order. progress: called with the number of images done so far.

        Raises what `load` raises; a failure of one image is its outcome.
        """
        outcomes: dict[Path, faces.Outcome] = {}
        unknown: dict[str, list[Path]] = {}  # by content: an image with two names is processed once
        with ThreadPoolExecutor(self.workers) as pool:
            digests = list(pool.map(self._hash, paths))
        for path, sha256 in zip(paths, digests, strict=True):
            known = sha256 if isinstance(sha256, faces.ReadError) else self.cache.get(sha256)
            if known:
                outcomes[path] = known
            else:
                unknown.setdefault(str(sha256), []).append(path)
        progress(len(outcomes))
        for sha256, outcome in self._process({sha256: same[0] for sha256, same in unknown.items()}):
            outcomes |= dict.fromkeys(unknown[sha256], outcome)
            progress(len(outcomes))
        return [outcomes[path] for path in paths]

    def _hash(self, path: Path) -> str | faces.ReadError:
        if path in self.skip:
            return _SKIPPED
        try:
            return hashes.sha256(path)
        except OSError as error:
            return faces.ReadError(status=FaceStatus.UNREADABLE, note=images.reason(error))

    def _process(self, paths: Mapping[str, Path]) -> Iterator[tuple[str, faces.Outcome]]:
        """Images that are not in the cache, by their sha256, as they are done."""
        if not paths:
            return
        self._model = self._model or self.load()
        alone = {sha256: path for sha256, path in paths.items() if path in self.alone}
        others = {sha256: path for sha256, path in paths.items() if sha256 not in alone}
        size = max(1, min(BATCH, math.ceil(len(others) / self.workers)))
        batches = [dict(list(others.items())[start : start + size]) for start in range(0, len(others), size)]
        pool = ThreadPoolExecutor(self.workers)
        try:
            futures = [pool.submit(self._batch, self._model, batch) for batch in batches]
            for future in as_completed(futures):
                yield from future.result().items()
        finally:
            pool.shutdown(cancel_futures=True)
        for sha256, path in alone.items():
            yield from self._batch(self._model, {sha256: path}).items()

    def _batch(self, model: faces.Faces, paths: Mapping[str, Path]) -> dict[str, faces.Outcome]:
        detections = {sha256: self._find(model, path) for sha256, path in paths.items()}
        with self.in_progress.listing(paths.values()):
            outcomes = _embed(model, detections)
        for sha256, outcome in outcomes.items():
            if isinstance(outcome, faces.FaceRecord):  # an error may be gone next time
                try:
                    self.cache.put(sha256, outcome)
                except OSError as error:  # costs time on the next run, and no score on this one
                    print(f"not cached: {error}", file=sys.stderr)
        return outcomes

    def _find(self, model: faces.Faces, path: Path) -> faces.Detection | faces.ReadError:
        with self.in_progress.listing([path]):
            try:
                return model.find(images.load(path))
            except images.Unreadable as error:
                return faces.ReadError(status=FaceStatus.UNREADABLE, note=error.reason)
            except Exception as error:  # of onnxruntime, OpenCV or InsightFace, about this one image
                return _error(error)


def _embed(model: faces.Faces, found: Mapping[str, faces.Detection | faces.ReadError]) -> dict[str, faces.Outcome]:
    """All faces in one run of the recogniser; one image at a time when that fails, to find the one that it fails on."""
    crops = [crop for one in found.values() if isinstance(one, faces.Detection) for crop in one.crops]
    try:
        embeddings = iter(model.embed(crops) if crops else [])
    except Exception as error:  # as in _find
        if len(found) == 1:
            return dict.fromkeys(found, _error(error))
        return {key: outcome for key, one in found.items() for outcome in _embed(model, {key: one}).values()}
    return {key: _outcome(one, embeddings) for key, one in found.items()}


def _outcome(found: faces.Detection | faces.ReadError, embeddings: Iterator[faces.Embedding]) -> faces.Outcome:
    """embeddings: those of the image's crops come next."""
    if isinstance(found, faces.ReadError):
        return found
    own = tuple(next(embeddings) for _ in found.crops)
    if not all(np.isfinite(one).all() and one.any() for one in own):
        return faces.ReadError(status=FaceStatus.ERROR, note="the recogniser returned zeros or no finite numbers")
    return faces.FaceRecord(faces=found.faces, embeddings=own, fallback=found.fallback, rotation=found.rotation)


def _error(error: Exception) -> faces.ReadError:
    text = next(iter(str(error).splitlines()), "")
    return faces.ReadError(status=FaceStatus.ERROR, note=f"{type(error).__name__}: {text}")
