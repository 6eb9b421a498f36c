"""Carries a recipe out: steps over pieces, then pictures, captions, weights and the record of how each came to be."""

import itertools
import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from orchestrator import images as media
from orchestrator import scoring
from orchestrator.config.recipe import Mask, Recipe
from orchestrator.config.schema import Dataset, Scoring
from orchestrator.datasets import choose, crop, dedupe, frames, mask
from orchestrator.datasets.face_finder import FaceFinder
from orchestrator.datasets.samples import Box, Sample, SampleSet, pixels, with_faces
from orchestrator.errors import InputError, Problem
from orchestrator.store import records

RULE = "2"
"""Part of every key: change it when the same recipe makes other pictures."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What to build. `source`: the folder of the prepared source; `folder`: a new one, all of it ours.

    cache: of faces.
    """

    dataset: Dataset
    source: Path
    folder: Path
    scoring: Scoring
    cache: Path


def build(request: Request) -> dict[str, Any]:
    """Fill the folder; returns the record of what is in it and of what is not.

    Raises InputError where the recipe cannot be carried out, NotReady without the faces for it.
    """
    recipe = request.dataset.recipe
    assert recipe
    for name in ("images", "stills"):
        (request.folder / name).mkdir(parents=True)
    batch = _steps(recipe, _pieces(request), request)
    if not batch.pieces:
        whys = "; ".join(dict.fromkeys(one.why for one in batch.dropped))
        what, key = f"leaves no picture: {whys}", f"datasets.{request.dataset.name}"
        raise InputError(Problem(what=what, key=key, remedy="loosen the recipe, or look at its source's pictures"))
    _refuse_twins(batch.pieces, request.dataset.name)
    made = [_write(piece, recipe, request) for piece in batch.pieces]
    _forget_unused_stills(batch, request.folder)
    return _record(request, batch, made)


def _pieces(request: Request) -> SampleSet:
    """The source's pictures, each with the origin that its own record knows."""
    record = records.read(request.source / "dataset.json")
    known = {one["name"]: one for one in record.get("made", [])}
    pieces = [
        Sample(
            name=Path(name).stem,
            file=request.source / "images" / name,
            caption=_caption((request.source / "images" / name).with_suffix(request.dataset.caption_extension)),
            origin=known.get(name, {}).get("origin", str(Path(record["source"]) / name)),
            time_s=known.get(name, {}).get("time_s"),
        )
        for name in record["pictures"]
    ]
    return SampleSet(pieces=tuple(pieces))


def _caption(path: Path) -> str | None:
    return path.read_text(encoding="utf-8").strip() if path.exists() else None


def _steps(recipe: Recipe, batch: SampleSet, request: Request) -> SampleSet:
    dataset, shown = request.dataset, len(batch.pieces)
    in_progress = scoring.in_progress_path(request.folder)
    sight = FaceFinder(request.scoring, cache=request.cache, in_progress=in_progress) if recipe.needs_faces else None
    if recipe.frames and sight:
        caption, draft = recipe.frames.caption or dataset.trigger, request.folder / "stills"
        batch = frames.apply(recipe.frames, batch, sight.see, sight.likeness, caption=caption, draft=draft)
    if recipe.dedupe:
        batch = dedupe.apply(recipe.dedupe, batch)
    if recipe.choose:
        batch = choose.apply(recipe.choose, batch, key=f"datasets.{dataset.name}")
    if recipe.crop and sight:
        batch = crop.apply(recipe.crop, batch, sight.see, trigger=dataset.trigger)
    if recipe.mask and sight:
        known = [piece for piece in batch.pieces if piece.face]
        batch = batch.keep([*known, *with_faces([piece for piece in batch.pieces if not piece.face], sight.see)])
    return batch.keep(_repeated(batch, shown, dataset.name)) if recipe.equal_steps else batch


def _repeated(batch: SampleSet, total: int, name: str) -> list[Sample]:
    if len(batch.pieces) > total:
        what = f"has {len(batch.pieces)} pictures, more than the {total} of its source: no repeats make that equal"
        remedy = "leave equal_steps out, and give max_train_steps in the grid"
        raise InputError(Problem(what=what, key=f"datasets.{name}.equal_steps", remedy=remedy))
    return choose.repeated(batch.pieces, total) if batch.pieces else []


def _refuse_twins(pieces: Sequence[Sample], name: str) -> None:
    """InputError where two pictures would become one file. `pieces`: in the order of their names."""
    for one, other in itertools.pairwise(pieces):
        if one.name == other.name:
            both = " and ".join(Path(piece.origin).name for piece in (one, other))
            what = f"two of its pictures would be called {one.name}: {both}"
            raise InputError(Problem(what=what, key=f"datasets.{name}", remedy="rename one of the two"))


def _write(piece: Sample, recipe: Recipe, request: Request) -> dict[str, Any]:
    """The picture, its caption, its weights; returns what the record says of it."""
    images, picture = request.folder / "images", _cut(pixels(piece), piece.crop)
    odd = media.decode_notes(piece.file)
    notes = [*odd, *piece.notes]
    if recipe.mask or piece.crop or odd:
        name = f"{piece.name}.png"
        if recipe.mask:
            notes += _write_weighted(picture, piece, recipe.mask, request.folder, name)
        else:
            Image.fromarray(picture).save(images / name)
    else:
        name = piece.name + piece.file.suffix
        shutil.copyfile(piece.file, images / name)
    if piece.caption is not None:
        caption = (images / name).with_suffix(request.dataset.caption_extension)
        caption.write_text(f"{piece.caption}\n", encoding="utf-8")
    told = {key: getattr(piece, key) for key in ("origin", "time_s", "face", "crop", "caption")}
    file = os.path.relpath(piece.file, request.folder)
    return {"name": name, "file": file, **told, "notes": list(dict.fromkeys(notes))}


def _cut(picture: media.Picture, box: Box | None) -> media.Picture:
    if box is None:
        return picture
    left, top, right, bottom = box
    return picture[top:bottom, left:right]


def _write_weighted(picture: media.Picture, piece: Sample, asked: Mask, folder: Path, name: str) -> list[str]:
    """The weights as the picture's alpha, which sd-scripts carries along its own path; returns notes."""
    left, top = piece.crop[:2] if piece.crop else (0, 0)
    face = None if piece.face is None else tuple(np.subtract(piece.face, (left, top, left, top)))
    weights = mask.weights(asked, face, (picture.shape[1], picture.shape[0]))
    alpha = Image.fromarray(np.rint(weights * 255).astype(np.uint8))
    plain = Image.fromarray(picture)
    for kind in ("plain", "masks"):
        (folder / kind).mkdir(exist_ok=True)
    plain.save(folder / "plain" / name)
    alpha.save(folder / "masks" / name)
    plain.putalpha(alpha)
    plain.save(folder / "images" / name)
    return [f"mean weight {weights.mean():.2f}"]


def _forget_unused_stills(batch: SampleSet, folder: Path) -> None:
    used = {piece.file for piece in batch.pieces}
    for still in (folder / "stills").iterdir():
        if still not in used:
            still.unlink()


def _record(request: Request, batch: SampleSet, made: list[dict[str, Any]]) -> dict[str, Any]:
    dataset = request.dataset
    return {
        "name": dataset.name,
        "source": request.source.name,
        "pictures": [one["name"] for one in made],
        "made": made,
        "dropped": [asdict(one) for one in batch.dropped],
        "recipe": json.loads(json.dumps(asdict(dataset.recipe) if dataset.recipe else {}, default=str)),
    }
