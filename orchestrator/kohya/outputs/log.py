"""Reads progress, length and the cause of a failure from the log of a trainer or generator.

Pure functions of text; they accept the tail of a log of any size.
"""

import math
import re
import signal
import tomllib
from pathlib import Path

from orchestrator.model import Failure, Progress

# Every repetition is bounded: a log may be one very long line, and it is read every second.
_BAR = re.compile(
    r"(?<!validation )steps:[ ]{1,4}\d{1,3}%\|[^\r\n|]{0,500}\|[ ]{0,20}(?P<step>\d{1,12})/(?P<total>\d{1,12}) "
    r"\[[\d:]{1,20}<[\d:?]{1,20},[ ]{0,20}(?P<rate>[\d.]{1,20}|\?)(?P<unit>s/it|it/s)"
    r"(?:[^\]\r\n]{0,300}?avr_loss=(?P<loss>[^,\]\s]{1,40}))?"
)
_TOTAL = re.compile(r"total optimization steps[^:\r\n]{0,100}:[ ]{0,20}(\d{1,12})")
_PROMPT = re.compile(r"prompt (\d{1,9})/(\d{1,9}):")
_EXCEPTION = re.compile(
    r"^(?:(?:[A-Za-z_]\w*\.)*\w*(?:Error|Exception|Invalid|Interrupt|Timeout|BadZipFile|StopIteration)"
    r"|[A-Za-z_]\w*\.(?:error|gaierror|timeout)|(?:torch|triton)\.\w+(?:\.\w+)*\.[A-Z]\w*)(?::|$)"
)
_FRAME = re.compile(r"^([ \t]{0,20}File \"[^\"\n]{1,500}\", line \d{1,9}.{0,500})\n[ \t]{1,200}\S.*$", re.MULTILINE)
_IGNORED = re.compile(
    r"^Exception ignored .{0,500}\n(?:Traceback.{0,100}\n(?:[ \t].{0,500}\n){0,100})?.{0,500}$", re.MULTILINE
)
"""What Python writes about an object's end, mostly of a data loader whose training has failed."""
_RICH = re.compile(r"(?:\d{4}-\d\d-\d\d \d\d:\d\d:\d\d )?(?:INFO|WARNING|ERROR) (.*?)(?: \w+\.py:\d+)?")
_ADDED = re.compile(r"\x1b\[[0-9;]*[A-Za-z]|^\[rank\d\]: ?", re.MULTILINE)
"""Colours, and what torch writes before each line of a traceback."""
_BOX = "╭│╰┌└"
"""Characters that begin the lines of rich's tracebacks, which quote the source around each frame."""
_REASON_LENGTH = 300
_GPU_FULL = re.compile(
    r"total capacity of (?P<total>[\d.]{1,9}) GiB of which (?P<free>[\d.]{1,9}) (?P<unit>GiB|MiB|KiB|bytes) is free"
    r"(?!.{0,500} allowed;)"  # a limit below the GPU's size
)
_IN_GIB = {"GiB": 1, "MiB": 1024, "KiB": 1024**2, "bytes": 1024**3}

_MESSAGES = tomllib.loads(Path(__file__).with_name("failures.toml").read_text(encoding="utf-8"))
_FULL = "oom_if_gpu_full"
_IN_ERRORS = (Failure.STORAGE, Failure.NETWORK)
_CAUSES = {Failure(cause): re.compile("|".join(found)) for cause, found in _MESSAGES.items() if cause != _FULL}
_OOM_IF_FULL = re.compile("|".join([*_MESSAGES["oom"], *_MESSAGES[_FULL]]))
_WARNING = re.compile(r"\bWARNING\b|Warning: |^\[?W\d|^\[W |^wandb: ")
_OF_LAUNCHER = re.compile("CalledProcessError|ChildFailedError")
_CHAINED = re.compile(r"During handling of the above exception|the direct cause of the following exception")
_OF_ARGUMENTS = re.compile(
    r"(?:[\w.]+\.)?(?:Assertion|Attribute|Index|Key|Name|NotImplemented|Pickling|Recursion|Syntax|Type|UnboundLocal|Value"
    r"|ZeroDivision|\w*Decode)Error"
)
"""Python errors that mean, before the first step, that the arguments did not fit together."""
_NO_PROGRAM = (2, 126, 127)
"""Exit codes of Python with wrong arguments, and of a shell that cannot execute or find the program."""
_QUOTED = 3
"""Lines of an unknown failure without an error message that are quoted."""
_SIGNALS = {
    "SIGKILL": Failure.HOST_OOM,  # sent by the kernel; orchestrate records its own kills separately
    **dict.fromkeys(("SIGINT", "SIGTERM", "SIGHUP"), Failure.KILLED),
}
"""The cause that a signal implies; any other signal is a crash."""


