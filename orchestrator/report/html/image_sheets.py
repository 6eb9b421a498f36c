"""Contact sheets: the images of one prompt, same seeds for every run."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from orchestrator.evidence.summary import RunSummary
from orchestrator.model import FaceStatus, Image, Score
from orchestrator.scoring import thumbnails
from orchestrator.store import layout

_MOST_CHARS = 15 * 1000**2
"""Of all thumbnails of a page: 200 runs with 64 images each stay below 20 MB."""

_GROWTH = 1.3
"""The size of a thumbnail grows at least with this power of its side."""

Picture: TypeAlias = tuple[str, str, str]
"""(file relative to the run's folder, WebP in base64, similarity or a word)."""
Pictures: TypeAlias = Sequence[tuple[Image, str]]
"""Images with similarity or a word."""
Thumbnails: TypeAlias = dict[str, dict[str, str]]
"""Run id -> file -> WebP in base64."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sheet:
    """One prompt. runs: run id -> seed -> image; seeds are text, as JSON keys."""

    prompt: int
    text: str
    seeds: tuple[int, ...]
    runs: dict[str, dict[str, Picture]]


def sheets(found: Sequence[RunSummary]) -> list[Sheet]:
    """A sheet per prompt with images; each run shows its selected checkpoint and strength."""
    shown = {one.run.point.id: _shown(one) for one in found}
    small = _fitting(found, shown)
    prompts = {image.prompt: image.text for pictures in shown.values() for image, _ in pictures}
    return [_sheet(prompt, text, shown, small) for prompt, text in sorted(prompts.items())]


def _fitting(found: Sequence[RunSummary], shown: Mapping[str, Pictures]) -> Thumbnails:
    """The largest thumbnails that fit into the page, by run and file."""
    small, px, length = {}, 0, 0
    for smaller in thumbnails.SIDES:
        if length * (smaller / max(px, 1)) ** _GROWTH > _MOST_CHARS and smaller != thumbnails.SIDES[-1]:
            continue  # too large as well
        small, px = _thumbnails(found, shown, smaller), smaller
        length = sum(len(text) for texts in small.values() for text in texts.values())
        if length <= _MOST_CHARS:
            break
    return small


def _thumbnails(found: Sequence[RunSummary], shown: Mapping[str, Pictures], px: int) -> Thumbnails:
    return {
        one.run.point.id: thumbnails.thumbnails(
            one.run.path, [image.file for image, _ in pictures], layout.thumbnails(one.run.path), px
        )
        for one in found
        if (pictures := shown[one.run.point.id])
    }


def _shown(one: RunSummary) -> list[tuple[Image, str]]:
    """The images of a run's selected checkpoint; before it is scored, those of the last one."""
    if one.choice:
        return [
            (score.image, _word(score))
            for score in one.scores
            if (score.image.checkpoint, score.image.strength) == (one.choice.checkpoint, one.choice.strength)
        ]
    pictures = one.run.pictures() if one.run.done("generate") else ()
    last = [image for image in pictures if image.checkpoint == pictures[-1].checkpoint]
    return [(image, "not scored") for image in last if image.strength == last[-1].strength]


def _word(score: Score) -> str:
    if score.similarity is not None:
        return f"{score.similarity:.2f}"
    return "no face" if score.status is FaceStatus.NO_FACE else score.status.value


def _sheet(prompt: int, text: str, shown: Mapping[str, Pictures], small: Thumbnails) -> Sheet:
    runs = {
        identity: {
            str(image.seed): (image.file, small[identity].get(image.file, ""), word)
            for image, word in pictures
            if image.prompt == prompt
        }
        for identity, pictures in shown.items()
    }
    seeds = sorted({int(seed) for cells in runs.values() for seed in cells})
    return Sheet(
        prompt=prompt, text=text, seeds=tuple(seeds), runs={key: cells for key, cells in runs.items() if cells}
    )
