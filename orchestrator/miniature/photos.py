"""Reads the images, captions and masks that a `dataset_config` names, and splits them into batches."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import toml
import torch
from PIL import Image, ImageOps
from torch import Tensor

from orchestrator.miniature import image_model, log
from orchestrator.miniature.arguments import Arguments

_SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Subset:
    """One folder with N images: N x 3 x 32 x 32 in -1..1, captions N x 64, masks N x 1 x 32 x 32 in 0..1.

    preserved: the base model's prediction is the target. dropout: share of the uses of an image without its caption.
    """

    folder: Path
    repeats: int
    pictures: Tensor
    captions: Tensor
    masks: Tensor
    is_reg: bool = False
    preserved: bool = False
    dropout: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Dataset:
    """Subsets with a common batch size and resolution (width, height), which only affects the simulated memory."""

    batch_size: int
    resolution: tuple[int, int]
    subsets: tuple[Subset, ...]
    prior_loss_weight: float = 1.0

    def count(self, *, is_reg: bool) -> int:
        """Number of training or regularisation images, counting repeats."""
        return sum(len(subset.pictures) * subset.repeats for subset in self.subsets if subset.is_reg == is_reg)

    def __len__(self) -> int:
        """Number of images in an epoch."""
        return sum(map(sum, self.repeats()))

    def repeats(self) -> list[list[int]]:
        """How often an epoch uses each image of each subset: as many regularisation images as training images."""
        training = self.count(is_reg=False)
        found = [[0 if subset.is_reg else subset.repeats] * len(subset.pictures) for subset in self.subsets]
        rows = [(i, row) for i, subset in enumerate(self.subsets) if subset.is_reg for row in range(len(found[i]))]
        used, first = 0, True
        while rows and used < training:
            for index, row in rows:
                more = self.subsets[index].repeats if first else 1
                found[index][row] += more
                used += more
                if used >= training:
                    break
            first = False
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Some rows of a dataset."""

    pictures: Tensor
    captions: Tensor
    masks: Tensor
    weights: Tensor
    """One per image, of its loss."""
    preserved: Tensor
    """One per image: whether its target is the base model's prediction."""


def read(arguments: Arguments) -> list[Dataset]:
    """Every dataset; one without images is skipped with a warning, as in sd-scripts."""
    path = Path(arguments["dataset_config"])
    log.info(f"Loading dataset config from {path}")
    config = toml.loads(path.read_text(encoding="utf-8"))
    found = [_dataset(config, dataset, arguments) for dataset in config.get("datasets", [])]
    log.info(f"{sum(one.count(is_reg=False) for one in found)} train images with repeats.")
    log.info(f"{sum(one.count(is_reg=True) for one in found)} reg images with repeats.")
    return [dataset for dataset in found if len(dataset)]