def read_progress(text: str) -> Progress | None:
    """The last progress bar of a training. `loss` is NaN if the bar shows NaN; rates have three digits."""
    bar = _last(_BAR, text)
    if bar is None:
        return None
    return Progress(
        step=int(bar["step"]),
        total=int(bar["total"]),
        seconds_per_step=_seconds_per_step(bar["rate"], bar["unit"]),
        loss=_number(bar["loss"]),
    )


def seconds_per_later_step(text: str) -> float | None:
    """Seconds per step after the first one, which may compile; None with fewer than two steps.

    The rate of a bar is the mean since the start.
    """
    bars = [(int(bar["step"]), _seconds_per_step(bar["rate"], bar["unit"])) for bar in _BAR.finditer(text)]
    ends = [(step, step * mean) for step, mean in bars if step and mean]
    if not ends or ends[0][0] == ends[-1][0]:
        return None
    (first, began), (last, ended) = ends[0], ends[-1]
    return (ended - began) / (last - first)


def read_losses(text: str) -> dict[int, float]:
    """Step -> average loss of every progress bar of a training."""
    bars = ((int(bar["step"]), _number(bar["loss"])) for bar in _BAR.finditer(text))
    return {step: loss for step, loss in bars if loss is not None and math.isfinite(loss)}


def read_images(text: str) -> Progress | None:
    """How many prompts gen_img.py has started, of how many."""
    line = _last(_PROMPT, text)
    return Progress(step=int(line[1]), total=int(line[2])) if line else None


def total_steps(text: str) -> int | None:
    """The optimizer steps that a training printed at its start; None if that part of the log is missing."""
    line = _last(_TOTAL, text)
    return int(line[1]) if line else None


def _last(pattern: re.Pattern[str], text: str) -> re.Match[str] | None:
    match = None
    for match in pattern.finditer(text):  # noqa: B007 (only the last one counts)
        pass
    return match


def _seconds_per_step(rate: str, unit: str) -> float | None:
    value = _number(rate)
    if not value:
        return None
    return value if unit == "s/it" else 1 / value


def _number(text: str | None) -> float | None:
    try:
        return float(text) if text is not None else None
    except ValueError:
        return None


def shorten(reason: str) -> str:
    """The reason of a failure; of torch's out-of-memory only the use of the GPU: `out of memory at 23.4 of 24 GiB`."""
    full = _GPU_FULL.search(reason)
    if full is None:
        return reason
    total = float(full["total"])
    used = total - float(full["free"]) / _IN_GIB[full["unit"]]
    others = re.findall(r"Process \d{1,9} has [\d.]{1,9} \w{3} memory in use", reason)
    _, trying, following = reason.partition("; trying")
    return "; ".join([f"out of memory at {used:.1f} of {total:.0f} GiB", *others]) + trying + following


# --- why it ended -----------------------------------------------------------------------------------------------------


def classify(text: str, exit_code: int | None, *, gpu_full: bool = False) -> tuple[Failure, str] | None:
    """The cause of a failure and one line that explains it; None if the process exited with 0 and the log is clean.

    `exit_code` is minus the signal for a killed process, None if its end was not observed. An exit code of 0 still
    needs verification: sd-scripts also exits with 0 without data. accelerate's launcher turns every exit code into 1,
    so the text takes precedence over the code. `gpu_full`: its memory was full, which explains errors of cuDNN.
    """
    if exit_code == 0:
        return _quiet_failure("\n".join(_lines(text)))
    lines = _lines(text[_first_step(text) :])
    killed = _by_signal("\n".join(lines), exit_code)
    if killed and killed[0] is not Failure.CRASHED:
        return killed
    return _by_message(lines, gpu_full=gpu_full) or killed or _by_loss(text) or _by_shape(lines, text, exit_code)


def _first_step(text: str) -> int:
    """Where the first completed step or the first prompt is logged: what precedes it explains no later failure."""
    bars = (bar.start() for bar in _BAR.finditer(text) if int(bar["step"]) > 0)
    prompt = _PROMPT.search(text)
    return next(bars, prompt.start() if prompt else 0)


