"""MPS: the sweep's own daemon, its end and replacement, and its clients. The daemon is a stand-in in the PATH."""

import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from standins.world import HERE

from orchestrator.store import mps, process
from orchestrator.store.mps import Mps


class Fake:
    """The commands that the stand-in has logged, and the messages for the user."""

    def __init__(self, log: Path) -> None:
        self._log = log
        self.messages: list[str] = []

    def commands(self) -> list[str]:
        lines = self._log.read_text().splitlines() if self._log.exists() else []
        return [line.split()[0] for line in lines]

    def lines(self) -> list[str]:
        return [line.strip() for line in self._log.read_text().splitlines()]


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Fake]:
    monkeypatch.setenv("PATH", f"{HERE}:{os.environ['PATH']}")
    monkeypatch.setenv("FAKE_MPS", str(tmp_path / "mps-commands"))
    monkeypatch.setattr(mps, "_START_S", 0.5)
    monkeypatch.setattr(mps, "_ANSWER_S", 2.0)
    yield Fake(tmp_path / "mps-commands")
    for file in [*tmp_path.rglob("*.pid"), *Path("/tmp").glob("orchestrate-mps-*/*.pid")]:
        with suppress(ProcessLookupError, ValueError):
            os.kill(int(file.read_text()), signal.SIGKILL)


Make = Callable[[], Mps]


@pytest.fixture
def make(fake: Fake, tmp_path: Path) -> Make:
    """The daemon of a sweep, as an orchestrator sees it that has just started."""
    return lambda: Mps(tmp_path / "s" / "mps", ["GPU-1"], os.environ, fake.messages.append)


def pid(folder: Path, name: str) -> int:
    return int((folder / "s" / "mps" / "pipe" / name).read_text())


def test_a_daemon_starts_once_and_ends_with_the_sweep(fake: Fake, make: Make, tmp_path: Path) -> None:
    daemon = make()
    daemon.stop()
    assert fake.commands() == [], "nothing was started, so nothing is stopped"
    variables = daemon.variables(9000)
    assert variables["CUDA_MPS_PINNED_DEVICE_MEM_LIMIT"] == "0=9000M"
    assert (Path(variables["CUDA_MPS_PIPE_DIRECTORY"]) / "control").exists()
    assert Path(variables["CUDA_MPS_LOG_DIRECTORY"]) == tmp_path / "s" / "mps"
    assert daemon.variables(100)["CUDA_MPS_PINNED_DEVICE_MEM_LIMIT"] == "0=100M"
    daemon.stop()
    assert fake.commands() == ["-d", "start_server", "quit"]
    assert not os.path.lexists(tmp_path / "s" / "mps" / "pipe")
    assert not fake.messages


def test_a_daemon_is_found_again_after_the_orchestrator_was_killed(fake: Fake, make: Make, tmp_path: Path) -> None:
    before = make().variables(1)
    assert mps.servers(tmp_path) == {pid(tmp_path, "server.pid")}
    again = make()
    assert again.variables(1) == before
    again.stop()
    assert fake.commands() == ["-d", "start_server", "quit"]


@pytest.mark.parametrize("name", ["nvidia-cuda-mps-control.pid", "server.pid"])
def test_a_daemon_or_server_that_died_is_replaced(fake: Fake, make: Make, tmp_path: Path, name: str) -> None:
    daemon = make()
    daemon.variables(1)
    dead = pid(tmp_path, name)
    os.kill(dead, signal.SIGKILL)
    time.sleep(0.05)
    assert daemon.variables(1)
    assert pid(tmp_path, name) != dead
    assert fake.commands() == ["-d", "start_server"] * 2
    assert not fake.messages


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("daemon", r"its daemon does not answer \(no permission\)"),
        ("server", "its server does not start"),
        ("hang", "timed out"),
        ("absent", "nvidia-cuda-mps-control is not installed"),
        ("wsl", "WSL does not support it"),
    ],
)
def test_one_message_says_why_there_is_no_mps(
    fake: Fake, make: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, fault: str, reason: str
) -> None:
    monkeypatch.setenv("FAKE_MPS_FAULT", fault)
    if fault == "absent":
        monkeypatch.setenv("PATH", "/nonexistent")
    if fault == "wsl":
        monkeypatch.setattr(os, "uname", lambda: os.uname_result(("Linux", "pc", "6.6-microsoft-standard", "1", "x")))
    daemon = make()
    assert daemon.variables(1) == daemon.variables(1) == {}
    assert fake.commands().count("-d") == (fault in ("daemon", "server", "hang"))
    (message,) = fake.messages
    assert re.search(reason, message), message
    assert "colocate = false" in message
    assert not os.path.lexists(tmp_path / "s" / "mps" / "pipe")


REFUSED = "RuntimeError: CUDA error: MPS client failed to connect to the MPS control daemon or the MPS server"


def test_mps_is_not_used_any_more_where_clients_cannot_connect(fake: Fake, make: Make, tmp_path: Path) -> None:
    daemon = make()
    daemon.variables(1)
    daemon.note_failure("CUDA error: unspecified launch failure")
    assert daemon.variables(1)
    os.kill(pid(tmp_path, "server.pid"), signal.SIGKILL)
    time.sleep(0.05)
    daemon.note_failure(REFUSED)
    assert daemon.variables(1), "the server had died, and is replaced"
    daemon.note_failure(f"{REFUSED}; trying again without other runs on the GPU")
    daemon.note_failure(REFUSED)
    assert daemon.variables(1) == {}
    (message,) = fake.messages
    assert f"{REFUSED}; runs that share a GPU take turns" in message
    daemon.stop()
    assert fake.commands()[-1] == "quit"


def test_the_sockets_of_a_long_path_are_in_a_temporary_folder(fake: Fake, tmp_path: Path) -> None:
    folder = tmp_path / ("long" * 20) / "mps"
    daemon = Mps(folder, ["GPU-1"], os.environ, fake.messages.append)
    pipe = Path(daemon.variables(1)["CUDA_MPS_PIPE_DIRECTORY"])
    assert (folder / "pipe").readlink() == pipe
    assert len(str(pipe)) < 60
    daemon.stop()
    assert not pipe.exists()
    assert not (folder / "pipe").is_symlink()


def test_a_daemon_with_clients_is_not_ended(fake: Fake, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mps, "_ANSWER_S", 0.3)
    daemon = make()
    client = subprocess.Popen(["sleep", "60"], env={**os.environ, **daemon.variables(1)})
    try:
        daemon.stop()
        assert "quit" not in fake.commands()
    finally:
        client.kill()
        client.wait()
    daemon.stop()
    assert fake.commands()[-1] == "quit"


def test_mps_ends_the_work_of_a_client_before_it_is_killed(fake: Fake, make: Make, tmp_path: Path) -> None:
    attempt = tmp_path / "attempt"
    attempt.mkdir()
    environ = {**os.environ, **make().variables(1)}
    script = "trap 'echo term >>$FAKE_MPS; exit' TERM; echo ready >>$FAKE_MPS; while :; do sleep 0.05; done"
    process.start(attempt, ["bash", "-c", script], env=environ, cwd=attempt)
    while "ready" not in fake.commands():
        time.sleep(0.02)
    (client, *_) = [one for one in process.pids_of(attempt) if b"trap" in Path(f"/proc/{one}/cmdline").read_bytes()]
    process.stop(attempt, 5)
    lines = fake.lines()
    assert lines.index(f"terminate_client {pid(tmp_path, 'server.pid')} {client}") < lines.index("term")
