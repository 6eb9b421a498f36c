"""Children of the benchmark: started, watched on the GPU's memory counter, waited for."""

import contextlib
import json
import os
import re
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pynvml

ROOT = Path(__file__).resolve().parents[2]
GIB = 2**30
_BAR = re.compile(r"steps:[^\r\n]*?\| (\d+)/\d+ \[[\d:]+<[\d:?]+,\s*([\d.]+)(s/it|it/s)")


class Card:
    """A GPU, by its number in the driver's list."""

    def __init__(self, number: int) -> None:
        pynvml.nvmlInit()
        self._handle = pynvml.nvmlDeviceGetHandleByIndex(number)

    def uuid(self) -> str:
        return str(pynvml.nvmlDeviceGetUUID(self._handle))

    def used(self) -> int:
        """Bytes in use on the whole GPU."""
        return int(pynvml.nvmlDeviceGetMemoryInfo(self._handle).used)

    def count(self) -> int:
        """The number of GPUs."""
        return int(pynvml.nvmlDeviceGetCount())

    def facts(self) -> dict[str, Any]:
        total = pynvml.nvmlDeviceGetMemoryInfo(self._handle).total
        return {
            "card": str(pynvml.nvmlDeviceGetName(self._handle)),
            "card_total_gib": round(total / GIB, 1),
            "driver": str(pynvml.nvmlSystemGetDriverVersion()),
        }


class Peak(contextlib.AbstractContextManager["Peak"]):
    """The most memory in use on the GPU inside the block, GiB, above what was in use before it."""

    def __init__(self, card: Card) -> None:
        self._card = card
        self._before = card.used()
        self._most = self._before
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    @property
    def gib(self) -> float:
        return round((self._most - self._before) / GIB, 2)

    def __enter__(self) -> "Peak":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._done.wait(0.1):
            self._most = max(self._most, self._card.used())


@dataclass(frozen=True, slots=True, kw_only=True)
class Programs:
    """The trainer's interpreter and sources, where a child may write, and the number of the measured GPU."""

    python: Path
    sd_scripts: Path
    work: Path
    card: int = 0


def module(programs: Programs, name: str, *arguments: object) -> list[str]:
    """The command of one of the benchmark's own modules in the trainer's interpreter."""
    return [str(programs.python), "-m", f"benchmarks.gpu.{name}", *(str(word) for word in arguments)]


def lines(programs: Programs, command: Sequence[str], log: Path) -> Iterator[str]:
    """Run a child and yield what it prints, line by line; its errors go to `log`."""
    with log.open("w", encoding="utf-8") as errors, _start(programs, command, subprocess.PIPE, errors) as child:
        assert child.stdout
        yield from child.stdout
    if child.returncode:
        raise RuntimeError(f"exit code {child.returncode}: {' '.join(command[:4])}...; see {log}")


def together(programs: Programs, commands: Sequence[tuple[Sequence[str], Path]]) -> float:
    """Run children side by side, each into its log; the seconds until the last has ended."""
    began = time.monotonic()
    with contextlib.ExitStack() as open_things:
        children = []
        for command, log in commands:
            output = open_things.enter_context(log.open("w", encoding="utf-8"))
            children.append(open_things.enter_context(_start(programs, command, output, subprocess.STDOUT)))
        codes = [child.wait() for child in children]
    for code, (_, log) in zip(codes, commands, strict=True):
        if code:
            raise RuntimeError(f"exit code {code}; see {log}")
    return round(time.monotonic() - began, 1)


def side_by_side(
    programs: Programs, commands: Sequence[tuple[Sequence[str], Path, Mapping[str, str]]]
) -> tuple[list[int], list[float]]:
    """Run children at once, each into its log and with its own variables; their exit codes and seconds."""
    codes, seconds = [0] * len(commands), [0.0] * len(commands)

    def run(number: int) -> None:
        command, log, environment = commands[number]
        began = time.monotonic()
        with log.open("w", encoding="utf-8") as output:
            codes[number] = _start(programs, command, output, subprocess.STDOUT, environment).wait()
        seconds[number] = round(time.monotonic() - began, 1)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(len(commands))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return codes, seconds


def _start(
    programs: Programs, command: Sequence[str], output: Any, errors: Any, more: Mapping[str, str] | None = None
) -> subprocess.Popen[str]:
    environment = dict(os.environ, PYTHONUNBUFFERED="1", COLUMNS="400", HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1")
    environment |= more or {}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    return subprocess.Popen(
        command, stdout=output, stderr=errors, text=True, errors="replace", cwd=programs.work, env=environment
    )


def trained(report: Path, log: Path) -> dict[str, Any]:
    """What a whole training process says of itself: torch's peaks and its speed without the first step."""
    figures: dict[str, Any] = json.loads(report.read_text(encoding="utf-8"))
    return figures | {"seconds_per_step": seconds_per_step(log.read_text(encoding="utf-8", errors="replace"))}


def seconds_per_step(log: str) -> float | None:
    """Mean seconds per step between the first and the last progress bar, whose own figure is a mean from the start."""
    bars = [(int(step), float(rate) if unit == "s/it" else 1 / float(rate)) for step, rate, unit in _BAR.findall(log)]
    bars = [bar for bar in bars if bar[0] > 0]
    if not bars or bars[0][0] == bars[-1][0]:
        return None
    (first, mean_first), (last, mean_last) = bars[0], bars[-1]
    return round((last * mean_last - first * mean_first) / (last - first), 3)
