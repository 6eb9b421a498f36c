"""Verifies that a training wrote what was requested: complete, finite files whose metadata agrees with its arguments.

An exit code of 0 is not enough: sd-scripts also exits with 0 without data, and after a loss of NaN.
"""

import hashlib
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from orchestrator.errors import Problem
from orchestrator.files import open_regular
from orchestrator.kohya import networks, resume
from orchestrator.kohya.arguments import key_values
from orchestrator.kohya.optimizers import optimizer_of
from orchestrator.kohya.outputs import files, log, safetensors_header
from orchestrator.kohya.outputs.files import TrainingLength
from orchestrator.kohya.outputs.safetensors_header import Header
from orchestrator.kohya.resume import ResumeSegment
from orchestrator.model import Checkpoint, Failure, Params, Value
from orchestrator.store.hashes import sha256


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputCheck:
    """The verified checkpoints, oldest first, relative to the output folder; or why there are none.

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
    segments: Sequence[ResumeSegment] = (),
) -> OutputCheck:
    """Verify a training of `params` that exited with 0. `log_text` is its log, or the tail of it.

    segments: the parts of a resumed training, oldest first; the last one wrote `output_dir`.
    """
    segments = segments or (ResumeSegment(epoch=0, folder=output_dir),)
    begun = segments[-1].epoch
    final = output_dir / files.last(output_name)
    quiet = log.classify(log_text, 0)
    if quiet:
        return _rejected([Problem(what=quiet[1], where=str(output_dir))], quiet[0])
    problems = [*_file_problems(final, params), *_metadata_problems(final, params, training_comment, log_text, begun)]
    if problems:
        return _rejected(problems, _failure(problems))
    length = _length(safetensors_header.read_header(final).metadata)
    if length is None:
        what = "the checkpoint does not record how long it was trained"
        return _rejected([Problem(what=what, where=str(final), remedy="train it again")], Failure.NO_PRODUCT)
    located = [_located(found, output_name, segments) for found in files.expected(output_name, params, length)]
    with ThreadPoolExecutor() as pool:  # hashing releases the interpreter's lock, and the GPU waits
        hashed = pool.map(lambda one: sha256(one[1].folder / one[0].file), located)
        earlier = pool.map(lambda one: list(_earlier_checkpoint_problems(one[0], params, one[1])), located[:-1])
        problems = [problem for found in earlier for problem in found]
        if problems:
            return _rejected(problems, _failure(problems))
        return OutputCheck(
            checkpoints=tuple(replace(one, sha256=found) for (one, _), found in zip(located, hashed, strict=True))
        )


def _located(
    expected: Checkpoint, output_name: str, segments: Sequence[ResumeSegment]
) -> tuple[Checkpoint, ResumeSegment]:
    """The part of the training that wrote a checkpoint, which names it by its own count of steps."""
    segment = resume.segment_of(segments, expected)
    if expected.epoch is None:
        expected = replace(expected, file=files.at_step(output_name, expected.step - segment.offset))
    return expected, segment


def _rejected(problems: list[Problem], failure: Failure) -> OutputCheck:
    return OutputCheck(problems=tuple(problems), failure=failure)


_NOT_FINITE = "has weights that are NaN or infinite"


def _failure(problems: list[Problem]) -> Failure:
    return Failure.NAN if any(_NOT_FINITE in problem.what for problem in problems) else Failure.NO_PRODUCT


# --- one file ---------------------------------------------------------------------------------------------------------


def _file_problems(path: Path, params: Params) -> list[Problem]:
    """What is wrong with a checkpoint as a file of LoRA weights."""
    return [
        Problem(what=what, where=str(path), key=key, remedy=remedy) for what, key, remedy in _file_issues(path, params)
    ]


def _file_issues(path: Path, params: Params) -> Iterator[tuple[str, str, str]]:
    again = "train it again"
    try:
        header = safetensors_header.read_header(path)
        bad = safetensors_header.not_finite(path, header)
        untrained = safetensors_header.all_zero(path, header, networks.zero_at_start(list(header.tensors)))
        torn = is_torn(path, header)
    except FileNotFoundError:
        yield "the checkpoint is missing", "", "read the end of the attempt's log"
        return
    except (OSError, ValueError) as error:
        yield f"the checkpoint is broken: {error}", "", again
        return
    if torn:
        yield "its weights do not match the recorded hash: part of the file was not written to disk", "", again
    if bad:
        what = f"{len(bad)} of {len(header.tensors)} tensors: the checkpoint {_NOT_FINITE}"
        yield what, "", "lower the learning rate, or use mixed_precision bf16"
    if untrained:
        yield "nothing was learned: every trained weight is still zero", "", "raise the learning rate or the steps"
    rank, by_block = params.get("network_dim"), "block_dims" in key_values.pairs(params, "network_args")
    found = ranks(header)
    is_full_matrix = not found and networks.algorithm(params) == "lokr"
    if rank is not None and not by_block and not is_full_matrix and rank not in found:
        yield f"its weights have rank {sorted(found)}, not {rank}", "network_dim", again
    if networks.is_dora(params) and not any(name.endswith(".dora_scale") for name in header.tensors):
        yield "it has no dora_scale: the weights were not decomposed", "network_args", again


def is_torn(path: Path, header: Header) -> bool:
    """Whether the weights do not match the hash that sd-scripts records when it saves them.

    LyCORIS hashes the tensors in an order that the file does not have (`0x...`): that hash is not compared.
    """
    recorded = header.metadata.get("sshs_model_hash")
    if recorded is None or recorded.startswith("0x"):
        return False
    with open_regular(path) as file:
        file.seek(min((tensor.begin for tensor in header.tensors.values()), default=0))
        return hashlib.file_digest(file, "sha256").hexdigest() != recorded


def ranks(header: Header) -> set[int]:
    """The ranks of a network's modules, from the header of its file."""
    return networks.ranks({name: tensor.shape for name, tensor in header.tensors.items()})


