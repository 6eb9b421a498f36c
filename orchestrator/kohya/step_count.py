"""Computes buckets, batches and optimizer steps of a training as sd-scripts does."""

import itertools
import math
import random
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TypeAlias

from orchestrator.kohya.outputs.files import TrainingLength
from orchestrator.model import Params

Size: TypeAlias = tuple[int, int]
"""Width and height of an image, pixels."""

Subset: TypeAlias = tuple[Sequence[Size], int, bool]
"""The sizes of its images, their repeats, and whether they are for regularisation."""

DEFAULT_STEPS = 1600
"""sd-scripts' max_train_steps when neither steps nor epochs are given."""

DECIDING = (
    "max_train_epochs", "max_train_steps", "train_batch_size", "gradient_accumulation_steps", "resolution",
    "enable_bucket", "bucket_no_upscale", "bucket_reso_steps", "min_bucket_reso", "max_bucket_reso",
    "skip_image_resolution", "validation_split", "validation_seed",
)  # fmt: skip
"""The arguments that determine the length, besides the images."""


def length(params: Params, subsets: Sequence[Subset], resolutions: Sequence[Params] = ()) -> TrainingLength | None:
    """The length of a training on these images; None if none is trained on.

    resolutions: the arguments of each size of a dataset with several.
    Source: train_network.py (steps of an epoch), library/dataset.py (BucketManager, make_buckets).
    """
    every = [{**params, **one} for one in resolutions or ({},)]
    batches = sum(batches_per_epoch(own, one_epoch(own, subsets)) for own in every)
    if not batches:
        return None
    per_epoch = math.ceil(batches / whole(params, "gradient_accumulation_steps", 1))
    if epochs := whole(params, "max_train_epochs", 0):
        steps = epochs * per_epoch
    else:
        steps = whole(params, "max_train_steps", DEFAULT_STEPS)
    return TrainingLength(steps=steps, epochs=math.ceil(steps / per_epoch), steps_per_epoch=per_epoch)


def one_epoch(params: Params, subsets: Iterable[Subset]) -> list[Size]:
    """The images of one epoch, with repeats, without skipped ones and those for validation.

    Regularisation images are used in turn, first with their repeats, until there are as many as training images.
    Source: dreambooth_dataset.py (num_train_images, reg_infos).
    """
    used = list(subsets)
    taught = [(trained_on(params, sizes), repeats) for sizes, repeats, is_reg in used if not is_reg]
    training = [size for sizes, repeats in taught for size in sizes for _ in range(repeats)]
    prior = [(sizes, repeats) for sizes, repeats, is_reg in used if is_reg]
    regularisation = [(size, repeats) for sizes, repeats in prior for size in sizes if not is_skipped(params, size)]
    found: list[Size] = []
    for size, repeats in regularisation:
        if len(found) < len(training):
            found += [size] * repeats
    extra = itertools.cycle(size for size, _ in regularisation)
    missing = max(0, len(training) - len(found)) if regularisation else 0
    return [*training, *found, *itertools.islice(extra, missing)]


def is_skipped(params: Params, size: Size) -> bool:
    """Whether `skip_image_resolution` leaves an image of this size out. Source: dreambooth_dataset.py."""
    sides = [int(side) for side in str(params.get("skip_image_resolution", "")).split(",") if side.strip().isdecimal()]
    return bool(sides) and size[0] * size[1] <= sides[0] * sides[-1]


def is_misfit(params: Params, size: Size) -> bool:
    """Whether sd-scripts stops at an image of this size, which it neither resizes nor crops without cache or buckets.

    Source: dataset.py (BaseDataset.__getitem__).
    """
    if any(
        params.get(key) for key in ("enable_bucket", "cache_latents", "cache_latents_to_disk", "face_crop_aug_range")
    ):
        return False
    width, height = _resolution(params)
    return size[0] < width or size[1] < height or (size != (width, height) and not params.get("random_crop"))


