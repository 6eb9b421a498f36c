"""The `--network_module` of gen_img.py for LyCORIS, which applies a network only with flags that gen_img.py omits.

It runs in the trainer's interpreter; its folder is on PYTHONPATH there (`generate.environment`).
"""

from contextlib import ExitStack
from functools import partial, partialmethod
from typing import Any
from unittest import mock


def create_network_from_weights(
    multiplier: float, file: str, *args: Any, **kwargs: Any
) -> "tuple[Any, dict[str, Any]]":
    """As lycoris.kohya, with three differences.

    The network's `apply_to` needs no flags. A DoRA with `wd_on_output=False` is loaded. The strength of a DoRA scales
    the whole change, as in ComfyUI and A1111; in LyCORIS it scales the norms alone, and strength 0 changes weights.
    """
    from lycoris import kohya, modules  # type: ignore[import-not-found]  # only in the environment of the trainer

    with ExitStack() as patches:
        for kind in (modules.LoConModule, modules.LohaModule, modules.LokrModule):
            create = partialmethod(kind.__init__, wd_on_out=_norms_are_of_outputs(file))
            patches.enter_context(mock.patch.object(kind, "__init__", create))
        network, weights = kohya.create_network_from_weights(multiplier, file, *args, **kwargs)
    for module in (*network.unet_loras, *network.text_encoder_loras):
        if getattr(module, "wd", False):
            module.apply_weight_decompose = partial(_decomposed, module, module.apply_weight_decompose)
    apply_to = network.apply_to

    def apply_to_both(text_encoder: Any, unet: Any) -> None:
        apply_to(text_encoder, unet, True, True)

    network.apply_to = apply_to_both
    return network, weights


def _decomposed(module: Any, decompose: Any, weight: Any, multiplier: float = 1.0) -> Any:
    if multiplier == 1:
        return decompose(weight)
    return module.org_weight + multiplier * (decompose(weight) - module.org_weight)


def _norms_are_of_outputs(file: str) -> bool:
    """LyCORIS's loader always assumes so. `dora_scale` is (outputs, 1), or (1, inputs) with `wd_on_output=False`."""
    from safetensors import safe_open

    with safe_open(file, "np") as weights:
        names = [name for name in weights.keys() if name.endswith(".dora_scale")]  # noqa: SIM118  # not a mapping
        return not names or weights.get_slice(names[0]).get_shape()[0] != 1
