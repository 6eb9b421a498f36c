"""Preview images that sd-scripts makes during training: the arguments that enable them, and their file names."""

import re
from pathlib import Path

from orchestrator.files import open_regular
from orchestrator.model import Params

EVERY = "sample_every_n_steps"
ASKING = ("sample_at_first", "sample_every_n_epochs", EVERY)
"""Each of these enables previews; with epochs, sd-scripts ignores the one by steps."""

_NAME = re.compile(r".+_(?P<step>\d{6,})_(?P<place>\d{2,})_\d{14}_\d+\.png")
_END = b"IEND\xaeB`\x82"


def enabled(params: Params) -> bool:
    """Whether a training makes any."""
    return any(params.get(key) for key in ASKING)


def files_at_step(output_dir: Path, step: int, count: int) -> list[Path]:
    """The previews of a step in the order of their prompts; none until all exist and the last one is complete.

    Names are `{output_name}_{step}_{prompt}_{time}_{seed}.png` (sampling.sample_image_inference), written in turn.
    """
    names = [_NAME.fullmatch(path.name) for path in (output_dir / "sample").glob("*.png")]
    found = {int(name["place"]): name[0] for name in names if name and int(name["step"]) == step}
    images = [output_dir / "sample" / found[place] for place in sorted(found)]
    return images if len(images) == count and _is_complete(images[-1]) else []


def _is_complete(image: Path) -> bool:
    """Whether a PNG is complete, by its last bytes."""
    with open_regular(image) as file:
        file.seek(0, 2)
        file.seek(max(0, file.tell() - len(_END)))
        return file.read() == _END
