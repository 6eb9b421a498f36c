"""A contact sheet of a dataset: each picture with its face and its crop drawn in, and what the trainer will see."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

from orchestrator import images
from orchestrator.datasets import choose

NAME = "sheet.png"

_TILE = 240
_LINE = 15
_LINES = 3
_GAP = 8
_FACE, _CROP, _INK, _PAPER = (0, 190, 60), (255, 160, 0), (30, 30, 30), (255, 255, 255)


def write(folder: Path, record: Mapping[str, Any]) -> Path:
    """Draw the dataset in a folder of `runs/.datasets` and leave the sheet there; returns its path."""
    shown = [one for one in _made(record) if choose.REPEATED not in one["notes"]]
    strips = [_strip(folder, one) for one in shown]
    wide, high = max(strip.width for strip in strips), max(strip.height for strip in strips)
    columns = max(1, min(len(strips), round(math.sqrt(len(strips) * 1.6 * high / wide))))
    rows = math.ceil(len(strips) / columns)
    sheet = Image.new("RGB", (columns * (wide + _GAP) + _GAP, rows * (high + _GAP) + _GAP), _PAPER)
    for index, strip in enumerate(strips):
        row, column = divmod(index, columns)
        sheet.paste(strip, (_GAP + column * (wide + _GAP), _GAP + row * (high + _GAP)))
    draft = folder / f".{NAME}"
    sheet.save(draft, format="PNG")
    draft.replace(folder / NAME)
    return folder / NAME


def _made(record: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """A plain folder's record has names only."""
    plain = [
        {"name": name, "file": f"images/{name}", "face": None, "crop": None, "notes": []} for name in record["pictures"]
    ]
    return list(record.get("made", plain))


def _strip(folder: Path, one: Mapping[str, Any]) -> Image.Image:
    """The source with its boxes, what becomes of it where that differs, and a few words under them."""
    tiles = [_source(folder / one["file"], one)]
    mask = folder / "masks" / one["name"]
    if one["crop"] or mask.exists():
        tiles.append(_result(folder, one["name"], mask))
    strip = Image.new("RGB", (len(tiles) * (_TILE + _GAP) - _GAP, _TILE + _LINES * _LINE), _PAPER)
    for index, tile in enumerate(tiles):
        strip.paste(tile, (index * (_TILE + _GAP), 0))
    draw, font = ImageDraw.Draw(strip), ImageFont.load_default(12)
    for index, line in enumerate(_words(one, len(tiles))):
        draw.text((0, _TILE + index * _LINE), line, fill=_INK, font=font)
    return strip


def _source(path: Path, one: Mapping[str, Any]) -> Image.Image:
    picture = Image.fromarray(images.load(path))
    draw, pen = ImageDraw.Draw(picture), max(1, max(picture.size) // 120)
    for box, colour in ((one["face"], _FACE), (one["crop"], _CROP)):
        if box:
            draw.rectangle([box[0], box[1], box[2] - 1, box[3] - 1], outline=colour, width=pen)
    return _tile(picture)


def _result(folder: Path, name: str, mask: Path) -> Image.Image:
    """In as much light as it weighs in the loss; a screen shows the 2.2nd power of what it is given."""
    if not mask.exists():
        return _tile(Image.fromarray(images.load(folder / "images" / name)))
    with Image.open(mask) as opened:
        weights = 0.1 + 0.9 * (np.asarray(opened, np.float32)[..., None] / 255) ** (1 / 2.2)
    picture = images.load(folder / "plain" / name) * weights
    return _tile(Image.fromarray(picture.astype(np.uint8)))


def _tile(picture: Image.Image) -> Image.Image:
    return ImageOps.pad(picture, (_TILE, _TILE), color=_PAPER)


def _words(one: Mapping[str, Any], tiles: int) -> Sequence[str]:
    time = f" at {one['time_s']:.2f} s" if one.get("time_s") is not None else ""
    most = 34 * tiles
    text = "; ".join(one["notes"])
    lines = [f"{one['name']}{time}", *(text[start : start + most] for start in range(0, len(text), most))]
    return [line[:most] for line in lines[:_LINES]]
