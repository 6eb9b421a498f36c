"""Which trainings are measured, and the trainer's command line for each."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ADAMW = "AdamW8bit"
PRODIGY = "Prodigy"
LEARNING_RATES = {ADAMW: 1e-4, PRODIGY: 1.0}
OPTIMIZER_ARGS = {
    ADAMW: ["weight_decay=0.01"],
    PRODIGY: ["decouple=True", "weight_decay=0.01", "use_bias_correction=True", "safeguard_warmup=True"],
}
SAMPLE_STEPS = 4  # the peak of a sample is its VAE decode: more denoising steps cost time and change nothing


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One training whose memory and speed are measured. `resolution` and `sample` in pixels, 0: no sample images."""

    dim: int
    optimizer: str
    batch: int = 1
    text_encoders: bool = True
    checkpointing: bool = True
    resolution: int = 1024
    sample: int = 0

    @property
    def key(self) -> str:
        trained = "te" if self.text_encoders else "unet"
        saved = "gc" if self.checkpointing else "nogc"
        drawn = f"-sample{self.sample}" if self.sample else ""
        return f"dim{self.dim}-{self.optimizer}-b{self.batch}-{trained}-{saved}-{self.resolution}{drawn}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """The files every training reads, made by inputs.py."""

    folder: Path

    @property
    def checkpoint(self) -> Path:
        return self.folder / "random-sdxl.safetensors"

    @property
    def tokenizers(self) -> Path:
        return self.folder / "tokenizers"

    def pictures(self, resolution: int) -> Path:
        """One folder per resolution: sd-scripts' latent cache beside the images does not know the resolution."""
        return self.folder / f"pictures-{resolution}"

    def dataset(self, cell: Cell) -> Path:
        return self.folder / f"dataset-{cell.resolution}-b{cell.batch}.toml"

    def prompts(self, cell: Cell) -> Path:
        return self.folder / f"prompts-{cell.sample}.txt"


def training() -> Iterator[Cell]:
    """The cells, the most wanted first: each answers a question about a 24 GB GPU."""
    yield from (Cell(dim=dim, optimizer=name) for name in (PRODIGY, ADAMW) for dim in (32, 16, 64, 128))
    for batch in (1, 2, 4):  # is checkpointing needed at all?
        yield Cell(dim=32, optimizer=PRODIGY, batch=batch, checkpointing=False)
    yield from sampling()
    for batch in (2, 4):
        yield Cell(dim=32, optimizer=PRODIGY, batch=batch)
        yield Cell(dim=16, optimizer=ADAMW, batch=batch)
    for batch in (1, 2):
        yield Cell(dim=16, optimizer=ADAMW, batch=batch, checkpointing=False)
    for batch in (1, 2, 4):  # what do the text encoders cost?
        yield Cell(dim=32, optimizer=PRODIGY, batch=batch, text_encoders=False, checkpointing=False)
    for batch in (1, 4):
        yield Cell(dim=32, optimizer=PRODIGY, batch=batch, text_encoders=False)
    yield Cell(dim=16, optimizer=ADAMW, text_encoders=False)
    yield from held_out()
    for checkpointing in (True, False):
        for batch in (1, 4):
            yield Cell(dim=32, optimizer=PRODIGY, batch=batch, checkpointing=checkpointing, resolution=768)


def held_out() -> Iterator[Cell]:
    """Cells that no model of the memory is fitted to: its error is stated on them."""
    yield Cell(dim=64, optimizer=PRODIGY, batch=2, checkpointing=False)
    yield Cell(dim=128, optimizer=ADAMW, batch=4, text_encoders=False)
    yield Cell(dim=16, optimizer=PRODIGY, batch=4)
    yield Cell(dim=64, optimizer=ADAMW, batch=4, checkpointing=False)
    yield Cell(dim=128, optimizer=PRODIGY, batch=2)


def sampling() -> Iterator[Cell]:
    """Cells that also draw an image during training."""
    yield from (Cell(dim=32, optimizer=PRODIGY, sample=size) for size in (1024, 768, 512))
    yield Cell(dim=16, optimizer=ADAMW, sample=1024)
    yield Cell(dim=32, optimizer=PRODIGY, checkpointing=False, sample=1024)


def checking() -> Iterator[Cell]:
    """Cells that are also run as whole processes of the unmodified script."""
    yield Cell(dim=32, optimizer=PRODIGY)
    yield Cell(dim=16, optimizer=ADAMW)
    yield Cell(dim=32, optimizer=PRODIGY, batch=2, checkpointing=False)
    yield Cell(dim=32, optimizer=PRODIGY, batch=4, text_encoders=False, checkpointing=False)


def argv(cell: Cell, inputs: Inputs, output: Path, *, steps: int) -> list[str]:
    """The arguments of sdxl_train_network.py for a cell; the LoRA goes to `output`."""
    paths = {
        "pretrained_model_name_or_path": inputs.checkpoint,
        "dataset_config": inputs.dataset(cell),
        "tokenizer_cache_dir": inputs.tokenizers,
        "output_dir": output,
        "output_name": cell.key,
    }
    network = {"network_module": "networks.lora", "network_dim": cell.dim, "network_alpha": cell.dim // 2}
    optimizer = {"optimizer_type": cell.optimizer, "learning_rate": LEARNING_RATES[cell.optimizer]}
    # The data loader in the trainer's own process: two seconds less per epoch, and the same batches everywhere.
    run = {"max_train_steps": steps, "mixed_precision": "bf16", "save_precision": "fp16", "seed": 1}
    run |= {"max_data_loader_n_workers": 0}
    words = [word for key, value in (paths | network | optimizer | run).items() for word in (f"--{key}", str(value))]
    return [*words, "--optimizer_args", *OPTIMIZER_ARGS[cell.optimizer], *_flags(cell), *_sampling(cell, inputs)]


def _flags(cell: Cell) -> list[str]:
    flags = ["--sdpa", "--cache_latents"]
    if cell.checkpointing:
        flags.append("--gradient_checkpointing")
    if not cell.text_encoders:
        flags += ["--network_train_unet_only", "--cache_text_encoder_outputs"]
    return flags


def _sampling(cell: Cell, inputs: Inputs) -> list[str]:
    return ["--sample_prompts", str(inputs.prompts(cell)), "--sample_every_n_steps", "2"] if cell.sample else []
