"""Latents that trainings share: whose they are, that they are made once and proven, and that none is ever stale."""

import contextlib
import os
import shutil
import signal
import subprocess
import threading
import time
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image
from standins.world import Heard, Probe, World

from orchestrator.cli import main
from orchestrator.config.schema import Settings
from orchestrator.datasets import prepare
from orchestrator.errors import NotReady
from orchestrator.kohya import latents as of_sd_scripts
from orchestrator.miniature import photos
from orchestrator.miniature import world as miniature
from orchestrator.miniature.arguments import Arguments
from orchestrator.model import Params, Point, State
from orchestrator.plan import preflight
from orchestrator.run import shared_latents
from orchestrator.run.stages import latents
from orchestrator.store import layout, provenance
from orchestrator.store.layout import Run

GRID = '[dims]\n{dims}\n[fixed]\ncache_latents_to_disk = true\nresolution = "256,256"\nenable_bucket = true\n'
ONE = GRID.format(dims="network_dim = [2]")
SEEDS = GRID.format(dims="seed = [1, 2]")
TRAININGS = "network_dim*"
SIZES = '[dims]\nresolution = ["256,256", "320,320"]\nseed = [1, 2]\n[fixed]\ncache_latents_to_disk = true\n'


def made(world: World) -> list[str]:
    """The latents that were begun, with the number of the attempt."""
    return [line.removeprefix("latents ") for line in world.ledger() if line.startswith("latents ")]


def folders(world: World) -> dict[str, Path]:
    """What each run was trained on, by its name without its id."""
    found = {}
    for run in world.plan().runs():
        for attempt in run.attempts("train")[-1:]:
            told = tomllib.loads((attempt.path / "dataset.toml").read_text(encoding="utf-8"))
            found[run.point.name.rpartition("-")[0]] = Path(told["datasets"][0]["subsets"][0]["image_dir"])
    return found


# --- whose they are ---------------------------------------------------------------------------------------------------

PARAMS: Params = {
    "base_model": "doll",
    "dataset": "portraits",
    "cache_latents_to_disk": True,
    "resolution": "256,256",
    "mixed_precision": "bf16",
}
CHANGES: dict[str, Params] = {
    "resolution": {"resolution": "320,320"},
    "enable_bucket": {"enable_bucket": True},
    "min_bucket_reso": {"min_bucket_reso": 128},
    "max_bucket_reso": {"max_bucket_reso": 512},
    "bucket_reso_steps": {"bucket_reso_steps": 32},
    "bucket_no_upscale": {"bucket_no_upscale": True},
    "resize_interpolation": {"resize_interpolation": "area"},
    "flip_aug": {"flip_aug": True},
    "alpha_mask": {"alpha_mask": True},
    "masked_loss": {"masked_loss": True},
    "mixed_precision": {"mixed_precision": "no"},
    "full_fp16": {"full_fp16": True},
    "full_bf16": {"full_bf16": True},
    "no_half_vae": {"no_half_vae": True},
    "xformers": {"xformers": True},
}


def key(world: World, *, params: Params = PARAMS, used: Settings | None = None) -> str:
    """The name of the latents of a point."""
    asked = used or world.plan().settings
    hashes = provenance.Hashes(world.folder / "hashes.json")
    point = Point(id="1", name="one", params=params)
    prepared = {"portraits": prepare.build(asked.datasets["portraits"], asked, hashes)}
    return shared_latents.latents([point], asked, prepared, hashes)["1"].path.name


def test_every_argument_that_decides_gives_other_latents(world: World) -> None:
    assert CHANGES.keys() == set(of_sd_scripts.DECIDING) - {"conditioning_data_dir"}, "which is a dataset's alone"
    names = {key(world, params={**PARAMS, **change}) for change in CHANGES.values()} | {key(world)}
    assert len(names) == len(CHANGES) + 1


@pytest.mark.parametrize("setting", [{"flip_aug": True}, {"conditioning_data_dir": "/masks"}])
def test_what_the_dataset_sets_itself_counts_too(world: World, setting: Params) -> None:
    used = world.plan().settings
    dataset = replace(used.datasets["portraits"], subset=setting)
    assert key(world, used=replace(used, datasets={"portraits": dataset})) != key(world)


