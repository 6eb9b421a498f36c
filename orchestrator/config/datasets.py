"""The tables `[datasets.NAME]` of orchestrate.toml: a folder of pictures, or a recipe over another dataset."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from enum import StrEnum
from typing import Any, TypeVar

from orchestrator.config.recipe import Choose, Crop, CropRegion, Dedupe, Frames, Mask, OnNoFace, Recipe
from orchestrator.config.schema import Dataset
from orchestrator.config.toml_reader import (
    ConversionError,
    Converter,
    Reader,
    boolean,
    did_you_mean,
    number,
    several,
    text,
    value,
    whole,
)
from orchestrator.model import Params

E = TypeVar("E", bound=StrEnum)

_ELSEWHERE = {
    "image_dir": "it is the dataset's own image_dir",
    "caption_extension": "it is the dataset's own caption_extension",
    "num_repeats": "it is the dataset's own num_repeats",
    "class_tokens": "it is the dataset's trigger",
    "resolution": "it belongs in [arguments]: here it would win over every grid in silence",
    "batch_size": "it is train_batch_size in [arguments]: here it would win over every grid in silence",
    "enable_bucket": "it belongs in [arguments]: here it would win over every grid in silence",
}
_MASKED: Params = {"alpha_mask": True, "resize_interpolation": "area"}
"""With weights in its alpha a picture must not be enlarged by sd-scripts' own Lanczos: Pillow multiplies the colours
by the alpha first, and what weighs 0 turns black."""


def read(tables: Mapping[str, Reader]) -> dict[str, Dataset]:
    """The datasets by name; mistakes are noted in their tables."""
    return _Reading(tables).all()


class _Reading:
    """One pass over the tables; a recipe's source is read before the recipe, wherever it stands in the file."""

    def __init__(self, tables: Mapping[str, Reader]) -> None:
        self._tables = tables
        self._found: dict[str, Dataset | None] = {}

    def all(self) -> dict[str, Dataset]:
        found = {name: self._dataset(name, ()) for name in self._tables}
        return {name: dataset for name, dataset in found.items() if dataset}

    def _dataset(self, name: str, waiting: tuple[str, ...]) -> Dataset | None:
        if name not in self._found:
            table = self._tables[name]
            source = table.given(source=text).get("source")
            made = _folder(name, table) if source is None else self._made(name, source, table, (*waiting, name))
            self._found[name] = made
        return self._found[name]

    def _made(self, name: str, source: str, table: Reader, waiting: tuple[str, ...]) -> Dataset | None:
        """None where the source is none."""
        recipe, subset = _recipe(source, table), _subset(table)
        given = table.given(num_repeats=whole(1), pictures=whole(1))
        if source in waiting:
            what = f"goes round in a circle: {' -> '.join((*waiting, source))}"
            table.note("source", what, value=source, remedy="name a dataset with an image_dir in the end")
            return None
        if source not in self._tables:
            what = f"there is no [datasets.{source}]"
            table.note("source", what, value=source, remedy=did_you_mean(source, self._tables))
            return None
        base = self._dataset(source, waiting)
        if base is None:
            return None
        _check(recipe, base, table)
        masked = {**base.subset, **(_MASKED if recipe.mask else {}), **subset}
        return replace(base, name=name, recipe=recipe, subset=masked, **{"pictures": None, **given})


def _folder(name: str, table: Reader) -> Dataset:
    return Dataset(
        name=name,
        image_dir=table.require("image_dir", table.path),
        subset=_subset(table),
        **table.given(caption_extension=_extension, num_repeats=whole(1), trigger=text, pictures=whole(1)),
    )


def _subset(table: Reader) -> Params:
    subset = table.section("subset").arguments(value)
    for key in subset.keys() & _ELSEWHERE.keys():
        table.section("subset").note(key, f"{key} does not belong here", remedy=_ELSEWHERE[key])
    return subset


