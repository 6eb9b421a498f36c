"""The card: which ones there are, and how much memory is used. NVML behind a protocol; its failures are None."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Protocol, TypeVar

from orchestrator.model import VramSample

MIB = 1024 * 1024
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """One GPU as the driver names it. `processes`: pid -> MiB (None where the driver does not tell)."""

    uuid: str
    name: str
    total_mib: int
    used_mib: int
    driver: str
    processes: dict[int, int | None]


class VramProbe(Protocol):
    """Polls one card."""

    def sample(self, card: str, pids: Collection[int]) -> VramSample | None:
        """Memory of `card` (UUID) now; `own_mib` is of `pids`. None when it cannot be told."""

    def cards(self) -> list[Card]:
        """Every card, in the driver's order; empty without a driver."""


class Nvml:
    """VramProbe over pynvml. A failing driver degrades polling and never disturbs training."""

    def __init__(self) -> None:
        self._nvml: ModuleType | None = None

    def cards(self) -> list[Card]:
        return self._ask(_cards) or []

    def sample(self, card: str, pids: Collection[int]) -> VramSample | None:
        return self._ask(lambda nvml: _sample(nvml, card, pids))

    def _ask(self, question: Callable[[Any], T]) -> T | None:
        """The driver's answer, or None; after a failure the driver is started anew with the next question."""
        import pynvml

        try:
            if self._nvml is None:
                pynvml.nvmlInit()
                self._nvml = pynvml
            return question(self._nvml)
        except pynvml.NVMLError:
            self._nvml = None
            return None


def _cards(nvml: Any) -> list[Card]:
    driver = _text(nvml.nvmlSystemGetDriverVersion())
    handles = [nvml.nvmlDeviceGetHandleByIndex(index) for index in range(nvml.nvmlDeviceGetCount())]
    return [_card(nvml, handle, driver) for handle in handles]


def _sample(nvml: Any, card: str, pids: Collection[int]) -> VramSample | None:
    handle = nvml.nvmlDeviceGetHandleByUUID(card)
    memory = nvml.nvmlDeviceGetMemoryInfo(handle)
    own = own_mib(_processes(nvml, handle), pids)
    return plausible(int(memory.used) // MIB, int(memory.total) // MIB, own)


def own_mib(processes: Mapping[int, int | None], pids: Collection[int]) -> int | None:
    """What `pids` hold of a card with these processes; None where the driver hides processes or sizes.

    0 while they are not on it yet: the memory of a trainer that was just killed is there for another second, and a
    neighbour's is not theirs either.
    """
    ours = {pid: size for pid, size in processes.items() if pid in pids}
    told = [size for size in (ours or processes).values() if size is not None]
    if not told or len(told) < len(ours or processes):
        return None
    return sum(told) if ours else 0


def plausible(used_mib: int, total_mib: int, own: int | None) -> VramSample | None:
    """A sample, unless the driver reports nonsense."""
    if not 0 <= used_mib <= total_mib or total_mib == 0:
        return None
    told = own if own is not None and 0 <= own <= used_mib else None
    return VramSample(used_mib=used_mib, total_mib=total_mib, own_mib=told)


def _card(nvml: Any, handle: Any, driver: str) -> Card:
    memory = nvml.nvmlDeviceGetMemoryInfo(handle)
    return Card(
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
