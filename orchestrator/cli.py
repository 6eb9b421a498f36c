"""The command line: parse, build the Context, call, map errors to exit codes. Each command imports its own rooms."""

from __future__ import annotations

import errno
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import orchestrator
from orchestrator.errors import InputError, NotReady, OrchestrateError, Problem, errors_of

if TYPE_CHECKING:
    from orchestrator.beside import Beside
    from orchestrator.console import Console
    from orchestrator.context import Context, Stop
    from orchestrator.forecast import Forecast
    from orchestrator.model import Dataset, Settings
    from orchestrator.plan import Plan
    from orchestrator.pool import Team
    from orchestrator.store import Run, Sweep

INTERRUPTED = 130
_LOOK_S, _RENEW_S = 1.0, 10.0
"""Between two looks at a sweep that is watched, and between two of its reports."""

_settings = click.option(
    "--settings",
    "settings_file",
    type=click.Path(path_type=Path, dir_okay=False),
    default="orchestrate.toml",
    envvar="ORCHESTRATE_SETTINGS",
    show_default=True,
    help="The settings file.",
)
_grid = click.option(
    "--grid", "grid_file", type=click.Path(path_type=Path, dir_okay=False), required=True, help="The grid file."
)
_name = click.option("--name", default="", help="The sweep's name; the grid file's without it.")
_json = click.option("--json", "as_json", is_flag=True, help="For scripts.")
_seed = click.option("--seed", default=1, show_default=True, help="Of a dataset with several draws: that seed's.")
_only = click.option("--only", default="*", help="Only runs whose name or id matches this glob.")


class _Commands(click.Group):
    """Turns our errors into messages and exit codes, for every command."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except OrchestrateError as error:
            _console().problems(error.problems)
            sys.exit(error.exit_code)
        except BrokenPipeError:  # click's: whoever read our output has seen enough
            raise
        except OSError as error:
            _console().problems([_of_the_machine(error)])
            sys.exit(NotReady.exit_code)
        except KeyboardInterrupt:
            sys.exit(INTERRUPTED)


_REMEDIES = {
    errno.ENOSPC: "free some disk, then run the same command again: it goes on where it stopped",
    errno.EDQUOT: "free some of your quota, then run the same command again: it goes on where it stopped",
    errno.EACCES: "give yourself the right to it, or name another folder",
    errno.EROFS: "name a folder that can be written to",
}


def _of_the_machine(error: OSError) -> Problem:
    """What the machine refused, in the words of every other problem."""
    remedy = _REMEDIES.get(error.errno or 0, "mend it, then run the same command again: it goes on where it stopped")
    return Problem(what=error.strerror or str(error), where=str(error.filename or ""), remedy=remedy)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(orchestrator.__version__)
def main() -> None:
    """Sweeps over kohya sd-scripts: one grid file in, trained LoRAs, face similarity and one CSV report out."""


@main.command()
@_settings
@_grid
@_name
@_only
@click.option("--retry", type=click.Choice(["failed"]), help="Give failed runs another attempt.")
@click.option("--fail-fast", is_flag=True, help="Stop at the first run that fails.")
@click.option("--cluster", metavar="ADDRESS", help="Run on the machines of this Ray cluster (docs/cluster.md).")
def run(
    settings_file: Path, grid_file: Path, name: str, only: str, retry: str | None, fail_fast: bool, cluster: str | None
) -> None:
    """Train, generate, score and report what the grid asks for; what is done already is not done again."""
    from orchestrator import plan, sweep, view

    console = _console()
    asked = plan.read(settings_file, grid_file, name)
    console.problems(asked.warnings)
    runs = asked.runs(only)
    cards = _ready(asked, console, cluster)
    with asked.sweep.lock(), _held(asked, cards) as held:
        ctx = _context(asked, held, console)
        _on_signals(ctx.stop)
        with console.live(lambda: view.look(asked.sweep)), _told(ctx, asked.sweep, console) as telling:
            try:
                with _team(asked, runs, telling, held, cluster) as team:
                    _on_signals(ctx.stop)
                    sweep.drive_with(team, runs, telling, retry=retry is not None, fail_fast=fail_fast)
            finally:
                _report_if_older(asked.sweep, console)
    if ctx.stop:
        sys.exit(INTERRUPTED)
    sys.exit(_failed(asked, only))


@main.command()
@_settings
@_grid
@_name
@_only
@_json
def plan(settings_file: Path, grid_file: Path, name: str, only: str, as_json: bool) -> None:
    """Show every run, why it would run, and what it costs; with --only also the first one's TOML. Starts nothing."""
    from orchestrator import bill, forecast
    from orchestrator import plan as planning

    console = _console()
    asked = planning.read(settings_file, grid_file, name)
    told = _forecast(asked, only)
    warnings = [*asked.warnings, *forecast.shortage(told)]
    toml = planning.example(asked, only) if only != "*" else ""
    if as_json:
        console.result(bill.as_json(told, warnings, toml))
        return
    console.problems(warnings)
    console.page(bill.page(told, asked.questions))
    if toml:
        console.result("\n" + toml)


