"""The program that encodes pictures: `--sdxl --config_file X.toml` as sd-scripts' tools/cache_latents.py has it.

It is the miniature's, with faults of its own: short (the last picture has no latents), torn (its file is cut off),
nan_latents.
"""

import os
import sys
import time
import tomllib
from pathlib import Path

import faults
import numpy as np

from orchestrator.miniature import caching

PICTURE_S = "STANDIN_PICTURE_S"
"""How long all of it takes, seconds."""


def main(argv: list[str]) -> None:
    config = Path(argv[argv.index("--config_file") + 1])
    said = tomllib.loads(config.with_name("dataset.toml").read_text(encoding="utf-8"))
    folder = Path(said["datasets"][0]["subsets"][0]["image_dir"])
    wrong = faults.told(faults.LATENTS, {"dataset": folder.parents[2].name.rpartition("-")[0]})
    faults.note(f"latents {folder.parents[2].name} {folder.parent.name}")
    time.sleep(float(os.environ.get(PICTURE_S, "0")))
    faults.go_wrong(wrong)
    caching.main(argv)
    _spoil(max(folder.glob("*.npz")), wrong)


def _spoil(last: Path, wrong: set[str]) -> None:
    if "short" in wrong:
        last.unlink()
    if "torn" in wrong:
        last.write_bytes(last.read_bytes()[:-100])
    if "nan_latents" in wrong:
        with np.load(last) as file:
            arrays = {name: file[name] for name in file.files}
        np.savez(last, allow_pickle=False, **{**arrays, "latents": arrays["latents"] * np.nan})


if __name__ == "__main__":
    main(sys.argv[1:])
