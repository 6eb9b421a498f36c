"""The VRAM log of an attempt: `vram.csv` in its folder, one poll of the GPU per row, MiB."""

import contextlib
import csv
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from orchestrator import files
from orchestrator.model import VramSample

NAME = "vram.csv"
_HEADER = ("time", "used_mib", "total_mib", "own_mib")
_LAST_BYTES = 256
"""More than two rows."""


def append(folder: Path, sample: VramSample) -> None:
    """Add a sample with the current time (Unix seconds). Raises OSError."""
    new = not (folder / NAME).exists()
    with (folder / NAME).open("a", encoding="ascii", newline="") as file:
        writer = csv.writer(file)
        if new:
            writer.writerow(_HEADER)
        own = "" if sample.own_mib is None else sample.own_mib
        writer.writerow([f"{time.time():.1f}", sample.used_mib, sample.total_mib, own])


def series(folder: Path) -> list[tuple[float, VramSample]]:
    """All samples with their times in Unix seconds, oldest first; rows that cannot be read are left out."""
    try:
        return list(_parse(files.read_text(folder / NAME).splitlines()))
    except OSError:
        return []


def last(folder: Path) -> VramSample | None:
    """The last sample, without reading the whole file; None while its row is incomplete."""
    try:
        rows = files.read_tail(folder / NAME, _LAST_BYTES).splitlines()
    except OSError:
        return None
    return next((sample for _, sample in _parse(rows[-1:])), None)


def peak(folder: Path, *, colocated: bool) -> int | None:
    """The highest VRAM use of the attempt in MiB; None if no sample has it."""
    used = (used_by_attempt(sample, colocated=colocated) for _, sample in series(folder))
    return max((mib for mib in used if mib is not None), default=None)


def was_full(folder: Path) -> bool:
    """Whether at least 95 % of the GPU's memory were in use, by any process, at one of the samples."""
    return any(sample.used_mib >= 0.95 * sample.total_mib for _, sample in series(folder))


def used_by_attempt(sample: VramSample, *, colocated: bool) -> int | None:
    """MiB of the attempt's processes; of the whole GPU where the driver hides processes and no other run is on it."""
    return sample.used_mib if sample.own_mib is None and not colocated else sample.own_mib


def _parse(lines: Iterable[str]) -> Iterator[tuple[float, VramSample]]:
    for row in csv.reader(lines):
        with contextlib.suppress(ValueError):  # the header, an incomplete row
            moment, used, total, own = row
            sample = VramSample(used_mib=int(used), total_mib=int(total), own_mib=int(own) if own else None)
            yield float(moment), sample
