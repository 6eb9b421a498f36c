"""Types of the fields of settings and grids: which TOML values each accepts, and the message about others."""

import math
import os
import re
from collections import Counter
from collections.abc import Callable, Mapping
from datetime import date, time
from pathlib import Path
from typing import Annotated, Any, ClassVar, TypeAlias
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, PlainValidator, Strict, ValidationInfo
from pydantic_core import CoreSchema, PydanticCustomError, PydanticOmit
from pydantic_core.core_schema import with_info_wrap_validator_function

from orchestrator.model import Scalar, Value
from orchestrator.text import bad_name
from orchestrator.values import canonical_json

_VARIABLE = re.compile(r"\$(?:[A-Za-z_]\w*|\{\w+\})|%[A-Z]+%")
"""$HOME, ${HOME} or %USERPROFILE%."""
_WINDOWS_PATH = re.compile(r"[A-Za-z]:[\\/]")


class Table:
    """A table of a TOML file. Unknown keys are errors; the texts below the fields become descriptions for editors."""

    __slots__ = ()
    __pydantic_config__: ClassVar = {"extra": "forbid", "use_attribute_docstrings": True}


class Internal:
    """Marks a field that records have and no settings file can set."""

    def __get_pydantic_core_schema__(self, source: Any, handler: Callable[[Any], CoreSchema]) -> CoreSchema:
        return with_info_wrap_validator_function(self._check, handler(source))

    def __get_pydantic_json_schema__(self, *_: Any) -> Any:
        raise PydanticOmit

    @staticmethod
    def _check(raw: object, validate: Callable[[object], object], info: ValidationInfo[Any]) -> object:
        if info.context:
            raise PydanticCustomError("unexpected_keyword_argument", "unknown key")
        return validate(raw)


def wrong(what: str, remedy: str) -> PydanticCustomError:
    """The error to raise about a value, with what to write instead."""
    return PydanticCustomError("wrong", "{what}", {"what": what, "remedy": remedy})


def kind_of(raw: object) -> str:
    """The TOML type of a value, for messages."""
    if isinstance(raw, float) and not math.isfinite(raw):
        return str(raw)
    if isinstance(raw, int) and not -(2**63) <= raw < 2**63:
        return "a whole number beyond 64 bits"
    names: dict[type, str] = {
        str: "text",
        bool: "true or false",
        int: "a whole number",
        float: "a number",
        list: "a list",
        dict: "a table",
    }
    return names.get(type(raw), "a date or time" if isinstance(raw, date | time) else type(raw).__name__)


def _path(raw: object, info: ValidationInfo[Any]) -> Path:
    """An absolute path; relative ones start at the file's folder. Symbolic links stay. Records have absolute paths."""
    if not info.context:
        return Path(str(raw))
    if not isinstance(raw, str) or not raw:
        what = "must be a path" if isinstance(raw, str) else f"must be text in quotes, not {kind_of(raw)}"
        raise wrong(what, 'write a path, like "models/base.safetensors"')
    if not raw.isprintable():
        remedy = 'write a Windows path in single quotes or with forward slashes: "\\t" and "\\n" are control characters'
        raise wrong("contains a character that no path here can have", remedy)
    if os.name != "nt" and _WINDOWS_PATH.match(raw):
        remedy = (
            f"write the path as this system has it; under WSL: /mnt/{raw[0].lower()}/{raw[3:].replace(chr(92), '/')}"
        )
        raise wrong("is a Windows path", remedy)
    if found := _VARIABLE.search(raw):
        remedy = "write the folder itself; ~ stands for your home folder"
        raise wrong(f"contains {found[0]}, and environment variables are not replaced in paths", remedy)
    path = os.path.expanduser(raw)  # noqa: PTH111 - never raises
    if path.startswith("~"):
        user = raw.partition("/")[0]
        raise wrong(f"begins with {user}, and there is no such user", f'write "./{raw}" for a folder named {user}')
    return Path(os.path.normpath(info.context["folder"] / path))


_MAX_TEXT = 4000
"""Characters of one text; Python converts no longer texts to numbers."""


def _scalar(raw: object) -> Scalar:
    if isinstance(raw, str) and len(raw) > _MAX_TEXT:
        raise wrong(f"has {len(raw):,} characters, more than {_MAX_TEXT:,}", "shorten it")
    if isinstance(raw, str | bool) or (isinstance(raw, int) and -(2**63) <= raw < 2**63):
        return raw
    if isinstance(raw, float) and math.isfinite(raw):
        return raw
    what = f"must be text, a finite number, true, false or a flat list of these, not {kind_of(raw)}"
    raise wrong(what, 'write one value, or a list like ["a=1", "b=2"]')


def _value(raw: object) -> Value:
    return tuple(map(_scalar, raw)) if isinstance(raw, list) else _scalar(raw)


def _levels(raw: object) -> tuple[Value, ...]:
    if not isinstance(raw, list) or not raw:
        raise wrong(
            "a dim needs a list of at least one value", "write a list such as [16, 32], or set the argument in [fixed]"
        )
    levels = tuple(map(_value, raw))
    if repeated := [text for text, count in Counter(map(canonical_json, levels)).items() if count > 1]:
        raise wrong(f"the values of a dim must differ, but {', '.join(repeated)} occurs twice", "remove one of them")
    return levels


