"""SVG plots by matplotlib in the colours of the page's style sheet; equal numbers give equal bytes."""

import io
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from markupsafe import Markup

from orchestrator.evidence.stats.estimates import Interval

_INK, _FAINT, _LINE, _BAD, _BAND = "#000001", "#000002", "#000003", "#000004", "#000005"
_SERIES = ("#000011", "#000012", "#000013", "#000014", "#000015", "#000016")
_VARIABLES = {
    _INK: "var(--ink)",
    _FAINT: "var(--faint)",
    _LINE: "var(--line)",
    _BAD: "var(--bad)",
    _BAND: "var(--band)",
    **{colour: f"var(--series-{number})" for number, colour in enumerate(_SERIES, start=1)},
}
"""Placeholder colours for matplotlib -> CSS variables, because the reader's browser chooses light or dark."""

_STYLE = {
    "svg.fonttype": "none",
    "font.size": 9.5,
    "text.color": _INK,
    "axes.labelcolor": _FAINT,
    "axes.edgecolor": _LINE,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": _LINE,
    "grid.linewidth": 0.6,
    "xtick.color": _LINE,
    "ytick.color": _LINE,
    "xtick.labelcolor": _FAINT,
    "ytick.labelcolor": _FAINT,
    "ytick.major.size": 0,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
}
_MOST_LEGEND = len(_SERIES)
_MOST_TICKS = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Dot:
    """One run, linked by its id."""

    run: str
    name: str
    value: float
    hollow: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """All runs at one level of a dim."""

    label: str
    dots: tuple[Dot, ...]
    mean: float | None
    interval: Interval | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One line; lines of a group share a colour. bad: it ends with a cross. note: label at its end.

    marked: a point that gets a dot.
    """

    group: str
    points: tuple[tuple[float, float], ...]
    bad: bool = False
    note: str = ""
    marked: tuple[float, float] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Bars:
    """Stacked bars. kinds: kind -> one length per label."""

    labels: tuple[str, ...]
    kinds: Mapping[str, tuple[float, ...]]


def levels(dim: str, shown: Sequence[Level], *, baseline: float | None, band: Interval | None) -> Markup:
    """Dots of each level with mean and interval beside them; behind them a band and a dashed baseline."""
    with _style(f"levels {dim}"):
        figure, axes = _axes(4.6, 3.1)
        for at, level in enumerate(shown):
            _dots(axes, at, level, _SERIES[at % len(_SERIES)])
        if band:
            axes.axhspan(band.low, band.high, color=_BAND, linewidth=0)
        if baseline is not None:
            axes.axhline(baseline, color=_FAINT, linestyle=(0, (4, 3)), linewidth=1)
        axes.set_xticks(range(len(shown)), [_short(level.label) for level in shown])
        axes.set_xlim(-0.5, len(shown) - 0.5)
        axes.set_ylim(
            *_heights(shown, [*([baseline] if baseline is not None else []), *([band.low, band.high] if band else [])])
        )
        axes.set_xlabel(dim)
        axes.set_ylabel("similarity")
        names = {dot.run: dot.name for level in shown for dot in level.dots}
        return _svg(figure, names)


def lines(shown: Sequence[Line], *, x: str, y: str, wide: bool = False) -> Markup:
    """Thin lines, one colour per group."""
    groups = list(dict.fromkeys(line.group for line in shown))
    colours = {group: _SERIES[at % len(_SERIES)] for at, group in enumerate(groups)}
    with _style(f"lines {x}"):
        figure, axes = _axes(9.4 if wide else 4.6, 3.1)
        for group in groups:
            _lines(axes, [line for line in shown if line.group == group], colours[group])
        if 1 < len(groups) <= _MOST_LEGEND:
            for group in groups:
                axes.plot([], [], color=colours[group], label=_short(group, 28))
            axes.legend(loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0, ncols=2, handlelength=1.2)
        places = sorted({across for line in shown for across, _ in line.points})
        if len(places) <= _MOST_TICKS:
            axes.set_xticks(places, [f"{place:g}" for place in places])
        axes.set_xlabel(x)
        axes.set_ylabel(y)
        return _svg(figure, {})


def bars(shown: Bars, *, x: str) -> Markup:
    """One bar per label, from top to bottom."""
    with _style(f"bars {x}"):
        figure, axes = _axes(9.4, 0.9 + 0.22 * len(shown.labels))
        rows = range(len(shown.labels))
        ends = [0.0] * len(shown.labels)
        for kind, colour in zip(shown.kinds, (*_SERIES[:3], _BAD), strict=False):
            lengths = shown.kinds[kind]
            axes.barh(rows, lengths, left=ends, color=_BAD if "lost" in kind else colour, label=kind, height=0.66)
            ends = [end + length for end, length in zip(ends, lengths, strict=True)]
        axes.set_yticks(rows, [_short(label, 48) for label in shown.labels])
        axes.invert_yaxis()
        axes.margins(y=0.5 / max(len(rows), 1))
        axes.grid(axis="x")
        axes.grid(visible=False, axis="y")
        axes.set_xlabel(x)
        figure.legend(loc="outside upper left", ncols=len(shown.kinds))  # seen on a phone without scrolling
        return _svg(figure, {})


def _heights(shown: Sequence[Level], others: Sequence[float]) -> tuple[float, float]:
    """The range of the dots; a long interval of two seeds may leave the plot."""
    heights = [dot.value for level in shown for dot in level.dots] + [*others]
    margin = 0.12 * (max(heights) - min(heights)) or 0.05
    return min(heights) - margin, max(heights) + margin


def _dots(axes: Any, at: int, level: Level, colour: str) -> None:
    spread = min(0.3, 0.04 * len(level.dots))
    step = 2 * spread / max(len(level.dots) - 1, 1)
    places = [at - 0.08 - spread + number * step for number in range(len(level.dots))] if step else [at - 0.08]
    for hollow in (False, True):
        dots = [(place, dot) for place, dot in zip(places, level.dots, strict=True) if dot.hollow is hollow]
        across, up = [place for place, _ in dots], [dot.value for _, dot in dots]
        face = "none" if hollow else colour
        marks = axes.scatter(across, up, s=26, facecolors=face, edgecolors=colour, linewidths=1.1, alpha=0.85)
        marks.set_urls([f"#run-{dot.run}" for _, dot in dots])
    place = at + spread + 0.06
    if level.mean is not None:
        axes.plot([place - 0.05, place + 0.05], [level.mean] * 2, color=_INK, linewidth=2)
    if level.interval:
        axes.plot([place, place], [level.interval.low, level.interval.high], color=_INK, linewidth=1.3)


def _lines(axes: Any, group: Sequence[Line], colour: str) -> None:
    from matplotlib.collections import LineCollection

    plain = [line.points for line in group if not line.bad]
    axes.add_collection(LineCollection(plain, colors=colour, linewidths=1.2, alpha=max(0.3, min(0.9, 6 / len(group)))))
    axes.autoscale_view()
    for line in group:
        _event(axes, line)
    marked = [line.marked for line in group if line.marked]
    if marked:
        axes.scatter(*zip(*marked, strict=True), s=22, color=colour, zorder=3)


def _event(axes: Any, line: Line) -> None:
    """The mark of an out-of-memory attempt, or its OOM fallback."""
    across, up = zip(*line.points, strict=True)
    if line.bad:
        axes.plot(across, up, color=_BAD, linewidth=1.2)
        axes.plot([across[-1]], [up[-1]], marker="x", color=_BAD, markersize=7, markeredgewidth=2)
    if line.note:
        place = {"xytext": (-2, 3), "textcoords": "offset points"}
        axes.annotate(_short(line.note, 40), (across[-1], up[-1]), color=_INK, fontsize=8, ha="right", **place)


def _short(text: str, limit: int = 16) -> str:
    """Shortened in the middle; dollars are escaped, because matplotlib reads them as mathematics."""
    if len(text) > limit:
        text = f"{text[: limit // 2]}…{text[len(text) - limit // 2 + 1 :]}"
    return text.replace("$", r"\$")


def _style(salt: str) -> Any:
    """`salt` makes the element ids of a plot unique on the page."""
    import matplotlib as mpl

    style: dict[Any, Any] = {**_STYLE, "svg.hashsalt": salt}
    return mpl.rc_context(style)


def _axes(width: float, height: float) -> tuple[Any, Any]:
    """In inches of 72 points."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.add_subplot()


