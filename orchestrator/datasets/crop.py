"""Cuts pictures to a face, and says of each what became of it."""

from collections.abc import Sequence
from dataclasses import replace

from orchestrator import images
from orchestrator.config.recipe import Crop, CropRegion, OnNoFace
from orchestrator.datasets import captions, choose
from orchestrator.datasets.samples import Box, DroppedSample, Sample, SampleSet, See, drop, with_faces

# In sides of the face's box, which reaches from forehead to chin: left and right, above, below.
_REACH = {CropRegion.FACE: (0.0, 0.0, 0.0), CropRegion.HEAD_AND_SHOULDERS: (0.75, 0.25, 1.25)}


def apply(crop: Crop, batch: SampleSet, see: See, *, trigger: str) -> SampleSet:
    """A share of the pictures cut, in their places or beside them."""
    chosen = choose.order(batch.pieces, draw=1)[: round(crop.share * len(batch.pieces))]
    names = {piece.name for piece in chosen}
    kept = [piece for piece in batch.pieces if crop.keep_original or piece.name not in names]
    dropped: list[DroppedSample] = []
    for piece in with_faces(chosen, see):
        made = _cut(piece, crop, trigger)
        if made is None:
            _lose(piece, crop, kept, dropped)
        else:
            kept.append(replace(made, name=f"{made.name}-face") if crop.keep_original else made)
    return batch.keep(kept, dropped)


def _cut(piece: Sample, crop: Crop, trigger: str) -> Sample | None:
    """None where there is nothing to cut to, or where it would come out too small."""
    if piece.face is None:
        return None
    size = images.size(piece.file)
    if min(size) < crop.smallest:
        return None
    box = around(piece.face, size, crop)
    if box == (0, 0, *size):
        return None if crop.keep_original else piece.with_note("the whole picture: the face fills it")
    caption = None if piece.caption is None else captions.without(piece.caption, crop.drop_words, trigger=trigger)
    return replace(piece, crop=box, caption=caption or piece.caption)


def _lose(piece: Sample, crop: Crop, kept: list[Sample], dropped: list[DroppedSample]) -> None:
    """With `beside` the original is there anyway, and there is just no crop of it."""
    why = _why(piece, crop)
    if crop.on_no_face is OnNoFace.DROP and not crop.keep_original:
        dropped.append(drop(piece, why))
    elif crop.keep_original:
        dropped.append(drop(piece, f"no crop beside it: {why}"))
    else:
        kept.append(replace(piece, notes=(*(note for note in piece.notes if note != why), f"not cropped: {why}")))


def _why(piece: Sample, crop: Crop) -> str:
    if piece.face is None:
        return piece.notes[-1]
    smaller = min(images.size(piece.file))
    if smaller < crop.smallest:
        return f"its shorter side has {smaller} of {crop.smallest} pixels"
    return "the face fills it"


def around(face: Sequence[float], size: tuple[int, int], crop: Crop) -> Box:
    """What is kept of a picture of this size: a square, widened to `smallest`, moved and cut to lie in the picture."""
    left, top, right, bottom = face
    unit = max(right - left, bottom - top)
    beside, above, below = (reach + crop.padding for reach in _REACH[crop.crop_region])
    width, height = unit * (1 + 2 * beside), unit * (1 + above + below)
    middle = (left + right) / 2, (top + bottom) / 2 + unit * (below - above) / 2
    wider = max(1.0, crop.smallest / min(width, height))
    across = _span(middle[0], width * wider, size[0])
    down = _span(middle[1], height * wider, size[1])
    return across[0], down[0], across[1], down[1]


def _span(middle: float, length: float, most: int) -> tuple[int, int]:
    whole = min(round(length), most)
    start = min(max(round(middle - whole / 2), 0), most - whole)
    return start, start + whole