def _recipe(source: str, table: Reader) -> Recipe:
    parts: dict[str, Callable[[Reader], Any]] = {
        "frames": _frames,
        "dedupe": _dedupe,
        "choose": _choose,
        "crop": _crop,
        "mask": _mask,
    }
    given = table.given(**dict.fromkeys(parts, _table), equal_steps=boolean)
    read: dict[str, Any] = {
        key: parts[key](table.section(key)) if key in parts else kept for key, kept in given.items()
    }
    if not read:
        remedy = f"add {', '.join(f'[datasets.NAME.{key}]' for key in parts)} or equal_steps = true"
        table.note("source", "does nothing to its source", value=source, remedy=remedy)
    return Recipe(source=source, **read)


def _frames(table: Reader) -> Frames:
    return Frames(
        videos=table.require("videos", table.path),
        **table.given(
            window_s=number(above=0),
            similarity=_between(-1, 1),
            duplicates=whole(0),
            share=_between(0, 0.95, inclusive=False),
            smallest_face=whole(1),
            caption=text,
        ),
    )


def _dedupe(table: Reader) -> Dedupe:
    return Dedupe(**table.given(distance=whole(0), mirror=boolean))


def _choose(table: Reader) -> Choose:
    return Choose(n=table.require("n", whole(1)), **table.given(num_subsets=whole(1)))


def _crop(table: Reader) -> Crop:
    return Crop(
        **table.given(
            crop_region=_one_of(CropRegion),
            padding=_between(0, 5),
            smallest=whole(16),
            share=_between(0, 1, inclusive=False),
            keep_original=boolean,
            on_no_face=_one_of(OnNoFace),
            drop_words=several(text),
        )
    )


def _mask(table: Reader) -> Mask:
    weight = _between(0, 1)
    mask = Mask(**table.given(face=weight, body=weight, background=weight, feather=_between(0, 2), mean=weight))
    if not max(mask.face, mask.body, mask.background) or mask.mean == 0:
        table.note("face", "nothing has a weight above 0, and nothing would be learned", remedy="face = 1.0")
    return mask


def _check(recipe: Recipe, base: Dataset, table: Reader) -> None:
    if base.recipe and base.recipe.mask:
        what = f"{recipe.source} has weights in its pictures' alpha, and what is made from it would lose them"
        table.note("source", what, value=recipe.source, remedy="weight last: take its source, and repeat its mask here")
    if recipe.frames and not (recipe.frames.caption or base.trigger):
        remedy = f"write it, or set datasets.{recipe.source}.trigger"
        table.section("frames").note("caption", "stills have no caption, and the dataset no trigger", remedy=remedy)
    if recipe.mask and "conditioning_data_dir" in base.subset:
        what = f"{recipe.source} has masks of its own in conditioning_data_dir"
        table.note("mask", what, remedy="leave one of the two out")


def _table(raw: Any) -> Any:
    """Whatever a table is; `section` says what is wrong with anything else."""
    return raw


def _extension(raw: Any) -> str:
    if not text(raw).startswith(".") or raw == "." or "/" in raw or "\0" in raw:
        raise ConversionError("is not a file extension", "write it with its dot, like .txt")
    return str(raw)


def _one_of(kind: type[E]) -> Converter[E]:
    def convert(raw: object) -> E:
        if raw not in list(kind):
            raise ConversionError("is not known here", f"write {' or '.join(kind)}")
        return kind(str(raw))

    return convert


def _between(least: float, most: float, *, inclusive: bool = True) -> Converter[float]:
    """Numbers in this range; without its lower end unless `inclusive`."""

    def convert(raw: object) -> float:
        if isinstance(raw, bool) or not isinstance(raw, int | float):
            raise ConversionError("must be a number", "write it without quotes")
        if not least <= raw <= most or (raw == least and not inclusive):
            raise ConversionError(
                f"must be {'from' if inclusive else 'above'} {least:g} to {most:g}", f"write {most:g} or less"
            )
        return float(raw)

    return convert
