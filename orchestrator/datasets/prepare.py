"""Prepares datasets: copies below `runs/.datasets`, keyed by content, built once and shared by all runs.

sd-scripts writes caches beside the images that it reads, and the user may edit an image during a sweep. Therefore it
gets a copy, and the user's folder is only read.
"""

import contextlib
import os
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from orchestrator import datasets, files, images, scoring
from orchestrator.config.schema import Dataset, Settings
from orchestrator.datasets import build_process, builder, video
from orchestrator.errors import NotReady, Problem
from orchestrator.model import Point, PreparedDataset
from orchestrator.scoring import faces
from orchestrator.store import records
from orchestrator.store.hashes import HashCache, sha256_folder, sha256_json

_NOT_CROPPED = ("no face", "not cropped")


def sizes(dataset: Dataset) -> list[tuple[int, int]]:
    """Width and height of each readable image, from its header; none when there is no folder."""
    found = []
    for image in images.list_images(dataset.image_dir).paths:
        with contextlib.suppress(images.Unreadable):
            found.append(images.size(image))
    return found


def prepare_all(
    points: Iterable[Point], settings: Settings, hashes: HashCache, report: Callable[[str], None]
) -> dict[str, PreparedDataset]:
    """The datasets that these points train on, by name, built if missing. report: called with progress messages."""
    trained = [
        datasets.dataset_for_point(point.params, settings.datasets)
        for point in points
        if not point.is_baseline and "dataset" in point.params
    ]
    prepared = {}
    for dataset in {one.name: one for one in trained}.values():
        for part in dataset.parts:
            is_new = part.recipe and not (folder_of(part, settings, hashes) / "dataset.json").exists()
            if is_new and part.recipe:
                report(f"{part.name}: building from {part.recipe.source}")
                built = build(part, settings, hashes)
                report(_summary(dataset.name, records.read(built.folder.parent / "dataset.json")))
        prepared[dataset.name] = build(dataset, settings, hashes)
    return prepared


def _summary(name: str, record: Mapping[str, Any]) -> str:
    names = [one["name"] for one in record["made"] if any(note.startswith(_NOT_CROPPED) for note in one["notes"])]
    parts = [f"{len(record['pictures'])} images", f"{len(record['dropped'])} dropped"]
    parts += [f"without a face or not cropped: {', '.join(names)}"] if names else []
    return f"{record['name']}: {'; '.join(parts)}; details: `orchestrate dataset show {name}`"


def build(dataset: Dataset, settings: Settings, hashes: HashCache) -> PreparedDataset:
    """The dataset's folder below `runs/.datasets`, built completely if it is missing.

    Raises NotReady when the folder was changed since, or its recipe needs faces and there is no face pack; InputError
    when the recipe cannot be carried out.
    """
    if dataset.subsets:
        subsets = tuple(build(part, settings, hashes) for part in dataset.subsets)
        key = sha256_json([part.key for part in subsets])
        return PreparedDataset(folder=subsets[0].folder, key=key, subsets=subsets)
    folder = folder_of(dataset, settings, hashes)
    if not (folder / "dataset.json").exists():
        _make(dataset, folder, settings, hashes)
    record = records.parse(
        folder / "dataset.json",
        lambda found: {"content": found["content"], "key": str(found["key"]), "pictures": tuple(found["pictures"])},
    )
    if sha256_folder(folder / "images") != record["content"]:
        what = f"is no longer the copy of {dataset.name}: a file in it was changed, added or removed"
        raise NotReady(Problem(what=what, where=str(folder), remedy="delete this folder: it is built again"))
    plain = folder / "plain"
    return PreparedDataset(
        folder=folder / "images",
        key=record["key"],
        pictures=record["pictures"],
        unmasked_dir=plain if plain.is_dir() else None,
        is_prior=dataset.is_prior,
    )


