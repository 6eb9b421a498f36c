"""Small copies of images for the report, kept in a JSON file per size and made again when the original changes."""

import base64
import io
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from PIL import Image

from orchestrator import images
from orchestrator.files import read_json, write_json

SIDES = (192, 128, 96, 72)
"""In pixels. Opening an original takes most of the time, so smaller copies are made from the largest."""
LARGEST = SIDES[0]
_QUALITY = 60


def prepare(folder: Path, files: Sequence[str], cache: Path) -> None:
    """Make all sizes. Raises OSError."""
    for px in SIDES:
        thumbnails(folder, files, cache, px)


def thumbnails(folder: Path, files: Sequence[str], cache: Path, px: int = LARGEST) -> dict[str, str]:
    """WebP images in base64 by file, at most px x px; unreadable images are missing. Raises OSError.

    files: relative to `folder`. cache: folder for the thumbnails.
    """
    states = {file: state for file in files if (state := _state(folder / file))}
    known = _load(cache / f"{px}.json")
    made = {file: known[file] for file, state in states.items() if file in known and known[file][0] == state}
    new = [file for file in states if file not in made]
    if new:
        larger = thumbnails(folder, new, cache) if px != LARGEST else {}
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            encoded = pool.map(lambda file: encode(larger.get(file, folder / file), px), new)
            made |= {file: [states[file], small] for file, small in zip(new, encoded, strict=True)}
        cache.mkdir(parents=True, exist_ok=True)
        write_json(cache / f"{px}.json", {"quality": _QUALITY, "files": made})
    return {file: small for file, (_, small) in made.items() if small}


def _load(path: Path) -> dict[str, list[str]]:
    try:
        known = read_json(path)
        entries = known["files"].items() if known["quality"] == _QUALITY else ()
        return {file: entry for file, entry in entries if [*map(type, entry)] == [str, str]}
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return {}


def _state(path: Path) -> str:
    """Changes with the file; empty when there is none."""
    try:
        stat = path.stat()
    except OSError:
        return ""
    return f"{stat.st_size} {stat.st_mtime_ns}"


def encode(source: Path | str, px: int, quality: int = _QUALITY) -> str:
    """WebP in base64 without metadata, at most px x px; empty when the original is unreadable.

    source: the original, or a larger thumbnail.
    """
    if isinstance(source, str):
        image: Image.Image = Image.open(io.BytesIO(base64.b64decode(source)), formats=["WEBP"])
    else:
        try:
            image = Image.fromarray(images.load(source))
        except images.Unreadable:
            return ""
    image.thumbnail((px, px), Image.Resampling.BICUBIC)
    file = io.BytesIO()
    image.save(file, "WEBP", quality=quality, method=2)
    return base64.b64encode(file.getvalue()).decode("ascii")
