"""Checks a LoRA file of unknown origin by its name, header and values: can gen_img.py load it on SDXL?"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from orchestrator.errors import Problem, error, warning
from orchestrator.kohya import base_model, networks
from orchestrator.kohya.outputs import safetensors_header, verify
from orchestrator.kohya.outputs.safetensors_header import Header
from orchestrator.model import Params
from orchestrator.store.hashes import sha256

_MODULE = re.compile(r"((?:lora_(?:unet|te1|te2)|oft_unet)_[^.]+)\.(.+)")
_TENSORS: Mapping[str, Sequence[frozenset[str]]] = {
    "lora": [frozenset({"lora_down.weight", "lora_up.weight"})],
    "loha": [frozenset({"hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"})],
    "lokr": [
        frozenset({*first, *second})
        for first in (["lokr_w1"], ["lokr_w1_a", "lokr_w1_b"])
        for second in (["lokr_w2"], ["lokr_w2_a", "lokr_w2_b"])
    ],
    "oft": [frozenset({"oft_blocks"})],
}
"""The tensors of a complete module, by the kind of network."""
_FURTHER = frozenset({"alpha", "dora_scale", "lora_mid.weight", "hada_t1", "hada_t2", "lokr_t2"})
_KINDS: Mapping[str, frozenset[str]] = {
    **{f"networks.{kind}": frozenset({kind}) for kind in _TENSORS},
    networks.LYCORIS: frozenset({"lora", "loha", "lokr"}),
}
"""What the modules of sd-scripts and LyCORIS load."""
_OTHER_MODELS = re.compile(
    r"lora_te_|lora_te3_|lora_unet_(?:down|up|mid)_block|lora_unet_(?:single|double|joint)_blocks"
)
_CROSS_ATTENTION = re.compile(r"lora_unet_.+_attn2_to_[kv]\.lora_down\.weight")
_SDXL_CONTEXT = 2048
_SDXL_VERSION = "sdxl"
_MAX_TEXT = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class LoraFile:
    """A LoRA that gen_img.py can load. The texts are its metadata: untrusted, printable, empty if absent.

    module: in its metadata. network: the arguments of a training that would generate with it.
    base_name, base_hash: file name and SHA-256 of the base model that it was trained on.
    """

    path: Path
    sha256: str
    ranks: tuple[int, ...]
    module: str
    base_name: str
    base_hash: str
    network: Params = field(default_factory=dict)

    @property
    def name(self) -> str:
        return "".join(letter if letter.isprintable() else "?" for letter in self.path.name)


def read(path: Path) -> tuple[LoraFile | None, list[Problem]]:
    """The file, or None with errors that say why it cannot be used; also warnings. Never opens a pickle."""
    if pickled := list(base_model.is_pickle(path)):
        return None, [error("--lora", what, remedy, where=ascii(str(path))) for what, remedy in pickled]
    where = str(path) if str(path).isprintable() else ascii(str(path))
    try:
        header = safetensors_header.read_header(path)
        bad = safetensors_header.not_finite(path, header)
        hash_of_file = sha256(path)
    except (OSError, ValueError) as problem:
        what = "there is no such file" if isinstance(problem, FileNotFoundError) else f"cannot be read: {problem}"
        return None, [error("--lora", what, "get the file again, or correct the path", where=where)]
    issues = [*_issues(header), *_not_finite(bad)]
    if issues:
        return None, [error("--lora", what, remedy, where=where) for what, remedy in issues[:1]]
    file = LoraFile(
        path=path,
        sha256=hash_of_file,
        ranks=tuple(sorted(verify.ranks(header))),
        module=_text(header, "ss_network_module"),
        base_name=_text(header, "ss_sd_model_name"),
        base_hash=_text(header, "ss_new_sd_model_hash"),
        network=network_of(header),
    )
    return file, [warning("--lora", what, remedy, where=where) for what, remedy in _doubts(path, header, file)]


def network_of(header: Header) -> Params:
    """`network_module`, and `network_args` as far as gen_img.py cannot read them from the tensors."""
    module = _text(header, "ss_network_module")
    used = module if module in _KINDS else networks.LORA
    try:
        factor = str(json.loads(header.metadata.get("ss_network_args", "{}"))["factor"])
    except (ValueError, KeyError, TypeError, RecursionError):
        factor = ""
    arguments = (f"factor={factor}",) if used == networks.LOKR and re.fullmatch(r"-?\d{1,5}", factor) else ()
    return {"network_module": used, **({"network_args": arguments} if arguments else {})}


def _text(header: Header, key: str) -> str:
    text = header.metadata.get(key, "")[:_MAX_TEXT]
    return "" if text == "None" else "".join(letter if letter.isprintable() else "?" for letter in text)


def _issues(header: Header) -> Iterator[tuple[str, str]]:
    """Why gen_img.py cannot use the file on SDXL, most important first."""
    version = _text(header, "ss_base_model_version")
    contexts = {
        tensor.shape[1]
        for name, tensor in header.tensors.items()
        if _CROSS_ATTENTION.fullmatch(name) and len(tensor.shape) > 1
    }
    sdxl = "use a LoRA that was trained on SDXL"
    if version and not version.startswith(_SDXL_VERSION):
        yield f"was trained on another architecture: ss_base_model_version is {version!r}", sdxl
    if foreign := next((name for name in header.tensors if _OTHER_MODELS.match(name)), ""):
        yield f"is a LoRA of another architecture, or has the key names of diffusers: {foreign[:_MAX_TEXT]!r}", sdxl
    if contexts - {_SDXL_CONTEXT}:
        yield f"is a LoRA of another architecture: its text width is {min(contexts)}, not {_SDXL_CONTEXT}", sdxl
    parts: dict[str, set[str]] = {}
    for name in header.tensors:
        if match := _MODULE.fullmatch(name):
            parts.setdefault(match[1], set()).add(match[2])
        else:
            what = f"is not a LoRA with the key names of sd-scripts: {name[:_MAX_TEXT]!r}"
            yield what, "convert it, for example with sd-scripts' networks/convert_... programs"
    if not parts:
        yield "contains no LoRA", "name a LoRA file"
    used = str(network_of(header)["network_module"])
    loaded = {name for kind in _KINDS[used] for tensors in _TENSORS[kind] for name in tensors}
    loaded |= _FURTHER if used != networks.LORA else {"alpha"}
    if kinds := {name for found in parts.values() for name in found} - loaded:
        module = _text(header, "ss_network_module") or "another program"
        listed = ", ".join(sorted(kinds))[:_MAX_TEXT]
        what = f"is of {module} and has {listed}, with which orchestrate cannot generate by {used}"
        yield what, "generate images with the program that can load it, and use `orchestrate score --images FOLDER`"
    complete = [tensors for kind in _KINDS[used] for tensors in _TENSORS[kind]]
    if lacking := [name for name, found in parts.items() if found - _FURTHER not in complete]:
        yield (
            f"{len(lacking)} of its modules lack tensors, the first is {lacking[0][:_MAX_TEXT]!r}",
            "get the file again",
        )


def _not_finite(names: list[str]) -> Iterator[tuple[str, str]]:
    if names:
        yield f"{len(names)} of its tensors contain NaN or infinity", "use another checkpoint"


def _doubts(path: Path, header: Header, file: LoraFile) -> Iterator[tuple[str, str]]:
    if verify.is_torn(path, header):
        what = "its weights do not match the hash in its metadata: another program changed it, or it is damaged"
        yield what, "get the file again if nothing was meant to change it"
    if file.module and file.module != file.network["network_module"]:
        yield f"its metadata names the module {file.module!r}; it is loaded as networks.lora", "compare a few images"
    if not file.module:
        yield "has no metadata about its training: it is loaded as networks.lora", "compare a few images"