def trained_on(params: Params, sizes: Sequence[Size]) -> list[Size]:
    """The sizes of the images that are neither skipped nor used for validation."""
    kept = [size for size in sizes if not is_skipped(params, size)]
    return [kept[index] for index in split(params, len(kept))[0]]


def split(params: Params, count: int) -> tuple[list[int], list[int]]:
    """The indices of the images for training and for validation, as split_train_val in library/dataset.py draws them.

    An image can be in both: the one number is rounded up, the other to the nearest.
    """
    share, seed, drawn = params.get("validation_split"), params.get("validation_seed"), list(range(count))
    if not isinstance(share, float) or not 0 < share < 1:
        return drawn, []
    random.Random(seed if isinstance(seed, int) else 0).shuffle(drawn)  # noqa: S311 (as sd-scripts draws)
    return drawn[: math.ceil(count * (1 - share))], drawn[count - round(count * share) :]


def batches_per_epoch(params: Params, sizes: Iterable[Size]) -> int:
    """Each bucket has its own batches, and its last one may be smaller. sizes: of the images with their repeats."""
    batch = whole(params, "train_batch_size", 1)
    return sum(math.ceil(count / batch) for count in buckets(params, sizes).values())


def buckets(params: Params, sizes: Iterable[Size]) -> Counter[Size]:
    """The number of images at each size; all have the resolution without enable_bucket."""
    resolution = _resolution(params)
    if not params.get("enable_bucket"):
        return Counter(resolution for _ in sizes)
    step = whole(params, "bucket_reso_steps", 64)
    if params.get("bucket_no_upscale"):
        return Counter(_shrunk(size, resolution, step) for size in sizes)
    least, most = whole(params, "min_bucket_reso", 256), whole(params, "max_bucket_reso", 1024)
    shapes = _shapes(resolution, least - least % step, most + -most % step, step)
    return Counter(_nearest(size, shapes) for size in sizes)


def area(params: Params) -> int:
    """Approximate pixels of an image in training."""
    width, height = _resolution(params)
    return width * height


def _resolution(params: Params) -> Size:
    sides = [int(side) for side in str(params.get("resolution", "")).split(",") if side.strip().isdecimal()]
    return (sides[0], sides[-1]) if sides else (1024, 1024)


def _shapes(resolution: Size, least: int, most: int, step: int) -> list[Size]:
    """The shapes with about the area of the resolution. Source: model_util.make_bucket_resolutions."""
    most_pixels = resolution[0] * resolution[1]
    square = int(math.sqrt(most_pixels) // step) * step
    shapes = {(square, square)}
    for width in range(least, most + 1, step):
        height = min(most, most_pixels // width // step * step)
        if height >= least:
            shapes |= {(width, height), (height, width)}
    return sorted(shapes)


def _nearest(size: Size, shapes: Sequence[Size]) -> Size:
    """The shape of the image's size, else of the nearest aspect ratio."""
    if size in shapes:
        return size
    return min(shapes, key=lambda shape: abs(shape[0] / shape[1] - size[0] / size[1]))


def _shrunk(size: Size, resolution: Size, step: int) -> Size:
    """The image's size, reduced to the area of the resolution and rounded down to multiples of `step`."""
    width, height = size
    most, ratio = resolution[0] * resolution[1], size[0] / size[1]
    if width * height > most:
        wide = _rounded(math.sqrt(most * ratio), step)
        high = _rounded(most / math.sqrt(most * ratio), step)
        by_width = wide / max(_rounded(wide / ratio, step), step)
        by_height = _rounded(high * ratio, step) / max(high, step)
        if abs(by_width - ratio) < abs(by_height - ratio):
            width, height = wide, int(wide / ratio + 0.5)
        else:
            width, height = int(high * ratio + 0.5), high
    return width - width % step, height - height % step


def _rounded(side: float, step: int) -> int:
    return int(side + 0.5) // step * step


def whole(params: Params, key: str, default: int) -> int:
    """A positive integer argument, or sd-scripts' default."""
    value = params.get(key, default)
    return value if isinstance(value, int) and value > 0 else default
