"""The `--network_module` of gen_img.py for LyCORIS, which applies a network only with flags that gen_img.py omits.

It runs in the trainer's interpreter; its folder is on PYTHONPATH there (`generate.environment`).
"""

from typing import Any


def create_network_from_weights(*args: Any, **kwargs: Any) -> "tuple[Any, dict[str, Any]]":
    """As lycoris.kohya; the network's `apply_to` needs no flags."""
    from lycoris import kohya  # type: ignore[import-not-found]  # only in the environment of the trainer

    network, weights = kohya.create_network_from_weights(*args, **kwargs)
    apply_to = network.apply_to

    def apply_to_both(text_encoder: Any, unet: Any) -> None:
        apply_to(text_encoder, unet, True, True)

    network.apply_to = apply_to_both
    return network, weights
