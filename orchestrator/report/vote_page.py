"""Writes the page of a ballot: one file with all images, without names, paths or metadata of what it compares."""

from collections.abc import Sequence
from pathlib import Path

from markupsafe import Markup

from orchestrator import files
from orchestrator.errors import NotReady, Problem
from orchestrator.evidence.ballot import MAX_NAME, PAGE, QUESTIONS, Ballot, ShownImage, Trial
from orchestrator.evidence.summary import SweepSummary
from orchestrator.report import html
from orchestrator.report.html import image_matrix
from orchestrator.scoring import thumbnails

_PX, _QUALITY = 640, 85


def write(read: SweepSummary, ballot: Ballot) -> Path:
    """(Re)write the page beside the key of the ballot. Raises NotReady if an image of it is gone or unreadable."""
    photo = image_matrix.reference_photo(read)
    style, script = (html.asset(f"vote.{ending}") for ending in ("css", "js"))
    page = (
        html.environment()
        .get_template("vote.html.j2")
        .render(
            policy=html.policy(style, script, images="data:"),
            style=Markup(style),  # noqa: S704 (a file of this package)
            script=Markup(script),  # noqa: S704
            max_name=MAX_NAME,
            reference=thumbnails.encode(photo, _PX, _QUALITY) if photo else "",
            ballot={"id": ballot.id, "questions": list(QUESTIONS.items()), "trials": _trials(read, ballot.trials)},
        )
    )
    path = read.sweep.votes / ballot.id / PAGE
    files.write_text(path, page)
    return path


def _trials(read: SweepSummary, trials: Sequence[Trial]) -> list[dict[str, object]]:
    """As plain values. Encoding an image again removes its metadata, which name the LoRA."""
    folders = {one.run.point.id: one.run.path for one in read.runs}
    texts = {(one.run.point.id, score.image.file): score.image.text for one in read.runs for score in one.scores}

    def encode(image: ShownImage) -> str:
        folder = folders.get(image.run)
        encoded = thumbnails.encode(folder / image.file, _PX, _QUALITY) if folder else ""
        if not encoded:
            what = f"the image {image.file} of run {image.run} is gone or unreadable"
            remedy = f"delete {read.sweep.votes}/*/{PAGE} and the ballot.json beside it, then repeat the command"
            raise NotReady(Problem(what=what, where=str(read.sweep.path), remedy=remedy))
        return encoded

    return [
        {
            "id": one.id,
            "prompt": prompts.pop() if len(prompts) == 1 else "",  # differing triggers would name a configuration
            "images": [encode(image) for image in images],
        }
        for one in trials
        if (images := [image for image in (one.left, one.right) if image])
        if (prompts := {texts.get((image.run, image.file), "") for image in images})
    ]
