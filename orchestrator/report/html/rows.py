"""Tables and sentences of the page, as plain values for its template."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.evidence import configurations, run_metrics
from orchestrator.evidence.calibration.record import CalibrationRecord
from orchestrator.evidence.side_effects import BETTER
from orchestrator.evidence.summary import AttemptSummary, RunSummary, SweepSummary, log_of
from orchestrator.files import read_bytes
from orchestrator.model import Failure, Params, State, Value
from orchestrator.redaction import redact
from orchestrator.report.labels import labels
from orchestrator.store import layout, outcome
from orchestrator.store.layout import Run, Sweep
from orchestrator.text import duration, pluralize
from orchestrator.values import from_json, in_label, toml_repr

DOUBT = "*"
"""Follows a number that depends on a calibration with caveats."""
LOST = "lost in failed attempts"
EXTRA = (*BETTER, "images", "checkpoint", "strength", "VRAM", "s/step")
"""Columns that the page hides until all are asked for."""

_LOG_BYTES, _LOG_LINES, _LINE_CHARS = 6000, 24, 240
_CONTROLS = re.compile(r"\x1b\[[0-9;]*[A-Za-z]|[\x00-\x09\x0b\x0c\x0e-\x1f\x7f]")


@dataclass(frozen=True, slots=True, kw_only=True)
class TableCell:
    """A cell's text and its sort key; None is unknown."""

    text: str
    sort: float | str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Override:
    """An argument that an attempt changed: requested and used value."""

    key: str
    requested: str
    used: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRow:
    """One run: its table row and its details.

    label: the varied dims and the seed. links: name -> path relative to the report's folder. files: name -> text of the
    trainer's config files.
    """

    id: str
    name: str
    label: str
    folder: str
    is_baseline: bool
    state: str
    failure: str
    reason: str
    degraded: bool
    copying: bool
    changes: tuple[Override, ...]
    dims: dict[str, TableCell]
    numbers: dict[str, TableCell]
    params: dict[str, str]
    attempts: tuple[str, ...]
    links: dict[str, str]
    files: dict[str, str]
    log: str

    @property
    def used(self) -> dict[str, str]:
        """Changed argument -> the value that was used."""
        return {change.key: change.used.strip('"') for change in self.changes}


def dims(runs: Sequence[RunSummary]) -> list[str]:
    """The dims of the grid, in its order."""
    return list(dict.fromkeys(dim for one in runs for dim in one.run.point.dims))


# --- notices ----------------------------------------------------------------------------------------------------------


def missing(runs: Sequence[RunSummary], record: CalibrationRecord | None) -> list[str]:
    """Notices about incomplete or uncertain results; empty if there are none."""
    notices = (_unfinished(runs), _stopped(runs), _without_baseline(runs), _degraded(runs), _uncalibrated(record))
    return [notice for notice in (*notices, *_faces(runs)) if notice]


def _unfinished(runs: Sequence[RunSummary]) -> str:
    counts = Counter(one.status.state for one in runs if one.status.state not in (State.FINISHED, State.STOPPED))
    each = ", ".join(f"{count} {state}" for state, count in counts.items())
    return f"{counts.total()} of {pluralize(len(runs), 'run')} are not finished ({each})." if counts else ""


def _stopped(runs: Sequence[RunSummary]) -> str:
    count = sum(one.status.state is State.STOPPED for one in runs)
    return f"{pluralize(count, 'run')} stopped early. The figures show the other runs only." if count else ""


def _without_baseline(runs: Sequence[RunSummary]) -> str:
    scored = any(one.metrics for one in runs if one.run.point.is_baseline)
    return "" if scored else "No baseline (base model without LoRA) is scored, so the gain is unknown."


def _degraded(runs: Sequence[RunSummary]) -> str:
    count = sum(one.degraded for one in runs)
    notice = "ran out of memory and used other settings than requested. The answers exclude such runs."
    return f"{pluralize(count, 'run')} degraded: the training {notice}" if count else ""


