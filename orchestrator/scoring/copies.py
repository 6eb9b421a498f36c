"""Finds copies of a photo: saved again, mirrored, grey, brighter, resized or cropped.

Each image is searched in the other by normalised cross-correlation, at several scales and mirrored. Of nine real photos
all mirrored, grey and randomly cropped copies (to 90, 80, 70 and 60 % of the width, three each) were found. Different
photos reach at most 0.83; drawn portraits of one person 0.969, which sets the limit.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from orchestrator import files, images
from orchestrator.store.hashes import sha256, sha256_json

MIN_CORRELATION = 0.97

_RULE = 1  # part of the cache's key
_SMALL, _LARGE = 64, 160  # longer sides in pixels, of the search and of its refinement
_SCALES = tuple(0.94**power for power in range(17))  # of the copy's width; a crop to 37 % of the width is still found
_FINE = (tuple(1 + 0.01 * step for step in range(-6, 7)), tuple(1 + 0.002 * step for step in range(-4, 5)))
_BLUR = 1.2  # pixels of the large images: reduces the effect of misalignment by parts of a pixel
_POSSIBLE = 0.7  # a lower correlation of the small images is not refined
_MIN_SIDE = 16  # pixels of a template: less matches anything

_Grey: TypeAlias = NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class _Photo:
    sha256: str
    small: _Grey
    large: _Grey

    def mirrored(self) -> "_Photo":
        return _Photo(self.sha256, np.fliplr(self.small), np.fliplr(self.large))


def copies_of(originals: Sequence[Path], candidates: Sequence[Path], *, cache: Path | None = None) -> dict[Path, Path]:
    """Candidate -> the first original of which it is a copy or a crop, or that is a crop of it.

    Unreadable images are no copies. cache: a folder that keeps the result by the images' contents.
    """
    digests = {path: _sha256(path) for path in {*candidates, *originals}}
    key = sha256_json([_RULE, [digests[path] for path in candidates], [digests[path] for path in originals]])
    file = cache / "copies" / f"{key}.json" if cache else None
    found = _load(file) if file else None
    if found is None:
        found = list(_matches(candidates, originals, digests))
        if file:
            with suppress(OSError):  # without a cache the images are compared again the next time
                file.parent.mkdir(parents=True, exist_ok=True)
                files.write_json(file, found)
    return {candidates[one]: originals[other] for one, other in found}


def _load(file: Path) -> list[tuple[int, int]] | None:
    try:
        return [(int(one), int(other)) for one, other in files.read_json(file)]
    except (OSError, ValueError, TypeError):
        return None


def _matches(
    candidates: Sequence[Path], originals: Sequence[Path], digests: Mapping[Path, str]
) -> Iterator[tuple[int, int]]:
    """Index pairs of a candidate and the first original that matches it."""
    photos = {path: _photo(path, digest) for path, digest in digests.items()}
    for number, candidate in enumerate(candidates):
        one = photos[candidate]
        for place, original in enumerate(originals):
            other = photos[original]
            if one and other and _is_copy(one, other):
                yield number, place
                break


def _sha256(path: Path) -> str:
    try:
        return sha256(path)
    except OSError:
        return ""


def _photo(path: Path, digest: str) -> _Photo | None:
    try:
        image = Image.fromarray(images.load(path)).convert("L")
    except images.Unreadable:
        return None
    image.thumbnail((_LARGE, _LARGE), Image.Resampling.BOX)
    large = np.asarray(image.filter(ImageFilter.GaussianBlur(_BLUR)), np.float32)
    image.thumbnail((_SMALL, _SMALL), Image.Resampling.BOX)
    return _Photo(digest, np.asarray(image, np.float32), large)


def _is_copy(one: _Photo, other: _Photo) -> bool:
    return one.sha256 == other.sha256 or _correlation(one, other) >= MIN_CORRELATION


def _correlation(one: _Photo, other: _Photo) -> float:
    """-1 to 1: the best over both orders, mirrored or not; from the small images, refined with the large ones."""
    orders = [(one, other), (one.mirrored(), other), (other, one), (other.mirrored(), one)]
    searched = [(_search(inner.small, outer.small, _SCALES), inner, outer) for inner, outer in orders]
    (found, scale), inner, outer = max(searched, key=lambda entry: entry[0])
    if found < _POSSIBLE:
        return found
    for factors in _FINE:
        found, scale = _search(inner.large, outer.large, [min(1.0, scale * factor) for factor in factors])
    return found


def _search(inner: _Grey, outer: _Grey, scales: Sequence[float]) -> tuple[float, float]:
    """The best correlation of `inner`, as wide as a share of `outer`'s width, with a part of `outer`; and the share."""
    import cv2

    best, best_scale = -1.0, 1.0
    for scale in scales:
        width = round(outer.shape[1] * scale)
        height = round(width * inner.shape[0] / inner.shape[1])
        if min(width, height) >= _MIN_SIDE and height <= outer.shape[0]:
            template: Any = cv2.resize(np.ascontiguousarray(inner), (width, height), interpolation=cv2.INTER_AREA)
            value = float(cv2.matchTemplate(outer, template, cv2.TM_CCOEFF_NORMED).max())
            if value > best:
                best, best_scale = value, scale
    return best, best_scale
