"""Attempts with real child processes: watched, stopped, evaluated by their files, and retried."""

import itertools
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from standins.world import Heard, Probe, World

from orchestrator.errors import NotReady
from orchestrator.kohya.outputs import log
from orchestrator.model import Failure, Result, VramSample
from orchestrator.run import attempt, sweep
from orchestrator.run.context import Context, Stop
from orchestrator.run.stages import Command, Stage
from orchestrator.store import outcome, process, records, state
from orchestrator.store.layout import Attempt, Run
from orchestrator.store.outcome import FailureReason, Outcome

BAR = r"steps:  50%|#     | {step}/9 [00:01<00:01, {pace}s/it, avr_loss={loss}]"
MADE = "open('made', 'w').close()"
WAITS = "print('up', flush=True)\nimport os, time\nfor _ in range(3000): os.path.exists('go') or time.sleep(0.01)\n"
"""Waits for the file `go`, at most half a minute."""


@pytest.fixture
def run(world: World) -> Run:
    made = world.run()
    made.create()
    return made


def job(code: str, fallback: str = "", env: Mapping[str, str] = {}) -> Stage:
    """A stage whose program has the file `made` as its product."""

    def prepare(attempt: Attempt) -> Command:
        attempt.open({"asked": code})
        return Command(argv=[sys.executable, "-c", code], env=env, cwd=attempt.path)

    return Stage(name="train", prepare=prepare, progress=log.read_progress, record=record, fallback=fallback)


def record(attempt: Attempt, outcome: Outcome) -> Mapping[str, Any] | FailureReason:
    if (attempt.path / "made").exists():
        return {"attempt": attempt.number}
    code = outcome.exit.code if outcome.exit else None
    return FailureReason(*(log.classify(outcome.log, code) or (Failure.NO_PRODUCT, "made nothing")))


def carry_out(run: Run, code: str, ctx: Context, **more: Any) -> Result:
    return attempt.run_attempt(run, job(code, **more), ctx)


def last(run: Run) -> Path:
    return run.attempts("train")[-1].path


def used(mib: int, own: int | None = None) -> VramSample:
    return VramSample(used_mib=mib, total_mib=24576, own_mib=own)


def patient(run: Run, answer: Callable[[Collection[int]], VramSample | None]) -> Probe:
    """A probe that creates the file `go` after some polls since the first output, however slow the machine is."""
    polled = itertools.count()

    def asked(pids: Collection[int]) -> VramSample | None:
        log = last(run) / "log"
        if log.exists() and log.stat().st_size and next(polled) > 2:
            (last(run) / "go").touch()
        return answer(pids)

    return Probe(asked)


# --- the end is judged ------------------------------------------------------------------------------------------------


def test_a_successful_attempt_leaves_a_result_and_a_product(world: World, run: Run) -> None:
    ctx = world.context()
    result = carry_out(run, f"print('hello'); {MADE}", ctx)
    assert (result.failure, result.exit_code, result.retry) == (None, 0, False)
    assert run.product("train") == {"attempt": 1}
    assert run.attempts("train")[0].result() == result
    assert isinstance(ctx.listener, Heard)
    assert ctx.listener.events == [(run.point.name, "train", "started 1"), (run.point.name, "train", "done")]


@pytest.mark.parametrize(
    ("code", "failure", "reason"),
    [
        ("pass", Failure.NO_PRODUCT, "made nothing"),
        ("raise SystemExit('CUDA out of memory')", Failure.OOM, "CUDA out of memory"),
        (f"print({BAR.format(step=3, pace=1, loss='nan')!r})", Failure.NAN, "step 3"),
        ("import os; os.kill(os.getpid(), 11)", Failure.CRASHED, "killed by SIGSEGV"),
        ("import os; os.kill(os.getpid(), 9)", Failure.CRASHED, "ended by signal 9 from outside"),
        (
            "import os; os.write(2, b'caf\\xe9 \\xff\\xfe No space left on device'); raise SystemExit(1)",
            Failure.DISK_FULL,
            "No space left on device",
        ),
    ],
)
def test_a_failed_attempt_has_a_reason(world: World, run: Run, code: str, failure: Failure, reason: str) -> None:
    result = carry_out(run, code, world.context())
    assert result.failure is failure
    assert reason in result.reason
    assert not run.done("train")


