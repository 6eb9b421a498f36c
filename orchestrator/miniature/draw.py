"""Draws photos of people whose identity is known: a face is a smooth colour pattern with five coloured landmarks."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Array: TypeAlias = NDArray[Any]
"""Of floats: numpy's types lose the precision in arithmetic."""
Pixels: TypeAlias = NDArray[np.uint8]
"""Height x width x 3, RGB."""

LANDMARKS = ((38.29, 51.70), (73.53, 51.50), (56.03, 71.74), (41.55, 92.37), (70.73, 92.20))
"""ArcFace's template in its 112 x 112 crop: left eye, right eye, nose, left and right corner of the mouth."""
TEMPLATE = 112
MARKER_COLOURS = ((0, 255, 0), (0, 0, 255), (255, 0, 0), (255, 0, 255), (0, 255, 255))
"""One saturated colour per landmark, which the detector searches for."""
_MARKER_RADIUS = 5.0
_SKIN = (185.0, 150.0, 130.0)
_SKIN_CONTRAST = 22.0
_OVAL = (56.0, 66.0, 46.0, 58.0)  # centre x, centre y, half width, half height in the template


@dataclass(frozen=True, slots=True, kw_only=True)
class Pose:
    """Position of a face: its middle and the template's width as shares of the image's width; tilt in degrees."""

    x: float = 0.5
    y: float = 0.53
    size: float = 0.7
    tilt: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Backdrop:
    """The background: its colours (RGB, 0..255) at the top and the bottom; `light` multiplies the photo."""

    top: tuple[int, int, int] = (150, 150, 150)
    bottom: tuple[int, int, int] = (110, 110, 110)
    light: float = 1.0
    seed: int = 0


def person(identity: int) -> Array:
    """The 6 x 6 x 3 pattern that is this person's identity; two people's patterns have a cosine of about 0."""
    return np.random.default_rng(identity).normal(size=(6, 6, 3)).astype(np.float32)


def resembling(someone: Array, other: Array, share: float) -> Array:
    """A person whose face has a cosine of about `share` with `someone`'s."""
    return np.asarray(share * someone + max(0.0, 1 - share**2) ** 0.5 * other)


def photo(faces: Sequence[tuple[Array, Pose]], backdrop: Backdrop, *, px: int, noise: float = 4.0) -> Pixels:
    """A square photo, `px` wide, of any number of faces; later ones cover earlier ones."""
    rng = np.random.default_rng([backdrop.seed, px])
    canvas = _background(backdrop, px)
    for pattern, pose in faces:
        _paste(canvas, pattern, pose)
    canvas = canvas * np.float32(backdrop.light) + rng.normal(0, noise, canvas.shape).astype(np.float32)
    return np.clip(canvas, 0, 255).astype(np.uint8)


def canonical(pattern: Array) -> Pixels:
    """The face as ArcFace's crop shows it, filling the whole 112 x 112 square."""
    axis = np.arange(TEMPLATE, dtype=np.float32) + 0.5
    u, v = np.meshgrid(axis, axis)
    colour, _ = _face(pattern, u, v, unit_px=1.0)
    return np.clip(colour, 0, 255).astype(np.uint8)


def oval() -> Array:
    """The face's coverage, 0..1, in ArcFace's 112 x 112 crop."""
    axis = np.arange(TEMPLATE, dtype=np.float32) + 0.5
    u, v = np.meshgrid(axis, axis)
    return _coverage(u, v, unit_px=1.0)


def _background(backdrop: Backdrop, px: int) -> Array:
    rng = np.random.default_rng([backdrop.seed, 7])
    clouds = rng.normal(0, 18, (6, 6, 1)) + rng.normal(0, 8, (6, 6, 3))
    axis = (np.arange(px, dtype=np.float32) + 0.5) / px
    down = axis[:, None, None]
    sky = (1 - down) * np.asarray(backdrop.top, np.float32) + down * np.asarray(backdrop.bottom, np.float32)
    weights = _cubic(axis, 6)
    return np.asarray(sky + np.einsum("yi,xj,ijc->yxc", weights, weights, clouds.astype(np.float32), optimize=True))


def _paste(canvas: Array, pattern: Array, pose: Pose) -> None:
    """Draws over `canvas`: every pixel is mapped into the template and coloured there."""
    px = canvas.shape[0]
    unit_px = pose.size * px / TEMPLATE
    across, down = (float(mean) for mean in np.mean(LANDMARKS, axis=0))
    axis = np.arange(px, dtype=np.float32) + 0.5
    x, y = np.meshgrid((axis - pose.x * px) / unit_px, (axis - pose.y * px) / unit_px)
    cos, sin = math.cos(math.radians(pose.tilt)), math.sin(math.radians(pose.tilt))
    colour, coverage = _face(pattern, cos * x + sin * y + across, cos * y - sin * x + down, unit_px)
    canvas += (colour - canvas) * coverage[..., None]


def _face(pattern: Array, u: Array, v: Array, unit_px: float) -> tuple[Array, Array]:
    """RGB and coverage at the template's coordinates (u, v); a unit of the template is `unit_px` pixels wide."""
    skin = np.asarray(_SKIN, np.float32) + _SKIN_CONTRAST * _smooth(pattern, u / TEMPLATE, v / TEMPLATE)
    colour = np.clip(skin, 70, 235)
    for (x, y), marker in zip(LANDMARKS, MARKER_COLOURS, strict=True):
        inside = np.clip((_MARKER_RADIUS - np.hypot(u - x, v - y)) * unit_px + 0.5, 0, 1)[..., None]
        colour += (np.asarray(marker, np.float32) - colour) * inside
    return colour, _coverage(u, v, unit_px)


def _coverage(u: Array, v: Array, unit_px: float) -> Array:
    x, y, half_width, half_height = _OVAL
    radius = np.hypot((u - x) / half_width, (v - y) / half_height)
    return np.clip((1 - radius) * half_width * unit_px + 0.5, 0, 1).astype(np.float32)


def _smooth(grid: Array, u: Array, v: Array) -> Array:
    """`grid` (rows x columns x channels) at u, v in 0..1, interpolated by Keys' cubic."""
    rows, columns, channels = grid.shape
    at_v = _cubic(v, rows) @ grid.reshape(rows, columns * channels)
    return np.asarray(np.einsum("...j,...jc->...c", _cubic(u, columns), at_v.reshape(*v.shape, columns, channels)))


def _cubic(position: Array, n: int) -> Array:
    """The weight of each of `n` nodes, spread evenly over 0..1, at `position`; the outermost extend."""
    at = np.clip(position * n - 0.5, 0, n - 1)
    distance = np.abs(at[..., None] - np.arange(n, dtype=np.float32))
    near = (1.25 * distance - 2.25) * distance**2 + 1
    far = ((-0.75 * distance + 3.75) * distance - 6) * distance + 3
    weight = np.where(distance < 1, near, np.where(distance < 2, far, np.float32(0)))
    return np.asarray(weight / weight.sum(-1, keepdims=True))
