"""A persona's project with an SDXL small enough for a CPU, in which orchestrate starts the real trainer."""

import csv
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import clip_tokenizers
import numpy as np
from PIL import Image
from safetensors.numpy import save_file

from orchestrator.config import settings
from orchestrator.config.schema import Dataset, Launcher
from orchestrator.datasets import prepare
from orchestrator.miniature import pack, world
from orchestrator.model import Point, Result, Value
from orchestrator.run.context import Context, Stop
from orchestrator.run.stages import train
from orchestrator.store.hashes import HashCache
from orchestrator.store.layout import Run

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
PICTURES = 4
SIDE = 128
SETTINGS = """
runs = "runs"
templates = "{templates}"

[trainer]
python = "{python}"
sd_scripts = "{sd_scripts}"
train_script = "{here}/tiny_train.py"
generate_script = "{here}/tiny_generate.py"
tokenizer_cache_dir = "tokenizers"
threads = 1  # these models are too small to gain from more
env = {{ ORCHESTRATE_SD_SCRIPTS = "{sd_scripts}", TORCHINDUCTOR_COMPILE_THREADS = "1" }}  # 1: no compiler processes

[base_models.tiny]
path = "base.safetensors"

[datasets.persona]
image_dir = "images"
trigger = "ohwx person"

[arguments]
network_module = "networks.lora"
network_dim = 4
network_alpha = 2
optimizer_type = "AdamW"
learning_rate = 1e-3
max_train_epochs = 1
train_batch_size = 2
gradient_accumulation_steps = 1
resolution = "{side},{side}"
mixed_precision = "no"
save_precision = "fp16"
sdpa = true
cache_latents = true
max_data_loader_n_workers = 0
seed = 1

[generate]
prompts = "prompts.txt"
seeds = [1, 2]
steps = 2
width = {side}
height = {side}
batch_size = 2

[score]
pack = "pack"
references = "references"
workers = 1

[vram]
card = "none"

[limits]
free_gib = 0.1
grace_seconds = 5
"""


