"""Runs the trainer's own `train()` many times in one process, so that a cell costs seconds instead of a minute.

`python -m benchmarks.gpu.warm SD_SCRIPTS CELLS.json SECONDS`, in the trainer's interpreter; CELLS.json is a list of
`{"key": ..., "argv": [...]}`. Prints one line `RESULT {json}` per cell; starts none after so many seconds.

What differs from a process of its own, and nothing else does: the base model is loaded once and handed out again, with
everything a training hooks into it taken off; it stays on the GPU meanwhile, so that the peak is counted from the
first step; LoRA's down matrices start as a constant instead of random numbers (minutes of the CPU's time at rank 128);
the base model is not hashed, and the LoRA is not written. The `check` part says how far all that is off.
"""

import argparse
import gc
import json
import statistics
import sys
import time
import traceback
from pathlib import Path
from typing import Any

import torch

GIB = 2**30
WARM_UP = 1  # steps whose duration is not counted: cuDNN picks its kernels, optimizers make their state


def main(sd_scripts: str, cells_file: str, seconds: str) -> None:
    """Measure the cells of the file, in its order."""
    deadline = time.monotonic() + float(seconds)
    sys.path.insert(0, sd_scripts)
    bench = Bench()
    for cell in json.loads(Path(cells_file).read_text(encoding="utf-8")):
        if (began := time.monotonic()) > deadline:
            break
        result = bench.measure(cell["argv"]) | {"key": cell["key"], "cell_s": round(time.monotonic() - began, 1)}
        print(f"RESULT {json.dumps(result)}", flush=True)


class Bench:
    """The trainer with its base model kept."""

    def __init__(self) -> None:
        import sdxl_train_network
        from library import sdxl_train_util, train_util
        from networks import lora

        self._script = sdxl_train_network
        self._train_util = train_util
        self._base = KeptBase(sdxl_train_util.load_target_model)
        sdxl_train_util.load_target_model = self._base.load
        train_util.model_hash = train_util.calculate_sha256 = lambda _: ""
        lora.LoRANetwork.save_weights = lambda *_: None
        # Not zero: Prodigy keeps a copy of what is not.
        torch.nn.init.kaiming_uniform_ = lambda tensor, *_, **__: tensor.data.fill_(0.01)

    def measure(self, argv: list[str]) -> dict[str, Any]:
        """Peak memory and seconds per step of one training."""
        self._clean()
        trainer = _timed(self._script.SdxlNetworkTrainer)
        try:
            trainer.train(self._arguments(argv))
        except torch.OutOfMemoryError as error:
            return {"failure": "oom", "message": str(error).splitlines()[0]}
        except Exception as error:  # one broken cell must not cost the others their measurement
            traceback.print_exc()
            return {"failure": repr(error)}
        return trainer.figures()

    def _arguments(self, argv: list[str]) -> argparse.Namespace:
        return self._script.setup_parser().parse_args(argv)

    def _clean(self) -> None:
        from accelerate.state import AcceleratorState
        from library import strategy_base

        for strategy in ("Tokenize", "TextEncoding", "LatentsCaching", "TextEncoderOutputsCaching"):
            getattr(strategy_base, f"{strategy}Strategy")._strategy = None
        AcceleratorState._reset_state(reset_partial_state=True)
        self._base.restore()
        gc.collect()
        torch.cuda.empty_cache()


class KeptBase:
    """sd-scripts' `load_target_model`, whose first answer is given every time."""

    def __init__(self, load: Any) -> None:
        self._load = load
        self._answer: Any = None

    def load(self, *args: Any) -> Any:
        if self._answer is None:
            self._answer = self._load(*args)
        return self._answer

    def restore(self) -> None:
        """Take off what a training puts on: LoRA's and accelerate's forwards, gradients, checkpointing."""
        if self._answer is None:
            return
        _, first, second, vae, unet, *_ = self._answer
        for model in (first, second, vae, unet):
            for module in model.modules():
                module.__dict__.pop("forward", None)
            model.requires_grad_(False)
            model.zero_grad(set_to_none=True)
            model.eval()
        unet.disable_gradient_checkpointing()
        for encoder in (first, second):
            encoder.gradient_checkpointing_disable()


def _timed(trainer_class: Any) -> Any:
    """A trainer that notes when each of its steps began, and counts memory from the first on."""

    class Timed(trainer_class):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.began: list[float] = []

        def on_step_start(self, *args: Any, **kwargs: Any) -> None:
            torch.cuda.synchronize()
            if not self.began:
                torch.cuda.reset_peak_memory_stats()
            self.began.append(time.monotonic())
            super().on_step_start(*args, **kwargs)

        def figures(self) -> dict[str, Any]:
            lasted = [after - before for before, after in zip(self.began, self.began[1:], strict=False)]
            free, total = torch.cuda.mem_get_info()
            context = total - free - torch.cuda.memory_reserved()  # the driver's own: context, kernels, workspaces
            reserved = torch.cuda.max_memory_reserved()
            return {
                "seconds_per_step": round(statistics.median(lasted[WARM_UP:]), 3),
                "card_gib": round((reserved + context) / GIB, 2),
                "reserved_gib": round(reserved / GIB, 2),
                "allocated_gib": round(torch.cuda.max_memory_allocated() / GIB, 2),
            }

    return Timed()


if __name__ == "__main__":
    main(*sys.argv[1:])
