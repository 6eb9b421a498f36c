"""Provenance of results: commits and versions."""

import platform
import subprocess
from importlib import metadata
from pathlib import Path

from orchestrator.store import hashes


def commit(folder: Path) -> str:
    """The commit of a git checkout, with `-dirty-` and a hash of `git diff` where files were changed.

    Empty when the folder is not the root of a checkout.
    """
    if not (folder / ".git").exists():
        return ""
    head = _git(folder, "rev-parse", "HEAD")
    changed = _git(folder, "diff", "HEAD")
    return f"{head}-dirty-{hashes.sha256_text(changed)[:12]}" if head and changed else head


def _git(folder: Path, *argv: str) -> str:
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