def folder_of(dataset: Dataset, settings: Settings, hashes: HashCache) -> Path:
    """Its folder once it is built, with `images/` and `dataset.json`; for a recipe also intermediate files."""
    return settings.runs / ".datasets" / f"{dataset.name}-{_key(dataset, settings, hashes)[:16]}"


def _key(dataset: Dataset, settings: Settings, hashes: HashCache) -> str:
    """Hash of names and contents of images and captions; for a recipe, of everything that determines its result.

    Raises NotReady when the recipe needs faces and there is no face pack.
    """
    recipe, used = dataset.recipe, settings.scoring
    if recipe is None:
        return hashes.of_all(_files(dataset))
    choose = replace(recipe.choose, num_subsets=1) if recipe.choose else None
    parts: dict[str, Any] = {
        "rule": builder.RULE,
        "source": _key(settings.datasets[recipe.source], settings, hashes),
        "recipe": _without_new(asdict(replace(recipe, source="", frames=None, choose=choose))),
        "caption": [dataset.caption_extension, dataset.trigger],
    }
    if recipe.needs_faces:
        parts["faces"] = faces.inspect(used.pack, det_size=used.det_size).fingerprint
    if recipe.mask and recipe.mask.masks:
        parts["masks"] = hashes.of_all(images.list_images(recipe.mask.masks).paths)
    if recipe.frames:
        parts["frames"] = asdict(recipe.frames) | {"videos": hashes.of_all(video.files(recipe.frames.videos))}
        parts["references"] = hashes.of_all(images.list_images(used.references).paths)
    return sha256_json(parts)


def _without_new(recipe: dict[str, Any]) -> dict[str, Any]:
    """Without keys that older versions did not have, if they are unused, so that datasets that they built are found.

    Masks are hashed by their contents.
    """
    if recipe["mask"]:
        del recipe["mask"]["masks"]
    return {key: value for key, value in recipe.items() if key != "captions" or value}


def _make(dataset: Dataset, folder: Path, settings: Settings, hashes: HashCache) -> None:
    """Write a draft folder that is renamed when it is complete and on the disk."""
    draft = folder.with_name(f".{folder.name}.{os.getpid()}")
    shutil.rmtree(draft, ignore_errors=True)
    draft.parent.mkdir(parents=True, exist_ok=True)
    try:
        record = _build(dataset, draft, settings, hashes) if dataset.recipe else _copy(dataset, draft)
        for path in (draft / "images").iterdir():
            files.sync(path)
        content, key = sha256_folder(draft / "images"), _key(dataset, settings, hashes)
        records.write(draft / "dataset.json", {**record, "key": key, "content": content}, exact=True)
        try:
            draft.rename(folder)
        except OSError:
            if not (folder / "dataset.json").exists():  # otherwise another sweep has built the same content
                raise
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _copy(dataset: Dataset, draft: Path) -> dict[str, Any]:
    (draft / "images").mkdir(parents=True)
    for path in _files(dataset):
        shutil.copyfile(path, draft / "images" / path.name)
    pictures = [path.name for path in images.list_images(draft / "images").paths]
    return {"name": dataset.name, "source": str(dataset.image_dir), "pictures": pictures}


def _build(dataset: Dataset, draft: Path, settings: Settings, hashes: HashCache) -> dict[str, Any]:
    """Carry out the recipe in a child process, after its source is prepared."""
    assert dataset.recipe
    request = builder.Request(
        dataset=dataset,
        source=build(settings.datasets[dataset.recipe.source], settings, hashes).folder.parent,
        folder=draft,
        scoring=settings.scoring,
        cache=settings.runs / scoring.FACE_CACHE,
    )
    try:
        return build_process.build(request)
    finally:
        scoring.in_progress_path(draft).unlink(missing_ok=True)


def _files(dataset: Dataset) -> list[Path]:
    pictures = images.list_images(dataset.image_dir).paths
    captions = [image.with_suffix(dataset.caption_extension) for image in pictures]
    return [*pictures, *(caption for caption in captions if caption.is_file() and not images.escapes_folder(caption))]
