"""The output of `plan`, `probe` and `check` for people."""

import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table

from orchestrator.cli.fitted_table import FittedTable
from orchestrator.config.schema import Settings
from orchestrator.kohya import resource_profile
from orchestrator.model import Params, Point, Question, SequentialDesign, State
from orchestrator.plan import vram_estimate
from orchestrator.plan.check.report import CheckReport
from orchestrator.plan.forecast import ASSUMED, Forecast, Profile, RunForecast
from orchestrator.report.labels import labels
from orchestrator.report.open_questions import Agenda, OpenGrid
from orchestrator.text import duration, pluralize, size
from orchestrator.values import in_label, same, toml_repr

if TYPE_CHECKING:
    from orchestrator.run.probe_speed import Comparison

_ROWS = 60
_COMMON = (
    "base_model", "dataset", "network_dim", "network_alpha", "optimizer_type", "learning_rate", "lr_scheduler",
    "max_train_epochs", "max_train_steps", "train_batch_size", "gradient_accumulation_steps", "resolution",
)  # fmt: skip
"""Arguments that are listed if all trainings share them."""


def plan(
    costs: Forecast, questions: Sequence[Question], replaced: Mapping[str, Sequence[str]] = MappingProxyType({})
) -> RenderableType:
    """The runs of a grid with their reasons and costs, the memory profiles, and the sums."""
    trained = [run for run in costs.runs if run.run.point.is_trained]
    done = sum(run.status.state is State.FINISHED for run in costs.runs)
    baselines = sum(run.run.point.is_baseline for run in costs.runs)
    files = len(costs.runs) - len(trained) - baselines
    more = f" and {pluralize(baselines, 'baseline')} (base model without LoRA)" if baselines else ""
    more = (f", {pluralize(files, 'LoRA file')}" if files else "") + more
    head = f"[bold]{escape(costs.name)}[/]: {pluralize(len(trained), 'training')}{more}; {done} finished"
    replacing = [f"  {escape(cause)} replaces {', '.join(keys)} of the settings" for cause, keys in replaced.items()]
    parts: list[RenderableType] = [
        head,
        *_questions(costs, questions),
        *_common(trained),
        *replacing,
        "",
        *_runs(costs),
    ]
    if costs.profiles:
        parts += ["", profiles(costs)]
    return Group(*parts, "", *_sums(costs))


def _questions(costs: Forecast, questions: Iterable[Question]) -> Iterator[str]:
    points = [run.run.point for run in costs.runs]
    for question in questions:
        if question.kind != "contrast":
            yield escape(f"  {question.id}: {question.ask}")
            continue
        arms = " against ".join(
            f"{toml_repr(level)} ({pluralize(_count(points, question.dim, level), 'run')})" for level in question.levels
        )
        yield escape(f"  {question.id}: {question.ask} {question.dim} {arms}")


def _count(points: Iterable[Point], dim: str, level: Any) -> int:
    return sum(dim in point.params and same(point.params[dim], level) for point in points if not point.is_baseline)


def _common(trained: Sequence[RunForecast]) -> Iterator[str]:
    points = [run.run.point.params for run in trained]
    if points:
        differing = resource_profile.differing(points)
        common = {key: points[0][key] for key in _COMMON if key in points[0] and key not in differing}
        yield escape(f"  All with {label(common)}")


def _runs(costs: Forecast) -> Iterator[RenderableType]:
    names = labels([run.run.point for run in costs.runs])
    rows = [(escape(names[run.run.point.id]), *_cells(run)) for run in costs.runs[:_ROWS]]
    numbers = ("steps", "epochs", "images", "train", "generate", "score", "disk")
    yield FittedTable(("run", "why", *numbers), rows, right=numbers, optional=("epochs", "disk", "score", "images"))
    if len(costs.runs) > _ROWS:
        yield f"and {len(costs.runs) - _ROWS} more; --only GLOB or --json shows them"


def _cells(run: RunForecast) -> list[str]:
    length = run.length
    steps, epochs = "" if run.exact else "~", "" if run.counted else "~"
    if not run.known:  # checkpoints and so images depend on the steps, too
        return [escape(run.why), "?", "", *["?"] * 5]
    return [
        escape(run.why),
        f"{steps}{length.steps}" if length else ("?" if run.run.point.is_trained else ""),
        f"{epochs}{length.epochs}" if length else "",
        str(run.images),
        *(duration(seconds) if seconds else "" for seconds in (run.train_s, run.generate_s, run.score_s)),
        size(run.disk_bytes) if run.disk_bytes else "",
    ]


