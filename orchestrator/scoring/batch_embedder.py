"""Looks at pictures: each once, several at a time, the known ones in the cache, none able to stop the others."""

import itertools
import math
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

import numpy as np

from orchestrator import images
from orchestrator.model import FaceStatus
from orchestrator.scoring import faces
from orchestrator.scoring.in_progress import InProgressFile
from orchestrator.store import hashes

BATCH = 4
"""Faces per run of the recogniser. More gains nothing on a CPU and makes the workers' last shares uneven."""

_SKIPPED = faces.ReadError(status=FaceStatus.ERROR, note="skipped: the scorer died with this picture in hand")


class BatchEmbedder:
    """Finds and embeds the largest face of each picture.

    load: gives the model; called once, and only when some picture is not in the cache.
    workers: threads, each with pictures of its own. hand: is told which pictures are being worked on.
    skip: never opened. alone: taken one at a time, after the others.
    """

    def __init__(
        self,
        *,
        load: Callable[[], faces.Faces],
        cache: faces.Cache,
        workers: int,
        hand: InProgressFile,
        skip: Iterable[Path] = (),
        alone: Iterable[Path] = (),
    ) -> None:
        self._load = load
        self._model: faces.Faces | None = None
        self._cache = cache
        self._workers = workers
        self._hand = hand
        self._skip = frozenset(skip)
        self._alone = frozenset(alone)

    @property
    def provider(self) -> str:
        """What computed; empty as long as nothing had to be."""
        return self._model.provider if self._model else ""

    def look(self, pictures: Sequence[Path], progress: Callable[[int], None] = lambda _: None) -> list[faces.Outcome]:
        """One outcome per picture, in order. progress: is told how many are done, as they get done.

        Raises what `load` raises; nothing that goes wrong with a picture.
        """
        outcomes: dict[Path, faces.Outcome] = {}
        unknown: dict[str, list[Path]] = {}  # by content: a picture under two names is looked at once
        for path, sha256 in zip(pictures, self._hashes(pictures), strict=True):
            known = sha256 if isinstance(sha256, faces.ReadError) else self._cache.get(sha256)
            if known:
                outcomes[path] = known
            else:
                unknown.setdefault(str(sha256), []).append(path)
        progress(len(outcomes))
        for sha256, outcome in self._fresh({sha256: paths[0] for sha256, paths in unknown.items()}):
            outcomes |= dict.fromkeys(unknown[sha256], outcome)
            progress(len(outcomes))
        return [outcomes[path] for path in pictures]

    def _hashes(self, pictures: Sequence[Path]) -> Iterable[str | faces.ReadError]:
        with ThreadPoolExecutor(self._workers) as pool:
            return list(pool.map(self._hash, pictures))

    def _hash(self, path: Path) -> str | faces.ReadError:
        if path in self._skip:
            return _SKIPPED
        try:
            return hashes.sha256(path)
        except OSError as error:
            return faces.ReadError(status=FaceStatus.UNREADABLE, note=images.reason(error))

    def _fresh(self, pictures: Mapping[str, Path]) -> Iterator[tuple[str, faces.Outcome]]:
        """Pictures by their sha256 that nobody has looked at, in the order in which they get done."""
        if not pictures:
            return
        self._model = self._model or self._load()
        alone = {sha256: path for sha256, path in pictures.items() if path in self._alone}
        yield from self._together({sha256: path for sha256, path in pictures.items() if sha256 not in alone})
        for sha256, path in alone.items():
            yield from self._batch({sha256: path}).items()

    def _together(self, pictures: Mapping[str, Path]) -> Iterator[tuple[str, faces.Outcome]]:
        share = max(1, min(BATCH, math.ceil(len(pictures) / self._workers)))
        pool = ThreadPoolExecutor(self._workers)
        try:
            batches = [pool.submit(self._batch, dict(batch)) for batch in _batched(pictures.items(), share)]
            for batch in as_completed(batches):
                yield from batch.result().items()
        finally:
            pool.shutdown(cancel_futures=True)

    def _batch(self, pictures: Mapping[str, Path]) -> dict[str, faces.Outcome]:
        assert self._model
        seen = {sha256: self._see(self._model, path) for sha256, path in pictures.items()}
        with self._hand.holding(pictures.values()):
            outcomes = _embed(self._model, seen)
        for sha256, outcome in outcomes.items():
            self._keep(sha256, outcome)
        return outcomes

    def _see(self, model: faces.Faces, path: Path) -> faces.Detection | faces.ReadError:
        with self._hand.holding([path]):
            try:
                return model.find(images.load(path))
            except images.Unreadable as error:
                return faces.ReadError(status=FaceStatus.UNREADABLE, note=error.reason)
            except Exception as error:  # of onnxruntime, OpenCV or InsightFace, about this one picture
                return _error(error)

    def _keep(self, sha256: str, outcome: faces.Outcome) -> None:
        """Refusals are not kept: the file may still be being written, the model may have run out of memory."""
        if isinstance(outcome, faces.FaceRecord):
            try:
                self._cache.put(sha256, outcome)
            except OSError as error:  # costs time on the next run, and no score on this one
                print(f"not cached: {error}", file=sys.stderr)


def _embed(model: faces.Faces, seen: Mapping[str, faces.Detection | faces.ReadError]) -> dict[str, faces.Outcome]:
    """All faces in one run of the recogniser; one by one when that fails, to find the one that it fails on."""
    crops = {key: one.crop for key, one in seen.items() if isinstance(one, faces.Detection) and one.crop is not None}
    try:
        embeddings = dict(zip(crops, model.embed(list(crops.values())), strict=True)) if crops else {}
    except Exception as error:  # as in Looker._see
        if len(seen) == 1:
            return dict.fromkeys(seen, _error(error))
        return {key: outcome for key, one in seen.items() for outcome in _embed(model, {key: one}).values()}
    return {key: _outcome(one, embeddings.get(key)) for key, one in seen.items()}


def _outcome(seen: faces.Detection | faces.ReadError, embedding: faces.Embedding | None) -> faces.Outcome:
    if isinstance(seen, faces.ReadError):
        return seen
    if embedding is not None and not (np.isfinite(embedding).all() and embedding.any()):
        return faces.ReadError(
            status=FaceStatus.ERROR, note="the recogniser gave no direction, or numbers that are none"
        )
    return faces.FaceRecord(faces=seen.faces, embedding=embedding, fallback=seen.fallback)


def _error(error: Exception) -> faces.ReadError:
    text = next(iter(str(error).splitlines()), "")
    return faces.ReadError(status=FaceStatus.ERROR, note=f"{type(error).__name__}: {text}")


def _batched(items: Iterable[tuple[str, Path]], size: int) -> Iterator[list[tuple[str, Path]]]:
    rest = iter(items)
    while batch := list(itertools.islice(rest, size)):
        yield batch