GRID = """
[dims]
network_dim = [4, 8]
optimizer_type = ["AdamW", "Prodigy"]

[fixed]
network_alpha = "{{ network_dim // 2 }}"

[[when]]
match = { optimizer_type = "Prodigy" }
set = { learning_rate = 1.0, optimizer_args = ["decouple=True", "weight_decay=0.01"] }
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trainer:
    """The real thing: its sources and its interpreter."""

    sd_scripts: Path
    python: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """One attempt that is over."""

    run: Run
    result: Result
    folder: Path
    log: str

    @property
    def output(self) -> Path:
        return self.folder / "output"


@dataclass(frozen=True, slots=True, kw_only=True)
class Swept:
    """The sweep as a user would see it."""

    code: int
    output: str
    folder: Path

    def rows(self, name: str) -> list[dict[str, str]]:
        with (self.folder / "report" / name).open(encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file))


class World:
    """A persona's settings over the tiny SDXL."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.settings = settings.load(folder / "orchestrate.toml")

    def context(self, **changes: object) -> Context:
        """The settings with other fields, ready to work with."""
        used = replace(self.settings, **changes)  # type: ignore[arg-type]
        hashes = HashCache(used.runs)
        return Context(
            settings=used,
            templates=used.templates,
            datasets={name: prepare.build(one, used, hashes) for name, one in used.datasets.items()},
            prompts=tuple((self.folder / "prompts.txt").read_text(encoding="utf-8").splitlines()),
            probe=SimpleNamespace(gpus=lambda: [], sample=lambda *_: None),
            listener=SimpleNamespace(started=lambda *_: None, ended=lambda *_: None),
            environ=os.environ,
        )

    def run(self, name: str, **arguments: Value) -> Run:
        """A run of a point with these arguments over the settings' own."""
        params = {**self.settings.arguments, "base_model": "tiny", "dataset": "persona", **arguments}
        if "max_train_steps" in arguments:
            del params["max_train_epochs"]
        run = Run(self.settings.runs / "single" / name, Point(id=f"{len(name):08x}", name=name, params=params))
        run.create()
        return run

    def train(
        self,
        name: str,
        *,
        dataset: Dataset | None = None,
        stop: Stop | None = None,
        resume: bool = False,
        launcher: Launcher = Launcher.PYTHON,
        **arguments: Value,
    ) -> Trained:
        """One training by our own launcher from our own rendered files; the next attempt, if the run has some."""
        run = self.run(name, **arguments)
        trainer = replace(self.settings.trainer, resume=resume, launcher=launcher)
        ctx = self.context(trainer=trainer, **({"datasets": {"persona": dataset}} if dataset else {}))
        return trained(run, train.perform(run, replace(ctx, stop=Stop() if stop is None else stop)))

    def masked(self) -> Dataset:
        """The persona with a mask beside each image that leaves a sixteenth of it."""
        masks = self.folder / "masks"
        masks.mkdir()
        mask = np.zeros((SIDE, SIDE, 3), np.uint8)
        mask[: SIDE // 4, : SIDE // 4] = 255
        for image in self.dataset.image_dir.glob("*.png"):
            Image.fromarray(mask).save(masks / image.name)
        return replace(self.dataset, subset={"conditioning_data_dir": str(masks)})

    def broken(self) -> Dataset:
        """The persona with one image that was cut off."""
        folder = self.folder / "broken"
        if not folder.exists():
            shutil.copytree(self.dataset.image_dir, folder)
            victim = min(folder.glob("*.png"))
            victim.write_bytes(victim.read_bytes()[:200])
        return replace(self.dataset, image_dir=folder)

    def sweep(self, grid: str = GRID, name: str = "four", only: str = "") -> Swept:
        """A grid, by default of four points, by the command that a user types. only: a glob of points."""
        (self.folder / f"{name}.toml").write_text(grid, encoding="utf-8")
        done = self.orchestrate("run", "--grid", f"{name}.toml", *(["--only", only] if only else []))
        folder = self.settings.runs / name
        return Swept(code=done.returncode, output=done.stdout + done.stderr, folder=folder)

    def orchestrate(self, command: str, *words: str) -> subprocess.CompletedProcess[str]:
        argv = [sys.executable, "-m", "orchestrator", command, "--settings", "orchestrate.toml", *words]
        return subprocess.run(argv, cwd=self.folder, capture_output=True, text=True, check=False, timeout=1800)

    def said(self, code: str) -> str:
        """What the trainer's interpreter prints on standard error."""
        done = subprocess.run([self.settings.trainer.python, "-c", code], capture_output=True, text=True, check=False)
        return done.stderr

    @property
    def environ(self) -> dict[str, str]:
        return dict(os.environ)

    @property
    def dataset(self) -> Dataset:
        return self.settings.datasets["persona"]


def trained(run: Run, result: Result) -> Trained:
    """What the last attempt of a run left."""
    folder = run.attempts(train.NAME)[-1].path
    return Trained(run=run, result=result, folder=folder, log=(folder / "log").read_text(encoding="utf-8"))


def write(folder: Path, trainer: Trainer, vocabulary: Path) -> World:
    """A world whose base model is the tiny SDXL."""
    clip_tokenizers.write(vocabulary, folder / "tokenizers")
    _base(folder / "base.safetensors")
    pack.build(folder / "pack")
    world.photos(folder / "images", world.PERSONA, count=PICTURES, first=0, captions=True, px=SIDE)
    world.photos(folder / "references", world.PERSONA, count=8, first=1000, captions=False)
    (folder / "prompts.txt").write_text("photo of ohwx person\nohwx person, smiling\n", encoding="utf-8")
    names = {"here": HERE, "templates": ROOT / "templates", "side": SIDE}
    text = SETTINGS.format(python=trainer.python, sd_scripts=trainer.sd_scripts, **names)
    (folder / "orchestrate.toml").write_text(text, encoding="utf-8")
    return World(folder)


def _base(path: Path) -> None:
    """A file whose header says SDXL; its weights are never read, the tiny models have their own."""
    shapes = {
        "model.diffusion_model.input_blocks.0.0.weight": (320, 4, 3, 3),
        "model.diffusion_model.label_emb.0.0.weight": (1, 2816),
        "conditioner.embedders.0.transformer.text_model.final_layer_norm.bias": (1,),
        "conditioner.embedders.1.model.ln_final.bias": (1,),
        "first_stage_model.decoder.conv_in.bias": (1,),
    }
    save_file({name: np.zeros(shape, np.float16) for name, shape in shapes.items()}, str(path))
