"""Programs of sd-scripts that orchestrate does not run, by file name."""

import re
from pathlib import PurePath

TRAIN, GENERATE = "sdxl_train_network.py", "gen_img.py"

_FAMILIES = {
    "flux": "FLUX.1", "chroma": "Chroma", "sd3": "Stable Diffusion 3", "lumina": "Lumina Image 2.0",
    "hunyuan": "HunyuanImage", "anima": "Anima", "qwen": "Qwen-Image", "wan": "Wan", "hv": "HunyuanVideo",
    "fpack": "FramePack", "zimage": "Z-Image",
}  # fmt: skip
"""Model family by the first word of a program's name, in sd-scripts and musubi-tuner."""

_SD1 = (
    "train_network.py", "train_db.py", "fine_tune.py", "train_textual_inversion.py", "train_textual_inversion_XTI.py",
    "train_leco.py", "train_control_net.py", "train_controlnet.py",
)  # fmt: skip
_OTHER = {
    "sdxl_train.py": "trains the whole model",
    "sdxl_train_leco.py": "trains sliders from prompts, without images",
    "sdxl_train_textual_inversion.py": "trains embeddings",
    **dict.fromkeys(
        ("sdxl_train_control_net.py", "sdxl_train_control_net_lllite.py", "sdxl_train_control_net_lllite_old.py"),
        "trains a ControlNet",
    ),
    **dict.fromkeys(
        ("sdxl_gen_img.py", "gen_img_diffusers.py", "sdxl_minimal_inference.py", "inpainting_minimal_inference.py"),
        "cannot load the plugin by which orchestrate makes all images of a run in one process",
    ),
}


def reason_against(script: str) -> str:
    """Why orchestrate does not run this program; empty for the right one and for names that are not sd-scripts' own."""
    name = PurePath(script.replace("\\", "/")).name
    if name in (TRAIN, GENERATE):
        return ""
    if name in _OTHER:
        return f"{name} {_OTHER[name]}"
    program = re.fullmatch(
        r"([a-z0-9]+?)(?:_.+)?_(train|train_\w+|gen_img|generate_\w+|minimal_inference\w*)\.py", name
    )
    family = _FAMILIES.get(program[1], "") if program else ""
    if name in _SD1:
        family = "Stable Diffusion 1 and 2"
    elif not family and name == script and re.fullmatch(r"(?!sdxl)\w+_train_network\.py", name):
        family = name.removesuffix("_train_network.py")
    if not family:
        return ""
    return (
        f"{name} is for {family}: orchestrate's arguments, memory estimates, base model checks and image generation "
        "are for SDXL"
    )
