"""Reads safetensors files without trusting them: the header is checked before anything is parsed or allocated by it."""

import json
import math
import re
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

MAX_BYTES = 16 * 1024 * 1024
"""Of a header. An SDXL checkpoint's has 0.4 MB; a LoRA's grows with its dataset's tags."""

_MAX_DIMS = 8
"""Of a tensor: the product of a million would take hours."""

_NO_TEXT = re.compile("[\ud800-\udfff]")
"""Halves of characters, which JSON can name and no file of ours can hold."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tensor:
    """Where one tensor lies: bytes `begin` to `end` of the file."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """The metadata, in which every value is a string, and the tensors by name, in the order of the file's bytes."""

    metadata: Mapping[str, str]
    tensors: Mapping[str, Tensor]


_DTYPES: dict[str, tuple[str, int]] = {
    "F64": ("<u8", 0x7FF0_0000_0000_0000),
    "F32": ("<u4", 0x7F80_0000),
    "F16": ("<u2", 0x7C00),
    "BF16": ("<u2", 0x7F80),
    "F8_E4M3": ("u1", 0x7F),
    "F8_E5M2": ("u1", 0x7C),
    "I64": ("<u8", 0),
    "I32": ("<u4", 0),
    "I16": ("<u2", 0),
    "I8": ("u1", 0),
    "U8": ("u1", 0),
    "BOOL": ("u1", 0),
}
"""Each dtype as the unsigned integer of its size, and the exponent bits that are all set in NaN and infinity."""


def read_header(path: Path) -> Header:
    """The header of a safetensors file. Raises ValueError saying what is wrong with it, or OSError."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = _length(file.read(8), size)
        raw = file.read(length)
    if len(raw) < length:
        raise ValueError("the file ends inside its header")
    return _parsed(raw, first=8 + length, size=size)


def _length(raw: bytes, size: int) -> int:
    if len(raw) < 8:
        raise ValueError(f"{size} bytes are too few for a safetensors file")
    length: int = struct.unpack("<Q", raw)[0]
    if not 2 <= length <= min(size - 8, MAX_BYTES):
        raise ValueError(f"its header claims {length} bytes in a file of {size}: not a safetensors file, or cut off")
    return length


def _parsed(raw: bytes, *, first: int, size: int) -> Header:
    try:
        content = json.loads(raw.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"its header is not JSON: {type(error).__name__}") from None
    if not isinstance(content, dict):
        raise ValueError("its header is not a JSON object")
    metadata = content.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(map(_is_text, metadata.values())):
        raise ValueError("its metadata is not a table of strings")
    tensors = {name: _tensor(name, entry, first) for name, entry in content.items()}
    return Header(metadata=metadata, tensors=_in_order(tensors, first=first, size=size))


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and not _NO_TEXT.search(value)


def _tensor(name: str, entry: Any, first: int) -> Tensor:
    try:
        dtype, shape, (begin, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
        width = np.dtype(_DTYPES[dtype][0]).itemsize
        numbers = [*shape, begin, end]
        sound = len(shape) <= _MAX_DIMS and all(type(number) is int and number >= 0 for number in numbers)
    except (KeyError, TypeError, ValueError):
        raise ValueError(f"its header describes tensor {name[:100]!r} in no known way") from None
    if not sound or end - begin != math.prod(shape) * width:
        raise ValueError(f"tensor {name[:100]!r} does not have the size that its shape asks for")
    return Tensor(dtype=dtype, shape=tuple(shape), begin=first + begin, end=first + end)


def _in_order(tensors: dict[str, Tensor], *, first: int, size: int) -> dict[str, Tensor]:
    """Tensors must fill the file without gap or overlap, as safetensors itself demands."""
    ordered = dict(sorted(tensors.items(), key=lambda item: (item[1].begin, item[1].end)))
    position = first
    for name, tensor in ordered.items():
        if tensor.begin != position:
            raise ValueError(f"tensor {name[:100]!r} overlaps another or leaves a gap")
        position = tensor.end
    if position != size:
        raise ValueError(f"it has {size} bytes where its tensors need {position}: cut off, or with something appended")
    return ordered


def not_finite(path: Path, header: Header) -> list[str]:
    """The tensors that hold a NaN or an infinity."""
    return [name for name, bits, mask in _contents(path, header) if mask and ((bits & mask) == mask).any()]


def all_zero(path: Path, header: Header, *, suffix: str) -> bool:
    """Whether every tensor whose name ends in `suffix` is zero throughout (minus zero is not)."""
    chosen = {name: tensor for name, tensor in header.tensors.items() if name.endswith(suffix)}
    part = Header(metadata={}, tensors=chosen)
    return not any(bits.any() for _, bits, _ in _contents(path, part))


def _contents(path: Path, header: Header) -> Iterator[tuple[str, Any, int]]:
    """Each tensor's values as unsigned integers, with its mask of exponent bits."""
    with path.open("rb") as file:
        for name, tensor in header.tensors.items():
            kind, mask = _DTYPES[tensor.dtype]
            file.seek(tensor.begin)
            yield name, np.frombuffer(file.read(tensor.end - tensor.begin), dtype=kind), mask
