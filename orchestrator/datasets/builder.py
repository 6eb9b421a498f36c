"""Carries out a recipe: runs its steps, writes images, captions and loss weights, and records each image's origin."""

import itertools
import json
import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from orchestrator import images, scoring
from orchestrator.config.recipe import Mask, Recipe
from orchestrator.config.schema import Dataset, Scoring
from orchestrator.datasets import captions, choose, crop, dedupe, frames, mask
from orchestrator.datasets.face_finder import FaceFinder
from orchestrator.datasets.samples import Sample, SampleSet, with_faces
from orchestrator.errors import InputError, Problem
from orchestrator.store import records

RULE = "2"
"""Part of every dataset's key: change it when the same recipe produces other images."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What to build. source: folder of the prepared source. folder: a new folder, filled here. cache: of faces."""

    dataset: Dataset
    source: Path
    folder: Path
    scoring: Scoring
    cache: Path


def build(request: Request) -> dict[str, Any]:
    """Fill the folder; returns the record of its images and of those left out.

    Raises InputError when the recipe cannot be carried out, NotReady when it needs faces and there is no face pack.
    """
    recipe, key = request.dataset.recipe, f"datasets.{request.dataset.name}"
    assert recipe
    for name in ("images", "stills"):
        (request.folder / name).mkdir(parents=True)
    batch = _steps(recipe, _samples(request), request)
    if not batch.samples:
        reasons = "; ".join(dict.fromkeys(one.why for one in batch.dropped))
        remedy = "relax the recipe, or check the images of its source"
        raise InputError(Problem(what=f"no image is left: {reasons}", key=key, remedy=remedy))
    for one, other in itertools.pairwise(batch.samples):  # in the order of their names
        if one.name == other.name:
            both = " and ".join(Path(sample.origin).name for sample in (one, other))
            what = f"two of its images would both be named {one.name}: {both}"
            raise InputError(Problem(what=what, key=key, remedy="rename one of the two"))
    made = [_write(sample, recipe, request) for sample in batch.samples]
    used = {sample.file for sample in batch.samples}
    for still in (request.folder / "stills").iterdir():
        if still not in used:
            still.unlink()
    return {
        "name": request.dataset.name,
        "source": request.source.name,
        "pictures": [one["name"] for one in made],
        "made": made,
        "dropped": [asdict(one) for one in batch.dropped],
        "recipe": json.loads(json.dumps(asdict(recipe), default=str)),
    }


def _samples(request: Request) -> SampleSet:
    """The source's images, each with the origin that the source's own record gives it."""
    record = records.read(request.source / "dataset.json")
    known = {one["name"]: one for one in record.get("made", [])}
    found = []
    for name in record["pictures"]:
        file = request.source / "images" / name
        caption = file.with_suffix(request.dataset.caption_extension)
        found.append(
            Sample(
                name=file.stem,
                file=file,
                caption=caption.read_text(encoding="utf-8-sig").strip() if caption.exists() else None,
                origin=known.get(name, {}).get("origin", str(Path(record["source"]) / name)),
                time_s=known.get(name, {}).get("time_s"),
            )
        )
    return SampleSet(samples=tuple(found))


def _steps(recipe: Recipe, batch: SampleSet, request: Request) -> SampleSet:
    dataset, total = request.dataset, len(batch.samples)
    in_progress = scoring.in_progress_path(request.folder)
    finder = FaceFinder(request.scoring, cache=request.cache, in_progress=in_progress) if recipe.needs_faces else None
    if recipe.frames and finder:
        caption, draft = recipe.frames.caption or dataset.trigger, request.folder / "stills"
        batch = frames.apply(recipe.frames, batch, finder.find, finder.similarity, caption=caption, draft=draft)
    if recipe.dedupe:
        batch = dedupe.apply(recipe.dedupe, batch)
    if recipe.choose:
        batch = choose.apply(recipe.choose, batch, key=f"datasets.{dataset.name}")
    if recipe.crop and finder:
        batch = crop.apply(recipe.crop, batch, finder.find, trigger=dataset.trigger)
    if recipe.mask and finder and not recipe.mask.masks:
        known = [sample for sample in batch.samples if sample.face]
        batch = batch.keep([*known, *with_faces([one for one in batch.samples if not one.face], finder.find)])
    if recipe.captions:
        batch = captions.apply(recipe.captions, batch)
    if not recipe.equal_steps or not batch.samples:
        return batch
    if len(batch.samples) > total:
        what = (
            f"has {len(batch.samples)} images, more than the {total} of its source, so repeats cannot make epochs equal"
        )
        remedy = "remove equal_steps and set max_train_steps in the grid"
        raise InputError(Problem(what=what, key=f"datasets.{dataset.name}.equal_steps", remedy=remedy))
    return batch.keep(choose.repeated(batch.samples, total))


def _write(sample: Sample, recipe: Recipe, request: Request) -> dict[str, Any]:
    """Write the image, its caption and its weights; returns the image's entry in the record."""
    folder, image = request.folder / "images", sample.pixels()
    if sample.crop:
        left, top, right, bottom = sample.crop
        image = image[top:bottom, left:right]
    decoded = images.decode_notes(sample.file)
    notes = [*decoded, *sample.notes]
    if recipe.mask or sample.crop or decoded:
        name = f"{sample.name}.png"
        if recipe.mask:
            notes.append(_write_weighted(image, sample, recipe.mask, request.folder, name))
        else:
            Image.fromarray(image).save(folder / name)
    else:
        name = sample.name + sample.file.suffix
        shutil.copyfile(sample.file, folder / name)
    if sample.caption is not None:
        caption = (folder / name).with_suffix(request.dataset.caption_extension)
        caption.write_text(f"{sample.caption}\n", encoding="utf-8")
    fields = {key: getattr(sample, key) for key in ("origin", "time_s", "face", "crop", "caption")}
    file = os.path.relpath(sample.file, request.folder)
    return {"name": name, "file": file, **fields, "notes": list(dict.fromkeys(notes))}


def _write_weighted(picture: images.Pixels, sample: Sample, settings: Mask, folder: Path, name: str) -> str:
    """Write the weights as the image's alpha channel, which sd-scripts reads as loss weights; returns a note."""
    left, top = sample.crop[:2] if sample.crop else (0, 0)
    height, width = picture.shape[:2]
    if settings.masks:
        (file,) = mask.files(settings.masks)[Path(sample.origin).stem]
        raw = images.load_mask(file)[top : top + height, left : left + width]
        if not raw.any():
            what, remedy = f"the mask {file.name} is black in the crop: it would teach nothing", "correct the mask"
            raise InputError(Problem(what=what, where=str(file), remedy=remedy))
        weights = mask.scaled(raw, settings.mean)
    else:
        face = None if sample.face is None else tuple(np.subtract(sample.face, (left, top, left, top)))
        weights = mask.weights(settings, face, (width, height))
    alpha = Image.fromarray(np.rint(weights * 255).astype(np.uint8))
    image = Image.fromarray(picture)
    for kind in ("plain", "masks"):
        (folder / kind).mkdir(exist_ok=True)
    image.save(folder / "plain" / name)
    alpha.save(folder / "masks" / name)
    image.putalpha(alpha)
    image.save(folder / "images" / name)
    return f"mean weight {weights.mean():.2f}"
