"""`orchestrate dataset`: what it shows about a dataset before a training."""

from pathlib import Path

import numpy as np
import pytest
import recipe_world
from click.testing import CliRunner
from PIL import Image
from recipe_world import drawn

from orchestrator import cli
from orchestrator.datasets import contact_sheet
from orchestrator.miniature.draw import Pose

SETTINGS = """
runs = "runs"
templates = "templates"
[trainer]
python = "python"
sd_scripts = "sd-scripts"
[base_models.base]
path = "base.safetensors"
[defaults]
dataset = "persona"
[generate]
prompts = "prompts.txt"
[score]
pack = "pack"
references = "references"
det_size = 256
[datasets.persona]
image_dir = "images"
trigger = "ohwx"
[datasets.close]
source = "persona"
crop = { smallest = 96, on_no_face = "drop" }
[datasets.weighted]
source = "persona"
mask = { background = 0.0 }
[datasets.few]
source = "persona"
choose = { n = 2, num_subsets = 2 }
[datasets.films]
source = "persona"
frames = { videos = "videos" }
"""


@pytest.fixture(scope="module")
def here(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("persona")
    recipe_world.scoring(folder)
    (folder / "images").mkdir()
    for number, pose in enumerate((Pose(x=0.3, size=0.3), Pose(x=0.6, size=0.35), Pose(x=0.5, size=0.3))):
        drawn(pose, seed=number).save(folder / "images" / f"{number}.png")
    drawn(seed=9).save(folder / "images" / "no-face.png")
    for path in list((folder / "images").iterdir()):
        path.with_suffix(".txt").write_text("photo of ohwx", encoding="utf-8")
    (folder / "orchestrate.toml").write_text(SETTINGS, encoding="utf-8")
    return folder


@pytest.fixture
def orchestrate(here):
    def orchestrate(*args: str):
        return CliRunner().invoke(cli.main, ["dataset", *args, "--settings", str(here / "orchestrate.toml")])

    return orchestrate


def colours(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.unique(np.asarray(image).reshape(-1, 3), axis=0)


def drawn_in(path: Path, colour: tuple[int, int, int]) -> bool:
    return bool((np.abs(colours(path).astype(int) - colour).sum(axis=1) < 30).any())


def test_a_crop_is_shown_with_its_boxes_and_what_was_dropped(orchestrate):
    result = orchestrate("build", "close")
    assert result.exit_code == 0, result.output
    assert "3 images, 1 dropped" in result.stdout
    assert "no-face.png" in result.stdout
    assert "no face found" in result.stdout
    path = Path(result.stdout.splitlines()[-1])
    assert path.name == contact_sheet.NAME
    assert drawn_in(path, contact_sheet._FACE)
    assert drawn_in(path, contact_sheet._CROP)
    assert orchestrate("show", "close").stdout == result.stdout


def test_an_image_is_shown_with_any_file_name(tmp_path):
    """Phones call an edited image NAME~2, as images are called that are repeated for equal steps."""
    (tmp_path / "images").mkdir()
    drawn(Pose(size=0.3)).save(tmp_path / "images" / "a~2.png")
    with Image.open(contact_sheet.write(tmp_path, {"pictures": ["a~2.png"]})) as one:
        assert one.width > contact_sheet._TILE


def test_weights_are_shown_as_brightness(orchestrate):
    shown = colours(Path(orchestrate("build", "weighted").stdout.splitlines()[-1]))
    plain = colours(Path(orchestrate("build", "persona").stdout.splitlines()[-1]))
    assert (shown.max(axis=1) < 25).sum() > 100
    assert (plain.max(axis=1) < 25).sum() < 20


def test_draws_are_shown_by_seed(orchestrate):
    first, second = (orchestrate("build", "few", "--seed", seed).stdout for seed in ("1", "2"))
    assert "few-draw1" in first
    assert "few-draw2" in second


@pytest.mark.parametrize(
    ("args", "code", "part"),
    [
        (("show", "films"), 2, "dataset build films --seed 1 --settings "),
        (("build", "films"), 4, "contains no video"),
        (("build", "nothing"), 2, "known datasets: persona, close"),
    ],
)
def test_a_page_that_cannot_be_shown_has_a_reason(orchestrate, args, code, part):
    result = orchestrate(*args)
    assert result.exit_code == code
    assert part in result.stderr
