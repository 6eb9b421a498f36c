"""The image matrix: configurations as rows, prompts and image seeds as columns, the baseline first."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from orchestrator import scoring
from orchestrator.evidence import configurations
from orchestrator.evidence.run_metrics import image_value
from orchestrator.evidence.stats.pairs import REPLICATE
from orchestrator.evidence.summary import RunSummary, SweepSummary
from orchestrator.model import FaceStatus, Image, Score
from orchestrator.scoring import thumbnails
from orchestrator.store import layout

_MAX_CHARS = 15 * 1000**2
"""Of all thumbnails of a page: 200 runs with 64 images each stay below 20 MB."""
_GROWTH = 1.3
"""The size of a thumbnail grows at least with this power of its side."""
_MAX_VARIANTS = 2000
"""Images of further checkpoints and strengths are left out of the page if there are more than this."""

Cell: TypeAlias = tuple[int, int]
"""(prompt, image seed)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MatrixImage:
    """An image with its value for sorting (-1 without a face, None unscored) and a word or number for its caption."""

    image: Image
    value: float | None
    word: str


@dataclass(frozen=True, slots=True, kw_only=True)
class MatrixRow:
    """The images of one run at one checkpoint and strength.

    configuration: label. place: of the configuration in the ranking; the baseline is first. seed: training seed.
    variant: checkpoint and strength if the run has several. selected: whether it is the selected one.
    """

    run: RunSummary
    configuration: str
    place: int
    seed: str
    variant: str
    selected: bool
    cells: Mapping[Cell, MatrixImage]

    @property
    def id(self) -> str:
        return f"{self.run.run.point.id}{self.variant and '/'}{self.variant}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Matrix:
    """rows: baselines, then configurations, best first. prompts: number -> text. columns: sorted."""

    rows: tuple[MatrixRow, ...]
    prompts: Mapping[int, str]
    columns: tuple[Cell, ...]


def matrix(summary: SweepSummary) -> Matrix:
    """All images of a sweep."""
    ranked = configurations.group(summary.runs)
    ordered = sorted(ranked, key=lambda one: not one.is_baseline)
    rows = [
        row
        for place, one in enumerate(ordered)
        for run in sorted(one.runs, key=lambda run: str(run.run.point.params.get(REPLICATE, "")).zfill(9))
        for row in _rows(run, one.label, place)
    ]
    images = [cell.image for row in rows for cell in row.cells.values()]
    prompts = {image.prompt: image.text for image in images}
    columns = sorted({(image.prompt, image.seed) for image in images})
    return Matrix(rows=tuple(rows), prompts=dict(sorted(prompts.items())), columns=tuple(columns))


def _rows(run: RunSummary, configuration: str, place: int) -> list[MatrixRow]:
    """One row per checkpoint and strength, the selected one first; before scoring, the last checkpoint only."""
    groups: dict[tuple[str, float], dict[Cell, MatrixImage]] = defaultdict(dict)
    if run.scores:
        found = [MatrixImage(image=one.image, value=image_value(one), word=_word(one)) for one in run.scores]
    else:
        generated = run.run.generated_images() if run.run.done("generate") else ()
        found = [MatrixImage(image=image, value=None, word="not scored") for image in generated]
    for one in found:
        groups[one.image.checkpoint, one.image.strength][one.image.prompt, one.image.seed] = one
    last = next(reversed(groups), ("", 0.0))
    selected = (run.choice.checkpoint, run.choice.strength) if run.choice else last
    keys = sorted(groups, key=lambda key: key != selected) if run.scores else [key for key in groups if key == last]
    return [
        MatrixRow(
            run=run,
            configuration=configuration,
            place=place,
            seed=str(run.run.point.params.get(REPLICATE, "")),
            variant=f"{Path(key[0]).stem}, strength {key[1]:g}" if len(keys) > 1 else "",
            selected=key == selected,
            cells=groups[key],
        )
        for key in keys
    ]


def _word(score: Score) -> str:
    if score.similarity is not None:
        return f"{score.similarity:.2f}"
    return "no face" if score.status is FaceStatus.NO_FACE else score.status.value


# --- for the page -----------------------------------------------------------------------------------------------------


def for_page(found: Matrix) -> tuple[list[dict[str, object]], dict[int, dict[str, object]]]:
    """The rows, and prompt -> row id -> seed -> (file, WebP in base64, value, word), as plain values for JSON."""
    variants = sum(len(row.cells) for row in found.rows if not row.selected)
    rows = [row for row in found.rows if row.selected or variants <= _MAX_VARIANTS]
    small = _thumbnails_that_fit(rows)
    heads: list[dict[str, object]] = [
        {
            "id": row.id,
            "run": row.run.run.point.id,
            "name": row.run.run.point.name,
            "folder": row.run.run.path.name,
            "configuration": row.configuration,
            "baseline": row.run.run.point.is_baseline,
            "seed": row.seed,
            "variant": row.variant,
            "selected": row.selected,
        }
        for row in rows
    ]
    by_prompt: dict[int, dict[str, object]] = {
        prompt: {
            row.id: {
                str(seed): (one.image.file, small[row.id].get(one.image.file, ""), one.value, one.word)
                for (of, seed), one in sorted(row.cells.items())
                if of == prompt
            }
            for row in rows
        }
        for prompt in found.prompts
    }
    return heads, by_prompt


def _thumbnails_that_fit(rows: Sequence[MatrixRow]) -> dict[str, dict[str, str]]:
    """Row id -> file -> the largest thumbnail such that all fit into the page."""
    small: dict[str, dict[str, str]] = {}
    px, length = 0, 0
    for smaller in thumbnails.SIDES:
        if length * (smaller / max(px, 1)) ** _GROWTH > _MAX_CHARS and smaller != thumbnails.SIDES[-1]:
            continue  # too large as well
        small, px = {row.id: _thumbnails(row, smaller) for row in rows}, smaller
        length = sum(len(text) for texts in small.values() for text in texts.values())
        if length <= _MAX_CHARS:
            break
    return small


def _thumbnails(row: MatrixRow, px: int) -> dict[str, str]:
    folder = row.run.run.path
    files = [one.image.file for one in row.run.scores] or [one.image.file for one in row.cells.values()]
    wanted = {one.image.file for one in row.cells.values()}
    made = thumbnails.thumbnails(folder, files, layout.thumbnails(folder), px)
    return {file: text for file, text in made.items() if file in wanted}


# --- the reference photo ----------------------------------------------------------------------------------------------


def reference_thumbnail(summary: SweepSummary) -> str:
    """WebP in base64; empty without a reference photo."""
    photo = reference_photo(summary)
    if photo is None:
        return ""
    cache = layout.thumbnails(summary.sweep.path / "references")
    return thumbnails.thumbnails(photo.parent, [photo.name], cache).get(photo.name, "")


def reference_photo(summary: SweepSummary) -> Path | None:
    """The reference photo that is most similar to the others; None before a run is scored, or if it is gone."""
    for one in summary.runs:
        if one.run.done("score"):
            photos = scoring.read_scored(one.run.path / layout.PRODUCTS["score"]).references.leave_one_out
            known = {Path(path): value for path, value in photos.items() if value is not None and Path(path).exists()}
            return max(known, key=lambda path: known[path], default=None)
    return None
