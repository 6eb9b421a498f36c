"""Generates images as gen_img.py does, from a prompter's plan or a file of prompt lines, with the small model.

Steps, size, seeds, prompts, LoRA files and strengths have an effect. Sampler, scale and negative prompt are accepted
without effect, because the model uses no guidance.
"""

import argparse
import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from orchestrator.kohya import gen_img_plugin
from orchestrator.miniature import image_model, log, lora


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One image, number `number` of all; `lora` is None for the base model alone."""

    number: int
    file: str
    text: str
    seed: int
    lora: Path | None
    strength: float = 1.0


def main(argv: Sequence[str]) -> None:
    """The whole program."""
    options = _parser().parse_args(argv)
    torch.set_num_threads(1)  # an image must not depend on the number of cores
    log.info(f"load StableDiffusion checkpoint: {options.ckpt}")
    model = image_model.load(options.ckpt)
    additions = lora.attach_file(model, load_file(options.network_weights[0])) if options.network_weights else {}
    log.info("pipeline is ready.")
    for requests in _planned(options) if options.prompter_module_args else [_listed(options)]:
        _draw_all(model, additions, requests, options)
    log.info("done!")


def _draw_all(
    model: image_model.ImageModel, additions: lora.Additions, requests: list[Request], options: argparse.Namespace
) -> None:
    options.outdir.mkdir(parents=True, exist_ok=True)
    for (file, strength), group in itertools.groupby(requests, lambda request: (request.lora, request.strength)):
        if file:
            _switch(additions, file, strength)
        for batch in _batches(group, options.batch_size):
            _draw(model, batch, len(requests), options)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Draws portraits with the miniature's image model.")
    parser.add_argument("--ckpt", type=Path, required=True)
    parser.add_argument("--outdir", type=Path, required=True)
    parser.add_argument("--from_file", type=Path)
    parser.add_argument(
        "--prompter_module_args", type=Path, help="what --from_module's prompter reads: a plan, or a folder of jobs"
    )
    parser.add_argument("--network_weights", type=Path, nargs="*", default=[])
    parser.add_argument("--network_mul", type=float, nargs="*", default=[])
    for name, default in (("W", 512), ("H", 512), ("steps", 50), ("batch_size", 1)):
        parser.add_argument(f"--{name}", type=int, default=default)
    for name in ("from_module", "network_module", "sampler", "scale", "tokenizer_cache_dir", "vae"):
        parser.add_argument(f"--{name}")
    for name in ("vae_batch_size", "images_per_prompt"):
        parser.add_argument(f"--{name}", type=int)
    for name in ("sdxl", "bf16", "fp16", "sdpa", "no_half_vae", "network_pre_calc", "network_merge"):
        parser.add_argument(f"--{name}", action="store_true")
    for name in ("v_parameterization", "zero_terminal_snr"):
        parser.add_argument(f"--{name}", action="store_true")
    return parser


def _planned(options: argparse.Namespace) -> Iterator[list[Request]]:
    """The images of each plan, see orchestrator/kohya/gen_img_plugin.py."""
    for plan in gen_img_plugin.plans(options):
        options.outdir = Path(options.outdir)
        yield [
            Request(
                number=number,
                file=image["file"],
                text=image["text"],
                seed=image["seed"],
                lora=None if image["lora"] is None else Path(plan["loras"][image["lora"]]),
                strength=image["strength"],
            )
            for number, image in enumerate(plan["images"], start=1)
        ]


def _listed(options: argparse.Namespace) -> list[Request]:
    """The images of a prompt file: `text --n negative --d seed --am strength --f name.png`, one per line."""
    lines = options.from_file.read_text(encoding="utf-8").splitlines()
    chosen = [line for line in lines if line.strip() and not line.startswith("#")]
    return [_line(number, line, options) for number, line in enumerate(chosen, start=1)]


def _line(number: int, line: str, options: argparse.Namespace) -> Request:
    text, values = read_line(line)
    strength = float(values["am"].split(",")[0]) if "am" in values else next(iter(options.network_mul), 1.0)
    return Request(
        number=number,
        file=values.get("f", f"im_{number:06d}.png"),
        text=text,
        seed=int(re.split(r"\D", values.get("d", str(number)))[0]),
        lora=next(iter(options.network_weights), None),
        strength=strength,
    )


def read_line(line: str) -> tuple[str, dict[str, str]]:
    """The text of a prompt line, and its options by their letters."""
    text, *rest = line.split(" --")
    return text, {name.lower(): value for name, _, value in (part.strip().partition(" ") for part in rest)}


def _switch(additions: lora.Additions, file: Path, strength: float) -> None:
    lora.load(additions, load_file(file))
    for addition in additions.values():
        addition.multiplier = strength


def _batches(group: Iterable[Request], size: int) -> Iterator[list[Request]]:
    pending = iter(group)
    while batch := list(itertools.islice(pending, size)):
        yield batch


def _draw(model: image_model.ImageModel, batch: list[Request], of: int, options: argparse.Namespace) -> None:
    for request in batch:
        log.info(f"prompt {request.number}/{of}: {request.text}")
    captions = image_model.read_captions([request.text for request in batch])
    drawn = image_model.sample(model, captions, [request.seed for request in batch], options.steps)
    for request, image in zip(batch, drawn, strict=True):
        enlarged(image, options.W, options.H).save(options.outdir / request.file)


def enlarged(image: Tensor, width: int, height: int) -> Image.Image:
    """The square image in the middle of the requested size, its edges repeated."""
    pixels = ((image + 1) * 127.5).round().byte().permute(1, 2, 0).numpy()
    side = min(width, height)
    square = np.asarray(Image.fromarray(pixels).resize((side, side), Image.Resampling.BICUBIC))
    above, before = (height - side) // 2, (width - side) // 2
    margins = ((above, height - side - above), (before, width - side - before), (0, 0))
    return Image.fromarray(np.pad(square, margins, mode="edge"))
