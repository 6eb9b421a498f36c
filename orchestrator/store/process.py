"""Child processes that outlive the orchestrator: start, find, wait for and stop them (Linux, /proc).

A child runs under the shim in its own session. The processes of an attempt are those with the attempt's identity in
their environment or in their limit of file locks, those in the shim's session, those whose output goes to the attempt's
log, and all descendants of these; the shim is the subreaper, so processes that leave their parent stay its descendants.
An attempt is identified by the device and inode of its folder, whatever its path is. Processes are never found or
killed by name.
"""

import contextlib
import os
import re
import resource
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator import files
from orchestrator.errors import NotReady, Problem
from orchestrator.model import ProcessExit
from orchestrator.store import mps, records, shim

MARKER = "ORCHESTRATE_ATTEMPT"
"""The variable with the path of the attempt's folder when the process started."""

_ID = "ORCHESTRATE_ATTEMPT_ID"
"""The variable with the folder's identity."""

SILENT_S = 12 * shim.BEAT_S
"""A shim on another machine without a heartbeat for this long is dead; the value allows for clock differences."""


def start(folder: Path, argv: Sequence[str], *, env: Mapping[str, str], cwd: Path) -> None:
    """Start `argv` under the shim; its records and its log go to `folder`. `env` is the child's whole environment."""
    records.write(folder / "command.json", {"argv": list(argv), "cwd": str(cwd)}, exact=True)
    child = subprocess.Popen(
        [sys.executable, "-I", "-S", shim.__file__, os.path.realpath(folder)],
        env={**env, MARKER: os.path.realpath(folder), _ID: _identity(folder)},
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    # During its exec a process has no environment and would look like an ended one.
    while not _read_proc(child.pid, "environ") and child.poll() is None:
        time.sleep(0.0005)


def started(folder: Path) -> bool:
    """Whether the shim ever ran here."""
    return (folder / "process.json").exists()


def same_boot(folder: Path) -> bool:
    """Whether the child was started on this machine (in this container) since its last boot."""
    record = _read(folder / "process.json")
    return record is not None and _is_here(record)


def _is_here(record: Mapping[str, Any]) -> bool:
    """Whether a process that has this identity is visible here. The machine's name does not matter: it may change."""
    here = shim.identity(os.getpid())
    namespace = record.get("pid_namespace", here["pid_namespace"])  # absent from records of earlier versions
    return bool(record.get("boot") == here["boot"] and namespace == here["pid_namespace"])


def host(folder: Path) -> str:
    """The name of the machine that the child was started on; empty before."""
    return str((_read(folder / "process.json") or {}).get("host", ""))


def on_other_host(folder: Path) -> bool:
    """Whether the child was started on another machine or in another container, whose processes are not visible here.

    After a restart this machine has another boot id and the same name.
    """
    record, here = _read(folder / "process.json"), shim.identity(os.getpid())
    if not record or "host" not in record or _is_here(record):
        return False
    return bool(record.get("boot") == here["boot"] or record["host"] != here["host"])


def running(folder: Path) -> bool:
    """Whether the shim or anything it started still runs; on another machine, whether its heartbeat is recent."""
    if on_other_host(folder):
        silent_s = time.time() - (folder / "process.json").stat().st_mtime
        return exited(folder) is None and abs(silent_s) < SILENT_S
    return _shim(folder) is not None or bool(pids_of(folder))


def beats(folder: Path) -> bool:
    """Whether a shim on another machine sends heartbeats now, even if the clocks differ; waits for one.

    Ask it before the attempt is considered ended. False on this machine.
    """
    if not on_other_host(folder) or exited(folder):
        return False
    last, deadline = _last_beat_ns(folder), time.monotonic() + 3 * shim.BEAT_S
    while (silent := _last_beat_ns(folder) == last) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not silent


def _last_beat_ns(folder: Path) -> int:
    with (folder / "process.json").open("rb") as file:  # a network folder shows the present time of an opened file
        return os.fstat(file.fileno()).st_mtime_ns


def exited(folder: Path) -> ProcessExit | None:
    """How the child ended; None while it runs, and when the shim was killed before it could write it."""
    record = _read(folder / "exit.json") or {}
    known = {key: record[key] for key, kind in _EXIT.items() if isinstance(record.get(key), kind)}
    with contextlib.suppress(TypeError):  # absent or damaged
        return ProcessExit(**known)
    return None


_EXIT: dict[str, Any] = {"code": int, "seconds": (int, float), "error": str, "host_oom": bool, "moved": bool}


def pids_of(folder: Path) -> list[int]:
    """The running processes of the attempt: shim, child, and what they started."""
    processes = _processes()
    own = _roots(folder, processes)
    children: dict[int, list[int]] = {}
    for pid, stat in processes.items():
        children.setdefault(stat.parent, []).append(pid)
    new = list(own)
    while new:
        new = [child for pid in new for child in children.get(pid, ()) if child not in own]
        own.update(new)
    return sorted(pid for pid in own if not processes[pid].ended)


def _roots(folder: Path, processes: Mapping[int, "_Stat"]) -> set[int]:
    """The processes that show by themselves that they belong to the attempt."""
    identity, log = _identity(folder), os.path.realpath(folder / "log")
    record = _read(folder / "process.json") or {}
    session, started = record.get("pid"), record.get("started")
    shim_start = started if isinstance(started, int) and _is_here(record) else 0  # 0: before it, or on another machine
    young = [pid for pid, stat in processes.items() if stat.started >= shim_start]
    own = {pid for pid in young if identity in _identities(pid) or _output_of(pid) == log} if identity else set()
    leader = processes.get(session) if isinstance(session, int) else None
    if not shim_start or (leader and leader.started != started):
        return own  # or the number belongs to another process now
    return own | {pid for pid in young if session in (pid, processes[pid].session)}


@dataclass(frozen=True, slots=True)
class _Stat:
    """A process of /proc. started: in clock ticks. ended: it only waits for its parent."""

    parent: int
    session: int
    started: int
    ended: bool


def _processes() -> dict[int, _Stat]:
    found = {}
    for pid in _pids():
        if raw := _read_proc(pid, "stat"):
            words = raw.rpartition(b")")[2].split()
            found[pid] = _Stat(int(words[1]), int(words[3]), int(words[19]), words[0] in b"ZX")
    return found


def _output_of(pid: int) -> str:
    """The log that the process's stdout or stderr goes to, with its present path; empty if it is none."""
    paths = (_link(pid, "fd/1"), _link(pid, "fd/2"))
    return next((path for path in paths if path.endswith("/log")), "")


def live_attempts() -> set[Path]:
    """The folders of all attempts that run on this machine, started by any orchestrator, without symbolic links."""
    found = set()
    for pid in _pids():
        if identities := _identities(pid) - {""}:
            # The shim's working directory is the folder, also after a move.
            paths = [Path(_variable(pid, MARKER)), Path(_link(pid, "cwd")), Path(_output_of(pid)).parent]
            found.add(next((path for path in paths if _identity(path) in identities), paths[0]))
    return found - {Path()}  # without a marker


def strays(folder: Path) -> list[int]:
    """The running processes of attempts that began below `folder`, and whose own folder was moved away or deleted."""
    root, found = Path(os.path.realpath(folder)), []
    for pid in _pids():
        began = Path(_variable(pid, MARKER))
        if root in began.parents and _variable(pid, _ID) not in ("", _identity(began)):  # "": it has just ended
            found.append(pid)
    return found


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
    """Stop all processes of the attempt: TERM, wait `grace_s` or until `hurry` is true, then KILL.

    First, MPS ends the work of its clients. The shim ignores TERM and ends after all others. It is killed only when it
    is the last one: without it, its descendants would not be found again. Raises NotReady when a process goes on, or
    runs on another machine.
    """
    if on_other_host(folder):
        what = f"runs on {host(folder)} and can only be stopped there"
        raise NotReady(Problem(what=what, where=str(folder), remedy="run the same command there, then Ctrl-C"))
    pids = pids_of(folder)
    if not pids:
        return
    for pipe in {_variable(pid, mps.PIPES) for pid in pids} - {""}:
        mps.terminate(pipe, pids)
    _signal_all(folder, signal.SIGTERM)
    left = _wait_gone(folder, grace_s, hurry)
    for second in range(_UNKILLABLE_S):
        if not left:
            return
        refused = _signal_all(folder, signal.SIGKILL, even_shim=second > 0)
        left = _wait_gone(folder, 1.0, lambda: False)
        if second and refused:
            break
    if left:
        raise NotReady(_not_stopped(folder, left))


_UNKILLABLE_S = 30
"""A process that waits for a lost GPU cannot be killed."""


def _not_stopped(folder: Path, pids: Sequence[int]) -> Problem:
    left = [pid for pid in pids if pid != _shim(folder)] or pids
    names = ", ".join(f"{pid} ({_read_proc(pid, 'comm').decode(errors='replace').strip()})" for pid in left)
    foreign = " ".join(str(pid) for pid in left if not _may_signal(pid))
    remedy = "a driver may hold it: restart the machine, then run the same command"
    if foreign:
        remedy = f"it belongs to another user: `sudo kill {foreign}`, then run the same command"
    return Problem(what=f"could not be stopped and is still running: process {names}", where=str(folder), remedy=remedy)


def _may_signal(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except PermissionError:
        return False
    except OSError:
        return True
    return True


def _wait_gone(folder: Path, seconds: float, hurry: Callable[[], bool]) -> list[int]:
    """The processes that are left after so many seconds."""
    deadline = time.monotonic() + seconds
    while (left := pids_of(folder)) and time.monotonic() < deadline and not hurry():
        time.sleep(0.05)
    return left


def _signal_all(folder: Path, number: signal.Signals, *, even_shim: bool = False) -> set[int]:
    """Signal all processes but the shim, or the shim if it is the last one. Returns those that may not be signalled."""
    pids, shim_pid = pids_of(folder), _shim(folder)
    chosen = [pid for pid in pids if pid != shim_pid] or (pids if even_shim else [])
    refused = set()
    with contextlib.ExitStack() as stack:
        opened = {}
        for pid in chosen:
            with contextlib.suppress(OSError):  # it may have ended meanwhile
                opened[pid] = stack.enter_context(_pidfd(pid))
        for pid in opened.keys() & set(pids_of(folder)):  # these numbers still belong to the attempt
            try:
                signal.pidfd_send_signal(opened[pid], number)
            except PermissionError:
                refused.add(pid)
            except OSError:
                continue
    return refused


def _shim(folder: Path) -> int | None:
    """The pid of the attempt's shim while it runs."""
    record = _read(folder / "process.json")
    if not record or not isinstance(pid := record.get("pid"), int) or not _is_here(record):
        return None
    with contextlib.suppress(OSError, ValueError, IndexError):
        return pid if shim.identity(pid)["started"] == record.get("started") and not _zombie(pid) else None
    return None


def _pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def _identities(pid: int) -> set[str]:
    """The identity of the attempt that a process belongs to, by its environment and by its limit of file locks."""
    return {_variable(pid, _ID), _limit_of_locks(pid)}


def _limit_of_locks(pid: int) -> str:
    """Empty if it is unlimited, as by default."""
    try:
        limit = resource.prlimit(pid, shim.RLIMIT_LOCKS)[0]
        return "" if limit == resource.RLIM_INFINITY else str(limit)
    except PermissionError:  # of another user; reading /proc takes thirty times as long
        found = re.search(rb"^Max file locks +(\d+) ", _read_proc(pid, "limits"), re.MULTILINE)
        return found[1].decode() if found else ""
    except OSError:
        return ""


def _identity(folder: Path) -> str:
    """Device and inode of an attempt's folder as one number below 2**62; empty if there is none."""
    try:
        status = folder.stat()
    except OSError:
        return ""
    return str((status.st_ino ^ status.st_dev << 40) % 2**62)


def _variable(pid: int, name: str) -> str:
    """A variable in the environment of a process; empty without it."""
    start, environ = f"{name}=".encode(), _read_proc(pid, "environ")
    found = (part for part in environ.split(b"\0") if part.startswith(start)) if start in environ else iter(())
    return os.fsdecode(next(found, b"").removeprefix(start))


def _link(pid: int, name: str) -> str:
    """Where a link of /proc leads to; empty if it cannot be read."""
    try:
        return os.readlink(f"/proc/{pid}/{name}")  # noqa: PTH115 (fast: called for every process)
    except OSError:
        return ""


def _read_proc(pid: int, name: str) -> bytes:
    """A file of /proc, empty if it cannot be read."""
    try:
        file = os.open(f"/proc/{pid}/{name}", os.O_RDONLY)  # fast: called for every process several times a second
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
    words = _read_proc(pid, "stat").rpartition(b")")[2].split()
    return not words or words[0] in b"ZX"


def _read(path: Path) -> dict[str, Any] | None:
    """A record of the shim; None when there is none, {} when it is damaged."""
    try:
        return dict(files.read_json(path))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError):
        return {}
