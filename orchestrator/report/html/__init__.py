"""Sweep summary -> report.html: one file without external resources, also for a sweep that is still running."""

import base64
import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

import orchestrator
from orchestrator import files, text
from orchestrator.evidence import configurations, votes
from orchestrator.evidence.side_effects import BETTER
from orchestrator.evidence.summary import SweepSummary, log_of
from orchestrator.model import State
from orchestrator.report import overview
from orchestrator.report import votes as vote_report
from orchestrator.report.answers.answer import Answer
from orchestrator.report.html import figures, first_screen, image_matrix, rows
from orchestrator.store import outcome

PAGE = "report.html"
_HEAD_BYTES = 1024
_TEMPLATES = Path(__file__).with_name("templates")


def write(summary: SweepSummary, answers: Sequence[Answer] = (), environ: Mapping[str, str] = os.environ) -> Path:
    """(Re)write the page of a sweep unless nothing has changed. Returns its path.

    environ: of child processes; the secrets in it are redacted.
    """
    path = summary.sweep.report / PAGE
    if not is_current(summary, answers):
        path.parent.mkdir(parents=True, exist_ok=True)
        files.write_text(path, _html(summary, answers, environ, _digest(summary, answers)))
    return path


def is_current(summary: SweepSummary, answers: Sequence[Answer]) -> bool:
    """Whether there is a page that shows this."""
    path = summary.sweep.report / PAGE
    return path.exists() and _digest(summary, answers).encode() in path.open("rb").read(_HEAD_BYTES)


def _digest(summary: SweepSummary, answers: Sequence[Answer]) -> str:
    """A hash of everything that the page shows; it is written into the page's head."""
    digest = hashlib.sha256(orchestrator.__version__.encode())
    for path in sorted(_TEMPLATES.glob("report.*")):
        digest.update(path.read_bytes())
    digest.update(repr((summary, answers)).encode())
    for one in summary.runs:
        log = log_of(one.run)
        if one.status.state is State.RUNNING and log:
            digest.update(outcome.tail(log, 256).encode())
    return digest.hexdigest()


def _html(summary: SweepSummary, answers: Sequence[Answer], environ: Mapping[str, str], digest: str) -> str:
    runs, calibration = summary.runs, summary.calibration
    table, ranked = rows.table(summary, environ), configurations.group(runs)
    matrix = image_matrix.matrix(summary)
    heads, images = image_matrix.for_page(matrix)
    style, script = (asset(f"report.{ending}") for ending in ("css", "js"))
    return (
        environment()
        .get_template("report.html.j2")
        .render(
            name=summary.sweep.name,
            mark=digest,
            now=text.now(),
            version=orchestrator.__version__,
            policy=policy(style, script),
            style=Markup(style),  # noqa: S704 (a file of this package)
            script=Markup(script),  # noqa: S704
            cards=[first_screen.card(one) for one in answers],
            winner=overview.best(ranked),
            ranking=first_screen.ranking(ranked),
            effects=[name for name in BETTER if any(one.side_effect(name) is not None for one in ranked)],
            votes=vote_report.sentences(votes.evaluate(summary)),
            missing=[
                *rows.missing(runs, calibration),
                *(f"{one.text}. Remedy: {one.remedy}." for one in overview.failures(summary)),
            ],
            trainings=text.pluralize(sum(run.run.point.is_trained for run in runs), "training"),
            doubt=rows.DOUBT,
            caveats=calibration.caveats if calibration else (),
            dims=rows.dims(runs),
            rows=table,
            columns=rows.columns(table),
            extra=rows.EXTRA,
            figures=figures.figures(runs, calibration),
            matrix={"rows": heads, "prompts": matrix.prompts, "columns": matrix.columns},
            images=images,
            reference=image_matrix.reference_thumbnail(summary),
            origin=rows.origin(summary.sweep),
        )
    )


def environment() -> Environment:
    """The templates of pages; values are escaped."""
    return Environment(
        loader=FileSystemLoader(_TEMPLATES),
        undefined=StrictUndefined,
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def asset(name: str) -> str:
    """The text of a style sheet or script of a page."""
    return (_TEMPLATES / name).read_text(encoding="utf-8")


def policy(style: str, script: str, images: str = "data: 'self' file:") -> str:
    """A Content-Security-Policy that allows this style sheet, this script and images from `images`, and nothing else.

    images: by default embedded ones and those of the sweep.
    """
    hashes = (base64.b64encode(hashlib.sha256(one.encode()).digest()).decode() for one in (style, script))
    allowed_style, allowed_script = (f"'sha256-{one}'" for one in hashes)
    return (
        f"default-src 'none'; img-src {images}; style-src {allowed_style}; script-src {allowed_script}; "
        "base-uri 'none'; form-action 'none'"
    )
