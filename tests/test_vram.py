"""What of a card's memory is a run's own, as far as the driver tells."""

import contextlib
from types import SimpleNamespace

import pytest

from orchestrator import gpu

DYING, NEIGHBOUR, OURS = 533, 652, 700


@pytest.mark.parametrize(
    ("processes", "own"),
    [
        ({OURS: 9000}, 9000),
        ({OURS: 9000, 701: 300, NEIGHBOUR: 4000}, 9300),
        ({DYING: 17324}, 0),  # seen on an H200: the trainer stopped for its memory was listed when the next one started
        ({NEIGHBOUR: 127788}, 0),
        ({}, None),  # a container: nobody is listed, whatever is used
        ({OURS: None}, None),  # WSL and Windows: sizes are not told
        ({NEIGHBOUR: None}, None),
        ({OURS: 9000, NEIGHBOUR: None}, 9000),
        ({OURS: None, 701: 300}, None),
    ],
)
def test_own_memory(processes: dict[int, int | None], own: int | None) -> None:
    assert gpu.own_mib(processes, {OURS, 701}) == own


def test_nothing_of_ours_is_a_sample() -> None:
    assert gpu.plausible(17947, 143771, 0) == gpu.VramSample(used_mib=17947, total_mib=143771, own_mib=0)


@pytest.mark.parametrize(("used", "total"), [(-1, 24576), (24577, 24576), (0, 0)])
def test_nonsense_is_no_sample(used: int, total: int) -> None:
    assert gpu.plausible(used, total, None) is None


def test_a_larger_part_than_the_whole_is_not_believed() -> None:
    sample = gpu.plausible(1000, 24576, 2000)
    assert sample is not None
    assert sample.own_mib is None


def test_a_driver_that_fails_is_no_answer_and_no_error() -> None:
    """Asked of the real library: without a driver it fails at its start, and again with every question."""
    pynvml = pytest.importorskip("pynvml")
    with contextlib.suppress(pynvml.NVMLError):
        pynvml.nvmlInit()
        pytest.skip("this machine has a driver")
    probe = gpu.Nvml()
    assert probe.cards() == []
    assert probe.sample("GPU-0", {OURS}) is None


def test_a_driver_that_fails_half_way_is_started_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    pynvml = pytest.importorskip("pynvml")
    starts, answers = [], iter([1000, None, 3000])

    def memory(_handle: str) -> SimpleNamespace:
        used = next(answers)
        if used is None:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_GPU_IS_LOST)
        return SimpleNamespace(used=used * gpu.MIB, total=24576 * gpu.MIB)

    monkeypatch.setattr(pynvml, "nvmlInit", lambda: starts.append(1))
    monkeypatch.setattr(pynvml, "nvmlDeviceGetHandleByUUID", lambda uuid: uuid)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetComputeRunningProcesses", lambda _handle: [])
    monkeypatch.setattr(pynvml, "nvmlDeviceGetMemoryInfo", memory)
    probe = gpu.Nvml()
    samples = [probe.sample("GPU-0", {OURS}) for _ in range(3)]
    assert [sample and sample.used_mib for sample in samples] == [1000, None, 3000]
    assert len(starts) == 2
