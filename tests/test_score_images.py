"""`orchestrate score --images`: images of any generator."""

import csv
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from scipy import stats
from standins.world import World

from orchestrator import cli, scoring
from orchestrator.config.schema import Scoring
from orchestrator.errors import InputError, NotReady
from orchestrator.model import Image
from orchestrator.scoring import isolated


def call(world: World, folder: Path, *more: str) -> Result:
    return CliRunner().invoke(cli.main, ["score", "--settings", str(world.settings), "--images", str(folder), *more])


def rows(path: Path) -> dict[str, dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return {row["file"]: row for row in csv.DictReader(file)}


@pytest.fixture
def folder(world: World) -> Path:
    """Eight portraits and four files that cannot be scored."""
    made = world.folder / "found images"
    shutil.copytree(world.shared / "references", made)
    (made / "broken.png").write_bytes(b"no image")
    (made / "=cmd<b>.png").write_bytes(b"")
    (made / "animation.gif").write_bytes(b"GIF89a")
    os.mkfifo(made / "pipe.png")
    return made


def test_a_folder_gives_a_table_a_page_and_a_summary(world: World, folder: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in [folder, *folder.iterdir()]}
    done = call(world, folder)
    assert done.exit_code == 0, done.output
    assert {path: path.stat().st_mtime_ns for path in [folder, *folder.iterdir()]} == before, "nothing was written"
    (made,) = (world.folder / "runs" / ".scores").iterdir()
    assert made.name.startswith("found images-")
    found = rows(made / "images.csv")
    values = [float(row["similarity"]) for row in found.values() if row["similarity"]]
    assert len(values) == 8
    ends = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    expected = f"8 images; similarity mean {np.mean(values):.3f} ({ends.low:.3f} to {ends.high:.3f})"
    assert expected in done.stdout
    assert f"median {np.median(values):.3f} (" in done.stdout
    assert "no face 0%; no pass rate: there is no calibration" in done.stdout
    assert "broken.png: not scored: is not an image" in done.stdout
    assert "pipe.png" in done.stderr
    assert "animation.gif" in done.stderr
    assert found["'=cmd<b>.png"]["status"] == "unreadable", "no formula in a spreadsheet"
    page = (made / "scores.html").read_text(encoding="utf-8")
    assert page.count("data:image/webp;base64,") == 8
    assert "<b>.png" not in page


def test_the_calibration_gives_a_pass_rate(world: World, folder: Path) -> None:
    where = ["--settings", str(world.settings)]
    assert CliRunner().invoke(cli.main, ["calibrate", *where]).exit_code == 0
    done = call(world, folder, "--out", str(world.folder / "here"))
    assert "; pass rate " in done.stdout
    assert " at threshold " in done.stdout
    assert sorted(path.name for path in (world.folder / "here").iterdir()) == ["images.csv", "scores.html"]


def test_there_is_no_interval_over_copies_or_few_images(world: World, folder: Path) -> None:
    shutil.copyfile(folder / "1000.png", folder / "copy.png")
    assert "no interval of the similarity: 1 of the images are copies of others" in call(world, folder).stdout
    for name in ("copy.png", "1000.png"):
        (folder / name).unlink()
    assert "no interval of the similarity: fewer than 8 images with a face" in call(world, folder).stdout


@pytest.mark.parametrize(
    ("out", "message"), [("results", "is inside the folder of images"), ("../found images", "is inside the folder")]
)
def test_results_are_never_written_into_the_folder(world: World, folder: Path, out: str, message: str) -> None:
    done = call(world, folder, "--out", str(folder / out))
    assert done.exit_code == InputError.exit_code
    assert message in done.stderr
    assert call(world, world.folder).exit_code == InputError.exit_code, "runs/ is in it"


def test_a_folder_without_images_is_an_error(world: World) -> None:
    (world.folder / "empty").mkdir()
    for name, message in (("empty", "contains no images"), ("absent", "there is no such folder")):
        done = call(world, world.folder / name)
        assert done.exit_code == InputError.exit_code
        assert message in done.stderr


def test_without_a_face_pack_nothing_is_scored(world: World, folder: Path) -> None:
    text = world.settings.read_text(encoding="utf-8")
    world.settings.write_text(text.replace('/pack"', '/no-pack"'), encoding="utf-8")
    done = call(world, folder)
    assert done.exit_code == NotReady.exit_code
    assert "no-pack" in done.stderr


def test_an_image_that_crashes_the_scorer_is_skipped(
    world: World, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    crash = "import os, sys, json; from orchestrator import scoring; from orchestrator.scoring import __main__ as m\n"
    crash += "from pathlib import Path\njob = scoring.read_job(Path(sys.argv[1]))\n"
    crash += "name = str(job.root / '1003.png')\n"
    crash += "if '1003.png' not in job.skip and name not in job.skip:\n"
    crash += "    alone = {str(job.root / one) for one in job.alone}\n"
    crash += "    names = [name] if name in alone else [str(job.root / one.file) for one in job.images]\n"
    crash += "    scoring.in_progress_path(job.out).write_text(json.dumps(names)); os.abort()\n"
    crash += "sys.exit(m.main(sys.argv[1:]))"
    real = scoring.write_job
    monkeypatch.setattr(scoring, "write_job", lambda *args: [real(*args)[0], "-c", crash, real(*args)[-1]])
    job = scoring.Job(
        settings=Scoring(pack=world.shared / "pack", references=world.shared / "references"),
        images=tuple(Image(file=f"{n}.png", checkpoint="", strength=0.0, prompt=0, seed=0) for n in range(1000, 1008)),
        root=folder,
        out=tmp_path / "scored.json",
        cache=tmp_path / "faces",
    )
    found = isolated.run(tmp_path, job)
    assert {one.image.file: one.status.value for one in found.scores if one.status.value != "ok"} == {
        "1003.png": "error"
    }
