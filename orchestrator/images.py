"""Decodes images safely: one rule from file to pixels, and one exception for everything that is no complete image."""

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from orchestrator import files
from orchestrator.errors import Problem, Severity, warning
from orchestrator.redaction import find_secret
from orchestrator.text import agree, first_names

DECODE_RULE = "1: first frame, EXIF orientation, alpha over white, 16 bit to 8, RGB"
"""Part of the key of every cached embedding: change the text when `load` changes."""

MAX_PIXELS = 2**26
"""8192 x 8192. A larger image is rejected from its header, before memory is allocated."""

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".avif"})
"""The files that sd-scripts reads as images of a dataset."""

UNSUPPORTED_SUFFIXES = frozenset(
    {".jfif", ".heic", ".heif", ".jxl", ".jp2", ".tif", ".tiff", ".gif", ".jpe", ".psd", ".tga", ".dng", ".cr2", ".cr3"}
    | {".nef", ".arw", ".raf", ".rw2", ".orf", ".pef", ".raw"}
)
"""Image files that are not used, because sd-scripts ignores them too."""

MAX_BYTES = 2**29
"""8192 x 8192 pixels of four 16-bit samples without compression."""

# No others, because Pillow also opens formats that start other programs (EPS runs Ghostscript).
_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "AVIF", "GIF", "TIFF")
_ORIENTATION = 0x0112
_SIDEWAYS = (5, 6, 7, 8)

Pixels = NDArray[np.uint8]
"""Height x width x 3, RGB."""

PerceptualHash = NDArray[np.bool_]
"""(64,) bits."""

SAME_HASH = 4
"""Bits of 64 in which the perceptual hashes of two copies of an image may differ: re-encoded or resized."""


