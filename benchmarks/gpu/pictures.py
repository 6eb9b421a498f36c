"""Three ways to draw pictures from several LoRAs with gen_img.py: how fast, how much memory, and are they the same?"""

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.gpu import cells, inputs, watch

PROMPTER = watch.ROOT / "orchestrator" / "kohya" / "prompter.py"
PROMPT = "photo of ohwx woman, portrait"
NEGATIVE = "blurry"
SEEDS = (1, 2, 3, 4)
STEPS = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """`swap`: one process for all LoRAs. `merge`: into the U-Net before each batch instead of hooking every layer."""

    swap: bool
    merge: bool

    @property
    def key(self) -> str:
        return f"{'one process' if self.swap else 'process per LoRA'}, {'merged' if self.merge else 'hooks'}"


REFERENCE = Variant(swap=False, merge=True)
VARIANTS = (REFERENCE, Variant(swap=True, merge=True), Variant(swap=True, merge=False))


def measure(programs: watch.Programs, card: watch.Card, files: cells.Inputs, variant: Variant) -> dict[str, Any]:
    """Draw len(SEEDS) pictures from each LoRA."""
    folder = _folder(programs, variant)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    loras = [inputs.lora_file(files, number) for number in range(inputs.LORAS)]
    groups = [loras] if variant.swap else [[lora] for lora in loras]
    with watch.Peak(card) as peak:
        walls = [_draw(programs, files, variant, group) for group in groups]
    reports = [json.loads(_report(folder, group[0]).read_text(encoding="utf-8")) for group in groups]
    return {
        "wall_s": round(sum(walls), 1),
        "pictures_per_s": round(len(loras) * len(SEEDS) / sum(walls), 3),
        "peak_nvml_gib": peak.gib,
        "reserved_gib": max(report["reserved_gib"] for report in reports),
    }


def _folder(programs: watch.Programs, variant: Variant) -> Path:
    return programs.work / "pictures" / variant.key.replace(", ", "-").replace(" ", "-")


def _report(folder: Path, first: Path) -> Path:
    return folder / f"{first.stem}.json"


def _draw(programs: watch.Programs, files: cells.Inputs, variant: Variant, loras: Sequence[Path]) -> float:
    folder = _folder(programs, variant)
    plan = folder / f"{loras[0].stem}-plan.json"
    plan.write_text(json.dumps(_plan(loras)), encoding="utf-8")
    options = {
        "ckpt": files.checkpoint,
        "outdir": folder,
        "tokenizer_cache_dir": files.tokenizers,
        "W": 1024,
        "H": 1024,
        "steps": STEPS,
        "scale": 6,
        "sampler": "euler_a",
        "batch_size": 4,
        "vae_batch_size": 1,
        "images_per_prompt": 1,
        "network_module": "networks.lora",
        "network_weights": loras[0],
        "from_module": PROMPTER,
        "prompter_module_args": plan,
    }
    words = [str(word) for key, value in options.items() for word in (f"--{key}", value)]
    flags = ["--sdxl", "--bf16", "--sdpa", *(["--network_pre_calc"] if variant.merge else [])]
    report = _report(folder, loras[0])
    command = watch.module(programs, "full", report, programs.sd_scripts / "gen_img.py", *words, *flags)
    return watch.together(programs, [(command, report.with_suffix(".log"))])


def _plan(loras: Sequence[Path]) -> dict[str, Any]:
    common = {"text": PROMPT, "negative": NEGATIVE, "strength": 1.0}
    images = [
        {"file": f"{lora.stem}-{seed}.png", "seed": seed, "lora": number, **common}
        for number, lora in enumerate(loras)
        for seed in SEEDS
    ]
    return {"schema": 1, "loras": [str(lora) for lora in loras], "images": images}


def likeness(programs: watch.Programs, variant: Variant) -> dict[str, Any]:
    """How far a variant's pictures are from those of one process per LoRA, in steps of 8 bits per channel.

    `between_loras`: the same figure for two LoRAs under one seed, so that small has a meaning.
    """
    folder, reference = _folder(programs, variant), _folder(programs, REFERENCE)
    names = sorted(path.name for path in reference.glob("*.png"))
    distances = [_distance(folder / name, reference / name) for name in names]
    other = _distance(reference / f"lora-0-{SEEDS[0]}.png", reference / f"lora-1-{SEEDS[0]}.png")
    return {
        "compared": len(names),
        "identical": sum(distance == 0 for distance in distances),
        "mean_difference": round(float(np.mean(distances)), 4),
        "between_loras": round(other, 2),
    }


def _distance(one: Path, other: Path) -> float:
    pixels = [np.asarray(Image.open(file).convert("RGB"), dtype=np.float32) for file in (one, other)]
    return float(np.abs(pixels[0] - pixels[1]).mean())
