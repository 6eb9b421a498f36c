"""`orchestrate plan`, end to end: all errors at once, arguments that sd-scripts silently ignores, and the forecast."""

import json
import math
import random
import re
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from PIL import Image

from orchestrator.cli import main
from orchestrator.kohya import resource_profile, step_count
from orchestrator.kohya.outputs.files import TrainingLength
from orchestrator.plan import forecast, plan, training_length

ROOT = Path(__file__).parents[1]
FILES = ROOT / "grids" / "v3-vs-v2.toml"
GRIDS = sorted(p for p in (ROOT / "grids").glob("*.toml") if not p.stem.startswith("demo") and p != FILES)


class Desk:
    """A copy of the project's settings in a folder, a grid, and the command."""

    def __init__(self, folder: Path) -> None:
        self.settings, self.grid = folder / "orchestrate.toml", folder / "grid.toml"
        text = (ROOT / "orchestrate.toml").read_text(encoding="utf-8")
        text = text.replace('templates = "templates"', f'templates = "{ROOT}/templates"')
        text = text.replace('"persona/prompts.txt"', f'"{ROOT}/persona/prompts.txt"')
        self.settings.write_text(text, encoding="utf-8")
        self.pictures = folder / "persona" / "pictures"

    def change(self, old: str, new: str) -> None:
        text = self.settings.read_text(encoding="utf-8")
        assert old in text
        self.settings.write_text(text.replace(old, new), encoding="utf-8")

    def plan(self, grid: str, *more: str) -> Result:
        self.grid.write_text(grid, encoding="utf-8")
        return self.call("plan", "--grid", str(self.grid), *more)

    def call(self, command: str, *more: str) -> Result:
        return CliRunner().invoke(main, [command, "--settings", str(self.settings), *more])

    def forecast(self, grid: str, *more: str) -> dict:
        done = self.plan(grid, "--json", *more)
        assert done.exit_code == 0, done.stderr
        return json.loads(done.stdout)

    def draw(self, count: int, size: tuple[int, int] = (64, 64)) -> None:
        self.pictures.mkdir(parents=True, exist_ok=True)
        for number in range(count):
            Image.new("RGB", size, (number, 0, 0)).save(self.pictures / f"{size[0]}-{number}.png")


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