def test_what_does_not_change_latents_shares_them(world: World) -> None:
    other = {"seed": 7, "network_dim": 9, "train_batch_size": 4, "vae_batch_size": 8, "max_train_steps": 3}
    assert key(world, params={**PARAMS, **other}) == key(world)


def test_a_changed_picture_of_the_same_size_has_its_own(world: World) -> None:
    before = key(world)
    repaint(world)
    assert key(world) != before


def test_the_vae_counts_and_not_the_base_model_beside_it(world: World, tmp_path: Path) -> None:
    used = world.plan().settings
    vaes = [tmp_path / name for name in ("one", "same", "other")]
    for path, content in zip(vaes, (b"one", b"one", b"other"), strict=True):
        path.write_bytes(content)
    other_base = tmp_path / "other_base"
    other_base.write_bytes(b"of another base model")

    def with_base(**changes: Path) -> str:
        base = replace(used.base_models["doll"], **changes)
        return key(world, used=replace(used, base_models={"doll": base}))

    assert with_base(vae=vaes[0]) == with_base(vae=vaes[1]) == with_base(vae=vaes[0], path=other_base)
    assert len({key(world), with_base(path=other_base), with_base(vae=vaes[0]), with_base(vae=vaes[2])}) == 4


@pytest.mark.parametrize("script", ["train.py", "cache_latents.py"])
def test_another_trainer_makes_its_own(world: World, tmp_path: Path, script: str) -> None:
    used = world.plan().settings
    shutil.copytree(used.trainer.sd_scripts, tmp_path / "scripts")
    moved = replace(used, trainer=replace(used.trainer, sd_scripts=tmp_path / "scripts"))
    assert key(world, used=moved) == key(world)
    with (tmp_path / "scripts" / script).open("a", encoding="utf-8") as file:
        file.write("# another version\n")
    assert key(world, used=moved) != key(world)


def repaint(world: World) -> None:
    picture = min((world.folder / "images").glob("*.png"))
    with Image.open(picture) as image:
        size = image.size
    Image.new("RGB", size, "red").save(picture)


# --- once for all -----------------------------------------------------------------------------------------------------


def test_each_resolution_has_its_own_made_once_for_all_seeds(world: World) -> None:
    world.ask(SIZES)
    world.drive()
    assert set(world.states().values()) == {State.FINISHED}
    assert len(made(world)) == 2
    used = folders(world)
    assert len(used) == 4
    for name, folder in used.items():
        side = 256 // 8 if "256" in name else 320 // 8
        with np.load(min(folder.glob("*.npz"))) as file:
            assert file["latents"].shape == (4, side, side)
        assert folder.stat().st_mode & 0o777 == 0o555
        assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o444}
    assert len(set(used.values())) == 2


def test_an_edited_picture_never_meets_an_old_latent(world: World) -> None:
    world.ask(ONE)
    world.drive()
    (before,) = folders(world).values()
    repaint(world)
    shutil.rmtree(world.sweep.path)  # a sweep is refused when its pictures change
    world.drive()
    (after,) = folders(world).values()
    assert before != after
    old, new = (np.load(min(folder.glob("*.npz")))["latents"] for folder in (before, after))
    assert not np.array_equal(old, new)
    assert not (world.folder / "images" / new_name(after)).exists(), "the owner's folder is only read"


def new_name(folder: Path) -> str:
    return min(folder.glob("*.npz")).name


def test_another_sweep_uses_those_that_are_there(world: World) -> None:
    world.ask(ONE)
    world.drive()
    world.grid.rename(world.folder / "other.toml")
    done = world.call("--grid", str(world.folder / "other.toml"))
    assert done.returncode == 0, done.stderr
    assert len(made(world)) == 1
    assert [line.split()[0] for line in world.ledger()] == ["latents", "began", "ended", "began", "ended"]


def test_nothing_is_made_for_what_is_trained_or_is_never_trained(world: World) -> None:
    world.ask(ONE)
    world.drive(only="floor*")
    assert made(world) == []
    world.drive()
    remove_all(world)
    world.drive()
    assert len(made(world)) == 1


