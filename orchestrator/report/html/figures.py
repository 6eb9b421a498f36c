"""The figures of the page: their data, captions and text alternatives."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from orchestrator.evidence import choice, run_metrics
from orchestrator.evidence.calibration.record import CalibrationRecord
from orchestrator.evidence.configurations import mean_value, values_by_prompt
from orchestrator.evidence.stats import estimates
from orchestrator.evidence.stats.estimates import Interval
from orchestrator.evidence.stats.learning_curve import CurvePoint
from orchestrator.evidence.stats.pairs import REPLICATE
from orchestrator.evidence.summary import RunSummary
from orchestrator.kohya.outputs import log
from orchestrator.model import Failure, Score, State, Value
from orchestrator.report.answers import rows as evidence
from orchestrator.report.html import plots, rows
from orchestrator.report.html.plots import Bars, Dot, Level, Line
from orchestrator.report.labels import labels
from orchestrator.store import outcome, vram_log
from orchestrator.store.layout import Attempt
from orchestrator.text import duration, pluralize
from orchestrator.values import in_label

_SHOWN_BARS = 40
_LOG_BYTES = 4 * 1024**2
_SAMPLES = 120
"""Per attempt; more are not visible at this width."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """A plot with its text alternative."""

    title: str
    caption: str
    svg: Markup
    alt: str
    wide: bool = False


def figures(found: Sequence[RunSummary], calibration: CalibrationRecord | None = None) -> list[Figure]:
    """The figures for which there are data, in the order of the page. calibration: drawn with the scores."""
    learned = [*_over_images(found), _over_checkpoints(found), _over_strengths(found)]
    every = [*_by_dim(found, calibration), *learned, _loss(found), _validation(found), _memory(found), _time(found)]
    return [one for one in every if one]


# --- similarity by dim ------------------------------------------------------------------------------------------------


def _by_dim(found: Sequence[RunSummary], calibration: CalibrationRecord | None) -> Iterator[Figure]:
    band = calibration.calibration.band if calibration else None
    scored = [one for one in found if one.metrics and not one.run.point.is_baseline]
    baseline = run_metrics.mean(mean_value(one) for one in found if one.run.point.is_baseline)
    swept = list(dict.fromkeys(dim for one in found for dim in one.run.point.dims if dim != REPLICATE))
    for dim in swept:
        title = f"Similarity by {dim}"
        caption = (
            "A dot is a run: its mean image value (no face counts -1). Bar: mean and 95 % interval over seeds. "
            f"Hollow: degraded runs, not in the mean. Dashed: baseline.{_band_caption(calibration)}"
        )
        levels = [_level(value, scored, dim) for value in _values(scored, dim)]
        if len(levels) < 2:
            continue
        alt = "; ".join(_in_words(dim, one) for one in levels)
        yield Figure(title=title, caption=caption, svg=plots.levels(dim, levels, baseline=baseline, band=band), alt=alt)


def _band_caption(calibration: CalibrationRecord | None) -> str:
    if calibration is None:
        return ""
    caveats = f" ({'; '.join(calibration.caveats)})" if calibration.caveats else ""
    return f" Shaded: 90 % of the reference photos{caveats}."


def _values(scored: Sequence[RunSummary], dim: str) -> list[Value]:
    return list(dict.fromkeys(one.run.point.params[dim] for one in scored if dim in one.run.point.params))


def _level(level: Value, scored: Sequence[RunSummary], dim: str) -> Level:
    here = [one for one in scored if one.run.point.params.get(dim) == level]
    sound = [one for one in here if not one.degraded and one.status.state is State.FINISHED]
    return Level(
        label=in_label(level),
        dots=tuple(
            Dot(run=one.run.point.id, name=one.run.point.name, value=value, hollow=one.degraded)
            for one in here
            if (value := mean_value(one)) is not None
        ),
        mean=run_metrics.mean(map(mean_value, sound)),
        interval=_interval(sound),
    )


def _interval(sound: Sequence[RunSummary]) -> Interval | None:
    """95 % interval of the level's mean over training seeds; None with a single seed."""
    found = estimates.over_seeds((one.seed, values_by_prompt(one)) for one in sound if one.choice)
    return found.interval() if found else None


def _in_words(dim: str, one: Level) -> str:
    """A level as text alternative."""
    bounds = f", 95 % interval {one.interval:.3f}" if one.interval else ""
    mean = f"mean {one.mean:.3f}{bounds}" if one.mean is not None else "no mean"
    return f"{dim} {one.label}: {pluralize(len(one.dots), 'run')}, {mean}"


# --- over images, checkpoints and strengths -------------------------------------------------------------------------


