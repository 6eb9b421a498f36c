"""NVIDIA MPS: several processes compute on one GPU at the same time, where the driver else lets them take turns.

Each sweep has its own control daemon. Like its clients it outlives the orchestrator, and it is found again by the
folder of its sockets. A client is a process with the variables of `Mps.variables` in its environment; a program that
finds no daemon there runs as without MPS.
"""

import contextlib
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

from orchestrator import files

PIPES, LOGS = "CUDA_MPS_PIPE_DIRECTORY", "CUDA_MPS_LOG_DIRECTORY"
LIMIT = "CUDA_MPS_PINNED_DEVICE_MEM_LIMIT"
"""The VRAM that a client may allocate, by the number of a GPU among those that it sees."""

_CONTROL = "nvidia-cuda-mps-control"
_REFUSED = re.compile("MPS client failed to connect|MPS server is not ready")
"""CUDA errors 805 and 807."""

_ANSWER_S = 10.0
_START_S = 30.0
_LONGEST_PATH = 107 - len("/control_privileged")
"""Bytes of the path of a folder of Unix sockets: the kernel limits that of a socket."""


class Mps:
    """The daemon of a sweep, started when it is first needed and again after it has died.

    folder: its logs, and its sockets in `pipe`. gpus: the UUIDs of its GPUs. environ: inherited by the daemon.
    message: called once if MPS is not available.
    """

    def __init__(
        self, folder: Path, gpus: Sequence[str], environ: Mapping[str, str], message: Callable[[str], None]
    ) -> None:
        self._folder, self._message = folder, message
        self._environ = {**environ, "CUDA_VISIBLE_DEVICES": ",".join(gpus)}
        self._pipe = folder / "pipe"
        self._available = True

    def variables(self, limit_mib: int | None = None) -> dict[str, str]:
        """The variables of a client that may allocate so much VRAM, with the daemon running; {} if it cannot run."""
        if self._available:
            try:
                self._start()
            except (OSError, subprocess.SubprocessError) as error:
                self.stop()
                self._give_up(f"{error}{self._last_line()}")
        if not self._available:
            return {}
        return {**self._addresses(), **({LIMIT: f"0={limit_mib}M"} if limit_mib else {})}

    def note_failure(self, reason: str) -> None:
        """Give up if a client could not connect although daemon and server run, as in some containers."""
        if _REFUSED.search(reason) and _servers(os.path.realpath(self._pipe)):
            self._give_up(reason.partition(";")[0])

    def _give_up(self, why: str) -> None:
        if self._available:
            self._available = False
            self._message(
                f"NVIDIA MPS is not available: {why}; runs that share a GPU take turns on it\n"
                "    -> see docs/several-gpus.md, or set `colocate = false` in [vram]"
            )

    def stop(self) -> None:
        """End the daemon and remove its sockets, unless it still has clients."""
        if not self._pipe.exists():
            return
        pipe = os.path.realpath(self._pipe)
        with contextlib.suppress(TimeoutError):  # one that has just ended is listed for a moment
            _wait(lambda: not _in_use(pipe), _ANSWER_S, "")
            _ask(pipe, "quit")
            shutil.rmtree(pipe, ignore_errors=True)
            if self._pipe.is_symlink():
                self._pipe.unlink()

    def _addresses(self) -> dict[str, str]:
        return {PIPES: os.path.realpath(self._pipe), LOGS: os.path.realpath(self._folder)}

    def _start(self) -> None:
        """Start the daemon and a server unless they run. Raises OSError or SubprocessError with the reason."""
        self._make_folders()
        addresses = self._addresses()
        pipe = addresses[PIPES]
        if _servers(pipe):
            return
        if "microsoft" in os.uname().release.lower():
            raise OSError("WSL does not support it")
        if not shutil.which(_CONTROL):
            raise OSError(f"{_CONTROL} is not installed")
        with (self._folder / "start.log").open("wb") as log:  # not a pipe: the daemon keeps its output open
            subprocess.run(
                [_CONTROL, "-d"],
                env={**self._environ, **addresses},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                timeout=_START_S,
                start_new_session=True,
                check=False,  # it also fails where the daemon runs and only its server is gone
            )
        _wait(lambda: _ask(pipe, "get_server_list") is not None, _START_S, "its daemon does not answer")
        _ask(pipe, f"start_server -uid {os.getuid()}")
        _wait(lambda: bool(_servers(pipe)), _START_S, "its server does not start")

    def _make_folders(self) -> None:
        """The sockets are in the sweep, or in a temporary folder that `pipe` links to if their paths get too long."""
        self._folder.mkdir(parents=True, exist_ok=True)
        if self._pipe.exists():
            return
        self._pipe.unlink(missing_ok=True)  # a link whose folder is gone
        if len(os.fsencode(os.path.realpath(self._pipe))) <= _LONGEST_PATH:
            self._pipe.mkdir()
        else:
            self._pipe.symlink_to(tempfile.mkdtemp(prefix="orchestrate-mps-"))

    def _last_line(self) -> str:
        """The last line of the first log that has one, in brackets."""
        for name in ("server.log", "control.log", "start.log"):
            with contextlib.suppress(OSError):
                if text := files.read_tail(self._folder / name, 4096).strip():
                    return f" ({text.splitlines()[-1]})"
        return ""


def terminate(pipe: str, pids: Collection[int]) -> None:
    """End the GPU work of those of these processes that are clients of the daemon with this pipe folder.

    A client that is killed in the middle of its work can make other clients hang.
    """
    for server in _servers(pipe):
        for client in _numbers(_clients(pipe, server)).intersection(pids):
            _ask(pipe, f"terminate_client {server} {client}")


def servers(runs: Path) -> set[int]:
    """The pids of the servers of all sweeps in this folder."""
    return {pid for pipe in runs.glob("*/mps/pipe") for pid in _servers(os.path.realpath(pipe))}


def _wait(condition: Callable[[], bool], seconds: float, what: str) -> None:
    """Raises TimeoutError with `what` after so many seconds."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(what)
        time.sleep(0.1)


def _servers(pipe: str) -> set[int]:
    """The pids of the servers of the daemon with this pipe folder; none if no daemon answers."""
    return _numbers(_ask(pipe, "get_server_list"))


def _clients(pipe: str, server: int) -> str | None:
    """The pids of a server's clients, one per line."""
    return _ask(pipe, f"get_client_list {server}")


def _in_use(pipe: str) -> bool:
    """Whether a server has clients, or does not answer."""
    answers = [_clients(pipe, server) for server in _servers(pipe)]
    return any(answer is None or _numbers(answer) for answer in answers)


def _numbers(answer: str | None) -> set[int]:
    return {int(word) for word in (answer or "").split() if word.isdigit()}


def _ask(pipe: str, command: str) -> str | None:
    """The daemon's answer to a command; None if none runs there."""
    try:
        done = subprocess.run(
            [_CONTROL],
            input=f"{command}\n",
            env={**os.environ, PIPES: pipe},
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            timeout=_ANSWER_S,
            start_new_session=True,
            check=False,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout if done.returncode == 0 else None
