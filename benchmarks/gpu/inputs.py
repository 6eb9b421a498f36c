"""Makes what the benchmark feeds to the trainer: a random SDXL checkpoint, LoRA files, images, tokenizers.

Runs in the trainer's interpreter: `python -m benchmarks.gpu.inputs SD_SCRIPTS FOLDER`. What exists is not made again.
The weights are random: memory and speed do not depend on them, images do.
"""

import json
import math
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file

from benchmarks.gpu import cells

PICTURES = 36
LORAS = 2
LORA_DIM = 32
TOKENIZERS = ("openai_clip-vit-large-patch14", "laion_CLIP-ViT-bigG-14-laion2B-39B-b160k")


def main(sd_scripts: str, folder: str) -> None:
    """Make all inputs in `folder`."""
    sys.path.insert(0, sd_scripts)
    inputs = cells.Inputs(folder=Path(folder))
    inputs.folder.mkdir(parents=True, exist_ok=True)
    wanted = list(cells.training())
    for resolution in sorted({cell.resolution for cell in wanted}):
        _once(inputs.pictures(resolution), lambda target, side=resolution: pictures(target, side))
    for cell in wanted:
        inputs.dataset(cell).write_text(dataset(cell, inputs.pictures(cell.resolution)), encoding="utf-8")
        inputs.prompts(cell).write_text(_prompt(cell), encoding="utf-8")
    _once(inputs.tokenizers, tokenizers)
    _once(inputs.checkpoint, checkpoint)
    for number in range(LORAS):
        _once(lora_file(inputs, number), lambda target, seed=number: lora(target, seed))


def lora_file(inputs: cells.Inputs, number: int) -> Path:
    """A LoRA of rank LORA_DIM over U-Net and text encoders whose effect is visible."""
    return inputs.folder / f"lora-{number}.safetensors"


def _once(target: Path, make: Any) -> None:
    """Call `make` with a name to fill, then give it its own: an interrupted run leaves no half product."""
    if target.exists():
        return
    began = time.monotonic()
    unfinished = target.with_name(f"{target.stem}.unfinished{target.suffix}")
    make(unfinished)
    unfinished.rename(target)
    print(f"made {target.name} in {time.monotonic() - began:.1f} s", flush=True)


