"""CPU cores and RAM that this process may use (Linux, /proc and cgroups)."""

import os
from pathlib import Path

_CONTAINER = Path("/sys/fs/cgroup")


class Host:
    """The machine that this process runs on, or the part of it that its container may use."""

    def cores(self) -> int:
        """In a container with a quota of CPU time, as many whole cores as it is worth."""
        cores = len(os.sched_getaffinity(0))
        quota, _, period = _container("cpu.max").partition(" ")
        return max(1, min(cores, int(quota) // int(period))) if quota.isdigit() else cores

    def memory_mib(self) -> tuple[int, int]:
        """Total and used RAM, MiB; in a container, of its limit. The page cache counts as free."""
        lines = (line.split() for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines())
        mib = {words[0].rstrip(":"): int(words[1]) // 1024 for words in lines}
        total, used = mib["MemTotal"], mib["MemTotal"] - mib["MemAvailable"]
        limit = _container("memory.max")
        if not limit.isdigit() or int(limit) // 1024**2 >= total:
            return total, used
        stat = dict(line.split() for line in _container("memory.stat").splitlines())
        cached = sum(int(stat.get(name, 0)) for name in ("active_file", "inactive_file"))
        return int(limit) // 1024**2, max(0, int(_container("memory.current") or 0) - cached) // 1024**2


def _container(file: str) -> str:
    """A file of the container's control group; empty without one."""
    try:
        return (_CONTAINER / file).read_text(encoding="ascii").strip()
    except OSError:
        return ""
