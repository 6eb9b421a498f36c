"""Decodes pictures safely: one rule from file to pixels, and a typed refusal for whatever is not a whole picture."""

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from orchestrator.errors import Problem, Severity

DECODE_RULE = "1: first frame, EXIF orientation, alpha over white, 16 bit to 8, RGB"
"""Part of every embedding's key: change the text when the pixels change."""

MAX_PIXELS = 2**26
"""8192 x 8192. More is refused from the header, before anything is allocated."""

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".avif"})
"""What sd-scripts takes as a picture of a dataset."""

# Closed, because Pillow also opens formats that start other programs (EPS runs Ghostscript).
_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "AVIF", "GIF", "TIFF")
_ORIENTATION = 0x0112
_SIDEWAYS = (5, 6, 7, 8)

Picture = NDArray[np.uint8]
"""Height x width x 3, RGB."""


class Unreadable(Exception):
    """A file that is missing, half-written, too large, or no picture. `reason` says which, without the path."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """The pictures of a folder in the order of their names, and what was left out of them and why."""

    pictures: tuple[Path, ...]
    problems: tuple[Problem, ...] = ()


def load(path: Path) -> Picture:
    """The picture's pixels, height x width x 3, RGB. Raises Unreadable."""
    with _opened(path) as image:
        return np.asarray(_rgb(ImageOps.exif_transpose(image)))


def size(path: Path) -> tuple[int, int]:
    """Width and height in pixels, as `load` would give them, from the header alone. Raises Unreadable."""
    with _opened(path) as image:
        sideways = image.getexif().get(_ORIENTATION) in _SIDEWAYS
        return (image.height, image.width) if sideways else image.size


def decode_notes(path: Path) -> tuple[str, ...]:
    """What `load` does to a picture that a program which is not careful would not. Raises Unreadable."""
    with _opened(path) as image:
        seen = {"turned upright as its EXIF says": _turned(image), "laid over white": _see_through(image)}
        return tuple(note for note, true in seen.items() if true)


def has_exif_rotation(path: Path) -> bool:
    """Whether a program that reads no EXIF would see it turned or mirrored. Raises Unreadable."""
    with _opened(path) as image:
        return _turned(image)


def has_transparency(path: Path) -> bool:
    """Whether a program that drops the alpha would see colours that lie under nothing. Raises Unreadable."""
    with _opened(path) as image:
        return _see_through(image)


def _see_through(image: Image.Image) -> bool:
    """16 bits a sample have no alpha here, whatever their file says: `_rgb` makes the same of them."""
    if image.mode.startswith("I") or not image.has_transparency_data:
        return False
    return int(np.asarray(image.convert("RGBA").getchannel("A")).min()) < 255


def _turned(image: Image.Image) -> bool:
    return image.getexif().get(_ORIENTATION, 1) in range(2, 9)


def pictures(folder: Path) -> Listing:
    """The pictures directly in `folder`, as sd-scripts would find them.

    A link that leads out of the folder is left out: a dataset's or a persona's pictures are the files one sees in it.
    So is what is called like a picture and is no file.
    """
    if not folder.is_dir():
        return Listing(pictures=(), problems=(Problem(what="is not a folder", where=str(folder)),))
    found = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
    problems = {path: problem for path in found if (problem := _unfit(path))}
    return Listing(pictures=tuple(path for path in found if path not in problems), problems=tuple(problems.values()))


def _unfit(path: Path) -> Problem | None:
    if escapes_folder(path):
        what, value = "is left out: this link leads out of its folder", os.path.realpath(path)
    elif not path.is_file():
        what, value = "is left out: it is no file, or a link that leads nowhere", ""
    else:
        return None
    remedy = "copy the picture into the folder"
    return Problem(what=what, where=str(path), value=value, remedy=remedy, severity=Severity.WARNING)


def escapes_folder(path: Path) -> bool:
    """Whether it is a link to what does not lie in its folder."""
    folder = os.path.realpath(path.parent)  # not `resolve`, which fails over links that lead to themselves
    return path.is_symlink() and not Path(os.path.realpath(path)).is_relative_to(folder)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """The picture, of which only the header is read; Unreadable for whatever is raised while it is open."""
    try:
        with Image.open(path, formats=_FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise Unreadable(f"{image.width} x {image.height} pixels are more than {MAX_PIXELS:,}")
            yield image
    except Exception as error:  # decoders raise anything on hostile input, from struct.error to MemoryError
        raise Unreadable(reason(error)) from error


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):
        image = Image.fromarray((np.asarray(image) // 257).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise Unreadable("32 bits per sample have no known white")
    if not image.has_transparency_data:
        return image.convert("RGB")
    white = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")


def reason(error: Exception) -> str:
    """Why a file could not be read, without its path."""
    if isinstance(error, FileNotFoundError):
        return "there is no such file"
    if isinstance(error, UnidentifiedImageError):
        return f"is not a picture in one of the formats {', '.join(_FORMATS)}"
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return text or type(error).__name__
