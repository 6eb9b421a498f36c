"""Runs an unmodified training script of sd-scripts and writes the seconds of each phase of its start.

`python -m benchmarks.gpu.phases REPORT.json BEGAN SCRIPT [arguments...]`, in the trainer's interpreter. BEGAN: the time
(`time.time()`) at which this process was started.

The functions of PHASES are replaced by ones that call them, wait for the GPU, and add up their seconds. `other` is the
rest of the time before the first step.
"""

import functools
import importlib
import json
import runpy
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

PHASES = {
    "tokenizers": ["library.strategy_sdxl:SdxlTokenizeStrategy.__init__"],
    "pictures": ["library.config_util:generate_dataset_group_by_blueprint"],
    "gpu": ["library.accelerator_setup:prepare_accelerator", "library.train_util:prepare_accelerator"],
    "base_model": ["library.sdxl_train_util:load_target_model"],
    "latents": ["library.dataset:DatasetGroup.new_cache_latents", "library.train_util:DatasetGroup.new_cache_latents"],
    "texts": [
        "library.dataset:DatasetGroup.new_cache_text_encoder_outputs",
        "library.train_util:DatasetGroup.new_cache_text_encoder_outputs",
    ],
    "network": ["networks.lora:create_network"],
    "optimizer": ["library.optimizer:get_optimizer", "library.train_util:get_optimizer"],
    "to_gpu": ["accelerate:Accelerator.prepare"],
    "hash": ["library.model_io:calculate_sha256", "library.train_util:calculate_sha256"],
}
"""Functions by phase, as MODULE:NAME: the first that exists is measured (they moved between versions of sd-scripts)."""

SAVE = ["networks.lora:LoRANetwork.save_weights"]
TRAIN = ["train_network:NetworkTrainer.train"]
STEP = ["train_network:NetworkTrainer.on_step_start"]


def main(report: str, began: str, script: str, *arguments: str) -> None:
    """As `python SCRIPT arguments...`; the report is written however the script ends."""
    clock = Clock(float(began))
    sys.argv = [script, *arguments]
    sys.path[0] = str(Path(script).parent)
    importlib.import_module("train_network")
    for name, places in {**PHASES, "save": SAVE}.items():
        replace(places, functools.partial(clock.timed, name))
    replace(TRAIN, clock.training)
    replace(STEP, clock.step)
    clock.imported = time.time()
    try:
        runpy.run_path(script, run_name="__main__")
    finally:
        Path(report).write_text(json.dumps(clock.figures()), encoding="utf-8")


def replace(places: Sequence[str], wrap: Callable[[Any], Any]) -> None:
    """Replace the first of the functions that exists by `wrap` of it."""
    for place in places:
        module, _, path = place.partition(":")
        *owners, name = path.split(".")
        try:
            owner = functools.reduce(getattr, owners, importlib.import_module(module))
            function = getattr(owner, name)
        except (ImportError, AttributeError):
            continue
        setattr(owner, name, functools.wraps(function)(wrap(function)))
        return
    raise LookupError(f"not in this version of sd-scripts: {', '.join(places)}")


class Clock:
    """When things happened, in seconds since the epoch, and how long the phases took."""

    def __init__(self, began: float) -> None:
        self._began = began
        self._main = time.time()
        self.imported = 0.0
        self._training: list[float] = []
        self._steps: list[float] = []
        self._seconds = dict.fromkeys((*PHASES, "save"), 0.0)

    def timed(self, phase: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            started = now()
            try:
                return function(*args, **kwargs)
            finally:
                self._seconds[phase] += now() - started

        return call

    def training(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            self._training.append(now())
            result = function(*args, **kwargs)
            self._training.append(now())
            return result

        return call

    def step(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            self._steps.append(now())
            return function(*args, **kwargs)

        return call

    def figures(self) -> dict[str, Any]:
        """Seconds by phase; `steps_s` from the start of each step to that of the next. Incomplete after a failure."""
        found = {"interpreter_s": self._main - self._began, "imports_s": self.imported - self._main}
        if self._training and self._steps:
            phases = {name: self._seconds[name] for name in PHASES}
            before = self._steps[0] - self._began
            found["arguments_s"] = self._training[0] - self.imported
            found |= {f"{name}_s": seconds for name, seconds in phases.items()}
            found |= {"other_s": before - sum(found.values()), "before_first_step_s": before}
        figures: dict[str, Any] = {name: round(seconds, 2) for name, seconds in found.items()}
        steps = [after - before for before, after in zip(self._steps, self._steps[1:], strict=False)]
        if len(steps) > 1:
            figures["first_step_s"] = round(steps[0], 2)
            figures["step_s"] = round(statistics.median(steps[1:]), 3)
            figures["longest_later_step_s"] = round(max(steps[1:]), 2)
        if len(self._training) > 1:
            figures |= {"save_s": round(self._seconds["save"], 2), "trained_at": self._training[1]}
        return figures | memory()


def now() -> float:
    """The time after all work given to the GPU is done."""
    torch = sys.modules.get("torch")
    if torch and torch.cuda.is_initialized():
        torch.cuda.synchronize()
    return time.time()


def memory() -> dict[str, float]:
    """Torch's peak, where there is a GPU."""
    torch = sys.modules.get("torch")
    if torch and torch.cuda.is_initialized():
        return {"reserved_gib": round(torch.cuda.max_memory_reserved() / 2**30, 2)}
    return {}


if __name__ == "__main__":
    main(*sys.argv[1:])
