"""Ways to draw images from several LoRAs with gen_img.py: how fast, how much memory, and are they the same?"""

import json
import shutil
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.gpu import cells, inputs, watch
from orchestrator.files import write_json
from orchestrator.kohya import gen_img_plugin
from orchestrator.store import follow, locks

PROMPT = "photo of ohwx woman, portrait"
NEGATIVE = "blurry"
SEEDS = (1, 2, 3, 4)
STEPS = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """`resident`: one process that gets a job for each LoRA. `merge`: into the U-Net before each batch instead of
    hooking every layer."""

    resident: bool
    merge: bool

    @property
    def key(self) -> str:
        return f"{'resident process' if self.resident else 'process per LoRA'}, {'merged' if self.merge else 'hooks'}"


REFERENCE = Variant(resident=False, merge=True)
VARIANTS = (REFERENCE, Variant(resident=True, merge=True), Variant(resident=True, merge=False))


def measure(programs: watch.Programs, card: watch.Card, files: cells.Inputs, variant: Variant) -> dict[str, Any]:
    """Draw len(SEEDS) images from each LoRA."""
    folder = _folder(programs, variant)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    loras = [inputs.lora_file(files, number) for number in range(inputs.LORAS)]
    with watch.Peak(card) as peak:
        draw = _resident if variant.resident else _separate
        walls = draw(programs, files, variant, loras)
    reports = [json.loads(path.read_text(encoding="utf-8")) for path in folder.glob("lora-?.json")]
    return {
        "wall_s": round(sum(walls), 3),
        "further_lora_s": round(walls[-1], 3),
        "peak_nvml_gib": peak.gib,
        "reserved_gib": max(report["reserved_gib"] for report in reports),
    }


def _separate(programs: watch.Programs, files: cells.Inputs, variant: Variant, loras: Sequence[Path]) -> list[float]:
    """Seconds by LoRA."""
    folder = _folder(programs, variant)
    return [_draw(programs, files, variant, lora, _plan(folder, lora)) for lora in loras]


def _resident(programs: watch.Programs, files: cells.Inputs, variant: Variant, loras: Sequence[Path]) -> list[float]:
    """Seconds by LoRA; those of the first include the start."""
    folder, seconds = _folder(programs, variant), []
    generator = folder / "generator"
    generator.mkdir()
    with ThreadPoolExecutor(1) as pool, locks.acquire(generator / follow.OWNER):
        process = pool.submit(_draw, programs, files, variant, loras[0], generator)
        for lora in loras:
            began = time.monotonic()
            write_json(generator / follow.JOB, {"plan": str(_plan(folder, lora)), "outdir": str(folder)})
            while (generator / follow.JOB).exists() and not process.done():
                time.sleep(0.02)
            seconds.append(time.monotonic() - began)
    process.result()
    return seconds


def _folder(programs: watch.Programs, variant: Variant) -> Path:
    return programs.work / "pictures" / variant.key.replace(", ", "-").replace(" ", "-")


def _draw(programs: watch.Programs, files: cells.Inputs, variant: Variant, lora: Path, jobs: Path) -> float:
    """Start gen_img.py with a LoRA on a plan, or on the folder of its jobs; the seconds until it ends."""
    folder = _folder(programs, variant)
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
        "network_weights": lora,
        "from_module": gen_img_plugin.__file__,
        "prompter_module_args": jobs,
    }
    words = [str(word) for key, value in options.items() for word in (f"--{key}", value)]
    flags = ["--sdxl", "--bf16", "--sdpa", *(["--network_pre_calc"] if variant.merge else [])]
    report = folder / f"{lora.stem}.json"
    command = watch.module(programs, "full", report, programs.sd_scripts / "gen_img.py", *words, *flags)
    return watch.together(programs, [(command, report.with_suffix(".log"))])


def _plan(folder: Path, lora: Path) -> Path:
    common = {"text": PROMPT, "negative": NEGATIVE, "strength": 1.0, "lora": 0}
    images = [{"file": f"{lora.stem}-{seed}.png", "seed": seed, **common} for seed in SEEDS]
    path = folder / f"{lora.stem}-plan.json"
    write_json(path, {"schema": gen_img_plugin.SCHEMA, "loras": [str(lora)], "images": images})
    return path


def likeness(programs: watch.Programs, variant: Variant) -> dict[str, Any]:
    """How far a variant's images are from those of one process per LoRA, in steps of 8 bits per channel.

    `between_loras`: the same figure for two LoRAs under one seed, so that small has a meaning.
    """
    folder, reference = _folder(programs, variant), _folder(programs, REFERENCE)
    names = sorted(path.name for path in reference.glob("*.png"))
    distances = [_distance(folder / name, reference / name) for name in names]
    other = _distance(reference / f"lora-0-{SEEDS[0]}.png", reference / f"lora-1-{SEEDS[0]}.png")
    return {
        "compared": len(names),
        "identical": sum(distance == 0 for distance in distances),
        "identical_files": sum((folder / name).read_bytes() == (reference / name).read_bytes() for name in names),
        "mean_difference": round(float(np.mean(distances)), 4),
        "between_loras": round(other, 2),
    }


def _distance(one: Path, other: Path) -> float:
    pixels = [np.asarray(Image.open(file).convert("RGB"), dtype=np.float32) for file in (one, other)]
    return float(np.abs(pixels[0] - pixels[1]).mean())