def _over_images(found: Sequence[RunSummary]) -> Iterator[Figure]:
    """Only for grids with datasets of three or more sizes."""
    measured = evidence.curve_points(found)
    fitted = evidence.fit_curve(measured) if any("dataset" in one.run.point.dims for one in found) else None
    if fitted is None:
        return
    seeds, x = list(_by_seed(measured)), "training images"
    heights = dict(fitted.fitted)
    bounds = [heights[fitted.present] + value for value in (fitted.interval.low, fitted.interval.high)]
    extrapolated = Line(group="fitted and extrapolated", points=_floats(heights))
    interval = Line(group="95 % interval", points=tuple((float(fitted.target), bound) for bound in bounds))
    yield Figure(
        title="Number of training images",
        caption="Mean image value by number of training images with a face, one line per seed. "
        f"{evidence.describe_curve(fitted)}.",
        svg=plots.lines([*seeds, extrapolated, interval], x=x, y="similarity"),
        alt=_ends(seeds, x),
    )


def _by_seed(measured: Sequence[CurvePoint]) -> Iterator[Line]:
    for seed in dict.fromkeys(point.replicate for point in measured):
        values: dict[int, list[float]] = defaultdict(list)
        for point in measured:
            if point.replicate == seed:
                values[point.images].append(point.value)
        means = {size: sum(here) / len(here) for size, here in sorted(values.items())}
        if len(means) > 1:
            yield Line(group="measured", points=_floats(means))


def _floats(heights: Mapping[int, float]) -> tuple[tuple[float, float], ...]:
    return tuple((float(size), height) for size, height in heights.items())


def _over_checkpoints(found: Sequence[RunSummary]) -> Figure | None:
    trained = [one for one in found if one.choice and not one.run.point.is_baseline]
    by = "epoch" if all(item.epoch for one in trained for item in one.run.checkpoints()) else "step"
    lines = [line for one in trained if (line := _curve(one, by=by))]
    if not lines:
        return None
    caption = "Mean image value of each scored checkpoint of a run at the selected strength. A dot marks the best."
    svg = plots.lines(lines, x=by, y="similarity")
    return Figure(title="Learning curves", caption=caption, svg=svg, alt=_ends(lines, by))


def _over_strengths(found: Sequence[RunSummary]) -> Figure | None:
    lines = [line for one in found if not one.run.point.is_baseline and (line := _curve(one, by="strength"))]
    if not lines:
        return None
    caption = "Mean image value at each scored strength of the selected checkpoint. A dot marks the best."
    svg = plots.lines(lines, x="strength of the LoRA", y="similarity")
    return Figure(title="Strength", caption=caption, svg=svg, alt=_ends(lines, "strength"))


def _curve(one: RunSummary, *, by: str) -> Line | None:
    """A run's value by epoch, step or strength, with the selected checkpoint or strength otherwise; None below two.

    Of the images that all of them have: the best checkpoint has more.
    """
    if one.choice is None:
        return None
    places = {
        item.file: float(item.epoch if by == "epoch" and item.epoch else item.step)
        for item in one.run.checkpoints()
        if not item.average
    }
    groups: dict[float, list[Score]] = defaultdict(list)
    for score in one.scores:
        image = score.image
        if by != "strength" and image.strength == one.choice.strength and image.checkpoint in places:
            groups[places[image.checkpoint]].append(score)
        if by == "strength" and image.checkpoint == one.choice.checkpoint:
            groups[image.strength].append(score)
    cells = set.intersection(*({choice.cell(score) for score in scores} for scores in groups.values()))
    means = {
        x: run_metrics.mean(run_metrics.by_prompt(one for one in scores if choice.cell(one) in cells).values())
        for x, scores in sorted(groups.items())
    }
    points = tuple((x, y) for x, y in means.items() if y is not None)
    best = max(points, key=lambda point: point[1], default=None)
    return Line(group=_first_level(one), points=points, marked=best) if len(points) > 1 else None


def _first_level(one: RunSummary) -> str:
    """The level of the grid's first dim, which gives a run's lines their colour."""
    dim = next((dim for dim in one.run.point.dims if dim != REPLICATE), "")
    return f"{dim} {in_label(one.run.point.params[dim])}" if dim else "all runs"


def _ends(lines: Sequence[Line], x: str) -> str:
    groups: dict[str, list[Line]] = defaultdict(list)
    for line in lines:
        groups[line.group].append(line)
    parts = []
    for name, group in groups.items():
        first, last = (sum(line.points[at][1] for line in group) / len(group) for at in (0, -1))
        span = f"{x} {group[0].points[0][0]:g} to {group[0].points[-1][0]:g}"
        parts.append(f"{name}: {pluralize(len(group), 'run')}, mean {first:.3f} to {last:.3f} from {span}")
    return "; ".join(parts)


