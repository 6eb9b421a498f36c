"""Reads the headers of untrusted safetensors files: the library checks offsets and shapes, this module sizes.

Also writes files.
"""

import hashlib
import os
import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from orchestrator import files
from orchestrator.files import open_regular

MAX_BYTES = 16 * 1024 * 1024
"""Largest accepted header. An SDXL checkpoint's has 0.4 MB; a LoRA's grows with the tags of its dataset."""

MAX_DIMS = 8
"""Most dimensions of a tensor that are accepted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tensor:
    """Where a tensor is stored: bytes `begin` to `end` of the file."""

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
    **dict.fromkeys(("I64", "U64"), ("<u8", 0)),
    **dict.fromkeys(("I32", "U32"), ("<u4", 0)),
    **dict.fromkeys(("I16", "U16"), ("<u2", 0)),
    **dict.fromkeys(("I8", "U8", "BOOL"), ("u1", 0)),
}
"""Each dtype as the unsigned integer of its size, and the exponent bits that are all set in NaN and infinity."""


def read_header(path: Path) -> Header:
    """The header of a safetensors file. Raises ValueError saying what is wrong with it, or OSError."""
    with open_regular(path) as file:
        size, raw = os.fstat(file.fileno()).st_size, file.read(8)
    if len(raw) < 8:
        raise ValueError("it is empty" if size == 0 else f"it is cut off after {size} bytes")
    length: int = struct.unpack("<Q", raw)[0]
    if not 2 <= length <= min(size - 8, MAX_BYTES):
        raise ValueError(f"its header claims {length} bytes in a file of {size}: not a safetensors file, or cut off")
    try:
        with safe_open(path, framework="np") as opened:
            slices = {name: opened.get_slice(name) for name in opened.offset_keys()}
            described = {name: (part.get_dtype(), part.get_shape()) for name, part in slices.items()}
            metadata = opened.metadata() or {}
    except SafetensorError as error:
        raise ValueError(f"not a safetensors file, or cut off: {error}") from None
    tensors, begin = {}, 8 + length
    for name, (dtype, shape) in described.items():
        if dtype not in _DTYPES or len(shape) > MAX_DIMS:
            raise ValueError(f"tensor {name[:100]!r} has dtype {dtype} and {len(shape)} dimensions")
        end = begin + int(np.prod(shape, dtype=object)) * np.dtype(_DTYPES[dtype][0]).itemsize
        tensors[name] = Tensor(dtype=dtype, shape=tuple(shape), begin=begin, end=end)
        begin = end
    if begin != size:
        raise ValueError(f"it has {size} bytes where its tensors need {begin}")
    return Header(metadata=metadata, tensors=tensors)


def not_finite(path: Path, header: Header) -> list[str]:
    """The tensors that contain a NaN or an infinity."""
    return [name for name, bits, mask in _contents(path, header) if mask and ((bits & mask) == mask).any()]


def all_zero(path: Path, header: Header, names: Iterable[str]) -> bool:
    """Whether each of these tensors is zero throughout (minus zero is not)."""
    chosen = {name: header.tensors[name] for name in names if name in header.tensors}
    return not any(bits.any() for _, bits, _ in _contents(path, Header(metadata={}, tensors=chosen)))


def values(path: Path, tensor: Tensor) -> NDArray[np.floating[Any]]:
    """The numbers of a tensor of floats, in its shape. Raises ValueError for other types."""
    kinds = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}
    if tensor.dtype not in kinds:
        raise ValueError(f"{path} has a tensor of type {tensor.dtype}, not of floats")
    with open_regular(path) as file:
        file.seek(tensor.begin)
        found = np.frombuffer(file.read(tensor.end - tensor.begin), dtype=kinds[tensor.dtype])
    if tensor.dtype == "BF16":  # the upper half of a float32
        found = (found.astype("<u4") << 16).view("<f4")
    return found.reshape(tensor.shape)


def write(path: Path, tensors: Mapping[str, NDArray[np.floating[Any]]], metadata: Mapping[str, str]) -> None:
    """Write a file with these tensors, this metadata, and the hash of the tensors that sd-scripts writes."""
    kept = {key: value for key, value in metadata.items() if not key.startswith("sshs_")}
    body = save(dict(tensors))
    begin = 8 + int.from_bytes(body[:8], "little")
    path.write_bytes(save(dict(tensors), {**kept, "sshs_model_hash": hashlib.sha256(body[begin:]).hexdigest()}))
    files.sync(path)


def _contents(path: Path, header: Header) -> Iterator[tuple[str, Any, int]]:
    """Each tensor's values as unsigned integers, with its mask of exponent bits."""
    with open_regular(path) as file:
        for name, tensor in header.tensors.items():
            kind, mask = _DTYPES[tensor.dtype]
            file.seek(tensor.begin)
            yield name, np.frombuffer(file.read(tensor.end - tensor.begin), dtype=kind), mask
