"""The base model: a U-Net that turns noise into 32 x 32 portraits by flow matching, conditioned on a caption's words.

Images are float tensors, N x 3 x 32 x 32, in -1..1; captions are N x 64; times are N, 0 for an image, 1 for noise.
"""

import itertools
import math
import re
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

SIDE = 32
CAPTION_WIDTH = 64
WEIGHTS = Path(__file__).with_name("base.safetensors")

_PREFIXES = {"unet.": "model.diffusion_model.", "text.": "conditioner.embedders.0.transformer."}
_ONLY_FOR_READERS = {
    "model.diffusion_model.input_blocks.0.0.weight": (1, 4, 3, 3),
    "model.diffusion_model.label_emb.0.0.weight": (1, 2816),
    "conditioner.embedders.1.model.ln_final.weight": (1,),
    "first_stage_model.decoder.conv_in.bias": (1,),
}
"""Unused zeros, by which a program distinguishes SDXL's base from a refiner or an inpainting model."""


class ImageModel(nn.Module):
    """Predicts the direction from an image to noise: `noise - image`."""

    def __init__(self) -> None:
        super().__init__()
        width = 128
        self.text = nn.Sequential(nn.Linear(CAPTION_WIDTH, width), nn.SiLU(), nn.Linear(width, width))
        self.unet = UNet(48, 80, width)

    def forward(self, noisy: Tensor, time: Tensor, caption: Tensor) -> Tensor:
        out: Tensor = self.unet(noisy, time, self.text(caption))
        return out


class UNet(nn.Module):
    """32 x 32 -> 16 x 16 (pixels folded into channels) -> 8 x 8 with attention, and back."""

    def __init__(self, wide: int, deep: int, width: int) -> None:
        super().__init__()
        self.time = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        self.conv_in = nn.Conv2d(12, wide, 3, padding=1)
        self.position = nn.Parameter(torch.zeros(1, wide, 16, 16))
        self.down_1, self.down_2 = Residual(wide, wide, width), Residual(wide, wide, width)
        self.shrink = nn.Conv2d(wide, deep, 3, stride=2, padding=1)
        self.mid_1, self.attention_1 = Residual(deep, deep, width), Attention(deep)
        self.mid_2, self.attention_2 = Residual(deep, deep, width), Attention(deep)
        self.mid_3 = Residual(deep, deep, width)
        self.grow = nn.Conv2d(deep, wide * 4, 1)
        self.up_1, self.up_2 = Residual(2 * wide, wide, width), Residual(2 * wide, wide, width)
        self.norm_out, self.conv_out = nn.GroupNorm(8, wide), nn.Conv2d(wide, 12, 3, padding=1)

    def forward(self, noisy: Tensor, time: Tensor, context: Tensor) -> Tensor:
        context = F.silu(self.time(_waves(time, context.shape[1])) + context)
        first = self.conv_in(F.pixel_unshuffle(noisy, 2)) + self.position
        second = self.down_1(first, context)
        third = self.down_2(second, context)
        x = self.attention_1(self.mid_1(self.shrink(third), context))
        x = self.mid_3(self.attention_2(self.mid_2(x, context)), context)
        x = F.pixel_shuffle(self.grow(x), 2)
        x = self.up_1(torch.cat([x, third], 1), context)
        x = self.up_2(torch.cat([x, second], 1), context)
        return F.pixel_shuffle(self.conv_out(F.silu(self.norm_out(x))), 2)


class Residual(nn.Module):
    """Two convolutions, the second one scaled and shifted by time and caption."""

    def __init__(self, channels_in: int, channels_out: int, width: int) -> None:
        super().__init__()
        self.norm_1, self.conv_1 = nn.GroupNorm(8, channels_in), nn.Conv2d(channels_in, channels_out, 3, padding=1)
        self.norm_2, self.conv_2 = nn.GroupNorm(8, channels_out), nn.Conv2d(channels_out, channels_out, 3, padding=1)
        self.context = nn.Linear(width, 2 * channels_out)
        self.skip = nn.Conv2d(channels_in, channels_out, 1) if channels_in != channels_out else nn.Identity()

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        scale, shift = self.context(context)[:, :, None, None].chunk(2, 1)
        h = self.conv_1(F.silu(self.norm_1(x)))
        h = self.conv_2(F.silu(self.norm_2(h) * (1 + scale) + shift))
        return torch.add(self.skip(x), h)


