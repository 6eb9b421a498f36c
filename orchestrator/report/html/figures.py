"""Which figures the page has, of which numbers, and what is said in their place where the numbers are not there."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from orchestrator.evidence import run_metrics
from orchestrator.evidence.calibration.record import CalibrationRecord
from orchestrator.evidence.stats import estimates
from orchestrator.evidence.stats.estimates import Interval
from orchestrator.evidence.stats.learning_curve import CurvePoint
from orchestrator.evidence.stats.pairs import REPLICATE
from orchestrator.evidence.summary import RunSummary
from orchestrator.model import Failure, Score, State, Value
from orchestrator.report.answers import rows
from orchestrator.report.html import plots, stage_times
from orchestrator.report.html.plots import Bars, Dot, Level, Line
from orchestrator.store import vram_log
from orchestrator.store.layout import Attempt
from orchestrator.text import pluralize
from orchestrator.values import toml_repr

_SHOWN_BARS = 40
_SAMPLES = 120
"""Of one attempt's memory: more cannot be told apart at this width."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """A plot with what it shows in words, or `absent`: why there is none."""

    title: str
    caption: str
    svg: Markup | None = None
    alt: str = ""
    absent: str = ""
    wide: bool = False


def figures(found: Sequence[RunSummary], kept: CalibrationRecord | None = None) -> list[Figure]:
    """In the order in which they are read. kept: the yardstick to draw beside the scores."""
    learned = [*_over_pictures(found), _over_checkpoints(found), _over_strengths(found)]
    return [*_by_dim(found, kept), *learned, _memory(found), _time(found)]


# --- similarity by dim ------------------------------------------------------------------------------------------------


def _by_dim(found: Sequence[RunSummary], kept: CalibrationRecord | None) -> Iterator[Figure]:
    band = kept.calibration.band if kept else None
    scored = [one for one in found if one.metrics and not one.run.point.is_baseline]
    swept = list(dict.fromkeys(dim for one in found for dim in one.run.point.dims if dim != REPLICATE))
    for dim in swept:
        title = f"Similarity by {dim}"
        caption = (
            "Every dot is a run: the mean over its pictures, where one without a face counts -1. Bar: mean and 95 % "
            "interval over training seeds; hollow dots are degraded runs and in no mean. Dashed: no LoRA."
            + (_band_told(kept) if kept else "")
        )
        levels = [_level(value, scored, dim) for value in _values(scored, dim)]
        if not levels:
            yield Figure(title=title, caption="", absent="No run of these is scored yet.")
            continue
        alt = "; ".join(_told(dim, one) for one in levels)
        yield Figure(
            title=title, caption=caption, svg=plots.levels(dim, levels, floor=_floor(found), band=band), alt=alt
        )


def _band_told(kept: CalibrationRecord) -> str:
    caveats = f" ({'; '.join(kept.caveats)})" if kept.caveats else ""
    return f" Shaded: where nine in ten of the persona's own photos lie{caveats}."


def _values(scored: Sequence[RunSummary], dim: str) -> list[Value]:
    return list(dict.fromkeys(one.run.point.params[dim] for one in scored if dim in one.run.point.params))


def _level(value: Value, scored: Sequence[RunSummary], dim: str) -> Level:
    here = [one for one in scored if one.run.point.params.get(dim) == value]
    sound = [one for one in here if not one.degraded and one.status.state is State.FINISHED]
    return Level(
        label=_label(value),
        dots=tuple(
            Dot(run=one.run.point.id, name=one.run.point.name, value=worth, hollow=one.degraded)
            for one in here
            if (worth := _worth(one)) is not None
        ),
        mean=_mean([worth for one in sound if (worth := _worth(one)) is not None]),
        interval=_interval(sound),
    )


def _label(value: Value) -> str:
    return value if isinstance(value, str) else toml_repr(value)


def _worth(one: RunSummary) -> float | None:
    return _mean(list(run_metrics.by_prompt(one.choice.reported).values())) if one.choice else None


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _interval(sound: Sequence[RunSummary]) -> Interval | None:
    """Of the level's mean, with the training seed as the unit; None with a single seed."""
    runs = [
        (one.run.point.params.get(REPLICATE), run_metrics.by_prompt(one.choice.reported)) for one in sound if one.choice
    ]
    found = estimates.over_seeds(runs)
    return found.interval() if found else None


def _floor(found: Sequence[RunSummary]) -> float | None:
    return _mean([worth for one in found if one.run.point.is_baseline and (worth := _worth(one)) is not None])


def _told(dim: str, one: Level) -> str:
    """A level in words, for who does not see the plot."""
    bounds = f", 95 % interval {one.interval.low:.3f} to {one.interval.high:.3f}" if one.interval else ""
    mean = f"mean {one.mean:.3f}{bounds}" if one.mean is not None else "no mean"
    return f"{dim} {one.label}: {pluralize(len(one.dots), 'run')}, {mean}"


# --- over pictures, checkpoints and strengths -------------------------------------------------------------------------


def _over_pictures(found: Sequence[RunSummary]) -> Iterator[Figure]:
    """Of datasets of three sizes or more; a grid that varies none has no such figure."""
    measured = rows.curve_points(found)
    fitted = rows.fit_curve(measured) if any("dataset" in one.run.point.dims for one in found) else None
    if fitted is None:
        return
    seeds, x = list(_by_seed(measured)), "training pictures"
    heights = dict(fitted.fitted)
    bounds = [heights[fitted.present] + worth for worth in (fitted.interval.low, fitted.interval.high)]
    carried_on = Line(group="fitted, and carried on", points=_floats(heights))
    doubt = Line(group="95 % interval", points=tuple((float(fitted.target), bound) for bound in bounds))
    yield Figure(
        title="Number of pictures",
        caption="Mean image value by number of training images with a face, one line per seed. "
        f"{rows.describe_curve(fitted)}.",
        svg=plots.lines([*seeds, carried_on, doubt], x=x, y="similarity"),
        alt=_ends(seeds, x),
    )


