"""Latents that sd-scripts keeps on the disk beside the pictures: what they depend on, their files, and their proof.

sd-scripts takes a file that is there whatever it was made from: it looks for names of arrays in it and at nothing else.
Source: strategy_base.py and strategy_sd.py (LatentsCachingStrategy), tools/cache_latents.py.
"""

import math
import zipfile
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from orchestrator.errors import Problem
from orchestrator.kohya import step_count
from orchestrator.kohya.step_count import Size
from orchestrator.model import Params

ON_DISK = "cache_latents_to_disk"
SUFFIX = ".npz"

DECIDING = (
    "resolution", "enable_bucket", "min_bucket_reso", "max_bucket_reso", "bucket_reso_steps", "bucket_no_upscale",
    "resize_interpolation", "flip_aug", "alpha_mask", "masked_loss", "conditioning_data_dir", "mixed_precision",
    "full_fp16", "full_bf16", "no_half_vae", "xformers",
)  # fmt: skip
"""The arguments that latents follow from, beside the pictures and the VAE; a dataset's subset may set them, too."""

SEED = 0
"""Of the sampling in the VAE: latents are one sample for good, and not that of whichever run came first."""

_CELL = 8  # pixels to a latent's side
_CHANNELS = 4
_FLOAT_BYTES = 4
_SLACK_BYTES = 16 * 1024  # the archive's own tables, and two short arrays


def on_disk(params: Params) -> bool:
    """Whether a training of these arguments wants its latents on the disk."""
    return bool(params.get(ON_DISK))


def in_memory(params: Params) -> Params:
    """The same training, which encodes its pictures itself and keeps the latents in memory."""
    return {**{key: value for key, value in params.items() if key != ON_DISK}, "cache_latents": True}


def deciding(params: Params) -> Params:
    """Those of the arguments that latents follow from."""
    return {key: params[key] for key in DECIDING if key in params}


def file_name(picture: str, size: Size) -> str:
    """The file of a picture's latents; it knows the picture's own size, and not that of its bucket."""
    return f"{Path(picture).stem}_{size[0]:04d}x{size[1]:04d}_sdxl{SUFFIX}"


def prove(folder: Path, sizes: Mapping[str, Size], params: Params) -> Iterator[Problem]:
    """What is wrong with the latents in a folder of pictures; nothing when each has exactly those that it should.

    sizes: width and height by picture, pixels; params: as trained with, what the dataset's subset sets included.
    """
    names = Counter(file_name(picture, size) for picture, size in sizes.items())
    for name in (name for name, pictures in names.items() if pictures > 1):
        what = f"{names[name]} pictures of one name and size would share {name}"
        yield Problem(what=what, where=str(folder), remedy="give each picture a name of its own")
    for path in sorted(folder.glob(f"*{SUFFIX}")):
        if path.name not in names:
            yield Problem(what=f"{path.name} is of no picture here", where=str(path), remedy=_REMEDY)
    for picture, size in sizes.items():
        path = folder / file_name(picture, size)
        if wrong := _wrong(path, size, params):
            yield Problem(what=f"{path.name} {wrong}", where=str(path), remedy=_REMEDY)


NOT_FINITE = "NaN or infinite"
_REMEDY = "read the end of the attempt's log"


def _wrong(path: Path, size: Size, params: Params) -> str:
    """What is wrong with one file of latents; empty when nothing is."""
    (width, height), *_ = step_count.buckets(params, [size])
    shapes = _shapes(width, height, params)
    try:
        found = _arrays(path, _most_bytes(shapes))
    except FileNotFoundError:
        return "is missing"
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        return f"cannot be read: {error}"
    told = {name: array.shape for name, array in found.items()}
    if told != shapes:
        return f"holds {_told(told)}, not {_told(shapes)}"
    if found["original_size"].tolist() != list(size):
        return f"is of a picture of {found['original_size'].tolist()} pixels, not {list(size)}"
    bad = [name for name, array in found.items() if not np.isfinite(array).all()]
    return f"has {', '.join(bad)} that are {NOT_FINITE}" if bad else ""


def _shapes(width: int, height: int, params: Params) -> dict[str, tuple[int, ...]]:
    """The arrays of a picture that is trained at this size."""
    latents = (_CHANNELS, height // _CELL, width // _CELL)
    return {
        "latents": latents,
        "original_size": (2,),
        "crop_ltrb": (4,),
        **({"latents_flipped": latents} if params.get("flip_aug") else {}),
        **({"alpha_mask": (height, width)} if params.get("alpha_mask") else {}),
    }


def _arrays(path: Path, most_bytes: int) -> dict[str, NDArray[Any]]:
    """The arrays of a file; ValueError where they are more than there can be, before any is unpacked."""
    with zipfile.ZipFile(path) as archive:
        unpacked = sum(entry.file_size for entry in archive.infolist())
    if unpacked > most_bytes:
        raise ValueError(f"{unpacked} bytes of arrays, where {most_bytes} are the most")
    with np.load(path, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


def _most_bytes(shapes: Mapping[str, tuple[int, ...]]) -> int:
    """Twice what they should be: a wrong shape is better told by its name."""
    return 2 * sum(math.prod(shape) for shape in shapes.values()) * _FLOAT_BYTES + _SLACK_BYTES


def _told(shapes: Mapping[str, tuple[int, ...]]) -> str:
    return ", ".join(f"{name} {'x'.join(map(str, shape))}" for name, shape in sorted(shapes.items()))
