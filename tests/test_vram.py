"""VRAM samples of a run, and their log."""

import contextlib
from pathlib import Path
from types import SimpleNamespace

import pytest

from orchestrator import gpu
from orchestrator.model import VramSample
from orchestrator.store import vram_log

DYING, NEIGHBOUR, OURS = 533, 652, 700


@pytest.mark.parametrize(
    ("processes", "own"),
    [
        ({OURS: 9000}, 9000),
        ({OURS: 9000, 701: 300, NEIGHBOUR: 4000}, 9300),
        ({DYING: 17324}, 0),  # seen on an H200: the trainer stopped for its memory was listed when the next one started
        ({NEIGHBOUR: 127788}, 0),
        ({}, None),  # a container: no process is listed, although VRAM is used
        ({OURS: None}, None),  # WSL and Windows: sizes are unknown
        ({NEIGHBOUR: None}, None),
        ({OURS: 9000, NEIGHBOUR: None}, 9000),
        ({OURS: None, 701: 300}, None),
    ],
)
def test_own_memory_needs_a_number_for_each_process(processes: dict[int, int | None], own: int | None) -> None:
    assert gpu.own_mib(processes, {OURS, 701}) == own


def test_a_sample_without_own_memory_is_valid() -> None:
    assert gpu.plausible(17947, 143771, 0) == gpu.VramSample(used_mib=17947, total_mib=143771, own_mib=0)


@pytest.mark.parametrize(("used", "total"), [(-1, 24576), (24577, 24576), (0, 0)])
def test_impossible_values_are_no_sample(used: int, total: int) -> None:
    assert gpu.plausible(used, total, None) is None


def test_own_memory_larger_than_used_memory_is_unknown() -> None:
    sample = gpu.plausible(1000, 24576, 2000)
    assert sample is not None
    assert sample.own_mib is None


def test_a_failing_driver_gives_none() -> None:
    """With the real library: without a driver it fails at its start and with every call."""
    pynvml = pytest.importorskip("pynvml")
    with contextlib.suppress(pynvml.NVMLError):
        pynvml.nvmlInit()
        pytest.skip("this machine has a driver")
    probe = gpu.Nvml()
    assert probe.gpus() == []
    assert probe.sample("GPU-0", {OURS}) is None


def test_a_driver_that_failed_is_started_again(monkeypatch: pytest.MonkeyPatch) -> None:
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


# --- the log ----------------------------------------------------------------------------------------------------------


def test_the_log_reads_back_what_was_appended(tmp_path: Path) -> None:
    samples = [VramSample(used_mib=used, total_mib=9000, own_mib=own) for used, own in ((800, None), (700, 500))]
    assert (vram_log.series(tmp_path), vram_log.last(tmp_path), vram_log.peak(tmp_path, colocated=False)) == (
        [],
        None,
        None,
    )
    for sample in samples:
        vram_log.append(tmp_path, sample)
    assert [sample for _, sample in vram_log.series(tmp_path)] == samples
    assert vram_log.last(tmp_path) == samples[-1]
    assert vram_log.peak(tmp_path, colocated=False) == 800, "alone on the GPU: all used memory is its own"
    assert vram_log.peak(tmp_path, colocated=True) == 500


@pytest.mark.parametrize("row", ["17", "1e9,900,9000", "now,900,9000,", "1e9,x,9000,", "1e9,900,9000,-,", "\xff\x00"])
def test_damaged_rows_of_the_log_are_ignored(tmp_path: Path, row: str) -> None:
    vram_log.append(tmp_path, VramSample(used_mib=800, total_mib=9000))
    with (tmp_path / vram_log.NAME).open("a", encoding="latin-1") as file:
        file.write(f"{row}\n")
    assert len(vram_log.series(tmp_path)) == 1
    assert vram_log.last(tmp_path) is None
    assert vram_log.peak(tmp_path, colocated=False) == 800


def test_the_last_sample_of_a_long_log_is_read_from_its_end(tmp_path: Path) -> None:
    for used in range(100):
        vram_log.append(tmp_path, VramSample(used_mib=used, total_mib=9000))
    assert vram_log.last(tmp_path) == VramSample(used_mib=99, total_mib=9000)


@pytest.mark.parametrize(("used", "full"), [(9400, False), (9500, True), (10000, True)])
def test_a_gpu_is_full_from_95_percent_on(tmp_path: Path, used: int, full: bool) -> None:
    assert not vram_log.was_full(tmp_path)
    for mib in (100, used, 100):
        vram_log.append(tmp_path, VramSample(used_mib=mib, total_mib=10000))
    assert vram_log.was_full(tmp_path) is full
