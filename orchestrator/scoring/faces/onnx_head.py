"""Reads what an ONNX file takes and gives without reading its weights: a 174 MB model in a millisecond, not in 400.

An ONNX file is one protobuf message (onnx.proto3). Only the few fields named below are followed; all others, the
weights among them, are stepped over by their length.
"""

import mmap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

_MODEL_GRAPH = 7
_GRAPH_INITIALIZER, _GRAPH_INPUT, _GRAPH_OUTPUT = 5, 11, 12
_TENSOR_NAME = 8
_VALUE_NAME, _VALUE_TYPE = 1, 2
_TYPE_TENSOR, _TENSOR_SHAPE, _SHAPE_DIM, _DIM_VALUE = 1, 2, 1, 1

_Field: TypeAlias = int | memoryview


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """The shape of every input, None where a size is open, and the number of outputs."""

    inputs: tuple[tuple[int | None, ...], ...]
    outputs: int


def read(path: Path) -> Head:
    """Raises OSError, or ValueError when the file is not a whole ONNX model."""
    with path.open("rb") as file:
        return _head(memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)))


def _head(model: memoryview) -> Head:
    graphs = _all(model, _MODEL_GRAPH)
    if len(graphs) != 1:
        raise ValueError("holds no graph")
    # Before IR version 4 every weight was an input too.
    weights = {bytes(name) for tensor in _all(graphs[0], _GRAPH_INITIALIZER) for name in _all(tensor, _TENSOR_NAME)}
    inputs = [value for value in _all(graphs[0], _GRAPH_INPUT) if _name(value) not in weights]
    return Head(inputs=tuple(_shape(value) for value in inputs), outputs=len(_all(graphs[0], _GRAPH_OUTPUT)))


def _name(value: memoryview) -> bytes:
    return b"".join(bytes(name) for name in _all(value, _VALUE_NAME))


def _shape(value: memoryview) -> tuple[int | None, ...]:
    sizes: list[int | None] = []
    for dim in _path(value, _VALUE_TYPE, _TYPE_TENSOR, _TENSOR_SHAPE, _SHAPE_DIM):
        known = [size for field, size in _fields(dim) if field == _DIM_VALUE and isinstance(size, int) and size > 0]
        sizes.append(known[0] if known else None)
    return tuple(sizes)


def _path(message: memoryview, *fields: int) -> list[memoryview]:
    found = [message]
    for field in fields:
        found = [inner for outer in found for inner in _all(outer, field)]
    return found


def _all(message: memoryview, field: int) -> list[memoryview]:
    return [value for number, value in _fields(message) if number == field and isinstance(value, memoryview)]


def _fields(message: memoryview) -> Iterator[tuple[int, _Field]]:
    """Every field's number and value: an int, or the bytes of what has a length."""
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        kind, value = tag & 7, 0
        if kind == 0:
            value, at = _varint(message, at)
            yield tag >> 3, value
            continue
        if kind == 2:
            length, at = _varint(message, at)
        elif kind in (1, 5):
            length = 8 if kind == 1 else 4
        else:
            raise ValueError("is no protobuf message")
        if at + length > len(message):
            raise ValueError("ends too early")
        yield tag >> 3, message[at : at + length]
        at += length


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    """The number that begins at `at`, seven bits a byte, and where the next field begins."""
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(message):
            raise ValueError("ends too early")
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise ValueError("is no protobuf message")