def remove_all(world: World) -> None:
    """By the words of the remedy."""
    for folder in (world.folder / "runs" / ".latents").rglob("images"):
        folder.chmod(0o755)
    shutil.rmtree(world.folder / "runs" / ".latents")


def test_two_sweeps_at_once_make_them_once(world: World) -> None:
    world.settle(env={"STANDIN_PICTURE_S": "0.1"})
    world.ask(ONE)
    ctx = world.context()
    (run,) = ctx.latents.values()
    run.create()
    results = []
    both = [threading.Thread(target=lambda: results.append(latents.perform(run, ctx))) for _ in range(2)]
    for thread in both:
        thread.start()
    for thread in both:
        thread.join()
    assert [result.failure for result in results] == [None, None]
    assert len(made(world)) == 1


def test_a_training_that_lives_keeps_its_card_to_itself(world: World) -> None:
    """Latents for others are not begun beside it: it was alone there, and may need all of the memory."""
    world.settle(env={"STANDIN_STEP_S": "0.3"})
    world.ask(GROWING.format('"256,256"'))
    with subprocess.Popen(world.command(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as child:
        while not any(line.startswith("began") for line in world.ledger()):
            time.sleep(0.02)
        child.kill()
    waking = Waking(world.living())
    world.ask(GROWING.format('"256,256", "320,320"'))
    world.drive(world.context(listener=waking), only=TRAININGS)
    told = [(stage, what.split()[0]) for _, stage, what in waking.events if stage in ("train", "latents")]
    assert told[:3] == [("train", "started"), ("train", "done"), ("latents", "started")]
    assert len([line for line in world.ledger() if line.startswith("began")]) == 2


class Waking(Heard):
    """Holds these processes up until somebody watches them."""

    def __init__(self, pids: list[int]) -> None:
        super().__init__()
        self._pids = pids
        self._all(signal.SIGSTOP)

    def started(self, run: Run, stage: str, attempt: int, note: str) -> None:
        self._all(signal.SIGCONT)
        super().started(run, stage, attempt, note)

    def _all(self, number: signal.Signals) -> None:
        for pid in self._pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)


GROWING = "[dims]\nnetwork_dim = [2]\nresolution = [{}]\n[fixed]\ncache_latents_to_disk = true\n"


# --- before anything starts -------------------------------------------------------------------------------------------


def test_plan_tells_how_many_there_will_be(world: World) -> None:
    world.ask(SIZES)
    files = ["--settings", str(world.settings), "--grid", str(world.grid)]
    assert "latents are made for 2 kinds of training" in CliRunner().invoke(main, ["plan", *files]).stdout


@pytest.mark.parametrize(("grid", "missing"), [(ONE, 1), ("[dims]\nnetwork_dim = [2]\n", 0)])
def test_the_program_has_to_be_there_where_it_is_needed(world: World, grid: str, missing: int) -> None:
    world.ask(grid)
    asked = world.plan()
    used = replace(asked.settings, trainer=replace(asked.settings.trainer, latents_script="absent.py"))
    problems = preflight.findings(used, asked.points, Probe())
    assert sum("absent.py is not there" in problem.what for problem in problems) == missing


# --- not proven, not used ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "what"),
    [
        ("short", "_sdxl.npz is missing"),
        ("torn", "_sdxl.npz cannot be read"),
        ("nan_latents", "NaN or infinite; no_half_vae = true"),
        ("oom", "CUDA out of memory"),
    ],
)
def test_no_training_begins_on_latents_that_are_not_proven(world: World, fault: str, what: str) -> None:
    world.settle(env={"STANDIN_LATENTS": fault})
    world.ask(SEEDS)
    with pytest.raises(NotReady, match=what) as refused:
        world.drive(only="seed*")
    assert "latents of portraits" in str(refused.value)
    assert "2 trainings could not begin" in str(refused.value)
    (problem,) = refused.value.problems
    assert Path(problem.where).read_text(encoding="utf-8"), "it names the log"
    assert [line for line in world.ledger() if not line.startswith("latents")] == []


