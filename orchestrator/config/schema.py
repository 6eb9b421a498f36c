"""The settings, typed: one class for each table of orchestrate.toml. docs/settings.md explains every key."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from orchestrator.config.fields import (
    Arguments,
    Averages,
    Checkpoints,
    Count,
    Environment,
    Extension,
    FilePath,
    Flag,
    Gpus,
    Internal,
    Natural,
    NonNegative,
    Positive,
    Repeats,
    Seeds,
    Share,
    Strengths,
    Table,
    Unit,
    WebAddress,
)
from orchestrator.config.recipe import Recipe

NO_GPU = "none"
"""`vram.card` of a trainer that needs no GPU."""


class Launcher(StrEnum):
    """How the trainer is started: its interpreter directly, or through `accelerate launch`."""

    PYTHON = "python"
    ACCELERATE = "accelerate"


@dataclass(frozen=True, slots=True, kw_only=True)
class Trainer(Table):
    """The programs that train and generate, and their interpreter."""

    python: FilePath
    """The trainer's own interpreter; `make setup-trainer` installs it."""
    sd_scripts: FilePath
    """The folder of kohya sd-scripts."""
    train_script: str = "sdxl_train_network.py"
    """The training script in that folder, or a path. Scripts of other model families than SDXL are rejected."""
    generate_script: str = "gen_img.py"
    """The generation script in that folder, or a path."""
    launcher: Launcher = Launcher.PYTHON
    """`accelerate` turns every exit code into 1."""
    accelerate_args: tuple[str, ...] = ()
    """Arguments of `accelerate launch`."""
    tokenizer_cache_dir: FilePath | None = None
    """Cache of the tokenizers. Once it is filled, sweeps need no network."""
    resume: Flag = False
    """Whether an interrupted training continues from its last saved state instead of from the beginning."""
    threads: Count | None = None
    """CPU threads of each training and generation (`OMP_NUM_THREADS` and similar). By default the cores divided by the
    largest number of runs at once. Frozen with the sweep, because the number changes the last digits of weights."""
    env: Environment = field(default_factory=dict)
    """Environment variables of the trainer and the generator. They override those that orchestrate sets."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BaseModel(Table):
    """A named SDXL checkpoint, a single .safetensors file, and where to get it."""

    name: Annotated[str, Internal()] = ""
    path: FilePath
    """The .safetensors file."""
    vae: FilePath | None = None
    """A VAE to use instead of the one in the file."""
    url: str = ""
    """Where to get the file; messages show it."""
    scale: Positive | None = None
    """`scale`, `sampler`, `steps` and `negative_prompt` replace those of [generate] for this base model."""
    sampler: str | None = None
    steps: Count | None = None
    negative_prompt: str | None = None

    @property
    def generation(self) -> dict[str, Any]:
        """The generation settings that this base model overrides."""
        own = {name: getattr(self, name) for name in ("scale", "sampler", "steps", "negative_prompt")}
        return {name: value for name, value in own.items() if value is not None}


@dataclass(frozen=True, slots=True, kw_only=True)
class Lora(Table):
    """A named LoRA file of any origin, for grids with `lora = ["NAME"]` in [dims]."""

    name: Annotated[str, Internal()] = ""
    path: FilePath
    """The .safetensors file."""
    base_model: str = ""
    """A name of [base_models.NAME], on which images are generated. Default: that of [defaults]."""
    trigger: str = ""
    """The words for the persona; they replace the triggers of the datasets in the prompts. Default: no replacement."""
    strength: Positive = 1.0
    """The LoRA multiplier."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dataset(Table):
    """Images with captions beside them: a folder, or the result of a recipe over another dataset."""

    name: Annotated[str, Internal()] = ""
    image_dir: FilePath
    """With a recipe: the folder of the dataset that the recipes start from."""
    caption_extension: Extension = ".txt"
    """Suffix of the caption files."""
    num_repeats: Repeats = 1
    """How often an epoch contains each image."""
    trigger: str = ""
    """The words for the persona; every caption contains them."""
    pictures: Count | None = None
    """The expected number: another number is reported; forecasts use it while the images are absent."""
    subset: Arguments = field(default_factory=dict)
    """Further keys of sd-scripts' `[[datasets.subsets]]`, unchanged."""
    resolutions: tuple[Arguments, ...] = ()
    """For training at several sizes: a table of arguments for each, with `resolution`; every size uses all images."""
    recipe: Annotated[Recipe | None, Internal()] = None
    subsets: Annotated[tuple["Dataset", ...], Internal()] = ()

    @property
    def parts(self) -> tuple["Dataset", ...]:
        """The subsets, each a dataset with one folder: this one if it has none."""
        return self.subsets or (self,)

    @property
    def is_prior(self) -> bool:
        """Whether its images preserve what the base model knows, instead of teaching the persona."""
        return bool(self.subset.get("is_reg") or self.subset.get(PRESERVED))

    @property
    def class_tokens(self) -> str:
        """The caption of images without a caption file."""
        return str(self.subset.get("class_tokens", self.trigger))


