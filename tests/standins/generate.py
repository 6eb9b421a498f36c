"""The generator: gen_img.py's command line; each image is a copy of one of the portraits in STANDIN_ALBUM.

Which one follows from the LoRA's rank, the prompt and the seed. Faults of its own: short (one image is left out),
torn (one is cut off). Its only argument for faults is the name of the run, as in `short:run=seed=1`.
"""

import argparse
import json
import os
import struct
import sys
import time
from pathlib import Path
from typing import Any

import faults

sys.path.append(str(Path(__file__).parents[2] / "orchestrator" / "kohya"))
import gen_img_plugin

ALBUM = "STANDIN_ALBUM"
PICTURE_S = "STANDIN_PICTURE_S"
"""How long an image takes, seconds."""
LOAD_S = "STANDIN_LOAD_S"
"""How long the base model takes to load, seconds."""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--prompter_module_args", type=Path, required=True)
    parser.add_argument("--outdir", type=Path, required=True)
    options, _ = parser.parse_known_args()
    time.sleep(float(os.environ.get(LOAD_S, "0")))
    for plan in gen_img_plugin.plans(options):
        if options.prompter_module_args.is_dir():  # the faults are those of the attempt whose job it is
            job = json.loads((options.prompter_module_args / "job.json").read_text(encoding="utf-8"))
            os.chdir(Path(job["plan"]).parent)
        _draw_all(plan, Path(options.outdir))


def _draw_all(plan: dict[str, Any], outdir: Path) -> None:
    wrong = faults.requested(faults.GENERATE, {"run": Path.cwd().parents[1].name.rpartition("-")[0]})
    portraits = sorted(Path(os.environ[ALBUM]).glob("*.png"))
    ranks = [_rank(Path(name)) for name in plan["loras"]]
    for number, image in enumerate(plan["images"], start=1):
        time.sleep(float(os.environ.get(PICTURE_S, "0")))
        print(f"prompt {number}/{len(plan['images'])}: {image['text']}", flush=True)
        if number == len(plan["images"]):
            faults.go_wrong(wrong)
        _draw(outdir / image["file"], portraits[_choice(image, ranks) % len(portraits)], number, wrong)


def _choice(image: dict[str, Any], ranks: list[int]) -> int:
    rank = ranks[image["lora"]] if ranks else 0
    return int(rank + image["seed"] + len(image["text"]))


def _draw(path: Path, portrait: Path, number: int, wrong: set[str]) -> None:
    content = portrait.read_bytes()
    if number == 1 and "short" in wrong:
        return
    path.write_bytes(content[: len(content) // 2] if number == 1 and "torn" in wrong else content)


def _rank(lora: Path) -> int:
    with lora.open("rb") as file:
        header = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))
    return int(header.get("lora_unet_a.lora_down.weight", {"shape": [1]})["shape"][0])


if __name__ == "__main__":
    sys.exit(main())