def _distinct(items: tuple[Any, ...]) -> tuple[Any, ...]:
    if len(set(items)) < len(items):
        raise wrong("contains a value twice", "remove one of them")
    return items


def _name(raw: str) -> str:
    if reason := bad_name(raw):
        raise wrong(f"is not a name: it {reason}", "choose another name")
    return raw


def _web_address(raw: str) -> str:
    try:
        url = urlsplit(raw)
        valid = url.scheme in ("http", "https") and url.port != 0 and raw.isprintable()
        valid = valid and bool(re.fullmatch(r"[\w.:%-]{1,253}", url.hostname or ""))
        valid = valid and "@" not in url.netloc  # urllib would name the password in an error
        valid = valid and raw.isascii() and bool((url.hostname or "").encode("idna"))
    except ValueError:  # http://[::1 and ports such as :x
        valid = False
    if not valid or " " in raw:
        raise wrong("is not a web address", 'write it like "https://hooks.example.org/abc"')
    return raw


def _environment(raw: Mapping[str, str]) -> Mapping[str, str]:
    if any("\0" in name + entry or "=" in name or not name for name, entry in raw.items()):
        raise wrong("contains a name or value that no environment variable can have", "remove = and NUL")
    return raw


def _extension(raw: str) -> str:
    if not raw.startswith(".") or raw == "." or "/" in raw or not raw.isprintable():
        raise wrong("is not a file extension", "write it with its dot, like .txt")
    return raw


def _gpus(raw: object) -> str:
    gpus = [gpu for gpu in (raw if isinstance(raw, list) else [raw]) if isinstance(gpu, str)]
    if not gpus or (isinstance(raw, list) and len(gpus) < len(raw)):
        raise wrong("must be text or a list of texts", 'write "all", "none", or like ["0", "1"]')
    if len(gpus) == 1 and gpus[0].lower() in ("all", "none"):
        return gpus[0].lower().removeprefix("all")
    return ",".join(gpus)


def _checkpoints(raw: object) -> str | tuple[int, ...]:
    if isinstance(raw, str) and raw in ("best", "last", "all"):
        return raw
    if not isinstance(raw, list) or not raw or not all(type(epoch) is int and epoch > 0 for epoch in raw):
        raise wrong("must be best, last, all, or a list of epochs", "write them like [6, 8, 10]")
    return _distinct(tuple(raw))


Flag: TypeAlias = Annotated[bool, Strict()]
Natural: TypeAlias = Annotated[int, Field(strict=True, ge=0, le=2**32 - 1)]
"""The largest is the largest seed."""
Count: TypeAlias = Annotated[int, Field(strict=True, ge=1, le=10**6)]
Repeats: TypeAlias = Annotated[int, Field(strict=True, ge=1, le=10_000)]
"""Each repeat of an image is an element of a list, here and in sd-scripts."""
Number: TypeAlias = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Positive: TypeAlias = Annotated[Number, Field(gt=0)]
NonNegative: TypeAlias = Annotated[Number, Field(ge=0)]
Unit: TypeAlias = Annotated[Number, Field(ge=0, le=1)]
"""0 to 1, both included."""
Share: TypeAlias = Annotated[Number, Field(gt=0, lt=1)]

FilePath: TypeAlias = Annotated[Path, PlainValidator(_path, json_schema_input_type=str)]
Name: TypeAlias = Annotated[str, AfterValidator(_name)]
WebAddress: TypeAlias = Annotated[str, AfterValidator(_web_address)]
Extension: TypeAlias = Annotated[str, AfterValidator(_extension)]
Environment: TypeAlias = Annotated[Mapping[str, str], AfterValidator(_environment)]
Seeds: TypeAlias = Annotated[tuple[Natural, ...], Field(min_length=1), AfterValidator(_distinct)]
Strengths: TypeAlias = Annotated[tuple[Positive, ...], Field(min_length=1), AfterValidator(_distinct)]
Averages: TypeAlias = Annotated[
    tuple[Annotated[str, Field(pattern=r"^(mean(-([2-9]|[1-9]\d{1,3}))?|ema-0\.\d{1,4})$")], ...],
    AfterValidator(_distinct),
]
"""`mean`, `mean-3` (of the last three) or `ema-0.8`."""
Gpus: TypeAlias = Annotated[str, PlainValidator(_gpus, json_schema_input_type=str | list[str])]
Checkpoints: TypeAlias = Annotated[
    str | tuple[int, ...], PlainValidator(_checkpoints, json_schema_input_type=str | list[int])
]

_Values: TypeAlias = str | int | float | bool | list[str | int | float | bool]
ArgumentValue: TypeAlias = Annotated[Value, PlainValidator(_value, json_schema_input_type=_Values)]
ArgumentName: TypeAlias = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,63}$")]
Arguments: TypeAlias = Mapping[ArgumentName, ArgumentValue]
"""sd-scripts arguments, and the dims `base_model` and `dataset`."""
Levels: TypeAlias = Annotated[tuple[Value, ...], PlainValidator(_levels, json_schema_input_type=list[_Values])]
"""The values of one dim."""
