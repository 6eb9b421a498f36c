"""Facts -> report.html: one file that opens from disk, needs no network, and is right in the middle of a sweep, too."""

import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

import orchestrator
from orchestrator import files, text
from orchestrator.evidence.calibration.record import CalibrationRecord
from orchestrator.evidence.summary import RunSummary, SweepSummary, log_of
from orchestrator.model import State
from orchestrator.report.answers.answer import Answer
from orchestrator.report.html import csp, figures, image_sheets
from orchestrator.report.html import rows as contents
from orchestrator.store import outcome
from orchestrator.store.layout import Sweep

PAGE = "report.html"
_TEMPLATE = "report.html.j2"
_HEAD_BYTES = 1024
_TEMPLATES = Path(__file__).with_name("templates")


def write(summary: SweepSummary, told: Sequence[Answer] = (), environ: Mapping[str, str] = os.environ) -> Path:
    """(Re)write the page of a sweep, unless it says all of this already. Returns its path.

    told: the answers to the grid's questions; environ: of the trainer, whose secrets are redacted.
    """
    sweep, found, kept = summary.sweep, summary.runs, summary.calibration
    path = sweep.report / PAGE
    mark = _mark(found, told, kept)
    if mark.encode() in _head(path):
        return path
    sweep.report.mkdir(parents=True, exist_ok=True)
    files.write_text(path, _html(sweep, found, told, kept, environ, mark))
    return path


def _mark(found: Sequence[RunSummary], told: Sequence[Answer], kept: CalibrationRecord | None) -> str:
    """A digest of all that the page is made from."""
    digest = hashlib.sha256(orchestrator.__version__.encode())
    for path in sorted(_TEMPLATES.glob("report.*")):
        digest.update(path.read_bytes())
    digest.update(repr((found, told, kept)).encode())
    for one in found:
        log = log_of(one.run)
        if one.status.state is State.RUNNING and log:
            digest.update(outcome.tail(log, 256).encode())
    return digest.hexdigest()


def _head(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(_HEAD_BYTES)
    except FileNotFoundError:
        return b""


def _html(
    sweep: Sweep,
    found: Sequence[RunSummary],
    told: Sequence[Answer],
    kept: CalibrationRecord | None,
    environ: Mapping[str, str],
    mark: str,
) -> str:
    folder = _TEMPLATES
    environment = Environment(
        loader=FileSystemLoader(folder),
        undefined=StrictUndefined,
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    rows = [contents.row(one, kept, environ) for one in found]
    style, script = ((folder / name).read_text(encoding="utf-8") for name in ("report.css", "report.js"))
    return environment.get_template(_TEMPLATE).render(
        name=sweep.name,
        mark=mark,
        now=text.now(),
        version=orchestrator.__version__,
        policy=csp.policy(style, script),
        style=csp.trusted(style),
        script=csp.trusted(script),
        told=told,
        missing=contents.missing(found, kept),
        doubt=contents.DOUBT,
        caveats=kept.caveats if kept else (),
        dims=contents.dims(found),
        rows=rows,
        columns=contents.columns(rows),
        figures=figures.figures(found, kept),
        sheets=image_sheets.sheets(found),
        origin=contents.origin(sweep),
    )