PRESERVED = "custom_attributes.diff_output_preservation"
"""The target of such a subset is the prediction of the base model (differential output preservation)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CustomAttributes(Table):
    """What sd-scripts reads of a subset's `custom_attributes`."""

    diff_output_preservation: Flag = False
    """The LoRA learns to predict for these images what the base model predicts."""


@dataclass(frozen=True, kw_only=True)
class SubsetKeys(Table):
    """Keys of sd-scripts' `[[datasets.subsets]]`; any other of its keys in `subset = { }`."""

    is_reg: Flag | None = None
    """Regularisation images: an epoch has as many as training images, and `prior_loss_weight` scales their loss."""
    custom_attributes: CustomAttributes | None = None
    """`{ diff_output_preservation = true }`: the base model's prediction is the target of these images."""
    class_tokens: str | None = None
    """The caption of images without a caption file; default: the trigger."""
    shuffle_caption: Flag | None = None
    """Shuffle the comma-separated parts of a caption at each use."""
    keep_tokens: Natural | None = None
    """The number of parts at the start of a caption that stay in place."""
    keep_tokens_separator: str | None = None
    """The parts before this text stay in place."""
    caption_prefix: str | None = None
    """Text before every caption."""
    caption_suffix: str | None = None
    """Text after every caption."""
    caption_dropout_rate: Unit | None = None
    """Share of the uses of an image without its caption."""
    caption_dropout_every_n_epochs: Natural | None = None
    """Every n-th epoch has no captions."""
    caption_tag_dropout_rate: Unit | None = None
    """Share of the parts of a caption that are left out at each use."""
    flip_aug: Flag | None = None
    """Mirror images at random; faces are not symmetric."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Generation(Table):
    """How images are made for scoring: the same for every run. Sizes in pixels."""

    prompts: FilePath
    """A text file, one prompt per line."""
    negative_prompt: str = ""
    """The negative prompt of all images."""
    seeds: Seeds = (1, 2, 3, 4)
    """Image seeds: one image per prompt, seed, checkpoint and strength."""
    strengths: Strengths = (1.0,)
    """LoRA multipliers."""
    checkpoints: Checkpoints = "last"
    """`best`: all compared on a few images, the best one scored on all; `last`, `all`, or epochs."""
    averages: Averages = ()
    """Averages of a run's saved checkpoints, generated too: `mean`, `mean-3` (of the last three), `ema-0.8` (decay)."""
    steps: Count = 28
    """Denoising steps."""
    sampler: str = "euler_a"
    """A sampler of gen_img.py."""
    scale: Positive = 6.0
    """Guidance scale (CFG)."""
    width: Annotated[Count, Field(ge=64)] = 1024
    """Pixels."""
    height: Annotated[Count, Field(ge=64)] = 1024
    """Pixels."""
    batch_size: Count = 4
    """Images generated at once."""
    vae_batch_size: Count = 1
    """Images decoded at once; decoding is the VRAM peak."""
    confirm_prompts: FilePath | None = None
    """The prompts of `orchestrate confirm`; without it, the prompts above with new seeds."""
    merge: Flag = True
    """Merge LoRA weights into the U-Net before each batch (`--network_pre_calc`) instead of hooking every layer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scoring(Table):
    """The face pack and how it is run."""

    pack: FilePath
    """The face pack, a folder of .onnx files."""
    references: FilePath
    """A folder of photos of the persona that are not trained on."""
    device: Literal["cpu", "cuda"] = "cpu"
    """`cuda` needs `make gpu-scoring`."""
    det_size: Annotated[Count, Field(ge=32)] = 640
    """Side of the face detector's input, pixels; scores are comparable only at the same size."""
    workers: Count = 2
    """Images scored at the same time."""
    url: str = ""
    """Where to get the face pack; messages show it."""
    second_pack: FilePath | None = None
    """Another face pack that scores every image too, to see whether a result depends on the pack."""
    clip: FilePath | None = None
    """A CLIP model, a folder as transformers saves it: measures how well images follow their prompts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Vram(Table):
    """Which GPUs to use, and how much VRAM a run may use."""

    card: Gpus = ""
    """UUIDs or indices: a list, or text with commas between. Empty or `all`: all GPUs; `none`: no GPU."""
    budget_gib: Positive | None = None
    """A run that uses more counts as out of memory, also on a larger GPU."""
    colocate: Flag = False
    """Run several trainings on one GPU, as their measured peaks allow."""
    ignore_other_sweeps: Flag = False
    """Use a GPU although another sweep uses it."""
    poll_seconds: Positive = 1.0
    """Interval of VRAM measurements."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits(Table):
    """When a child process is stopped."""

    wall_hours: Positive = 24.0
    """Longest duration of one training or generation."""
    stall_minutes: Positive = 30.0
    """Longest time without a new line in the log."""
    grace_seconds: Positive = 15.0
    """Time between SIGTERM and SIGKILL."""
    crashes: Count = 3
    """A run fails after this many crashes in a row; as many machine failures in a row pause the sweep."""
    log_mib: Positive = 512.0
    """A program with a longer log is stopped."""
    free_gib: Positive = 5.0
    """Nothing is started with less free disk space."""

    @property
    def wall_s(self) -> float:
        return self.wall_hours * 3600

    @property
    def stall_s(self) -> float:
        return self.stall_minutes * 60


