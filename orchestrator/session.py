"""From a plan to its end, for every command that drives runs: ready, locked, frozen, watched, reported."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from orchestrator.cli import common
from orchestrator.errors import NotReady, errors_of

if TYPE_CHECKING:
    from orchestrator.cli.console import Console
    from orchestrator.config.schema import Settings
    from orchestrator.plan.plan import Plan
    from orchestrator.run.context import Context, Stop
    from orchestrator.run.followup import FollowupRun
    from orchestrator.run.local_executor import Executor
    from orchestrator.store.layout import Run, Sweep


def ready(asked: Plan, console: Console, cluster: str | None = None) -> list[str]:
    """The UUIDs of the cards to use, none when none is needed here; raises NotReady with all that is missing."""
    from orchestrator import gpu
    from orchestrator.config.schema import NO_CARD
    from orchestrator.plan import preflight

    probe, used = gpu.Nvml(), asked.settings
    here = replace(used, vram=replace(used.vram, card=NO_CARD)) if cluster else used
    problems = preflight.findings(here, asked.points, probe)
    if errors_of(problems):
        raise NotReady(*problems)
    console.problems(problem for problem in problems if problem not in asked.warnings)
    return [card.uuid for card in preflight.choose_cards(probe.cards(), here.vram.card)]


def hold(sweep: Sweep, cards: list[str], used: Settings) -> AbstractContextManager[list[str]]:
    """Those of the cards that no other sweep uses, for as long as this one does; all where they may be shared."""
    return nullcontext(cards) if used.vram.ignore_other_sweeps else sweep.lock_cards(cards)


def context(asked: Plan, cards: list[str], console: Console, *, frozen: bool = True) -> Context:
    """Prepare the datasets, freeze the sweep unless it is only probed, and hand out what its runs share."""
    from orchestrator import gpu
    from orchestrator.datasets import prepare
    from orchestrator.plan import freeze
    from orchestrator.run.context import Context
    from orchestrator.store.hashes import HashCache

    used = asked.settings
    hashes = HashCache(used.runs)
    prepared = prepare.prepare_all(asked.points, used, hashes, console.say)
    if frozen:
        freeze.freeze(asked, prepared, hashes)
    return Context(
        settings=used,
        templates=asked.sweep.templates if frozen else used.templates,
        datasets=prepared,
        prompts=asked.prompts,
        probe=gpu.Nvml(),
        listener=console,
        environ=os.environ,
        card=cards[0] if cards else "",
    )


def team(
    asked: Plan, runs: list[Run], ctx: Context, cards: list[str], address: str | None
) -> AbstractContextManager[Executor]:
    """The threads of this machine, or the machines of the cluster at `address`."""
    from orchestrator import gpu
    from orchestrator.plan import preflight
    from orchestrator.run import local_executor, sweep
    from orchestrator.run import ray_executor as cluster

    if not address:
        return local_executor.LocalExecutor.open(ctx, cards or [ctx.card], sweep.perform, runs)
    check = partial(preflight.findings, asked.settings, asked.points, gpu.Nvml())
    return cluster.RayExecutor.open(address, ctx, sweep.perform, runs, check)


def make_beside(
    asked: Plan, cards: list[str], console: Console, prepare: Callable[[Context], tuple[list[FollowupRun], Context]]
) -> int:
    """Have further pictures of a sweep's runs made and scored; the exit code."""
    from orchestrator.model import State
    from orchestrator.run import followup, sweep
    from orchestrator.store import state

    with asked.sweep.lock(), hold(asked.sweep, cards, asked.settings) as held:
        wanted, ctx = prepare(context(asked, held, console))
        on_signals(ctx.stop)
        followup.run_all(wanted, ctx, lambda runs, world: sweep.run_sweep(runs, world, cards=held))
    if ctx.stop:
        return common.INTERRUPTED
    return 0 if all(state.status(one.run).state is State.FINISHED for one in wanted) else 1


def on_signals(stop: Stop) -> None:
    """Once is polite, twice is now; TERM is the same as Ctrl-C."""

    def ask(_number: int, _frame: object) -> None:
        stop.asked += 1

    signal.signal(signal.SIGINT, ask)
    signal.signal(signal.SIGTERM, ask)


@contextmanager
def told(ctx: Context, sweep: Sweep, console: Console) -> Iterator[Context]:
    """The same world, whose failures, answers and end also go to the webhook of the settings, where there is one."""
    if not ctx.settings.notify:
        yield ctx
        return
    from orchestrator.report import answers, status, webhook

    hook = webhook.Webhook(ctx.settings.notify, console.say)
    began = status.read_status(sweep)
    try:
        yield replace(ctx, listener=webhook.NotifyingListener(ctx.listener, hook))
    finally:
        ended = status.read_status(sweep)
        if [row.status for row in ended.rows] != [row.status for row in began.rows]:
            for event, text in webhook.ending(ended, answers.answer([answers.read(sweep)])[0]):
                hook.send(event, sweep.name, text)
        hook.close()


def write_report(sweep: Sweep, used: Settings, console: Console) -> None:
    """Write the page and the tables; the path of results.csv is the last line on stdout."""
    from orchestrator.evidence import summary
    from orchestrator.report import answers, html, results_csv

    console.problems(summary.calibration(sweep)[1])
    table, read = results_csv.write(sweep), answers.read(sweep)
    given = {**os.environ, **used.trainer.env}
    console.result(str(html.write(sweep, read.runs, answers.answer([read])[0], read.kept, given)))
    console.result(str(table))


def name_report(asked: Plan, console: Console) -> None:
    """A report that says all there is to say already is only named."""
    there = asked.sweep.current_report()
    for path in there:
        console.result(str(path))
    if not there:
        write_report(asked.sweep, asked.settings, console)


def failed(asked: Plan, only: str) -> int:
    from orchestrator.model import State
    from orchestrator.store import state

    states = [state.status(run).state for run in asked.runs(only)]
    return 0 if all(state in (State.FINISHED, State.STOPPED) for state in states) else 1
