"""What the page says in words and tables: plain values for its template, with nothing left to compute there."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.evidence import summary
from orchestrator.evidence.calibration.record import CalibrationRecord
from orchestrator.evidence.summary import AttemptSummary, RunSummary
from orchestrator.model import Params, State, Value
from orchestrator.report.html import stage_times
from orchestrator.store import outcome
from orchestrator.store.layout import Run, Sweep
from orchestrator.text import redact
from orchestrator.values import from_json, toml_repr

DOUBT = "*"
"""Stands behind a number whose calibration is to be taken with care."""

_LOG_BYTES, _LOG_LINES, _LINE_CHARS = 6000, 24, 240
_CONTROLS = re.compile(r"\x1b\[[0-9;]*[A-Za-z]|[\x00-\x09\x0b\x0c\x0e-\x1f\x7f]")


@dataclass(frozen=True, slots=True, kw_only=True)
class TableCell:
    """A number as it is read and as it sorts; `sort` None is not known."""

    text: str
    sort: float | str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Override:
    """What an attempt trained with against what was asked."""

    key: str
    asked: str
    used: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRow:
    """One run: its line in the table, and what opens below it. `files`: name -> text of what it was started with.

    copying: its faces are nearer to training pictures than the persona's own photos are to each other.
    """

    id: str
    name: str
    folder: str
    is_baseline: bool
    state: str
    stage: str
    failure: str
    reason: str
    degraded: bool
    copying: bool
    fallbacks: tuple[str, ...]
    changes: tuple[Override, ...]
    dims: dict[str, TableCell]
    numbers: dict[str, TableCell]
    params: dict[str, str]
    attempts: tuple[str, ...]
    files: dict[str, str]
    log: str

    @property
    def used(self) -> dict[str, str]:
        """The arguments that were conceded, as they were used."""
        return {change.key: change.used.strip('"') for change in self.changes}


def dims(found: Sequence[RunSummary]) -> list[str]:
    """What the grid varied, in its order."""
    return list(dict.fromkeys(dim for one in found for dim in one.run.point.dims))


def missing(found: Sequence[RunSummary], kept: CalibrationRecord | None) -> list[str]:
    """What a reader must not take for known; empty when everything is there."""
    sentences = (_unfinished(found), _stopped(found), _unscored(found), _conceded(found), _uncalibrated(kept))
    return [sentence for sentence in sentences if sentence]


def _unfinished(found: Sequence[RunSummary]) -> str:
    over = (State.FINISHED, State.STOPPED)
    counts = Counter(one.status.state for one in found if one.status.state not in over)
    if not counts:
        return ""
    each = ", ".join(f"{count} {state}" for state, count in counts.items())
    return f"{counts.total()} of {len(found)} runs are not finished ({each}): every number here is of the others."


def _stopped(found: Sequence[RunSummary]) -> str:
    count = sum(one.status.state is State.STOPPED for one in found)
    if not count:
        return ""
    subject = "1 run was" if count == 1 else f"{count} runs were"
    return (
        f"{subject} stopped early as hopeless: figures of their levels are of the better runs alone, answers are not."
    )


def _unscored(found: Sequence[RunSummary]) -> str:
    floors = [one for one in found if one.run.point.is_baseline]
    if any(one.metrics for one in floors):
        return ""
    return "No base model has been scored without a LoRA yet, so no gain is known."


def _conceded(found: Sequence[RunSummary]) -> str:
    count = sum(one.degraded for one in found)
    if not count:
        return ""
    subject = "1 run was" if count == 1 else f"{count} runs were"
    return f"{subject} degraded: memory ran out, and other settings than asked made the result. No answer counts them."


def _uncalibrated(kept: CalibrationRecord | None) -> str:
    if kept is None:
        return "No calibration fits this sweep, so nothing says which score is good enough: `orchestrate calibrate`."
    return f"The calibration is to be taken with care ({'; '.join(kept.caveats)})." if kept.caveats else ""


def row(one: RunSummary, kept: CalibrationRecord | None, environ: Mapping[str, str]) -> RunRow:
    """One run as the page shows it; what is read against a doubtful yardstick bears a mark.

    environ: what programs were given, whose secrets are not repeated.
    """
    point, trained = one.run.point, one.trained or (one.training[-1] if one.training else None)
    return RunRow(
        id=point.id,
        name=point.name,
        folder=one.run.path.name,
        is_baseline=point.is_baseline,
        state=one.status.state.value,
        stage=one.status.stage,
        failure=one.status.failure.value if one.status.failure else "",
        reason=one.status.reason,
        degraded=one.degraded,
        copying=bool(one.metrics and one.metrics.copying),
        fallbacks=trained.fallbacks if trained else (),
        changes=tuple(_changes(point.params, trained)),
        dims={dim: _level(point.params.get(dim)) for dim in point.dims},
        numbers=_numbers(one, mark=DOUBT if kept and kept.caveats else ""),
        params={key: toml_repr(value) for key, value in point.params.items()},
        attempts=tuple(_attempt(attempt) for attempt in one.training),
        files=_files(one.run),
        log=_log(one.run, environ),
    )


def columns(rows: Sequence[RunRow]) -> list[str]:
    """The numbers that are known of any run: a column without one says nothing."""
    names = rows[0].numbers if rows else ()
    return [name for name in names if any(row.numbers[name].sort is not None for row in rows)]


def _changes(params: Params, trained: AttemptSummary | None) -> Iterator[Override]:
    for key, value in (trained.overrides if trained else {}).items():
        asked = toml_repr(params[key]) if key in params else "sd-scripts' default"
        yield Override(key=key, asked=asked, used=toml_repr(from_json(value)))


def _level(value: Value | None) -> TableCell:
    if value is None:
        return TableCell(text="", sort=None)
    text = value if isinstance(value, str) else toml_repr(value)
    return TableCell(text=text, sort=value if isinstance(value, (int, float)) and not isinstance(value, bool) else text)


def _numbers(one: RunSummary, mark: str) -> dict[str, TableCell]:
    """By column of the table; `mark` stands behind what is read against the yardstick."""
    numbers, chosen = one.metrics, one.choice
    result = one.trained.result if one.trained else None
    return {
        "similarity": _number(numbers.similarity_median if numbers else None, "{:.3f}"),
        "gain": _number(one.gain, "{:+.3f}"),
        "confirmed_similarity": _number(one.confirmation.comparison.confirmed if one.confirmation else None, "{:.3f}"),
        "no face": _number(numbers.no_face_rate if numbers else None, "{:.0%}"),
        "passing": _number(numbers.pass_rate if numbers else None, f"{{:.0%}}{mark}"),
        "pictures": _number(numbers.images if numbers else None, "{:d}"),
        "checkpoint": _level(Path(chosen.checkpoint).stem if chosen and chosen.checkpoint else None),
        "strength": _number(chosen.strength if chosen and chosen.checkpoint else None, "{:g}"),
        "VRAM": _number(result.peak_vram_mib / 1024 if result and result.peak_vram_mib else None, "{:.1f} GiB"),
        "s/step": _number(result.seconds_per_step if result else None, "{:.2f}"),
        "hours": _number(sum(stage_times.seconds(one.run).values()) / 3600 or None, "{:.2f}"),
    }


def _number(value: float | None, form: str) -> TableCell:
    return TableCell(text="" if value is None else form.format(value), sort=value)


def _attempt(attempt: AttemptSummary) -> str:
    result = attempt.result
    end = "delivered" if result.failure is None else f"{result.failure}: {result.reason}"
    conceding = f", conceding {', '.join(attempt.fallbacks)}" if attempt.fallbacks else ""
    return f"attempt {attempt.number}{conceding}: {end} ({result.seconds:.0f} s)"


def _files(run: Run) -> dict[str, str]:
    """The TOML that the last attempt to train was started with."""
    attempts = run.attempts("train")
    if not attempts:
        return {}
    paths = (attempts[-1].path / name for name in ("config.toml", "dataset.toml"))
    return {path.name: path.read_text(encoding="utf-8", errors="replace") for path in paths if path.exists()}


def _log(run: Run, environ: Mapping[str, str]) -> str:
    """The end of the last log, of each progress bar its last state, without colours and secrets."""
    path = summary.log_of(run)
    if path is None:
        return ""
    text = redact(outcome.tail(path, _LOG_BYTES), environ).replace("\r\n", "\n")
    lines = [line.rsplit("\r", 1)[-1] for line in text.split("\n")]
    return "\n".join(_CONTROLS.sub("", line)[:_LINE_CHARS] for line in lines[-_LOG_LINES:]).strip()


def origin(sweep: Sweep) -> dict[str, Any]:
    """How the sweep was made, as it was frozen."""
    record = sweep.record()
    return {
        "created_at": record.get("created_at", ""),
        "fingerprint": record["fingerprint"],
        "versions": record.get("versions", {}),
        "grids": {path.name: path.read_text(encoding="utf-8") for path in sweep.grids()},
        "templates": sorted(path.name for path in sweep.templates.glob("*")),
    }