# --- all errors at once ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("typed", ["sweep-v3", "grids/sweep-v3.tml", "grids/sweepv3.toml"])
def test_a_missing_grid_has_the_nearest_file_as_its_remedy(desk, typed, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert "did you mean grids/sweep-v3.toml?" in desk.call("plan", typed).stderr


def test_mistakes_of_both_files_are_reported_together(desk):
    desk.change("poll_seconds = 1", "poll_secnods = 1")
    desk.change("sdpa = true", "sdap = true")
    desk.change("width = 1024", 'width = "wide"')
    done = desk.plan("[dims]\nnetwork_dmi = [16, 32]\nseed = 3\n[fixed]\nlearning_rate = 'fast'\n")
    assert done.exit_code == 2
    lines = desk.settings.read_text(encoding="utf-8").splitlines()
    for key in ("poll_secnods", "sdap", "width"):
        line = 1 + next(number for number, text in enumerate(lines) if text.startswith(key))
        assert any(f"{desk.settings}:{line}: " in one and key in one for one in done.stderr.splitlines())
    for line, key in ((2, "network_dmi"), (3, "dims.seed"), (5, "learning_rate")):
        assert f"{desk.grid}:{line}: {key}: " in done.stderr


def test_errors_of_settings_and_grid_are_reported_together_with_their_lines(desk):
    desk.change("steps = 28", "stepz = 28")
    done = desk.plan("[dimz]\nnetwork_dim = [16]\n")
    assert done.exit_code == 2
    assert f"{desk.settings}:" in done.stderr
    assert "stepz" in done.stderr
    assert f"{desk.grid}:1" in done.stderr
    assert "dimz" in done.stderr


def test_settings_are_checked_when_the_grid_cannot_be_read(desk):
    desk.change(f"{ROOT}/persona/prompts.txt", "nowhere.txt")
    desk.change('sampler = "euler_a"', 'sampler = "euler_z"')
    done = desk.plan("[dimz]\nnetwork_dim = [16]\n", "--name", "../up")
    assert done.exit_code == 2
    for text in ("dimz", "nowhere.txt", "euler_z", "../up"):
        assert text in done.stderr


def test_wrong_arguments_of_both_files_are_reported_with_their_lines(desk):
    desk.change("sdpa = true", "sdpq = true")
    done = desk.plan('[dims]\nnetwrk_dim = [16]\n\n[fixed]\nlearning_rate = "1e-4"\nmax_grad_norm = -1.0\n')
    line = desk.settings.read_text().splitlines().index("sdpq = true") + 1
    assert done.exit_code == 2
    for place, text in {
        f"{desk.settings}:{line}: sdpq": "did you mean sdpa?",
        f"{desk.grid}:2: netwrk_dim": "did you mean network_dim?",
        f"{desk.grid}:5: learning_rate": "write 1e-4 without quotes",
        f"{desk.grid}:6: max_grad_norm": "must be 0 or more, not -1",
    }.items():
        assert place in done.stderr
        assert text in done.stderr


def test_an_error_in_a_rule_is_reported_at_the_rule(desk):
    rule = (
        '[dims]\nnetwork_dim = [16, 32]\n\n[[when]]\nmatch = { network_dim = 16 }\nset = { lr_schedular = "cosine" }\n'
    )
    done = desk.plan(rule)
    assert f"{desk.grid}:4: lr_schedular" in done.stderr
    assert "did you mean lr_scheduler?" in done.stderr


def test_arguments_of_a_grid_without_points_are_checked(desk):
    done = desk.plan('[dims]\nnetwrk_dim = [16]\nnetwork_alpha = ["{{ nowhere }}"]\n')
    assert done.exit_code == 2
    assert "nowhere" in done.stderr
    assert "did you mean network_dim?" in done.stderr


def test_points_are_checked_after_each_oom_fallback(desk):
    desk.change('set = { optimizer_type = "AdamW8bit" }', 'set = { optimizer_type = "AdamW8bit", learning_rate = 1.0 }')
    done = desk.plan("[dims]\nnetwork_dim = [16]\n")
    assert done.exit_code == 2
    lines = desk.settings.read_text(encoding="utf-8").splitlines()
    number = next(number for number, line in enumerate(lines, start=1) if line.startswith("set = ") and "8bit" in line)
    where = f"{desk.settings}:{number}: oom_fallback[2].set.learning_rate"
    assert f"{where}: 1 is too high for AdamW8bit: training diverges" in done.stderr


def test_a_broken_template_is_reported(desk, tmp_path):
    templates = tmp_path / "templates"
    subprocess.run(["cp", "-r", str(ROOT / "templates"), str(templates)], check=True)
    (templates / "train.toml.j2").write_text("[model]\nnetwork_dim = 4\n", encoding="utf-8")
    desk.change(f'"{ROOT}/templates"', f'"{templates}"')
    done = desk.plan("[dims]\nnetwork_dim = [16]\n")
    assert done.exit_code == 2
    assert "train.toml.j2" in done.stderr


# --- arguments that sd-scripts silently ignores -----------------------------------------------------------------------

STOPPED = [
    ("Prodigy at 1e-4", "[fixed]\nlearning_rate = 1e-4\n", "Prodigy estimates its own step size and expects 1.0"),
    (
        "AdamW8bit at 1.0",
        '[fixed]\noptimizer_type = "AdamW8bit"\nlearning_rate = 1.0\n',
        "1 is too high for AdamW8bit: training diverges",
    ),
    (
        "another unet_lr under Prodigy",
        "[fixed]\nunet_lr = 0.5\n",
        "Prodigy accepts one learning rate, not unet_lr = 0.5",
    ),
    (
        "text encoder cache while they are trained",
        "[fixed]\ncache_text_encoder_outputs = true\n",
        "cannot cache the outputs of text encoders that it trains",
    ),
    (
        "text encoder cache with shuffled captions",
        "[fixed]\ncache_text_encoder_outputs = true\nnetwork_train_unet_only = true\nshuffle_caption = true\n",
        "rejects shuffle_caption together with cache_text_encoder_outputs",
    ),
    (
        "face crops with buckets",
        '[fixed]\nface_crop_aug_range = "2.0,4.0"\n',
        "with enable_bucket, images are cropped to their bucket",
    ),
    (
        "face crops with cached latents",
        '[fixed]\nface_crop_aug_range = "2.0,4.0"\nenable_bucket = false\n',
        "cached latents are cropped once, so face_crop_aug_range has no effect",
    ),
    (
        "latents cached on disk",
        "[fixed]\ncache_latents_to_disk = true\n",
        "sd-scripts reuses latents on disk after the VAE, a crop or an image has changed",
    ),
    (
        "a cache on disk under two precisions",
        '[dims]\nmixed_precision = ["bf16", "no"]\n[fixed]\nnetwork_train_unet_only = true\n'
        "cache_text_encoder_outputs_to_disk = true\n",
        "share one cache on disk",
    ),
]

WARNED = [
    ("masked loss without masks", "[fixed]\nmasked_loss = true\n", "the dataset has no masks"),
    ("unet_lr under Prodigy", "[fixed]\nunet_lr = 1.0\n", "unet_lr must equal the others"),
    (
        "alpha that does not follow the rank",
        "[dims]\nnetwork_dim = [16, 32]\n[fixed]\nnetwork_alpha = 8\n",
        "the scale alpha/dim changes with the rank (8/16 = 0.5, 8/32 = 0.25)",
    ),
]


@pytest.mark.parametrize(("grid", "what"), [case[1:] for case in STOPPED], ids=[case[0] for case in STOPPED])
def test_an_ignored_argument_that_changes_the_training_is_an_error(desk, grid, what):
    done = desk.plan(grid)
    assert done.exit_code == 2
    assert f"error: {desk.grid.parent}/" in done.stderr
    assert what in done.stderr
    assert "    -> " in done.stderr


def test_latents_on_disk_are_rejected_where_the_settings_ask_for_them(desk):
    """The message names the line of the settings, and its remedy makes the plan pass."""
    grid = "[dims]\nseed = [1, 2]\n"
    desk.change("cache_latents = true", "cache_latents_to_disk = true")
    lines = desk.settings.read_text(encoding="utf-8").splitlines()
    number = next(number for number, line in enumerate(lines, 1) if line.startswith("cache_latents_to_disk"))
    done = desk.plan(grid)
    assert done.exit_code == 2
    assert f"{desk.settings}:{number}: cache_latents_to_disk" in done.stderr
    assert "set cache_latents = true, which caches in memory, and remove cache_latents_to_disk" in done.stderr
    desk.change("cache_latents_to_disk = true", "cache_latents = true")
    assert desk.plan(grid).exit_code == 0


@pytest.mark.parametrize(("grid", "what"), [case[1:] for case in WARNED], ids=[case[0] for case in WARNED])
def test_an_argument_that_is_rarely_intended_is_a_warning(desk, grid, what):
    done = desk.plan(grid)
    assert done.exit_code == 0
    assert f"warning: {desk.grid}" in done.stderr
    assert what in done.stderr
    assert any(what in warning["what"] for warning in desk.forecast(grid)["warnings"])


def test_the_default_of_1600_steps_is_reported(desk):
    desk.change("max_train_steps = 2160", "# max_train_steps")
    done = desk.plan("[dims]\nnetwork_dim = [16]\n")
    assert "1600" in done.stderr


def test_points_with_different_steps_are_reported(desk):
    desk.change("max_train_steps = 2160", "max_train_epochs = 10")
    done = desk.plan("[dims]\ntrain_batch_size = [1, 2]\n")
    assert "points train for 180 to 360 optimizer steps" in done.stderr


def test_points_with_equal_steps_give_no_warning(desk):
    done = desk.plan('[dims]\ndataset = ["images-12", "persona"]\n')
    assert done.exit_code == 0
    assert done.stderr == ""


@pytest.mark.parametrize("name", ["RealVisXL_V5.0_Lightning", "sdxl-turbo"])
def test_a_distilled_checkpoint_is_recognized_by_its_name(desk, name):
    desk.change("RealVisXL_V5.0_fp16", name)
    done = desk.plan("[dims]\nnetwork_dim = [16]\n")
    assert done.exit_code == 0
    assert "made for few steps" in done.stderr
    assert "base_models.realvisxl-v5.path" in done.stderr


def test_an_argument_set_by_dataset_and_grid_is_an_error(desk):
    desk.change("# subset = { flip_aug = false }", "subset = { flip_aug = false }")
    done = desk.plan("[fixed]\nflip_aug = true\n")
    assert done.exit_code == 2
    assert "dataset persona sets flip_aug = false, which overrides this" in done.stderr


# --- forecast ---------------------------------------------------------------------------------------------------------


def test_the_grid_of_files_plans_without_a_training(desk):
    result = json.loads(desk.call("plan", "--json", "--grid", str(FILES)).stdout)
    assert result["warnings"] == []
    assert [(run["params"].get("lora"), run["steps"]) for run in result["runs"]] == [
        ("v2", None),
        ("v3", None),
        (None, None),
    ]
    assert len({run["images"] for run in result["runs"]}) == 1


def test_every_grid_of_the_project_plans_without_a_warning(desk):
    assert len(GRIDS) >= 7
    for grid in GRIDS:
        done = desk.call("plan", "--json", "--grid", str(grid))
        assert done.exit_code == 0, done.stderr
        result = json.loads(done.stdout)
        unequal = [one for one in result["warnings"] if "optimizer steps" in one["what"]]
        assert result["warnings"] == (unequal if grid.stem == "regularisation" else [])  # its head says why
        assert result["seconds"] < 3 * 12 * 3600, "no question may take more than three nights"
        assert len({run["steps"] for run in result["runs"] if not run["is_baseline"]}) == 1 + len(unequal)
        replicates = {run["params"]["seed"] for run in result["runs"] if not run["is_baseline"]}
        assert len(replicates) >= 3


NETWORKS = re.findall(
    r"^```toml\n(.*?)^```", (ROOT / "docs" / "network-types.md").read_text(encoding="utf-8"), re.S | re.M
)


@pytest.mark.parametrize(("grid", "runs"), [*zip(NETWORKS, (13, 9, 9), strict=True)])
def test_the_grids_of_network_types_plan_without_a_warning(desk, grid, runs):
    result = desk.forecast(grid)
    assert (result["warnings"], len(result["runs"])) == ([], runs)


def test_the_page_of_questions_has_the_forecast_of_every_grid(desk):
    lines = (ROOT / "docs" / "questions.md").read_text(encoding="utf-8").splitlines()
    rows = [line for line in lines if line.startswith("| Q") and line.count("|") == 7]  # six columns: the bills
    assert [row[2:4] for row in rows] == [f"Q{number}" for number in range(1, 9)]
    for grid in (path for path in GRIDS if path.stem.startswith(("q", "sweep"))):
        result = json.loads(desk.call("plan", "--json", "--grid", str(grid)).stdout)
        (row,) = [row for row in rows if grid.name in row]
        cells = " ".join(row.split("|")[4:]).replace(",", " ").split()
        trainings = sum(not run["is_baseline"] for run in result["runs"])
        for figure in (str(trainings), f"{result['seconds'] / 3600:.1f}", f"{result['disk_bytes'] / 1024**3:.1f}"):
            assert figure in cells, (grid.name, figure)


def test_plan_shows_runs_questions_and_costs(desk):
    done = desk.call("plan", "--grid", str(ROOT / "grids" / "sweep-v3.toml"))
    assert done.exit_code == 0
    for text in (
        "sweep-v3: 6 trainings and 1 baseline",
        "Q3: Is network_dim 16 too low for identity capture? network_dim 16 (3 runs) against 32 (3 runs)",
        "network_dim 16, seed 1  to train",
        "2160",
        "Total: 6.2 h on 1 GPU, 6.1 GPU-hours; 6.8 GiB of disk",
        "72 of the 100 images of a training select its checkpoint.",
        f"The speed of 6 of 6 trainings is assumed, not measured: `orchestrate probe --settings {desk.settings}`",
    ):
        assert text in done.stdout


def test_only_shows_the_config_of_the_first_match(desk):
    done = desk.plan("[dims]\nnetwork_dim = [16, 32]\n", "--only", "*dim=32*")
    assert "network_dim = 32" in done.stdout
    assert "network_alpha = 16" in done.stdout
    assert "network_dim 16" not in done.stdout


def test_no_match_exits_with_3_and_writes_nothing(desk):
    done = desk.plan("[dims]\nnetwork_dim = [16, 32]\n", "--only", "nothing")
    assert done.exit_code == 3
    assert not (desk.settings.parent / "runs").exists()


def test_plan_starts_and_writes_nothing(desk):
    desk.plan("[dims]\nnetwork_dim = [16, 32]\n")
    assert sorted(path.name for path in desk.settings.parent.iterdir()) == ["grid.toml", "orchestrate.toml"]


def test_steps_are_counted_from_the_buckets_of_the_images(desk):
    desk.change("max_train_steps = 2160", "max_train_epochs = 10")
    desk.draw(5)
    desk.draw(3, size=(128, 64))
    # two shapes: batches of 4 are 4 + 1 squares and 3 wide ones, three batches; in pairs of batches two steps an epoch
    result = desk.forecast("[fixed]\ntrain_batch_size = 4\ngradient_accumulation_steps = 2\n")
    assert [(run["steps"], run["epochs"], run["steps_exact"]) for run in result["runs"] if not run["is_baseline"]] == [
        (20, 10, True)
    ]


def test_steps_are_estimated_or_unknown_without_images(desk):
    desk.change("max_train_steps = 2160", "max_train_epochs = 10")
    (run, _) = desk.forecast("[dims]\nnetwork_dim = [16]\n")["runs"]
    assert (run["steps"], run["steps_exact"]) == (360, False)
    desk.change("pictures = 36 ", "# ")
    unknown = desk.forecast("[dims]\nnetwork_dim = [16]\n")
    (run, _) = unknown["runs"]
    assert [run[key] for key in ("steps", "train_s", "disk_bytes")] == [None] * 3
    assert [unknown[key] for key in ("seconds", "gpu_seconds", "disk_bytes")] == [None] * 3
    shown = desk.plan("[dims]\nnetwork_dim = [16]\n").stdout
    assert "Total: ? on 1 GPU, ? GPU-hours; ? of disk" in shown
    assert "the number of steps is unknown because the images are missing" in shown


def test_disk_space_includes_checkpoints_states_and_images(desk):
    grid = "[fixed]\nnetwork_dim = 32\nsave_every_n_epochs = 30\n"
    plain = desk.forecast(grid)
    with_states = desk.forecast(grid + "save_state = true\n")
    numbers = (2_660_000 + 903_000) * 32
    (run, _) = plain["runs"]
    images = (40 + 12) * 1024 * 1024 * 1.7  # 12 of each of two checkpoints, then 28 of the best
    assert run["disk_bytes"] == pytest.approx(2 * numbers * 2 + images, rel=0.01)
    more = with_states["runs"][0]["disk_bytes"] - run["disk_bytes"]
    assert more == pytest.approx(2 * numbers * (4 + 13.8), rel=0.01)


def test_a_sweep_larger_than_the_disk_is_an_error(desk):
    result = desk.forecast("[dims]\nnetwork_dim = [1024]\nseed = [{}]\n".format(", ".join(map(str, range(1, 3000)))))
    assert [warning["severity"] for warning in result["warnings"]] == ["error"]
    assert "the sweep needs about" in result["warnings"][0]["what"]


def test_times_come_from_finished_runs(world):
    before = _json(world, "plan")
    assert {run["known_from"] for run in before["runs"]} == {"assumed"}
    world.drive(only="network_dim=2*")
    after = {run["run"].rpartition("-")[0]: run for run in _json(world, "plan")["runs"]}
    assert after["network_dim=2"]["state"] == "finished"
    assert after["network_dim=2"]["train_s"] == 0
    assert after["network_dim=4"]["known_from"] == "this sweep's other runs"
    assert after["network_dim=4"]["train_s"] < 10
    assert {profile["known_from"] for profile in _json(world, "plan")["profiles"]} == {
        "this sweep",
        "this sweep's other runs",
    }


def test_a_failed_run_needs_no_time(world):
    world.settle(env={"STANDIN_TRAIN": "bad_config:network_dim=4"})
    world.drive(only="network_dim=4*")
    (_, failed, _) = _json(world, "plan")["runs"]
    assert failed["state"] == "failed"
    assert "only with --retry failed" in failed["why"]
    assert (failed["train_s"], failed["generate_s"], failed["disk_bytes"]) == (0, 0, 0)


def test_times_come_from_other_sweeps_with_the_same_memory_profile(world):
    world.drive(only="network_dim=2*")
    result = _json(world, "plan", "--name", "another")
    by_dim = {run["params"].get("network_dim"): run["known_from"] for run in result["runs"] if not run["is_baseline"]}
    assert by_dim == {2: "sweep grid", 4: "assumed"}


def _json(world, *words: str) -> dict:
    files = ["--settings", str(world.settings), "--grid", str(world.grid)]
    done = CliRunner().invoke(main, [words[0], *files, "--json", *words[1:]])
    assert done.exit_code == 0, done.stderr
    return json.loads(done.stdout)


# --- figures of the forecast ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("resolution", "least", "most", "step", "no_upscale", "size", "shape"),
    [
        ((1024, 1024), 512, 2048, 64, False, (1024, 1024), (1024, 1024)),
        ((1024, 1024), 512, 2048, 64, False, (64, 64), (1024, 1024)),
        ((1024, 1024), 512, 2048, 64, False, (656, 1224), (768, 1344)),
        ((1024, 1024), 256, 1024, 64, False, (3727, 1597), (1024, 448)),
        ((768, 768), 256, 1536, 32, False, (3061, 1775), (992, 576)),
        ((832, 1216), 512, 2048, 64, False, (2054, 3746), (704, 1344)),
        ((832, 1216), 512, 2048, 64, False, (652, 1587), (640, 1536)),
        ((1024, 1024), 512, 2048, 64, True, (700, 500), (640, 448)),
        ((1024, 1024), 512, 2048, 64, True, (1567, 1302), (1088, 896)),
        ((1024, 1024), 256, 1024, 64, True, (1922, 3997), (704, 1472)),
        ((768, 768), 256, 1536, 32, True, (3291, 297), (2464, 224)),
    ],
)
def test_buckets_are_those_of_sd_scripts(resolution, least, most, step, no_upscale, size, shape):
    """The shapes are what BucketManager.select_bucket of the pinned commit gave."""
    params = {
        "resolution": f"{resolution[0]},{resolution[1]}",
        "enable_bucket": True,
        "min_bucket_reso": least,
        "max_bucket_reso": most,
        "bucket_reso_steps": step,
        "bucket_no_upscale": no_upscale,
    }
    assert list(step_count.buckets(params, [size])) == [shape]


