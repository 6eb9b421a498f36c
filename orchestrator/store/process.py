"""Child processes that outlive us: start, find again, wait, stop. Knows nothing of training (Linux, /proc).

A child runs under the shim in a session of its own; an environment variable that names its folder marks it and all
that it starts, so it is found again by any later orchestrator, and nothing is ever found or killed by name.
"""

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from orchestrator.errors import NotReady, Problem
from orchestrator.model import ProcessExit
from orchestrator.store import files, shim

MARKER = "ORCHESTRATE_ATTEMPT"

SILENT_S = 12 * shim.BEAT_S
"""Without a sign of life for so long, a shim on another machine is dead; clocks may differ by some of it."""


def start(folder: Path, argv: Sequence[str], *, env: Mapping[str, str], cwd: Path) -> None:
    """Start `argv` under the shim; its records and its log go to `folder`. `env` is the child's whole environment."""
    files.write_json(folder / "command.json", {"schema": 1, "argv": list(argv), "cwd": str(cwd)})
    child = subprocess.Popen(
        [sys.executable, "-I", "-S", shim.__file__, str(folder)],
        env={**env, MARKER: str(folder)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    # In the midst of its exec a process has no environment, and would be taken for one that has ended.
    while not _environ(child.pid) and child.poll() is None:
        time.sleep(0.0005)


def started(folder: Path) -> bool:
    """Whether the shim ever ran here."""
    return (folder / "process.json").exists()


def same_boot(folder: Path) -> bool:
    """Whether the child was started here since the machine was: a reboot or power loss is not the child's fault."""
    record, here = _read(folder / "process.json"), shim.identity(os.getpid())
    return record is not None and all(record.get(key) == here[key] for key in ("boot", "host"))


def host(folder: Path) -> str:
    """The machine that it was started on; empty before it was."""
    record = _read(folder / "process.json")
    return str(record.get("host", "")) if record else ""


def on_other_host(folder: Path) -> bool:
    """Whether it was started on another machine, whose processes we do not see."""
    return host(folder) not in ("", os.uname().nodename)


def running(folder: Path) -> bool:
    """Whether the shim or anything it started still lives; on another machine: whether its shim gives signs of life."""
    if on_other_host(folder):
        return exited(folder) is None and _silence_s(folder) < SILENT_S
    return _shim_lives(folder) or bool(pids_of(folder))


def _silence_s(folder: Path) -> float:
    return time.time() - (folder / "process.json").stat().st_mtime


def exited(folder: Path) -> ProcessExit | None:
    """How the child ended, as the shim saw it; None while it runs or when nobody saw."""
    record = _read(folder / "exit.json")
    return ProcessExit(**{key: value for key, value in record.items() if key != "schema"}) if record else None


def pids_of(folder: Path) -> list[int]:
    """The living processes that carry this folder's marker: shim, child, and what they started."""
    want = f"{MARKER}={folder}".encode()
    return [pid for pid in _pids() if _has(pid, want) and not _zombie(pid)]


def live_attempts() -> set[Path]:
    """The folders of all that was started like this and lives on this machine, by whatever orchestrator."""
    start = f"{MARKER}=".encode()
    values = [part for pid in _pids() for part in _environ(pid).split(b"\0") if part.startswith(start)]
    return {Path(os.fsdecode(value.removeprefix(start))) for value in values}


def is_exiting(pid: int) -> bool:
    """Whether a process is on its way out: it has given up its memory here, its card follows a moment later."""
    try:
        return not Path(f"/proc/{pid}/environ").read_bytes()
    except ProcessLookupError:  # ended, and not waited for
        return True
    except OSError:
        return False  # another user's, or not of this namespace: nothing is known of it


def wait(folder: Path, timeout_s: float) -> None:
    """Sleep until the shim ends, at most `timeout_s`, or without a shim whatever it left behind."""
    record = _read(folder / "process.json")
    lives = [record["pid"]] if record and _shim_lives(folder) else pids_of(folder)
    if not lives:
        time.sleep(timeout_s if on_other_host(folder) else min(timeout_s, 0.02))
        return
    with contextlib.suppress(OSError):  # it ended since we looked
        ended = os.pidfd_open(lives[0])
        try:
            poll = select.poll()
            poll.register(ended, select.POLLIN)
            poll.poll(timeout_s * 1000)
        finally:
            os.close(ended)


def stop(folder: Path, grace_s: float, hurry: Callable[[], bool] = lambda: False) -> None:
    """End everything marked with this folder: TERM, wait `grace_s` or until `hurry`, KILL; then nothing is left.

    The shim takes no TERM, and is killed last: it ends by itself once it has written down how the child did.
    Raises NotReady when something does not even die of KILL, or lives on another machine.
    """
    if on_other_host(folder):
        what, remedy = f"runs on {host(folder)} and can only be ended there", "the same command there, then Ctrl-C"
        raise NotReady(Problem(what=what, where=str(folder), remedy=remedy))
    _signal_all(folder, signal.SIGTERM)
    _wait_gone(folder, grace_s, hurry)
    _signal_all(folder, signal.SIGKILL, spare=_shim(folder))
    _wait_gone(folder, 1.0, lambda: False)
    for _ in range(_UNKILLABLE_S):
        if not _living(folder):
            return
        _signal_all(folder, signal.SIGKILL)
        _wait_gone(folder, 1.0, lambda: False)
    if left := _living(folder):
        what = f"process {', '.join(map(str, left))} does not die: a driver holds it"
        raise NotReady(Problem(what=what, where=str(folder), remedy="restart the machine, then run the same command"))


_UNKILLABLE_S = 30
"""A process that waits for a lost card cannot be killed, and nobody can wait for it either."""


def _shim(folder: Path) -> int | None:
    record = _read(folder / "process.json")
    return int(record["pid"]) if record and _shim_lives(folder) else None


def _wait_gone(folder: Path, seconds: float, hurry: Callable[[], bool]) -> None:
    deadline = time.monotonic() + seconds
    while _living(folder) and time.monotonic() < deadline and not hurry():
        time.sleep(0.02)


def _living(folder: Path) -> list[int]:
    """As `marked`, and the shim to its very end: what exits loses its environment first, and is still there."""
    last = _shim(folder)
    return pids_of(folder) or ([last] if last else [])


def _signal_all(folder: Path, number: signal.Signals, spare: int | None = None) -> None:
    for pid in set(pids_of(folder)) - {spare}:
        # The process may have ended, and its number been taken, since we looked: a pidfd cannot be mistaken.
        with contextlib.suppress(OSError):
            handle = os.pidfd_open(pid)
            try:
                if _has(pid, f"{MARKER}={folder}".encode()):
                    signal.pidfd_send_signal(handle, number)
            finally:
                os.close(handle)


def _shim_lives(folder: Path) -> bool:
    record = _read(folder / "process.json")
    if record is None:
        return False
    with contextlib.suppress(OSError, ValueError, IndexError):
        return {**shim.identity(record["pid"]), "schema": 1} == record and not _zombie(record["pid"])
    return False


def _pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def _has(pid: int, variable: bytes) -> bool:
    environ = _environ(pid)
    return variable in environ and variable in environ.split(b"\0")


def _environ(pid: int) -> bytes:
    try:
        file = os.open(f"/proc/{pid}/environ", os.O_RDONLY)  # of every process, several times a second: no objects
    except OSError:
        return b""
    try:
        return b"".join(iter(lambda: os.read(file, 65536), b""))
    except OSError:
        return b""
    finally:
        os.close(file)


def _zombie(pid: int) -> bool:
    """Whether the process has ended and only waits for its parent to notice."""
    _reap(pid)
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return True
    return stat.rpartition(")")[2].split()[0] in "ZX"


def _reap(pid: int) -> None:
    with contextlib.suppress(OSError):  # not our child: an orphan of an earlier orchestrator
        os.waitpid(pid, os.WNOHANG)


def _read(path: Path) -> dict[str, Any] | None:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8", errors="surrogateescape")))
    except FileNotFoundError:
        return None
