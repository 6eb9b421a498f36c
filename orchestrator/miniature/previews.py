"""Previews on the way, as sd-scripts draws them: when, of which lines, and under which names."""

import time
from pathlib import Path

from orchestrator.miniature import generation, log, picture_model
from orchestrator.miniature.arguments import Arguments

STEPS = 30
"""What sd-scripts takes where a line says nothing."""


def due(asked: Arguments, *, step: int, epoch: int | None) -> bool:
    """Whether pictures are drawn now: `epoch` None after a step, else at an epoch's end; both 0 before the first."""
    if step == 0:
        return bool(asked["sample_at_first"])
    if every := asked["sample_every_n_epochs"]:  # wins over steps, as in sd-scripts
        return bool(epoch is not None and epoch % every == 0)
    every = asked["sample_every_n_steps"]
    return bool(every and epoch is None and step % every == 0)


def draw(asked: Arguments, model: picture_model.PictureModel, *, step: int, epoch: int | None) -> None:
    """One picture for each line of `sample_prompts`, in turn; a picture's chance is its seed's alone."""
    log.info(f"generating sample images at step / サンプル画像生成 ステップ: {step}")
    folder = Path(asked["output_dir"]) / "sample"
    folder.mkdir(parents=True, exist_ok=True)
    number = f"{step:06d}" if epoch is None else f"e{epoch:06d}"
    text = Path(asked["sample_prompts"]).read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    for place, line in enumerate(lines):
        words, said = generation.read_line(line)
        captions = picture_model.read_captions([words])
        drawn = picture_model.sample(model, captions, [int(said["d"])], int(said.get("s", STEPS)))
        name = f"{asked['output_name']}_{number}_{place:02d}_{time.strftime('%Y%m%d%H%M%S')}_{said['d']}.png"
        picture = generation.enlarged(drawn[0], int(said.get("w", 512)), int(said.get("h", 512)))
        picture.save(folder / name)