def test_once_it_is_mended_the_same_command_goes_on(world: World) -> None:
    world.settle(env={"STANDIN_LATENTS": "short"})
    world.ask(ONE)
    refused = world.call()
    assert refused.returncode == 4
    assert "1 training could not begin" in refused.stderr
    assert world.states() == {"network_dim=2": State.PENDING, "baseline-base_model=doll": State.FINISHED}
    world.settle()
    assert world.call().returncode == 0
    assert [line.split()[1] for line in made(world)] == ["1", "2"]


def test_what_was_killed_in_between_is_made_anew(world: World) -> None:
    world.settle(env={"STANDIN_LATENTS": "killed#1"})
    world.ask(ONE)
    heard = Heard()
    world.drive(world.context(listener=heard))
    assert [what for _, stage, what in heard.events if stage == "latents"] == [
        "started 1", "crashed", "started 2", "done",
    ]  # fmt: skip
    assert world.states()["network_dim=2"] is State.FINISHED
    assert folders(world)["network_dim=2"].parent.name == "2"


def test_a_file_that_was_touched_afterwards_is_refused_until_all_are_made_again(world: World) -> None:
    world.ask(ONE)
    world.drive(only=TRAININGS)
    tamper(folders(world)["network_dim=2"], "written")
    world.ask(GRID.format(dims="network_dim = [2, 4]"))
    heard = Heard()
    with pytest.raises(NotReady, match="a file was changed, added or removed") as refused:
        world.drive(world.context(listener=heard))
    assert heard.events == [], "before anything starts"
    assert "chmod -R u+w" in str(refused.value)
    remove_all(world)
    world.drive(only=TRAININGS)
    assert world.states()["network_dim=4"] is State.FINISHED
    assert len(made(world)) == 2


@pytest.mark.parametrize("change", ["written", "added", "removed"])
def test_any_touch_is_noticed(world: World, change: str) -> None:
    world.ask(ONE)
    ctx = world.context()
    (run,) = ctx.latents.values()
    run.create()
    assert latents.perform(run, ctx).failure is None
    tamper(latents.images(run), change)
    with pytest.raises(NotReady):
        latents.images(run)


def tamper(folder: Path, change: str) -> None:
    folder.chmod(0o755)
    victim = min(folder.glob("*.npz"))
    victim.chmod(0o644)
    if change == "added":
        (folder / "more.npz").write_bytes(b"")
    elif change == "removed":
        victim.unlink()
    else:
        content = bytearray(victim.read_bytes())
        content[-2000] ^= 1
        victim.write_bytes(bytes(content))


def test_a_rung_that_changes_what_they_follow_from_trains_without_them(world: World) -> None:
    rung = '[[oom_fallback]]\nname = "smaller"\nset = { resolution = "320,320" }\n'
    world.settle(env={"STANDIN_TRAIN": "oom:resolution=256,256"}, sections=rung)
    world.ask(ONE)
    world.drive()
    first, second = (attempt.path for attempt in world.run(TRAININGS).attempts("train"))
    flat = [flattened(path / "config.toml") for path in (first, second)]
    assert flat[0]["cache_latents_to_disk"] is True
    assert "cache_latents_to_disk" not in flat[1]
    assert flat[1]["cache_latents"] is True
    assert ".datasets" in (second / "dataset.toml").read_text(encoding="utf-8")
    assert world.states()["network_dim=2"] is State.FINISHED


def flattened(config: Path) -> dict[str, object]:
    sections = tomllib.loads(config.read_text(encoding="utf-8")).values()
    return {name: value for section in sections for name, value in section.items()}


# --- the proof --------------------------------------------------------------------------------------------------------

SIZE = (100, 60)
BUCKETS: Params = {"resolution": "256,256", "enable_bucket": True, "min_bucket_reso": 64}
ASKED: Params = {**BUCKETS, "flip_aug": True, "alpha_mask": True}


def arrays() -> dict[str, np.ndarray]:
    """What sd-scripts writes of a picture of SIZE: its bucket is 320 x 192."""
    return {
        "latents": np.zeros((4, 24, 40), np.float32),
        "latents_flipped": np.zeros((4, 24, 40), np.float32),
        "alpha_mask": np.zeros((192, 320), np.float32),
        "original_size": np.array(SIZE),
        "crop_ltrb": np.zeros(4, np.int64),
    }


