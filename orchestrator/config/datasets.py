"""The tables `[datasets.NAME]` of orchestrate.toml: a folder of images, a recipe over another dataset, or subsets."""

from dataclasses import dataclass, field, fields, replace

from pydantic import SkipValidation

from orchestrator.config.fields import Arguments, Count, Extension, Repeats, Table
from orchestrator.config.recipe import CaptionStyle, Recipe
from orchestrator.config.schema import PRESERVED, Dataset, SubsetKeys
from orchestrator.config.toml_reader import File, Place
from orchestrator.model import Params
from orchestrator.text import did_you_mean

_SET_ELSEWHERE = {
    "image_dir": "set image_dir of the dataset itself",
    "caption_extension": "set caption_extension of the dataset itself",
    "num_repeats": "set num_repeats of the dataset itself",
    "class_tokens": "set trigger of the dataset",
    "resolution": "set it in [arguments]: here it would override every grid",
    "batch_size": "set train_batch_size in [arguments]: here it would override every grid",
    **dict.fromkeys(
        ("enable_bucket", "skip_image_resolution", "validation_split", "validation_seed"), "set it in [arguments]"
    ),
}
_BY_SIZE = (
    "resolution", "train_batch_size", "skip_image_resolution", "enable_bucket", "min_bucket_reso", "max_bucket_reso",
    "bucket_reso_steps", "bucket_no_upscale",
)  # fmt: skip
"""What a table of `resolutions` may set: keys of sd-scripts' `[[datasets]]`."""
_STEPS = ("frames", "dedupe", "choose", "crop", "mask", "captions")
_MASKED: Params = {"alpha_mask": True, "resize_interpolation": "area"}
"""sd-scripts must not enlarge an image with weights in its alpha by its own Lanczos: Pillow multiplies the colours by
the alpha first, and pixels with weight 0 turn black."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DerivedDataset(Recipe):
    """A table with a `source`: a recipe, and what differs from the source."""

    num_repeats: Repeats | None = None
    pictures: Count | None = None
    subset: Arguments = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class FolderSubset(SubsetKeys, Dataset):
    """A subset: a folder of images."""


@dataclass(frozen=True, kw_only=True)
class DerivedSubset(SubsetKeys, DerivedDataset):
    """A subset: a recipe, or another dataset as it is."""

    trigger: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class SeveralSubsets(Table):
    """A table with `subsets`. The other keys are of each subset that does not set its own."""

    subsets: SkipValidation[list[FolderSubset | DerivedSubset]]
    trigger: str = ""
    caption_extension: Extension = ".txt"
    subset: Arguments = field(default_factory=dict)
    resolutions: tuple[Arguments, ...] = ()


def read(file: File) -> dict[str, Dataset]:
    """The datasets by name; what is wrong is noted in the file."""
    return _Reading(file).all()


class _Reading:
    """One pass over the tables; the source of a recipe is read before the recipe, wherever it is in the file."""

    def __init__(self, file: File) -> None:
        self._file = file
        self._places = {str(place[-1]): place for place in file.tables("datasets")}
        self._found: dict[str, Dataset | None] = {}

    def all(self) -> dict[str, Dataset]:
        found = {name: self._dataset(name, ()) for name in self._places}
        return {name: dataset for name, dataset in found.items() if dataset}

    def _dataset(self, name: str, waiting: tuple[str, ...]) -> Dataset | None:
        if name not in self._found:
            place, waiting = self._places[name], (*waiting, name)
            if self._file.has((*place, "subsets")):
                self._found[name] = self._several(name, place, waiting)
            elif self._file.has((*place, "source")):
                self._found[name] = self._derived(name, place, waiting, self._file.parse(place, DerivedDataset))
            else:
                self._found[name] = self._folder(name, place, self._file.parse(place, Dataset))
        return self._found[name]

    def _several(self, name: str, place: Place, waiting: tuple[str, ...]) -> Dataset | None:
        """None where one of the subsets is none. The folder and the trigger are those of the first training subset."""
        common: SeveralSubsets | None = self._file.parse(place, SeveralSubsets)
        self._check_subset(common, place)
        self._check_resolutions(common, place)
        places = self._file.tables(*map(str, place), "subsets", array=True)
        read = [self._part(f"{name}.subsets.{at[-1]}", at, waiting, common) for at in places] if common else []
        parts = tuple(part for part in read if part)
        if common and common.subsets == []:
            table = ".".join(map(str, (*place, "subsets")))
            self._note(place, "subsets", "must not be empty", "", f"add [[{table}]], or remove the key")
        if common is None or not parts or len(parts) < len(read):
            return None
        if all(part.is_prior for part in parts):
            what = "every subset preserves what the base model knows, and none teaches the persona"
            self._note(place, "subsets", what, "", "add a subset without is_reg and custom_attributes")
            return None
        main = next(part for part in parts if not part.is_prior)
        return Dataset(
            name=name,
            image_dir=main.image_dir,
            trigger=common.trigger or main.trigger,
            resolutions=common.resolutions,
            subsets=parts,
        )

    def _part(self, name: str, place: Place, waiting: tuple[str, ...], common: SeveralSubsets) -> Dataset | None:
        derived = self._file.has((*place, "source"))
        table: FolderSubset | DerivedSubset | None = self._file.parse(place, DerivedSubset if derived else FolderSubset)
        if isinstance(table, DerivedSubset):
            dataset = self._derived(name, place, waiting, table)
        else:
            dataset = self._folder(name, place, table)
            if dataset and not self._file.has((*place, "caption_extension")):
                dataset = replace(dataset, caption_extension=common.caption_extension)
        if table is None or dataset is None:
            return None
        own = {key.name: value for key in fields(SubsetKeys) if (value := getattr(table, key.name)) is not None}
        if attributes := own.pop("custom_attributes", None):
            own |= {PRESERVED: True} if attributes.diff_output_preservation else {}
        dataset = replace(dataset, subset={**common.subset, **dataset.subset, **own})
        if dataset.is_prior and table.trigger:
            what = (
                "a subset with is_reg or output preservation has a trigger, which would bind the trigger to the class"
            )
            self._note(
                place, "trigger", what, table.trigger, 'remove it, and write class_tokens = "woman", or another class'
            )
        trigger = "" if dataset.is_prior else table.trigger or dataset.trigger or common.trigger
        return replace(dataset, trigger=trigger)

    def _folder(self, name: str, place: Place, table: Dataset | None) -> Dataset | None:
        self._check_subset(table, place)
        self._check_resolutions(table, place)
        return (
            Dataset(**{one.name: getattr(table, one.name) for one in fields(Dataset)} | {"name": name})
            if table
            else None
        )

    def _derived(
        self, name: str, place: Place, waiting: tuple[str, ...], table: DerivedDataset | None
    ) -> Dataset | None:
        """None where the source is none."""
        self._check_subset(table, place)
        if not table:
            return None
        recipe = Recipe(**{part.name: getattr(table, part.name) for part in fields(Recipe)})
        source, base = recipe.source, None
        unchanged = recipe == Recipe(source=source) and not any(self._file.has((*place, step)) for step in _STEPS)
        if unchanged and not isinstance(table, DerivedSubset):
            steps = ", ".join(f"[datasets.{name}.{step}]" for step in _STEPS)
            self._note(place, "source", "is a recipe without steps", source, f"add {steps} or equal_steps = true")
        if source in waiting:
            what = f"is circular: {' -> '.join((*waiting, source))}"
            self._note(place, "source", what, source, "replace one of these sources by a dataset with an image_dir")
        elif source not in self._places:
            remedy = did_you_mean(source, self._places)
            self._note(place, "source", f"there is no [datasets.{source}]", source, remedy)
        else:
            base = self._dataset(source, waiting)
        if base and base.subsets:
            what, remedy = f"{source} has subsets, and a recipe has one source", "name the source of one of its subsets"
            self._note(place, "source", what, source, remedy)
        if base is None or base.subsets:
            return None
        if not unchanged:
            self._check(recipe, base, place)
        if recipe.captions:
            recipe = replace(recipe, captions=replace(recipe.captions, trigger=base.trigger))
        own = {key: value for key in ("num_repeats",) if (value := getattr(table, key))}
        masked = _MASKED if recipe.mask else {}
        captioned = recipe.captions.subset if recipe.captions else {}
        subset = {**base.subset, **masked, **captioned, **table.subset}
        if unchanged:  # a subset that is the source as it is
            return replace(base, name=name, subset=subset, **own)
        return replace(base, name=name, recipe=recipe, subset=subset, pictures=table.pictures, **own)

    def _check_subset(self, table: Dataset | DerivedDataset | SeveralSubsets | None, place: Place) -> None:
        for key in (table.subset if table else {}).keys() & _SET_ELSEWHERE.keys():
            self._note((*place, "subset"), key, f"{key} does not belong here", "", _SET_ELSEWHERE[key])

    def _check_resolutions(self, table: Dataset | SeveralSubsets | None, place: Place) -> None:
        if table and table.resolutions and "subsets" in place:
            self._note(place, "resolutions", "belongs to the dataset, not to a subset", "", "move it there")
        for at, one in enumerate(table.resolutions if table else ()):
            here = (*place, "resolutions", at)
            for key in one.keys() - set(_BY_SIZE):
                self._note(here, key, f"{key} is the same at every size", "", "set it in [arguments]")
            if "resolution" not in one:
                self._note(here, "resolution", "is missing", "", 'write resolution = "768,768"')

    def _check(self, recipe: Recipe, base: Dataset, place: Place) -> None:
        source, mask = recipe.source, recipe.mask
        if base.recipe and base.recipe.mask:
            what = f"{source} has weights in the alpha of its images, and a dataset made from it would lose them"
            self._note(place, "source", what, source, "use the source of that dataset, and repeat its mask here")
        if recipe.frames and not (recipe.frames.caption or base.trigger):
            what, remedy = "stills have no caption, and the dataset has no trigger", f"set datasets.{source}.trigger"
            self._note((*place, "frames"), "caption", what, "", f"write a caption, or {remedy}")
        captions = recipe.captions
        if captions and not base.trigger and (captions.replace_trigger or captions.style is CaptionStyle.TRIGGER):
            key = "replace_trigger" if captions.replace_trigger else "style"
            what, remedy = "the dataset has no trigger", f"set datasets.{source}.trigger"
            self._note((*place, "captions"), key, what, getattr(captions, key), remedy)
        if mask and "conditioning_data_dir" in base.subset:
            self._note(
                place, "mask", f"{source} has masks already (conditioning_data_dir)", "", "remove one of the two"
            )
        if mask and mask.masks:
            self._check_masks(recipe, base, place)
        if mask and (not max(mask.face, mask.body, mask.background) or mask.mean == 0):
            what = "no weight is above 0: the training would learn nothing"
            self._note((*place, "mask"), "face", what, "", "write face = 1.0")

    def _check_masks(self, recipe: Recipe, base: Dataset, place: Place) -> None:
        for key in ("face", "body", "background", "feather"):
            if self._file.has((*place, "mask", key)):
                self._note((*place, "mask"), key, "has no effect with a folder of masks", "", f"remove {key} or masks")
        if recipe.frames:
            self._note((*place, "mask"), "masks", "stills of videos have no masks", "", "remove frames or masks")
        above: Dataset | None = base
        while above and above.recipe:
            if above.recipe.crop or above.recipe.frames:
                what = f"{above.name} has other images than the folder for which the masks were made"
                self._note((*place, "mask"), "masks", what, "", "write its steps into this recipe, over its source")
            above = self._found.get(above.recipe.source)

    def _note(self, place: Place, key: str, what: str, value: str, remedy: str) -> None:
        self._file.note((*place, key), what, value=value, remedy=remedy)