def _faces(runs: Sequence[RunSummary]) -> Iterator[str]:
    scores = [score for one in runs if one.choice for score in one.choice.reported]
    several = [score for score in scores if score.faces > 1]
    if other := sum(score.largest_similarity not in (None, score.similarity) for score in several):
        images = pluralize(len(several), "image")
        yield f"In {other} of {images} with several faces, the scored face (the most similar one) is not the largest."
    if rotated := sum(score.rotation != 0 for score in scores):
        yield f"{pluralize(rotated, 'image')} with a face rotated by 90 degrees or more: see `rotation` in images.csv."


def _uncalibrated(record: CalibrationRecord | None) -> str:
    if record is None:
        return "There is no calibration for this sweep, so the pass threshold is unknown. Run `orchestrate calibrate`."
    return f"The pass threshold is uncertain ({'; '.join(record.caveats)})." if record.caveats else ""


# --- the table --------------------------------------------------------------------------------------------------------


def table(summary: SweepSummary, environ: Mapping[str, str]) -> list[RunRow]:
    """All runs, best first, unscored ones last. environ: of child processes; the secrets in it are redacted."""
    by_label = labels([one.run.point for one in summary.runs])

    def order(one: RunSummary) -> tuple[bool, bool, float]:
        value = configurations.mean_value(one)
        return value is None, one.degraded, -(value or 0.0)

    return [
        _row(one, by_label[one.run.point.id], summary.calibration, environ) for one in sorted(summary.runs, key=order)
    ]


def _row(one: RunSummary, label: str, record: CalibrationRecord | None, environ: Mapping[str, str]) -> RunRow:
    point, trained = one.run.point, one.trained or (one.training[-1] if one.training else None)
    return RunRow(
        id=point.id,
        name=point.name,
        label=label,
        folder=one.run.path.name,
        is_baseline=point.is_baseline,
        state=one.status.state.value,
        failure=one.status.failure.value if one.status.failure else "",
        reason=one.status.reason,
        degraded=one.degraded,
        copying=bool(one.metrics and one.metrics.copying),
        changes=tuple(_changes(point.params, trained)),
        dims={dim: _level(point.params.get(dim)) for dim in point.dims},
        numbers=_numbers(one, mark=DOUBT if record and record.caveats else ""),
        params={key: toml_repr(value) for key, value in point.params.items()},
        attempts=tuple(_attempt(attempt) for attempt in one.training),
        links=_links(one),
        files=_config_files(one.run),
        log=_log(one.run, environ),
    )


def columns(table: Sequence[RunRow]) -> list[str]:
    """The number columns with at least one known value."""
    names = table[0].numbers if table else ()
    return [name for name in names if any(row.numbers[name].sort is not None for row in table)]


def stage_seconds(run: Run) -> dict[str, float]:
    """Stage -> seconds of its successful or early-stopped attempts; LOST -> seconds of all other attempts.

    Images that compare checkpoints count as those of `generate`, their scores as `score`.
    """
    spent: dict[str, float] = {}
    for stage in run.stages:
        for attempt in run.attempts(stage):
            if result := attempt.result():
                part = next((one[-1] for one in (layout.GENERATING, layout.SCORING) if stage in one), stage)
                kind = part if result.failure in (None, Failure.STOPPED_EARLY) else LOST
                spent[kind] = spent.get(kind, 0.0) + result.seconds
    return spent


def _changes(params: Params, trained: AttemptSummary | None) -> Iterator[Override]:
    for key, value in (trained.overrides if trained else {}).items():
        requested = toml_repr(params[key]) if key in params else "sd-scripts' default"
        yield Override(key=key, requested=requested, used=toml_repr(from_json(value)))


def _level(value: Value | None) -> TableCell:
    if value is None:
        return TableCell(text="", sort=None)
    text = in_label(value)
    return TableCell(text=text, sort=value if isinstance(value, (int, float)) and not isinstance(value, bool) else text)


