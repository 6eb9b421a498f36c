"""The plugin that `gen_img.py --from_module` loads: one base model in memory, any number of LoRA files, one process.

It runs in the trainer's interpreter (Python 3.10 or later, with torch and safetensors but without orchestrate), so it
imports only the standard library at the top. `--prompter_module_args` names a plan, a JSON file in UTF-8:

    {
      "schema": 1,
      "loras": ["/abs/first.safetensors", "/abs/second.safetensors"],
      "images": [
        {"file": "0001.png", "text": "photo of ohwx woman", "negative": "blurry", "seed": 1, "lora": 0, "strength": 1.0}
      ]
    }

`loras` are files of one shape (rank and modules); the first is also `--network_weights`. For the base model alone it is
empty, each image's `lora` is null, its strength is not read, and the command line has no `--network_module`. `lora` is
an index into `loras`. `file` is a name inside `--outdir`. Size, steps, sampler, scale and batch size come from the
command line and are the same for all images. Images are made in the order of the list; those of one (lora, strength)
should be adjacent, because a batch contains one pair only.

If `--prompter_module_args` names a folder, the process is resident: it makes the images of one job after another. A job
is `job.json` in that folder: `{"plan": "/abs/plan.json", "outdir": "/abs/images"}`. The plugin deletes it when its
images are written, and ends the process when there is no job and no process locks `owner.lock` in the folder any more.
The LoRAs of all jobs have the shape of `--network_weights`. A resident process is started by

    python gen_img_plugin.py FOLDER gen_img.py ARGUMENTS

which imports what gen_img.py imports, and runs it when the first job is there: until then it needs no VRAM.

How a batch is completed: gen_img.py makes an incomplete batch when the prompter returns None, and then begins its next
iteration (`--n_iter`). So None follows each plan, and a resident process has any number of iterations.

How weights are swapped safely: gen_img.py requests the next prompt while the images of an incomplete batch still wait,
so a prompt request must not load weights. But it starts a new batch whenever the multipliers (`--am`) differ, and sets
each network's multiplier just before it makes a batch. So a `Switch` precedes the LoRA in the list of networks, its
"multiplier" is the index of the file, and setting it loads that file. `--network_pre_calc` then restores the original
weights and merges the new ones for each batch.
"""

import fcntl
import json
import runpy
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

SCHEMA = 1
POLL_S = 0.05


def main(folder: Path, script: str) -> None:
    """Run `script`, whose arguments follow in `sys.argv`, when there is a job."""
    if not getattr(sys.flags, "safe_path", False):
        sys.path[0] = str(Path(script).resolve().parent)
    job = folder / "job.json"
    if not job.exists():
        runpy.run_path(script, run_name="imports")
    if _wait(job, folder / "owner.lock"):
        runpy.run_path(script, run_name="__main__")


def get_prompter(args: Any, pipe: Any, networks: "list[Any]") -> "Prompter":  # noqa: ARG001 (gen_img.py's signature)
    """gen_img.py's entry point: the prompts of `args.prompter_module_args`; adds a Switch to `networks`."""
    switch = Switch(networks[0], args.network_weights[0]) if networks else None
    if switch:
        networks.insert(0, switch)
    if Path(args.prompter_module_args).is_dir():
        args.n_iter = sys.maxsize
    return Prompter(plans(args), switch)


def plans(args: Any) -> "Iterator[dict[str, Any]]":
    """The plan, or the plans of all jobs of a resident process, with `args.outdir` set for each.

    A job is done when the plan after it is requested. Raises SystemExit when there are no more jobs.
    """
    given = Path(args.prompter_module_args)
    if not given.is_dir():
        yield _read(given)
        return
    job = given / "job.json"
    while _wait(job, given / "owner.lock"):
        wanted = json.loads(job.read_text(encoding="utf-8"))
        args.outdir = wanted["outdir"]
        yield _read(Path(wanted["plan"]))
        job.unlink()
    sys.exit()


def _read(path: Path) -> "dict[str, Any]":
    plan: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if plan["schema"] != SCHEMA:
        raise ValueError(f"{path}: schema {plan['schema']}, this prompter reads {SCHEMA}")
    return plan


def _wait(job: Path, owner: Path) -> bool:
    """Wait for a job; False when there is none and nothing can give one any more."""
    while not job.exists():
        with owner.open() as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
                return job.exists()
            except BlockingIOError:
                time.sleep(POLL_S)
    return True


def line(image: "dict[str, Any]") -> str:
    """The raw prompt line of one image of the plan, in gen_img.py's syntax."""
    parts = [image["text"]]
    if image["negative"]:
        parts.append(f"n {image['negative']}")
    if image["lora"] is not None:
        # Fixed-point: gen_img.py's pattern for --am has no exponent.
        parts.append(f"am {image['lora']},{image['strength']:.6f}")
    parts += [f"d {image['seed']}", f"f {image['file']}"]
    return " --".join(parts)


class Prompter:
    """Returns raw prompt lines, and None after each plan; gen_img.py prints its length as `prompt i/N`."""

    def __init__(self, plans: "Iterator[dict[str, Any]]", switch: "Switch | None") -> None:
        self._count = 0
        self._next = self._lines(plans, switch)

    def _lines(self, plans: "Iterator[dict[str, Any]]", switch: "Switch | None") -> "Iterator[str | None]":
        for plan in plans:
            self._count = len(plan["images"])
            if switch:
                switch.files = plan["loras"]
            yield from map(line, plan["images"])
            yield None

    def __len__(self) -> int:
        return self._count

    def __call__(self, *_: object) -> "str | None":
        return next(self._next, None)


class Switch:
    """A fake network whose multiplier selects the LoRA file that is loaded into `network`; `files` are the plan's."""

    def __init__(self, network: Any, loaded: str) -> None:
        self._network = network
        self._loaded = loaded
        self.files: list[str] = []

    def set_multiplier(self, number: float) -> None:
        """Called by gen_img.py before each batch, with the first number of `--am`."""
        wanted = self.files[int(number)]
        if wanted != self._loaded:
            load(self._network, wanted)
            self._loaded = wanted

    def restore_weights(self) -> None:
        """Part of gen_img.py's protocol under --network_pre_calc; does nothing."""

    def pre_calculation(self) -> None:
        """As restore_weights."""


def load(network: Any, file: str) -> None:
    """Load `file` into `network` (already applied). Raises RuntimeError if it does not fit."""
    from safetensors.torch import load_file

    modules = [
        *getattr(network, "text_encoder_loras", ()),
        *(network.unet_ofts if hasattr(network, "unet_ofts") else network.unet_loras),
    ]
    before = [float(module.alpha) for module in modules]
    # On the GPU: torch converts thousands of small tensors there faster than with CPU threads that others slow down.
    tensors = load_file(file, device=str(next(network.parameters()).device))
    network.load_state_dict(tensors, strict=True)  # strict: a missing tensor would keep the last file's weights
    for module, old in zip(modules, before, strict=True):
        # Networks read alpha only at creation: loading the buffer alone would keep the first file's scale.
        if float(module.alpha) != old and not getattr(module, "use_w2", False):  # full matrices of LoKr are not scaled
            name = "constraint" if hasattr(module, "constraint") else "scale"
            setattr(module, name, getattr(module, name) * float(module.alpha) / old)


if __name__ == "__main__":
    _, FOLDER, *sys.argv = sys.argv
    main(Path(FOLDER), sys.argv[0])