@main.command()
@_settings
@click.option("--grid", "grid_file", type=click.Path(path_type=Path, dir_okay=False), help="What this grid needs.")
@_json
def check(settings_file: Path, grid_file: Path | None, as_json: bool) -> None:
    """Is this machine ready: what is missing, and how to get it. Tries the trainer's libraries and the face pack."""
    from orchestrator import bill, inspection, plan, settings, vram

    console = _console()
    asked = plan.read(settings_file, grid_file) if grid_file else None
    used = asked.settings if asked else settings.load(settings_file)
    found = inspection.inspect(used, vram.Nvml(), asked)
    ready = not errors_of(found.problems)
    if as_json:
        console.result(bill.inspection_json(found, ready=ready))
    else:
        console.problems(found.problems)
        console.page(bill.facts(found))
        console.result("ready" if ready else "not ready")
    sys.exit(0 if ready else NotReady.exit_code)


@main.command()
@_settings
@_grid
@_only
@click.option("--retry", type=click.Choice(["failed"]), help="Give failed probes another attempt.")
def probe(settings_file: Path, grid_file: Path, only: str, retry: str | None) -> None:
    """Train 20 steps of every memory profile in the grid: peak VRAM and seconds per step, for `plan`."""
    from orchestrator import bill, plan, store
    from orchestrator import probe as probing

    console = _console()
    asked = plan.read(settings_file, grid_file)
    console.problems(asked.warnings)
    probes = probing.wanted(asked, only)
    for profile in _forecast(asked, only).profiles:
        console.say(f"{profile.key}: {bill.label(profile.settings) or 'all'}")
    cards = _ready(asked, console)
    with store.probe_sweep(asked.settings.runs).lock(), _held(asked, cards) as held:
        ctx = _context(asked, held, console, frozen=False)
        _on_signals(ctx.stop)
        probing.drive(probes, ctx, retry=retry is not None)
    console.page(bill.profiles(_forecast(asked, only)))
    if ctx.stop:
        sys.exit(INTERRUPTED)
    sys.exit(1 if probing.failed(probes) else 0)


@main.command()
@_settings
@click.argument("sweep")
@_json
@click.option("--watch", is_flag=True, help="Go on showing it until nobody drives it any more.")
def status(settings_file: Path, sweep: str, as_json: bool, watch: bool) -> None:
    """How far a sweep is."""
    from orchestrator import view

    console, named = _console(), _sweep(settings_file, sweep)
    if watch:
        with console.live(lambda: view.look(named)):
            while named.driven():
                time.sleep(_LOOK_S)
    seen = view.look(named)
    if as_json:
        console.result(view.as_json(seen))
    else:
        console.table(seen)


@main.command()
@_settings
@click.argument("sweep")
@click.option("--watch", is_flag=True, help="Go on renewing it until nobody drives the sweep any more.")
def report(settings_file: Path, sweep: str, watch: bool) -> None:
    """Write the report of a sweep anew, finished or not: report.html, results.csv and images.csv."""
    console, named = _console(), _sweep(settings_file, sweep)
    _report(named, console)
    while watch and named.driven():
        time.sleep(_RENEW_S)
        _report(named, console)


