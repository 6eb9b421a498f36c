"""Safe reads and atomic writes: only regular files are read, and a file is written completely or not at all."""

import contextlib
import difflib
import errno
import json
import math
import os
import stat
from io import BufferedReader
from pathlib import Path
from typing import Any

MAX_TEXT_BYTES = 64 * 1024**2
"""More than any record, grid, caption or log tail needs."""


def open_regular(path: Path, *, max_bytes: int | None = None) -> BufferedReader:
    """Open a file for reading. Raises OSError, also for a FIFO, device or folder, and for more than `max_bytes`."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # a FIFO without a writer does not block
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "is not a regular file", str(path))
        if max_bytes is not None and status.st_size > max_bytes:
            raise OSError(errno.EFBIG, f"has {status.st_size:,} bytes, more than {max_bytes:,}", str(path))
        return open(descriptor, "rb")  # noqa: PTH123 - a descriptor, no path
    except BaseException:
        os.close(descriptor)
        raise


def from_here(path: Path) -> Path:
    """The path as a user would write it: relative to the current folder if it is inside."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def why_no_folder(path: Path) -> str:
    """What is wrong with a path that should be a folder."""
    return "is a file, not a folder" if path.exists() else f"there is no such folder{_similar(path)}"


def why_no_file(path: Path) -> str:
    """What is wrong with a path that should be a file."""
    if path.is_dir():
        return "is a folder, not a file"
    return "is not a regular file" if path.exists() else f"there is no such file{_similar(path)}"


def _similar(path: Path) -> str:
    """The most similar name in the same folder, as a question; names may differ in case alone."""
    with contextlib.suppress(OSError):
        beside = {one.name.casefold(): one.name for one in path.parent.iterdir() if one.name.isprintable()}
        if near := difflib.get_close_matches(path.name.casefold(), beside, n=1, cutoff=0.8):
            return f": did you mean {beside[near[0]]}?"
    return ""


def read_bytes(path: Path, *, max_bytes: int = MAX_TEXT_BYTES) -> bytes:
    """The bytes of a file. Raises OSError as `open_regular`."""
    with open_regular(path, max_bytes=max_bytes) as file:
        return file.read()


def read_text(path: Path) -> str:
    """The text of a UTF-8 file; other bytes become surrogate escapes. Raises OSError as `open_regular`."""
    return read_bytes(path).decode("utf-8", "surrogateescape")


def read_json(path: Path) -> Any:
    """The value of a JSON file. Raises OSError as `open_regular`, and ValueError, also for what no record has.

    That are numbers that are not finite, integers of more than 64 bits, and deep nesting.
    """
    try:
        return json.loads(read_text(path), parse_float=_finite, parse_constant=_finite, parse_int=_int64)
    except RecursionError as error:
        raise ValueError("is nested too deeply") from error


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text} is not a finite number")
    return number


def _int64(text: str) -> int:
    if len(text) > 20 or not -(2**63) <= int(text) < 2**63:
        raise ValueError(f"{text[:20]}... does not fit 64 bits")
    return int(text)


def read_tail(path: Path, limit: int) -> str:
    """The last `limit` bytes of a file as text; what is not UTF-8 is replaced. Raises OSError as `open_regular`."""
    with open_regular(path) as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - limit))
        return file.read(limit).decode("utf-8", "replace")


def write_json(path: Path, value: Any) -> None:
    """Write a value as indented JSON. Raises OSError, and TypeError for a value that JSON does not have."""
    write_text(path, json.dumps(value, ensure_ascii=False, indent=1))


def write_text(path: Path, text: str) -> None:
    """Write a temporary file, fsync, rename, fsync the folder. Raises OSError and then leaves no temporary file.

    The encoding is UTF-8. File names in another encoding (surrogate escapes) are written as their original bytes.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("w", encoding="utf-8", errors="surrogateescape", newline="") as out:
            out.write(text)
            out.flush()
            os.fsync(out.fileno())
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    with contextlib.suppress(OSError):  # some file systems cannot sync a folder
        sync(path.parent)


def sync(path: Path) -> None:
    """Flush a file, or a folder's list of names, to the disk. Raises OSError, also for a FIFO."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
