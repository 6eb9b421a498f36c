"""What the real trainer needs at a CPU's size, and one way to start it: ours.

The sources are at ORCHESTRATE_SD_SCRIPTS (default: vendor/sd-scripts), its interpreter is ORCHESTRATE_TRAINER_PYTHON
(default: vendor/.venv/bin/python). CLIP's vocabulary is taken from an open_clip_torch installed there or here.
"""

import importlib.util
import os
import subprocess
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import clip_tokenizers
import numpy as np
import pytest
from safetensors.numpy import save_file

from orchestrator import provenance, settings
from orchestrator.context import Context
from orchestrator.miniature import pack, world
from orchestrator.model import Dataset, Point, Result, Value
from orchestrator.stages import prepare, train
from orchestrator.store import Run

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
VOCABULARY = "bpe_simple_vocab_16e6.txt.gz"
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
env = {{ ORCHESTRATE_SD_SCRIPTS = "{sd_scripts}" }}

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


class World:
    """A persona's settings over the tiny SDXL."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.settings = settings.load(folder / "orchestrate.toml")

    def context(self, **changes: object) -> Context:
        """The settings with other fields, ready to work with."""
        used = replace(self.settings, **changes)  # type: ignore[arg-type]
        hashes = provenance.Hashes(used.runs / ".hashes.json")
        return Context(
            settings=used,
            templates=used.templates,
            datasets={name: prepare.build(one, used, hashes) for name, one in used.datasets.items()},
            prompts=tuple((self.folder / "prompts.txt").read_text(encoding="utf-8").splitlines()),
            probe=SimpleNamespace(cards=lambda: [], sample=lambda *_: None),
            listener=SimpleNamespace(started=lambda *_: None, ended=lambda *_: None),
            environ=os.environ,
        )

    def run(self, name: str, **arguments: Value) -> Run:
        """A run of a point with these arguments over the settings' own."""
        params = {**self.settings.arguments, "base_model": "tiny", "dataset": "persona", **arguments}
        run = Run(self.settings.runs / "single" / name, Point(id=f"{len(name):08x}", name=name, params=params))
        run.create()
        return run

    def train(self, name: str, *, dataset: Dataset | None = None, **arguments: Value) -> Trained:
        """One training by our own launcher from our own rendered files."""
        run = self.run(name, **arguments)
        changes = {"datasets": {"persona": dataset}} if dataset else {}
        return trained(run, train.perform(run, self.context(**changes)))

    @property
    def dataset(self) -> Dataset:
        return self.settings.datasets["persona"]


def trained(run: Run, result: Result) -> Trained:
    """What the last attempt of a run left."""
    folder = run.attempts(train.NAME)[-1].path
    return Trained(run=run, result=result, folder=folder, log=(folder / "log").read_text(encoding="utf-8"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.vendor)


@pytest.fixture(scope="session")
def trainer() -> Trainer:
    """Skips where it is not installed."""
    sources = Path(os.environ.get("ORCHESTRATE_SD_SCRIPTS", ROOT / "vendor" / "sd-scripts")).absolute()
    python = Path(os.environ.get("ORCHESTRATE_TRAINER_PYTHON", ROOT / "vendor" / ".venv" / "bin" / "python")).absolute()
    for path, key in ((sources / "sdxl_train_network.py", "SD_SCRIPTS"), (python, "TRAINER_PYTHON")):
        if not path.exists():
            pytest.skip(f"the real trainer is not here: no {path} (`make setup-trainer`, or set ORCHESTRATE_{key})")
    return Trainer(sd_scripts=sources, python=python)


@pytest.fixture(scope="session")
def tiny(trainer: Trainer, tmp_path_factory: pytest.TempPathFactory) -> World:
    """A world whose base model is the tiny SDXL."""
    folder = tmp_path_factory.mktemp("tiny")
    clip_tokenizers.write(_vocabulary(trainer), folder / "tokenizers")
    _base(folder / "base.safetensors")
    pack.build(folder / "pack")
    world.photos(folder / "images", world.PERSONA, count=PICTURES, first=0, captions=True, px=SIDE)
    world.photos(folder / "references", world.PERSONA, count=8, first=1000, captions=False)
    (folder / "prompts.txt").write_text("photo of ohwx person\nohwx person, smiling\n", encoding="utf-8")
    names = {"here": HERE, "templates": ROOT / "templates", "side": SIDE}
    text = SETTINGS.format(python=trainer.python, sd_scripts=trainer.sd_scripts, **names)
    (folder / "orchestrate.toml").write_text(text, encoding="utf-8")
    return World(folder)


def _vocabulary(trainer: Trainer) -> Path:
    code = "import importlib.util as u; print(u.find_spec('open_clip').submodule_search_locations[0])"
    found = subprocess.run([trainer.python, "-c", code], capture_output=True, text=True, check=False)
    here = importlib.util.find_spec("open_clip")
    folders = [found.stdout.strip(), *(here.submodule_search_locations or () if here else ())]
    files = [Path(name) / VOCABULARY for name in folders if name]
    chosen = next((file for file in files if file.is_file()), None)
    if chosen is None:
        pytest.skip(f"CLIP's vocabulary is not here: `{trainer.python} -m pip install --no-deps open_clip_torch`")
    return chosen


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