@main.command()
@_settings
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
    from orchestrator import settings, store
    from orchestrator.yardstick import impostors as others
    from orchestrator.yardstick import measure, pair_list, plot, record, words

    used, console = settings.load(settings_file), _console()
    asked = measure.Asked(
        pairs=pair_list.read(pairs) if pairs else (),
        impostors=others.gather(impostors, [_sweep(settings_file, name) for name in against]),
        allow_training_references=allow_training_references,
    )
    kept, path = measure.measure(used, asked), store.calibration(used.runs)
    path.parent.mkdir(parents=True, exist_ok=True)
    record.write(path, kept)
    plot.draw(kept, path.with_suffix(".svg"))
    for line in words.lines(kept):
        console.result(line)
    console.result(str(path))


@main.command()
@_settings
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
    from orchestrator import answers, questions_page
    from orchestrator.answers import write
    from orchestrator.evidence.contrast import Terms

    console, named = _console(), [_sweep(settings_file, name) for name in dict.fromkeys(sweeps)]
    told = answers.answer([answers.read(sweep) for sweep in named], Terms(smallest=smallest))
    for sweep, of_sweep in zip(named, told, strict=True):
        write.write(sweep.report, of_sweep)
        console.result(write.markdown(of_sweep))
    if into:
        console.problems(questions_page.update(into, write.blocks(told)))


@main.group(cls=_Commands)
def dataset() -> None:
    """Make a dataset of the settings, or look at it: every picture, and why others are not there."""


@dataset.command("build")
@_settings
@_seed
@click.argument("name")
def build_dataset(settings_file: Path, seed: int, name: str) -> None:
    """Build a dataset, unless it is there, and show it."""
    from orchestrator import provenance, settings
    from orchestrator.stages import prepare

    used, console = settings.load(settings_file), _console()
    asked = _dataset(used, name, seed)
    names = prepare.with_sources([name], used.datasets)
    problems = [problem for one in names for problem in prepare.survey(used.datasets[one], str(settings_file))]
    if errors_of(problems):
        raise NotReady(*problems)
    console.problems(problems)
    _show_dataset(prepare.build(asked, used, provenance.Hashes(used.runs / ".hashes.json")).folder.parent, console)


@dataset.command("show")
@_settings
@_seed
@click.argument("name")
def show_dataset(settings_file: Path, seed: int, name: str) -> None:
    """Show a dataset that is built: a table of its pictures, and the path of its contact sheet."""
    from orchestrator import provenance, settings
    from orchestrator.stages import prepare

    used = settings.load(settings_file)
    folder = prepare.folder_of(_dataset(used, name, seed), used, provenance.Hashes(used.runs / ".hashes.json"))
    if not (folder / "dataset.json").exists():
        what, remedy = f"{name} is not built as it would be now", f"`orchestrate dataset build {name} --seed {seed}`"
        raise InputError(Problem(what=what, where=str(folder), remedy=remedy))
    _show_dataset(folder, _console())


@main.command()
@_settings
@click.argument("sweep")
@click.option("--top", default=3, show_default=True, type=click.IntRange(min=1), help="How many of the best runs.")
def confirm(settings_file: Path, sweep: str, top: int) -> None:
    """Make more pictures with the best runs, of fresh prompts or seeds: the best of many looks better than it is."""
    from orchestrator import beside, settings
    from orchestrator import confirm as confirming

    console, named = _console(), _sweep(settings_file, sweep)
    best = confirming.best(named, top)
    asked = beside.plan(settings.load(settings_file), named, [one.run.point for one in best])
    code = _beside(asked, _ready(asked, console), console, lambda ctx: confirming.prepare(best, ctx))
    for line in confirming.report(named):
        console.result(line)
    _report(named, console)
    sys.exit(code)


@main.command()
@_settings
@click.argument("sweep")
@click.option("--run", "pattern", default="", help="The run to take, by a glob of its name or id; the best without it.")
def export(settings_file: Path, sweep: str, pattern: str) -> None:
    """Take a LoRA home: its chosen checkpoint under a speaking name, a model card, and what loads it elsewhere."""
    from orchestrator import export as exporting
    from orchestrator import facts, settings

    named = _sweep(settings_file, sweep)
    found = facts.gather(named)
    chosen = exporting.choose(facts.ranked(found), pattern, named)
    for path in exporting.export(chosen, named, found, settings.load(settings_file)):
        _console().result(str(path))


