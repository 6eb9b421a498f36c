"""Provenance of results: commits and versions."""

import platform
import subprocess
from importlib import metadata
from pathlib import Path

from orchestrator.store import hashes


def commit(folder: Path) -> str:
    """The commit checked out in a folder, with `-dirty-` and a hash of the differences when files differ.

    Empty when it is no checkout of its own.
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
    """Of this program, Python, and what its numbers depend on."""
    names = ("lora-orchestrator", "insightface", "onnxruntime", "onnxruntime-gpu", "numpy", "scipy", "pillow")
    found = {"python": platform.python_version(), "platform": platform.platform()}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