def test_without_buckets_all_images_have_one_size():
    assert step_count.buckets({"resolution": "512"}, [(700, 500), (1, 9)]) == {(512, 512): 2}


def test_the_default_length_is_1600_steps():
    assert step_count.length({}, [([(1, 1)] * 10, 1, False)]) == TrainingLength(
        steps=1600, epochs=160, steps_per_epoch=10
    )


@pytest.mark.parametrize(
    ("params", "mib"),
    [
        ({"network_dim": 16, "save_precision": "fp16"}, 109),
        ({"network_dim": 32, "save_precision": "bf16"}, 217),
        ({"network_dim": 16, "save_precision": "fp16", "network_train_unet_only": True}, 81),
        ({"network_dim": 64, "network_train_unet_only": True}, 650),
    ],
)
def test_the_size_of_a_checkpoint_is_that_of_real_ones(params, mib):
    assert resource_profile.checkpoint_bytes(params) / 1024**2 == pytest.approx(mib, rel=0.01)


def test_learning_rate_and_seed_do_not_change_the_memory_profile():
    params = {"network_dim": 16, "learning_rate": 1.0, "seed": 1, "optimizer_type": "Prodigy", "max_train_steps": 9}
    alike = {**params, "learning_rate": 0.5, "seed": 2, "max_train_steps": 20}
    assert resource_profile.profile(params) == resource_profile.profile(alike)
    assert resource_profile.profile(params) != resource_profile.profile({**params, "optimizer_type": "AdamW8bit"})
    assert resource_profile.profile(params) != resource_profile.profile({**params, "an_argument_of_tomorrow": True})