@main.command()
@_settings
@click.argument("sweep")
@click.option("--keep-best", required=True, type=click.IntRange(min=0), help="Of so many of the best, all is kept.")
@click.option("--yes", is_flag=True, help="Delete; without it, it is only shown what would go.")
def prune(settings_file: Path, sweep: str, keep_best: int, yes: bool) -> None:
    """Free disk: training states and checkpoints that were not chosen, of finished runs. Reports stay as they are."""
    from orchestrator import facts
    from orchestrator import prune as pruning

    console, named = _console(), _sweep(settings_file, sweep)
    with named.lock():
        spares = pruning.spare(facts.ranked(facts.gather(named)), keep_best)
        for one in spares:
            console.result(f"{one.size / 1e6:10.1f} MB  {one.path.relative_to(named.path)}")
        if yes:
            pruning.remove(spares)
    total = f"{len(spares)} files and folders, {sum(one.size for one in spares) / 1e9:.2f} GB"
    console.say(f"deleted: {total}" if yes else f"would go: {total}; --yes deletes them")


@main.command()
@_settings
@click.argument("sweep")
@click.option("--to", "base", required=True, help="The base model to make the pictures with.")
@_only
def transfer(settings_file: Path, sweep: str, base: str, only: str) -> None:
    """Make a sweep's pictures with its LoRAs on another base model than they were trained on."""
    from orchestrator import beside, settings
    from orchestrator import transfer as moving

    console, named, used = _console(), _sweep(settings_file, sweep), settings.load(settings_file)
    chosen = moving.selected(named, base, only, used)
    cards = _ready(beside.plan(used, named, moving.points(chosen, base)), console)
    asked = beside.plan(used, named, [one.run.point for one in chosen])
    code = _beside(asked, cards, console, lambda ctx: moving.prepare(chosen, base, named, ctx))
    for line in moving.report(named):
        console.result(line)
    console.result(str(named.report / moving.TABLE))
    sys.exit(code)


@main.command()
@click.argument("path", type=click.Path(path_type=Path, dir_okay=False), default="orchestrate.toml")
def init(path: Path) -> None:
    """Write a commented settings file to start from."""
    from orchestrator import settings

    settings.init(path)
    _console().result(str(path))


def _ready(asked: Plan, console: Console, cluster: str | None = None) -> list[str]:
    """The UUIDs of the cards to use, none when none is needed here; raises NotReady with all that is missing."""
    from orchestrator import readiness, vram
    from orchestrator.model import NO_CARD

    probe, used = vram.Nvml(), asked.settings
    here = replace(used, vram=replace(used.vram, card=NO_CARD)) if cluster else used
    problems = readiness.findings(here, asked.points, probe)
    if errors_of(problems):
        raise NotReady(*problems)
    console.problems(problem for problem in problems if problem not in asked.warnings)
    return [card.uuid for card in readiness.choose_cards(probe.cards(), here.vram.card)]


def _team(
    asked: Plan, runs: list[Run], ctx: Context, cards: list[str], address: str | None
) -> AbstractContextManager[Team]:
    """The threads of this machine, or the machines of the cluster at `address`."""
    from orchestrator import cluster, pool, readiness, sweep, vram

    if not address:
        return pool.Pool.open(ctx, cards or [ctx.card], sweep.perform, runs)
    check = partial(readiness.findings, asked.settings, asked.points, vram.Nvml())
    return cluster.Cluster.open(address, ctx, sweep.perform, runs, check)


def _held(asked: Plan, cards: list[str]) -> AbstractContextManager[list[str]]:
    """Those of the cards that no other sweep uses, for as long as ours does; all where they may be shared."""
    from orchestrator import store

    used = asked.settings
    return nullcontext(cards) if used.vram.share else store.hold_cards(used.runs, cards)


def _forecast(asked: Plan, only: str) -> Forecast:
    """On this machine's cards, if there are any."""
    from orchestrator import forecast, readiness, vram

    cards = readiness.choose_cards(vram.Nvml().cards(), asked.settings.vram.card)
    sizes = [card.total_mib / 1024 for card in cards]
    return forecast.forecast(asked.sweep, asked.runs(only), asked.settings, prompts=len(asked.prompts), cards_gib=sizes)


