"""What ComfyUI and A1111 make of the files that sd-scripts and LyCORIS write.

The loaders of ComfyUI 0.20.1 and A1111 1.10.1 were compared with the weights that networks.lora, loha, lokr, oft and
lycoris.kohya compute: each tensor is used, and the weights are equal except as `deviations` says.
"""

import json
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from orchestrator.kohya import networks
from orchestrator.kohya.outputs import safetensors_header
from orchestrator.kohya.outputs.safetensors_header import Header

_PREFIX, _BLOCKS, _ALPHA, _NORMS, _TUCKER = "oft_unet_", ".oft_blocks", ".alpha", ".dora_scale", ".lokr_t2"


def deviations(header: Header, strength: float) -> Iterator[str]:
    """What differs in these programs, as sentences; none if both compute the same weights. strength: to use it with."""
    shapes = {name: tensor.shape for name, tensor in header.tensors.items()}
    if is_oft(header) and strength != 1:
        used = f"use {math.copysign(math.sqrt(abs(strength)), strength):.3g} instead of {strength:g} there"
        yield f"ComfyUI applies the strength of an OFT twice: {used}"
    if any(name.endswith(_TUCKER) for name in shapes):
        yield "ComfyUI fails at the layers of LoKr with Tucker tensors and omits them: train without use_tucker"
    if any(name.endswith(_NORMS) and shape[:1] != (1,) for name, shape in shapes.items()):
        yield (
            "A1111 applies this DoRA wrongly and ComfyUI approximately, because its norms are those of the outputs: "
            "use gen_img.py, or train with wd_on_output=False"
        )


def is_oft(header: Header) -> bool:
    """Whether networks.oft wrote the file, whose key names ComfyUI does not know."""
    return any(name.startswith(_PREFIX) for name in header.tensors)


def write_oft(source: Path, target: Path) -> None:
    """Write the rotations of networks.oft with the key names of LyCORIS, which both programs load.

    Without `alpha`: ComfyUI reads another constraint from it, so the rotations are constrained here.
    Raises ValueError if a module has no `alpha`, OSError.
    """
    header = safetensors_header.read_header(source)
    tensors = {}
    for name in (name for name in header.tensors if name.endswith(_BLOCKS)):
        module = name.removesuffix(_BLOCKS)
        if module + _ALPHA not in header.tensors:
            raise ValueError(f"{source} has no {module}{_ALPHA}")
        blocks = safetensors_header.values(source, header.tensors[name])
        alpha = safetensors_header.values(source, header.tensors[module + _ALPHA])
        most = float(alpha) * blocks.shape[0] * blocks.shape[1]
        norm = float(np.linalg.norm(blocks - blocks.transpose(0, 2, 1).astype(np.float64)))
        limited = blocks if norm <= most else (blocks * (most / norm)).astype(blocks.dtype)
        tensors[f"lora_unet_{module.removeprefix(_PREFIX)}{_BLOCKS}"] = limited
    described = {"ss_network_module": networks.LYCORIS, "ss_network_args": json.dumps({"algo": "diag-oft"})}
    safetensors_header.write(target, tensors, {**header.metadata, **described})