def test_images_that_are_skipped_are_not_counted_and_are_named(desk):
    desk.draw(4, (512, 768))
    desk.draw(6, (1024, 1024))
    desk.change("pictures = 36 ", "# ")
    grid = '[dims]\nnetwork_dim = [16]\n[fixed]\nmax_train_epochs = 3\nskip_image_resolution = "640,640"\n'
    done = desk.plan(grid)
    assert 'skip_image_resolution = "640,640" leaves out 4 of 10 images: 512-0.png (512 x 768), ' in done.stderr
    assert "512-3.png" in done.stderr
    (run,) = [run for run in desk.forecast(grid)["runs"] if not run["is_baseline"]]
    assert run["steps"] == 3 * 6
    done = desk.plan(grid.replace("640,640", "2048"))
    assert (done.exit_code, "leaves out 10 of 10 images" in done.stderr) == (2, True)
    done = desk.plan(grid.replace("640,640", "640x640"))
    assert (done.exit_code, 'skip_image_resolution "640x640" is not of the form' in done.stderr) == (2, True)


def test_images_of_other_sizes_need_buckets_or_cached_latents():
    plain: dict[str, object] = {"resolution": "768,512"}
    sizes = [(768, 512), (800, 600), (512, 768)]
    assert [step_count.is_misfit(plain, size) for size in sizes] == [False, True, True]
    assert [step_count.is_misfit({**plain, "random_crop": True}, size) for size in sizes] == [False, False, True]
    assert not step_count.is_misfit({**plain, "cache_latents": True}, (9, 9))