def batches_per_epoch(datasets: Sequence[Dataset]) -> int:
    """Incomplete batches count."""
    return sum(-(-len(dataset) // dataset.batch_size) for dataset in datasets)


def epoch(datasets: Sequence[Dataset]) -> Iterator[Batch]:
    """Every image with its repeats, in random order; a batch never mixes datasets."""
    batches = [(dataset, rows) for dataset in datasets for rows in torch.split(_shuffled(dataset), dataset.batch_size)]
    for index in torch.randperm(len(batches)).tolist():
        yield _batch(*batches[index])


def _shuffled(dataset: Dataset) -> Tensor:
    """Row numbers over the dataset's subsets in turn."""
    repeats = torch.tensor([times for subset in dataset.repeats() for times in subset])
    together = torch.arange(len(repeats)).repeat_interleave(repeats)
    return together[torch.randperm(len(together))]


def _batch(dataset: Dataset, rows: Tensor) -> Batch:
    def of_subsets(values: Iterable[float]) -> Tensor:
        sizes = torch.tensor([len(subset.pictures) for subset in dataset.subsets])
        return torch.tensor(list(values)).repeat_interleave(sizes)[rows]

    captions = torch.cat([subset.captions for subset in dataset.subsets])[rows]
    dropout = of_subsets(subset.dropout for subset in dataset.subsets)
    if dropout.any():
        captions = captions * (torch.rand(len(rows)) >= dropout)[:, None]
    return Batch(
        pictures=torch.cat([subset.pictures for subset in dataset.subsets])[rows],
        captions=captions,
        masks=torch.cat([subset.masks for subset in dataset.subsets])[rows],
        weights=of_subsets(dataset.prior_loss_weight if subset.is_reg else 1.0 for subset in dataset.subsets),
        preserved=of_subsets(subset.preserved for subset in dataset.subsets).bool(),
    )


def _dataset(config: Mapping[str, Any], dataset: Mapping[str, Any], arguments: Arguments) -> Dataset:
    """Values missing in the dataset come from [general], then from the config file."""
    shared = {**config.get("general", {}), **{key: value for key, value in dataset.items() if key != "subsets"}}
    subsets = [_subset({**shared, **subset}, arguments) for subset in dataset.get("subsets", [])]
    return Dataset(
        batch_size=shared.get("batch_size", arguments["train_batch_size"]),
        resolution=_resolution(shared.get("resolution", arguments["resolution"])),
        subsets=tuple(subset for subset in subsets if subset),
        prior_loss_weight=arguments["prior_loss_weight"],
    )


def _resolution(value: str | int | list[int]) -> tuple[int, int]:
    """sd-scripts takes a string in one file, and a number or a pair in the other."""
    sides = [int(side) for side in value.split(",")] if isinstance(value, str) else value
    width, height = sides if isinstance(sides, list) and len(sides) == 2 else (sides, sides)
    return int(str(width).strip("[]")), int(str(height).strip("[]"))


def _subset(subset: Mapping[str, Any], arguments: Arguments) -> Subset | None:
    folder = Path(subset["image_dir"])
    if not folder.is_dir():
        log.warning(f"not directory: {folder}")
        return None
    files = sorted(file for file in folder.iterdir() if file.suffix.lower() in _SUFFIXES)
    log.info(f"found directory {folder} contains {len(files)} image files")
    if not files:
        return None
    captions = [_caption(file, {**_affixes(arguments), **subset}) for file in files]
    return Subset(
        folder=folder,
        repeats=subset.get("num_repeats", 1),
        pictures=torch.stack([_picture(file) for file in files]),
        captions=image_model.read_captions(captions),
        masks=torch.stack([_mask(file, subset, arguments) for file in files]),
        is_reg=subset.get("is_reg", False),
        preserved=subset.get("custom_attributes", {}).get("diff_output_preservation", False),
        dropout=subset.get("caption_dropout_rate", arguments["caption_dropout_rate"]),
    )


def _affixes(arguments: Arguments) -> dict[str, Any]:
    return {key: arguments[key] for key in ("caption_prefix", "caption_suffix")}


def _caption(file: Path, subset: Mapping[str, Any]) -> str:
    beside = file.with_suffix(subset.get("caption_extension", ".caption"))
    text = beside.read_text(encoding="utf-8").strip() if beside.exists() else subset.get("class_tokens") or ""
    return " ".join(part for part in (subset.get("caption_prefix"), text, subset.get("caption_suffix")) if part)


def _picture(file: Path) -> Tensor:
    with Image.open(file) as image:
        return _shrunk(image.convert("RGB")) / 127.5 - 1


def _mask(file: Path, subset: Mapping[str, Any], arguments: Arguments) -> Tensor:
    """Loss weights, 0..1: from a mask file (`masked_loss`), the image's alpha (`alpha_mask`), or all 1."""
    if arguments["masked_loss"] and subset.get("conditioning_data_dir"):
        candidates = Path(subset["conditioning_data_dir"]).glob(f"{file.stem}.*")
        with Image.open(next(candidates)) as mask:
            return _shrunk(mask.convert("RGB").getchannel("R")) / 255
    if subset.get("alpha_mask", arguments["alpha_mask"]):
        with Image.open(file) as image:
            return _shrunk(image.convert("RGBA").getchannel("A")) / 255
    return torch.ones(1, image_model.SIDE, image_model.SIDE)


def _shrunk(image: Image.Image) -> Tensor:
    """Channels x 32 x 32, 0..255; images that are not square are cropped."""
    side = image_model.SIDE
    small = np.asarray(ImageOps.fit(image, (side, side), Image.Resampling.BOX), np.float32)
    return torch.from_numpy(small.reshape(side, side, -1).transpose(2, 0, 1).copy())