def _context(asked: Plan, cards: list[str], console: Console, *, frozen: bool = True) -> Context:
    """Prepare the datasets, freeze the sweep unless it is only probed, and hand out what its runs share."""
    from orchestrator import freeze, provenance, vram
    from orchestrator.context import Context
    from orchestrator.stages import prepare

    used = asked.settings
    hashes = provenance.Hashes(used.runs / ".hashes.json")
    prepared = prepare.for_points(asked.points, used, hashes, console.say)
    if frozen:
        freeze.freeze(asked, prepared, hashes)
    return Context(
        settings=used,
        templates=asked.sweep.templates if frozen else used.templates,
        datasets=prepared,
        prompts=asked.prompts,
        probe=vram.Nvml(),
        listener=console,
        environ=os.environ,
        card=cards[0] if cards else "",
    )


def _beside(
    asked: Plan, cards: list[str], console: Console, prepare: Callable[[Context], tuple[list[Beside], Context]]
) -> int:
    """Have further pictures of a sweep's runs made and scored; the exit code."""
    from orchestrator import beside, store, sweep
    from orchestrator.model import State

    with asked.sweep.lock(), _held(asked, cards) as held:
        wanted, ctx = prepare(_context(asked, held, console))
        _on_signals(ctx.stop)
        beside.drive(wanted, ctx, lambda runs, world: sweep.drive(runs, world, cards=held))
    if ctx.stop:
        return INTERRUPTED
    return 0 if all(store.status(one.run).state is State.FINISHED for one in wanted) else 1


def _on_signals(stop: Stop) -> None:
    """Once is polite, twice is now; TERM is the same as Ctrl-C."""

    def ask(_number: int, _frame: object) -> None:
        stop.asked += 1

    signal.signal(signal.SIGINT, ask)
    signal.signal(signal.SIGTERM, ask)


def _report(sweep: Sweep, console: Console) -> None:
    """Write the page and the tables; the path of results.csv is the last line on stdout."""
    from orchestrator import answers, facts, page, report

    console.problems(facts.calibration(sweep)[1])
    table, read = report.write(sweep), answers.read(sweep)
    console.result(str(page.write(sweep, read.runs, answers.answer([read])[0], read.kept)))
    console.result(str(table))


def _report_if_older(sweep: Sweep, console: Console) -> None:
    """A report that says all there is to say already is only named."""
    there = sweep.reported()
    for path in there:
        console.result(str(path))
    if not there:
        _report(sweep, console)


@contextmanager
def _told(ctx: Context, sweep: Sweep, console: Console) -> Iterator[Context]:
    """The same world, whose failures, answers and end also go to the webhook of the settings, where there is one."""
    if not ctx.settings.notify:
        yield ctx
        return
    from orchestrator import answers, view, webhook

    hook = webhook.Webhook(ctx.settings.notify, console.say)
    began = view.look(sweep)
    try:
        yield replace(ctx, listener=webhook.Telling(ctx.listener, hook))
    finally:
        ended = view.look(sweep)
        if [row.status for row in ended.rows] != [row.status for row in began.rows]:
            for event, text in webhook.ending(ended, answers.answer([answers.read(sweep)])[0]):
                hook.send(event, sweep.name, text)
        hook.close()


def _failed(asked: Plan, only: str) -> int:
    from orchestrator import store
    from orchestrator.model import State

    states = [store.status(run).state for run in asked.runs(only)]
    return 0 if all(state is State.FINISHED for state in states) else 1


def _dataset(used: Settings, name: str, seed: int) -> Dataset:
    from orchestrator import datasets

    if name not in used.datasets:
        known = ", ".join(used.datasets) or "none yet"
        raise InputError(Problem(what=f'there is no dataset "{name}"', where=str(used.path), remedy=f"known: {known}"))
    return datasets.of({"dataset": name, "seed": seed}, used.datasets)


def _show_dataset(folder: Path, console: Console) -> None:
    """The sheet's path is the last line on stdout."""
    from orchestrator import dataset_page, store
    from orchestrator.datasets import sheet

    record = store.read(folder / "dataset.json")
    console.page(dataset_page.page(record))
    console.result(str(sheet.write(folder, record)))


def _sweep(settings_file: Path, name: str) -> Sweep:
    from orchestrator import settings, store

    sweep = store.Sweep(settings.load(settings_file).runs / name)
    if not sweep.exists():
        known = ", ".join(one.name for one in store.sweeps(sweep.path.parent)) or "none yet"
        raise InputError(Problem(what=f'there is no sweep "{name}"', where=str(sweep.path.parent), remedy=known))
    return sweep


def _console() -> Console:
    from orchestrator.console import Console

    return Console()
