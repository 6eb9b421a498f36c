"""PREPARE: a named dataset becomes a folder of ours, keyed by its content, built once, shared by every run.

sd-scripts drops caches beside the pictures it reads, and the owner may edit a picture in the middle of a sweep: so it
is given a copy, and the owner's folder is only ever read.
"""

import contextlib
import os
import shutil
from dataclasses import replace
from pathlib import Path

from orchestrator import media, provenance, shim, store
from orchestrator.errors import NotReady, Problem, Severity
from orchestrator.model import Dataset, Prepared


def survey(dataset: Dataset, where: str) -> list[Problem]:
    """What is wrong with a dataset before it is trained on; every picture is decoded."""
    key = f"datasets.{dataset.name}"
    listing = media.pictures(dataset.image_dir)
    if not listing.pictures:
        what = "holds no pictures" if dataset.image_dir.is_dir() else "there is no such folder"
        remedy = f"put the pictures into {dataset.image_dir}, or correct {key}.image_dir"
        return [Problem(what=what, where=where, key=f"{key}.image_dir", value=str(dataset.image_dir), remedy=remedy)]
    problems = list(listing.problems)
    if dataset.pictures and len(listing.pictures) != dataset.pictures:
        what = f"holds {len(listing.pictures)} pictures, not {dataset.pictures}"
        problems.append(_warning(what, dataset.image_dir, key, "", f"look what is missing, or mend {key}.pictures"))
    for picture in listing.pictures:
        problems += _picture(picture, dataset, key)
    return problems


def _picture(picture: Path, dataset: Dataset, key: str) -> list[Problem]:
    try:
        media.load(picture)
    except media.Unreadable as error:
        what, remedy = f"cannot be read: {error.reason}", "replace the picture or take it out"
        return [Problem(what=what, where=str(picture), key=key, remedy=remedy)]
    caption = _caption(picture, dataset)
    if _leads_out(caption):
        what, remedy = "is a link that leads out of its folder", "put the caption itself there"
        return [Problem(what=what, where=str(caption), key=key, value=str(caption.resolve()), remedy=remedy)]
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


def _warning(what: str, path: Path, key: str, value: str, remedy: str) -> Problem:
    return Problem(what=what, where=str(path), key=key, value=value, remedy=remedy, severity=Severity.WARNING)


def sizes(dataset: Dataset) -> list[tuple[int, int]]:
    """Width and height of each picture that can be read, from its header alone; none where there is no folder."""
    found = []
    for picture in media.pictures(dataset.image_dir).pictures:
        with contextlib.suppress(media.Unreadable):
            found.append(media.size(picture))
    return found


def key_of(dataset: Dataset, hashes: provenance.Hashes) -> str:
    """Hash of the pictures and captions: names and bytes."""
    return hashes.of_all(_files(dataset))


def build(dataset: Dataset, runs: Path, hashes: provenance.Hashes) -> Prepared:
    """The dataset's folder below `runs/.datasets`, made if it is not there; whole or not at all.

    Raises NotReady when it is no longer what it was made as.
    """
    key = key_of(dataset, hashes)
    folder = runs / ".datasets" / f"{dataset.name}-{key[:16]}"
    if not (folder / "dataset.json").exists():
        _copy(dataset, key, folder)
    if key_of(replace(dataset, image_dir=folder / "images"), hashes) != key:
        what = f"is not the copy of the dataset {dataset.name} that it should be: a file in it was changed or removed"
        raise NotReady(Problem(what=what, where=str(folder), remedy="delete this folder: it is made again"))
    record = store.read(folder / "dataset.json")
    return Prepared(folder=folder / "images", key=record["key"], pictures=tuple(record["pictures"]))


def _copy(dataset: Dataset, key: str, folder: Path) -> None:
    building = folder.with_name(f".{folder.name}.{os.getpid()}")
    shutil.rmtree(building, ignore_errors=True)
    (building / "images").mkdir(parents=True)
    for path in _files(dataset):
        shutil.copyfile(path, building / "images" / path.name)
        shim.sync(building / "images" / path.name)
    pictures = [path.name for path in media.pictures(building / "images").pictures]
    source = str(dataset.image_dir)
    store.write(building / "dataset.json", {"name": dataset.name, "key": key, "source": source, "pictures": pictures})
    try:
        building.rename(folder)
    except OSError:
        shutil.rmtree(building)  # another sweep built the same content meanwhile
        if not (folder / "dataset.json").exists():
            raise


def _files(dataset: Dataset) -> list[Path]:
    pictures = media.pictures(dataset.image_dir).pictures
    captions = [_caption(picture, dataset) for picture in pictures]
    return [*pictures, *(caption for caption in captions if caption.exists() and not _leads_out(caption))]


def _leads_out(caption: Path) -> bool:
    return caption.is_symlink() and not caption.resolve().is_relative_to(caption.parent.resolve())


def _caption(picture: Path, dataset: Dataset) -> Path:
    return picture.with_suffix(dataset.caption_extension)