def _numbers(one: RunSummary, mark: str) -> dict[str, TableCell]:
    """Column -> cell; `mark` follows the numbers that depend on the calibration."""
    metrics, selected = one.metrics, one.choice
    result = one.trained.result if one.trained else None
    confirmed = one.confirmation.comparison.confirmed if one.confirmation else None
    seconds = sum(stage_seconds(one.run).values()) or None
    return {
        "similarity": _number(metrics.similarity_median if metrics else None, "{:.3f}"),
        "gain": _number(one.gain, "{:+.3f}"),
        "confirmed": _number(confirmed, "{:.3f}"),
        "no face": _number(metrics.no_face_rate if metrics else None, "{:.0%}"),
        "passing": _number(metrics.pass_rate if metrics else None, f"{{:.0%}}{mark}"),
        **{name: _number(run_metrics.mean(one.side_effects.get(name, {}).values()), "{:.3f}") for name in BETTER},
        "images": _number(metrics.images if metrics else None, "{:d}"),
        "checkpoint": _level(Path(selected.checkpoint).stem if selected and selected.checkpoint else None),
        "strength": _number(selected.strength if selected and selected.checkpoint else None, "{:g}"),
        "VRAM": _number(result.peak_vram_mib / 1024 if result and result.peak_vram_mib else None, "{:.1f} GiB"),
        "s/step": _number(result.seconds_per_step if result else None, "{:.2f}"),
        "time": TableCell(text=duration(seconds) if seconds else "", sort=seconds),
    }


def _number(value: float | None, form: str) -> TableCell:
    return TableCell(text="" if value is None else form.format(value), sort=value)


# --- details of a run -------------------------------------------------------------------------------------------------


def _attempt(attempt: AttemptSummary) -> str:
    result = attempt.result
    end = "completed" if result.failure is None else f"{result.failure}: {result.reason}"
    changed = f" with {', '.join(attempt.fallbacks)}" if attempt.fallbacks else ""
    return f"attempt {attempt.number}{changed}: {end} ({duration(result.seconds)})"


def _links(one: RunSummary) -> dict[str, str]:
    """The folder, the trainer's config, the last log and the selected checkpoint, if they exist."""
    attempts, log = one.run.attempts("train")[-1:], log_of(one.run)
    found = {"folder": one.run.path}
    found |= {"config": attempts[0].path / "config.toml"} if attempts else {}
    found |= {"log": log} if log else {}
    found |= {"checkpoint": one.run.path / one.choice.checkpoint} if one.choice and one.choice.checkpoint else {}
    sweep = one.run.path.parent
    return {name: f"../{path.relative_to(sweep).as_posix()}" for name, path in found.items() if path.exists()}


def _config_files(run: Run) -> dict[str, str]:
    """The trainer's TOML files of the last training attempt; the origin of an existing LoRA file."""
    attempts = run.attempts("train")[-1:]
    paths = [one.path / name for one in attempts for name in ("config.toml", "dataset.toml")]
    paths.append(run.path / layout.LORA_ORIGIN)
    return {path.name: read_bytes(path).decode("utf-8", "replace") for path in paths if path.is_file()}


def _log(run: Run, environ: Mapping[str, str]) -> str:
    """The end of the last log without colours and secrets; of each progress bar, its last state."""
    path = log_of(run)
    end, redacted = outcome.log_end(path, _LOG_BYTES) if path else ("", True)
    text = (end if redacted else redact(end, environ)).replace("\r\n", "\n")
    lines = [line.rsplit("\r", 1)[-1] for line in text.split("\n")]
    return "\n".join(_CONTROLS.sub("", line)[:_LINE_CHARS] for line in lines[-_LOG_LINES:]).strip()


def origin(sweep: Sweep) -> dict[str, Any]:
    """Hashes, versions and grids of the frozen sweep."""
    record = sweep.record()
    return {
        "created_at": record.get("created_at", ""),
        "fingerprint": record["fingerprint"],
        "versions": record.get("versions", {}),
        "grids": {path.name: read_bytes(path).decode("utf-8", "replace") for path in sweep.grids()},
    }