class Unreadable(Exception):
    """A file that is missing, incomplete, too large, or no image. `reason`: which of these, without the path."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """The images of a folder, sorted by name, and a problem for each file that was ignored."""

    paths: tuple[Path, ...]
    problems: tuple[Problem, ...] = ()

    def why_empty(self, key: str) -> list[Problem]:
        """The problems as errors about this key, because no image is left."""
        what = "no image can be used: "
        return [replace(one, severity=Severity.ERROR, key=key, what=what + one.what) for one in self.problems]


def load(path: Path) -> Pixels:
    """The pixels, height x width x 3, RGB. Raises Unreadable."""
    with _opened(path) as image:
        return np.asarray(_rgb(ImageOps.exif_transpose(image)))


def load_mask(path: Path) -> NDArray[np.float64]:
    """The weights of a mask, height x width, 0..1: its alpha channel if it is used, else its brightness.

    Raises Unreadable.
    """
    with _opened(path) as image:
        upright = ImageOps.exif_transpose(image)
        grey = upright.convert("RGBA").getchannel("A") if _transparent(image) else _rgb(upright).convert("L")
        return np.asarray(grey, np.float64) / 255


def size(path: Path) -> tuple[int, int]:
    """Width and height in pixels as after `load`, read from the header. Raises Unreadable."""
    with _opened(path) as image:
        sideways = image.getexif().get(_ORIENTATION) in _SIDEWAYS
        return (image.height, image.width) if sideways else image.size


def decode_notes(path: Path) -> tuple[str, ...]:
    """What `load` changes that a careless program would not. Raises Unreadable."""
    with _opened(path) as image:
        notes = {"rotated as its EXIF says": _rotated(image), "transparency replaced by white": _transparent(image)}
        return tuple(note for note, applies in notes.items() if applies)


def has_exif_rotation(path: Path) -> bool:
    """Whether a program that ignores EXIF sees it rotated or mirrored. Raises Unreadable."""
    with _opened(path) as image:
        return _rotated(image)


def has_transparency(path: Path) -> bool:
    """Whether a program that drops the alpha channel sees hidden colours. Raises Unreadable."""
    with _opened(path) as image:
        return _transparent(image)


def _transparent(image: Image.Image) -> bool:
    """As `_rgb`: images with 16 bits per sample have no alpha channel."""
    if image.mode.startswith("I") or not image.has_transparency_data:
        return False
    return int(np.asarray(image.convert("RGBA").getchannel("A")).min()) < 255


def _rotated(image: Image.Image) -> bool:
    return image.getexif().get(_ORIENTATION, 1) in range(2, 9)


def list_images(folder: Path) -> Listing:
    """The images directly in `folder`, as sd-scripts finds them.

    Ignores hidden files (macOS writes `._a.png` beside `a.png`), links that lead out of the folder, names of images
    that are not files or contain a secret, huge files, and other suffixes, also `.Jpg`.
    """
    if not folder.is_dir():
        return Listing(paths=(), problems=(Problem(what="is not a folder", where=str(folder)),))
    unused = [path.name for path in unsupported(folder)]
    visible = [path for path in folder.iterdir() if not path.name.startswith(".")]
    found = sorted(path for path in visible if path.suffix.lower() in SUFFIXES and path.name not in unused)
    problems = {path: problem for path in found if (problem := _unfit(path))}
    return Listing(
        paths=tuple(path for path in found if path not in problems),
        problems=(*problems.values(), *([_unused(folder, unused)] if unused else ())),
    )


def _unused(folder: Path, names: list[str]) -> Problem:
    suffixes = ", ".join(sorted({Path(name).suffix for name in names}))
    counted = agree(len(names), "file looks like an image and is", "files look like images and are")
    what = f"{counted} not used: {first_names(names)} (suffixes {suffixes})"
    mixed = all(Path(name).suffix.lower() in SUFFIXES for name in names)
    remedy = (
        "write their suffixes in lower case" if mixed else "convert them to PNG or JPEG, with a suffix in lower case"
    )
    return warning("", what, remedy, where=str(folder))


def unsupported(folder: Path) -> list[Path]:
    """The image files in `folder` that are ignored because of their suffix, also in mixed case (`.Jpg`)."""

    def is_ignored(suffix: str) -> bool:
        mixed = suffix.lower() in SUFFIXES and suffix not in (suffix.lower(), suffix.upper())
        return mixed or suffix.lower() in UNSUPPORTED_SUFFIXES

    return sorted(path for path in folder.glob("[!.]*") if is_ignored(path.suffix))


def _unfit(path: Path) -> Problem | None:
    if found := find_secret(path.name):
        what = f"an image is ignored: its name contains {found}, and would be recorded"
        return warning("", what, "rename the file", where=str(path.parent))
    if escapes_folder(path):
        what, value = "is ignored: this link leads out of its folder", os.path.realpath(path)
    elif not path.is_file():
        what, value = "is ignored: it is not a file, or a link to a missing file", ""
    elif path.stat().st_size > MAX_BYTES:
        what = f"is ignored: it has more than {MAX_BYTES:,} bytes"
        return warning("", what, "replace it by a smaller image, or remove it", where=str(path))
    else:
        return None
    return warning("", what, "copy the image into the folder", where=str(path), value=value)


def escapes_folder(path: Path) -> bool:
    """Whether it is a link to a file outside of its folder."""
    folder = os.path.realpath(path.parent)  # not `resolve`, which fails at links to themselves
    return path.is_symlink() and not Path(os.path.realpath(path)).is_relative_to(folder)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """The image, of which only the header is read. Every exception while it is open becomes Unreadable."""
    try:
        with files.open_regular(path, max_bytes=MAX_BYTES) as file, Image.open(file, formats=_FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise Unreadable(f"{image.width} x {image.height} pixels are more than {MAX_PIXELS:,}")
            yield image
    except Exception as error:  # decoders raise anything on hostile input, from struct.error to MemoryError
        raise Unreadable(reason(error)) from error


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):
        image = Image.fromarray((np.asarray(image) // 257).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise Unreadable("has 32 bits per sample, for which white is not defined")
    if not image.has_transparency_data:
        return image.convert("RGB")
    white = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")


def reason(error: Exception) -> str:
    """Why a file could not be read, without its path."""
    if isinstance(error, FileNotFoundError):
        return "there is no such file"
    if isinstance(error, UnidentifiedImageError):
        return f"is not an image in one of the formats {', '.join(_FORMATS)}"
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return text or type(error).__name__


def perceptual_hashes(image: Pixels) -> tuple[PerceptualHash, PerceptualHash]:
    """The 64-bit pHash of an image and of its mirror image; re-saved, resized and grey copies have nearly the same."""
    import imagehash

    sides = (image, np.ascontiguousarray(image[:, ::-1]))
    one, mirrored = (imagehash.phash(Image.fromarray(side)).hash.ravel() for side in sides)
    return one, mirrored


def hash_distance(one: Sequence[PerceptualHash], other: Sequence[PerceptualHash]) -> int:
    """Number of different bits, 0 to 64: the smallest over the hashes of `other`, mirrored or not."""
    return min(int(np.count_nonzero(one[0] != side)) for side in other)