def _svg(figure: Any, names: Mapping[str, str]) -> Markup:
    """The figure as an SVG element without style attributes; dots have the names of their runs."""
    file = io.StringIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a character that matplotlib's font lacks: the browser's font has it
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = file.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(
        r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->| id=\"[a-z]\w*(?:\.\w+)?_\d+\"",
        "",
        text,
        flags=re.DOTALL,
    )
    text = re.sub(r' style="([^"]*)"', _attributes, text)
    text = re.sub(r'<a xlink:href="#run-(\w+)"[^>]*>', lambda match: _link(match[1], names), text)
    for colour, variable in _VARIABLES.items():
        text = text.replace(colour, variable)
    text = re.sub(r' (?:width|height)="[\d.]+pt"', "", text, count=2)
    return Markup(text)  # noqa: S704 (matplotlib escapes text)


def _attributes(match: re.Match[str]) -> str:
    """A style attribute as presentation attributes, because the page's policy forbids inline styles."""
    pairs = (part.split(":", 1) for part in match[1].split(";") if ":" in part)
    kept = {key.strip(): value.strip() for key, value in pairs if key.strip() not in ("font", "font-family")}
    return "".join(f' {key}="{value}"' for key, value in kept.items())


def _link(run: str, names: Mapping[str, str]) -> str:
    return f'<a href="#run-{run}" tabindex="-1"><title>{escape(names.get(run, run))}</title>'
