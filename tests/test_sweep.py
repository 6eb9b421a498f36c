"""Whole sweeps with stand-in programs: OOM fallback, lock, retries, pauses, and what is not repeated."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from standins.world import Heard, Probe, World

from orchestrator.errors import Conflict, NotReady
from orchestrator.kohya.outputs import verify
from orchestrator.model import State
from orchestrator.run import sweep
from orchestrator.store import layout

ONE = '[dims]\nnetwork_dim = [2]\n[fixed]\noptimizer_type = "{optimizer}"\nlearning_rate = 1.0\n'
THREE = "[dims]\nnetwork_dim = [2, 4, 8]\n"
TRAININGS = "network_dim*"
FALLBACK = """
[[oom_fallback]]
name = "gradient checkpointing"
set = { gradient_checkpointing = true }
keeps_result = true
[[oom_fallback]]
name = "AdamW8bit"
set = { optimizer_type = "AdamW8bit", learning_rate = 1e-3, optimizer_args = [] }
"""


# --- to the end -------------------------------------------------------------------------------------------------------


def test_every_stage_runs_once(world: World) -> None:
    world.drive()
    assert set(world.states().values()) == {State.FINISHED}
    assert [line.split()[0] for line in world.ledger()] == ["began", "ended"] * 2
    rows = world.rows()
    assert [row["state"] for row in rows.values()] == ["finished"] * 3
    assert float(rows["network_dim=2"]["similarity_median"]) > 0.9
    before = {path: path.stat().st_mtime_ns for path in world.sweep.path.rglob("*") if path.is_file()}
    heard = Heard()
    world.drive(world.context(listener=heard))
    assert heard.events == []
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_an_extended_grid_keeps_finished_runs(world: World) -> None:
    world.drive(only=TRAININGS)
    world.ask(THREE)
    world.drive(only=TRAININGS)
    assert len(world.ledger()) == 6
    assert world.states()["network_dim=8"] is State.FINISHED
    assert [path.name for path in world.sweep.grids()] == ["grid-1.toml", "grid-2.toml"]
    assert len(world.sweep.runs()) == 4


@pytest.mark.parametrize(
    ("change", "changed"),
    [
        (lambda world: (world.folder / "images" / "0000.txt").write_text("ohwx person, else"), "dataset portraits"),
        (lambda world: (world.folder / "images" / "0002.png").unlink(), "dataset portraits"),
    ],
)
def test_a_changed_dataset_is_rejected_and_nothing_changes(
    world: World, change: Callable[[World], object], changed: str
) -> None:
    world.drive(only=TRAININGS)
    before = world.rows()
    change(world)
    with pytest.raises(Conflict, match=f"{changed}: has changed since the sweep grid was frozen"):
        world.context()
    assert world.rows() == before


def test_changed_generation_settings_are_rejected(world: World) -> None:
    world.context()
    world.settings.write_text(world.settings.read_text().replace("seeds = [1]", "seeds = [1, 2]"))
    with pytest.raises(Conflict, match=r"generate.seeds: has changed since .*\n.*--name"):
        world.context()


# --- OOM fallback -----------------------------------------------------------------------------------------------------


def test_out_of_memory_applies_the_fallback_up_to_a_degraded_run(world: World) -> None:
    world.ask(ONE.format(optimizer="Prodigy"))
    world.settle(env={"STANDIN_TRAIN": "oom:optimizer_type=Prodigy"}, sections=FALLBACK)
    heard = Heard()
    world.drive(world.context(listener=heard), only=TRAININGS)
    row = world.rows()["network_dim=2"]
    assert (row["state"], row["attempts"], row["degraded"]) == ("finished", "3", "True")
    assert json.loads(row["overrides"]) == {
        "gradient_checkpointing": True,
        "optimizer_type": "AdamW8bit",
        "learning_rate": 1e-3,
        "optimizer_args": [],
    }
    assert [what for _, stage, what in heard.events if stage == "train"] == [
        "started 1",
        "oom",
        "started 2 gradient checkpointing",
        "oom",
        "started 3 gradient checkpointing, AdamW8bit",
        "done",
    ]


def test_a_fallback_step_that_keeps_the_result_does_not_degrade(world: World) -> None:
    world.settle(env={"STANDIN_TRAIN": "oom#1"}, sections=FALLBACK)
    world.drive(only="network_dim=2*")
    row = world.rows()["network_dim=2"]
    assert (row["state"], row["attempts"], row["degraded"]) == ("finished", "2", "False")
    assert json.loads(row["overrides"]) == {"gradient_checkpointing": True}


def test_a_run_fails_without_further_fallback_steps_and_the_others_continue(world: World) -> None:
    world.settle(env={"STANDIN_TRAIN": "oom:network_dim=2"}, sections=FALLBACK)
    world.drive(only=TRAININGS)
    assert world.states()["network_dim=2"] is State.FAILED
    assert world.states()["network_dim=4"] is State.FINISHED
    assert len(world.run("network_dim=2*").attempts("train")) == 3


def test_exceeding_the_budget_applies_the_fallback(world: World) -> None:
    world.settle(env={"STANDIN_STEP_S": "0.1"}, vram="[vram]\nbudget_gib = 8\npoll_seconds = 0.05\n", sections=FALLBACK)
    run = world.run("network_dim=2*")

    def answer(_pids: object) -> object:
        from orchestrator.model import VramSample

        first = not (run.path / "train" / "2").exists()
        return VramSample(used_mib=9000 if first else 7000, total_mib=24576, own_mib=None)

    world.drive(world.context(probe=Probe(answer)), only="network_dim=2*")  # type: ignore[arg-type]
    row = world.rows()["network_dim=2"]
    assert (row["state"], row["attempts"], row["peak_vram_mib"]) == ("finished", "2", "7000")


# --- what fails -------------------------------------------------------------------------------------------------------


def test_a_quoted_error_in_the_log_does_not_fail_a_training(world: World) -> None:
    world.settle(env={"STANDIN_TRAIN": "quote"})
    world.drive(only="network_dim=2*")
    assert world.states()["network_dim=2"] is State.FINISHED


def test_an_exception_while_one_run_is_judged_does_not_stop_the_others(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    verified = verify.verify

    def broken(*args: Any, **more: Any) -> Any:
        if args[2]["network_dim"] == 2:
            raise IndexError("tuple index out of range")
        return verified(*args, **more)

    monkeypatch.setattr(verify, "verify", broken)
    world.drive()
    states = world.states()
    assert (states["network_dim=2"], states["network_dim=4"]) == (State.FAILED, State.FINISHED)
    assert "internal error: IndexError" in world.rows()["network_dim=2"]["reason"]


@pytest.mark.parametrize(
    ("fault", "failure", "reason"),
    [
        ("no_file", "no_product", "the checkpoint is missing"),
        ("truncated", "no_product", "the checkpoint is broken: not a safetensors file, or cut off"),
        ("zeroed", "no_product", "was not written to disk"),
        ("nan_weights", "nan", "2 of 3 tensors: the checkpoint has weights that are NaN"),
        ("nan_loss", "nan", "loss"),
        ("scalar", "no_product", "its weights have rank [0], not 2"),
        ("other_seed", "no_product", "the checkpoint records ss_seed = -1, not 1"),
        ("bad_config", "unknown", "these arguments do not fit together"),
        ("gpu_lost", "gpu_lost", "CUDA error: unspecified launch failure"),
    ],
)
def test_the_report_has_the_reason_of_a_failed_training(world: World, fault: str, failure: str, reason: str) -> None:
    world.settle(env={"STANDIN_TRAIN": f"quote {fault}:network_dim=2"})
    world.drive(only="network_dim=2*")
    row = world.rows()["network_dim=2"]
    assert (row["state"], row["failure"]) == ("failed", failure)
    assert reason in row["reason"]
    assert row["similarity_median"] == ""


def test_a_grandchild_process_and_a_binary_log_do_no_harm(world: World) -> None:
    world.settle(env={"STANDIN_TRAIN": "grandchild not_utf8", "STANDIN_GENERATE": "grandchild"})
    world.drive(only="network_dim=2*")
    assert world.states()["network_dim=2"] is State.FINISHED
    assert world.living() == []


def test_a_crash_is_retried_and_reported(world: World) -> None:
    world.settle(env={"STANDIN_TRAIN": "segfault#2", "STANDIN_GENERATE": "killed#1"})
    heard = Heard()
    world.drive(world.context(listener=heard), only="network_dim=2*")
    assert world.states()["network_dim=2"] is State.FINISHED
    assert [what for _, _, what in heard.events if "started" not in what] == ["crashed"] * 2 + ["done"] + [
        "crashed",
        "done",
        "done",
    ]


def test_existing_images_are_not_generated_again(world: World) -> None:
    world.settle(env={"STANDIN_GENERATE": "torn#1"})
    world.drive(only="network_dim=2*")
    assert world.states()["network_dim=2"] is State.FAILED
    kept = next(iter(sorted(world.run("network_dim=2*").images.glob("*p001*"))))
    before = kept.stat().st_mtime_ns
    world.drive(only="network_dim=2*", retry=True)
    assert world.states()["network_dim=2"] is State.FINISHED
    assert kept.stat().st_mtime_ns == before
    assert json.loads((world.run("network_dim=2*").path / "generate" / "2" / "attempt.json").read_text())["images"] == 1


def test_an_image_that_crashes_the_scorer_costs_only_its_own_row(world: World, tmp_path: Path) -> None:
    text = world.settings.read_text().replace("seeds = [1]", f"seeds = {list(range(1, 16))}")
    world.settings.write_text(text)
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(DEADLY)
    ctx = world.context(environ={**os.environ, "PYTHONPATH": f"{tmp_path / 'site'}:{os.environ.get('PYTHONPATH', '')}"})
    world.drive(ctx, only="network_dim=2*")
    assert world.states()["network_dim=2"] is State.FINISHED
    scores = json.loads((world.run("network_dim=2*").path / "scores.json").read_text())["scores"]
    bad = [score for score in scores if score["status"] == "error"]
    assert [score["image"]["file"] for score in bad] == ["images/c0_s1_p000_1.png"]
    assert bad[0]["note"] == "skipped: the scorer died while it processed this image"
    assert sum(score["status"] == "ok" for score in scores) == 29


DEADLY = """
import os, sys
if "orchestrator.scoring" in sys.orig_argv:
    from orchestrator import images as media
    from orchestrator.store import hashes
    load, sha256, name = media.load, hashes.sha256, "c0_s1_p000_1.png"
    media.load = lambda path: os.abort() if path.name == name else load(path)
    hashes.sha256 = lambda path: "0" * 64 if path.name == name else sha256(path)  # unlike any reference
