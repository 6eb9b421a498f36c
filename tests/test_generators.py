"""Resident generators in whole sweeps with stand-in programs: who shares a process, and what a crash costs."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from standins.world import World

from orchestrator.kohya import gen_img_plugin
from orchestrator.model import Failure, State
from orchestrator.run import generators, local_executor, schedule, sweep
from orchestrator.run.stages import generate
from orchestrator.store import mps, process

RANKS = "[dims]\nnetwork_dim = [2, 4]\nseed = [1, 2]\n"


def processes(world: World) -> dict[str, list[str]]:
    """The runs by the generator that made their images, named after the run that started it."""
    found: dict[str, list[str]] = {}
    for run in world.plan().runs():
        for attempt in run.attempts("generate"):
            folder = attempt.generator
            assert folder is not None
            found.setdefault(_name(folder.resolve().parents[2].name), []).append(_name(run.point.name))
    return found


def _name(name: str) -> str:
    return name.rpartition("-")[0]


def test_runs_of_one_shape_share_a_process_and_the_baseline_has_its_own(world: World) -> None:
    world.ask("[dims]\nnetwork_dim = [2, 4]\nlearning_rate = [1e-4, 2e-4]\n")
    world.drive()
    assert set(world.states().values()) == {State.FINISHED}
    shared = processes(world)
    assert shared.pop("baseline-base_model=doll") == ["baseline-base_model=doll"]
    assert sorted(map(len, shared.values())) == [2, 2]
    assert all(len({name.partition("_learning")[0] for name in names}) == 1 for names in shared.values())
    assert not world.living()
    logs = [run.attempts("generate")[-1].path / "log" for run in world.plan().runs()]
    assert all(path.read_text().count("prompt 1/") == 1 for path in logs), "each log has the lines of its own job"


def test_all_trainings_of_a_replicate_come_before_its_images(world: World) -> None:
    world.ask(RANKS)
    world.drive(only="network_dim*")
    trained = {run.point.name: _ended(run.path / "train/1") for run in world.plan().runs("network_dim*")}
    drawn = {run.point.name: _started(run.path / "generate/1") for run in world.plan().runs("network_dim*")}
    for seed in (1, 2):
        last = max(time for name, time in trained.items() if f"seed={seed}" in name)
        assert all(time > last for name, time in drawn.items() if f"seed={seed}" in name)
    assert max(time for name, time in drawn.items() if "seed=1" in name) < max(trained.values())


def _ended(attempt: Path) -> int:
    return (attempt / "exit.json").stat().st_mtime_ns


def _started(attempt: Path) -> int:
    return (attempt / "command.json").stat().st_mtime_ns


@pytest.mark.parametrize(("fault", "failure"), [("killed", Failure.CRASHED), ("segfault", Failure.CRASHED)])
def test_a_crash_loses_only_images_that_were_not_written(world: World, fault: str, failure: Failure) -> None:
    world.ask("[dims]\nlearning_rate = [1e-4, 2e-4]\n")
    world.settle(env={"STANDIN_GENERATE": f"{fault}#1"}, limits="crashes = 9\n")
    prompts = (world.shared / "prompts.txt").read_text(encoding="utf-8").splitlines()
    world.drive(only="learning*")
    assert set(world.states().values()) == {State.FINISHED, State.PENDING}
    for run in world.plan().runs("learning*"):
        first, second = run.attempts("generate")
        result = first.result()
        assert result is not None
        assert result.failure is failure
        assert len(json.loads((second.path / "plan.json").read_text())["images"]) == 1, "all others were written"
        assert len(run.generated_images()) == len(prompts)
    assert not world.living()


def test_a_generator_is_kept_whatever_vram_it_may_use(world: World) -> None:
    world.ask("[dims]\nlearning_rate = [1e-4, 2e-4]\n")
    ctx = world.context()
    runs = world.plan().runs("learning*")
    with generators.Generators(1.0, lambda: False) as own:
        for number, run in enumerate(runs):
            sweep.perform(run, "train", ctx)
            environ = {**ctx.environ, "CUDA_MPS_PINNED_DEVICE_MEM_LIMIT": f"0={number}G"}
            generate.perform(run, replace(ctx, generators=own, environ=environ))
    assert len(processes(world)) == 1


def test_runs_with_and_without_mps_share_a_generator(world: World) -> None:
    world.ask("[dims]\nlearning_rate = [1e-4, 2e-4]\n")
    ctx = world.context()
    with generators.Generators(1.0, lambda: False) as own:
        for number, run in enumerate(world.plan().runs("learning*")):
            sweep.perform(run, "train", ctx)
            environ = {**ctx.environ, **({mps.PIPES: "pipes", mps.LIMIT: "0=1M"} if number else {})}
            assert generate.perform(run, replace(ctx, generators=own, environ=environ)).failure is None
    assert len(processes(world)) == 1


def test_a_generator_starts_before_the_first_attempt_that_it_works_for(world: World) -> None:
    ctx, run = world.context(), world.plan().runs("network_dim=2*")[0]
    sweep.perform(run, "train", ctx)
    with generators.Generators(1.0, lambda: False) as own:
        ctx = replace(ctx, generators=own)
        for _ in range(2):
            generate.start_generator(run, "generate", ctx)
        (early,) = (one for one in process.live_attempts() if run.path in one.parents)
        assert (early, run.attempts("generate")) == (run.path / "generate" / "generator", [])
        assert generate.perform(run, ctx).failure is None
        assert [one.generator.resolve() for one in run.attempts("generate") if one.generator] == [early]
        assert process.running(early)
        generate.start_generator(run, "generate", ctx)
    assert not world.living()


def test_a_generator_starts_while_the_last_training_ends(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_executor, "_WAIT_S", 0.05)
    monkeypatch.setattr(schedule, "LOADING_MIB", 0)
    world.ask("[dims]\nlearning_rate = [1e-4, 2e-4]\n")
    world.settle(env={"STANDIN_STEP_S": "0.2"})
    world.drive(only="learning*")
    first, second = world.plan().runs("learning*")
    early = first.path / "generate" / "generator"
    used = [one.attempts("generate")[0].generator for one in (first, second)]
    assert [one and one.resolve() for one in used] == [early] * 2
    assert _ended(first.path / "train/1") < _started(early) < _ended(second.path / "train/1")
    assert not world.living()


def test_a_program_that_waits_for_a_job_ends_with_the_owner_of_its_folder(tmp_path: Path) -> None:
    script, job = tmp_path / "script.py", tmp_path / "job.json"
    script.write_text("import sys; print(__name__, *sys.argv[1:])")
    (tmp_path / "owner.lock").touch()
    command = [sys.executable, gen_img_plugin.__file__, str(tmp_path), str(script), "--ckpt", "x"]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "imports --ckpt x\n"
    job.touch()
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "__main__ --ckpt x\n"


def test_a_linked_generator_imports_from_the_folder_of_its_target(tmp_path: Path) -> None:
    (tmp_path / "scripts").mkdir()
    (tmp_path / "scripts/script.py").write_text("import sys; print(sys.path[0])")
    (tmp_path / "script.py").symlink_to("scripts/script.py")
    (tmp_path / "job.json").touch()
    command = [sys.executable, gen_img_plugin.__file__, str(tmp_path), str(tmp_path / "script.py")]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == f"{tmp_path}/scripts\n"


def test_a_generator_that_was_killed_between_two_jobs_is_replaced(world: World) -> None:
    world.ask("[dims]\nlearning_rate = [1e-4, 2e-4]\n")
    ctx = world.context()
    runs = world.plan().runs("learning*")
    for run in runs:
        sweep.perform(run, "train", ctx)
    with generators.Generators(1.0, lambda: False) as own:
        results = []
        for run in runs:
            results.append(generate.perform(run, replace(ctx, generators=own)))
            folder = run.attempts("generate")[-1].generator
            assert folder is not None
            for pid in process.pids_of(folder):
                os.kill(pid, signal.SIGKILL)
            while process.running(folder):
                time.sleep(0.01)
    assert [result.failure for result in results] == [None, None]
    assert len(processes(world)) == 2
    assert not world.living()


def test_a_generator_ends_with_its_orchestrator_unless_an_attempt_follows_its_job(world: World) -> None:
    world.settle(env={"STANDIN_PICTURE_S": "0.5"})
    run = world.plan().runs("network_dim=2*")[0]
    with subprocess.Popen(world.command("--only", "network_dim=2*"), cwd=world.folder) as orchestrator:
        while not [*run.images.glob("*.png")]:
            time.sleep(0.05)
        orchestrator.kill()
    generators.stop_orphans(world.sweep.path, 1.0)
    assert process.running(run.attempts("generate")[0].path), "its job goes on"
    attempts = run.attempts("generate")
    while process.running(attempts[0].path):
        time.sleep(0.05)
    folder = attempts[0].generator
    assert folder is not None
    deadline = time.monotonic() + 10
    while process.running(folder) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not world.living()
    world.drive(only="network_dim=2*")
    assert world.states()["network_dim=2"] is State.FINISHED
    assert run.attempts("generate") == attempts
