"""Runs a training script of sd-scripts that takes the SHA-256 of a base model or VAE from orchestrate's cache.

    python train_plugin.py HASHES.json sdxl_train_network.py --config_file X.toml

sd-scripts computes these hashes in each training (7 s for SDXL), for the metadata of the LoRA. HASHES.json is the file
of `store.hashes.HashCache`. A file that differs from its entry, or has none, is hashed by sd-scripts.

The script itself imports what it needs: an import that fails, or must follow other code, does so as without the plugin.
It runs in the trainer's interpreter, without orchestrate, so it imports only the standard library.
"""

import json
import re
import runpy
import sys
from collections.abc import Callable
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from typing import Any

_OWNERS = ("library.train_util", "library.model_io")
"""The modules of sd-scripts that have `calculate_sha256`: up to v0.10, and since v0.11."""


def main(cache: Path, script: str) -> None:
    """Run `script`, whose arguments follow in `sys.argv`."""
    if not getattr(sys.flags, "safe_path", False):
        sys.path[0] = str(Path(script).resolve().parent)
    sys.meta_path.insert(0, _Finder(cache))
    runpy.run_path(script, run_name="__main__")


class _Finder:
    """Replaces `calculate_sha256` of sd-scripts' modules when they are imported."""

    def __init__(self, cache: Path) -> None:
        self._cache = cache

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        spec = PathFinder.find_spec(name, path, target) if name in _OWNERS else None
        if spec and spec.loader:
            execute = spec.loader.exec_module

            def exec_module(module: Any) -> None:
                execute(module)
                if hasattr(module, "calculate_sha256"):
                    module.calculate_sha256 = cached(self._cache, module.calculate_sha256)

            spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


def cached(cache: Path, calculate: Callable[[str], str]) -> Callable[[str], str]:
    """`calculate`, the hash of a file, for those files only whose hash `cache` does not have."""

    def known(filename: str) -> str:
        try:
            file = Path(filename).resolve()
            entries = json.loads(cache.read_text(encoding="utf-8"))["files"] if cache.is_file() else {}
            version, _, sha256 = entries[str(file)]
            status = file.stat()
            found = f"{status.st_ino} {status.st_size} {status.st_mtime_ns} {status.st_ctime_ns}"
            valid = version == found and re.fullmatch("[0-9a-f]{64}", sha256)
            return str(sha256) if valid else calculate(filename)
        except (OSError, ValueError, LookupError, TypeError, RecursionError):
            return calculate(filename)

    return known


if __name__ == "__main__":
    _, CACHE, *sys.argv = sys.argv
    main(Path(CACHE), sys.argv[0])
