"""Writes the image matrix as a PNG: configurations as rows, prompts and image seeds as columns, baseline first."""

import io
import os
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from orchestrator import images
from orchestrator.errors import InputError, NothingSelected, Problem
from orchestrator.evidence.summary import RunSummary, SweepSummary
from orchestrator.report.html import image_matrix
from orchestrator.report.html.image_matrix import Cell, Matrix, MatrixRow

NAME = "sheet.png"
_MAX_SIDE = 30_000
_LABEL, _GAP, _LINE = 220, 4, 16
"""Pixels: width of the row labels, space between images, height of a line of text."""
_SAMPLE_PX, _SAMPLE_ROWS, _SAMPLE_COLUMNS = 384, 8, 4
_INK, _FAINT, _BAD = "black", "#666666", "#b3261e"


def write(summary: SweepSummary, path: Path, *, px: int, seed: str = "", variants: bool = False) -> Path:
    """Draw the sheet. px: side of an image. seed: of the trainings, `all` for every one; by default the first.
    variants: all scored checkpoints and strengths, not only the selected ones.

    Raises NothingSelected without images, InputError for an unknown seed or a sheet that would be too large.
    """
    found = image_matrix.matrix(summary)
    rows = _select(found, seed, variants=variants)
    width = _LABEL + (px + _GAP) * len(found.columns)
    height = 3 * _LINE + (px + _LINE + _GAP) * len(rows)
    if max(width, height) > _MAX_SIDE:
        what = f"would have {width} x {height} pixels, at most {_MAX_SIDE} are possible"
        remedy = f"use a smaller --px, such as {max(16, px * _MAX_SIDE // max(width, height) - 1)}"
        raise InputError(Problem(what=what, where=str(path), remedy=remedy))
    sheet = Image.new("RGB", (width, height), "white")
    _draw(sheet, found, rows, px, image_matrix.reference_photo(summary))
    return _save(sheet, path)


def write_samples(one: RunSummary, path: Path) -> Path:
    """Draw the reported images of one run: prompts as rows, image seeds as columns; without a reference photo."""
    scores = {(score.image.prompt, score.image.seed): score for score in (one.choice.reported if one.choice else ())}
    prompts = {number: score.image.text for (number, _), score in sorted(scores.items())}
    rows, seeds = list(prompts)[:_SAMPLE_ROWS], sorted({seed for _, seed in scores})[:_SAMPLE_COLUMNS]
    side = _SAMPLE_PX + _GAP
    sheet = Image.new("RGB", (side * len(seeds) or 1, (side + _LINE) * len(rows) or 1), "white")
    draw = ImageDraw.Draw(sheet)
    for row, prompt in enumerate(rows):
        top = (side + _LINE) * row
        _text(draw, (2, top), prompts[prompt], sheet.width)
        for column, seed in enumerate(seeds):
            if score := scores.get((prompt, seed)):
                sheet.paste(_thumbnail(one.run.path / score.image.file, _SAMPLE_PX), (side * column, top + _LINE))
    return _save(sheet, path)


def _save(sheet: Image.Image, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    encoded = io.BytesIO()
    sheet.save(encoded, path.suffix[1:].lower().replace("jpg", "jpeg"))
    draft = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    draft.write_bytes(encoded.getvalue())
    return draft.replace(path)


def _select(found: Matrix, seed: str, *, variants: bool) -> list[MatrixRow]:
    """The rows of one training seed, or of all."""
    selected = [row for row in found.rows if row.selected or variants]
    if not selected:
        raise NothingSelected(
            Problem(
                what="there are no images yet", remedy="run the sweep first; its `orchestrate status` names the command"
            )
        )
    seeds = sorted({row.seed for row in selected if row.seed}, key=lambda one: (len(one), one))
    if seed and seed != "all" and seed not in seeds:
        what, remedy = "no training has this seed", f"use one of {', '.join(seeds)}, or all"
        raise InputError(Problem(what=what, key="--seed", value=seed, remedy=remedy))
    if seed != "all":
        first = {row.configuration: row.seed for row in reversed(selected)}
        selected = [row for row in selected if row.seed == (seed if seed and row.seed else first[row.configuration])]
    return selected


def _draw(sheet: Image.Image, found: Matrix, rows: Sequence[MatrixRow], px: int, reference: Path | None) -> None:
    draw, top = ImageDraw.Draw(sheet), 3 * _LINE
    left = {cell: _LABEL + (px + _GAP) * at for at, cell in enumerate(found.columns)}
    for prompt, text in found.prompts.items():
        columns = [cell for cell in found.columns if cell[0] == prompt]
        _text(draw, (left[columns[0]], 0), text, (px + _GAP) * len(columns) - 3 * _GAP)
        for cell in columns:
            _text(draw, (left[cell], _LINE), f"seed {cell[1]}", px, _FAINT)
    if reference:
        sheet.paste(_thumbnail(reference, 3 * _LINE - 2), (0, 0))
        _text(draw, (3 * _LINE + 2, _LINE), "reference photo", _LABEL - 3 * _LINE, _FAINT)
    for at, row in enumerate(rows):
        y = top + (px + _LINE + _GAP) * at
        words = row.configuration.split(", ")
        lines = [*words, *([f"training seed {row.seed}"] if row.seed else []), row.variant]
        for number, line in enumerate(lines[: max(1, px // _LINE)]):
            _text(draw, (2, y + _LINE * number), line, _LABEL - 4, _INK if number < len(words) else _FAINT)
        for cell, x in left.items():
            _tile(sheet, draw, row, cell, (x, y), px)


def _tile(
    sheet: Image.Image, draw: ImageDraw.ImageDraw, row: MatrixRow, cell: Cell, at: tuple[int, int], px: int
) -> None:
    found = row.cells.get(cell)
    if found is None:
        return
    sheet.paste(_thumbnail(row.run.run.path / found.image.file, px), at)
    bad = found.value is None or found.value <= -1
    _text(draw, (at[0], at[1] + px), found.word, px, _BAD if bad else _INK)


def _thumbnail(path: Path, px: int) -> Image.Image:
    """px x px; a grey square for an unreadable image."""
    try:
        image = Image.fromarray(images.load(path))
    except images.Unreadable:
        return Image.new("RGB", (px, px), "#cccccc")
    image.thumbnail((px, px))
    square = Image.new("RGB", (px, px), "white")
    square.paste(image, ((px - image.width) // 2, (px - image.height) // 2))
    return square


def _text(draw: ImageDraw.ImageDraw, at: tuple[int, int], text: str, width: int, colour: str = _INK) -> None:
    """One line, shortened to the width."""
    font = ImageFont.load_default(_LINE - 4)
    line = " ".join(text.split())
    while line and draw.textlength(line, font=font) > width:
        line = line[:-2].rstrip("…") + "…" if len(line) > 2 else ""
    draw.text(at, line, fill=colour, font=font)
