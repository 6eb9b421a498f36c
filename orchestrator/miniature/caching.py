"""Latents on the disk, in sd-scripts' files. There is no VAE here: a latent is the colour of its 8 x 8 pixels."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import toml
from numpy.typing import NDArray
from PIL import Image, ImageOps

from orchestrator import images
from orchestrator.kohya import latents, step_count
from orchestrator.miniature import arguments, log
from orchestrator.miniature.arguments import Arguments

Array = NDArray[np.float32]


def main(argv: Sequence[str]) -> None:
    """The whole program: latents beside every picture that the dataset config names."""
    asked = arguments.read(argv)
    config = toml.loads(Path(asked["dataset_config"]).read_text(encoding="utf-8"))
    for subset in (subset for dataset in config["datasets"] for subset in dataset["subsets"]):
        log.info("caching latents...")
        for picture in images.pictures(Path(subset["image_dir"])).pictures:
            beside(picture, subset, asked)
    print("Finished caching latents to disk.", flush=True)


def beside(picture: Path, subset: Mapping[str, Any], asked: Arguments) -> Path:
    """The file of a picture's latents, made unless it is there: as in sd-scripts, whatever it was made from."""
    with Image.open(picture) as image:
        path = picture.with_name(latents.file_name(picture.name, image.size))
        if not path.exists():
            np.savez(path, allow_pickle=False, **_arrays(image, {**asked.values, **subset}))
    return path


def _arrays(image: Image.Image, said: Mapping[str, Any]) -> dict[str, NDArray[Any]]:
    (width, height), *_ = step_count.buckets(said, [image.size])
    cells = _cells(image, width, height)
    alpha = ImageOps.fit(image.convert("RGBA").getchannel("A"), (width, height), Image.Resampling.BOX)
    return {
        "latents": cells,
        "original_size": np.array(image.size),
        "crop_ltrb": np.zeros(4, np.int64),
        **({"latents_flipped": cells[:, :, ::-1]} if said.get("flip_aug") else {}),
        **({"alpha_mask": np.asarray(alpha, np.float32) / 255} if said.get("alpha_mask") else {}),
    }


def _cells(image: Image.Image, width: int, height: int) -> Array:
    """4 x height/8 x width/8: red, green and blue in -1..1, and nothing."""
    small = ImageOps.fit(image.convert("RGB"), (width // 8, height // 8), Image.Resampling.BOX)
    colours = np.asarray(small, np.float32).transpose(2, 0, 1) / 127.5 - 1
    return np.concatenate([colours, np.zeros_like(colours[:1])])
