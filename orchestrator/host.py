"""CPU cores and RAM that this process may use (Linux, /proc and cgroups)."""

import os
from pathlib import Path

_CONTAINER = Path("/sys/fs/cgroup")


class Host:
    """The machine that this process runs on."""

    def cores(self) -> int:
        return len(os.sched_getaffinity(0))

    def memory_mib(self) -> tuple[int, int]:
        """Total and used RAM, MiB; in a container, of its limit."""
        lines = (line.split() for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines())
        mib = {words[0].rstrip(":"): int(words[1]) // 1024 for words in lines}
        total, used = mib["MemTotal"], mib["MemTotal"] - mib["MemAvailable"]
        limit = _container_mib("memory.max")
        return (limit, _container_mib("memory.current") or 0) if limit and limit < total else (total, used)


def _container_mib(file: str) -> int | None:
    try:
        text = (_CONTAINER / file).read_text(encoding="ascii").strip()
    except OSError:
        return None
    return int(text) // 1024**2 if text.isdigit() else None