def profiles(costs: Forecast) -> FittedTable:
    """Speed and peak VRAM of each memory profile."""
    of_gpu, rows = f" of {costs.gpu_gib:g} GiB" if costs.gpu_gib else "", []
    for profile in costs.profiles[:_ROWS]:
        source = profile.origin + (f"; OOM fallback: {', '.join(profile.fallbacks)}" if profile.fallbacks else "")
        together = profile.together
        more = f" ({together.at_once} at once: {together.seconds_per_step:.2f})" if together else ""
        speed, peak = f"{profile.seconds_per_step:.2f}{more}", _peak(profile, costs.gpu_gib)
        name = label(profile.settings) or "all"
        rows.append([*map(escape, (name, str(profile.runs), speed, source, peak))])
    headings = ("memory profile", "trainings", "s/step", "source", f"peak VRAM{of_gpu}")
    return FittedTable(headings, rows, right=("trainings", "s/step"), optional=("trainings",))


def speeds(found: "Comparison", settings: Settings) -> RenderableType:
    """What `probe --speed` measured, and the lines that select the fastest."""
    table = Table(box=None, pad_edge=False)
    for heading in ("changed", "s/step", "start", "peak VRAM", f"{found.steps} steps", "fits"):
        table.add_column(heading, justify="left" if heading in ("changed", "fits") else "right", overflow="fold")
    for one in found.speeds:
        peak = f"{one.peak_mib / 1024:.1f} GiB" if one.peak_mib else ""
        figures = [f"{one.seconds_per_step:.2f}", f"{one.start_s:.0f} s", peak, duration(one.seconds(found.steps))]
        fits = f"no: {one.failure}" if one.failure else "yes"
        table.add_row(
            *map(escape, (label(one.changes) or "nothing", *(figures if not one.failure else [""] * 4), fits))
        )
    return Group(escape(f"{found.point.name}, one training at a time:"), table, "", *_recommended(found, settings))


def _recommended(found: "Comparison", settings: Settings) -> Iterator[str]:
    if not found.speeds or found.best.failure:
        yield "Nothing to recommend: no training succeeded."
        return
    if not (changes := found.best.changes):
        yield "The settings are the fastest that fits: no option saves more than 2 % of the time."
        return
    yield "The fastest that fits. Set it before the sweep starts, because it may change the last digits of weights."
    params = found.point.params
    threads = [key for key in changes if key.startswith("trainer.")]
    of_grid = [key for key in changes if key not in threads and params.get(key) != settings.arguments.get(key)]
    places = {
        "[trainer]": threads,
        "[arguments]": [key for key in changes if key not in (*threads, *of_grid)],
        "In the grid, which sets them:": of_grid,
    }
    for heading, keys in places.items():
        if keys:
            lines = [f"{key.removeprefix('trainer.')} = {toml_repr(changes[key])}" for key in keys]
            yield escape("\n".join(["", heading, *lines]))


def label(settings: Params) -> str:
    """The settings that distinguish a memory profile, on one line."""
    plain = {key: value for key, value in settings.items() if not isinstance(value, tuple)} or settings
    return ", ".join(f"{key} {in_label(value)}" for key, value in plain.items())


def _peak(profile: Profile, gpu_gib: float | None) -> str:
    if profile.peak is None:
        return "unknown"
    peak = f"{profile.peak.gib:.1f} GiB" + (", estimated" if profile.peak.error_gib else "")
    if gpu_gib is None or profile.fallbacks:  # after an OOM fallback it fits
        return peak
    return peak + (": may not fit, see check" if vram_estimate.verdict(profile.peak, gpu_gib) else ": fits")


