"""The Python packages that the arguments of a training need in the trainer's environment, and how to install them."""

from collections.abc import Iterator

from orchestrator.kohya.arguments import key_values
from orchestrator.kohya.optimizers import optimizer_of
from orchestrator.model import Params

_DISTRIBUTIONS = {
    "prodigyplus": "prodigy-plus-schedule-free",
    "lion_pytorch": "lion-pytorch",
    "pytorch_optimizer": "pytorch-optimizer",
    "lycoris": "lycoris-lora",
}
"""The name on PyPI, where it is not that of the module."""

_WITH_TRAINER = ("torch", "transformers", "diffusers", "networks", "library")
"""Modules that every environment of sd-scripts has."""


def packages(params: Params) -> dict[str, str]:
    """The modules that a training imports beyond those of every training, each with the argument that needs it."""
    found: dict[str, str] = {}
    for module, key in _needed(params):
        found.setdefault(module, key)
    return {module: key for module, key in found.items() if module not in _WITH_TRAINER}


def _needed(params: Params) -> Iterator[tuple[str, str]]:
    named = "optimizer_type" if params.get("optimizer_type") else "use_8bit_adam or use_lion_optimizer"
    yield from ((module, named) for module in optimizer_of(params).packages)
    if key_values.literals(params, "optimizer_args").get("use_triton"):
        yield "triton", "use_triton in optimizer_args"
    for key in ("lr_scheduler_type", "network_module"):
        if "." in (written := str(params.get(key) or "")):
            yield written.partition(".")[0], key
    if params.get("xformers"):
        yield "xformers", "xformers"
    if params.get("torch_compile") and params.get("dynamo_backend", "inductor") == "inductor":
        yield "triton", "torch_compile"
    if params.get("log_with") in ("wandb", "all"):
        yield "wandb", "log_with"


def install_command(python: object, module: str) -> str:
    """The command that installs the package of a module into an environment."""
    return f"`{python} -m pip install {_DISTRIBUTIONS.get(module, module)}`"
