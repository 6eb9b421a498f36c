"""This machine as the kernel tells it: how much memory, and how many cores, are ours to use (Linux, /proc)."""

import os
from pathlib import Path

_CONTAINER = Path("/sys/fs/cgroup")


class Host:
    """The machine that we are on."""

    def cores(self) -> int:
        return len(os.sched_getaffinity(0))

    def memory_mib(self) -> tuple[int, int]:
        """All of it and what is in use, MiB; a container has what it was given."""
        lines = (line.split() for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines())
        told = {words[0].rstrip(":"): int(words[1]) // 1024 for words in lines}
        total, used = told["MemTotal"], told["MemTotal"] - told["MemAvailable"]
        given = _container_mib("memory.max")
        return (given, _container_mib("memory.current") or 0) if given and given < total else (total, used)


def _container_mib(file: str) -> int | None:
    try:
        text = (_CONTAINER / file).read_text(encoding="ascii").strip()
    except OSError:
        return None
    return int(text) // 1024**2 if text.isdigit() else None
