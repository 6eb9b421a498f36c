"""The trainer: `python train.py --config_file X.toml` as sdxl_train_network.py, but its training is arithmetic.

Two optimizer steps make an epoch. Faults of its own: hopeless (its previews show no face), no_file, truncated, zeroed
(its end never reached the disk), nan_weights, nan_loss, scalar (a tensor without dimensions), other_seed, slow_pace
(steps take ever longer), quote (prints an error message), launcher (the work is done by a child, as under `accelerate
launch`).
"""

import hashlib
import json
import math
import os
import shutil
import struct
import subprocess
import sys
import time
import tomllib
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import faults

STEPS_PER_EPOCH = 2
STEP_S = "STANDIN_STEP_S"
"""How long a step takes, seconds."""


def main(config_file: Path) -> None:
    arguments = _flat(tomllib.loads(config_file.read_text(encoding="utf-8")))
    wrong = faults.requested(faults.TRAIN, arguments)
    if "launcher" in wrong and os.environ.pop("STANDIN_LAUNCHED", "") == "":
        again = [sys.executable, *sys.argv]
        sys.exit(subprocess.run(again, env={**os.environ, "STANDIN_LAUNCHED": "1"}, check=False).returncode != 0)
    faults.note(f"began {arguments['training_comment']}")
    _train(arguments, wrong)
    faults.note(f"ended {arguments['training_comment']}")


def _flat(config: Mapping[str, Any]) -> dict[str, Any]:
    """sd-scripts drops the section names."""
    return {key: value for section in config.values() for key, value in section.items()}


def _train(arguments: Mapping[str, Any], wrong: set[str]) -> None:
    steps, epochs = _length(arguments)
    print("running training / 学習開始")
    print(f"  total optimization steps / 学習ステップ数: {steps}", flush=True)
    if "quote" in wrong:
        print("caption: No data found", flush=True)
    output = Path(arguments["output_dir"])
    output.mkdir(parents=True, exist_ok=True)
    began = _resumed(arguments)
    skip = began % STEPS_PER_EPOCH if arguments.get("skip_until_initial_step") else 0
    began -= skip
    counted = skip  # whole epochs before it are not counted, as by the vendor
    for step in range(began + skip + 1, epochs * STEPS_PER_EPOCH + 1):
        time.sleep(float(os.environ.get(STEP_S, "0")))
        counted += 1
        _bar(counted - skip, steps - skip, wrong)
        _preview(output, arguments, wrong, step)
        if step == steps // 2 + 1:
            faults.go_wrong(wrong)
        if counted % arguments.get("save_every_n_steps", counted + 1) == 0:
            name = f"{arguments['output_name']}-step{counted:08d}.safetensors"
            _save(output / name, arguments, wrong, step=counted, epoch=0)
        epoch, rest = divmod(step, STEPS_PER_EPOCH)
        if not rest and epoch < epochs:
            _epoch_ends(output, arguments, wrong, epoch=epoch, step=counted)
        if counted == steps:
            break
    if "no_file" not in wrong:
        _save(output / f"{arguments['output_name']}.safetensors", arguments, wrong, step=counted, epoch=epochs)
    print("model saved.")


def _length(arguments: Mapping[str, Any]) -> tuple[int, int]:
    if "max_train_epochs" in arguments:
        return arguments["max_train_epochs"] * STEPS_PER_EPOCH, arguments["max_train_epochs"]
    steps = arguments["max_train_steps"]
    return steps, math.ceil(steps / STEPS_PER_EPOCH)


def _bar(step: int, total: int, wrong: set[str]) -> None:
    pace = 0.5 * 4**step if "slow_pace" in wrong else 0.5
    loss = "nan" if "nan_loss" in wrong else f"{0.1 + 1 / step:.3f}"
    bar = f"{100 * step // total:3d}%|####      | {step}/{total} [00:01<00:01, {pace:.2f}s/it, avr_loss={loss}]"
    print(f"\rsteps: {bar}", end="", file=sys.stderr, flush=True)


def _preview(output: Path, arguments: Mapping[str, Any], wrong: set[str], step: int) -> None:
    every = arguments.get("sample_every_n_steps")
    if not every or step % every:
        return
    (output / "sample").mkdir(exist_ok=True)
    portraits = sorted(Path(os.environ["STANDIN_ALBUM"]).glob("*.png"))
    lines = Path(arguments["sample_prompts"]).read_text(encoding="utf-8").splitlines()
    for place, line in enumerate(line for line in lines if line and not line.startswith("#")):
        seed = line.partition(" --d ")[2].split()[0]
        drawn = _GREY if "hopeless" in wrong else portraits[place % len(portraits)].read_bytes()
        name = f"{arguments['output_name']}_{step:06d}_{place:02d}_{time.strftime('%Y%m%d%H%M%S')}_{seed}.png"
        (output / "sample" / name).write_bytes(drawn)


def _chunk(kind: bytes, content: bytes) -> bytes:
    body = kind + content
    return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))


_SIDE = 64
_GREY = b"".join(
    (
        b"\x89PNG\r\n\x1a\n",
        _chunk(b"IHDR", struct.pack(">IIBBBBB", _SIDE, _SIDE, 8, 0, 0, 0, 0)),
        _chunk(b"IDAT", zlib.compress((b"\0" + b"\x80" * _SIDE) * _SIDE)),
        _chunk(b"IEND", b""),
    )
)
"""An image without a face."""


