"""`orchestrate dataset triage`: a recommendation for each image, and nothing is deleted."""

from pathlib import Path

import pytest
import recipe_world
from click.testing import CliRunner
from PIL import Image, ImageFilter
from recipe_world import drawn

from orchestrator import cli
from orchestrator.datasets import triage
from orchestrator.miniature import draw, world
from orchestrator.miniature.draw import Pose

pytestmark = pytest.mark.filterwarnings("ignore:.estimate. is deprecated:FutureWarning")

SETTINGS = """
runs = "runs"
templates = "templates"
[trainer]
python = "python"
sd_scripts = "sd-scripts"
[base_models.base]
path = "base.safetensors"
[generate]
prompts = "prompts.txt"
[score]
pack = "pack"
references = "references"
det_size = 512
[arguments]
resolution = "256,256"
[datasets.persona]
image_dir = "images"
"""
EXPECTED = {
    "bust.png": "keep",
    "face.png": "keep",
    "far.png": "keep",
    "blurred.png": "blurred (0.",
    "copy.png": "remove: near-duplicate of face.png",
    "empty.png": "check: no face found",
    "group.png": "check: 2 faces: crop it",
    "small.png": "check: too small: 128 x 128",
    "stranger.png": "remove: not this persona",
    "broken.png": "remove: cannot be read",
}


def photo(number: int, pose: Pose, *, px: int = 256) -> Image.Image:
    """The persona in one of its moods: no two photos are the same for the recogniser."""
    face = draw.resembling(draw.person(world.PERSONA), draw.person(3_000_000 + number), 0.8)
    return Image.fromarray(draw.photo([(face, pose)], draw.Backdrop(seed=number), px=px))


@pytest.mark.nightly
def test_every_image_has_a_recommendation(tmp_path: Path) -> None:
    recipe_world.scoring(tmp_path)
    folder = tmp_path / "images"
    folder.mkdir()
    (tmp_path / "orchestrate.toml").write_text(SETTINGS, encoding="utf-8")
    face = photo(1, Pose(x=0.5, size=0.7))
    made = {
        "face": face,
        "copy": face.resize((230, 230)),
        "bust": photo(2, Pose(x=0.4, size=0.3)),
        "far": photo(3, Pose(x=0.5, size=0.12), px=512),
        "blurred": photo(4, Pose(x=0.6, size=0.4)).filter(ImageFilter.GaussianBlur(2)),
        "empty": drawn(seed=5),
        "group": drawn(Pose(x=0.25, size=0.4), Pose(x=0.75, size=0.3), seed=6),
        "small": photo(7, Pose(x=0.5, size=0.5), px=128),
        "stranger": drawn(Pose(x=0.5, size=0.5), person=99, seed=8),
    }
    for name, image in made.items():
        image.save(folder / f"{name}.png")
    (folder / "broken.png").write_bytes((folder / "face.png").read_bytes()[:300])
    before = {path: path.read_bytes() for path in folder.iterdir()}
    done = CliRunner(env={"COLUMNS": "200"}).invoke(
        cli.main, ["dataset", "triage", "persona", "--settings", str(tmp_path / "orchestrate.toml")]
    )
    assert done.exit_code == 0, done.output
    for name, recommendation in EXPECTED.items():
        (line,) = [line for line in done.stdout.splitlines() if line.startswith(f"{name} ")]
        assert recommendation in line
    assert "3 keep, 4 check, 3 remove. Nothing is deleted." in done.stdout
    assert "1 full body" in done.stdout
    with Image.open(done.stdout.splitlines()[-1]) as sheet:
        assert min(sheet.size) > 240
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


def test_few_images_of_a_framing_are_reported() -> None:
    found = [triage.Triaged(path=Path("a.png"), framing="face") for _ in range(20)]
    found += [triage.Triaged(path=Path("b.png"), framing="bust") for _ in range(8)]
    found += [triage.Triaged(path=Path("c.png"), framing="full body", remove=["blurred"])]
    assert triage.balance(found) == (
        "28 images with the persona: 20 face, 8 bust, 0 full body; few show full body: "
        "prompts for these will look less like the persona"
    )
