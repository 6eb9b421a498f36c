"""Freezing: changed inputs are rejected by name; more points are allowed."""

import os
import subprocess
from pathlib import Path

import pytest
from standins.world import GRID, World

from orchestrator.errors import Conflict
from orchestrator.host import Host
from orchestrator.kohya import argv
from orchestrator.plan import freeze
from orchestrator.store import layout, provenance, records
from orchestrator.store.hashes import HashCache, sha256


def frozen(world: World) -> dict:
    world.context()
    return world.sweep.record()


def refusal(world: World) -> str:
    with pytest.raises(Conflict) as caught:
        world.context()
    return str(caught.value)


def rewrite(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")


def own_copy(world: World, key: str, source: Path, name: str) -> Path:
    """A part of the shared world as this world's own, so that it can be changed."""
    target = world.folder / name
    copy = subprocess.run(["cp", "-r", str(source), str(target)], check=False)
    assert copy.returncode == 0
    rewrite(world.settings, f'{key} = "{source}"', f'{key} = "{target}"')
    return target


def root_of(world: World, key: str) -> Path:
    line = next(line for line in world.settings.read_text().splitlines() if line.startswith(f"{key} = "))
    return Path(line.split('"')[1])


# --- what is rejected -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("added", "named", "shown"),
    [
        ("steps = 12", "generate.steps", "(28, now 12)"),
        ("scale = 5.5", "generate.scale", "(6.0, now 5.5)"),
        ('negative_prompt = "blurry"', "generate.negative_prompt", '("", now "blurry")'),
        ("strengths = [0.8]", "generate.strengths", "([1.0], now [0.8])"),
        ('sampler = "ddim"', "generate.sampler", '("euler_a", now "ddim")'),
        ("width = 512", "generate.width", "(1024, now 512)"),
        ('checkpoints = "all"', "generate.checkpoints", '("last", now "all")'),
    ],
)
def test_a_changed_generation_setting_is_rejected_with_both_values(world, added, named, shown):
    frozen(world)
    rewrite(world.settings, "seeds = [1]\n", f"seeds = [1]\n{added}\n")
    message = refusal(world)
    assert named in message
    assert shown in message


def test_changed_seeds_of_images_are_rejected(world):
    frozen(world)
    rewrite(world.settings, "seeds = [1]", "seeds = [1, 2]")
    assert "generate.seeds: has changed since the sweep grid was frozen ([1], now [1, 2])" in refusal(world)


def test_a_changed_file_that_an_argument_names_is_rejected(world):
    tracker = world.folder / "tracker.toml"
    tracker.write_text("[wandb]\n", encoding="utf-8")
    text = world.grid.read_text(encoding="utf-8")
    world.grid.write_text(f'{text}\n[fixed]\nlog_tracker_config = "{tracker}"\n', encoding="utf-8")
    frozen(world)
    tracker.write_text("[wandb]\nname = 'other'\n", encoding="utf-8")
    assert f"file {tracker}" in refusal(world)


def test_a_changed_prompt_is_rejected(world):
    prompts = own_copy(world, "prompts", root_of(world, "prompts"), "prompts.txt")
    frozen(world)
    rewrite(prompts, "outside", "indoors")
    assert "generate.prompts: has changed" in refusal(world)


def test_a_changed_template_is_rejected_by_its_name(world):
    templates = own_copy(world, "templates", root_of(world, "templates"), "templates")
    frozen(world)
    rewrite(templates / "train.toml.j2", "[model]", "# mine\n[model]")
    message = refusal(world)
    assert "templates/train.toml.j2: has changed" in message
    assert "templates/dataset.toml.j2" not in message


def test_a_changed_caption_is_rejected(world):
    frozen(world)
    caption = next((world.folder / "images").glob("*.txt"))
    caption.write_text("ohwx person, quite another caption", encoding="utf-8")
    assert "dataset portraits: has changed" in refusal(world)


def test_another_reference_is_rejected(world):
    references = own_copy(world, "references", root_of(world, "references"), "references")
    frozen(world)
    next(references.glob("*.png")).unlink()
    assert "references: has changed" in refusal(world)


def test_another_base_model_file_under_the_same_name_is_rejected(world):
    base = own_copy(world, "path", root_of(world, "path"), "base.safetensors")
    frozen(world)
    base.write_bytes(base.read_bytes() + b" ")
    assert "base_model doll: has changed" in refusal(world)


def test_another_face_pack_is_rejected(world):
    pack = own_copy(world, "pack", root_of(world, "pack"), "pack")
    frozen(world)
    rewrite(world.settings, f'pack = "{pack}"', f'pack = "{pack}"\ndet_size = 320')
    assert "face pack: has changed" in refusal(world)