def wrong(folder: Path, sizes: Mapping[str, tuple[int, int]] | None = None, params: Params = ASKED) -> str:
    return "; ".join(problem.what for problem in of_sd_scripts.prove(folder, sizes or {"a b.c.png": SIZE}, params))


def write(folder: Path, name: str = "a b.c_0100x0060_sdxl.npz", **changes: object) -> None:
    kept = {key: value for key, value in {**arrays(), **changes}.items() if value is not None}
    np.savez(folder / name, **kept)


def test_what_sd_scripts_writes_is_proven(tmp_path: Path) -> None:
    write(tmp_path)
    assert wrong(tmp_path) == ""


BROKEN: list[tuple[str, Callable[[Path], None], str]] = [
    ("none", lambda folder: None, "is missing"),
    ("no archive", lambda folder: (folder / "a b.c_0100x0060_sdxl.npz").write_bytes(b"PK"), "cannot be read"),
    ("no flipped ones", lambda folder: write(folder, latents_flipped=None), "holds"),
    ("another bucket's", lambda folder: write(folder, latents=np.zeros((4, 32, 32), np.float32)), "latents 4x32x32"),
    ("one array too many", lambda folder: write(folder, more=np.zeros(1)), "more 1"),
    ("not finite", lambda folder: write(folder, latents=np.full((4, 24, 40), np.inf, np.float32)), "NaN or infinite"),
    ("another picture's", lambda folder: write(folder, original_size=np.array((60, 100))), "is of a picture of"),
    ("code", lambda folder: write(folder, crop_ltrb=np.array([Path()] * 4, object)), "cannot be read"),
    ("a bomb", lambda folder: write(folder, latents=np.zeros((4, 999, 999), np.float32)), "are the most"),
]


@pytest.mark.parametrize(("make", "what"), [case[1:] for case in BROKEN], ids=[case[0] for case in BROKEN])
def test_what_is_not_as_sd_scripts_writes_it_is_refused(
    tmp_path: Path, make: Callable[[Path], None], what: str
) -> None:
    make(tmp_path)
    assert what in wrong(tmp_path)


def test_latents_of_no_picture_are_refused(tmp_path: Path) -> None:
    write(tmp_path)
    write(tmp_path, "a b.c.npz")  # which sd-scripts would take before the other
    assert "a b.c.npz is of no picture here" in wrong(tmp_path)


def test_two_pictures_of_one_name_cannot_have_their_own(tmp_path: Path) -> None:
    write(tmp_path)
    assert "2 pictures of one name and size" in wrong(tmp_path, {"a b.c.png": SIZE, "a b.c.jpg": SIZE})


def test_latents_with_alpha_are_not_taken_where_none_is_asked_for(tmp_path: Path) -> None:
    """sd-scripts weighs the loss by an alpha that is there, whether it is told to or not."""
    write(tmp_path)
    write(tmp_path, alpha_mask=np.zeros((24, 40), np.float32))
    assert "holds alpha_mask 24x40" in wrong(tmp_path, params={**ASKED, "alpha_mask": False})


def test_a_run_that_makes_latents_has_no_other_stage(tmp_path: Path) -> None:
    run: Run = layout.latents(tmp_path, Point(id="1", name="portraits-1", params={}))
    assert run.stages == ("latents",)
    assert not layout.sweeps(tmp_path)


def test_the_miniature_trains_on_the_colours_that_it_cached(tmp_path: Path) -> None:
    miniature.photos(tmp_path / "images", miniature.PERSONA, count=2, first=0, captions=True, px=128)
    subset = f"[[datasets]]\n[[datasets.subsets]]\nimage_dir = '{tmp_path / 'images'}'\n"
    (tmp_path / "dataset.toml").write_text(subset, encoding="utf-8")
    said = {**BUCKETS, "dataset_config": str(tmp_path / "dataset.toml")}
    cached = Arguments(values={**said, of_sd_scripts.ON_DISK: True})
    plain, decoded = (photos.read(one)[0].subsets[0].pictures for one in (Arguments(values=said), cached))
    assert (plain - decoded).abs().max() < 0.02
    sizes = {path.name: (128, 128) for path in (tmp_path / "images").glob("*.png")}
    assert wrong(tmp_path / "images", sizes, BUCKETS) == ""
