"""Provenance of results: commits, versions and hardware."""

import json
import os
import platform
import subprocess
from collections.abc import Mapping
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any

from orchestrator import redaction
from orchestrator.store import hashes


def commit(folder: Path) -> str:
    """The commit of a git checkout, with `-dirty-` and a hash of `git diff` where files were changed.

    Empty when the folder is not the root of a checkout.
    """
    if not (folder / ".git").exists():
        return ""
    head = git(folder, "rev-parse", "HEAD")
    changed = git(folder, "diff", "HEAD")
    return f"{head}-dirty-{hashes.sha256_text(changed)[:12]}" if head and changed else head


def git(folder: Path, *argv: str) -> str:
    """What a git command prints; empty if it fails."""
    try:
        done = subprocess.run(["git", "-C", str(folder), *argv], capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()


def versions() -> dict[str, str]:
    """Versions of Python, of orchestrate and of the libraries that its numbers depend on."""
    names = ("lora-orchestrator", "insightface", "onnxruntime", "onnxruntime-gpu", "numpy", "scipy", "pillow")
    found = {"python": platform.python_version(), "platform": platform.platform()}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


# --- the environment of an attempt ------------------------------------------------------------------------------------

IMAGES = "images: "
"""Before the names of what the generation was made with."""

_PACKAGES = (
    *("torch", "torchvision", "triton", "xformers", "numpy", "accelerate", "transformers", "diffusers", "safetensors"),
    *("bitsandbytes", "prodigyopt", "prodigy-plus-schedule-free", "schedulefree", "dadaptation", "lion-pytorch"),
    *("lycoris-lora", "pytorch-optimizer"),
)
"""The packages of the trainer that can change its results."""

_CHILD = """
import importlib.metadata, json, platform, sys
found = {"python": platform.python_version()}
for name in sys.argv[1:]:
    try:
        found[name] = importlib.metadata.version(name)
    except Exception:
        pass
print(json.dumps(found))
"""
_TIMEOUT_S = 60


def environment(gpu: str, driver: str, python: Path, env: Mapping[str, str]) -> dict[str, Any]:
    """What the results of an attempt depend on besides its inputs, as attempt.json records it.

    gpu: the model, empty without one. env: `trainer.env`, whose secrets are hidden.
    """
    paths = [*python.parent.parent.glob("lib/python*/site-packages"), python]
    times = tuple(path.stat().st_mtime_ns for path in paths if path.exists())
    return {
        "gpu": gpu,
        "driver": driver,
        "versions": _trainer_versions(python, times, env.get("PYTHONPATH", "")),
        "env": {name: redaction.hide(name, value) for name, value in env.items()},
    }


@lru_cache(maxsize=16)
def _trainer_versions(python: Path, _times: tuple[int, ...], python_path: str) -> dict[str, str]:
    """Versions in the trainer's interpreter; {} if it does not run. `_times`: changes when packages are installed."""
    environ = {**os.environ, **({"PYTHONPATH": python_path} if python_path else {})}
    argv = [str(python), "-c", _CHILD, *_PACKAGES]
    try:
        done = subprocess.run(
            argv, capture_output=True, text=True, timeout=_TIMEOUT_S, check=True, env=environ, cwd=python.parent
        )
        return dict(json.loads(done.stdout.strip().splitlines()[-1]))
    except (OSError, subprocess.SubprocessError, ValueError, IndexError):
        return {}


def comparable(record: Mapping[str, Any] | None) -> dict[str, str]:
    """What has to be equal for two attempts to be compared: GPU model, driver and versions; {} if it is unknown."""
    match record:
        case {"gpu": gpu, "driver": driver, "versions": dict(versions)}:
            return {"GPU": gpu, "driver": driver, **versions}
    return {}


def differences(one: Mapping[str, str], other: Mapping[str, str]) -> list[str]:
    """`torch 2.6.0 and 2.7.0` for everything that differs; what is unknown for one of the two is left out.

    Names that start with IMAGES are those of the generation.
    """
    known = [{name.startswith(IMAGES) for name in names} for names in (one, other)]
    return [
        f"{name} {one.get(name) or 'none'} and {other.get(name) or 'none'}"
        for name in dict.fromkeys([*one, *other])
        if one.get(name, "") != other.get(name, "") and all(name.startswith(IMAGES) in stages for stages in known)
    ]