def test_other_trainer_scripts_are_rejected(world):
    own_copy(world, "sd_scripts", root_of(world, "sd_scripts"), "scripts")
    frozen(world)
    script = world.folder / "scripts" / "train.py"
    script.write_text(script.read_text() + "\n# mine\n", encoding="utf-8")
    assert "trainer: has changed" in refusal(world)


def test_all_changes_are_reported_at_once_with_two_remedies(world):
    frozen(world)
    rewrite(world.settings, "seeds = [1]\n", "seeds = [1]\nsteps = 12\nscale = 5.5\n")
    message = refusal(world)
    assert "generate.steps" in message
    assert "generate.scale" in message
    assert "revert the change, or start" in message
    assert "start a new sweep with --name" in message


def test_a_changed_input_exits_with_5_and_writes_nothing(world):
    before = frozen(world)
    rewrite(world.settings, "seeds = [1]\n", "seeds = [1]\nsteps = 12\n")
    done = world.call()
    assert done.returncode == 5, done.stderr
    assert "generate.steps" in done.stderr
    assert world.sweep.record() == before
    assert world.ledger() == []


def test_plan_and_check_name_changed_inputs(world):
    session = world.session()
    assert freeze.conflicts(session.plan) == []  # there is no sweep
    frozen(world)
    assert freeze.conflicts(session.plan) == []
    rewrite(world.settings, "seeds = [1]\n", "seeds = [1]\nsteps = 12\n")
    session = world.session()
    assert [one.key for one in freeze.conflicts(session.plan)] == ["generate.steps"]
    assert str(session.missing()[0]) in refusal(world)
    assert "generate.steps" in [one.key for one in session.check().problems]


def test_changed_inputs_under_another_name_are_a_new_sweep(world):
    frozen(world)
    rewrite(world.settings, "seeds = [1]\n", "seeds = [1]\nsteps = 12\n")
    done = world.call("--name", "other", "--only", "baseline-*")
    assert done.returncode == 0, done.stderr
    assert layout.Sweep(world.sweep.path.with_name("other")).exists()


# --- what may change --------------------------------------------------------------------------------------------------


def test_the_same_inputs_do_not_rewrite_the_record(world):
    frozen(world)
    written = (world.sweep.path / "sweep.json").stat().st_mtime_ns
    world.context()
    assert (world.sweep.path / "sweep.json").stat().st_mtime_ns == written
    assert len(world.sweep.grids()) == 1


@pytest.mark.parametrize("changed", ["workers = 2", 'url = "https://example.org/pack"'])
def test_settings_that_do_not_change_results_may_change(world, changed):
    frozen(world)
    rewrite(world.settings, "workers = 1", changed)
    world.context()


def test_a_grown_grid_adds_points_and_keeps_the_first_grid(world):
    before = frozen(world)
    grown = GRID.replace("[2, 4]", "[2, 4, 8]")
    world.ask(grown)
    after = frozen(world)
    ids = [point["id"] for point in before["points"]]
    assert len(after["points"]) == len(ids) + 1
    assert set(ids) <= {point["id"] for point in after["points"]}
    assert [grid.read_text(encoding="utf-8") for grid in world.sweep.grids()] == [GRID, grown]
    assert after["created_at"] == before["created_at"]


def test_included_files_are_copied_with_the_grid(world):
    (world.folder / "common.toml").write_text("[fixed]\nmax_train_steps = 6\n", encoding="utf-8")
    world.ask('include = ["common.toml"]\n' + GRID)
    frozen(world)
    (kept,) = world.sweep.grids()
    assert "max_train_steps = 6" in kept.read_text(encoding="utf-8")
    assert GRID in kept.read_text(encoding="utf-8")


def test_a_smaller_grid_replaces_the_points_of_the_sweep(world):
    before = frozen(world)
    world.ask(GRID.replace("[2, 4]", "[4]"))
    assert frozen(world)["points"] == before["points"][1:]


def test_finished_runs_of_a_grown_grid_are_not_trained_again(world):
    world.drive()
    of_two = world.ledger()
    world.ask(GRID.replace("[2, 4]", "[2, 4, 8]"))
    world.drive()
    assert world.ledger()[: len(of_two)] == of_two
    assert len(world.ledger()) == len(of_two) * 3 // 2


# --- hashes -----------------------------------------------------------------------------------------------------------


def test_a_large_file_is_read_once_and_remembered_by_the_next_process(tmp_path, monkeypatch):
    checkpoint, memory = tmp_path / "base.safetensors", tmp_path / "runs" / ".hashes.json"
    checkpoint.write_bytes(b"first" * 1000)
    first = HashCache(memory.parent).of(checkpoint)
    monkeypatch.setattr("orchestrator.store.hashes.sha256", lambda _: "read again")
    assert HashCache(memory.parent).of(checkpoint) == first


