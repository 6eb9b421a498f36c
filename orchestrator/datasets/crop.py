"""Crops images to a face, and records for each what was done."""

from collections.abc import Sequence
from dataclasses import replace

from orchestrator import images
from orchestrator.config.recipe import Crop, CropRegion, OnNoFace
from orchestrator.datasets import captions, choose
from orchestrator.datasets.samples import Box, DroppedSample, FindFaces, Sample, SampleSet, drop, with_faces

# Beside, above and below the face's box, in sides of the box, which reaches from forehead to chin.
_MARGINS = {CropRegion.FACE: (0.0, 0.0, 0.0), CropRegion.HEAD_AND_SHOULDERS: (0.75, 0.25, 1.25)}


def apply(crop: Crop, batch: SampleSet, find: FindFaces, *, trigger: str) -> SampleSet:
    """A share of the images cropped; crops replace the originals, or are added with `keep_original`."""
    chosen = choose.order(batch.samples, draw=1)[: round(crop.share * len(batch.samples))]
    names = {sample.name for sample in chosen}
    kept = [sample for sample in batch.samples if crop.keep_original or sample.name not in names]
    dropped: list[DroppedSample] = []
    for sample in with_faces(chosen, find):
        made = _crop(sample, crop, trigger)
        if isinstance(made, Sample):
            kept.append(replace(made, name=f"{made.name}-face") if crop.keep_original else made)
        elif crop.keep_original:
            dropped.append(drop(sample, f"no crop added: {made}"))
        elif crop.on_no_face is OnNoFace.DROP:
            dropped.append(drop(sample, made))
        else:
            notes = [note for note in sample.notes if note != made]
            kept.append(replace(sample, notes=(*notes, f"not cropped: {made}")))
    return batch.keep(kept, dropped)


def _crop(sample: Sample, crop: Crop, trigger: str) -> Sample | str:
    """The sample with its crop, or why it cannot be cropped."""
    if sample.face is None:
        return sample.notes[-1]
    size = images.size(sample.file)
    if min(size) < crop.smallest:
        return f"its shorter side has {min(size)} of {crop.smallest} pixels"
    box = crop_box(sample.face, size, crop)
    if box == (0, 0, *size):
        return "the face fills it" if crop.keep_original else sample.with_note("the whole image: the face fills it")
    caption = (
        None if sample.caption is None else captions.without_words(sample.caption, crop.drop_words, trigger=trigger)
    )
    return replace(sample, crop=box, caption=caption or sample.caption)


def crop_box(face: Sequence[float], size: tuple[int, int], crop: Crop) -> Box:
    """The part to keep: a region around the face, enlarged to `smallest`, moved and cut to fit an image of `size`."""
    left, top, right, bottom = face
    unit = max(right - left, bottom - top)
    beside, above, below = (margin + crop.padding for margin in _MARGINS[crop.crop_region])
    width, height = unit * (1 + 2 * beside), unit * (1 + above + below)
    scale = max(1.0, crop.smallest / min(width, height))
    x = _span((left + right) / 2, width * scale, size[0])
    y = _span((top + bottom) / 2 + unit * (below - above) / 2, height * scale, size[1])
    return x[0], y[0], x[1], y[1]


def _span(middle: float, length: float, limit: int) -> tuple[int, int]:
    whole = min(round(length), limit)
    start = min(max(round(middle - whole / 2), 0), limit - whole)
    return start, start + whole
