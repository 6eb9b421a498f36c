"""Small pictures of large ones, each made once: remembered by the original's size and time of change."""

import base64
import io
import json
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from PIL import Image

from orchestrator import images
from orchestrator.files import write_json

SIDES = (192, 128, 96, 72)
"""In pixels. Opening an original takes most of the time, so smaller ones are made from the largest."""
LARGEST = SIDES[0]
_QUALITY = 60


def prepare(folder: Path, files: Sequence[str], memory: Path) -> None:
    """Make them in every size, so that whoever needs one has it at once. Raises OSError."""
    for px in SIDES:
        thumbnails(folder, files, memory, px)


def thumbnails(folder: Path, files: Sequence[str], memory: Path, px: int = LARGEST) -> dict[str, str]:
    """WebP files in base64 by the picture's file, not larger than px x px; one that is no whole picture is absent.

    `files` are relative to `folder`; `memory` is a folder for what was made.
    """
    marks = {file: mark for file in files if (mark := _mark(folder / file))}
    kept = _load(memory / f"{px}.json")
    made = {file: kept[file] for file, mark in marks.items() if file in kept and kept[file][0] == mark}
    new = [file for file in marks if file not in made]
    if new:
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for file, small in zip(new, pool.map(_maker(folder, new, memory, px), new), strict=True):
                made[file] = [marks[file], small]
        memory.mkdir(parents=True, exist_ok=True)
        write_json(memory / f"{px}.json", {"quality": _QUALITY, "files": made})
    return {file: small for file, (_, small) in made.items() if small}


def _load(path: Path) -> dict[str, list[str]]:
    """Only a memory: what is lost is made again."""
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        return dict(kept["files"]) if kept["quality"] == _QUALITY else {}
    except (OSError, ValueError, KeyError):
        return {}


def _mark(path: Path) -> str:
    try:
        stat = path.stat()
    except OSError:
        return ""
    return f"{stat.st_size} {stat.st_mtime_ns}"


def _maker(folder: Path, new: Sequence[str], memory: Path, px: int) -> Callable[[str], str]:
    if px == LARGEST:
        return lambda file: _of_original(folder / file)
    return partial(_smaller, thumbnails(folder, new, memory), px)


def _of_original(path: Path) -> str:
    try:
        return _encoded(Image.fromarray(images.load(path)), LARGEST)
    except images.Unreadable:
        return ""


def _smaller(larger: dict[str, str], px: int, file: str) -> str:
    if file not in larger:
        return ""
    with Image.open(io.BytesIO(base64.b64decode(larger[file])), formats=["WEBP"]) as image:
        return _encoded(image, px)


def _encoded(image: Image.Image, px: int) -> str:
    image.thumbnail((px, px), Image.Resampling.BICUBIC)
    file = io.BytesIO()
    image.save(file, "WEBP", quality=_QUALITY, method=2)
    return base64.b64encode(file.getvalue()).decode("ascii")