def test_images_that_sd_scripts_stops_at_are_named(desk):
    desk.draw(4, (512, 768))
    desk.change("cache_latents = true", "# ")
    desk.change("enable_bucket = true", "# ")
    done = desk.plan("[dims]\nnetwork_dim = [16]\n")
    assert (done.exit_code, "stops at images of other sizes: 512-0.png, " in done.stderr) == (2, True)


def test_images_for_validation_are_not_counted(desk):
    desk.draw(10)
    desk.change("pictures = 36 ", "# ")
    grid = "[dims]\nnetwork_dim = [16]\n[fixed]\nmax_train_epochs = 3\nvalidation_split = 0.2\nvalidation_seed = 1\n"
    (run,) = [run for run in desk.forecast(grid)["runs"] if not run["is_baseline"]]
    assert run["steps"] == 3 * 8
    for share, what in (("0.28", "puts 1 of them into both parts"), ("0.01", "leaves none for validation")):
        done = desk.plan(grid.replace("0.2", share))
        assert (done.exit_code, what in done.stderr) == (2, True)
        remedy = re.search(r"write (0\.\d+)", done.stderr)[1]
        assert desk.plan(grid.replace("0.2", remedy)).exit_code == 0


@pytest.mark.parametrize(("count", "share"), [(10, 0.2), (36, 0.1), (7, 0.5), (3, 0.1)])
def test_the_split_is_that_of_sd_scripts(count, share):
    """A copy of split_train_val of library/dataset.py, v0.11.1."""
    paths = list(range(count))
    random.seed(5)
    random.shuffle(paths)
    expected = paths[0 : math.ceil(count * (1 - share))], paths[count - round(count * share) :]
    assert step_count.split({"validation_split": share, "validation_seed": 5}, count) == expected


