"""The optimizers that sd-scripts accepts: what each one records, imports, and how it treats the learning rate."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache

from orchestrator.kohya import signatures
from orchestrator.kohya.signatures import Signature
from orchestrator.model import Params
from orchestrator.text import did_you_mean


@dataclass(frozen=True, slots=True, kw_only=True)
class Optimizer:
    """One optimizer, by the name that `optimizer_type` gives it.

    recorded: the class name in a checkpoint's metadata. packages: modules to import beyond those of every training.
    adaptive: it estimates its own step size and expects a learning rate of 1.0. one_rate: it accepts one learning rate.
    schedule_free: sd-scripts ignores lr_scheduler and warmup. state_bytes: per trained parameter, as measured on
    LoRA-shaped tensors (8, as AdamW's, where it was not measured; Prodigy's is that of a fresh LoRA).
    """

    name: str
    recorded: str
    packages: tuple[str, ...] = ()
    adaptive: bool = False
    one_rate: bool = False
    schedule_free: bool = False
    state_bytes: float = 8.0


def _table(packages: str, names: str) -> dict[str, Optimizer]:
    """Optimizers that need the same packages, by short name in lower case. A name may carry its state: `Lion=4.0`."""
    found = {}
    for name, _, state in (item.partition("=") for item in names.split()):
        adaptive = name.startswith(("Prodigy", "DAdapt"))
        found[name.casefold()] = Optimizer(
            name=name,
            recorded=_RECORDED.get(name, name),
            packages=tuple(packages.split()),
            adaptive=adaptive,
            one_rate=adaptive and name != "ProdigyPlusScheduleFree",
            schedule_free=name.endswith("ScheduleFree"),
            state_bytes=float(state or 8),
        )
    return found


_RECORDED = {"SGDNesterov": "SGD", "SGDNesterov8bit": "SGD8bit", "DAdaptation": "DAdaptAdamPreprint"}

_SHORT = {
    **_table("", "AdamW=8.0 Adafactor=0.25 SGDNesterov"),
    **_table("bitsandbytes", "AdamW8bit=2.03 PagedAdamW8bit=2.03 PagedAdamW PagedAdamW32bit Lion8bit=1.02"),
    **_table("bitsandbytes", "PagedLion8bit=1.02 SGDNesterov8bit"),
    **_table("lion_pytorch", "Lion=4.0"),
    **_table("prodigyopt", "Prodigy=13.8"),
    **_table("dadaptation", "DAdaptation DAdaptAdamPreprint DAdaptAdaGrad DAdaptAdam DAdaptAdan DAdaptAdanIP"),
    **_table("dadaptation", "DAdaptLion DAdaptSGD"),
    **_table("schedulefree", "RAdamScheduleFree AdamWScheduleFree=8.0 SGDScheduleFree"),
}
_TORCH = _table("", "ASGD Adadelta Adagrad Adam Adamax NAdam RAdam RMSprop Rprop SGD")
_OTHER = _table("schedulefree prodigyplus", "ProdigyPlusScheduleFree=4.6")

SHORT_NAMES = tuple(optimizer.name for optimizer in _SHORT.values())
"""What `optimizer_type` may be, in any case. Source: sd-scripts v0.11.1, library.optimizer.get_optimizer."""

TORCH_CLASSES = tuple(optimizer.name for optimizer in _TORCH.values())
"""Classes of torch.optim, which `optimizer_type` may also name, in exactly this case."""


_NEEDS_CLOSURE = ("LBFGS", "SparseAdam")
"""Classes of torch.optim that need a closure or sparse gradients, which sd-scripts does not provide."""


def optimizer_of(params: Params) -> Optimizer:
    """The optimizer of a training; a class that is not in the table is described by its module and name."""
    flagged = "AdamW8bit" if params.get("use_8bit_adam") else "Lion" if params.get("use_lion_optimizer") else "AdamW"
    module, _, name = str(params.get("optimizer_type") or flagged).rpartition(".")
    folded = name.casefold()
    known = {**_TORCH, **_SHORT, **_OTHER}.get(folded)
    if known and not module:
        return known
    implied = {"8bit": "bitsandbytes", "schedulefree": "schedulefree"}  # sd-scripts imports these by the name's ending
    packages = [package for ending, package in implied.items() if folded.endswith(ending)] + [module.partition(".")[0]]
    adaptive = folded.startswith(("prodigy", "dadapt"))
    other = Optimizer(
        name=name, recorded=name, adaptive=adaptive, one_rate=adaptive, schedule_free=folded.endswith("schedulefree")
    )
    return replace(known or other, packages=tuple(dict.fromkeys(p for p in packages if p not in ("", "torch"))))


@lru_cache
def name_issues(written: str) -> tuple[tuple[str, str], ...]:
    """The issue and its remedy if sd-scripts cannot create the optimizer that `optimizer_type` names."""
    return tuple(_name_issues(written))


def _name_issues(written: str) -> Iterator[tuple[str, str]]:
    root, _, name = written.partition(".")[0], *written.rpartition(".")[1:]
    paths = list(signatures.table("optimizers"))
    siblings = [path for path in paths if path.partition(".")[0] == root]
    short = {known.casefold() for known in SHORT_NAMES}
    if name in _NEEDS_CLOSURE or name.endswith("Closure"):
        yield f"{name} needs a closure or sparse gradients, which sd-scripts does not provide", 'write "AdamW"'
    elif "." not in written and (written.casefold() in short or written in TORCH_CLASSES or not written):
        return
    elif "." not in written:
        same = [path for path in paths if path.rpartition(".")[2].casefold() == written.casefold()]
        same.sort(key=lambda path: (not path.startswith("torch."), path.startswith("pytorch_optimizer.")))
        remedy = did_you_mean(written, SHORT_NAMES + TORCH_CLASSES, _FULL_PATH)
        yield (
            f'sd-scripts has no optimizer "{written}"',
            f'write "{same[0].removeprefix("torch.optim.")}"' if same else remedy,
        )
    elif not re.fullmatch(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+", written):
        yield f'"{written}" is not the path of a class', _FULL_PATH
    elif siblings and not any(path.rpartition(".")[2] == name for path in siblings):
        yield f"{root} has no optimizer {name}", did_you_mean(written, siblings, "correct the name of the class")


_FULL_PATH = "name a class by its full path, package.module.Class"


def signature_of(optimizer: Optimizer) -> Signature | None:
    """The arguments of an optimizer's class; None if it is not in the table."""
    root = (
        optimizer.packages[-1] if optimizer.packages else "transformers" if optimizer.name == "Adafactor" else "torch"
    )
    return signatures.find("optimizers", root, optimizer.recorded)
