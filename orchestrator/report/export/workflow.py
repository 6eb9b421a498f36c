"""What loads a LoRA elsewhere: a ComfyUI workflow in the API's format, and a prompt for A1111 and its forks."""

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
"""gen_img.py's names, less their `k_`, -> ComfyUI's and A1111's."""

_INSTEAD = "euler_a"


def sampler_instead(made: Generation) -> str:
    """What stands for a sampler that the two programs do not have; empty for one that they have."""
    return "" if made.sampler.removeprefix("k_") in _SAMPLERS else _INSTEAD


def comfyui(one: RunSummary, name: str, settings: Settings) -> dict[str, Any]:
    """Nodes by number, as ComfyUI's /prompt takes them and its canvas opens them: one picture as the sweep made it."""
    made, base = settings.generation, settings.base_models[str(one.run.point.params["base_model"])]
    text, seed, strength = _example(one)
    nodes = {
        "1": _node("CheckpointLoaderSimple", ckpt_name=base.path.name),
        "2": _node(
            "LoraLoader",
            model=["1", 0],
            clip=["1", 1],
            lora_name=f"{name}.safetensors",
            strength_model=strength,
            strength_clip=strength,
        ),
        "3": _node("CLIPTextEncode", clip=["2", 1], text=text),
        "4": _node("CLIPTextEncode", clip=["2", 1], text=made.negative_prompt),
        "5": _node("EmptyLatentImage", width=made.width, height=made.height, batch_size=1),
        "6": _sampled(made, seed),
        "7": _node("VAEDecode", samples=["6", 0], vae=["1", 2]),
        "8": _node("SaveImage", images=["7", 0], filename_prefix=name),
    }
    if base.vae:
        nodes["9"] = _node("VAELoader", vae_name=base.vae.name)
        nodes["7"]["inputs"]["vae"] = ["9", 0]
    return nodes


def _sampled(made: Generation, seed: int) -> dict[str, Any]:
    return _node(
        "KSampler",
        model=["2", 0],
        positive=["3", 0],
        negative=["4", 0],
        latent_image=["5", 0],
        seed=seed,
        steps=made.steps,
        cfg=made.scale,
        sampler_name=_sampler(made)[0],
        scheduler="normal",
        denoise=1.0,
    )


def a1111(one: RunSummary, name: str, settings: Settings) -> str:
    """The prompt, the negative prompt and the settings, as A1111 reads them back from its prompt field."""
    made, base = settings.generation, settings.base_models[str(one.run.point.params["base_model"])]
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
    """Prompt, seed and strength of the run's picture that is most like the persona."""
    assert one.choice
    best = max(one.choice.reported, key=lambda score: -2.0 if score.similarity is None else score.similarity)
    return best.image.text, best.image.seed, one.choice.strength


def _node(kind: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": kind, "inputs": inputs}
