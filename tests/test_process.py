"""Child processes that outlive the orchestrator: started, waited for, found again, stopped."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from orchestrator import files
from orchestrator.errors import NotReady
from orchestrator.model import Failure
from orchestrator.store import outcome, process, shim
from orchestrator.store.outcome import FailureReason


def start(folder: Path, code: str, **env: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    process.start(folder, [sys.executable, "-c", code], env={**os.environ, **env}, cwd=folder)


def finish(folder: Path, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while process.running(folder) and time.monotonic() < deadline:
        process.wait(folder, 0.1)
    assert not process.running(folder)


def until(condition, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


@pytest.fixture
def folder(tmp_path: Path):
    yield tmp_path / "attempt"
    process.stop(tmp_path / "attempt", 0)


def test_exit_code_and_log_are_recorded(folder):
    start(folder, "import sys; print('héllo'); sys.exit(7)")
    finish(folder)
    assert process.exited(folder).code == 7
    assert (folder / "log").read_text(encoding="utf-8") == "héllo\n"


def test_death_by_signal_is_a_negative_code(folder):
    start(folder, "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)")
    finish(folder)
    assert process.exited(folder).code == -signal.SIGSEGV


def test_a_missing_program_is_reported(folder):
    folder.mkdir()
    process.start(folder, ["/no/such/program"], env=dict(os.environ), cwd=folder)
    finish(folder)
    assert process.exited(folder).code == 127
    assert "/no/such/program" in process.exited(folder).error


def test_the_environment_is_not_recorded(folder):
    start(folder, "pass", SECRET_TOKEN="hunter2")
    finish(folder)
    assert all("hunter2" not in path.read_text() for path in folder.iterdir())


def test_a_child_that_ignores_term_is_killed_after_the_grace(folder):
    start(folder, "import signal, time; signal.signal(15, signal.SIG_IGN); print('up', flush=True); time.sleep(60)")
    until(lambda: (folder / "log").exists() and "up" in (folder / "log").read_text())
    began = time.monotonic()
    process.stop(folder, 0.3)
    assert 0.25 < time.monotonic() - began < 5
    assert not process.running(folder)


def test_stop_waits_for_an_exiting_process_without_an_environment(folder):
    folder.mkdir()
    # It simulates a shim that is about to end: running, and not marked.
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as leaving:
        files.write_json(folder / "process.json", {"schema": 1, **shim.identity(leaving.pid)})
        assert process.running(folder)
        threading.Timer(0.3, leaving.stdin.close).start()
        process.stop(folder, 0)
        assert not process.running(folder)


def test_the_shim_records_the_exit_after_term(folder):
    start(folder, "import time; print('up', flush=True); time.sleep(60)")
    until(lambda: (folder / "log").exists() and "up" in (folder / "log").read_text())
    process.stop(folder, 5)
    assert process.exited(folder).code == -signal.SIGTERM


def test_a_grandchild_in_another_session_is_found_and_stopped(folder):
    code = (
        "import subprocess, sys;"
        "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'], start_new_session=True)"
    )
    start(folder, code)
    until(lambda: process.exited(folder) is not None)
    assert process.running(folder), "the grandchild still lives"
    process.stop(folder, 5)
    assert process.pids_of(folder) == []


def test_a_child_is_found_after_its_shim_was_killed(folder):
    start(folder, "import time; print('up', flush=True); time.sleep(60)")
    until(lambda: (folder / "log").exists() and "up" in (folder / "log").read_text())
    os.kill(json.loads((folder / "process.json").read_text())["pid"], signal.SIGKILL)
    until(lambda: len(process.pids_of(folder)) == 1)
    assert process.running(folder)
    assert process.exited(folder) is None


SLEEP = "import time; print('up', flush=True); time.sleep(600)"
DAEMON = (
    "import os, time; os.fork() and (os.wait(), print('up', flush=True), time.sleep(600));"
    "os.setsid(); os.fork() and os._exit(0);"
    "os.closerange(0, 1024); os.chdir('/'); os.execve('/bin/sleep', ['kworker', '600'], {})"
)
PROGRAMS = {
    "without an environment": ["env", "-i", sys.executable, "-c", SLEEP],
    "in another session": ["env", "-i", "setsid", "--wait", sys.executable, "-c", SLEEP],
    "daemonised": ["sh", "-c", f'env -i setsid "{sys.executable}" -c "{SLEEP}" & exec sleep 600'],
    "silent daemon": ["sh", "-c", "echo up; (env -i setsid sleep 600 >/dev/null 2>&1 &) ; exec sleep 600"],
    "daemon without descriptors": [sys.executable, "-c", DAEMON],
}


def start_hidden(folder: Path, program: str) -> set[int]:
    """Start a program whose processes have no marker; returns all of them but the shim."""
    folder.mkdir()
    process.start(folder, PROGRAMS[program], env=dict(os.environ), cwd=folder)
    until(lambda: (folder / "log").exists() and "up" in (folder / "log").read_text())
    if "daemon" in program:
        until(lambda: len(process.pids_of(folder)) >= 3)
    shim_pid = json.loads((folder / "process.json").read_text())["pid"]
    return set(process.pids_of(folder)) - {shim_pid}


def alive(pids: set[int]) -> set[int]:
    return {pid for pid in pids if not process._zombie(pid)}


@pytest.mark.parametrize("program", PROGRAMS)
def test_processes_without_a_marker_are_found_and_stopped(folder: Path, program: str) -> None:
    hidden = start_hidden(folder, program)
    assert hidden
    process.stop(folder, 5)
    assert not process.running(folder)
    assert alive(hidden) == set()
    assert process.exited(folder) is not None, "the shim ends after it has recorded the exit"


@pytest.mark.parametrize("program", PROGRAMS)
def test_processes_without_a_marker_are_found_after_their_shim_was_killed(folder: Path, program: str) -> None:
    hidden = start_hidden(folder, program)
    assert len(hidden) >= 1 + ("daemon" in program)
    os.kill(json.loads((folder / "process.json").read_text())["pid"], signal.SIGKILL)
    until(lambda: process._shim(folder) is None)
    assert process.running(folder)
    process.stop(folder, 5)
    assert alive(hidden) == set()


def test_the_child_that_a_program_leaves_behind_keeps_the_attempt_running(folder: Path) -> None:
    folder.mkdir()
    program = ["sh", "-c", "env -i setsid sleep 600 >/dev/null 2>&1 &"]
    process.start(folder, program, env=dict(os.environ), cwd=folder)
    until(lambda: process.exited(folder) is not None)
    assert process.running(folder)
    left = set(process.pids_of(folder))
    process.stop(folder, 5)
    assert alive(left) == set()


def test_a_process_of_another_user_is_reported_as_still_running(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError

    (hidden,) = start_hidden(folder, "without an environment")
    with monkeypatch.context() as patched:
        patched.setattr(signal, "pidfd_send_signal", refuse)
        patched.setattr(process, "_may_signal", lambda _pid: False)
        with pytest.raises(NotReady, match=f"(?s)is still running: process {hidden} .*sudo kill {hidden}"):
            process.stop(folder, 0.1)
    assert process.running(folder), "the shim lives on, so the process is found again"


def test_an_attempt_is_found_through_another_path(folder: Path, tmp_path: Path) -> None:
    hidden = start_hidden(folder, "without an environment")
    link = tmp_path / "link"
    link.symlink_to(tmp_path, target_is_directory=True)
    assert set(process.pids_of(link / "attempt")) == set(process.pids_of(folder)) > hidden
    process.stop(link / "attempt", 5)
    assert not process.running(folder)


def test_an_attempt_is_found_after_its_folder_was_moved(folder: Path, tmp_path: Path) -> None:
    start(folder, SLEEP)
    until(lambda: (folder / "log").exists() and "up" in (folder / "log").read_text())
    moved = tmp_path / "moved"
    folder.rename(moved)
    assert len(process.pids_of(moved)) == 2
    assert process.pids_of(folder) == []
    assert moved in process.live_attempts()
    process.stop(moved, 5)
    ended = outcome.read(moved)
    cause = outcome.failure_cause(ended, FailureReason(Failure.UNKNOWN, "FileNotFoundError"), moved)
    assert cause == FailureReason(Failure.CRASHED, "its folder was moved while it ran"), "so it is repeated"


def test_a_changed_host_name_does_not_hide_a_live_process(folder: Path) -> None:
    hidden = start_hidden(folder, "without an environment")
    record = json.loads((folder / "process.json").read_text())
    files.write_json(folder / "process.json", {**record, "host": "renamed"})
    assert process.same_boot(folder)
    assert not process.on_other_host(folder)
    assert process.running(folder)
    process.stop(folder, 5)
    assert alive(hidden) == set()


def test_another_container_on_the_same_machine_is_another_host(tmp_path: Path) -> None:
    folder = tmp_path / "attempt"
    folder.mkdir()
    record = {"schema": 1, **shim.identity(os.getpid()), "pid_namespace": "pid:[1]"}
    files.write_json(folder / "process.json", record)
    assert process.on_other_host(folder)
    assert process.running(folder)


def test_a_reused_pid_is_not_mistaken_for_the_child(folder):
    folder.mkdir()
    mine = shim.identity(os.getpid())
    files.write_json(folder / "process.json", {"schema": 1, **mine, "started": mine["started"] - 1})
    assert not process.running(folder)
    files.write_json(folder / "process.json", {"schema": 1, **mine})
    assert process.running(folder)
    (folder / "process.json").unlink()  # before the fixture ends what lives here


def test_a_process_of_an_earlier_boot_is_not_running(folder):
    folder.mkdir()
    files.write_json(folder / "process.json", {"schema": 1, **shim.identity(os.getpid())})
    assert process.same_boot(folder)
    files.write_json(folder / "process.json", {"schema": 1, **shim.identity(os.getpid()), "boot": "before"})
    assert not process.same_boot(folder)
    assert not process.running(folder)


@pytest.mark.parametrize(
    "damaged",
    [
        *("", "null", "{", "[]", "{}", '{"pid": "x"}', '{"schema": 1}', "[" * 100_000),
        *('{"code": "0", "seconds": 1, "pid": [1]}', '{"code": 0, "seconds": null, "pid": 1e9, "started": "1"}'),
    ],
)
def test_damaged_records_of_the_shim_count_as_an_interrupted_attempt(folder, damaged):
    folder.mkdir()
    (folder / "process.json").write_text(damaged)
    (folder / "exit.json").write_text(damaged)
    assert process.started(folder)
    assert not process.running(folder)
    assert not process.same_boot(folder)
    assert process.exited(folder) is None
    process.wait(folder, 0.01)
    process.stop(folder, 0.01)
    assert outcome.read(folder).interrupted


def test_wait_returns_when_the_child_ends(folder):
    start(folder, "import time; time.sleep(0.3)")
    began = time.monotonic()
    while process.running(folder):
        process.wait(folder, 30)
    assert time.monotonic() - began < 5


def test_stop_does_nothing_before_the_start(folder):
    folder.mkdir()
    process.stop(folder, 5)
    assert not process.started(folder)


# --- other machines ---------------------------------------------------------------------------------------------------


ELSEWHERE = {"host": "another", "boot": "another"}


def elsewhere(folder: Path, silent_s: float) -> None:
    folder.mkdir()
    files.write_json(folder / "process.json", {"schema": 1, **shim.identity(os.getpid()), **ELSEWHERE})
    elsewhere_beats(folder, silent_s)


def test_a_child_on_another_machine_runs_while_its_heartbeat_is_recent(tmp_path: Path) -> None:
    elsewhere(tmp_path / "a", silent_s=process.SILENT_S - 10)
    assert process.on_other_host(tmp_path / "a")
    assert process.running(tmp_path / "a")
    elsewhere(tmp_path / "b", silent_s=process.SILENT_S + 10)
    assert not process.running(tmp_path / "b")
    assert not process.same_boot(tmp_path / "b"), "its end is its machine's, not its own"


@pytest.mark.parametrize("silent_s", [-7200, 7200])
def test_a_heartbeat_is_recognized_whatever_the_clocks_show(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, silent_s: int
) -> None:
    monkeypatch.setattr(shim, "BEAT_S", 0.1)
    elsewhere(tmp_path / "a", silent_s)
    assert not process.running(tmp_path / "a")
    assert not process.beats(tmp_path / "a")
    threading.Timer(0.05, elsewhere_beats, (tmp_path / "a", silent_s - 5)).start()
    assert process.beats(tmp_path / "a")


def elsewhere_beats(folder: Path, silent_s: float) -> None:
    then = time.time() - silent_s
    os.utime(folder / "process.json", (then, then))


def test_a_child_on_another_machine_with_an_exit_is_not_running(tmp_path: Path) -> None:
    elsewhere(tmp_path / "a", silent_s=0)
    files.write_json(
        tmp_path / "a" / "exit.json", {"schema": 1, "code": 0, "error": "", "seconds": 1.0, "host_oom": False}
    )
    assert not process.running(tmp_path / "a")


def test_a_child_on_another_machine_cannot_be_stopped(tmp_path: Path) -> None:
    elsewhere(tmp_path / "a", silent_s=0)
    with pytest.raises(NotReady, match="runs on another"):
        process.stop(tmp_path / "a", 0.1)


def test_the_shim_sends_a_heartbeat(tmp_path: Path) -> None:
    beat = f"import sys; sys.path.insert(0, {str(Path(shim.__file__).parent)!r}); import shim; shim.BEAT_S = 0.05; "
    waits = ["sh", "-c", "until [ -e seen ]; do sleep 0.05; done"]
    files.write_json(tmp_path / "command.json", {"schema": 1, "argv": waits, "cwd": str(tmp_path)})
    child = subprocess.Popen([sys.executable, "-c", f"{beat} shim.main(shim.Path({str(tmp_path)!r}))"])
    until(lambda: process.started(tmp_path))
    seen: set[int] = set()
    until(lambda: seen.add((tmp_path / "process.json").stat().st_mtime_ns) or len(seen) > 3)
    (tmp_path / "seen").touch()
    child.wait()
    ended = process.exited(tmp_path)
    assert ended
    assert ended.code == 0


def test_an_exiting_process_is_recognized():
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    until(lambda: not process.is_exiting(child.pid))
    child.kill()
    until(lambda: process.is_exiting(child.pid))  # not waited for yet, so still listed
    child.wait()
    assert not process.is_exiting(2**22 + 1), "of a number that is not here nothing is known"


def test_a_process_that_ends_meanwhile_is_no_stray(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its environment is read twice; it is empty as soon as the process ends."""
    (tmp_path / "1").mkdir()
    variables = {process.MARKER: str(tmp_path / "1")}
    monkeypatch.setattr(process, "_pids", lambda: [1])
    monkeypatch.setattr(process, "_variable", lambda _, name: variables.get(name, ""))
    assert process.strays(tmp_path) == []
    variables[process._ID] = "7"
    assert process.strays(tmp_path) == [1]
