"""What the text of a trainer's or generator's log says: how far it is, how long it will be, why it ended.

Pure functions of text, fit for the tail of a log of any size.
"""

import math
import re
import signal

from orchestrator.kohya.outputs.failures import BY_SIGNAL, PATTERNS
from orchestrator.model import Failure, Progress

# Every repetition is bounded: a log may be one endless line, and it is read every second.
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


def read_progress(text: str) -> Progress | None:
    """The last progress bar of a training. `loss` is NaN when the bar says so; rates have three digits."""
    bar = _last(_BAR, text)
    if bar is None:
        return None
    return Progress(
        step=int(bar["step"]),
        total=int(bar["total"]),
        seconds_per_step=_seconds_per_step(bar["rate"], bar["unit"]),
        loss=_number(bar["loss"]),
    )


def read_pictures(text: str) -> Progress | None:
    """How many prompts gen_img.py has begun, of how many."""
    line = _last(_PROMPT, text)
    return Progress(step=int(line[1]), total=int(line[2])) if line else None


def total_steps(text: str) -> int | None:
    """The optimizer steps that a training announced at its start; None where that part of the log is missing."""
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
    """Why a child failed, in a word and in a line; None when it ended well and its log holds nothing against it.

    `exit_code` is minus the signal for a child that was killed, None when nobody saw its end. A training that ends well
    has still to be proven: sd-scripts exits 0 without data, too. accelerate's launcher turns every exit code into 1,
    which is why the text decides before the code does.
    """
    lines = _lines(text)
    whole = "\n".join(lines)
    if exit_code == 0:
        return _quiet_failure(whole)
    for failure, pattern in PATTERNS:
        if match := pattern.search(whole):
            return failure, _message(_line_at(whole, match.start()))
    return _by_signal(whole, exit_code) or _by_loss(text) or _by_shape(lines, text, exit_code)


def _quiet_failure(whole: str) -> tuple[Failure, str] | None:
    """sd-scripts returns without an error, and without a file, when the dataset is empty."""
    if "No data found" in whole:
        return Failure.DATASET, "No data found: the dataset has no pictures"
    return _by_loss(whole)


def _by_signal(whole: str, exit_code: int | None) -> tuple[Failure, str] | None:
    """By the signal that killed the child, or, as accelerate tells it, the child of the child."""
    if exit_code is None:
        return Failure.CRASHED, "it vanished: nobody saw its end"
    told = re.search(r"died with <Signals\.(SIG\w+): \d+>", whole)
    name = told[1] if told else _signal(-exit_code if exit_code < 0 else exit_code - 128)
    return (BY_SIGNAL.get(name, Failure.CRASHED), f"killed by {name}") if name else None


def _signal(number: int) -> str | None:
    return signal.Signals(number).name if number in set(signal.Signals) else None


def _by_loss(text: str) -> tuple[Failure, str] | None:
    progress = read_progress(text)
    if progress is None or progress.loss is None or math.isfinite(progress.loss):
        return None
    return Failure.NAN, f"the loss is {progress.loss} at step {progress.step}"


def _by_shape(lines: list[str], text: str, exit_code: int | None) -> tuple[Failure, str]:
    """An error of Python's before the first step means that the arguments did not fit together."""
    exceptions = [line for line in lines if _EXCEPTION.match(line) and "CalledProcessError" not in line]
    spoken = [line for line in lines if "%|" not in line]
    told = f"; its last line: {spoken[-1]}" if spoken else ""
    reason = _message(exceptions[-1] if exceptions else f"exit code {exit_code}{told}")
    progress = read_progress(text)
    began = progress is not None and progress.step > 0
    if exit_code == 2 or (not began and re.match(r"(Assertion|Attribute|Key|Type|Value)Error", reason)):
        return Failure.BAD_CONFIG, reason
    return Failure.UNKNOWN, reason


def _lines(text: str) -> list[str]:
    """The log's lines, progress bars apart, without colours, rich's padding, and the source that tracebacks quote."""
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
