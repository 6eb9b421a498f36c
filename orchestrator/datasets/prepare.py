"""PREPARE: a named dataset becomes a folder of ours, keyed by its content, built once, shared by every run.

sd-scripts drops caches beside the pictures it reads, and the owner may edit a picture in the middle of a sweep: so it
is given a copy, and the owner's folder is only ever read.
"""

import contextlib
import itertools
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from orchestrator import datasets, files, images, scoring
from orchestrator.config.recipe import Recipe
from orchestrator.config.schema import Dataset, Settings
from orchestrator.datasets import build_process, builder, identity, video
from orchestrator.errors import NotReady, Problem, Severity
from orchestrator.model import Point, PreparedDataset
from orchestrator.store import records
from orchestrator.store.hashes import HashCache, sha256_folder


def validate_dataset(dataset: Dataset, where: str) -> list[Problem]:
    """What is wrong with a dataset before it is trained on; every picture is decoded.

    Of a recipe only what can be told without its source's pictures, which are the source's to survey.
    """
    key = f"datasets.{dataset.name}"
    listing = images.pictures(dataset.image_dir)
    if dataset.recipe:
        return list(_recipe(dataset.recipe, listing.pictures, where, key))
    if not listing.pictures:
        what = "holds no pictures" if dataset.image_dir.is_dir() else "there is no such folder"
        remedy = f"put the pictures into {dataset.image_dir}, or correct {key}.image_dir"
        return [Problem(what=what, where=where, key=f"{key}.image_dir", value=str(dataset.image_dir), remedy=remedy)]
    problems = list(listing.problems)
    if dataset.pictures and not dataset.recipe and len(listing.pictures) != dataset.pictures:
        what = f"holds {len(listing.pictures)} pictures, not {dataset.pictures}"
        problems.append(_warning(what, dataset.image_dir, key, "", f"look what is missing, or mend {key}.pictures"))
    for picture in listing.pictures:
        problems += _picture(picture, dataset, key) or _alpha(picture, dataset, key)
    return problems


def with_ancestors(names: Iterable[str], known: Mapping[str, Dataset]) -> list[str]:
    """The datasets of these names, and those that they are made from."""
    found: dict[str, None] = {}
    left = list(names)
    while left:
        name = left.pop(0)
        recipe = known[name].recipe
        found[name] = None
        left += [recipe.source] if recipe else []
    return list(found)


def _recipe(recipe: Recipe, pictures: Sequence[Path], where: str, key: str) -> Iterator[Problem]:
    if recipe.frames and not video.files(recipe.frames.videos):
        remedy = f"put videos there ({', '.join(sorted(video.SUFFIXES))}), or correct {key}.frames.videos"
        yield Problem(
            what="holds no video", where=where, key=f"{key}.frames", value=str(recipe.frames.videos), remedy=remedy
        )
    if recipe.choose and not recipe.frames and recipe.choose.n > len(pictures):
        what, remedy = f"asks for {recipe.choose.n} of {len(pictures)} pictures", f"write {len(pictures)} or less"
        yield Problem(what=what, where=where, key=f"{key}.choose.n", remedy=remedy)
    for one, other in itertools.pairwise(sorted(pictures, key=lambda picture: picture.stem)):
        if one.stem == other.stem:
            what = f"and {other.name} share a name and a caption: a recipe makes one picture of each name"
            yield Problem(what=what, where=str(one), key=key, remedy="rename one of the two, and its caption")


