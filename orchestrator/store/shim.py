"""Starts one child, waits for it, writes down how it ended; outlives the orchestrator. Standard library only.

    python -I -S shim.py FOLDER

Reads FOLDER/command.json; writes FOLDER/process.json (who I am) before the child starts, FOLDER/log (the child's own
file descriptor), FOLDER/exit.json after the child ended. The environment is inherited, never written down.
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
"""Between two signs of life."""


def main(folder: Path) -> None:
    """Run the command of `folder` to its end."""
    _outlive_polite_signals()
    command = json.loads((folder / "command.json").read_text(encoding="utf-8", errors="surrogateescape"))
    write(folder / "process.json", {"schema": 1, **identity(os.getpid())})
    _give_signs_of_life(folder / "process.json")
    began, kills = time.monotonic(), _oom_kills()
    code, error = _run(command["argv"], command["cwd"], folder / "log")
    killed = code == -signal.SIGKILL and _oom_kills() > kills
    seconds = round(time.monotonic() - began, 3)
    write(folder / "exit.json", {"schema": 1, "code": code, "error": error, "seconds": seconds, "host_oom": killed})


def _outlive_polite_signals() -> None:
    # A handler, not SIG_IGN: the child would inherit an ignored signal, a handler is reset when it starts.
    def nothing(_signal: int, _frame: FrameType | None) -> None:
        pass

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, nothing)


def _give_signs_of_life(file: Path) -> None:
    """Touch the file now and then: other machines do not see our /proc. The child inherits no timer."""

    def touch(_signal: int, _frame: FrameType | None) -> None:
        with contextlib.suppress(OSError):  # a full disk, or a network folder that is away for a while
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
    """How often this machine's kernel has killed a process for memory: tells its SIGKILL from a person's."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/vmstat").read_text(encoding="ascii").splitlines():
            if line.startswith("oom_kill "):
                return int(line.split()[1])
    return 0


def identity(pid: int) -> dict[str, Any]:
    """Who a process is, for ever: its number, the tick it started at, boot and machine it lives in (/proc, Linux)."""
    stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    ticks = int(stat.rpartition(")")[2].split()[19])
    boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return {"pid": pid, "started": ticks, "boot": boot, "host": os.uname().nodename}


def write(path: Path, record: dict[str, Any]) -> None:
    """Write `record` as JSON, whole or not at all."""
    write_text(path, json.dumps(record, ensure_ascii=False, indent=1))


def write_text(path: Path, text: str) -> None:
    """Whole or not at all, also after a power cut: temporary file, fsync, rename, fsync of the folder.

    In UTF-8; a file name in another encoding comes out as the bytes that it is.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("w", encoding="utf-8", errors="surrogateescape", newline="") as out:
            out.write(text)
            out.flush()
            os.fsync(out.fileno())
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    with contextlib.suppress(OSError):  # some file systems refuse to sync a folder
        sync(path.parent)


def sync(path: Path) -> None:
    """Have a file, or a folder's list of files, on the disk itself."""
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
