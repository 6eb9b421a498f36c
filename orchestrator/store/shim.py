"""Starts one child, waits for it, and records how it ended; outlives the orchestrator. Standard library only.

    python -I -S shim.py FOLDER

Reads FOLDER/command.json. Writes FOLDER/process.json (its own identity) before the child starts, FOLDER/log (the
child's stdout and stderr) and FOLDER/exit.json after the child ended. The environment is inherited, never written.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import FrameType
from typing import Any

BEAT_S = 5.0
"""Seconds between two heartbeats."""


def main(folder: Path) -> None:
    """Run the command of `folder` to its end."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, _ignore)
    command = json.loads((folder / "command.json").read_text(encoding="utf-8", errors="surrogateescape"))
    _write(folder / "process.json", {"schema": 1, **identity(os.getpid())})
    _start_heartbeat(folder / "process.json")
    began, kills = time.monotonic(), _oom_kills()
    code, error = _run(command["argv"], command["cwd"], folder / "log")
    killed = code == -signal.SIGKILL and _oom_kills() > kills
    seconds = round(time.monotonic() - began, 3)
    _write(folder / "exit.json", {"schema": 1, "code": code, "error": error, "seconds": seconds, "host_oom": killed})


def _ignore(_signal: int, _frame: FrameType | None) -> None:
    """A handler instead of SIG_IGN: the child would inherit an ignored signal, but not a handler."""


def _start_heartbeat(file: Path) -> None:
    """Touch the file every few seconds, for machines that do not see this one's /proc. The child inherits no timer."""

    def touch(_signal: int, _frame: FrameType | None) -> None:
        with contextlib.suppress(OSError):  # a network folder may be away for a while
            os.utime(file)

    signal.signal(signal.SIGALRM, touch)
    signal.setitimer(signal.ITIMER_REAL, BEAT_S, BEAT_S)


def _run(argv: list[str], cwd: str, log: Path) -> tuple[int, str]:
    with log.open("ab") as out:
        try:
            child = subprocess.Popen(argv, cwd=cwd, stdin=subprocess.DEVNULL, stdout=out, stderr=out)
        except OSError as error:
            return 127, str(error)
        return child.wait(), ""


def _oom_kills() -> int:
    """How often the kernel has killed a process for lack of memory; tells its SIGKILL from a person's."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/vmstat").read_text(encoding="ascii").splitlines():
            if line.startswith("oom_kill "):
                return int(line.split()[1])
    return 0


def identity(pid: int) -> dict[str, Any]:
    """What identifies a process for ever: pid, start in clock ticks, boot id and machine. Raises OSError."""
    stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    ticks = int(stat.rpartition(")")[2].split()[19])
    boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return {"pid": pid, "started": ticks, "boot": boot, "host": os.uname().nodename}


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
