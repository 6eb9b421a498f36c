"""Draws a contact sheet of a dataset: each image with its face and crop, and what the trainer will read."""

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
    """Write the contact sheet of a prepared dataset into its folder (below `runs/.datasets`); returns its path."""
    copied = [
        {"name": name, "file": f"images/{name}", "face": None, "crop": None, "notes": []} for name in record["pictures"]
    ]
    strips = [_strip(folder, one) for one in record.get("made", copied) if choose.REPEATED not in one["notes"]]
    width, height = max(strip.width for strip in strips), max(strip.height for strip in strips)
    columns = max(1, min(len(strips), round(math.sqrt(len(strips) * 1.6 * height / width))))
    rows = math.ceil(len(strips) / columns)
    sheet = Image.new("RGB", (columns * (width + _GAP) + _GAP, rows * (height + _GAP) + _GAP), _PAPER)
    for index, strip in enumerate(strips):
        row, column = divmod(index, columns)
        sheet.paste(strip, (_GAP + column * (width + _GAP), _GAP + row * (height + _GAP)))
    draft = folder / f".{NAME}"
    sheet.save(draft, format="PNG")
    draft.replace(folder / NAME)
    return folder / NAME


def _strip(folder: Path, one: Mapping[str, Any]) -> Image.Image:
    """The source image with its boxes, the result where it differs, and up to three lines of text."""
    tiles = [_source(folder / one["file"], one)]
    mask = folder / "masks" / one["name"]
    if one["crop"] or mask.exists():
        tiles.append(_result(folder, one["name"], mask))
    strip = Image.new("RGB", (len(tiles) * (_TILE + _GAP) - _GAP, _TILE + _LINES * _LINE), _PAPER)
    for index, tile in enumerate(tiles):
        strip.paste(tile, (index * (_TILE + _GAP), 0))
    draw, font = ImageDraw.Draw(strip), ImageFont.load_default(12)
    for index, line in enumerate(_text(one, len(tiles))):
        draw.text((0, _TILE + index * _LINE), line, fill=_INK, font=font)
    return strip


def _source(path: Path, one: Mapping[str, Any]) -> Image.Image:
    image = Image.fromarray(images.load(path))
    draw, pen = ImageDraw.Draw(image), max(1, max(image.size) // 120)
    for box, colour in ((one["face"], _FACE), (one["crop"], _CROP)):
        if box:
            draw.rectangle([box[0], box[1], box[2] - 1, box[3] - 1], outline=colour, width=pen)
    return ImageOps.pad(image, (_TILE, _TILE), color=_PAPER)


def _result(folder: Path, name: str, mask: Path) -> Image.Image:
    """Brightness shows the loss weight; the exponent inverts the gamma of a screen."""
    if not mask.exists():
        image = images.load(folder / "images" / name)
    else:
        with Image.open(mask) as opened:
            brightness = 0.1 + 0.9 * (np.asarray(opened, np.float32)[..., None] / 255) ** (1 / 2.2)
        image = (images.load(folder / "plain" / name) * brightness).astype(np.uint8)
    return ImageOps.pad(Image.fromarray(image), (_TILE, _TILE), color=_PAPER)


def _text(one: Mapping[str, Any], tiles: int) -> Sequence[str]:
    time = f" at {one['time_s']:.2f} s" if one.get("time_s") is not None else ""
    width, notes = 34 * tiles, "; ".join(one["notes"])
    lines = [f"{one['name']}{time}"[:width], *(notes[start : start + width] for start in range(0, len(notes), width))]
    return lines[:_LINES]
