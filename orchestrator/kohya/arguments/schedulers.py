"""Lint rules for the learning rate schedule. Source: sd-scripts v0.11.1, library.optimizer.get_scheduler_fix."""

import re
from collections.abc import Iterator, Mapping

from orchestrator.errors import Problem, error, warning
from orchestrator.kohya import optimizers, signatures
from orchestrator.kohya.arguments import key_values, ranges
from orchestrator.kohya.arguments.schema import read_snapshot
from orchestrator.kohya.optimizers import optimizer_of
from orchestrator.kohya.signatures import Signature
from orchestrator.model import Params
from orchestrator.text import did_you_mean

_TORCH = "torch.optim.lr_scheduler."

USED_BY = {
    "lr_decay_steps": ("warmup_stable_decay",),
    "lr_scheduler_num_cycles": ("cosine_with_restarts", "cosine_with_min_lr", "warmup_stable_decay"),
    "lr_scheduler_power": ("polynomial",),
    "lr_scheduler_timescale": ("inverse_sqrt",),
    "lr_scheduler_min_lr_ratio": ("cosine_with_min_lr", "warmup_stable_decay"),
}
"""Arguments that only these schedulers read."""

_WITHOUT_WARMUP = ("constant", "adafactor", "piecewise_constant")

_NEED_METRICS = ("ReduceLROnPlateau",)

_FORMS: Mapping[str, tuple[str, str]] = {
    "T_0": (r"[1-9]\d*", "100"),
    "T_mult": (r"[1-9]\d*", "2"),
    "total_steps": (r"[1-9]\d*|None", "{{ max_train_steps }}"),
    "milestones": (r"[\[(]\d+(, \d+)*,?[\])]", "[100,200]"),
    "mode": (r"triangular2?|exp_range", "'triangular'"),
    "scale_mode": (r"cycle|iterations", "'cycle'"),
    "anneal_strategy": (r"cos|linear", "'cos'"),
    **dict.fromkeys(("warmup_type", "decay_type"), (r"linear|cosine|1-sqrt", "'cosine'")),
    "step_rules": (r"([\d.e-]+:\d+,)*[\d.e-]+", "'1:100,0.1'"),
}
"""Patterns of the values that torch, transformers and diffusers accept for these arguments, each with an example."""


def lint(params: Params, *, ignored: str) -> Iterator[Problem]:
    """The problems of the schedule. `ignored`: the optimizer that makes sd-scripts ignore it, or empty."""
    if ignored:
        if optimizer_of(params).schedule_free:
            yield from _without_effect(params, ignored)
        return
    yield from _warmup(params)
    custom = str(params.get("lr_scheduler_type") or "")
    scheduler = custom or str(params.get("lr_scheduler", "constant"))
    if custom and params.get("lr_scheduler"):
        yield error("lr_scheduler", "lr_scheduler_type overrides lr_scheduler", "remove one of the two")
    if custom:
        yield from _class_issues(custom)
    yield from _arguments(params, scheduler)
    for key, users in USED_BY.items():
        if params.get(key) not in (None, read_snapshot().by_name[key].default) and scheduler not in users:
            yield warning(key, f"the scheduler {scheduler} does not use {key}", "remove it")
    if scheduler == "warmup_stable_decay" and not params.get("lr_decay_steps"):
        yield warning("lr_scheduler", "without lr_decay_steps, the rate never decays", "set lr_decay_steps = 0.2")
    optimizer = optimizer_of(params)
    if scheduler == "adafactor":
        what = "this scheduler works with the optimizer Adafactor and relative_step=True only"
        yield error("lr_scheduler", what, 'set lr_scheduler = "cosine"')
    if optimizer.name == "Prodigy" and scheduler == "cosine_with_restarts":
        what = "restarts interfere with Prodigy's estimate of the step size"
        yield warning("lr_scheduler", what, 'set lr_scheduler = "cosine" or "constant"')


def _without_effect(params: Params, optimizer: str) -> Iterator[Problem]:
    for key in ("lr_scheduler", "lr_warmup_steps", "lr_scheduler_type", "lr_scheduler_args", *USED_BY):
        if params.get(key) and params[key] != "constant":
            report = warning if key in USED_BY else error
            yield report(key, f"sd-scripts ignores {key} with {optimizer}", f"remove {key}")


def _warmup(params: Params) -> Iterator[Problem]:
    custom = params.get("lr_scheduler_type")
    scheduler, steps = params.get("lr_scheduler", "constant"), _number(params, "max_train_steps")
    warmup, decay = _number(params, "lr_warmup_steps"), _number(params, "lr_decay_steps")
    if warmup and (custom or scheduler in _WITHOUT_WARMUP):
        what = f"sd-scripts rejects or ignores a warmup with the scheduler {custom or scheduler}"
        other = "remove lr_warmup_steps"
        yield error(
            "lr_warmup_steps", what, other if custom else f'set lr_scheduler = "constant_with_warmup", or {other}'
        )
    if steps and warmup >= steps:
        yield error("lr_warmup_steps", "the warmup is as long as the training", "set fewer warmup steps")
    elif steps and (warmup if warmup >= 1 else warmup * steps) + (decay if decay >= 1 else decay * steps) > steps:
        yield error(
            "lr_decay_steps", "warmup and decay are longer than the training", "set fewer steps for one of them"
        )


def _number(params: Params, key: str) -> float:
    value = params.get(key, 0)
    return value if isinstance(value, int | float) else 0


