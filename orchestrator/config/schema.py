"""The settings, typed: one class for each table of orchestrate.toml."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from orchestrator.config.recipe import Recipe
from orchestrator.model import Params


@dataclass(frozen=True, slots=True, kw_only=True)
class FallbackStep:
    """One concession on out-of-memory. `when` must match the effective params; `set` may hold expressions."""

    name: str
    set: Params
    when: Params = field(default_factory=dict)
    keeps_result: bool = False


class Launcher(StrEnum):
    """How the trainer is started: its interpreter directly, or through `accelerate launch`."""

    PYTHON = "python"
    ACCELERATE = "accelerate"


@dataclass(frozen=True, slots=True, kw_only=True)
class Trainer:
    """The programs that train and generate, and the interpreter they live in."""

    python: Path
    sd_scripts: Path
    train_script: str = "sdxl_train_network.py"
    generate_script: str = "gen_img.py"
    launcher: Launcher = Launcher.PYTHON
    accelerate_args: tuple[str, ...] = ()
    tokenizer_cache_dir: Path | None = None
    resume: bool = False
    """Whether an interrupted training goes on from its last epoch instead of from the beginning."""
    env: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class BaseModel:
    """A named SDXL checkpoint, a single .safetensors file, and where to get it."""

    name: str
    path: Path
    vae: Path | None = None
    url: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dataset:
    """Pictures with captions beside them: a named folder, or what a recipe makes of another dataset."""

    name: str
    image_dir: Path
    caption_extension: str = ".txt"
    num_repeats: int = 1
    trigger: str = ""
    pictures: int | None = None
    """How many there ought to be: another number is told, and until they are there, forecasts reckon with it."""
    subset: Params = field(default_factory=dict)
    """Further keys of sd-scripts' `[[datasets.subsets]]`, verbatim."""
    recipe: Recipe | None = None
    """How it is made from another dataset; `image_dir` is then the folder that all of it began with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Generation:
    """How pictures are made for scoring: the same for every run. Sizes in pixels."""

    prompts: Path
    negative_prompt: str = ""
    seeds: tuple[int, ...] = (1, 2, 3, 4)
    strengths: tuple[float, ...] = (1.0,)
    checkpoints: str | tuple[int, ...] = "last"
    """`last`, `all`, or epochs."""
    steps: int = 28
    sampler: str = "euler_a"
    scale: float = 6.0
    width: int = 1024
    height: int = 1024
    batch_size: int = 4
    vae_batch_size: int = 1
    confirm_prompts: Path | None = None
    """What `orchestrate confirm` makes pictures of; the prompts themselves, with fresh seeds, where there is none."""
    merge: bool = True
    """Merge LoRA weights into the U-Net before each batch (`--network_pre_calc`) instead of hooking every layer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scoring:
    """The face pack and how it is run."""

    pack: Path
    references: Path
    device: str = "cpu"
    det_size: int = 640
    workers: int = 2
    url: str = ""
    second_pack: Path | None = None
    """Another face pack that scores every picture too: a number that depends on the pack is no answer."""
    clip: Path | None = None
    """A CLIP model, a folder as transformers saves it: how well pictures follow their prompts."""


NO_CARD = "none"
"""`vram.card` of a trainer that needs no GPU."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Vram:
    """Which cards, and how much of one a run may use."""

    card: str = ""
    """UUIDs or indices, with commas between; empty: all of them."""
    budget_gib: float | None = None
    colocate: bool = False
    """Several runs on one card, as their measured peaks allow."""
    ignore_other_sweeps: bool = False
    """Take a card also while another sweep drives it."""
    poll_s: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """When a child is given up."""

    wall_s: float = 24 * 3600
    stall_s: float = 30 * 60
    grace_s: float = 15
    crashes: int = 3
    """So many crashes, or machine failures, in a row count as failed and pause the sweep."""
    log_mib: float = 512
    free_gib: float = 5.0
    """Nothing is started with less disk than this."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EarlyStop:
    """When a training is given up on its way: its previews are worse than another run's beyond doubt, and by much.

    after: the share of the training before the first look, and between looks. p: the chance, over all looks and all
    runs compared with, of ending a training whose pictures are not worse by `margin` (similarity). pictures: previews
    of each look.
    """

    after: float = 0.34
    p: float = 0.01
    margin: float = 0.15
    pictures: int = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """orchestrate.toml. All paths are absolute here; they are relative to the file where they were written."""

    path: Path
    runs: Path
    templates: Path
    trainer: Trainer
    base_models: Mapping[str, BaseModel]
    datasets: Mapping[str, Dataset]
    base_model: str
    dataset: str
    generation: Generation
    scoring: Scoring
    arguments: Params = field(default_factory=dict)
    """sd-scripts arguments of every grid, unless the grid says otherwise."""
    vram: Vram = field(default_factory=Vram)
    limits: Limits = field(default_factory=Limits)
    oom_fallback: tuple[FallbackStep, ...] = ()
    early_stop: EarlyStop | None = None
    """None: every training goes to its end."""
    notify: str = ""
    """An http(s) URL that is told of failures, answers and the end; empty: nobody is."""