def _sums(costs: Forecast) -> Iterator[str]:
    hours = costs.gpu_seconds / 3600
    time, gpu_time, disk = (
        (duration(costs.seconds), f"{hours:.{1 if hours >= 1 else 2}f}", size(costs.disk_bytes))
        if costs.known
        else ("?", "?", "?")
    )
    yield (
        f"Total: {time} on {pluralize(costs.gpus, 'GPU')}, {gpu_time} GPU-hours; {disk} of disk, "
        f"{size(costs.free_bytes)} are free."
    )
    if few := next((run for run in costs.runs if run.candidates and run.known), None):
        yield f"{few.candidates} of the {few.images} images of a training select its checkpoint."
    trained = [run for run in costs.runs if run.train_s]
    assumed = [run for run in trained if run.origin == ASSUMED]
    if assumed:
        yield (
            f"The speed of {len(assumed)} of {len(trained)} trainings is assumed, not measured: "
            "`orchestrate probe` with this grid, or with one of the same arguments, measures it in minutes."
        )
    if costs.colocate and len(trained) > costs.gpus:
        yield _sharing(trained)
    if any(run.length and not run.counted for run in trained):
        yield "~ estimated: the images are missing, or a recipe has yet to make them."
    if any(run.length is None and run.run.point.is_trained for run in costs.runs):
        yield (
            "? the number of steps is unknown because the images are missing: add them, or set their number "
            "(`pictures = 36`) in the settings."
        )


def _sharing(trained: Sequence[RunForecast]) -> str:
    """What the times of trainings that share a GPU are based on."""
    if assumed := [run for run in trained if run.at_once == 1]:
        return (
            f"{len(assumed)} of {len(trained)} trainings may share a GPU, and how fast they then are is not measured: "
            "the times assume one at a time. `orchestrate probe --colocate 3` with the same grid measures 3 at once."
        )
    counts = " or ".join(map(str, sorted({run.at_once for run in trained})))
    return f"The times of trainings are their shares of a GPU that runs {counts} at once, as probed."


def rounds(least: Forecast, most: Forecast, design: SequentialDesign) -> str:
    """The least and the most that is left of a sequential sweep."""
    low, high = (
        f"{pluralize(_trainings(one), 'training')}, {f'{one.gpu_seconds / 3600:.2f}' if one.known else '?'} GPU-hours"
        for one in (least, most)
    )
    return (
        f"Seeds in rounds, {design.first} to {design.max}: at least {low}; at most {high}. "
        "The sweep stops when every question is decided."
    )


def _trainings(costs: Forecast) -> int:
    return sum(run.run.point.is_trained for run in costs.runs)


def open_questions(grids: Sequence[OpenGrid]) -> RenderableType:
    """One row per open question; the cost of a grid is in its first row."""
    rows = []
    for grid in grids:
        hours = "?" if grid.gpu_hours is None else f"{'~' * grid.assumed}{grid.gpu_hours:.1f}"
        for number, one in enumerate(grid.questions):
            cells = (f"{one.id}: {one.ask}", grid.path.stem, one.state, "" if number else hours, ", ".join(one.after))
            rows.append([*map(escape, cells)])
    table = FittedTable(
        ("question", "grid", "state", "GPU-hours", "after"), rows, right=("GPU-hours",), optional=("grid",)
    )
    notes = (
        ["~ at an assumed speed: `orchestrate probe GRID` measures it."] if any(one.assumed for one in grids) else []
    )
    if any(one.gpu_hours is None for one in grids):
        notes.append("? unknown: the images are missing, and the settings do not say how many there are.")
    return Group(table, "", *notes)


def next_commands(found: Agenda, options: str) -> Iterator[str]:
    """What to run next, as commands with these options."""
    for sweep, ids in found.adoptable:
        yield f"Next: orchestrate adopt {sweep}{options}    (the settings do not have the answer to {ids} yet)"
    ready = next((one for one in found.grids if one.ready), None)
    waiting = [(grid, one) for grid in found.grids if not grid.left for one in grid.questions]
    then = "Then" if found.adoptable else "Next"
    if ready:
        name = f" --name {shlex.quote(ready.name)}" if ready.name else ""
        yield f"{then}: orchestrate run {shlex.quote(str(ready.path))}{name}{options}"
    for grid, one in waiting:
        yield f"{one.id} is undecided although all runs of {grid.path} have ended: {one.needs}"
    if not found.asked:
        yield (
            "No grid asks a question: add a [[question]] with id, ask and contrast to a file in grids/ beside the "
            "settings, or name a grid."
        )
    elif not found.grids:
        yield f"Every question is decided.\n{then}: orchestrate run --final{options}"


def facts(found: CheckReport) -> RenderableType:
    """The facts of a check, one line each."""
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, fact in found.facts.items():
        table.add_row(escape(name), escape(fact))
    return table