@pytest.mark.parametrize("replace", [True, False])
def test_a_base_model_of_equal_size_and_time_is_read_again(tmp_path, replace):
    checkpoint, other = tmp_path / "base.safetensors", tmp_path / "other.safetensors"
    checkpoint.write_bytes(b"first" * 100_000)
    stat = checkpoint.stat()
    first = HashCache(tmp_path).of(checkpoint)
    changed = other if replace else checkpoint
    changed.write_bytes(b"other" * 100_000)
    os.utime(changed, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    changed.replace(checkpoint)
    assert (checkpoint.stat().st_size, checkpoint.stat().st_mtime_ns) == (stat.st_size, stat.st_mtime_ns)
    assert HashCache(tmp_path).of(checkpoint) != first


def test_a_cache_that_cannot_be_written_is_no_error(tmp_path, monkeypatch):
    def refuse(*_):
        raise PermissionError

    monkeypatch.setattr("orchestrator.files.write_json", refuse)
    checkpoint = tmp_path / "base.safetensors"
    checkpoint.write_bytes(b"first")
    assert HashCache(tmp_path / "runs").of(checkpoint) == sha256(checkpoint)


def test_a_changed_file_is_read_again(tmp_path):
    checkpoint, hashes = tmp_path / "base.safetensors", HashCache(tmp_path)
    checkpoint.write_bytes(b"first")
    first = hashes.of(checkpoint)
    checkpoint.write_bytes(b"longer than it was")
    assert hashes.of(checkpoint) != first
    assert hashes.of(checkpoint) == sha256(checkpoint)


@pytest.mark.parametrize(
    "damaged",
    [
        *('{"files": ', "", "null", "[]", "{}", "[" * 100_000),
        *('{"files": []}', '{"files": {"PATH": 3}}', '{"files": {"PATH": [5, MTIME]}}'),
        *('{"files": {"PATH": [5, MTIME, null]}}', '{"files": {"PATH": ["5", MTIME, ""]}}'),
    ],
)
def test_a_damaged_hash_cache_is_ignored(tmp_path, damaged):
    memory, checkpoint = tmp_path / ".hashes.json", tmp_path / "base.safetensors"
    checkpoint.write_bytes(b"first")
    text = damaged.replace("PATH", str(checkpoint)).replace("MTIME", str(checkpoint.stat().st_mtime_ns))
    memory.write_text(text, encoding="utf-8")
    assert HashCache(memory.parent).of(checkpoint) == sha256(checkpoint)


def test_many_files_are_remembered_with_one_write(tmp_path):
    memory = tmp_path / ".hashes.json"
    files = [tmp_path / f"{number}.png" for number in range(50)]
    for file in files:
        file.write_bytes(file.name.encode())
    hashes = HashCache(memory.parent)
    whole = hashes.of_all(files)
    written = memory.stat().st_mtime_ns
    assert hashes.of_all(reversed(files)) == whole
    assert memory.stat().st_mtime_ns == written


def test_each_change_of_a_checkout_is_another_trainer(tmp_path):
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
    (tmp_path / "train.py").write_text("1\n", encoding="utf-8")
    for words in (["init", "-q"], ["add", "."], ["commit", "-qm", "first"]):
        subprocess.run([*git, *words], check=True)
    clean = provenance.commit(tmp_path)
    (tmp_path / "train.py").write_text("2\n", encoding="utf-8")
    once = provenance.commit(tmp_path)
    (tmp_path / "train.py").write_text("3\n", encoding="utf-8")
    assert len({clean, once, provenance.commit(tmp_path)}) == 3
    assert once.startswith(f"{clean}-dirty-")


# --- threads ----------------------------------------------------------------------------------------------------------


def test_the_number_of_threads_is_frozen_and_recorded(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Host, "cores", lambda _self: 6)
    assert world.context().settings.trainer.threads == 6
    monkeypatch.setattr(Host, "cores", lambda _self: 64)
    ctx = world.context()
    assert ctx.settings.trainer.threads == 6, "on a machine with more cores, too"
    assert ctx.attempt_record(world.run("network*"), "train")["threads"] == 6
    assert argv.environment(ctx.settings.trainer, gpu=None)["OMP_NUM_THREADS"] == "6"
    world.settle(trainer="threads = 3")
    assert "trainer.threads: has changed" in refusal(world)
    world.settle(trainer="threads = 6")
    assert world.context().settings.trainer.threads == 6


def test_the_settings_number_of_threads_is_frozen(world: World) -> None:
    world.settle(trainer="threads = 3")
    assert world.context().settings.trainer.threads == 3
    world.settle()
    assert world.context().settings.trainer.threads == 3


def test_a_sweep_frozen_without_threads_continues_without(world: World) -> None:
    record = frozen(world)
    del record["fingerprint"]["trainer.threads"]
    records.write(world.sweep.path / "sweep.json", record)
    threads = world.context().settings.trainer.threads
    assert threads is None