def _by_seed(measured: Sequence[CurvePoint]) -> Iterator[Line]:
    for seed in dict.fromkeys(point.replicate for point in measured):
        values: dict[int, list[float]] = defaultdict(list)
        for point in measured:
            if point.replicate == seed:
                values[point.pictures].append(point.value)
        means = {size: sum(here) / len(here) for size, here in sorted(values.items())}
        if len(means) > 1:
            yield Line(group="measured", points=_floats(means))


def _floats(heights: Mapping[int, float]) -> tuple[tuple[float, float], ...]:
    return tuple((float(size), height) for size, height in heights.items())


def _over_checkpoints(found: Sequence[RunSummary]) -> Figure:
    title = "Learning curves"
    trained = [one for one in found if one.choice and not one.run.point.is_baseline]
    by = "epoch" if all(item.epoch for one in trained for item in one.run.checkpoints()) else "step"
    lines = [line for one in trained if (line := _curve(one, by=by))]
    if not lines:
        absent = "Only one checkpoint of each run has been scored: `checkpoints` in [generate] asks for more."
        return Figure(title=title, caption="", absent=absent)
    caption = "Mean picture value of every scored checkpoint of a run, at the strength chosen for it."
    svg = plots.lines(lines, x=by, y="similarity")
    return Figure(title=title, caption=caption, svg=svg, alt=_ends(lines, by))


def _over_strengths(found: Sequence[RunSummary]) -> Figure:
    title = "Strength"
    lines = [line for one in found if not one.run.point.is_baseline and (line := _curve(one, by="strength"))]
    if not lines:
        absent = "Only one strength has been scored: `strengths` in [generate] asks for more."
        return Figure(title=title, caption="", absent=absent)
    caption = "Mean picture value at every scored strength, of the checkpoint chosen for each run."
    svg = plots.lines(lines, x="strength of the LoRA", y="similarity")
    return Figure(title=title, caption=caption, svg=svg, alt=_ends(lines, "strength"))


def _curve(one: RunSummary, *, by: str) -> Line | None:
    """A run's value along its checkpoints, by epoch or step, or along its strengths, the other held at its choice.

    None with a single one.
    """
    if one.choice is None:
        return None
    places = {
        item.file: float(item.epoch if by == "epoch" and item.epoch else item.step) for item in one.run.checkpoints()
    }
    groups: dict[float, list[Score]] = defaultdict(list)
    for score in one.scores:
        image = score.image
        if by != "strength" and image.strength == one.choice.strength:
            groups[places.get(image.checkpoint, 0.0)].append(score)
        if by == "strength" and image.checkpoint == one.choice.checkpoint:
            groups[image.strength].append(score)
    means = {x: _mean(list(run_metrics.by_prompt(scores).values())) for x, scores in sorted(groups.items())}
    points = tuple((x, y) for x, y in means.items() if y is not None)
    return Line(group=_first_level(one), points=points) if len(points) > 1 else None


def _first_level(one: RunSummary) -> str:
    """What the lines of a run are coloured by: the level of the grid's first dim."""
    dim = next((dim for dim in one.run.point.dims if dim != REPLICATE), "")
    return f"{dim} {_label(one.run.point.params[dim])}" if dim else "all runs"


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


# --- memory and time --------------------------------------------------------------------------------------------------


def _memory(found: Sequence[RunSummary]) -> Figure:
    title = "VRAM over time"
    lines = [line for one in found for attempt in one.run.attempts("train") if (line := _vram(attempt))]
    if not lines:
        return Figure(title=title, caption="", absent="No card was polled, so nothing is known of its memory.")
    out = sum(line.bad for line in lines)
    peak = max(y for line in lines for _, y in line.points)
    caption = "Every line is one attempt to train. A cross is where memory ran out; beside a line, what it conceded."
    alt = f"{len(lines)} attempts, peak {peak:.1f} GiB, {out} ended for want of memory"
    svg = plots.lines(lines, x="minutes", y="GiB", wide=True)
    return Figure(title=title, caption=caption, svg=svg, alt=alt, wide=True)


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
    """The highest of each stretch: a peak is what a memory curve is read for."""
    stretch = -(-len(points) // _SAMPLES)
    for begin in range(0, len(points), stretch):
        yield max(points[begin : begin + stretch], key=lambda point: point[1])


def _time(found: Sequence[RunSummary]) -> Figure:
    title = "What each run took"
    spent = {one.run.point.name: seconds for one in found if (seconds := stage_times.seconds(one.run))}
    if not spent:
        return Figure(title=title, caption="", absent="Nothing has ended yet.")
    longest = sorted(spent, key=lambda name: -sum(spent[name].values()))[:_SHOWN_BARS]
    total = sum(sum(seconds.values()) for seconds in spent.values()) / 3600
    lost = sum(seconds.get(stage_times.LOST, 0.0) for seconds in spent.values()) / 3600
    some = f" The {_SHOWN_BARS} longest of {len(spent)} runs." if len(spent) > _SHOWN_BARS else ""
    told = f"{total:.1f} hours in all, {lost:.1f} of them lost in attempts that failed.{some}"
    kinds = [
        kind for kind in ("train", "generate", "score", stage_times.LOST) if any(kind in one for one in spent.values())
    ]
    bars = Bars(
        labels=tuple(longest),
        kinds={kind: tuple(spent[name].get(kind, 0.0) / 60 for name in longest) for kind in kinds},
    )
    return Figure(title=title, caption=told, svg=plots.bars(bars, x="minutes"), alt=told, wide=True)