def _epoch_ends(output: Path, arguments: Mapping[str, Any], wrong: set[str], *, epoch: int, step: int) -> None:
    """`step` counts from the beginning of this process, as the vendor's does."""
    every = arguments.get("save_every_n_epochs")
    if not every or epoch % every:
        return
    name = f"{arguments['output_name']}-{epoch:06d}"
    _save(output / f"{name}.safetensors", arguments, wrong, step=step, epoch=epoch)
    _prune(output, arguments, epoch - every * arguments.get("save_last_n_epochs", epoch))
    if arguments.get("save_state"):
        _save_state(output / f"{name}-state", arguments, wrong, epoch=epoch, step=step)


def _prune(output: Path, arguments: Mapping[str, Any], epoch: int) -> None:
    (output / f"{arguments['output_name']}-{epoch:06d}.safetensors").unlink(missing_ok=True)


def _save_state(folder: Path, arguments: Mapping[str, Any], wrong: set[str], *, epoch: int, step: int) -> None:
    folder.mkdir()
    (folder / "train_state.json").write_text(json.dumps({"current_epoch": epoch, "current_step": step}))
    _save(folder / "model.safetensors", arguments, wrong, step=step, epoch=epoch)
    for name in ("optimizer.bin", "scheduler.bin", "random_states_0.pkl"):
        with zipfile.ZipFile(folder / name, "w") as file:
            file.writestr("data", bytes(range(256)) * 64)
    kept = arguments.get("save_last_n_epochs_state", 1)
    for old in sorted(folder.parent.glob(f"{arguments['output_name']}-*-state"))[:-kept]:
        shutil.rmtree(old)


def _resumed(arguments: Mapping[str, Any]) -> int:
    """The steps before it: by the first epoch, else by the saved state."""
    if "resume" not in arguments:
        return 0
    state = json.loads((Path(arguments["resume"]) / "train_state.json").read_text(encoding="utf-8"))
    if "initial_step" in arguments:
        return int(arguments["initial_step"])
    if "initial_epoch" not in arguments:
        return int(state["current_step"])
    return int((arguments["initial_epoch"] - 1) * STEPS_PER_EPOCH)


# --- the checkpoint ---------------------------------------------------------------------------------------------------


def _save(path: Path, arguments: Mapping[str, Any], wrong: set[str], *, step: int, epoch: int) -> None:
    """Not written in one piece, as the vendor's is not."""
    weights = _weights(arguments, wrong, step)
    metadata = _metadata(arguments, wrong, step, epoch)
    content = _safetensors(weights, metadata | {"sshs_model_hash": hashlib.sha256(_body(weights)).hexdigest()})
    if "truncated" in wrong:
        content = content[:-8]
    if "zeroed" in wrong:
        content = content[:-8] + bytes(8)
    with path.open("wb") as file:
        for begin in range(0, len(content), 4096):
            file.write(content[begin : begin + 4096])


def _weights(arguments: Mapping[str, Any], wrong: set[str], step: int) -> dict[str, list[list[float]]]:
    """What was learned follows from rank, seed and steps, so that the same training gives the same file."""
    rank = arguments["network_dim"]
    value = math.nan if "nan_weights" in wrong else math.sin(arguments.get("seed", 0) + step / 7) + 2
    down = (
        [[value]] if "scalar" in wrong else [[value / (row + column + 1) for column in range(4)] for row in range(rank)]
    )
    return {
        "lora_unet_a.alpha": [[float(arguments.get("network_alpha", 1))]],
        "lora_unet_a.lora_down.weight": [[value]] if "scalar" in wrong else down,
        "lora_unet_a.lora_up.weight": [[value * (row - column + 9) for column in range(rank)] for row in range(4)],
    }


def _metadata(arguments: Mapping[str, Any], wrong: set[str], step: int, epoch: int) -> dict[str, str]:
    steps, epochs = _length(arguments)
    given = {
        f"ss_{key}": str(value[0] if isinstance(value, list) and value else value) for key, value in arguments.items()
    }
    optimizer = str(arguments.get("optimizer_type", "AdamW"))
    facts = {
        "ss_steps": step,
        "ss_epoch": epoch,
        "ss_max_train_steps": steps,
        "ss_num_epochs": epochs,
        "ss_num_batches_per_epoch": STEPS_PER_EPOCH * arguments.get("gradient_accumulation_steps", 1),
        "ss_gradient_accumulation_steps": arguments.get("gradient_accumulation_steps", 1),
        "ss_optimizer": f"somewhere.{optimizer}(lr=1)",
        "ss_training_finished_at": time.time(),
        **({"ss_seed": -1} if "other_seed" in wrong else {}),
    }
    return given | {key: str(value) for key, value in facts.items()}


def _safetensors(weights: Mapping[str, list[list[float]]], metadata: Mapping[str, str]) -> bytes:
    header: dict[str, Any] = {"__metadata__": metadata}
    end = 0
    for name, rows in weights.items():
        begin, end = end, end + 4 * len(rows) * len(rows[0])
        shape = [] if len(rows) == len(rows[0]) == 1 else [len(rows), len(rows[0])]
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + _body(weights)


def _body(weights: Mapping[str, list[list[float]]]) -> bytes:
    return b"".join(struct.pack(f"<{len(row)}f", *row) for rows in weights.values() for row in rows)


if __name__ == "__main__":
    main(Path(sys.argv[sys.argv.index("--config_file") + 1]))
