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
_EXCEPTION = re.compile(r"^(?:[A-Za-z_]\w*\.)*[A-Za-z_]\w*(?:Error|Exception|Invalid|Interrupt)(?::|$)")
_FRAME = re.compile(r"^([ \t]{0,20}File \"[^\"\n]{1,500}\", line \d{1,9}.{0,500})\n[ \t]{1,200}\S.*$", re.MULTILINE)
_RICH = re.compile(r"(?:\d{4}-\d\d-\d\d \d\d:\d\d:\d\d )?(?:INFO|WARNING|ERROR) (.*?)(?: \w+\.py:\d+)?")
_ANSI = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
_REASON_LENGTH = 300

_MESSAGES = tomllib.loads(Path(__file__).with_name("failures.toml").read_text(encoding="utf-8"))
_CAUSES = {Failure(cause): re.compile("|".join(patterns)) for cause, patterns in _MESSAGES.items()}
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


# --- why it ended -----------------------------------------------------------------------------------------------------


def classify(text: str, exit_code: int | None) -> tuple[Failure, str] | None:
    """The cause of a failure and one line that explains it; None if the process exited with 0 and the log is clean.

    `exit_code` is minus the signal for a killed process, None if its end was not observed. An exit code of 0 still
    needs verification: sd-scripts also exits with 0 without data. accelerate's launcher turns every exit code into 1,
    so the text takes precedence over the code.
    """
    lines = _lines(text)
    whole = "\n".join(lines)
    if exit_code == 0:
        return _quiet_failure(whole)
    for failure, pattern in _CAUSES.items():
        if match := pattern.search(whole):
            return failure, _message(_line_at(whole, match.start()))
    return _by_signal(whole, exit_code) or _by_loss(text) or _by_shape(lines, text, exit_code)


def _quiet_failure(whole: str) -> tuple[Failure, str] | None:
    """With an empty dataset, sd-scripts returns without an error and without a file."""
    if "No data found" in whole:
        return Failure.DATASET, "No data found: the dataset has no images"
    return _by_loss(whole)


def _by_signal(whole: str, exit_code: int | None) -> tuple[Failure, str] | None:
    """By the signal that killed the process or, as accelerate reports it, the trainer that it launched."""
    if exit_code is None:
        return Failure.CRASHED, "the process ended without an exit code"
    reported = re.search(r"died with <Signals\.(SIG\w+): \d+>", whole)
    number = -exit_code if exit_code < 0 else exit_code - 128
    name = reported[1] if reported else signal.Signals(number).name if number in set(signal.Signals) else None
    return (_SIGNALS.get(name, Failure.CRASHED), f"killed by {name}") if name else None


def _by_loss(text: str) -> tuple[Failure, str] | None:
    progress = read_progress(text)
    if progress is None or progress.loss is None or math.isfinite(progress.loss):
        return None
    return Failure.NAN, f"the loss is {progress.loss} at step {progress.step}"


def _by_shape(lines: list[str], text: str, exit_code: int | None) -> tuple[Failure, str]:
    """A Python error before the first step means that the arguments did not fit together."""
    exceptions = [line for line in lines if _EXCEPTION.match(line) and "CalledProcessError" not in line]
    messages = [line for line in lines if "%|" not in line]
    last = f"; its last line: {messages[-1]}" if messages else ""
    reason = _message(exceptions[-1] if exceptions else f"exit code {exit_code}{last}")
    progress = read_progress(text)
    started = progress is not None and progress.step > 0
    if exit_code == 2 or (not started and re.match(r"(Assertion|Attribute|Key|Type|Value)Error", reason)):
        return Failure.BAD_CONFIG, reason
    return Failure.UNKNOWN, reason


def _lines(text: str) -> list[str]:
    """The lines of the log and its progress bars, without colours, rich's padding and quoted source lines."""
    plain = _FRAME.sub(r"\1", _ANSI.sub("", text).replace("\r", "\n"))
    return [" ".join(line.split()) for line in plain.split("\n") if line.strip()]


def _line_at(whole: str, position: int) -> str:
    end = whole.find("\n", position)
    return whole[whole.rfind("\n", 0, position) + 1 : end if end >= 0 else None]


def _message(line: str) -> str:
    """The line's English text, without rich's time, level and source."""
    match = _RICH.fullmatch(line)
    english = re.split(r" / (?=[^\x00-\x7f])", match[1] if match else line)[0]
    return english[:_REASON_LENGTH]
