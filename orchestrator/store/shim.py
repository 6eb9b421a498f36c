"""Starts one child, waits for it, and records how it ended; outlives the orchestrator. Standard library only.

    python -I -S shim.py FOLDER

Reads FOLDER/command.json. Writes FOLDER/process.json (its own identity) before the child starts, FOLDER/log (the
child's stdout and stderr) and FOLDER/exit.json after the child ended. The environment is inherited, never written.

It is the subreaper of everything the child starts: a process that leaves its parent and session becomes a child of the
shim. The shim ends after the last of them, so that all of them are found among its descendants.

If it is killed, its descendants are found by a limit: that of file locks, which Linux does not enforce, and which every
process inherits, whatever it does with its environment, session and files.
"""

import contextlib
import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import FrameType
from typing import Any

BEAT_S = 5.0
"""Seconds between two heartbeats."""

RLIMIT_LOCKS = 10
"""setrlimit's number for file locks, which Python's resource module does not name."""

_PR_SET_CHILD_SUBREAPER = 36


def main(folder: Path) -> None:
    """Run the command of `folder` to its end."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, _ignore)
    os.chdir(folder)  # from now on the working directory is its path, also after a move
    began_in = Path.cwd()
    command = json.loads((folder / "command.json").read_text(encoding="utf-8", errors="surrogateescape"))
    _write(folder / "process.json", {"schema": 1, **identity(os.getpid())})
    _start_heartbeat()
    _become_subreaper()
    _mark_descendants()
    began, kills = time.monotonic(), _oom_kills()
    code, error = _run(command["argv"], command["cwd"], folder / "log")
    killed = code == -signal.SIGKILL and _oom_kills() > kills
    seconds = round(time.monotonic() - began, 3)
    record = {"schema": 1, "code": code, "error": error, "seconds": seconds, "host_oom": killed}
    _write(Path.cwd() / "exit.json", {**record, "moved": Path.cwd() != began_in})
    with contextlib.suppress(ChildProcessError):
        while True:
            os.wait()


def _become_subreaper() -> None:
    with contextlib.suppress(ImportError, OSError, AttributeError):  # then fewer of its descendants are found
        import ctypes

        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def _mark_descendants() -> None:
    with contextlib.suppress(OSError, ValueError, KeyError):  # then they are found by the other signs
        unlimited = resource.getrlimit(RLIMIT_LOCKS)[1]
        resource.setrlimit(RLIMIT_LOCKS, (int(os.environ["ORCHESTRATE_ATTEMPT_ID"]), unlimited))


def _ignore(_signal: int, _frame: FrameType | None) -> None:
    """A handler instead of SIG_IGN: the child would inherit an ignored signal, but not a handler."""


def _start_heartbeat() -> None:
    """Touch process.json every few seconds, for machines without access to this /proc. The child inherits no timer."""

    def touch(_signal: int, _frame: FrameType | None) -> None:
        with contextlib.suppress(OSError):  # a network folder may be away for a while
            os.utime("process.json")

    signal.signal(signal.SIGALRM, touch)
    signal.setitimer(signal.ITIMER_REAL, BEAT_S, BEAT_S)


def _run(argv: list[str], cwd: str, log: Path) -> tuple[int, str]:
    with log.open("ab") as out:
        try:
            child = subprocess.Popen(argv, cwd=cwd, stdin=subprocess.DEVNULL, stdout=out, stderr=out)
        except OSError as error:
            return 127, str(error)
    while (ended := os.wait())[0] != child.pid:
        pass  # one that the child has left behind
    child.returncode = os.waitstatus_to_exitcode(ended[1])
    return child.returncode, ""


def _oom_kills() -> int:
    """How often the kernel has killed a process for lack of memory: distinguishes its SIGKILL from a user's."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/vmstat").read_text(encoding="ascii").splitlines():
            if line.startswith("oom_kill "):
                return int(line.split()[1])
    return 0


def identity(pid: int) -> dict[str, Any]:
    """What identifies a process: pid, start in clock ticks, boot id and PID namespace; and the machine's name.

    Raises OSError.
    """
    stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    ticks = int(stat.rpartition(")")[2].split()[19])
    boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    namespace = str(Path("/proc/self/ns/pid").readlink())
    return {"pid": pid, "started": ticks, "boot": boot, "pid_namespace": namespace, "host": os.uname().nodename}


def _write(path: Path, record: dict[str, Any]) -> None:
    """As files.write_json, which this program cannot import: it runs with `-I -S`."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("w", encoding="utf-8", errors="surrogateescape", newline="") as out:
            json.dump(record, out, ensure_ascii=False, indent=1)
            out.flush()
            os.fsync(out.fileno())
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    with contextlib.suppress(OSError):  # some file systems cannot sync a folder
        folder = os.open(path.parent, os.O_RDONLY)
        os.fsync(folder)
        os.close(folder)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