def pictures(folder: Path, side: int) -> None:
    """Soft noise with captions, `side` x `side` pixels."""
    folder.mkdir(exist_ok=True)
    random = np.random.default_rng(0)
    for number in range(PICTURES):
        coarse = random.integers(0, 255, (side // 16, side // 16, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC).save(folder / f"{number:02}.jpg")
        (folder / f"{number:02}.txt").write_text(f"photo of ohwx woman, image {number}", encoding="utf-8")


def dataset(cell: cells.Cell, pictures: Path) -> str:
    """The dataset config of a cell over a folder of images."""
    return "\n".join(
        (
            "[[datasets]]",
            f"resolution = {cell.resolution}",
            f"batch_size = {cell.batch}",
            "[[datasets.subsets]]",
            f"image_dir = {json.dumps(str(pictures))}",
            'caption_extension = ".txt"',
            "num_repeats = 1\n",
        )
    )


def _prompt(cell: cells.Cell) -> str:
    size = f"--w {cell.sample} --h {cell.sample}"
    return f"photo of ohwx woman --n blurry {size} --d 1 --s {cells.SAMPLE_STEPS} --l 6\n"


def tokenizers(folder: Path) -> None:
    """Two tokenizers of CLIP's shape without its vocabulary: every word becomes single letters."""
    letters = [chr(code) for code in range(0x100, 0x200)]
    known = [*letters, *(f"{letter}</w>" for letter in letters)]
    filler = (f"filler{number}</w>" for number in range(49406 - len(known)))
    words = [*known, *filler, "<|startoftext|>", "<|endoftext|>"]
    marks = {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>"}
    marks |= {"unk_token": "<|endoftext|>", "pad_token": "<|endoftext|>"}
    for name in TOKENIZERS:
        target = folder / name
        target.mkdir(parents=True)
        (target / "vocab.json").write_text(json.dumps({word: number for number, word in enumerate(words)}))
        (target / "merges.txt").write_text("#version: 0.2\n")
        (target / "special_tokens_map.json").write_text(json.dumps(marks))
        config = {"tokenizer_class": "CLIPTokenizer", "model_max_length": 77, **marks}
        (target / "tokenizer_config.json").write_text(json.dumps(config))


def checkpoint(file: Path) -> None:
    """A single-file SDXL of random float16 weights, 6.9 GB: names and shapes are sd-scripts' own."""
    from library import model_util, sdxl_model_util

    draw = Draw()
    unet, first, second, vae = _skeletons()
    weights = {f"model.diffusion_model.{name}": value for name, value in draw.all(unet)}
    weights |= {f"conditioner.embedders.0.transformer.{name}": value for name, value in draw.all(first)}
    bigg = sdxl_model_util.convert_text_encoder_2_state_dict_to_sdxl(dict(draw.all(second)), torch.tensor(4.6))
    weights |= {f"conditioner.embedders.1.model.{name}": value.half() for name, value in bigg.items()}
    converted = model_util.convert_vae_state_dict(dict(draw.all(vae)))
    weights |= {f"first_stage_model.{name}": value for name, value in converted.items()}
    save_file({name: value.contiguous() for name, value in weights.items()}, file)


class Draw:
    """Random weights that keep activations at their scale: normal, divided by the root of the fan-in."""

    def __init__(self, seed: int = 0) -> None:
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        self._random = torch.Generator(device=self._device).manual_seed(seed)

    def all(self, module: torch.nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
        """Every tensor of a module's state, float16 on the CPU."""
        return ((name, self.like(name, value)) for name, value in module.state_dict().items())

    def like(self, name: str, value: torch.Tensor) -> torch.Tensor:
        if value.ndim == 1:
            return torch.full(value.shape, 1.0 if name.endswith("weight") else 0.0, dtype=torch.float16)
        normal = torch.randn(value.shape, generator=self._random, device=self._device)
        return (normal / math.sqrt(value[0].numel())).half().cpu()


def _skeletons() -> tuple[torch.nn.Module, torch.nn.Module, torch.nn.Module, torch.nn.Module]:
    """SDXL's U-Net, text encoders and VAE without storage."""
    from accelerate import init_empty_weights
    from diffusers import AutoencoderKL
    from library import model_util, sdxl_original_unet
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    large = CLIPTextConfig(
        hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12, projection_dim=768
    )
    bigg = CLIPTextConfig(
        hidden_size=1280,
        intermediate_size=5120,
        num_hidden_layers=32,
        num_attention_heads=20,
        projection_dim=1280,
        hidden_act="gelu",
    )
    with init_empty_weights():
        unet = sdxl_original_unet.SdxlUNet2DConditionModel()
        vae = AutoencoderKL(**model_util.create_vae_diffusers_config())
        return unet, CLIPTextModel(large), CLIPTextModelWithProjection(bigg), vae


def lora(file: Path, seed: int) -> None:
    """A LoRA in networks.lora's names and shapes whose up matrices are not zero, so that it changes images."""
    from networks import lora as networks_lora

    unet, first, second, vae = _skeletons()
    with torch.device("meta"):  # only names and shapes are wanted
        network = networks_lora.create_network(1.0, LORA_DIM, LORA_DIM / 2, vae, [first, second], unet)
    draw = Draw(seed)
    weights: dict[str, torch.Tensor] = {}
    for module in network.text_encoder_loras + network.unet_loras:
        weights[f"{module.lora_name}.alpha"] = torch.tensor(LORA_DIM / 2, dtype=torch.float16)
        for part in ("lora_down", "lora_up"):
            weight = getattr(module, part).weight
            weights[f"{module.lora_name}.{part}.weight"] = 0.3 * draw.like("", weight)
    save_file(
        {name: value.contiguous() for name, value in weights.items()}, file, {"ss_network_module": "networks.lora"}
    )


if __name__ == "__main__":
    os.environ.setdefault("TRANSFORMERS_OFFLINE", "1")
    main(*sys.argv[1:])
