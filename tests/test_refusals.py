"""Errors before anything starts: file, key, value, remedy and exit code."""

import re
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from orchestrator import cli
from orchestrator.cli import common
from orchestrator.errors import InputError
from orchestrator.miniature import world

GRID = "[dims]\nnetwork_dim = [2, 4]\n"


@pytest.fixture(scope="session")
def pristine(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("pristine") / "world"
    world.write(folder, runs=folder.parent / "runs")
    return folder


@pytest.fixture
def here(pristine, tmp_path, monkeypatch) -> Path:
    """A copy of the miniature as the working folder."""
    shutil.copytree(pristine, tmp_path / "world")
    (tmp_path / "world" / "orchestrate.toml").write_text(world.settings(tmp_path / "runs"), encoding="utf-8")
    (tmp_path / "world" / "dims.toml").write_text(GRID, encoding="utf-8")
    monkeypatch.chdir(tmp_path / "world")
    return tmp_path / "world"


def run(*extra: str):
    return CliRunner().invoke(cli.main, ["run", "--grid", "dims.toml", *extra])


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")


def assert_refused(result, code: int, *words: str) -> None:
    assert result.exit_code == code, result.output
    for word in words:
        assert word in result.stderr.replace("\n", " "), result.stderr
    assert result.stdout == ""


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("netwrok_dim = [2, 4]", ["dims.toml", "netwrok_dim", "did you mean network_dim?"]),
        ('network_dim = [2]\nlearning_rate = ["1e-4"]', ["dims.toml", "learning_rate", '"1e-4"', "1e-4"]),
        ('network_dim = [2]\noptimizer_type = ["AdamW8bits"]', ["optimizer_type", "AdamW8bits", "AdamW8bit"]),
        ("network_dim = [2.5]", ["network_dim", "2.5", "integer"]),
        ('base_model = ["miniatur"]', ["base_model", "miniatur", "miniature"]),
        ("output_dir = ['elsewhere']", ["output_dir", "orchestrate"]),
    ],
)
def test_a_grid_that_the_trainer_would_silently_ignore_is_refused(here, line, words):
    (here / "dims.toml").write_text(f"[dims]\n{line}\n", encoding="utf-8")
    assert_refused(run(), 2, *words)


def test_all_mistakes_are_reported_at_once(here):
    (here / "dims.toml").write_text("[dims]\nnetwrok_dim = [2]\nseeed = [1, 2]\n", encoding="utf-8")
    assert_refused(run(), 2, "netwrok_dim", "seeed")


def test_a_typo_in_the_settings_is_refused_with_a_suggestion(here):
    edit(here / "orchestrate.toml", "det_size", "det_siz")
    assert_refused(run(), 2, "orchestrate.toml", "score.det_siz", "did you mean", "det_size")


STEPS = '\n[fixed]\noptimizer_type = "AdamW"\nlearning_rate = 1e-4\noptimizer_args = []\n'


@pytest.mark.parametrize(
    ("table", "grid", "words"),
    [
        ("after = 1.5\npictures = 2\nmargn = 1", GRID, ("early_stop.after", "early_stop.pictures", "early_stop.margn")),
        ("", f"{GRID}{STEPS}max_train_epochs = 4\n", ("dims.toml", "max_train_epochs", "max_train_steps", "same step")),
        ("", f"{GRID}{STEPS}sample_every_n_epochs = 1\n", ("dims.toml", "sample_every_n_epochs", "remove it")),
        ("pictures = 5", GRID, ("orchestrate.toml", "early_stop.pictures", "2 checks of 2 runs", "at least 8")),
        ("pictures = 40\np = 1e-6", GRID, ("early_stop.pictures", "8 prompts and 2 seeds", "generate.seeds")),
    ],
)
def test_impossible_early_stopping_is_refused(here, table, grid, words):
    (here / "dims.toml").write_text(grid, encoding="utf-8")
    settings = here / "orchestrate.toml"
    settings.write_text(f"{settings.read_text(encoding='utf-8')}\n[early_stop]\n{table}\n", encoding="utf-8")
    assert_refused(run(), 2, *words)


def test_a_missing_base_model_is_refused(here):
    (here / "base.safetensors").unlink()
    assert_refused(run(), 4, "orchestrate.toml", "base_models.miniature.path", str(here / "base.safetensors"))


def test_a_base_model_that_is_another_file_is_refused(here):
    (here / "base.safetensors").write_bytes(b"\xff" * 100)
    assert_refused(run(), 4, "base_models.miniature.path", "base.safetensors", "cannot be read")


def test_an_empty_dataset_is_refused(here):
    for path in (here / "images").iterdir():
        path.unlink()
    assert_refused(run(), 4, "datasets.portraits.image_dir", "contains no images", str(here / "images"))


def test_a_damaged_image_is_an_error(here):
    broken = here / "images" / "0003.png"
    broken.write_bytes(broken.read_bytes()[:3000])
    assert_refused(run(), 4, str(broken), "cannot be read", "replace the image")


def test_a_missing_face_pack_is_refused(here):
    shutil.rmtree(here / "pack")
    assert_refused(run(), 4, str(here / "pack"), "face pack", "https://")


def test_everything_missing_is_listed_at_once(here):
    shutil.rmtree(here / "pack")
    (here / "base.safetensors").unlink()
    edit(here / "orchestrate.toml", 'card = "none"', 'card = "GPU-0000"')
    assert_refused(run(), 4, "face pack", "base_models.miniature.path", "vram.card")


def test_a_refusal_creates_no_folder(here):
    shutil.rmtree(here / "pack")
    run()
    assert not (here.parent / "runs").exists()


def test_a_glob_that_matches_nothing_is_refused(here):
    assert_refused(run("--only", "network_dim=64*"), 3, "network_dim=64*", "orchestrate plan")


def test_a_name_that_escapes_the_runs_folder_is_refused(here):
    assert_refused(run("--name", "../elsewhere"), 2, "--name", "../elsewhere")


@pytest.mark.parametrize(
    "name",
    ["a\nb", "\u202egnp.exe", "x" * 61, "calibration.json", "NUL.txt", "com1", "COM¹", "$(id)", "a b", "-x", "=1"],
)
def test_a_bad_name_of_a_sweep_is_reported_as_such(here, name):
    with pytest.raises(InputError, match=f"the name {re.escape(repr(name))} (must|is reserved)"):
        common.find_sweep(here / "orchestrate.toml", name)


def test_a_sweep_that_was_never_run_names_the_grid_to_run(here):
    settings = here / "orchestrate.toml"
    grids = here / "grids"
    remedies = {
        "ranks": "run it first: `orchestrate run {}/ranks.toml`",
        "rnaks": "run one: `orchestrate run {}/ranks.toml`",
    }
    grids.mkdir()
    for name in ("alphas", "demo", "ranks"):
        (grids / f"{name}.toml").write_text(GRID)
    for name, remedy in remedies.items():
        with pytest.raises(InputError) as raised:
            common.find_sweep(settings, name)
        assert raised.value.problems[0].remedy == remedy.format("grids")