def _picture(picture: Path, dataset: Dataset, key: str) -> list[Problem]:
    try:
        images.load(picture)
    except images.Unreadable as error:
        what, remedy = f"cannot be read: {error.reason}", "replace the picture or take it out"
        return [Problem(what=what, where=str(picture), key=key, remedy=remedy)]
    if images.has_exif_rotation(picture):
        what = "lies on its side or head, which its EXIF says and sd-scripts does not read: it would be trained so"
        return [Problem(what=what, where=str(picture), key=key, remedy="save it upright: `mogrify -auto-orient` does")]
    caption = _caption(picture, dataset)
    if images.escapes_folder(caption):
        what, remedy = "is a link that leads out of its folder", "put the caption itself there"
        return [Problem(what=what, where=str(caption), key=key, value=str(caption.resolve()), remedy=remedy)]
    if (caption.exists() or caption.is_symlink()) and not caption.is_file():
        what, remedy = "is no file, or a link that leads nowhere", "put the caption itself there, or take it away"
        return [Problem(what=what, where=str(caption), key=key, remedy=remedy)]
    if caption.exists():
        text = caption.read_bytes().decode("utf-8", errors="replace").strip()
        if "\ufffd" in text:
            what = "is not UTF-8: sd-scripts stops at such a caption"
            return [Problem(what=what, where=str(caption), key=key, remedy="save it as UTF-8")]
        if not text:
            what = "is empty: sd-scripts stops at an empty caption"
            return [Problem(what=what, where=str(caption), key=key, remedy="write the caption or delete the file")]
        if dataset.trigger and dataset.trigger not in text:
            what = "lacks the trigger"
            return [_warning(what, caption, key, dataset.trigger, "add it to the caption")]
    elif not dataset.trigger:
        what = f"has no caption {caption.name}, and the dataset has no trigger to use instead"
        return [Problem(what=what, where=str(picture), key=key, remedy=f"write it, or set {key}.trigger")]
    return []


def _alpha(picture: Path, dataset: Dataset, key: str) -> list[Problem]:
    """An arm that is made by a recipe has white there, and would differ from this one in more than the recipe."""
    if dataset.subset.get("alpha_mask") or not images.has_transparency(picture):
        return []
    what = "has transparent parts: sd-scripts trains the colours hidden under them, recipes lay them over white"
    return [_warning(what, picture, key, "", "save it without: `mogrify -background white -alpha remove` does")]


def _warning(what: str, path: Path, key: str, value: str, remedy: str) -> Problem:
    return Problem(what=what, where=str(path), key=key, value=value, remedy=remedy, severity=Severity.WARNING)


def sizes(dataset: Dataset) -> list[tuple[int, int]]:
    """Width and height of each picture that can be read, from its header alone; none where there is no folder."""
    found = []
    for picture in images.pictures(dataset.image_dir).pictures:
        with contextlib.suppress(images.Unreadable):
            found.append(images.size(picture))
    return found


def key_of(dataset: Dataset, used: Settings, hashes: HashCache) -> str:
    """Hash of the pictures and captions, names and bytes; of a recipe, of all that it makes its pictures from."""
    if dataset.recipe is None:
        return hashes.of_all(_files(dataset))
    source = key_of(used.datasets[dataset.recipe.source], used, hashes)
    return identity.key_of(dataset, source, used.scoring, hashes)


def prepare_all(
    points: Iterable[Point], used: Settings, hashes: HashCache, say: Callable[[str], None]
) -> dict[str, PreparedDataset]:
    """What these points train on, by name, built where it is not there; says so, and names the faces that were lost."""
    trained = [datasets.dataset_for_point(point.params, used.datasets) for point in points if not point.is_baseline]
    prepared = {}
    for dataset in {one.name: one for one in trained}.values():
        fresh = not (folder_of(dataset, used, hashes) / "dataset.json").exists()
        if fresh and dataset.recipe:
            say(f"{dataset.name}: is built from {dataset.recipe.source}")
        prepared[dataset.name] = build(dataset, used, hashes)
        if fresh and dataset.recipe:
            say(_summary(records.read(prepared[dataset.name].folder.parent / "dataset.json")))
    return prepared


