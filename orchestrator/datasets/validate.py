"""Checks a dataset before it is trained on: every image is decoded, every caption is read."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from orchestrator import images
from orchestrator.config.recipe import Recipe
from orchestrator.config.schema import Dataset
from orchestrator.datasets import video
from orchestrator.errors import Problem, Severity
from orchestrator.files import read_bytes

_MAX_CAPTION_BYTES = 2**20


def validate_dataset(dataset: Dataset, where: str) -> list[Problem]:
    """The problems of a dataset. where: the settings file.

    For a recipe, only what does not depend on its source's images; these are checked as the source's.
    """
    key = f"datasets.{dataset.name}"
    listing = images.pictures(dataset.image_dir)
    if dataset.recipe:
        return list(_recipe(dataset.recipe, listing.pictures, where, key))
    if not listing.pictures:
        what = "contains no images" if dataset.image_dir.is_dir() else "there is no such folder"
        remedy = f"put the images into {dataset.image_dir}, or correct {key}.image_dir"
        return [Problem(what=what, where=where, key=f"{key}.image_dir", value=str(dataset.image_dir), remedy=remedy)]
    problems = list(listing.problems)
    if dataset.pictures and len(listing.pictures) != dataset.pictures:
        what, remedy = f"contains {len(listing.pictures)} images, not {dataset.pictures}", f"correct {key}.pictures"
        problems.append(_warning(what, dataset.image_dir, key, f"find what is missing, or {remedy}"))
    for picture in listing.pictures:
        problems += list(_image(picture, dataset, key)) or _transparency(picture, dataset, key)
    return problems


def _recipe(recipe: Recipe, pictures: Sequence[Path], where: str, key: str) -> Iterator[Problem]:
    if recipe.frames and not video.files(recipe.frames.videos):
        videos, suffixes = str(recipe.frames.videos), ", ".join(sorted(video.SUFFIXES))
        remedy = f"put videos there ({suffixes}), or correct {key}.frames.videos"
        yield Problem(what="contains no video", where=where, key=f"{key}.frames", value=videos, remedy=remedy)
    if recipe.choose and not recipe.frames and recipe.choose.n > len(pictures):
        what, remedy = f"asks for {recipe.choose.n} of {len(pictures)} images", f"n = {len(pictures)} or less"
        yield Problem(what=what, where=where, key=f"{key}.choose.n", remedy=remedy)
    for one, other in itertools.pairwise(sorted(pictures, key=lambda picture: picture.stem)):
        if one.stem == other.stem:
            what = f"{one.name} and {other.name} share a name and a caption: a recipe makes one image per name"
            yield Problem(what=what, where=str(one), key=key, remedy="rename one of the two, and its caption")


def _image(picture: Path, dataset: Dataset, key: str) -> Iterator[Problem]:
    """The first problem of an image or its caption."""
    caption = picture.with_suffix(dataset.caption_extension)

    def problem(what: str, remedy: str, path: Path = caption) -> Problem:
        return Problem(what=what, where=str(path), key=key, remedy=remedy)

    try:
        images.load(picture)
    except images.Unreadable as error:
        yield problem(f"cannot be read: {error.reason}", "replace the image or remove it", picture)
        return
    if images.has_exif_rotation(picture):
        what = "is rotated by its EXIF data, which sd-scripts does not read: it would be trained rotated"
        yield problem(what, "save it upright, for example with `mogrify -auto-orient`", picture)
    elif images.escapes_folder(caption):
        what = f"is a link to a file outside its folder ({caption.resolve()})"
        yield problem(what, "replace the link by the caption itself")
    elif not caption.exists() and not caption.is_symlink():
        if not dataset.trigger:
            what = f"has no caption {caption.name}, and the dataset has no trigger to use instead"
            yield problem(what, f"write the caption, or set {key}.trigger", picture)
    elif not caption.is_file():
        yield problem("is not a file, or a broken link", "replace it by the caption itself, or remove it")
    else:
        try:
            text = read_bytes(caption, max_bytes=_MAX_CAPTION_BYTES).decode("utf-8", errors="replace").strip()
        except OSError as error:
            yield problem(f"cannot be read: {error.strerror}", "write a short text file, or delete the file")
            return
        if "\ufffd" in text:
            yield problem("is not UTF-8: sd-scripts stops at such a caption", "save it as UTF-8")
        elif not text:
            yield problem("is empty: sd-scripts stops at an empty caption", "write the caption or delete the file")
        elif dataset.trigger not in text:
            yield replace(_warning("lacks the trigger", caption, key, "add it to the caption"), value=dataset.trigger)


def _transparency(picture: Path, dataset: Dataset, key: str) -> list[Problem]:
    """Recipes make transparent parts white, so their datasets would differ from this one in more than the recipe."""
    if dataset.subset.get("alpha_mask") or not images.has_transparency(picture):
        return []
    what = "has transparent parts: sd-scripts trains the colours hidden under them, recipes make them white"
    remedy = "save it without, for example with `mogrify -background white -alpha remove`"
    return [_warning(what, picture, key, remedy)]


def _warning(what: str, path: Path, key: str, remedy: str) -> Problem:
    return Problem(what=what, where=str(path), key=key, remedy=remedy, severity=Severity.WARNING)
