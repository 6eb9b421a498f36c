"""What a base checkpoint's file is: readable, really SDXL, fit for training. From its name and header alone."""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from orchestrator.errors import Problem, Severity
from orchestrator.kohya.outputs import safetensors_header
from orchestrator.kohya.outputs.safetensors_header import Header

_PARTS = {
    "model.diffusion_model.": "U-Net",
    "conditioner.embedders.0.transformer.": "first text encoder",
    "conditioner.embedders.1.model.": "second text encoder",
    "first_stage_model.": "VAE",
}
_INPUT = "model.diffusion_model.input_blocks.0.0.weight"
_LABEL = "model.diffusion_model.label_emb.0.0.weight"

_DISTILLED = {
    "Lightning": r"lightning",
    "Turbo": r"turbo",
    "LCM": r"(?<![a-z])lcm(?![a-z])",
    "Hyper": r"(?<![a-z])hyper(?=[^a-z]|sd|xl|$)",
    "DMD": r"(?<![a-z])dmd2?(?![a-z])",
    "few-step": r"(?<!\d)[1-8][-_ ]?steps?(?![a-z])",
}


def problems(path: Path, *, where: str = "", key: str = "") -> list[Problem]:
    """Why sd-scripts could not train on, or generate from, this file; `where` and `key` say who named it."""
    return [*_told(_unfit(path), path, where, key), *is_distilled(path, where=where, key=key)]


def vae_problems(path: Path, *, where: str = "", key: str = "") -> list[Problem]:
    """Why a VAE of its own, a file that is there, is not given to sd-scripts."""
    return _told(is_pickle(path), path, where, key)


def is_pickle(path: Path) -> Iterator[tuple[str, str]]:
    """What is wrong with a file of weights that is none of safetensors, by its name, and what to do."""
    if path.suffix.lower() != ".safetensors":
        yield (
            f"{path.suffix or 'a file without suffix'} is not .safetensors: sd-scripts would open it as a pickle",
            "get the file as .safetensors: a pickle runs code when it is opened",
        )


def _told(wrong: Iterable[tuple[str, str]], path: Path, where: str, key: str) -> list[Problem]:
    return [Problem(what=what, where=where, key=key, value=str(path), remedy=remedy) for what, remedy in wrong]


def is_distilled(path: Path, *, where: str = "", key: str = "") -> list[Problem]:
    """A warning about a checkpoint whose name says that it was made for few steps; the file need not be here."""
    return [
        Problem(what=what, where=where, key=key, value=str(path), remedy=remedy, severity=Severity.WARNING)
        for what, remedy in _distilled(path)
    ]


def _unfit(path: Path) -> Iterator[tuple[str, str]]:
    if not path.is_file():
        yield "the base model is not there", "put the checkpoint there, or mend the path"
        return
    if risks := list(is_pickle(path)):
        yield from risks
        return
    yield from _misleading_link(path)
    try:
        found = safetensors_header.read_header(path)
    except (OSError, ValueError) as error:
        yield f"the base model cannot be read: {error}", "download it again"
        return
    yield from _not_sdxl(found)


def _misleading_link(path: Path) -> Iterator[tuple[str, str]]:
    """sd-scripts follows one link by itself, from its own working directory, and goes by the suffix of the target."""
    if path.is_symlink():
        target = path.readlink()
        if not target.is_absolute() or target.suffix.lower() != ".safetensors":
            remedy = f"name the file itself ({path.resolve()}), or make a hard link or a copy that ends in .safetensors"
            yield "it is a link that sd-scripts does not follow rightly", remedy


def _not_sdxl(found: Header) -> Iterator[tuple[str, str]]:
    remedy = "name a single-file SDXL 1.0 checkpoint with all its parts"
    absent = [name for prefix, name in _PARTS.items() if not any(key.startswith(prefix) for key in found.tensors)]
    if absent:
        yield f"it is no SDXL checkpoint: no {', no '.join(absent)} in it", remedy
        return
    takes, conditions = (found.tensors[key].shape if key in found.tensors else () for key in (_INPUT, _LABEL))
    if takes[1:2] != (4,):
        yield "its U-Net does not take 4 channels: an inpainting model, or none of SDXL", remedy
    if conditions[1:2] != (2816,):
        yield "its U-Net is not conditioned as SDXL's base: a refiner, or another model", remedy


def _distilled(path: Path) -> Iterator[tuple[str, str]]:
    for kind, pattern in _DISTILLED.items():
        if re.search(pattern, path.name.lower()):
            yield (
                f"by its name this is a {kind} checkpoint: made for few steps at low scale, it trains and scores badly",
                "use the checkpoint that it was distilled from, or generate with its own steps, sampler and scale",
            )
            return
