"""Checks a base checkpoint by its name and header: readable, SDXL, suitable for training."""

import re
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path

from orchestrator.errors import Problem, Severity
from orchestrator.kohya.outputs import safetensors_header
from orchestrator.kohya.outputs.safetensors_header import Header
from orchestrator.model import Params

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
    """Why sd-scripts cannot train on or generate from this file; `where` and `key` are the place that names it."""
    return [*_placed(_issues(path), path, where, key), *is_distilled(path, where=where, key=key)]


def vae_problems(path: Path, *, where: str = "", key: str = "") -> list[Problem]:
    """Why an existing file cannot be used as a separate VAE."""
    return _placed(_vae_issues(path), path, where, key)


def _vae_issues(path: Path) -> Iterator[tuple[str, str]]:
    if pickled := list(is_pickle(path)):
        yield from pickled
        return
    try:
        tensors = safetensors_header.read_header(path).tensors
    except (OSError, ValueError) as error:
        yield f"the VAE cannot be read: {error}", "download it again"
        return
    channels = [tensor.shape[1:2] for name, tensor in tensors.items() if name.endswith("decoder.conv_in.weight")]
    if channels != [(4,)]:
        what = f"its latents have {channels[0][0]} channels, not 4" if channels and channels[0] else "it has no decoder"
        yield f"it is not a VAE of SDXL: {what}", "get SDXL's VAE, or remove `vae` to use that of the base model"


def prediction(path: Path, trainings: Iterable[Params], *, where: str = "", key: str = "") -> list[Problem]:
    """A warning about the first training that predicts v unlike the base model, or without its terminal SNR of zero."""
    try:
        header = safetensors_header.read_header(path)
    except (OSError, ValueError):
        return []  # reported by `problems`
    predicts = header.metadata.get("modelspec.prediction_type", "") or header.metadata.get("prediction_type", "")
    marks = {
        "v_parameterization": "v_pred" in header.tensors or predicts in ("v", "v_prediction"),
        "zero_terminal_snr": "ztsnr" in header.tensors,
    }
    issues = (issue for params in trainings for issue in _prediction_issues(marks, params))
    return _placed(islice(issues, 1), path, where, key, Severity.WARNING)


def _prediction_issues(marks: Mapping[str, bool], params: Params) -> Iterator[tuple[str, str]]:
    needed = [argument for argument, marked in marks.items() if marked and not params.get(argument)]
    if needed:
        what = "the base model says that it was trained with v-prediction or a terminal SNR of zero, "
        what += "unlike these trainings"
        yield what, f"set {' and '.join(f'{argument} = true' for argument in needed)} in [fixed]"
    elif params.get("v_parameterization") and not marks["v_parameterization"]:
        what = "nothing in the base model says that it predicts v, as v_parameterization assumes"
        yield what, "remove v_parameterization, unless the model's page says v-prediction"


def is_pickle(path: Path) -> Iterator[tuple[str, str]]:
    """An issue and its remedy if a file of weights, by its name, is not safetensors."""
    if path.suffix.lower() != ".safetensors":
        what = f"{path.suffix or 'a file without suffix'} is not .safetensors: sd-scripts would open it as a pickle"
        yield what, "get the file as .safetensors: a pickle runs code when it is opened"


def _placed(
    issues: Iterable[tuple[str, str]], path: Path, where: str, key: str, severity: Severity = Severity.ERROR
) -> list[Problem]:
    return [
        Problem(what=what, where=where, key=key, value=str(path), remedy=remedy, severity=severity)
        for what, remedy in issues
    ]


def is_distilled(path: Path, *, where: str, key: str) -> list[Problem]:
    """A warning about a checkpoint whose name says that it was made for few steps; the file need not exist."""
    kind = next((kind for kind, pattern in _DISTILLED.items() if re.search(pattern, path.name.lower())), "")
    what = f"its name says that this is a {kind} checkpoint, made for few steps at a low scale: it trains badly"
    remedy = "use the checkpoint that it was distilled from, or generate with its own steps, sampler and scale"
    return _placed([(what, remedy)] if kind else [], path, where, key, Severity.WARNING)


def _issues(path: Path) -> Iterator[tuple[str, str]]:
    if not path.is_file():
        yield "the base model does not exist", "put the checkpoint there, or correct the path"
        return
    if pickled := list(is_pickle(path)):
        yield from pickled
        return
    # sd-scripts follows one link itself, from its own working directory, and uses the suffix of the target.
    target = path.readlink() if path.is_symlink() else path
    if path.is_symlink() and not (target.is_absolute() and target.suffix.lower() == ".safetensors"):
        remedy = f"name the file itself ({path.resolve()}), or make a hard link or a copy that ends in .safetensors"
        yield "it is a link that sd-scripts does not follow correctly", remedy
    try:
        header = safetensors_header.read_header(path)
    except (OSError, ValueError) as error:
        yield f"the base model cannot be read: {error}", "download it again"
        return
    yield from _architecture_issues(header)


def _architecture_issues(header: Header) -> Iterator[tuple[str, str]]:
    remedy = "name a single-file SDXL 1.0 checkpoint with all its parts"
    absent = [name for prefix, name in _PARTS.items() if not any(key.startswith(prefix) for key in header.tensors)]
    if absent:
        yield f"it is not an SDXL checkpoint: no {', no '.join(absent)} in it", remedy
        return
    channels, label = (header.tensors[key].shape if key in header.tensors else () for key in (_INPUT, _LABEL))
    if channels[1:2] != (4,):
        yield "its U-Net does not have 4 input channels: an inpainting model, or not SDXL", remedy
    if label[1:2] != (2816,):
        yield "its U-Net is not conditioned as SDXL's base: a refiner, or another model", remedy
