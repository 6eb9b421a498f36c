"""Prints the arguments of the optimizers and schedulers of this interpreter as JSON, in the form of signatures.json.

`vendor/.venv/bin/python tests/vendor/signatures.py > orchestrator/kohya/signatures.json` writes the table.
"""

import importlib
import importlib.metadata
import inspect
import json
import sys

PACKAGES = {
    "torch.optim": "torch",
    "bitsandbytes.optim": "bitsandbytes",
    "transformers.optimization": "transformers",
    "lion_pytorch": "lion-pytorch",
    "prodigyopt": "prodigyopt",
    "prodigyplus": "prodigy-plus-schedule-free",
    "schedulefree": "schedulefree",
    "dadaptation": "dadaptation",
    "dadaptation.experimental": "dadaptation",
    "pytorch_optimizer": "pytorch-optimizer",
}
"""Modules in which sd-scripts or its users find optimizers, and the package that each comes with."""

SCHEDULER_MODULES = ("torch.optim.lr_scheduler", "pytorch_optimizer")

FUNCTIONS = {
    "constant": ("transformers.optimization.get_constant_schedule", ()),
    "constant_with_warmup": ("transformers.optimization.get_constant_schedule_with_warmup", ()),
    "linear": ("transformers.optimization.get_linear_schedule_with_warmup", ()),
    "cosine": ("transformers.optimization.get_cosine_schedule_with_warmup", ()),
    "cosine_with_restarts": (
        "transformers.optimization.get_cosine_with_hard_restarts_schedule_with_warmup",
        ("num_cycles",),
    ),
    "polynomial": ("transformers.optimization.get_polynomial_decay_schedule_with_warmup", ("power",)),
    "inverse_sqrt": ("transformers.optimization.get_inverse_sqrt_schedule", ("timescale",)),
    "cosine_with_min_lr": (
        "transformers.optimization.get_cosine_with_min_lr_schedule_with_warmup",
        ("num_cycles", "min_lr_rate"),
    ),
    "warmup_stable_decay": (
        "transformers.optimization.get_wsd_schedule",
        ("num_cycles", "min_lr_ratio", "num_decay_steps", "num_stable_steps"),
    ),
    "piecewise_constant": ("diffusers.optimization.get_piecewise_constant_schedule", ()),
}
"""`lr_scheduler`: the function, and what sd-scripts passes to it besides the steps (train_util.get_scheduler_fix)."""

PASSED = {"self", "params", "lr", "optimizer", "num_warmup_steps", "num_training_steps"}
IGNORED = {"last_epoch", "verbose", "args", "kwargs"}
"""Of no use in a training, or removed in newer versions of torch."""


def kind(parameter):
    """bool, number, numbers N, text, any; `object` for what no literal can give."""
    default, note = parameter.default, str(parameter.annotation).lower()
    if isinstance(default, bool):
        return "bool"
    if isinstance(default, (int, float)):
        return "number"
    if isinstance(default, (tuple, list)) and all(isinstance(item, (int, float)) for item in default):
        return f"numbers {len(default)}"
    if isinstance(default, str):
        return "text"
    if default is None:
        plain = note.replace("typing.", "").replace("optional[", "").replace("]", "").replace("none", "").strip(" |,")
        known = {"bool": "bool or None", "float": "number or None", "int": "number or None", "str": "text or None"}
        return known.get(plain.removeprefix("union[").split("'")[1] if "'" in plain else plain, "any")
    if ("int" in note and "[" not in note) or ("float" in note and "[" not in note):
        return "number"
    return "object" if any(word in note for word in ("callable", "optimizer", "scheduler")) else "any"


def signature(function, passed=()):
    found = inspect.signature(function).parameters.values()
    named = [one for one in found if one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY)]
    given = [one for one in named if one.name not in PASSED | IGNORED | set(passed)]
    record = {"args": {one.name: kind(one) for one in given}}
    required = [one.name for one in given if one.default is inspect.Parameter.empty]
    return {**record, "required": required} if required else record


def classes(module, base):
    names = [name for name in dir(module) if not name.startswith("_") and inspect.isclass(getattr(module, name))]
    return {name: getattr(module, name) for name in names if issubclass(getattr(module, name), base)}


def main():
    import torch

    versions = {"diffusers": importlib.metadata.version("diffusers")}
    optimizers, schedulers = {}, {}
    for name, package in PACKAGES.items():
        try:
            module = importlib.import_module(name)
        except ImportError as error:
            print(f"{name}: {error}", file=sys.stderr)
            continue
        versions[package] = importlib.metadata.version(package).partition("+")[0]
        for short, found in classes(module, torch.optim.Optimizer).items():
            if found is not torch.optim.Optimizer:
                optimizers[f"{name}.{short}"] = signature(found.__init__)
        if name in SCHEDULER_MODULES:
            for short, found in classes(module, torch.optim.lr_scheduler.LRScheduler).items():
                schedulers.setdefault(f"{name}.{short}", signature(found.__init__))
    for short, found in classes(torch.optim.lr_scheduler, object).items():
        if short == "ReduceLROnPlateau" or issubclass(found, torch.optim.lr_scheduler.LRScheduler):
            schedulers[f"torch.optim.lr_scheduler.{short}"] = signature(found.__init__)
    for short, (path, passed) in FUNCTIONS.items():
        module, _, function = path.rpartition(".")
        schedulers[short] = signature(getattr(importlib.import_module(module), function), passed)
    print(text({"versions": versions, "optimizers": optimizers, "schedulers": schedulers}))


def text(record):
    """The table as JSON, one line for each class."""
    sections = [
        f'"{section}": {{\n'
        + ",\n".join(f'"{key}": {json.dumps(found[key], sort_keys=True)}' for key in sorted(found))
        + "\n}"
        for section, found in record.items()
    ]
    return "{\n" + ",\n".join(sections) + "\n}"


if __name__ == "__main__":
    main()
