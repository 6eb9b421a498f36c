"""Reads videos with PyAV: the sharpest frame of each time window, upright."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from orchestrator import images

SUFFIXES = frozenset({".mp4", ".mov", ".mkv", ".webm", ".avi", ".m4v"})

_SHARPNESS_PX = 256  # width at which sharpness is measured: more would measure the camera's noise


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Still:
    """One frame of a video. time_s: from its start. sharpness: comparable within one video."""

    time_s: float
    sharpness: float
    picture: images.Pixels


def files(path: Path) -> list[Path]:
    """The videos of a folder by name, or the one file."""
    if path.is_dir():
        return sorted(file for file in path.iterdir() if file.suffix.lower() in SUFFIXES)
    return [path] if path.is_file() else []


def sharpest(path: Path, *, window_s: float) -> Iterator[Still]:
    """The sharpest frame of each window, in order. Raises images.Unreadable, after the readable part of a video."""
    best: Still | None = None
    window = -1
    for time_s, frame in _frames(path):
        if int(time_s // window_s) != window:
            if best:
                yield best
            best, window = None, int(time_s // window_s)
        sharpness = _sharpness(frame)
        if best is None or sharpness > best.sharpness:
            best = Still(time_s=round(time_s, 3), sharpness=sharpness, picture=_upright(frame))
    if best:
        yield best


def _frames(path: Path) -> Iterator[tuple[float, Any]]:
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise images.Unreadable("contains no video stream")
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            for frame in container.decode(stream):
                yield frame.time or 0.0, frame
    except av.error.FFmpegError as error:
        raise images.Unreadable(str(error)) from error


def _sharpness(frame: Any) -> float:
    """Variance of the Laplacian of the brightness."""
    height = max(2, round(frame.height * _SHARPNESS_PX / frame.width))
    grey: NDArray[Any] = (
        frame.reformat(width=_SHARPNESS_PX, height=height, format="gray").to_ndarray().astype(np.float32)
    )
    inner = grey[1:-1, 1:-1]
    laplacian = grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:] - 4 * inner
    return float(laplacian.var())


def _upright(frame: Any) -> images.Pixels:
    """Apply the rotation that the video's metadata give, in degrees anticlockwise."""
    image = Image.fromarray(frame.to_ndarray(format="rgb24"))
    return np.asarray(image.rotate(frame.rotation, expand=True) if frame.rotation else image)
