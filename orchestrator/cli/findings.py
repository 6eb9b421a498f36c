"""The commands that ask what it all means: yardstick, answers, and pictures beside those of the sweep."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from orchestrator import session
from orchestrator.cli import common, options


@click.command()
@options.settings
@click.option("--pairs", type=click.Path(path_type=Path, dir_okay=False), help="Known-good pairs: TOML or CSV.")
@click.option("--impostors", type=click.Path(path_type=Path, file_okay=False), multiple=True, help="Other faces.")
@click.option("--against", metavar="SWEEP", multiple=True, help="What its base models make without a LoRA.")
@click.option("--allow-training-references", is_flag=True, help="Go on, and mark every number.")
def calibrate(
    settings_file: Path,
    pairs: Path | None,
    impostors: tuple[Path, ...],
    against: tuple[str, ...],
    allow_training_references: bool,
) -> None:
    """From which similarity on a LoRA is good enough: what the persona's own photos reach among each other."""
    from orchestrator.config import settings
    from orchestrator.evidence.calibration import inputs, measure, plot, record, text
    from orchestrator.store import layout

    used, console = settings.load(settings_file), common.console()
    asked = measure.CalibrationRequest(
        pairs=inputs.read_pairs(pairs) if pairs else (),
        impostors=inputs.impostor_pictures(impostors, [common.sweep_named(settings_file, name) for name in against]),
        allow_training_references=allow_training_references,
    )
    kept, path = measure.measure(used, asked), layout.calibration(used.runs)
    path.parent.mkdir(parents=True, exist_ok=True)
    record.write(path, kept)
    plot.draw(kept, path.with_suffix(".svg"))
    for line in text.format_lines(kept):
        console.result(line)
    console.result(str(path))


@click.command()
@options.settings
@click.argument("sweeps", nargs=-1, required=True, metavar="SWEEP...")
@click.option("--into", type=click.Path(path_type=Path, dir_okay=False), help="Your own page of questions.")
@click.option(
    "--smallest",
    type=click.FloatRange(min=0),
    default=0.02,
    show_default=True,
    help="The smallest difference that matters to you.",
)
def answer(settings_file: Path, sweeps: tuple[str, ...], into: Path | None, smallest: float) -> None:
    """What sweeps say to their questions: printed, kept in their reports, and written into your own page."""
    from orchestrator.evidence import summary
    from orchestrator.evidence.stats.contrast import TestSettings
    from orchestrator.report import answers, answers_page
    from orchestrator.report.answers import write

    console, named = common.console(), [common.sweep_named(settings_file, name) for name in dict.fromkeys(sweeps)]
    console.problems(dict.fromkeys(problem for sweep in named for problem in summary.calibration(sweep)[1]))
    told = answers.answer([answers.read(sweep) for sweep in named], TestSettings(smallest=smallest))
    for sweep, of_sweep in zip(named, told, strict=True):
        write.write(sweep.report, of_sweep)
        console.result(write.markdown(of_sweep))
    if into:
        console.problems(answers_page.update(into, write.blocks(told)))


@click.command()
@options.settings
@click.argument("sweep")
@click.option("--top", default=3, show_default=True, type=click.IntRange(min=1), help="How many of the best runs.")
def confirm(settings_file: Path, sweep: str, top: int) -> None:
    """Make more pictures with the best runs, of fresh prompts or seeds: the best of many looks better than it is."""
    from orchestrator.config import settings
    from orchestrator.run import confirm as confirming
    from orchestrator.run import followup

    console, named = common.console(), common.sweep_named(settings_file, sweep)
    best = confirming.best(named, top)
    asked = followup.plan(settings.load(settings_file), named, [one.run.point for one in best])
    code = session.make_beside(asked, session.ready(asked, console), console, lambda ctx: confirming.prepare(best, ctx))
    for line in confirming.report(named):
        console.result(line)
    session.write_report(named, asked.settings, console)
    sys.exit(code)


@click.command()
@options.settings
@click.argument("sweep")
@click.option("--to", "base", required=True, help="The base model to make the pictures with.")
@options.only
def transfer(settings_file: Path, sweep: str, base: str, only: str) -> None:
    """Make a sweep's pictures with its LoRAs on another base model than they were trained on."""
    from orchestrator.config import settings
    from orchestrator.run import followup
    from orchestrator.run import transfer as moving

    console, named, used = common.console(), common.sweep_named(settings_file, sweep), settings.load(settings_file)
    chosen = moving.selected(named, base, only, used)
    cards = session.ready(followup.plan(used, named, moving.points(chosen, base)), console)
    asked = followup.plan(used, named, [one.run.point for one in chosen])
    code = session.make_beside(asked, cards, console, lambda ctx: moving.prepare(chosen, base, named, ctx))
    for line in moving.report(named):
        console.result(line)
    console.result(str(named.report / moving.TABLE))
    sys.exit(code)