SIZES = """[datasets.persona]
resolutions = [
    { resolution = "768,768" },
    { resolution = "1024,1024", train_batch_size = 2, skip_image_resolution = "768,768" },
]
"""


def test_a_dataset_of_several_sizes_uses_its_images_at_each(desk):
    desk.draw(4, (512, 768))
    desk.draw(6, (1024, 1024))
    desk.change("pictures = 36 ", "# ")
    desk.change("[datasets.persona]\n", SIZES)
    grid = "[dims]\nnetwork_dim = [16]\n[fixed]\nmax_train_epochs = 3\n"
    done = desk.plan(grid)
    assert 'skip_image_resolution = "768,768" leaves out 4 of 10 images' in done.stderr
    (run,) = [run for run in desk.forecast(grid)["runs"] if not run["is_baseline"]]
    assert run["steps"] == 3 * (10 + 6 // 2)
    desk.change('{ resolution = "768,768" }', '{ resolution = "768x768", seed = 3 }')
    done = desk.plan(grid)
    assert done.exit_code == 2
    assert "datasets.persona.resolutions.0.seed" in done.stderr.replace("[0]", ".0")


def test_the_size_of_a_dataset_after_a_recipe_is_estimated(desk):
    desk.draw(6)
    desk.change("pictures = 36 ", "# ")
    desk.grid.write_text("[dims]\nnetwork_dim = [16]\n", encoding="utf-8")
    used = plan.read(desk.settings, desk.grid).settings
    found = training_length.LengthEstimator(used.datasets)
    counts = {name: (len(found.dataset_size(name).sizes), found.dataset_size(name).counted) for name in used.datasets}
    assert counts["persona"] == (6, True)
    assert counts["face-crop"] == (6, False)
    assert counts["images-12"] == (6, False), "repeated to the source's length"
    assert counts["with-frames"] == (12, False), "half of all at most"


def test_free_disk_space_of_a_folder_that_does_not_exist(tmp_path):
    assert forecast.free_bytes(tmp_path / "not" / "yet" / "there") > 0
