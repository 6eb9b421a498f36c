"""The first screen of the page: the answers with their intervals and images, and the ranking of configurations."""

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from orchestrator.evidence.configurations import Configuration
from orchestrator.evidence.run_metrics import image_value
from orchestrator.evidence.side_effects import BETTER
from orchestrator.evidence.stats.estimates import Interval
from orchestrator.evidence.summary import RunSummary
from orchestrator.model import Score
from orchestrator.report.answers.answer import Answer
from orchestrator.report.answers.rows import ImagePair
from orchestrator.scoring import thumbnails
from orchestrator.store import layout

_WIDTH = 360


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranked:
    """A row of the ranking; unknown numbers are empty. effects: side effect -> (mean, its 95 % interval)."""

    rank: str
    label: str
    is_best: bool
    is_baseline: bool
    value: str
    interval: Markup
    gain: str
    no_face: str
    effects: dict[str, tuple[str, str]]
    seeds: str
    marks: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownImage:
    """An image of an answer: WebP in base64 (empty if unreadable), path of the original, caption."""

    small: str
    href: str
    caption: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerCard:
    """An answer with its drawing and images: (title with the difference, first and second image) per pair."""

    answer: Answer
    interval: Markup
    pairs: tuple[tuple[str, ShownImage, ShownImage], ...]


def ranking(ranked: Sequence[Configuration]) -> list[Ranked]:
    """All configurations, best first, with the baselines at their place."""
    best = next((one for one in ranked if one.value is not None and not one.is_baseline), None)
    places = iter(range(1, len(ranked) + 1))
    ends = [one.interval or Interval(low=one.value, high=one.value) for one in ranked if one.value is not None]
    axis = _axis([end for one in ends for end in (one.low, one.high)])
    return [
        Ranked(
            rank="" if one.is_baseline or one.value is None else str(next(places)),
            label=one.label,
            is_best=one is best,
            is_baseline=one.is_baseline,
            value=_number(one.value),
            interval=_range(one.value, one.interval, axis),
            gain=_number(one.gain, "+.3f"),
            no_face=_number(one.metric("no_face_rate"), ".0%"),
            effects={
                name: (_number(one.side_effect(name)), _number(one.side_effect_interval(name))) for name in BETTER
            },
            seeds=f"{len(one.counted)} of {len(one.runs)}",
            marks=tuple(_marks(one)),
        )
        for one in ranked
    ]


def _marks(one: Configuration) -> list[str]:
    copying = sum(bool(run.metrics and run.metrics.copying) for run in one.runs)
    failed = sum(run.status.state == "failed" for run in one.runs)
    counts = {"degraded": one.degraded, "failed": failed, "copying": copying}
    return [f"{count} {name}" for name, count in counts.items() if count]


def _number(value: float | Interval | None, form: str = ".3f") -> str:
    return "" if value is None else format(value, form)


# --- answers ----------------------------------------------------------------------------------------------------------


def card(answer: Answer) -> AnswerCard:
    """An answer as the page shows it."""
    return AnswerCard(
        answer=answer,
        interval=_drawing(answer),
        pairs=tuple((f"{pair.title}: {pair.difference:+.3f}", *_images(pair)) for pair in answer.images),
    )


def _images(pair: ImagePair) -> tuple[ShownImage, ShownImage]:
    return _shown(pair.labels[0], *pair.first), _shown(pair.labels[1], *pair.second)


def _shown(label: str, run: RunSummary, score: Score) -> ShownImage:
    file, folder = score.image.file, run.run.path
    every = [one.image.file for one in run.scores]  # the cache keeps only what is asked for
    small = thumbnails.thumbnails(folder, every, layout.thumbnails(folder)).get(file, "")
    value = image_value(score)
    word = "no face" if score.similarity is None else f"{value:.2f}"
    return ShownImage(small=small, href=f"../{folder.name}/{file}", caption=f"{label}: {word}")


# --- drawings ---------------------------------------------------------------------------------------------------------


def _axis(values: Sequence[float]) -> tuple[float, float]:
    """The range of the values with a margin."""
    if not values:
        return 0.0, 1.0
    margin = 0.06 * (max(values) - min(values)) or 0.01
    return min(values) - margin, max(values) + margin


def _range(value: float | None, interval: Interval | None, axis: tuple[float, float]) -> Markup:
    """A dot with its interval on a common axis."""
    if value is None:
        return Markup("")
    low, high = axis

    def place(number: float) -> str:
        return f"{200 * (number - low) / (high - low):.1f}"

    line = ""
    if interval:
        line = f'<line class="range" x1="{place(interval.low)}" x2="{place(interval.high)}" y1="8" y2="8"/>'
    text = f"{value:.3f}" + (f", 95 % interval {interval:.3f}" if interval else "")
    return Markup(  # noqa: S704 (numbers only)
        f'<svg class="dotplot" viewBox="0 0 200 16" role="img" aria-label="{text}"><line class="axis" x1="0" x2="200" '
        f'y1="8" y2="8"/>{line}<circle cx="{place(value)}" cy="8" r="4"/></svg>'
    )


def _drawing(answer: Answer) -> Markup:
    """The difference and its interval against zero and the smallest relevant difference; empty if unknown."""
    if answer.difference is None or answer.smallest is None:
        return Markup("")
    bounds, smallest = answer.interval, answer.smallest
    low, high = _axis([0, smallest, answer.difference, *([bounds.low, bounds.high] if bounds else [])])

    def place(number: float) -> float:
        return 10 + (_WIDTH - 20) * (number - low) / (high - low)

    parts = [f'<line class="axis" x1="0" x2="{_WIDTH}" y1="26" y2="26"/>']
    parts += [_tick(place(0), "0", "zero"), _tick(place(smallest), f"{smallest:g}", "smallest")]
    if bounds:
        parts.append(
            f'<line class="range" x1="{place(bounds.low):.1f}" x2="{place(bounds.high):.1f}" y1="26" y2="26"/>'
        )
    parts.append(f'<circle cx="{place(answer.difference):.1f}" cy="26" r="5"/>')
    text = f"difference {answer.difference:+.3f}"
    text += f", interval {bounds:+.3f}" if bounds else ", no interval"
    return Markup(  # noqa: S704 (numbers only)
        f'<svg class="interval" viewBox="0 0 {_WIDTH} 56" role="img" aria-label="{escape(text)}">{"".join(parts)}</svg>'
    )


def _tick(place: float, label: str, kind: str) -> str:
    """A vertical line with a label: zero above the axis, the smallest relevant difference below it."""
    height = 10 if kind == "zero" else 54
    anchor = "start" if place < 20 else "end" if place > _WIDTH - 20 else "middle"
    return (
        f'<line class="{kind}" x1="{place:.1f}" x2="{place:.1f}" y1="14" y2="40"/>'
        f'<text x="{place:.1f}" y="{height}" text-anchor="{anchor}">{label}</text>'
    )
