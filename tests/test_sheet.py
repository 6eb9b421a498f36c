"""`orchestrate sheet`: the image matrix as a PNG."""

from pathlib import Path

import pytest
from click.testing import CliRunner
from PIL import Image
from standins.world import World

from benchmarks import page as sweeps
from orchestrator import cli
from orchestrator.errors import InputError, NothingSelected
from orchestrator.evidence import summary
from orchestrator.evidence.summary import SweepSummary
from orchestrator.report import sheet
from orchestrator.store.layout import Sweep

PX = 32


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> SweepSummary:
    """Sixteen runs: eight configurations with two seeds; each run has six images of two prompts."""
    folder = tmp_path_factory.mktemp("sheet")
    sweep = Sweep(folder / "runs" / "s")
    album = sweeps.album(folder / "album", px=64, count=3)
    sweeps.write(sweep, 16, sweeps.Made(album=album, prompts=("a", "b " * 200), seeds=3))
    return summary.read(sweep)


def size(path: Path) -> tuple[int, int]:
    with Image.open(path) as image:
        image.load()
        return image.size


def test_rows_are_configurations_and_columns_are_prompts_and_seeds(made: SweepSummary, tmp_path: Path) -> None:
    path = sheet.write(made, tmp_path / "new" / "sheet.png", px=PX)
    width, height = size(path)
    assert width == 220 + 6 * (PX + 4)
    assert height == 48 + (8 + 1) * (PX + 16 + 4), "eight configurations and the baseline"
    with Image.open(path) as image:
        first = image.crop((220, 48, 220 + PX, 48 + PX))
    assert len(first.getcolors(9999) or []) > 20, "an image, not a grey square"


def test_all_seeds_or_one_can_be_shown(made: SweepSummary, tmp_path: Path) -> None:
    def rows(seed: str) -> int:
        return (size(sheet.write(made, tmp_path / f"{seed}.png", px=PX, seed=seed))[1] - 48) // (PX + 20)

    scored = sum(bool(run.scores) for run in made.runs)
    assert rows("all") == scored
    assert rows("1") + rows("2") == scored + 1, "the baseline is in both"
    with pytest.raises(InputError, match=r"--seed: no training has this seed.*\n.*use one of 1, 2, or all"):
        rows("9")


def test_all_checkpoints_and_strengths_can_be_shown(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path / "runs" / "s")
    album = sweeps.album(tmp_path / "album", px=32, count=2)
    sweeps.write(sweep, 2, sweeps.Made(album=album, prompts=("a",), seeds=1, checkpoints=2, strengths=(0.5, 1.0)))
    _, height = size(sheet.write(summary.read(sweep), tmp_path / "sheet.png", px=PX, variants=True))
    assert (height - 48) // (PX + 20) == 1 + 2 * 2 * 2


def test_a_sheet_that_is_too_large_is_refused_with_a_size_that_works(made: SweepSummary, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="use a smaller --px, such as") as refused:
        sheet.write(made, tmp_path / "sheet.png", px=10_000)
    px = int(str(refused.value).rpartition(" ")[2])
    assert px > 1000


def test_an_unreadable_image_is_grey(made: SweepSummary, tmp_path: Path) -> None:
    baseline = next(run for run in made.runs if run.run.point.is_baseline)
    image = baseline.run.path / baseline.scores[0].image.file
    content = image.read_bytes()
    try:
        image.unlink()
        image.write_bytes(content[:40])
        path = sheet.write(made, tmp_path / "sheet.png", px=PX)
    finally:
        image.unlink()
        image.write_bytes(content)
    with Image.open(path) as drawn:
        assert drawn.getpixel((220 + PX // 2, 48 + PX // 2)) == (0xCC,) * 3


def test_the_command_writes_the_sheet_with_a_reference_photo(world: World) -> None:
    world.drive()
    assert summary.read(world.sweep).runs
    done = CliRunner().invoke(cli.main, ["sheet", "--settings", str(world.settings), "grid", "--px", "48"])
    assert done.exit_code == 0, done.output
    path = Path(done.stdout.strip())
    assert path == world.sweep.report / sheet.NAME
    with Image.open(path) as image:
        assert len(image.crop((0, 0, 40, 40)).getcolors(9999) or []) > 20


def test_without_images_there_is_nothing_to_draw(world: World, tmp_path: Path) -> None:
    world.context()
    with pytest.raises(NothingSelected, match="there are no images yet"):
        sheet.write(summary.read(world.sweep), tmp_path / "sheet.png", px=PX)
