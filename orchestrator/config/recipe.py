"""Recipes: how a dataset is made from another. docs/dataset-recipes.md explains the keys of `[datasets.NAME]`."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated

from pydantic import Field

from orchestrator.config.fields import Count, FilePath, Flag, Internal, Natural, Number, Positive, Table, Unit


class CropRegion(StrEnum):
    """What a crop shows."""

    FACE = "face"
    HEAD_AND_SHOULDERS = "head-and-shoulders"


class OnNoFace(StrEnum):
    """What to do with an image that cannot be cropped: no face, or too few pixels."""

    KEEP = "keep"
    DROP = "drop"


@dataclass(frozen=True, slots=True, kw_only=True)
class Frames(Table):
    """Stills from videos. `videos`: a file or a folder. `caption`: of every still; empty: the dataset's trigger.

    similarity: the least cosine to the references' centroid. duplicates: bits of 64 in which two stills must differ.
    share: the largest share of stills in the dataset. smallest_face: pixels.
    """

    videos: FilePath
    window_s: Positive = 1.0
    similarity: Annotated[Number, Field(ge=-1, le=1)] = 0.4
    duplicates: Natural = 8
    share: Annotated[Number, Field(gt=0, le=0.95)] = 0.5
    smallest_face: Count = 96
    caption: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dedupe(Table):
    """Keeps one of images whose hashes differ in at most `distance` of 64 bits; `mirror`: also mirrored ones."""

    distance: Natural = 4
    mirror: Flag = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Choose(Table):
    """`n` images, drawn in one of `num_subsets` ways; the seed of a run selects which (`draw`)."""

    n: Count
    num_subsets: Count = 1
    draw: Annotated[int, Internal()] = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Crop(Table):
    """Cut to the largest face. `padding` is in sides of the face's box; `smallest`: pixels of a crop's shorter side.

    share: of the images that are cropped; keep_original: crops are added to the originals. drop_words: parts of a
    crop's caption between commas that contain one of these are removed.
    """

    crop_region: CropRegion = CropRegion.FACE
    padding: Annotated[Number, Field(ge=0, le=5)] = 0.5
    smallest: Annotated[Count, Field(ge=16)] = 512
    share: Annotated[Number, Field(gt=0, le=1)] = 1.0
    keep_original: Flag = False
    on_no_face: OnNoFace = OnNoFace.KEEP
    drop_words: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Mask(Table):
    """Weights of the loss, 0..1. `feather`: width of the soft edge, in sides of the face's box.

    masks: a folder of images with these weights, instead of the other keys: white counts fully, black not at all.
    mean: the weights of each image are scaled to this mean; None: they are not scaled.
    """

    masks: FilePath | None = None
    face: Unit = 1.0
    body: Unit = 0.5
    background: Unit = 0.2
    feather: Annotated[Number, Field(ge=0, le=2)] = 0.2
    mean: Unit | None = None


class CaptionStyle(StrEnum):
    """Which parts of the captions are used."""

    ALL = "all"
    TRIGGER = "trigger"
    TAGS = "tags"
    SENTENCES = "sentences"


@dataclass(frozen=True, slots=True, kw_only=True)
class Captions(Table):
    """Captions made from the source's. Parts are tags, between commas, or sentences.

    style: the parts to use. keep_words, drop_words: only parts with one of these words, or without all of them; the
    part with the trigger stays. replace_trigger: what to write in its place. prefix: before every caption. shuffle: the
    parts at each use, after the one with the trigger. dropout: share of the uses without a caption.
    """

    style: CaptionStyle = CaptionStyle.ALL
    keep_words: tuple[str, ...] = ()
    drop_words: tuple[str, ...] = ()
    replace_trigger: str = ""
    prefix: str = ""
    shuffle: Flag = False
    dropout: Unit = 0.0
    trigger: Annotated[str, Internal()] = ""

    @property
    def subset(self) -> dict[str, bool | int | float]:
        """What the trainer does with them: keys of sd-scripts' `[[datasets.subsets]]`."""
        shuffled = {"shuffle_caption": True, "keep_tokens": 1} if self.shuffle else {}
        return {**shuffled, **({"caption_dropout_rate": self.dropout} if self.dropout else {})}


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe(Table):
    """What is done to the images of the dataset `source`, in this order.

    equal_steps: images are repeated until an epoch is as long as the source's.
    """

    source: str
    frames: Frames | None = None
    dedupe: Dedupe | None = None
    choose: Choose | None = None
    crop: Crop | None = None
    mask: Mask | None = None
    captions: Captions | None = None
    equal_steps: Flag = False

    @property
    def needs_faces(self) -> bool:
        return bool(self.frames or self.crop or (self.mask and not self.mask.masks))
