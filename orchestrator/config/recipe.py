"""How a dataset is made from another: the tables under `[datasets.NAME]`, typed. docs/treatments.md has the keys."""

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path


class CropRegion(StrEnum):
    """What a crop shows."""

    FACE = "face"
    HEAD_AND_SHOULDERS = "head-and-shoulders"


class OnNoFace(StrEnum):
    """What becomes of a picture that cannot be cropped: no face, or too few pixels."""

    KEEP = "keep"
    DROP = "drop"


@dataclass(frozen=True, slots=True, kw_only=True)
class Frames:
    """Stills from videos. `videos`: a file or a folder; `caption`: of every still, the dataset's trigger when empty.

    similarity: cosine to the references' centroid, below it a still is another person or too poor. duplicates: bits of
    64 that two stills must differ by. share: of the dataset that stills make up at most. smallest_face: pixels.
    """

    videos: Path
    window_s: float = 1.0
    similarity: float = 0.4
    duplicates: int = 8
    share: float = 0.5
    smallest_face: int = 96
    caption: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dedupe:
    """Pictures that differ in at most `distance` of 64 bits are one; `mirror`: also when one is turned around."""

    distance: int = 4
    mirror: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Choose:
    """`n` pictures. `draws`: how many different choices there are; a run takes the one that its seed falls to."""

    n: int
    num_subsets: int = 1
    draw: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Crop:
    """Cut to the largest face. `padding` is in sides of the face's box; `smallest`: pixels of a crop's shorter side.

    share: of the pictures that are cropped; beside: the originals stay, the crops are added. drop_words: parts of a
    crop's caption between commas that hold one of these are left out.
    """

    crop_region: CropRegion = CropRegion.FACE
    padding: float = 0.5
    smallest: int = 512
    share: float = 1.0
    keep_original: bool = False
    on_no_face: OnNoFace = OnNoFace.KEEP
    drop_words: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Mask:
    """Weights of the loss, 0..1. `feather`: width of the soft edge, in sides of the face's box.

    mean: all weights of a picture are scaled until this is their mean; as they are written when None.
    """

    face: float = 1.0
    body: float = 0.5
    background: float = 0.2
    feather: float = 0.2
    mean: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """What is done to the pictures of the dataset `source`, in this order.

    equal_steps: pictures are repeated until an epoch is as long as the source's.
    """

    source: str
    frames: Frames | None = None
    dedupe: Dedupe | None = None
    choose: Choose | None = None
    crop: Crop | None = None
    mask: Mask | None = None
    equal_steps: bool = False

    @property
    def needs_faces(self) -> bool:
        return bool(self.frames or self.crop or self.mask)