def _by_message(lines: list[str], *, gpu_full: bool) -> tuple[Failure, str] | None:
    """By the last known message, unless a later error that has another cause follows it."""
    causes = {**_CAUSES, Failure.OOM: _OOM_IF_FULL} if gpu_full else _CAUSES
    for index in reversed(range(len(lines))):
        line, is_error = lines[index], _is_error(lines[index])
        failure = next(
            (cause for cause, found in causes.items() if (is_error or cause not in _IN_ERRORS) and found.search(line)),
            None,
        )
        if failure is not None:
            later = lines[index + 1 :]
            is_last = not any(map(_is_error, later))
            explains_later = not _WARNING.search(line) and (not is_error or any(map(_CHAINED.search, later)))
            return (failure, _reason(lines, index)) if is_last or explains_later else None
    return None


def _is_error(line: str) -> bool:
    return bool(_EXCEPTION.match(line)) and not _OF_LAUNCHER.search(line)


def _reason(lines: list[str], index: int) -> str:
    """The message at a line; an error whose first line has no text goes on in the next one."""
    head = _message(lines[index])
    more = lines[index + 1] if head.endswith(":") and index + 1 < len(lines) and "%|" not in lines[index + 1] else ""
    return _message(f"{head} {more}".strip())


def _quiet_failure(whole: str) -> tuple[Failure, str] | None:
    """With an empty dataset, sd-scripts returns before the first step, without an error and without a file."""
    if nan := _by_loss(whole):
        return nan
    progress = read_progress(whole)
    is_empty = "No data found" in whole and not (progress and progress.step)  # later, a caption quotes it
    return (Failure.DATASET, "No data found: the dataset has no images") if is_empty else None


def _by_signal(whole: str, exit_code: int | None) -> tuple[Failure, str] | None:
    """By the signal that killed the process or, as accelerate reports it, the trainer that it launched."""
    if exit_code is None:
        return Failure.CRASHED, "the process ended without an exit code"
    reported = re.search(r"(?:died with <Signals\.|Signal \d+ \()(SIG\w+)", whole)
    status = re.search(r"exitcode: (-\d{1,2})\b|non-zero exit status (1[2-5]\d)\.", whole)
    code = int(status[1] or status[2]) if status else exit_code
    number = -code if code < 0 else code - 128
    name = reported[1] if reported else signal.Signals(number).name if number in set(signal.Signals) else None
    return (_SIGNALS.get(name, Failure.CRASHED), f"killed by {name}") if name else None


def _by_loss(text: str) -> tuple[Failure, str] | None:
    progress = read_progress(text)
    if progress is None or progress.loss is None or math.isfinite(progress.loss):
        return None
    return Failure.NAN, f"the loss is {progress.loss} at step {progress.step}"


def _by_shape(lines: list[str], text: str, exit_code: int | None) -> tuple[Failure, str]:
    """A Python error before the first step means that the arguments did not fit together; else the last lines."""
    errors = [index for index, line in enumerate(lines) if _is_error(line)]
    messages = [_message(line) for line in lines if "%|" not in line][-_QUOTED:]
    quoted = f"; its last lines: {' | '.join(messages)}" if messages else ""
    reason = _reason(lines, errors[-1]) if errors else f"exit code {exit_code}{quoted}"[:_REASON_LENGTH]
    progress = read_progress(text)
    started = progress is not None and progress.step > 0
    if exit_code in _NO_PROGRAM or (not started and _OF_ARGUMENTS.match(reason)):
        return Failure.BAD_CONFIG, reason
    return Failure.UNKNOWN, reason


def _lines(text: str) -> list[str]:
    """The lines of the log and its progress bars, without colours, rich's padding and quoted source lines."""
    plain = _FRAME.sub(r"\1", _IGNORED.sub("", _ADDED.sub("", text).replace("\r", "\n")))
    lines = (" ".join(line.split()) for line in plain.split("\n"))
    return [line for line in lines if line and line[0] not in _BOX]


def _message(line: str) -> str:
    """The line's English text, without rich's time, level and source."""
    match = _RICH.fullmatch(line)
    english = re.split(r" / (?=[^/]{0,300}[\u3040-\u9fff])", match[1] if match else line)[0]
    return english[:_REASON_LENGTH]
