"""Runs a training script of sd-scripts that takes the SHA-256 of a base model or VAE from orchestrate's cache.

    python train_plugin.py HASHES.json sdxl_train_network.py --config_file X.toml

sd-scripts computes these hashes in each training (7 s for SDXL), for the metadata of the LoRA. HASHES.json is the file
of `store.hashes.HashCache`. A file that differs from its entry, or has none, is hashed by sd-scripts.

It runs in the trainer's interpreter, without orchestrate, so it imports only the standard library.
"""

import contextlib
import importlib
import json
import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

_OWNERS = ("library.train_util", "library.model_io")
"""The modules of sd-scripts that have `calculate_sha256`: up to v0.10, and since v0.11."""


def main(cache: Path, script: str) -> None:
    """Run `script`, whose arguments follow in `sys.argv`."""
    sys.path[0] = str(Path(script).parent)
    for name in _OWNERS:
        with contextlib.suppress(ImportError, AttributeError):  # the script reports a module that it misses
            module: Any = importlib.import_module(name)
            module.calculate_sha256 = cached(cache, module.calculate_sha256)
    runpy.run_path(script, run_name="__main__")


def cached(cache: Path, calculate: Callable[[str], str]) -> Callable[[str], str]:
    """`calculate`, the hash of a file, for those files only whose hash `cache` does not have."""

    def known(filename: str) -> str:
        try:
            file = Path(filename).resolve()
            version, _, sha256 = json.loads(cache.read_text(encoding="utf-8"))["files"][str(file)]
            status = file.stat()
            found = f"{status.st_ino} {status.st_size} {status.st_mtime_ns} {status.st_ctime_ns}"
            return str(sha256) if version == found else calculate(filename)
        except (OSError, ValueError, LookupError, TypeError, RecursionError):
            return calculate(filename)

    return known


if __name__ == "__main__":
    _, CACHE, *sys.argv = sys.argv
    main(Path(CACHE), sys.argv[0])
