"""Reads scalars that sd-scripts logs for TensorBoard, from its event files, without TensorBoard.

A file is a sequence of records: length (8 bytes), checksum (4), data, checksum (4). The data is a protocol buffer
`Event` (step: 2, summary: 5), its summary a list of values (1) with a tag (1) and a float (2).
"""

import math
import struct
from collections.abc import Iterator
from pathlib import Path

from orchestrator.files import open_regular

_STEP = "loss/current"
_VALIDATION = ("loss/validation/epoch_average", "loss/validation/step_average")
_MAX_RECORD = 2**20


def validation_losses(logs: Path) -> dict[int, float]:
    """Optimizer step -> loss on the validation images, of one training; empty without validation or TensorBoard files.

    sd-scripts logs the validation of an epoch with the epoch's number: the step is that of the last training loss.
    """
    found: dict[int, float] = {}
    for path in sorted(logs.rglob("events.out.tfevents.*")):
        step = 0
        for tag, at, value in scalars(path):
            if tag == _STEP:
                step = at
            elif tag in _VALIDATION and math.isfinite(value):
                found[step] = value
    return found


def scalars(path: Path) -> Iterator[tuple[str, int, float]]:
    """Tag, step and value, in the order of the file. Ends at a record that is cut off or damaged."""
    try:
        with open_regular(path) as file:
            while len(head := file.read(12)) == 12:
                length: int = struct.unpack("<Q", head[:8])[0]
                data = file.read(min(length, _MAX_RECORD) + 4)[:-4]
                if len(data) < length:
                    return
                yield from _of_event(data)
    except (OSError, ValueError):
        return


def _of_event(data: bytes) -> Iterator[tuple[str, int, float]]:
    event = dict(_fields(data))
    step, summary = event.get(2, 0), event.get(5, b"")
    for number, value in _fields(summary) if isinstance(summary, bytes) else ():
        fields = dict(_fields(value)) if number == 1 and isinstance(value, bytes) else {}
        tag, scalar = fields.get(1), fields.get(2)
        if isinstance(tag, bytes) and isinstance(scalar, bytes) and len(scalar) == 4 and isinstance(step, int):
            yield tag.decode("utf-8", errors="replace"), step, struct.unpack("<f", scalar)[0]


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Number and value of each field: an integer, or the bytes of all other types. Raises ValueError."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        match key & 7:
            case 0:
                value: int | bytes
                value, at = _varint(data, at)
            case 1 | 5 as kind:
                size = 8 if kind == 1 else 4
                value, at = data[at : at + size], at + size
            case 2:
                size, at = _varint(data, at)
                value, at = data[at : at + size], at + size
            case _:
                raise ValueError("not a field of a protocol buffer")
        yield key >> 3, value


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """An integer of 7 bits per byte, and where it ends."""
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            raise ValueError("cut off")
        value |= (data[at] & 127) << shift
        at += 1
        if data[at - 1] < 128:
            return value, at
    raise ValueError("not an integer")
