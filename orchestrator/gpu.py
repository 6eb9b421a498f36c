"""GPUs and their VRAM, read with NVML behind a protocol; a failing driver gives None or an empty list."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Protocol, TypeVar

from orchestrator.model import VramSample

MIB = 1024 * 1024
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """One GPU. `processes`: pid -> MiB, None where the driver does not report it."""

    uuid: str
    name: str
    total_mib: int
    used_mib: int
    driver: str
    processes: dict[int, int | None]


class VramProbe(Protocol):
    """Reads GPUs."""

    def sample(self, gpu: str, pids: Collection[int]) -> VramSample | None:
        """The VRAM of `gpu` (UUID) now; `own_mib` is that of `pids`. None when the driver fails."""

    def gpus(self) -> list[Gpu]:
        """All GPUs in the driver's order; empty without a driver."""


class Nvml:
    """VramProbe over pynvml. A failing driver never interrupts a training."""

    def __init__(self) -> None:
        self._nvml: ModuleType | None = None

    def gpus(self) -> list[Gpu]:
        return self._query(_gpus) or []

    def sample(self, gpu: str, pids: Collection[int]) -> VramSample | None:
        return self._query(lambda nvml: _sample(nvml, gpu, pids))

    def _query(self, query: Callable[[Any], T]) -> T | None:
        """The result, or None when the driver fails; the next query then starts the driver again."""
        import pynvml

        try:
            if self._nvml is None:
                pynvml.nvmlInit()
                self._nvml = pynvml
            return query(self._nvml)
        except pynvml.NVMLError:
            self._nvml = None
            return None


def _gpus(nvml: Any) -> list[Gpu]:
    driver = _text(nvml.nvmlSystemGetDriverVersion())
    handles = [nvml.nvmlDeviceGetHandleByIndex(index) for index in range(nvml.nvmlDeviceGetCount())]
    return [_gpu(nvml, handle, driver) for handle in handles]


def _sample(nvml: Any, gpu: str, pids: Collection[int]) -> VramSample | None:
    handle = nvml.nvmlDeviceGetHandleByUUID(gpu)
    memory = nvml.nvmlDeviceGetMemoryInfo(handle)
    own = own_mib(_processes(nvml, handle), pids)
    return plausible(int(memory.used) // MIB, int(memory.total) // MIB, own)


def own_mib(processes: Mapping[int, int | None], pids: Collection[int]) -> int | None:
    """The VRAM of `pids` on a GPU with these processes, MiB; None where the driver hides processes or sizes.

    0 while none of them is on the GPU yet: memory of other or just killed processes does not count.
    """
    ours = {pid: size for pid, size in processes.items() if pid in pids}
    sizes = [size for size in (ours or processes).values() if size is not None]
    if not sizes or len(sizes) < len(ours or processes):
        return None
    return sum(sizes) if ours else 0


def plausible(used_mib: int, total_mib: int, own: int | None) -> VramSample | None:
    """A sample; None when the driver reports impossible values."""
    if not 0 <= used_mib <= total_mib or total_mib == 0:
        return None
    own_mib = own if own is not None and 0 <= own <= used_mib else None
    return VramSample(used_mib=used_mib, total_mib=total_mib, own_mib=own_mib)


def _gpu(nvml: Any, handle: Any, driver: str) -> Gpu:
    memory = nvml.nvmlDeviceGetMemoryInfo(handle)
    return Gpu(
        uuid=_text(nvml.nvmlDeviceGetUUID(handle)),
        name=_text(nvml.nvmlDeviceGetName(handle)),
        total_mib=int(memory.total) // MIB,
        used_mib=int(memory.used) // MIB,
        driver=driver,
        processes=_processes(nvml, handle),
    )


def _processes(nvml: Any, handle: Any) -> dict[int, int | None]:
    found = nvml.nvmlDeviceGetComputeRunningProcesses(handle)
    sizes = {int(process.pid): process.usedGpuMemory for process in found}
    return {pid: int(size) // MIB if size else None for pid, size in sizes.items()}


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value
