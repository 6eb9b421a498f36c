"""Child processes that outlive the orchestrator: start, find, wait for and stop them (Linux, /proc).

A child runs under the shim in its own session. An environment variable with the attempt's folder marks the child and
everything it starts, so a later orchestrator finds them. Processes are never found or killed by name.
"""

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from orchestrator import files
from orchestrator.errors import NotReady, Problem
from orchestrator.model import ProcessExit
from orchestrator.store import records, shim

MARKER = "ORCHESTRATE_ATTEMPT"

SILENT_S = 12 * shim.BEAT_S
"""A shim on another machine without a heartbeat for this long is dead; the value allows for clock differences."""


def start(folder: Path, argv: Sequence[str], *, env: Mapping[str, str], cwd: Path) -> None:
    """Start `argv` under the shim; its records and its log go to `folder`. `env` is the child's whole environment."""
    records.write(folder / "command.json", {"argv": list(argv), "cwd": str(cwd)})
    child = subprocess.Popen(
        [sys.executable, "-I", "-S", shim.__file__, str(folder)],
        env={**env, MARKER: str(folder)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    # During its exec a process has no environment and would look like an ended one.
    while not _environ(child.pid) and child.poll() is None:
        time.sleep(0.0005)


def started(folder: Path) -> bool:
    """Whether the shim ever ran here."""
    return (folder / "process.json").exists()


def same_boot(folder: Path) -> bool:
    """Whether the child was started on this machine since its last boot."""
    record, here = _read(folder / "process.json"), shim.identity(os.getpid())
    return record is not None and all(record.get(key) == here[key] for key in ("boot", "host"))


def host(folder: Path) -> str:
    """The name of the machine that the child was started on; empty before."""
    return str((_read(folder / "process.json") or {}).get("host", ""))


def on_other_host(folder: Path) -> bool:
    """Whether the child was started on another machine, whose processes are not visible here."""
    return host(folder) not in ("", os.uname().nodename)


def running(folder: Path) -> bool:
    """Whether the shim or anything it started still runs; on another machine, whether its heartbeat is recent."""
    if on_other_host(folder):
        silent_s = time.time() - (folder / "process.json").stat().st_mtime
        return exited(folder) is None and silent_s < SILENT_S
    return _shim(folder) is not None or bool(pids_of(folder))


def exited(folder: Path) -> ProcessExit | None:
    """How the child ended; None while it runs, and when the shim was killed before it could write it."""
    record = _read(folder / "exit.json")
    if not record:
        return None
    with contextlib.suppress(TypeError):  # damaged
        return ProcessExit(**{key: value for key, value in record.items() if key != "schema"})
    return None


def pids_of(folder: Path) -> list[int]:
    """The running processes with this folder's marker: shim, child, and what they started."""
    want = f"{MARKER}={folder}".encode()
    return [pid for pid in _pids() if _has(pid, want) and not _zombie(pid)]


def live_attempts() -> set[Path]:
    """The folders of all attempts that run on this machine, started by any orchestrator."""
    start = f"{MARKER}=".encode()
    values = [part for pid in _pids() for part in _environ(pid).split(b"\0") if part.startswith(start)]
    return {Path(os.fsdecode(value.removeprefix(start))) for value in values}


def is_exiting(pid: int) -> bool:
    """Whether a process is ending: it has released its RAM, and releases its VRAM a moment later."""
    try:
        return not Path(f"/proc/{pid}/environ").read_bytes()
    except ProcessLookupError:  # ended, and not waited for
        return True
    except OSError:
        return False  # of another user or namespace: unknown


def wait(folder: Path, timeout_s: float) -> None:
    """Sleep until the shim ends, or without a shim one of its descendants; at most `timeout_s` seconds."""
    shim_pid = _shim(folder)
    pids = [shim_pid] if shim_pid else pids_of(folder)
    if not pids:
        time.sleep(timeout_s if on_other_host(folder) else min(timeout_s, 0.02))
        return
    with contextlib.suppress(OSError), _pidfd(pids[0]) as ended:  # it may have ended meanwhile
        poll = select.poll()
        poll.register(ended, select.POLLIN)
        poll.poll(timeout_s * 1000)


@contextlib.contextmanager
def _pidfd(pid: int) -> Iterator[int]:
    """A descriptor of one process, which a later process with the same number cannot be mistaken for."""
    descriptor = os.pidfd_open(pid)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def stop(folder: Path, grace_s: float, hurry: Callable[[], bool] = lambda: False) -> None:
    """Stop everything marked with this folder: TERM, wait `grace_s` or until `hurry` is true, then KILL.

    The shim ignores TERM and is killed last, because it ends by itself once it has written the child's exit.
    Raises NotReady when a process survives KILL, or runs on another machine.
    """
    if on_other_host(folder):
        what, remedy = (
            f"runs on {host(folder)} and can only be stopped there",
            "run the same command there, then Ctrl-C",
        )
        raise NotReady(Problem(what=what, where=str(folder), remedy=remedy))
    _signal_all(folder, signal.SIGTERM)
    _wait_gone(folder, grace_s, hurry)
    _signal_all(folder, signal.SIGKILL, spare=_shim(folder))
    _wait_gone(folder, 1.0, lambda: False)
    for _ in range(_UNKILLABLE_S):
        if not _running_pids(folder):
            return
        _signal_all(folder, signal.SIGKILL)
        _wait_gone(folder, 1.0, lambda: False)
    if left := _running_pids(folder):
        what = f"process {', '.join(map(str, left))} cannot be killed: it waits for a driver"
        raise NotReady(Problem(what=what, where=str(folder), remedy="restart the machine, then run the same command"))


_UNKILLABLE_S = 30
"""A process that waits for a lost GPU cannot be killed."""


def _wait_gone(folder: Path, seconds: float, hurry: Callable[[], bool]) -> None:
    deadline = time.monotonic() + seconds
    while _running_pids(folder) and time.monotonic() < deadline and not hurry():
        time.sleep(0.02)


def _running_pids(folder: Path) -> list[int]:
    """As `pids_of`, and the shim while it exits: an exiting process loses its environment before it is gone."""
    shim_pid = _shim(folder)
    return pids_of(folder) or ([shim_pid] if shim_pid else [])


def _signal_all(folder: Path, number: signal.Signals, spare: int | None = None) -> None:
    for pid in set(pids_of(folder)) - {spare}:
        with contextlib.suppress(OSError), _pidfd(pid) as process:  # it may have ended meanwhile
            if _has(pid, f"{MARKER}={folder}".encode()):
                signal.pidfd_send_signal(process, number)


def _shim(folder: Path) -> int | None:
    """The pid of the attempt's shim while it runs."""
    record = _read(folder / "process.json")
    if not record or not isinstance(pid := record.get("pid"), int):
        return None
    with contextlib.suppress(OSError, ValueError, IndexError):
        return pid if {**shim.identity(pid), "schema": 1} == record and not _zombie(pid) else None
    return None


def _pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def _has(pid: int, variable: bytes) -> bool:
    environ = _environ(pid)
    return variable in environ and variable in environ.split(b"\0")


def _environ(pid: int) -> bytes:
    try:
        file = os.open(f"/proc/{pid}/environ", os.O_RDONLY)  # fast: called for every process several times a second
    except OSError:
        return b""
    try:
        return b"".join(iter(lambda: os.read(file, 65536), b""))
    except OSError:
        return b""
    finally:
        os.close(file)


def _zombie(pid: int) -> bool:
    """Whether the process has ended and waits to be reaped."""
    with contextlib.suppress(OSError):  # not our child: started by an earlier orchestrator
        os.waitpid(pid, os.WNOHANG)
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return True
    return stat.rpartition(")")[2].split()[0] in "ZX"


def _read(path: Path) -> dict[str, Any] | None:
    """A record of the shim; None when there is none, {} when it is damaged."""
    try:
        return dict(json.loads(files.read_text(path)))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, RecursionError):
        return {}