def test_a_program_that_cannot_be_started_is_named_in_the_reason(world: World, run: Run) -> None:
    def prepare(attempt: Attempt) -> Command:
        return Command(argv=["/no/such/python"], env={}, cwd=attempt.path)

    result = attempt.run_attempt(
        run, Stage(name="train", prepare=prepare, progress=log.read_progress, record=record), world.context()
    )
    assert result.failure is Failure.BAD_CONFIG
    assert "/no/such/python" in result.reason
    assert not result.retry


def test_a_complete_product_counts_however_the_program_ended(world: World, run: Run) -> None:
    result = carry_out(run, f"{MADE}; import os; os.kill(os.getpid(), 9)", world.context())
    assert (result.failure, result.exit_code) == (None, -9)
    assert run.done("train")


def test_processes_that_the_program_left_running_are_killed(world: World, run: Run) -> None:
    sleeper = "[sys.executable, '-c', 'import time; time.sleep(600)']"
    code = f"import subprocess, sys; subprocess.Popen({sleeper}, start_new_session=True); {MADE}"
    assert carry_out(run, code, world.context()).failure is None
    assert world.living() == []


def test_secrets_in_the_log_are_redacted_in_the_reason(world: World, run: Run) -> None:
    world.settle(env={"HF_TOKEN": "hf_abcdefgh"})
    ctx = world.context(environ={**os.environ, "WANDB_API_KEY": "wandb123456", "PYTHON_PLAIN": "not secret"})
    code = "from os import environ as e\nvalues = e['WANDB_API_KEY'], 'hf_abcdefgh', e['PYTHON_PLAIN']\n"
    code += "raise SystemExit('ValueError: ' + ' '.join(values))"
    result = carry_out(run, code, ctx)
    assert result.reason == "ValueError: [WANDB_API_KEY] [HF_TOKEN] not secret"
    assert "wandb123456" not in (last(run) / "result.json").read_text()
    log, redacted = last(run) / "log", last(run) / outcome.REDACTED_LOG
    assert redacted.stat().st_mtime_ns == log.stat().st_mtime_ns, "else the clock decides which of them is shown"


# --- the limits -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limits", "code", "failure", "setting"),
    [
        ("wall_hours = 0.0001", "while 1: print('tick', flush=True); time.sleep(0.05)", Failure.TIMEOUT, "wall_hours"),
        ("stall_minutes = 0.005", "print('one', flush=True); time.sleep(60)", Failure.STALLED, "stall_minutes"),
        ("log_mib = 0.1", "while 1: print('x' * 4000)", Failure.LOG_FLOOD, "log_mib"),
    ],
)
def test_a_limit_stops_the_attempt_and_is_named(
    world: World, run: Run, limits: str, code: str, failure: Failure, setting: str
) -> None:
    world.settle(limits=limits)
    result = carry_out(run, f"import time\n{code}", world.context())
    assert (result.failure, result.retry) == (failure, False)
    assert f"limits.{setting}" in result.reason
    assert world.living() == []
    assert json.loads((last(run) / "stop.json").read_text())["failure"] == failure


def test_a_log_flood_is_killed_without_grace(world: World, run: Run) -> None:
    """During the grace time it would go on filling the disk."""
    ctx = world.context()
    limits = replace(ctx.settings.limits, log_mib=0.1, grace_seconds=20)
    deaf = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN)"
    flood = "while 1: print('x' * 4000, flush=True); time.sleep(0.001)"
    began = time.monotonic()
    result = carry_out(run, f"{deaf}\n{flood}", replace(ctx, settings=replace(ctx.settings, limits=limits)))
    assert result.failure is Failure.LOG_FLOOD
    assert time.monotonic() - began < 15


def test_a_nan_loss_stops_the_attempt(world: World, run: Run) -> None:
    bar = BAR.format(step=4, pace=1, loss="nan")
    result = carry_out(run, f"import time; print({bar!r}, flush=True); time.sleep(60)", world.context())
    assert (result.failure, result.reason) == (Failure.NAN, "the loss became nan by step 4")


def test_exceeding_the_budget_is_out_of_memory_even_with_a_product(world: World, run: Run) -> None:
    world.settle(vram="[vram]\nbudget_gib = 8\npoll_seconds = 0.05\n")
    code = f"import time; {MADE}; time.sleep(60)"
    result = carry_out(
        run, code, world.context(probe=Probe(lambda _pids: used(9000, own=8500))), fallback="less (fallback 1 of 2)"
    )
    assert (result.failure, result.retry, result.peak_vram_mib) == (Failure.OOM, True, 8500)
    assert "over the budget of 8 GiB" in result.reason
    assert not run.done("train")