def _summary(record: Mapping[str, Any]) -> str:
    lost = [one["name"] for one in record["made"] if any(note.startswith(_LOST) for note in one["notes"])]
    parts = [f"{len(record['pictures'])} pictures", f"{len(record['dropped'])} dropped"]
    parts += [f"without a face or not cropped: {', '.join(lost)}"] if lost else []
    return f"{record['name']}: {'; '.join(parts)}; `orchestrate dataset show` shows them"


_LOST = ("no face", "not cropped")


def build(dataset: Dataset, used: Settings, hashes: HashCache) -> PreparedDataset:
    """The dataset's folder below `runs/.datasets`, made if it is not there; whole or not at all.

    Raises NotReady when it is no longer what it was made as, or without the faces that its recipe needs, and
    InputError where the recipe cannot be carried out.
    """
    key, folder = key_of(dataset, used, hashes), folder_of(dataset, used, hashes)
    if not (folder / "dataset.json").exists():
        _make(dataset, key, folder, used, hashes)
    record = records.read(folder / "dataset.json")
    if sha256_folder(folder / "images") != record["content"]:
        what = f"is not the copy of {dataset.name} that it should be: a file in it was changed, added or removed"
        raise NotReady(Problem(what=what, where=str(folder), remedy="delete this folder: it is made again"))
    plain = folder / "plain"
    return PreparedDataset(
        folder=folder / "images",
        key=record["key"],
        pictures=tuple(record["pictures"]),
        unmasked_dir=plain if plain.is_dir() else None,
    )


def folder_of(dataset: Dataset, used: Settings, hashes: HashCache) -> Path:
    """Where it lies once it is built: `images/` and `dataset.json`, and of a recipe what it was made with."""
    return used.runs / ".datasets" / f"{dataset.name}-{key_of(dataset, used, hashes)[:16]}"


def _make(dataset: Dataset, key: str, folder: Path, used: Settings, hashes: HashCache) -> None:
    """In a draft that becomes the folder when all of it is on the disk."""
    draft = folder.with_name(f".{folder.name}.{os.getpid()}")
    shutil.rmtree(draft, ignore_errors=True)
    draft.parent.mkdir(parents=True, exist_ok=True)
    try:
        record = _copied(dataset, draft) if dataset.recipe is None else _cooked(dataset, draft, used, hashes)
        for path in (draft / "images").iterdir():
            files.sync(path)
        records.write(draft / "dataset.json", {**record, "key": key, "content": sha256_folder(draft / "images")})
        _publish(draft, folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _publish(draft: Path, folder: Path) -> None:
    try:
        draft.rename(folder)
    except OSError:
        if not (folder / "dataset.json").exists():  # else another sweep built the same content meanwhile
            raise


def _copied(dataset: Dataset, draft: Path) -> dict[str, Any]:
    (draft / "images").mkdir(parents=True)
    for path in _files(dataset):
        shutil.copyfile(path, draft / "images" / path.name)
    pictures = [path.name for path in images.pictures(draft / "images").pictures]
    return {"name": dataset.name, "source": str(dataset.image_dir), "pictures": pictures}


def _cooked(dataset: Dataset, draft: Path, used: Settings, hashes: HashCache) -> dict[str, Any]:
    """By the recipe, in a child; its source is prepared first."""
    assert dataset.recipe
    source = build(used.datasets[dataset.recipe.source], used, hashes)
    try:
        return build_process.build(
            builder.Request(
                dataset=dataset,
                source=source.folder.parent,
                folder=draft,
                scoring=used.scoring,
                cache=used.runs / scoring.FACE_CACHE,
            )
        )
    finally:
        scoring.in_progress_path(draft).unlink(missing_ok=True)


def _files(dataset: Dataset) -> list[Path]:
    pictures = images.pictures(dataset.image_dir).pictures
    captions = [_caption(picture, dataset) for picture in pictures]
    return [*pictures, *(caption for caption in captions if caption.is_file() and not images.escapes_folder(caption))]


def _caption(picture: Path, dataset: Dataset) -> Path:
    return picture.with_suffix(dataset.caption_extension)
