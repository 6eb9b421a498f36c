"""The faults of a stand-in: `[trainer.env]` holds FAULTS, words like `oom:optimizer_type=Prodigy#2`.

`name` alone goes wrong always; `:key=value` where the training's argument is that; `#2` in the first two attempts only.
"""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

TRAIN, GENERATE = "STANDIN_TRAIN", "STANDIN_GENERATE"
"""The variables for the faults of the trainer and of the generator."""

LEDGER = "STANDIN_LEDGER"
"""A file to which every training adds a line when it begins and when its last checkpoint is whole."""

_FAULT = re.compile(r"(?P<name>\w+)(?::(?P<key>\w+)=(?P<value>[^#]*))?(?:#(?P<attempts>\d+))?")
_LAST_WORDS = {
    "oom": "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has 2 GiB",
    "gpu_lost": "RuntimeError: CUDA error: unspecified launch failure",
    "disk_full": "OSError: [Errno 28] No space left on device",
    "bad_config": "ValueError: these arguments do not fit together",
}


def requested(variable: str, arguments: Mapping[str, Any]) -> set[str]:
    """The names of the faults that apply to this attempt, whose folder is the working directory."""
    found = [_FAULT.fullmatch(word) for word in os.environ.get(variable, "").split()]
    return {fault["name"] for fault in found if fault and _applies(fault, arguments)}


def _applies(fault: re.Match[str], arguments: Mapping[str, Any]) -> bool:
    early = not fault["attempts"] or int(Path.cwd().name) <= int(fault["attempts"])
    return early and (not fault["key"] or str(arguments.get(fault["key"])) == fault["value"])


def go_wrong(faults: set[str]) -> None:
    """The faults that any program can have, in the middle of its work."""
    for name, words in _LAST_WORDS.items():
        if name in faults:
            sys.exit(f"\n{words}")
    if "mps" in faults and "CUDA_MPS_PIPE_DIRECTORY" in os.environ:
        sys.exit("\nRuntimeError: CUDA error: MPS client failed to connect to the MPS control daemon or the MPS server")
    if "environment" in faults:
        sys.exit("\n" + "\n".join(f"{name}={value}" for name, value in sorted(os.environ.items())))
    for name, number in (("segfault", signal.SIGSEGV), ("killed", signal.SIGKILL)):
        if name in faults:
            os.kill(os.getpid(), number)
    if "not_utf8" in faults:
        sys.stderr.buffer.write(b"\xff\xfe caf\xe9 \x80\n")
    if "fill" in faults:
        with Path("filler").open("wb", buffering=0) as file:
            while True:
                file.write(bytes(64 * 1024))
    if "grandchild" in faults:
        subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
    if "deaf" in faults:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if "gigabyte" in faults:
        for _ in range(1100):
            os.write(sys.stdout.fileno(), b"a line that says nothing\n" * 40_000)
    if faults & {"hang", "deaf"}:
        print("I hang", flush=True)
        time.sleep(600)


def note(text: str) -> None:
    """Add a line to the ledger."""
    if path := os.environ.get(LEDGER):
        with Path(path).open("a", encoding="utf-8") as file:
            file.write(f"{text}\n")
