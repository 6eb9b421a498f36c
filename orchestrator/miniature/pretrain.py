"""Makes base.safetensors: `OPENBLAS_NUM_THREADS=1 python -m orchestrator.miniature.pretrain OUT [--steps N]`.

Draws many people, one photo each, and teaches the image model to draw such people from captions. Needs torch, numpy,
safetensors and, to finish within a day, a GPU.
"""

import argparse
import copy
import multiprocessing
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from orchestrator.miniature import draw, image_model, scene

FIRST_PERSON = 1_000_000
"""The people of pretraining are numbered from here on, and no others."""
_DRAWN_PX = 64
_FORGET_ALL, _FORGET_PHRASE, _FORGET_NAME = 0.1, 0.25, 0.3


def main() -> None:
    """Reads the command line, trains, and writes the weights ten times on the way."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", type=int, default=11_000)
    parser.add_argument("--people", type=int, default=120_000)
    parser.add_argument("--batch", type=int, default=512)
    args = parser.parse_args()
    started = time.monotonic()
    images, phrases = crowd(args.people)
    print(f"{args.people} people drawn in {time.monotonic() - started:.0f} s", flush=True)
    pretrain(images, phrases, args.out, steps=args.steps, batch=args.batch)


def crowd(people: int) -> tuple[Tensor, Tensor]:
    """Images (N x 3 x 32 x 32, bytes) and the number of each kind's phrase (N x 4)."""
    with multiprocessing.Pool() as pool:
        drawn = pool.map(_portrait, range(people), chunksize=100)
    images = np.stack([image for image, _ in drawn]).transpose(0, 3, 1, 2)
    return torch.from_numpy(images.copy()), torch.tensor([phrases for _, phrases in drawn])


def _portrait(number: int) -> tuple[draw.Pixels, list[int]]:
    somewhere = scene.drawn(FIRST_PERSON + number)
    large = scene.photo(draw.person(FIRST_PERSON + number), somewhere, px=_DRAWN_PX)
    fold = _DRAWN_PX // image_model.SIDE
    small = large.reshape(image_model.SIDE, fold, image_model.SIDE, fold, 3).mean((1, 3)).round().astype(np.uint8)
    return small, [kind.index(phrase) for kind, phrase in zip(scene.PHRASES, somewhere.phrases, strict=True)]


def pretrain(images: Tensor, phrases: Tensor, out: Path, *, steps: int, batch: int, rate: float = 2e-3) -> None:
    """Trains for `steps` steps and writes the running average of the weights."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(0)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    model = image_model.ImageModel().to(device)
    average = copy.deepcopy(model)
    optimizer = torch.optim.AdamW(model.parameters(), rate, weight_decay=0.01, betas=(0.9, 0.99))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps, pct_start=0.05)
    images, phrases = images.to(device), phrases.to(device)
    tables = [image_model.read_captions(kind).to(device) for kind in (("photo of person",), *scene.PHRASES)]
    started = time.monotonic()
    for step in range(1, steps + 1):
        some = torch.randint(len(images), (batch,), device=device)
        captions = _captions(tables, phrases[some])
        loss = image_model.error(model, images[some].float() / 127.5 - 1, captions).mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        _follow(average, model, min(0.999, step / (step + 10)))
        if step % max(1, steps // 10) == 0 or step == 100:
            print(f"step {step} loss {loss.item():.4f} {time.monotonic() - started:.0f} s", flush=True)
            image_model.save(average, out)


def _captions(tables: Sequence[Tensor], phrases: Tensor) -> Tensor:
    """Captions (N x 64) with parts omitted, so that short prompts work too; a name is a direction unrelated to the
    image, so that a trigger can learn to mean a person."""
    n, device = len(phrases), phrases.device
    captions = tables[0].expand(n, -1)
    for kind, table in enumerate(tables[1:]):
        captions = captions + table[phrases[:, kind]] * (torch.rand(n, 1, device=device) > _FORGET_PHRASE)
    name = torch.randn_like(captions) / captions.shape[1] ** 0.5
    captions = captions + name * (torch.rand(n, 1, device=device) > _FORGET_NAME)
    return torch.mul(captions, torch.rand(n, 1, device=device) > _FORGET_ALL)


@torch.no_grad()
def _follow(average: torch.nn.Module, model: torch.nn.Module, inertia: float) -> None:
    torch._foreach_lerp_(list(average.parameters()), list(model.parameters()), 1 - inertia)


if __name__ == "__main__":
    main()