def test_an_out_of_memory_names_the_use_of_the_gpu_and_the_next_fallback(world: World, run: Run) -> None:
    probe = patient(run, lambda _pids: used(23962))
    code = f"{WAITS}raise SystemExit('CUDA out of memory')"
    fallback = "gradient checkpointing (fallback 1 of 3)"
    result = carry_out(run, code, world.context(probe=probe), fallback=fallback)
    assert (result.failure, result.retry) == (Failure.OOM, True)
    assert result.reason == "out of memory at 23.4 of 24 GiB; trying gradient checkpointing (fallback 1 of 3)"
    assert carry_out(run, "raise SystemExit('CUDA out of memory')", world.context()).reason == "CUDA out of memory"


def test_vram_of_other_processes_does_not_count_against_the_budget(world: World, run: Run) -> None:
    world.settle(vram="[vram]\nbudget_gib = 8\npoll_seconds = 0.05\n")
    probe = patient(run, lambda _pids: used(20000, own=4000))
    assert carry_out(run, f"{WAITS}{MADE}", world.context(probe=probe)).failure is None
    assert probe.polled > 2


def test_a_full_gpu_and_slow_steps_are_a_spill(world: World, run: Run) -> None:
    first, second = (BAR.format(step=step, pace=pace, loss=0.1) for step, pace in ((1, 0.5), (2, 4.0)))
    code = f"print({first!r})\n{WAITS}print({second!r}, flush=True)\ntime.sleep(60)"
    result = carry_out(run, code, world.context(probe=patient(run, lambda _pids: used(24400))))
    assert result.failure is Failure.SPILL
    assert "8.0 times as long" in result.reason


def test_a_driver_that_stops_answering_does_not_disturb_the_training(world: World, run: Run) -> None:
    answers = iter([used(1000), used(3000)])
    probe = patient(run, lambda _pids: next(answers, None))
    result = carry_out(run, f"{WAITS}{MADE}", world.context(probe=probe))
    assert (result.failure, result.peak_vram_mib) == (None, 3000)
    assert probe.polled > 2


def test_the_probe_receives_the_pids_of_the_program(world: World, run: Run) -> None:
    asked: list[int] = []
    probe = patient(run, lambda pids: asked.extend(pids))
    carry_out(run, f"import os; print(os.getpid())\n{WAITS}{MADE}", world.context(probe=probe))
    assert int((last(run) / "log").read_text().split()[0]) in asked


# --- the user ---------------------------------------------------------------------------------------------------------


def ask_once_it_says(run: Run, word: str, stop: Stop, times: int) -> threading.Thread:
    def ask() -> None:
        while not list(run.path.glob("train/*/log")) or word not in (last(run) / "log").read_text():
            time.sleep(0.01)
        stop.asked += times

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    return thread


def test_one_interrupt_lets_the_program_end_and_resume_later(world: World, run: Run) -> None:
    world.settings.write_text(world.settings.read_text().replace("grace_seconds = 1", "grace_seconds = 30"))
    stop = Stop()
    thread = ask_once_it_says(run, "up", stop, 1)
    code = "import signal, sys, time; signal.signal(15, lambda *_: (print('bye', flush=True), sys.exit(3)));"
    result = carry_out(run, f"{code} print('up', flush=True); time.sleep(60)", world.context(stop=stop))
    thread.join()
    assert (result.failure, result.retry, result.exit_code) == (Failure.KILLED, True, 3)
    assert "bye" in (last(run) / "log").read_text()
    assert state.status(run).state == "killed"


@pytest.mark.parametrize(("times", "grace_s", "least", "most"), [(1, 0.5, 0.45, 5), (2, 30, 0, 5)])
def test_a_program_that_ignores_term_is_killed_after_the_grace_time_or_at_once(
    world: World, run: Run, times: int, grace_s: float, least: float, most: float
) -> None:
    text = world.settings.read_text().replace("grace_seconds = 1", f"grace_seconds = {grace_s}")
    world.settings.write_text(text)
    stop = Stop()
    thread = ask_once_it_says(run, "up", stop, times)
    code = "import signal, time; signal.signal(15, signal.SIG_IGN); print('up', flush=True); time.sleep(60)"
    ctx = world.context(stop=stop)
    result = carry_out(run, code, ctx)
    thread.join()
    ended = (last(run) / "result.json").stat().st_mtime - (last(run) / "stop.json").stat().st_mtime
    assert least < ended < most
    assert (result.failure, result.exit_code) == (Failure.KILLED, -9), "the shim recorded the exit"
    assert world.living() == []


