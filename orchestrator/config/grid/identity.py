"""What a point is called: its id from all of its params, its name from its dims."""

import re
import unicodedata
from collections.abc import Collection, Iterable
from fnmatch import fnmatchcase
from functools import lru_cache

from orchestrator.model import Params, Point, Scalar, Value
from orchestrator.store.hashes import sha256_text
from orchestrator.values import canonical_json

_MAX_VALUE = 32
_MAX_LABEL_BYTES = 150  # with the id and a suffix it stays far below the 255 bytes a file name may have


def point_id(params: Params) -> str:
    """First 8 hex digits of the sha256 of the params as canonical JSON: sorted keys, 16.0 is 16, true is not 1."""
    return sha256_text(canonical(params))[:8]


def canonical(params: Params) -> str:
    """The params as canonical JSON."""
    return "{" + ",".join([f'"{key}":{canonical_json(params[key])}' for key in sorted(params)]) + "}"


def point_name(params: Params, dims: Iterable[str], identity: str) -> str:
    """A file name for people, `network_dim=32_seed=1-a1b2c3d4`. Only the id at its end makes it unique."""
    label = "_".join([f"{key}={_in_file_name(params[key])}" for key in dims]) or "point"
    if len(label) > _MAX_LABEL_BYTES // 4:
        label = label.encode()[:_MAX_LABEL_BYTES].decode(errors="ignore")
    return f"{label}-{identity}"


def selects(pattern: str, point: Point) -> bool:
    """Whether a glob matches a point's name or id, or consists of its arguments, `network_dim=8` or `a=1_b=2`."""
    if fnmatchcase(point.name, pattern) or fnmatchcase(point.id, pattern):
        return True
    labels = [f"{key}={_in_file_name(value)}" for key, value in point.params.items()] if "=" in pattern else []
    return _consists_of(_with_plain_numbers(pattern, point.params), labels)


def _with_plain_numbers(pattern: str, params: Params) -> str:
    """The pattern with numbers as names have them, `learning_rate=0.0001`, where a grid may say 1e-4."""

    def plain(match: re.Match[str]) -> str:
        is_number = isinstance(params.get(match[1].lstrip("_")), float)
        return f"{match[1]}={float(match[2])}" if is_number else match[0]

    return re.sub(r"(\w+)=(\d+\.?\d*(?:[eE][+-]?\d+)?)(?=[_,]|$)", plain, pattern)


def _consists_of(text: str, labels: Collection[str]) -> bool:
    """Whether a text is made of labels with underscores or commas between them."""
    starts, seen = [0], {0}
    while starts:
        at = starts.pop()
        for end in {at + len(label) for label in labels if text.startswith(label, at)}:
            if end == len(text):
                return True
            if text[end] in "_," and end + 1 not in seen:
                seen.add(end + 1)
                starts.append(end + 1)
    return False


@lru_cache(maxsize=4096, typed=True)  # a sweep repeats few values many times
def _in_file_name(value: Value) -> str:
    parts = value if isinstance(value, tuple) else (value,)
    text = unicodedata.normalize("NFC", "+".join(map(_plain, parts)))
    kept = "".join(letter if letter.isalnum() or letter in "+,.=-" else "-" for letter in text)
    return (kept if len(kept) <= _MAX_VALUE else kept[: _MAX_VALUE - 1] + "~").strip(".-") or "-"


def _plain(value: Scalar) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