def _class_issues(written: str) -> Iterator[Problem]:
    root, name = written.partition(".")[0], written.rpartition(".")[2]
    known = [path for path in signatures.table("schedulers") if path.startswith(_TORCH if "." not in written else root)]
    if name in _NEED_METRICS:
        what = f"{name} needs the loss at every step, which sd-scripts does not pass"
        yield error("lr_scheduler_type", what, 'remove it, and set lr_scheduler = "cosine"')
    elif known and not any(path.rpartition(".")[2] == name for path in known):
        names = [path.removeprefix(_TORCH) for path in known]
        what = f"{'torch.optim.lr_scheduler' if '.' not in written else root} has no scheduler {name}"
        yield error("lr_scheduler_type", what, did_you_mean(written, names, "correct the name of the class"))


def _arguments(params: Params, scheduler: str) -> Iterator[Problem]:
    given, signature = key_values.literals(params, "lr_scheduler_args"), _signature(params, scheduler)
    key = "lr_scheduler_type" if params.get("lr_scheduler_type") else "lr_scheduler"
    if signature is None or scheduler in _NEED_METRICS:
        return
    for name in [name for name in given if scheduler in USED_BY.get(f"lr_scheduler_{name}", ())]:
        what = f"sd-scripts passes {name} to {scheduler} itself, and fails at a second one"
        yield error("lr_scheduler_args", what, f"remove it, and set lr_scheduler_{name}")
        given.pop(name)
    if (unknown := given.keys() - signature.args.keys()) and key == "lr_scheduler" and (one := _class_with(given)):
        what, remedy = f"{scheduler} has no {' and no '.join(sorted(unknown))}", f'set lr_scheduler_type = "{one}"'
        yield error("lr_scheduler_args", what, f"{remedy}, which has, or remove lr_scheduler_args")
        return
    for name, value in given.items():
        pattern, example = _FORMS.get(name, ("", ""))
        if pattern and name in signature.args and not re.fullmatch(pattern, str(value)):
            what = f"{name} = {value!r} is no value that {scheduler} accepts"
            yield error("lr_scheduler_args", what, f'write it like "{name}={example}"')
            return
        for what, remedy in ranges.literal_issues("lr_scheduler_args", name, value):
            yield error("lr_scheduler_args", what, remedy)
    yield from _momentum_and_rate(params, scheduler, given, signature)
    for what, remedy in signatures.issues(scheduler, signature, given, "schedulers"):
        where = "lr_scheduler_args" if "lr_scheduler_args" in params else key
        yield error(where, what, remedy.replace("add ", "set lr_scheduler_args with ") if where == key else remedy)
    if scheduler == "cosine_with_min_lr" and ("min_lr" in given) is ("lr_scheduler_min_lr_ratio" in params):
        what = "cosine_with_min_lr needs either lr_scheduler_min_lr_ratio or min_lr in lr_scheduler_args"
        yield error("lr_scheduler", what, "set lr_scheduler_min_lr_ratio = 0.1, without min_lr")
    if scheduler.endswith("OneCycleLR") and not (
        given.get("total_steps") or {"epochs", "steps_per_epoch"} <= set(given)
    ):
        yield error(key, f"{scheduler} needs total_steps", 'add "total_steps=..." with max_train_steps')
    half, steps = given.get("T_max"), _number(params, "max_train_steps")
    if scheduler.endswith("CosineAnnealingLR") and isinstance(half, int) and half < steps:
        what = f"{scheduler} reaches its lowest rate after {half} of {steps} steps, and rises again"
        yield warning("lr_scheduler_args", what, f'write "T_max={steps}"')
    total = given.get("total_steps")
    if isinstance(total, int) and total < _number(params, "max_train_steps"):
        what = f"{scheduler} ends after {total} steps, before the training: sd-scripts fails there"
        yield error("lr_scheduler_args", what, f"set total_steps={params['max_train_steps']}")


def _class_with(given: Mapping[str, object]) -> str:
    """The first class of torch that accepts these arguments; empty if there is none."""
    return next(
        (
            path.removeprefix(_TORCH)
            for path, found in signatures.table("schedulers").items()
            if path.startswith(_TORCH) and set(found.required) <= given.keys() <= found.args.keys()
        ),
        "",
    )


def _momentum_and_rate(
    params: Params, scheduler: str, given: Mapping[str, object], signature: Signature
) -> Iterator[Problem]:
    """What CyclicLR and OneCycleLR need of the optimizer, and the rates that they replace."""
    optimizer = optimizer_of(params)
    of_optimizer = optimizers.signature_of(optimizer)
    cycles = "cycle_momentum" in signature.args and given.get("cycle_momentum", True)
    if cycles and of_optimizer and not {"betas", "momentum"} & of_optimizer.args.keys():
        what = f"{scheduler} changes the momentum, too, and {optimizer.name} has none: sd-scripts fails"
        yield error("lr_scheduler_args", what, 'add "cycle_momentum=False"')
    highest = given.get("max_lr")
    other = [key for key in ("learning_rate", "unet_lr", "text_encoder_lr") if params.get(key, highest) != highest]
    if highest and other:
        what = f"{scheduler} replaces every learning rate by its max_lr = {highest}, so {other[0]} has no effect"
        remove = [f"remove {key}" for key in other if key != "learning_rate"]
        same = [f"set learning_rate = {highest}"] if "learning_rate" in other else []
        yield warning("lr_scheduler_args", what, " and ".join([*same, *remove]))


def _signature(params: Params, scheduler: str) -> Signature | None:
    if not params.get("lr_scheduler_type"):
        return signatures.table("schedulers").get(scheduler)
    root, dot, _ = scheduler.partition(".")
    return signatures.find("schedulers", root if dot else "torch", scheduler.rpartition(".")[2])