# --- crashes ----------------------------------------------------------------------------------------------------------


def test_three_crashes_in_a_row_fail_the_run_and_interruptions_do_not_count(world: World, run: Run) -> None:
    ctx = world.context()
    crash = "import os; os.kill(os.getpid(), 11)"
    stop = Stop()
    stop.asked = 1
    results = [carry_out(run, crash, ctx)]
    results.append(carry_out(run, "import time; time.sleep(60)", world.context(stop=stop)))
    results += [carry_out(run, crash, ctx) for _ in range(2)]
    assert [result.failure for result in results] == ["crashed", "killed", "crashed", "crashed"]
    assert [result.retry for result in results] == [True, True, True, False]
    assert state.status(run).state == "failed"


def test_a_program_that_interrupts_itself_counts_as_crashed(world: World, run: Run) -> None:
    results = [carry_out(run, "raise KeyboardInterrupt", world.context()) for _ in range(3)]
    assert [(result.failure, result.retry) for result in results] == [("crashed", True)] * 2 + [("crashed", False)]


def test_a_shim_that_cannot_start_counts_as_crashed(world: World, run: Run) -> None:
    def prepare(attempt: Attempt) -> Command:
        (attempt.path / "log").symlink_to("/no/such/folder/log")
        return Command(argv=[sys.executable], env={}, cwd=attempt.path)

    broken = Stage(name="train", prepare=prepare, progress=log.read_progress, record=record)
    results = [attempt.run_attempt(run, broken, world.context()) for _ in range(3)]
    assert [(result.failure, result.retry) for result in results] == [("crashed", True)] * 2 + [("crashed", False)]


@pytest.mark.parametrize(("ours", "interrupted", "failure"), [(True, False, "crashed"), (False, True, "killed")])
def test_an_attempt_that_never_started_crashed_only_if_this_process_started_it(
    tmp_path: Path, ours: bool, interrupted: bool, failure: str
) -> None:
    ended = outcome.read(tmp_path, ours=ours)
    assert ended.interrupted is interrupted
    assert outcome.failure_cause(ended, FailureReason(Failure.NO_PRODUCT, "nothing"), tmp_path).failure == failure


