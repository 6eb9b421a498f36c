"""What the results were made from: file hashes (each large file hashed once), commits, versions."""

import hashlib
import json
import platform
import subprocess
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

from orchestrator.store import files


class Hashes:
    """SHA-256 of files, remembered by path, size and time of change: a 6.9 GB checkpoint is read once."""

    def __init__(self, memory: Path) -> None:
        self._memory = memory
        self._known = self._load()

    def of(self, path: Path) -> str:
        """The hash of one file; OSError when it cannot be read."""
        return self._of([path])[0]

    def of_all(self, paths: Iterable[Path]) -> str:
        """One hash for a set of files: their names and contents, whatever the order given."""
        chosen = list(paths)
        lines = sorted(f"{path.name} {found}" for path, found in zip(chosen, self._of(chosen), strict=True))
        return hashlib.sha256("\n".join(lines).encode("utf-8", "surrogateescape")).hexdigest()

    def _of(self, paths: Iterable[Path]) -> list[str]:
        before = dict(self._known)
        found = [self._remembered(path) for path in paths]
        if self._known != before:
            self._save()
        return found

    def _remembered(self, path: Path) -> str:
        stat = path.stat()
        key, mark = str(path.resolve()), [stat.st_size, stat.st_mtime_ns]
        known = self._known.get(key)
        if known is None or known[:2] != mark:
            known = self._known[key] = [*mark, sha256(path)]
        return str(known[2])

    def _load(self) -> dict[str, list[int | str]]:
        try:
            return dict(json.loads(self._memory.read_text(encoding="utf-8", errors="surrogateescape"))["files"])
        except (OSError, ValueError, KeyError):
            return {}  # only a memory: what is lost is hashed again

    def _save(self) -> None:
        self._memory.parent.mkdir(parents=True, exist_ok=True)
        files.write_json(self._memory, {"files": self._known})


def sha256(path: Path) -> str:
    """Hex digest of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def content(folder: Path) -> str:
    """One hash of all files in a folder, names and bytes, read anew: one that was added counts, too."""
    return sha256_text("\n".join(f"{path.name} {sha256(path)}" for path in sorted(folder.iterdir())))


def sha256_text(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()  # file names may be in any encoding


def commit(folder: Path) -> str:
    """The commit checked out in a folder, with `-dirty-` and a hash of the differences when files differ.

    Empty when it is no checkout of its own.
    """
    if not (folder / ".git").exists():
        return ""
    head = _git(folder, "rev-parse", "HEAD")
    changed = _git(folder, "diff", "HEAD")
    return f"{head}-dirty-{sha256_text(changed)[:12]}" if head and changed else head


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