# --- loss, VRAM and time ----------------------------------------------------------------------------------------------


def _loss(found: Sequence[RunSummary]) -> Figure | None:
    """The average loss that the trainer prints, of all runs; None without at least two values of a run."""
    lines = []
    for one in found:
        logs = (outcome.tail(attempt.path / "log", _LOG_BYTES) for attempt in one.run.attempts("train"))
        losses = {step: loss for text in logs for step, loss in log.read_losses(text).items()}
        if len(losses) > 1:
            stretch = -(-len(losses) // _SAMPLES)
            points = [(float(step), loss) for step, loss in sorted(losses.items())]
            lines.append(Line(group=_first_level(one), points=(*points[:-1:stretch], points[-1])))
    if not lines:
        return None
    caption = "Average loss during training, as the trainer prints it. Losses of different datasets are not comparable."
    svg = plots.lines(lines, x="step", y="loss", wide=True)
    return Figure(title="Loss", caption=caption, svg=svg, alt=_ends(lines, "step"), wide=True)


def _validation(found: Sequence[RunSummary]) -> Figure | None:
    """The loss on the validation images; None without at least two values of a run."""
    lines = [
        Line(
            group=_first_level(one), points=tuple((float(step), loss) for step, loss in sorted(one.validation.items()))
        )
        for one in found
        if len(one.validation) > 1
    ]
    if not lines:
        return None
    caption = (
        "Loss on images that are not trained on (validation_split). It compares runs with the same dataset, "
        "validation_seed and loss arguments."
    )
    svg = plots.lines(lines, x="step", y="loss", wide=True)
    return Figure(title="Validation loss", caption=caption, svg=svg, alt=_ends(lines, "step"), wide=True)


def _memory(found: Sequence[RunSummary]) -> Figure | None:
    lines = [line for one in found for attempt in one.run.attempts("train") if (line := _vram(attempt))]
    if not lines:
        return None
    out = sum(line.bad for line in lines)
    peak = max(y for line in lines for _, y in line.points)
    caption = "A line is a training attempt; a cross marks out of memory, the label an OOM fallback."
    alt = f"{len(lines)} attempts, peak {peak:.1f} GiB, {out} out of memory"
    svg = plots.lines(lines, x="minutes", y="GiB", wide=True)
    return Figure(title="VRAM over time", caption=caption, svg=svg, alt=alt, wide=True)


def _vram(attempt: Attempt) -> Line | None:
    series, result = vram_log.series(attempt.path), attempt.result()
    if len(series) < 2:
        return None
    begin = series[0][0]
    used = [(time, sample.used_mib if sample.own_mib is None else sample.own_mib) for time, sample in series]
    points = [((time - begin) / 60, mib / 1024) for time, mib in used]
    return Line(
        group="attempts",
        points=tuple(_thinned(points)),
        bad=result is not None and result.failure in (Failure.OOM, Failure.SPILL),
        note=", ".join(attempt.request().get("fallbacks", ())),
    )


def _thinned(points: Sequence[tuple[float, float]]) -> Iterator[tuple[float, float]]:
    """The highest point of each stretch, so that no peak is lost."""
    stretch = -(-len(points) // _SAMPLES)
    for begin in range(0, len(points), stretch):
        yield max(points[begin : begin + stretch], key=lambda point: point[1])


def _time(found: Sequence[RunSummary]) -> Figure | None:
    names = labels([one.run.point for one in found])
    spent = {names[one.run.point.id]: seconds for one in found if (seconds := rows.stage_seconds(one.run))}
    if not spent:
        return None
    longest = sorted(spent, key=lambda name: -sum(spent[name].values()))[:_SHOWN_BARS]
    total = sum(sum(seconds.values()) for seconds in spent.values())
    lost = sum(seconds.get(rows.LOST, 0.0) for seconds in spent.values())
    some = f" The {_SHOWN_BARS} longest of {len(spent)} runs." if len(spent) > _SHOWN_BARS else ""
    caption = f"{duration(total)} in total, {duration(lost)} of it in failed attempts.{some}"
    kinds = [kind for kind in ("train", "generate", "score", rows.LOST) if any(kind in one for one in spent.values())]
    most = sum(spent[longest[0]].values())
    unit, scale = ("seconds", 1) if most < 180 else ("minutes", 60) if most < 3 * 3600 else ("hours", 3600)
    lengths = {kind: tuple(spent[name].get(kind, 0.0) / scale for name in longest) for kind in kinds}
    svg = plots.bars(Bars(labels=tuple(longest), kinds=lengths), x=unit)
    return Figure(title="Time per run", caption=caption, svg=svg, alt=caption, wide=True)
