"""Previews during a training, as sd-scripts draws them: their steps, prompts and file names."""

import time
from pathlib import Path

from orchestrator.miniature import generation, image_model, log
from orchestrator.miniature.arguments import Arguments

STEPS = 30
"""sd-scripts' defaults."""


def due(asked: Arguments, *, step: int, epoch: int | None) -> bool:
    """Whether images are drawn now: `epoch` None after a step, else at an epoch's end; both 0 before the first."""
    if step == 0:
        return bool(asked["sample_at_first"])
    if every := asked["sample_every_n_epochs"]:  # wins over steps, as in sd-scripts
        return bool(epoch is not None and epoch % every == 0)
    every = asked["sample_every_n_steps"]
    return bool(every and epoch is None and step % every == 0)


def draw(asked: Arguments, model: image_model.ImageModel, *, step: int, epoch: int | None) -> None:
    """One image for each line of `sample_prompts`, in order; an image's noise depends only on its seed."""
    log.info(f"generating sample images at step / サンプル画像生成 ステップ: {step}")
    folder = Path(asked["output_dir"]) / "sample"
    folder.mkdir(parents=True, exist_ok=True)
    number = f"{step:06d}" if epoch is None else f"e{epoch:06d}"
    text = Path(asked["sample_prompts"]).read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    for place, line in enumerate(lines):
        words, values = generation.read_line(line)
        captions = image_model.read_captions([words])
        drawn = image_model.sample(model, captions, [int(values["d"])], int(values.get("s", STEPS)))
        name = f"{asked['output_name']}_{number}_{place:02d}_{time.strftime('%Y%m%d%H%M%S')}_{values['d']}.png"
        image = generation.enlarged(drawn[0], int(values.get("w", 512)), int(values.get("h", 512)))
        image.save(folder / name)
