"""pynvml with one GPU, on which each trainer and generator of TORTURE_WORLD uses 2 GiB."""

import os
import re
from pathlib import Path
from types import SimpleNamespace

GIB = 1024**3
_PROGRAM = re.compile(rb"/(train|generate)\.py\0")


class NVMLError(Exception):
    pass


def nvmlInit() -> None:
    pass


def nvmlSystemGetDriverVersion() -> str:
    return "1"


def nvmlDeviceGetCount() -> int:
    return 1


def nvmlDeviceGetHandleByIndex(_index: int) -> str:
    return "GPU-1"


def nvmlDeviceGetHandleByUUID(uuid: str) -> str:
    return uuid


def nvmlDeviceGetUUID(handle: str) -> str:
    return handle


def nvmlDeviceGetName(_handle: str) -> str:
    return "a GPU"


def nvmlDeviceGetComputeRunningProcesses(_handle: str) -> list[SimpleNamespace]:
    marker = f"ORCHESTRATE_ATTEMPT={os.environ['TORTURE_WORLD']}/".encode()
    own = [path for path in Path("/proc").glob("[0-9]*") if marker in _read(path / "environ")]
    using = [path for path in own if _PROGRAM.search(_read(path / "cmdline"))]
    return [SimpleNamespace(pid=int(path.name), usedGpuMemory=2 * GIB) for path in using]


def nvmlDeviceGetMemoryInfo(handle: str) -> SimpleNamespace:
    return SimpleNamespace(total=24 * GIB, used=2 * GIB * len(nvmlDeviceGetComputeRunningProcesses(handle)))


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""
