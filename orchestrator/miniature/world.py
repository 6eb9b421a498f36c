"""Writes a persona's whole world into a folder: dataset, references, prompts, base model, face pack and settings.

Everything is drawn and the same each time. Existing parts are kept; each part is written atomically. Only the settings
are always written again, because they contain the paths of this interpreter and this program.
"""

import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from jinja2 import StrictUndefined
from jinja2.sandbox import SandboxedEnvironment
from PIL import Image

from orchestrator.kohya import config_files
from orchestrator.kohya.toml_writer import TomlWriter
from orchestrator.miniature import draw, image_model, pack, scene

_HERE = Path(__file__).parent

PERSONA = 7
SUBJECT = "ohwx person"
"""The trigger in every caption."""
PROMPTS = (
    f"photo of {SUBJECT}, close-up, in a studio, soft light, looking straight",
    f"photo of {SUBJECT}, portrait, at the beach, bright light, tilted left",
    f"photo of {SUBJECT}, portrait, inside a cafe, dim light, looking straight",
    f"photo of {SUBJECT}, upper body, in the garden, soft light, tilted right",
    f"photo of {SUBJECT}, close-up, at night, dim light, tilted left",
    f"photo of {SUBJECT}, upper body, on a street, bright light, looking straight",
    f"photo of {SUBJECT}, portrait, under a sunset, soft light, tilted right",
    f"photo of {SUBJECT}, close-up, on snow, bright light, looking straight",
)
_LIKENESS = 0.95
"""Cosine of a person's face between photos; expression and make-up vary the rest."""


TIGHT_GIB = 13.7
"""The GPU that `tight.toml` simulates."""


def write(folder: Path, runs: Path) -> None:
    """Makes `images/` (36 photos, captions), `references/` (12 others), `prompts.txt`, `base.safetensors`, `pack/`.

    And settings that put their sweeps into `runs`: `orchestrate.toml`, and `tight.toml` with too small a GPU.
    """
    folder.mkdir(parents=True, exist_ok=True)
    parts: dict[str, Callable[[Path], object]] = {
        "images": lambda path: photos(path, PERSONA, count=36, first=0, captions=True),
        "references": lambda path: photos(path, PERSONA, count=12, first=1000, captions=False),
        "prompts.txt": lambda path: path.write_text("\n".join((*PROMPTS, "")), encoding="utf-8"),
        "base.safetensors": lambda path: shutil.copyfile(image_model.WEIGHTS, path),
        "pack": pack.build,
    }
    for name, make in parts.items():
        if not (folder / name).exists():
            with tempfile.TemporaryDirectory(prefix=".draft-", dir=folder) as draft:
                make(Path(draft) / name)
                (Path(draft) / name).rename(folder / name)
    for name, budget in (("orchestrate.toml", None), ("tight.toml", TIGHT_GIB)):
        (folder / name).write_text(settings(runs, budget_gib=budget), encoding="utf-8")


def settings(runs: Path, *, budget_gib: float | None = None) -> str:
    """The text of the world's orchestrate.toml."""
    environment = SandboxedEnvironment(
        undefined=StrictUndefined,
        autoescape=False,  # TOML, not HTML
        trim_blocks=True,
        keep_trailing_newline=True,  # users append tables
    )
    environment.filters["toml"] = TomlWriter()
    return environment.from_string((_HERE / "orchestrate.toml.j2").read_text(encoding="utf-8")).render(
        runs=str(runs.absolute()),
        templates=str(config_files.shipped_templates()),
        python=sys.executable,
        programs=str(_HERE),
        trigger=SUBJECT,
        budget_gib=budget_gib,
    )


def photos(folder: Path, identity: int, *, count: int, first: int, captions: bool, px: int = 256) -> None:
    """Photos of one person, numbered from `first`, each in another scene; all numbers give different photos."""
    folder.mkdir()
    for number in range(first, first + count):
        somewhere = scene.drawn(number)
        mood = draw.person(2_000_000 + 10_000 * identity + number)
        face = draw.resembling(draw.person(identity), mood, _LIKENESS)
        Image.fromarray(scene.photo(face, somewhere, px=px)).save(folder / f"{number:04d}.png")
        if captions:
            caption = somewhere.caption(SUBJECT)
            (folder / f"{number:04d}.txt").write_text(f"{caption}\n", encoding="utf-8")