@pytest.mark.parametrize("where", ["prepare", "progress", "check", "record"])
def test_an_internal_error_fails_the_run_and_stops_its_program(
    world: World, run: Run, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> Any:
        raise IndexError("tuple index out of range")

    code = MADE if where == "record" else "print('up', flush=True)\nimport time\ntime.sleep(600)"
    stage = replace(job(code), **{where: broken})
    monkeypatch.setattr(sweep, "_PERFORM", {"train": lambda run, ctx: attempt.run_attempt(run, stage, ctx)})
    result = sweep.perform(run, "train", world.context())
    assert (result.failure, result.retry) == ("unknown", False)
    assert result.reason.startswith("internal error: IndexError: tuple index out of range")
    text = (last(run) / "log").read_text()
    assert "Traceback" in text
    assert "tuple index out of range" in text
    assert state.status(run).state == "failed"
    assert not process.running(last(run))


# --- what an earlier orchestrator left --------------------------------------------------------------------------------


def begun(run: Run, code: str) -> Attempt:
    """An attempt whose orchestrator has ended."""
    orphan = run.new_attempt("train")
    command = job(code).prepare(orphan)
    process.start(orphan.path, command.argv, env=os.environ, cwd=command.cwd)
    return orphan


def test_an_orphan_is_adopted_and_its_vram_polled(world: World, run: Run) -> None:
    begun(run, f"{WAITS}{MADE}")
    probe = patient(run, lambda _pids: used(5000))
    ctx = world.context(probe=probe)
    assert state.status(run).state == "running"
    result = carry_out(run, "raise SystemExit('a second one')", ctx)
    assert (result.failure, result.peak_vram_mib) == (None, 5000)
    assert [one.number for one in run.attempts("train")] == [1]
    assert probe.polled > 2


def test_an_orphan_in_a_folder_that_was_moved_away_is_not_started_again(world: World, run: Run) -> None:
    orphan = begun(run, WAITS)
    while not (orphan.path / "log").exists() or not (orphan.path / "log").stat().st_size:
        time.sleep(0.01)
    moved = world.folder / "moved"
    (run.path / "train").rename(moved)
    pids = " ".join(map(str, process.pids_of(moved / "1")))
    with pytest.raises(NotReady, match=f"is still running: process {pids}\n.*`kill {pids}`"):
        carry_out(run, MADE, world.context())
    assert run.attempts("train") == []
    process.stop(moved / "1", 5)
    assert carry_out(run, MADE, world.context()).failure is None
    assert not process.running(orphan.path)


def test_an_orphan_without_an_environment_is_adopted_through_another_path(world: World, run: Run) -> None:
    orphan = run.new_attempt("train")
    argv = ["env", "-i", "setsid", "--wait", sys.executable, "-c", f"{WAITS}{MADE}"]
    process.start(orphan.path, argv, env=os.environ, cwd=orphan.path)
    link = world.folder / "link"
    link.symlink_to(run.path.parent, target_is_directory=True)
    same = Run(link / run.path.name, run.point)
    assert state.status(same).state == "running"
    result = carry_out(same, "raise SystemExit('a second one')", world.context(probe=patient(run, lambda _pids: None)))
    assert (result.failure, len(run.attempts("train"))) == (None, 1)


def test_an_attempt_without_an_exit_record_is_evaluated_by_its_product(world: World, run: Run) -> None:
    orphan = begun(run, MADE)
    while process.running(orphan.path):
        time.sleep(0.01)
    (orphan.path / "exit.json").unlink()
    assert state.status(run).state == "crashed"
    assert carry_out(run, "raise SystemExit('a second one')", world.context()).failure is None


def test_a_killed_shim_loses_nothing_if_the_program_finishes(world: World, run: Run) -> None:
    orphan = begun(run, f"{WAITS}{MADE}")
    while not (orphan.path / "log").exists() or not (orphan.path / "log").read_text():
        time.sleep(0.01)
    os.kill(json.loads((orphan.path / "process.json").read_text())["pid"], 9)
    (orphan.path / "go").touch()
    result = carry_out(run, "raise SystemExit('a second one')", world.context())
    assert (result.failure, result.exit_code) == (None, None)


def test_an_attempt_that_never_started_is_closed_and_retried(world: World, run: Run) -> None:
    run.new_attempt("train").open({"asked": "nothing"})
    assert state.status(run).state == "pending"
    result = carry_out(run, MADE, world.context())
    assert (result.failure, result.retry) == (Failure.KILLED, True)
    assert carry_out(run, MADE, world.context()).failure is None
    assert run.product("train") == {"attempt": 2}


def test_a_product_that_was_not_recorded_is_recorded_and_not_made_again(world: World, run: Run) -> None:
    carry_out(run, MADE, world.context())
    (run.path / "checkpoints.json").unlink()
    assert state.status(run).state == "pending"
    carry_out(run, "raise SystemExit('a second one')", world.context())
    assert run.product("train") == {"attempt": 1}


@pytest.mark.parametrize(
    ("decided", "seconds", "failure"),
    [(Failure.KILLED, 0.3, None), (Failure.TIMEOUT, 60, Failure.TIMEOUT)],
)
def test_the_next_orchestrator_completes_a_stop(
    world: World, run: Run, decided: Failure, seconds: float, failure: Failure | None
) -> None:
    orphan = begun(run, f"import time; time.sleep({seconds}); {MADE}")
    records.write(orphan.path / "stop.json", {"failure": decided, "reason": "as it was then"})
    assert carry_out(run, "raise SystemExit('a second one')", world.context()).failure is failure
    assert world.living() == []


def test_nothing_starts_with_too_little_disk_space(world: World, run: Run) -> None:
    world.settings.write_text(world.settings.read_text().replace("free_gib = 0.001", "free_gib = 1000000"))
    with pytest.raises(NotReady, match=r"limits.free_gib: .* GiB are free, less than 1e\+06"):
        carry_out(run, MADE, world.context())
    assert run.attempts("train") == []