@dataclass(frozen=True, slots=True, kw_only=True)
class EarlyStop(Table):
    """When a training is stopped early: its previews are significantly worse than those of another run."""

    after: Share = 0.34
    """Share of the training before the first preview check, and between checks."""
    p: Share = 0.01
    """The chance, over all checks and runs, to stop a training that is not worse by `margin`."""
    margin: Positive = 0.15
    """In similarity."""
    pictures: Annotated[Count, Field(ge=5)] = 16
    """Previews of each check."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FallbackStep(Table):
    """A change after an out-of-memory failure. `when` must match the effective params; `set` may have expressions."""

    name: str
    """Shown in the report."""
    set: Annotated[Arguments, Field(min_length=1)]
    """The arguments to change."""
    when: Arguments = field(default_factory=dict)
    """The step applies only to runs with these arguments."""
    keeps_result: Flag = False
    """false: runs that used this step are marked degraded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Defaults(Table):
    """The base model and the dataset of points whose grid names none."""

    base_model: str = ""
    """A name of [base_models.NAME]."""
    dataset: str = ""
    """A name of [datasets.NAME]."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Notify(Table):
    """Webhook notifications."""

    url: WebAddress = ""
    """An http(s) address that receives failures, answers and the end of a sweep."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison(Table):
    """Which runs are compared."""

    allow_different_hardware: Flag = False
    """Also compare runs that were made on another GPU model, or with other versions of the driver or of a package."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Margins(Table):
    """The accepted cost of a better similarity. Default: the standard deviation over the baseline's image seeds."""

    adherence: NonNegative | None = None
    """In CLIP cosine of image and prompt."""
    diversity: NonNegative | None = None
    """In one minus the cosine of faces."""
    drift: NonNegative | None = None
    """In one minus the CLIP cosine of images."""


def override_margins(margins: Margins, others: Margins) -> Margins:
    """The margins, replaced by the others where these are set."""
    return replace(margins, **{name: value for name, value in asdict(others).items() if value is not None})


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """orchestrate.toml. All paths are absolute."""

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
    arguments: Arguments = field(default_factory=dict)
    """sd-scripts arguments of every grid, unless the grid sets them."""
    loras: Mapping[str, Lora] = field(default_factory=dict)
    """Existing LoRA files."""
    optimizers: Mapping[str, Arguments] = field(default_factory=dict)
    """Arguments of trainings with an optimizer, by the value of optimizer_type; they replace those above."""
    vram: Vram = field(default_factory=Vram)
    limits: Limits = field(default_factory=Limits)
    oom_fallback: tuple[FallbackStep, ...] = ()
    early_stop: EarlyStop | None = None
    """None: every training runs to its end."""
    comparison: Comparison = field(default_factory=Comparison)
    margins: Margins = field(default_factory=Margins)
    notify: str = ""
    """The address for notifications; empty: none are sent."""

    def generation_of(self, base_model: str) -> Generation:
        """How images of this base model are made: [generate], with what the base model overrides."""
        return replace(self.generation, **self.base_models[base_model].generation)
