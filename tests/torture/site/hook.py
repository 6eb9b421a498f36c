"""Counts what a process is about to write below the world, and can end it there, as SIGKILL or a power cut would.

Python's own audit events are listened to, so the product holds nothing of this. Configured by the environment:

    TORTURE_WORLD   the folder that counts
    TORTURE_EVENTS  where to add a line for each event: who, its number, what
    TORTURE_KILL    JSON: who, what, number, how: `before` that event, or `torn`, its file opened and still empty

An event is known by who, by what it does to which file, and by how often they have done so: what others do meanwhile,
and so how many events there are before it, is another thing in every run.
"""

import json
import os
import signal
import sys
import threading
from collections import Counter
from pathlib import Path
from typing import Any

_NAMES = {"os.rename", "os.mkdir", "os.remove", "os.truncate", "os.rmdir", "subprocess.Popen"}
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT


def listen(role: str) -> None:
    """Count this process's events from now on; `role` and its attempt's folder are who it is."""
    world = os.environ["TORTURE_WORLD"]
    folder = os.environ.get("ORCHESTRATE_ATTEMPT", world)
    who = f"{role} {os.path.relpath(folder, world)}"
    kill = json.loads(os.environ.get("TORTURE_KILL", "null"))
    sys.addaudithook(_Counter(who, world, kill).hear)


class _Counter:
    def __init__(self, who: str, world: str, kill: "dict[str, Any] | None") -> None:
        self.who, self.world = who, f"{world}/"
        self.own = threading.local()  # what this does is an event, too
        self.lock = threading.Lock()
        self.seen: Counter[str] = Counter()
        self.kill = kill if kill and kill["who"] == who else None

    def hear(self, event: str, args: "tuple[Any, ...]") -> None:
        if getattr(self.own, "busy", False) or not self._counts(event, args):
            return
        self.own.busy = True
        with self.lock:
            self._meet(event, str(args[0]))
        self.own.busy = False

    def _meet(self, event: str, path: str) -> None:
        what = f"{event} {self._named(path)}"
        self.seen[what] += 1
        self._note(what)
        if self.kill and (self.kill["what"], self.kill["number"]) == (what, self.seen[what]) and self._first():
            if self.kill["how"] == "torn" and event == "open":
                os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC))
            os.kill(os.getpid(), signal.SIGKILL)

    def _counts(self, event: str, args: "tuple[Any, ...]") -> bool:
        if event == "open":
            return isinstance(args[2], int) and bool(args[2] & _WRITING) and str(args[0]).startswith(self.world)
        if event == "subprocess.Popen":  # how often the MPS daemon is asked depends on time
            return "mps-control" not in str(args[0]) or "-d" in args[1]
        return event in _NAMES and str(args[0]).startswith(self.world)

    def _named(self, path: str) -> str:
        """Below the world, and without the number of this process, which unfinished files are named after."""
        return path.removeprefix(self.world).replace(f".{os.getpid()}", "")

    def _note(self, what: str) -> None:
        if path := os.environ.get("TORTURE_EVENTS"):
            with Path(path).open("a", encoding="utf-8") as file:
                file.write(f"{self.who}\t{self.seen[what]}\t{what}\n")

    def _first(self) -> bool:
        """A process is killed once: the next attempt succeeds."""
        try:
            os.close(os.open(os.environ["TORTURE_EVENTS"] + ".killed", os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return False
        return True
