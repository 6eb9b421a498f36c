"""Files that use a LoRA elsewhere: a ComfyUI workflow in the API format, and a prompt for A1111 and its forks."""

from typing import Any

from orchestrator.config.schema import Generation, Settings
from orchestrator.evidence.summary import RunSummary

_SAMPLERS = {
    "euler_a": ("euler_ancestral", "Euler a"),
    "euler": ("euler", "Euler"),
    "heun": ("heun", "Heun"),
    "lms": ("lms", "LMS"),
    "ddim": ("ddim", "DDIM"),
    "dpm_2": ("dpm_2", "DPM2"),
    "dpm_2_a": ("dpm_2_ancestral", "DPM2 a"),
    "dpmsolver++": ("dpmpp_2m", "DPM++ 2M"),
}
"""gen_img.py's sampler without `k_` -> ComfyUI's and A1111's name."""

_DEFAULT = "euler_a"


def sampler_instead(made: Generation) -> str:
    """The replacement for a sampler that ComfyUI and A1111 lack; empty if they have it."""
    return "" if made.sampler.removeprefix("k_") in _SAMPLERS else _DEFAULT


def comfyui(one: RunSummary, name: str, settings: Settings) -> dict[str, Any]:
    """Nodes by number, for ComfyUI's /prompt and its canvas: one image with the sweep's settings."""
    base = settings.base_models[str(one.run.point.params["base_model"])]
    made = settings.generation_of(base.name)
    text, seed, strength = _example(one)
    strengths = {"strength_model": strength, "strength_clip": strength}
    sampling = {"sampler_name": _sampler(made)[0], "scheduler": "normal", "denoise": 1.0}
    links = {"model": ["2", 0], "positive": ["3", 0], "negative": ["4", 0], "latent_image": ["5", 0]}
    nodes = {
        "1": _node("CheckpointLoaderSimple", ckpt_name=base.path.name),
        "2": _node("LoraLoader", model=["1", 0], clip=["1", 1], lora_name=f"{name}.safetensors", **strengths),
        "3": _node("CLIPTextEncode", clip=["2", 1], text=text),
        "4": _node("CLIPTextEncode", clip=["2", 1], text=made.negative_prompt),
        "5": _node("EmptyLatentImage", width=made.width, height=made.height, batch_size=1),
        "6": _node("KSampler", **links, seed=seed, steps=made.steps, cfg=made.scale, **sampling),
        "7": _node("VAEDecode", samples=["6", 0], vae=["9", 0] if base.vae else ["1", 2]),
        "8": _node("SaveImage", images=["7", 0], filename_prefix=name),
    }
    return nodes | ({"9": _node("VAELoader", vae_name=base.vae.name)} if base.vae else {})


def a1111(one: RunSummary, name: str, settings: Settings) -> str:
    """Prompt, negative prompt and settings, in the form that A1111 reads from its prompt field."""
    base = settings.base_models[str(one.run.point.params["base_model"])]
    made = settings.generation_of(base.name)
    text, seed, strength = _example(one)
    vae = f", VAE: {base.vae.name}" if base.vae else ""
    return (
        f"{text} <lora:{name}:{strength:g}>\n"
        f"Negative prompt: {made.negative_prompt}\n"
        f"Steps: {made.steps}, Sampler: {_sampler(made)[1]}, CFG scale: {made.scale:g}, Seed: {seed}, "
        f"Size: {made.width}x{made.height}, Model: {base.path.stem}{vae}"
    )


def _sampler(made: Generation) -> tuple[str, str]:
    return _SAMPLERS[sampler_instead(made) or made.sampler.removeprefix("k_")]


def _example(one: RunSummary) -> tuple[str, int, float]:
    """Prompt, seed and strength of the run's most similar image. Raises ValueError without scores."""
    scores = one.choice.reported if one.choice else ()
    best = max(scores, key=lambda score: -2.0 if score.similarity is None else score.similarity)
    return best.image.text, best.image.seed, best.image.strength


def _node(kind: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": kind, "inputs": inputs}
