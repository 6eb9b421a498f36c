"""Loss weights over an image: for the face, the body below it, and the background."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from orchestrator import images
from orchestrator.config.recipe import Mask

Weights: TypeAlias = NDArray[np.float64]
"""Height x width, 0..1."""
Array: TypeAlias = NDArray[Any]

# In sides of the face's box, which reaches from forehead to chin.
_FACE = (0.55, 0.6)  # half width, half height of an ellipse
_HEAD = (0.85, 0.95)  # the same with hair and ears: counts as body
_BODY = 1.5  # half width of a column from the chin down to the edge


def files(folder: Path) -> dict[str, list[Path]]:
    """The masks of a folder by the stem of their image's name."""
    found: dict[str, list[Path]] = {}
    for path in images.list_images(folder).paths:
        found.setdefault(path.stem, []).append(path)
    return found


def check(folder: Path, image: Path) -> str:
    """Why the mask of an image in a folder cannot be used; empty where it can."""
    candidates = files(folder).get(image.stem, [])
    if len(candidates) != 1:
        return f"has {len(candidates)} masks" if candidates else "has no mask"
    (path,) = candidates
    try:
        size, own = images.size(path), images.size(image)
        if size != own:
            return f"has {own[0]} x {own[1]} pixels, and its mask {path.name} {size[0]} x {size[1]}"
        return "" if images.load_mask(path).any() else f"has the mask {path.name}, which is black everywhere"
    except images.Unreadable as error:
        return f"has the mask {path.name}, which cannot be read: {error.reason}"


def weights(mask: Mask, face: Sequence[float] | None, size: tuple[int, int]) -> Weights:
    """The recipe's weights for a face (left, top, right, bottom) in an image of `size`; without a face, uniform."""
    if face is None:
        return scaled(np.full(size[::-1], max(mask.face, mask.body, mask.background)), mask.mean)
    x, y = np.meshgrid(np.arange(size[0]) + 0.5, np.arange(size[1]) + 0.5)
    unit = max(face[2] - face[0], face[3] - face[1])
    across = (x - (face[0] + face[2]) / 2) / unit
    down = (y - (face[1] + face[3]) / 2) / unit
    column = _edge(np.minimum(_BODY - np.abs(across), down - 0.5), mask.feather, unit)
    body = np.maximum(_ellipse(across, down, _HEAD, mask.feather, unit), column)
    laid = mask.background + (mask.body - mask.background) * body
    laid += (mask.face - laid) * _ellipse(across, down, _FACE, mask.feather, unit)
    return scaled(laid, mask.mean)


def scaled(raw: Array, mean: float | None) -> Weights:
    """Multiply the weights by one number so that their mean is `mean`; weights are limited to 1.

    If less than a share `mean` of the image has a weight above 0, these become 1 and the mean stays lower.
    """
    if mean is None:
        return np.asarray(raw, np.float64)
    low, high = mean, 1 / raw[raw > 0].min()  # geometric bisection: weights at a soft edge may be tiny
    for _ in range(50):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if np.minimum(raw * middle, 1).mean() < mean else (low, middle)
    return np.asarray(np.minimum(raw * high, 1))


def _ellipse(across: Array, down: Array, half: tuple[float, float], feather: float, unit: float) -> Array:
    radius = np.hypot(across / half[0], down / half[1])
    return _edge((1 - radius) * min(half), feather, unit)


def _edge(inside: Array, feather: float, unit: float) -> Array:
    """1 inside, 0 outside, with a ramp of width `feather`, at least one pixel. inside: in sides of the face."""
    return np.asarray(np.clip(inside / max(feather, 1 / unit) + 0.5, 0, 1))
