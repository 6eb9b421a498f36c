"""Proves that a training left what was asked for: the files, sound and finite, with metadata that says so.

An exit code of 0 proves nothing: sd-scripts exits so without data, and with a loss that became NaN.
"""

import hashlib
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from orchestrator.errors import Problem
from orchestrator.kohya import resume
from orchestrator.kohya.optimizers import optimizer_of
from orchestrator.kohya.outputs import files, log, safetensors_header
from orchestrator.kohya.outputs.files import TrainingLength
from orchestrator.kohya.outputs.safetensors_header import Header
from orchestrator.kohya.resume import ResumeSegment
from orchestrator.model import Checkpoint, Failure, Params, Value
from orchestrator.store.hashes import sha256


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputCheck:
    """The proven checkpoints, oldest first, named relative to the output folder; or why there are none.

    `failure` is None exactly when there are no problems.
    """

    checkpoints: tuple[Checkpoint, ...] = ()
    problems: tuple[Problem, ...] = ()
    failure: Failure | None = None


def verify(
    output_dir: Path,
    output_name: str,
    params: Params,
    log_text: str,
    *,
    training_comment: str,
    earlier: Sequence[ResumeSegment] = (),
    begun: int = 0,
) -> OutputCheck:
    """Prove a training of `params` that ended well. `log_text` is its log, or the tail of it.

    begun: the epochs that it had behind it when it was taken up; earlier: where those were trained, oldest first.
    """
    if quiet := log.classify(log_text, 0):
        return _refuted([Problem(what=quiet[1], where=str(output_dir))], quiet[0])
    final = output_dir / files.last(output_name)
    problems = [*_unsound(final, params), *_other_than_asked(final, params, training_comment, log_text, begun)]
    if problems:
        return _refuted(problems, _kind(problems))
    length = _length(safetensors_header.read_header(final).metadata)
    if length is None:
        what = "the checkpoint does not record how long it was trained"
        return _refuted([Problem(what=what, where=str(final), remedy="train it again")], Failure.NO_PRODUCT)
    expected = files.expected(output_name, params, length)
    legs = (*earlier, ResumeSegment(epoch=begun, folder=output_dir))
    problems = [problem for found in expected[:-1] for problem in _not_its(found, params, legs, length)]
    if problems:
        return _refuted(problems, _kind(problems))
    hashed = (replace(found, sha256=sha256(_leg(legs, found).folder / found.file)) for found in expected)
    return OutputCheck(checkpoints=tuple(hashed))


def _refuted(problems: list[Problem], failure: Failure) -> OutputCheck:
    return OutputCheck(problems=tuple(problems), failure=failure)


_NOT_FINITE = "has weights that are NaN or infinite"


def _kind(problems: list[Problem]) -> Failure:
    return Failure.NAN if any(_NOT_FINITE in problem.what for problem in problems) else Failure.NO_PRODUCT


# --- one file ---------------------------------------------------------------------------------------------------------


def _unsound(path: Path, params: Params) -> Iterator[Problem]:
    """What is wrong with a checkpoint as a file of LoRA weights."""
    try:
        found = safetensors_header.read_header(path)
        bad = safetensors_header.not_finite(path, found)
        untrained = safetensors_header.all_zero(path, found, suffix=".lora_up.weight")
        torn = _torn(path, found)
    except FileNotFoundError:
        yield Problem(what="the checkpoint is missing", where=str(path), remedy="read the end of the attempt's log")
        return
    except (OSError, ValueError) as error:
        yield Problem(what=f"the checkpoint is broken: {error}", where=str(path), remedy="train it again")
        return
    if torn:
        what = "its weights are not those that were saved: a part of it never reached the disk"
        yield Problem(what=what, where=str(path), remedy="train it again")
    if bad:
        what = f"{len(bad)} of {len(found.tensors)} tensors: the checkpoint {_NOT_FINITE}"
        yield Problem(what=what, where=str(path), remedy="lower the learning rate, or use mixed_precision bf16")
    if untrained:
        what = "nothing was learned: every weight that training moves is still zero"
        yield Problem(what=what, where=str(path), remedy="raise the learning rate or the number of steps")
    yield from _other_rank(path, found, params)


def _torn(path: Path, found: Header) -> bool:
    """Whether the weights are other than the hash says that sd-scripts takes of them when it saves."""
    told = found.metadata.get("sshs_model_hash")
    if told is None:
        return False
    with path.open("rb") as file:
        file.seek(min((tensor.begin for tensor in found.tensors.values()), default=0))
        return hashlib.file_digest(file, "sha256").hexdigest() != told


def ranks(found: Header) -> set[int]:
    """The ranks of a LoRA's modules, from the header of its file."""
    return {tensor.shape[0] for name, tensor in found.tensors.items() if name.endswith(".lora_down.weight")}


def _other_rank(path: Path, found: Header, params: Params) -> Iterator[Problem]:
    asked = params.get("network_dim")
    by_block = any(str(item).startswith("block_dims=") for item in _items(params.get("network_args", ())))
    if asked is not None and not by_block and asked not in ranks(found):
        what = f"its weights have rank {sorted(ranks(found))}, not {asked}"
        yield Problem(what=what, where=str(path), key="network_dim", remedy="train it again")


def _items(value: Value) -> tuple[object, ...]:
    return value if isinstance(value, tuple) else (value,)