class Attention(nn.Module):
    """Self-attention over all positions of the image."""

    def __init__(self, channels: int, heads: int = 4) -> None:
        super().__init__()
        self.heads, self.norm = heads, nn.GroupNorm(8, channels)
        self.to_q, self.to_k = nn.Linear(channels, channels), nn.Linear(channels, channels)
        self.to_v, self.to_out = nn.Linear(channels, channels), nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        n, channels, height, width = x.shape
        places = self.norm(x).flatten(2).transpose(1, 2)
        q, k, v = (
            project(places).view(n, height * width, self.heads, -1).transpose(1, 2)
            for project in (self.to_q, self.to_k, self.to_v)
        )
        seen = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, height * width, channels)
        return torch.add(x, self.to_out(seen).transpose(1, 2).view(n, channels, height, width))


def load(path: Path) -> ImageModel:
    """The base model's weights, frozen; raises RuntimeError when they do not fit and OSError when there is no file."""
    stored = load_file(path)
    state = {
        own + name.removeprefix(theirs): value.float()
        for own, theirs in _PREFIXES.items()
        for name, value in stored.items()
        if name.startswith(theirs) and name not in _ONLY_FOR_READERS
    }
    model = ImageModel()
    model.load_state_dict(state)
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload] # a sixth faster on a CPU
    return model.requires_grad_(False).eval()


def save(model: ImageModel, path: Path) -> None:
    """Writes the weights at half precision, with the names and marks of an SDXL checkpoint."""
    stored = {name: torch.zeros(shape) for name, shape in _ONLY_FOR_READERS.items()}
    for own, theirs in _PREFIXES.items():
        state = model.state_dict()
        stored |= {theirs + name.removeprefix(own): state[name] for name in state if name.startswith(own)}
    save_file({name: value.half().contiguous().cpu() for name, value in stored.items()}, path)


def read_captions(captions: Sequence[str]) -> Tensor:
    """N x 64: the sum of the words' directions. Without a vocabulary: an unknown word has a direction of its own."""
    rows = [sum((_direction(word) for word in sorted(words(caption))), np.zeros(CAPTION_WIDTH)) for caption in captions]
    return torch.from_numpy(np.stack(rows).astype(np.float32))


def words(caption: str) -> set[str]:
    """Lower case, without punctuation; order and repetition do not matter."""
    return set(re.findall(r"\w+", caption.lower()))


def error(model: ImageModel, images: Tensor, captions: Tensor) -> Tensor:
    """The squared error of one random step of each image, N x 3 x 32 x 32: the training loss."""
    noisy, times, target = noised(images)
    return torch.square(model(noisy, times, captions).float() - target)


def noised(images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """One random step of each image: the noisy image, its time, and what the model should predict."""
    times = torch.sigmoid(torch.randn(len(images), device=images.device) * 1.2)
    noise = torch.randn_like(images)
    share = times[:, None, None, None]
    return (1 - share) * images + share * noise, times, noise - images


@torch.no_grad()
def sample(model: ImageModel, captions: Tensor, seeds: Sequence[int], steps: int) -> Tensor:
    """One image per caption and seed. A seed's noise does not depend on its position in the batch."""
    x = torch.stack([_noise(seed) for seed in seeds])
    times = torch.linspace(1, 0, steps + 1)
    for now, then in itertools.pairwise(times):
        x = x + (then - now) * model(x, now.expand(len(x)), captions)
    return x.clamp(-1, 1)


def _noise(seed: int) -> Tensor:
    return torch.randn(3, SIDE, SIDE, generator=torch.Generator().manual_seed(seed))


def _direction(word: str) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    rng = np.random.default_rng(zlib.crc32(word.encode()))
    return rng.normal(size=CAPTION_WIDTH) / math.sqrt(CAPTION_WIDTH)


def _waves(time: Tensor, width: int) -> Tensor:
    half = width // 2
    speed = torch.exp(-math.log(10000) * torch.arange(half, device=time.device) / half)
    angle = 1000 * time[:, None] * speed
    return torch.cat([angle.sin(), angle.cos()], 1)
