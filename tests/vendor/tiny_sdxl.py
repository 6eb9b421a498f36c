"""Runs an unmodified script of sd-scripts with an SDXL that is small enough for a CPU.

    ORCHESTRATE_SD_SCRIPTS=... python tests/vendor/tiny_sdxl.py sdxl_train_network.py [arguments...]

Runs in the trainer's interpreter. sd-scripts hard-codes SDXL's sizes in module constants and in the function that reads
the checkpoint, so these are replaced before the script starts: a U-Net a fifth as wide with one transformer block per
stage, text encoders of two blocks, a VAE a quarter as wide, all with random weights that are the same in every process.
Nothing else changes: names, shapes of the conditioning, the training loop and the files are the script's own.
"""

import os
import runpy
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
SEED = 1234
UNET = {"MODEL_CHANNELS": 64, "TIME_EMBED_DIM": 256}
VAE_CHANNELS = 32
VOCABULARY = {"vocab_size": 49408, "max_position_embeddings": 77, "bos_token_id": 0, "eos_token_id": 2}
FIRST = {"hidden_size": 768, "intermediate_size": 256, "num_hidden_layers": 12, "num_attention_heads": 12}
SECOND = {"hidden_size": 1280, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 20}


def run(script: str) -> None:
    """Run a script of sd-scripts by name, with this process's arguments, as if started by its own path."""
    sd_scripts = Path(os.environ.get("ORCHESTRATE_SD_SCRIPTS", ROOT / "vendor" / "sd-scripts"))
    path = str(sd_scripts / script)
    sys.path.insert(0, str(sd_scripts))
    sys.argv[0] = path
    shrink()
    runpy.run_path(path, run_name="__main__")


def shrink() -> None:
    """Replace sizes and the checkpoint's reader. `library` must be importable."""
    from library import model_util, sdxl_model_util, sdxl_original_unet

    for name, size in UNET.items():
        setattr(sdxl_original_unet, name, size)
    model_util.VAE_PARAMS_CH = VAE_CHANNELS
    transformer = sdxl_original_unet.Transformer2DModel
    build = transformer.__init__

    def build_one_block(self: Any, *args: Any, **kwargs: Any) -> None:
        build(self, *args, **kwargs | {"num_transformer_layers": 1})

    transformer.__init__ = build_one_block
    sdxl_model_util.load_models_from_sdxl_checkpoint = load


def load(*_: Any, **__: Any) -> tuple[Any, ...]:
    """In place of sd-scripts' reader: (text encoder 1, text encoder 2, VAE, U-Net, logit scale, checkpoint info)."""
    import torch
    from diffusers import AutoencoderKL
    from library import model_util, sdxl_original_unet
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    state = torch.get_rng_state()
    torch.manual_seed(SEED)
    unet = sdxl_original_unet.SdxlUNet2DConditionModel()
    first = CLIPTextModel(CLIPTextConfig(projection_dim=768, **FIRST, **VOCABULARY))
    second = CLIPTextModelWithProjection(CLIPTextConfig(projection_dim=1280, hidden_act="gelu", **SECOND, **VOCABULARY))
    vae = AutoencoderKL(**model_util.create_vae_diffusers_config())
    torch.set_rng_state(state)  # the training's own random numbers must not depend on how the models were made
    return first, second, vae, unet, None, None


if __name__ == "__main__":
    del sys.argv[0]
    run(sys.argv[0])