"""


# --- what pauses, and what is tried again -----------------------------------------------------------------------------


def test_a_broken_gpu_pauses_the_sweep_before_all_runs_fail(world: World) -> None:
    world.ask("[dims]\nnetwork_dim = [1, 2, 4, 8]\n")
    world.settle(env={"STANDIN_TRAIN": "gpu_lost"})
    with pytest.raises(NotReady, match=r"3 runs in a row failed with gpu_lost.*\n.*--retry failed"):
        world.drive()
    states = [state for name, state in world.states().items() if "baseline" not in name]
    assert states == [State.FAILED] * 3 + [State.PENDING]
    world.settle()
    world.drive(only=TRAININGS, retry=True)
    assert [state for name, state in world.states().items() if "baseline" not in name] == [State.FINISHED] * 4


def test_failures_of_points_do_not_pause_the_sweep(world: World) -> None:
    world.ask("[dims]\nnetwork_dim = [1, 2, 4, 8]\n")
    world.settle(env={"STANDIN_TRAIN": "bad_config"})
    world.drive(only=TRAININGS)
    assert [state for name, state in world.states().items() if "baseline" not in name] == [State.FAILED] * 4


def test_failed_runs_are_retried_only_with_retry_and_finished_runs_never(world: World) -> None:
    world.settle(env={"STANDIN_TRAIN": "bad_config:network_dim=2"})
    world.drive(only=TRAININGS)
    heard = Heard()
    world.drive(world.context(listener=heard), only=TRAININGS)
    assert heard.events == []
    world.settle()
    world.drive(world.context(listener=heard), only=TRAININGS, retry=True)
    assert {name.rpartition("-")[0] for name, _, _ in heard.events} == {"network_dim=2"}
    assert len(world.run("network_dim=2*").attempts("train")) == 2


def test_retry_does_not_repeat_a_degraded_run(world: World) -> None:
    world.ask(ONE.format(optimizer="Prodigy"))
    world.settle(env={"STANDIN_TRAIN": "oom:optimizer_type=Prodigy"}, sections=FALLBACK)
    world.drive(only=TRAININGS)
    heard = Heard()
    world.drive(world.context(listener=heard), only=TRAININGS, retry=True)
    assert heard.events == []


def test_fail_fast_stops_at_the_first_failure(world: World) -> None:
    world.settle(env={"STANDIN_TRAIN": "bad_config"})
    world.drive(fail_fast=True)
    assert world.states()["network_dim=2"] is State.FAILED
    assert world.states()["network_dim=4"] is State.PENDING


# --- two at once, and orphans -----------------------------------------------------------------------------------------


def test_concurrent_sweeps_share_datasets_faces_and_hashes(world: World) -> None:
    world.settle(env={"STANDIN_STEP_S": "0.05"})
    both = [
        subprocess.Popen(world.command("--name", name, "--only", "network_dim=2*"), cwd=world.folder)
        for name in ("one", "two")
    ]
    assert [child.wait(timeout=120) for child in both] == [0, 0]
    texts = {(world.folder / "runs" / name / "report" / "results.csv").read_text()[:200] for name in ("one", "two")}
    assert len(texts) == 1
    assert len(list((world.folder / "runs" / ".datasets").glob("[!.]*"))) == 1


@pytest.fixture
def driven(world: World) -> Iterator["subprocess.Popen[str]"]:
    """`orchestrate run` during its first training."""
    world.settle(env={"STANDIN_STEP_S": "1"})
    child = subprocess.Popen(world.command(), cwd=world.folder, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not world.ledger():
        assert time.monotonic() < deadline, "no training started"
        assert child.poll() is None, child.stderr.read() if child.stderr else ""
        time.sleep(0.01)
    yield child
    child.kill()
    child.wait()


def test_an_orphan_is_adopted_by_the_next_run(world: World, driven: "subprocess.Popen[str]") -> None:
    driven.send_signal(signal.SIGKILL)
    driven.wait()
    assert world.living(), "the trainer still runs"
    world.drive()
    assert [line.split()[0] for line in world.ledger()] == ["began", "ended"] * 2
    assert {row["attempts"] for row in world.rows().values()} == {"1", ""}


def test_a_second_run_is_rejected_with_the_holder_of_the_lock(world: World, driven: "subprocess.Popen[str]") -> None:
    second = world.call()
    assert second.returncode == 5
    assert f"sweep grid is already running in process {driven.pid} on " in second.stderr
    assert world.sweep.is_locked()
    driven.kill()
    driven.wait()
    assert not world.sweep.is_locked(), "the lock ends with its process"


def test_a_sweep_that_is_stopped_at_once_leaves_no_process(world: World) -> None:
    ctx = world.context()
    ctx.stop.asked = 1
    sweep.run_sweep(world.plan().runs(), ctx)
    assert set(world.states().values()) <= {State.PENDING, State.KILLED}
    assert world.living() == []
    assert layout.sweeps(world.folder / "runs") == [world.sweep]
