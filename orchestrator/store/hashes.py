"""SHA-256 of files, folders, texts and JSON values, in hex; a cache for the hashes of large files."""

import hashlib
import json
import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from orchestrator import files


def sha256(path: Path) -> str:
    """Of a file's bytes. Raises OSError."""
    with files.open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_text(text: str) -> str:
    """Of a text in UTF-8; surrogate escapes (file names in another encoding) count as their original bytes."""
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()


def sha256_json(value: Any) -> str:
    """Of a value as JSON with sorted keys; what JSON does not have (paths) counts as its `str`."""
    return sha256_text(json.dumps(value, sort_keys=True, default=str))


def sha256_folder(folder: Path) -> str:
    """Of the names and bytes of all files in a folder. Raises OSError."""
    return sha256_text("\n".join(f"{path.name} {sha256(path)}" for path in sorted(folder.iterdir())))


CACHE = ".hashes.json"


class HashCache:
    """Hashes of files, kept in `runs/.hashes.json` by path: each file is read once.

    It is read again when its inode, size, change time (which programs cannot set) or a sample of its bytes
    differs. `kohya/train_plugin.py` reads the file, too.
    """

    def __init__(self, runs: Path) -> None:
        self._path = runs / CACHE
        self._known = self._load()

    def of(self, path: Path) -> str:
        """The hash of one file. Raises OSError."""
        return self._of([path])[0]

    def of_all(self, paths: Iterable[Path]) -> str:
        """One hash of the names and contents of several files in any order. Raises OSError."""
        chosen = list(paths)
        return sha256_text(
            "\n".join(sorted(f"{path.name} {found}" for path, found in zip(chosen, self._of(chosen), strict=True)))
        )

    def _of(self, paths: Iterable[Path]) -> list[str]:
        before = dict(self._known)
        found = [self._lookup(path) for path in paths]
        if self._known != before:
            with suppress(OSError):  # another user's cache, or a full disk: the files are hashed again the next time
                self._path.parent.mkdir(parents=True, exist_ok=True)
                files.write_json(self._path, {"files": self._known})
        return found

    def _lookup(self, path: Path) -> str:
        key, version = str(path.resolve()), _version(path)
        known = self._known.get(key)
        if known is None or known[:-1] != version:
            known = self._known[key] = [*version, sha256(path)]
        return known[-1]

    def _load(self) -> dict[str, list[str]]:
        """The cached entries; a damaged file or entry is ignored, and the files are hashed again."""
        try:
            cached = files.read_json(self._path)["files"]
            return {path: entry for path, entry in cached.items() if [*map(type, entry)] == [str, str, str]}
        except (OSError, ValueError, LookupError, TypeError, AttributeError):
            return {}


_SAMPLES, _SAMPLE_BYTES = 16, 4096


def _version(path: Path) -> list[str]:
    """What changes when a file is replaced: its identity and times, and the hash of a sample. Raises OSError."""
    with files.open_regular(path) as file:
        status = os.fstat(file.fileno())
        sample = hashlib.sha256()
        for number in range(_SAMPLES):
            file.seek(number * max(0, status.st_size - _SAMPLE_BYTES) // (_SAMPLES - 1))
            sample.update(file.read(_SAMPLE_BYTES))
    numbers = (status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
    return [" ".join(map(str, numbers)), sample.hexdigest()]