def _not_its(
    checkpoint: Checkpoint, params: Params, legs: Sequence[ResumeSegment], length: TrainingLength
) -> Iterator[Problem]:
    """What is wrong with a checkpoint of the middle of the training."""
    leg = _leg(legs, checkpoint)
    path, step = leg.folder / checkpoint.file, checkpoint.step - leg.epoch * length.steps_per_epoch
    problems = list(_unsound(path, params))
    yield from problems
    if not problems and (steps := safetensors_header.read_header(path).metadata.get("ss_steps")) != str(step):
        yield Problem(what=f"it says step {steps}, not {step}", where=str(path), remedy="train it again")


def _leg(legs: Sequence[ResumeSegment], checkpoint: Checkpoint) -> ResumeSegment:
    """A training with checkpoints by step is never taken up: it has one leg."""
    return legs[-1] if checkpoint.epoch is None else resume.segment_of(legs, checkpoint.epoch)


# --- metadata ---------------------------------------------------------------------------------------------------------

ESSENTIAL = {
    "network_dim": "ss_network_dim",
    "network_alpha": "ss_network_alpha",
    "seed": "ss_seed",
    "learning_rate": "ss_learning_rate",
    "max_train_epochs": "ss_num_epochs",
    "max_train_steps": "ss_max_train_steps",
}
"""Arguments, and where the trainer must have recorded them."""

ALSO = {
    **{
        name: f"ss_{name}"
        for name in (
            "unet_lr", "text_encoder_lr", "lr_scheduler", "lr_warmup_steps", "gradient_accumulation_steps",
            "gradient_checkpointing", "mixed_precision", "network_module", "network_dropout", "max_grad_norm",
            "min_snr_gamma", "noise_offset", "scale_weight_norms", "ip_noise_gamma", "loss_type", "prior_loss_weight",
            "caption_dropout_rate", "caption_tag_dropout_rate", "fp8_base", "fp8_base_unet", "full_fp16",
            "zero_terminal_snr", "huber_c", "huber_schedule", "max_token_length",
        )
    },
    "debiased_estimation_loss": "ss_debiased_estimation",
}  # fmt: skip
"""Arguments that must agree where they are recorded."""


def _other_than_asked(path: Path, params: Params, comment: str, log_text: str, begun: int) -> Iterator[Problem]:
    """Where the last checkpoint's metadata, or the log, says something else than was asked."""
    try:
        metadata = safetensors_header.read_header(path).metadata
    except (OSError, ValueError):
        return  # told already
    for key, asked, told in _disagreements(metadata, params, comment, log_text, begun):
        what = f"the checkpoint says {key} = {told}, not {asked}"
        yield Problem(what=what, where=str(path), key=key, remedy="it is another training's file: train it again")


def _disagreements(
    metadata: Mapping[str, str], params: Params, comment: str, log_text: str, begun: int
) -> Iterator[tuple[str, object, str | None]]:
    for argument, key in _recorded(params).items():
        told = metadata.get(key)
        if (told is not None or argument in ESSENTIAL) and not _same(params[argument], told):
            yield key, params[argument], told
    if metadata.get("ss_training_comment") != comment:
        yield "ss_training_comment", comment, metadata.get("ss_training_comment")
    optimizer = metadata.get("ss_optimizer", "").partition("(")[0].rpartition(".")[2]
    if optimizer.casefold() != (asked := optimizer_of(params).recorded).casefold():
        yield "ss_optimizer", asked, optimizer
    planned = metadata.get("ss_max_train_steps")
    if metadata.get("ss_steps") != (left := _left(metadata, begun)):
        yield "ss_steps", left, metadata.get("ss_steps")
    announced = log.total_steps(log_text)
    if announced is not None and str(announced) != planned:
        yield "ss_max_train_steps", announced, planned


def _left(metadata: Mapping[str, str], begun: int) -> str | None:
    """The steps that a training taken up after `begun` epochs had still to make, and counts alone."""
    length = _length(metadata)
    return str(length.steps - begun * length.steps_per_epoch) if length else metadata.get("ss_max_train_steps")


def _recorded(params: Params) -> dict[str, str]:
    """The arguments of this training that its metadata repeats as they were given."""
    recorded = {name: key for name, key in {**ESSENTIAL, **ALSO}.items() if name in params}
    if "max_train_epochs" in params:
        recorded.pop("max_train_steps", None)  # epochs win, and the steps become what they amount to
    if optimizer_of(params).name == "Adafactor":  # which may set its own rate, and then clears these
        for name in ("learning_rate", "unet_lr", "lr_scheduler"):
            recorded.pop(name, None)
    return recorded


def _same(asked: Value, told: str | None) -> bool:
    """Whether the metadata's string means what was asked; of several text encoder rates the first is used."""
    first = asked[0] if isinstance(asked, tuple) and asked else asked
    if told is None or isinstance(first, bool | str):
        return told == str(first)
    try:
        return not isinstance(first, tuple) and math.isclose(float(told), first, rel_tol=1e-9)
    except ValueError:
        return False


_LONGEST = 10_000_000  # steps; more is no training but a file that lies


def _length(metadata: Mapping[str, str]) -> TrainingLength | None:
    keys = ("ss_max_train_steps", "ss_num_epochs", "ss_num_batches_per_epoch", "ss_gradient_accumulation_steps")
    numbers = [metadata.get(key, "") for key in keys]
    if not all(re.fullmatch(r"[1-9]\d{0,7}", number) for number in numbers):
        return None
    steps, epochs, batches, accumulation = map(int, numbers)
    if not epochs <= steps <= _LONGEST:
        return None
    return TrainingLength(steps=steps, epochs=epochs, steps_per_epoch=math.ceil(batches / accumulation))