def _earlier_checkpoint_problems(checkpoint: Checkpoint, params: Params, segment: ResumeSegment) -> Iterator[Problem]:
    """What is wrong with a checkpoint from before the end of the training."""
    path, step = segment.folder / checkpoint.file, checkpoint.step - segment.offset
    problems = _file_problems(path, params)
    yield from problems
    if not problems and (steps := safetensors_header.read_header(path).metadata.get("ss_steps")) != str(step):
        yield Problem(what=f"it records step {steps}, not {step}", where=str(path), remedy="train it again")


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


def _metadata_problems(path: Path, params: Params, comment: str, log_text: str, begun: int) -> Iterator[Problem]:
    """Where the last checkpoint's metadata, or the log, disagrees with the arguments."""
    try:
        metadata = safetensors_header.read_header(path).metadata
    except (OSError, ValueError):
        return  # already reported
    for key, requested, recorded in _disagreements(metadata, params, comment, log_text, begun):
        what = f"the checkpoint records {key} = {recorded}, not {requested}"
        yield Problem(what=what, where=str(path), key=key, remedy="the file is from another training: train it again")


def _disagreements(
    metadata: Mapping[str, str], params: Params, comment: str, log_text: str, begun: int
) -> Iterator[tuple[str, object, str | None]]:
    for argument, key in _recorded(params).items():
        value = metadata.get(key)
        if (value is not None or argument in ESSENTIAL) and not _same(params[argument], value):
            yield key, params[argument], value
    if metadata.get("ss_training_comment") != comment:
        yield "ss_training_comment", comment, metadata.get("ss_training_comment")
    optimizer = metadata.get("ss_optimizer", "").partition("(")[0].rpartition(".")[2]
    if optimizer.casefold() != (requested := optimizer_of(params).recorded).casefold():
        yield "ss_optimizer", requested, optimizer
    planned, length = metadata.get("ss_max_train_steps"), _length(metadata)
    left = planned
    if length and begun:  # a resumed training counts its own steps, to the end of its last epoch
        left = str((length.epochs - begun) * length.steps_per_epoch)
    if metadata.get("ss_steps") != left:
        yield "ss_steps", left, metadata.get("ss_steps")
    announced = log.total_steps(log_text)
    if announced is not None and str(announced) != planned:
        yield "ss_max_train_steps", announced, planned


def _recorded(params: Params) -> dict[str, str]:
    """The arguments of this training that its metadata repeats unchanged."""
    recorded = {name: key for name, key in {**ESSENTIAL, **ALSO}.items() if name in params}
    if "max_train_epochs" in params:
        recorded.pop("max_train_steps", None)  # epochs override steps
    if optimizer_of(params).name == "Adafactor":  # it may set its own rate, and then clears these
        for name in ("learning_rate", "unet_lr", "lr_scheduler"):
            recorded.pop(name, None)
    return recorded


def _same(requested: Value, recorded: str | None) -> bool:
    """Whether the metadata's string means the requested value; of several text encoder rates the first is used."""
    first = requested[0] if isinstance(requested, tuple) and requested else requested
    if recorded is None or isinstance(first, bool | str):
        return recorded == str(first)
    try:
        return not isinstance(first, tuple) and math.isclose(float(recorded), first, rel_tol=1e-9)
    except ValueError:
        return False


LENGTH = ("ss_max_train_steps", "ss_num_epochs", "ss_num_batches_per_epoch", "ss_gradient_accumulation_steps")
_MAX_STEPS = 10_000_000  # metadata with more is not from a real training


def _length(metadata: Mapping[str, str]) -> TrainingLength | None:
    numbers = [metadata.get(key, "") for key in LENGTH]
    if not all(re.fullmatch(r"[1-9]\d{0,7}", number) for number in numbers):
        return None
    steps, epochs, batches, accumulation = map(int, numbers)
    if not epochs <= steps <= _MAX_STEPS:
        return None
    return TrainingLength(steps=steps, epochs=epochs, steps_per_epoch=math.ceil(batches / accumulation))
