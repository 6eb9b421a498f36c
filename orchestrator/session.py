"""Runs a sweep as a library: open settings and a grid, check, run, report. The command line uses it, too.

from orchestrator.session import Session

session = Session.open("orchestrate.toml", "grids/sweep-v3.toml")
session.run()
frame = session.results()
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.config.schema import NO_GPU, Settings
from orchestrator.errors import NotReady, Problem, errors_of
from orchestrator.gpu import Nvml, VramProbe
from orchestrator.host import Host
from orchestrator.model import State
from orchestrator.plan import plan as planning
from orchestrator.plan.plan import Plan
from orchestrator.report.labels import labels
from orchestrator.report.listener import SessionListener
from orchestrator.run.context import Context, Stop
from orchestrator.store import gpu_locks, layout, state
from orchestrator.store.layout import Run, Sweep
from orchestrator.store.state import Status

if TYPE_CHECKING:
    import pandas as pd

    from orchestrator.plan.check.report import CheckReport
    from orchestrator.plan.forecast import Forecast
    from orchestrator.report.answers.answer import Answer
    from orchestrator.report.files import Report
    from orchestrator.run.class_images import ClassImages
    from orchestrator.run.followup import FollowupRun
    from orchestrator.run.local_executor import Executor
    from orchestrator.run.probe_speed import Comparison


@dataclass(frozen=True, slots=True, kw_only=True)
class FinalLora:
    """files: the exported LoRA first. sentence: its confirmed similarity with the interval."""

    files: tuple[Path, ...]
    sentence: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """A validated grid under its settings, and what is needed to run it.

    plan: points, questions, prompts and warnings. listener: receives events; the default logs them. gpus: the NVIDIA
    driver. environ: inherited by child processes. stop: ends a running sweep; see `Stop`.
    """

    plan: Plan
    listener: SessionListener = field(default_factory=SessionListener)
    gpus: VramProbe = field(default_factory=Nvml)
    environ: Mapping[str, str] = field(default_factory=lambda: os.environ)
    stop: Stop = field(default_factory=Stop)

    @classmethod
    def open(
        cls,
        settings: Path | str,
        grid: Path | str | None,
        name: str = "",
        *,
        final_seeds: int = 0,
        listener: SessionListener | None = None,
    ) -> Session:
        """Read and validate a settings file and a grid file. Raises InputError with every mistake in both.

        grid: None with `final_seeds`: the settings alone with so many training seeds. name: of the sweep; by default
        that of the grid file, or final.
        """
        if grid is None:
            plan = planning.read_final(Path(settings), final_seeds, name)
        else:
            plan = planning.read(Path(settings), Path(grid), name)
        return cls(plan=plan, listener=listener or SessionListener())

    @property
    def sweep(self) -> Sweep:
        return self.plan.sweep

    @property
    def settings(self) -> Settings:
        return self.plan.settings

    def forecast(self, only: str = "*", *, probes_first: bool = False) -> Forecast:
        """Steps, seconds, VRAM and disk of what is left of the selected runs. Starts nothing.

        Known costs come from earlier runs before probes, or the other way round with `probes_first`.
        """
        from orchestrator.plan import forecast, preflight

        gpus = preflight.choose_gpus(self.gpus.gpus(), self.settings.vram.card)
        runs, prompts = self.plan.runs(only), len(self.plan.prompts)
        return forecast.forecast(self.sweep, runs, self.settings, prompts=prompts, gpus=gpus, probes_first=probes_first)

    def missing(self) -> list[Problem]:
        """What `run` needs and this machine lacks, or else changed inputs of the sweep. Reads no large file."""
        from orchestrator.plan import freeze, preflight

        lacking = errors_of(preflight.findings(self.settings, self.plan.points, self.gpus))
        return lacking or freeze.conflicts(self.plan)

    def check(self, *, deep: bool = False) -> CheckReport:
        """What this machine lacks for the sweep, and facts about it. Trains nothing; takes up to a minute.

        deep: also start sd-scripts on each configuration, up to the base model: some seconds each.
        """
        from orchestrator.plan import check

        return check.inspect(self.settings, self.gpus, self.plan, deep=deep)

    def run(
        self, only: str = "*", *, retry: bool = False, fail_fast: bool = False, cluster: str = ""
    ) -> dict[str, Status]:
        """Train, generate and score the selected runs, then write the report. Finished runs are not repeated.

        only: a glob of run names or ids. retry: give failed runs another attempt. fail_fast: start nothing after the
        first failed run. cluster: the address of a Ray cluster; without it this machine does everything.

        Returns the status of each selected run by its name. Raises NotReady if the machine lacks something or makes
        several runs in a row fail, Conflict if another process runs the sweep or its inputs have changed, and
        NothingSelected if no run matches. The report is written in every case once a run could start.
        """
        session: Session | None = self
        while session:
            ended = session._run_round(only, retry=retry, fail_fast=fail_fast, cluster=cluster)
            failed = fail_fast and any(status.state is State.FAILED for status in ended.values())
            session = None if failed or only != "*" else session._next_round()
        return ended

    def _run_round(self, only: str, *, retry: bool, fail_fast: bool, cluster: str) -> dict[str, Status]:
        """Run all points of the plan: the whole sweep, or the seeds of a sequential sweep that are due."""
        from orchestrator.plan import freeze
        from orchestrator.report import webhook
        from orchestrator.run import sweep

        runs = self.plan.runs(only)
        selected = None if only == "*" else runs
        self._note_retry(runs, retry)
        gpus = self.preflight(cluster)
        with self.sweep.lock(), self.lock_gpus(self.sweep, gpus, runs) as held:
            ctx = self.context(held, cluster=bool(cluster))
            if not cluster and any(state.status(run).state is not State.FINISHED for run in runs):
                self.listener.problems(freeze.upgrades(self.sweep, ctx.environment(), self.settings.comparison))
            self._label_runs()
            try:
                with (
                    webhook.notified(ctx, self.sweep, self.answers) as notified,
                    self._executor(runs, notified, held, cluster) as executor,
                    self.listener.running(self.sweep, self.stop, partial(self.forecast, only), selected),
                ):
                    sweep.run_sweep_on(executor, runs, notified, retry=retry, fail_fast=fail_fast)
            finally:
                self.listener.reported(self._report(if_outdated=True))
        return {run.point.name: state.status(run) for run in runs}

    def _label_runs(self) -> None:
        """Events name the runs of a frozen sweep by the dims that vary."""
        if self.sweep.exists():
            self.listener.labels.update(labels([run.point for run in self.sweep.runs()]))

    def _next_round(self) -> Session | None:
        """The session with one more seed, if the sweep is sequential and a question needs it; else None."""
        if not self.plan.later or self.stop:
            return None
        from orchestrator.evidence import summary
        from orchestrator.evidence.stats.contrast import TestSettings
        from orchestrator.report.answers import contrasts

        read = summary.read(self.sweep, self.settings.comparison)
        undecided = contrasts.open_questions(read, TestSettings())
        if not undecided:
            self.listener.message(
                "no further seeds: every question is decided, or has too small a chance to be decided"
            )
            return None
        following = replace(self, plan=self.plan.with_next_seed())
        names = ", ".join(f"{one.question.id} (chance {one.chance or 0:.0%})" for one in undecided)
        self.listener.message(f"one more seed, because it may decide {names}")
        return following

    def probe(self, only: str = "*", *, retry: bool = False, at_once: int = 1) -> list[Run]:
        """Train 20 steps of each memory profile among the selected runs, for `forecast`. Returns those that failed.

        at_once: also train so many at once on one GPU, as with `vram.colocate`.
        """
        from orchestrator.run import probe

        probes, sweep = probe.wanted(self.plan, only), layout.probe_sweep(self.settings.runs)
        self._note_retry(probes, retry)
        self.listener.labels.update(labels([one.point for one in probes]))
        gpus = self.preflight()
        with sweep.lock(), self.lock_gpus(sweep, gpus) as held:
            ctx = self.context(held, frozen=False)
            with self.listener.running(sweep, self.stop):
                probe.run_probe(probes, ctx, retry=retry)
                groups = probe.wanted_at_once(self.plan, only, at_once) if at_once > 1 else []
                probe.run_at_once(groups, ctx)
        return probe.failed([*probes, *(one for group in groups for one in group)])

    def probe_speed(self, only: str = "*", *, retry: bool = False) -> Comparison:
        """Compare, by short trainings of the first selected run, options that do not change the mathematics."""
        from orchestrator.run import probe_speed

        sweep, gpus = layout.speed_sweep(self.settings.runs), self.preflight()
        with sweep.lock(), self.lock_gpus(sweep, gpus) as held:
            ctx = self.context(held, frozen=False)
            with self.listener.running(sweep, self.stop):
                return probe_speed.compare(self.plan, only, ctx, retry=retry)

    def run_followup(
        self,
        prepare: Callable[[Context], tuple[list[FollowupRun], Context]],
        gpus: list[str] | None = None,
        *,
        frozen: bool = True,
    ) -> bool:
        """Generate and score further images of finished runs, as `prepare` lists them. Whether all are finished.

        frozen: whether they belong to a frozen sweep, whose inputs must not have changed.
        """
        from orchestrator.run import followup, sweep

        gpus = self.preflight() if gpus is None else gpus
        with self.sweep.lock(), self.lock_gpus(self.sweep, gpus) as held:
            wanted, ctx = prepare(self.context(held, frozen=frozen))
            self._label_runs()
            with self.listener.running(self.sweep, self.stop, runs=[one.run for one in wanted]):
                followup.run_all(wanted, ctx, lambda runs, other: sweep.run_sweep(runs, other, gpus=held))
        return all(state.status(one.run).state is State.FINISHED for one in wanted)

    def generate_class_images(self, asked: ClassImages, run: Run) -> bool:
        """Generate the images that a folder lacks. Whether it has all of them now."""
        from orchestrator.run import class_images

        gpus = self.preflight()
        with self.sweep.lock(), self.lock_gpus(self.sweep, gpus) as held:
            ctx = self.context(held, frozen=False)
            with self.listener.running(self.sweep, self.stop):
                return class_images.make(asked, run, ctx)

    def finalize(self) -> FinalLora | None:
        """Select a seed and a checkpoint of a finished sweep, confirm them on new images, and export the LoRA.

        Both are selected on the same half of the prompts, so the confirmed similarity is not the best of several. None
        if the confirmation was interrupted or failed.
        """
        from orchestrator.evidence import summary
        from orchestrator.report import export
        from orchestrator.report import followup as reporting
        from orchestrator.run import followup

        best = followup.best_by_selection(self.sweep)
        self.listener.message(f"selected {best[0].run.point.name}; it is confirmed on new images")
        if not self.run_followup(lambda ctx: followup.prepare_confirmation(best, ctx)):
            return None
        reporting.report_confirmations(self.sweep)
        read = summary.read(self.sweep, self.settings.comparison)
        chosen = next(one for one in read.runs if one.run == best[0].run)
        paths = export.export(chosen, read, self.settings)
        return FinalLora(files=tuple(paths), sentence=reporting.quote(chosen))

    def report(self) -> Report:
        """(Re)write report.html, results.csv and images.csv; the sweep need not be finished."""
        return self._report()

    def answers(self) -> tuple[Answer, ...]:
        """The answers to the grid's questions, from the runs that are finished."""
        from orchestrator.evidence import summary
        from orchestrator.report import answers

        return answers.answer_questions([summary.read(self.sweep, self.settings.comparison)])[0]

    def results(self) -> pd.DataFrame:
        """The table results.csv: one row per run."""
        from orchestrator.evidence import summary
        from orchestrator.report import results_csv

        return results_csv.results(summary.read(self.sweep))

    # --- steps of a run ----------------------------------------------------------------------------------------------

    def preflight(self, cluster: str = "") -> list[str]:
        """The UUIDs of the GPUs to use, none if none is needed here. Raises NotReady with all that is missing."""
        from orchestrator.plan import preflight

        settings = self.settings
        here = replace(settings, vram=replace(settings.vram, card=NO_GPU)) if cluster else settings
        problems = preflight.findings(here, self.plan.points, self.gpus)
        if errors_of(problems):
            raise NotReady(*problems)
        self.listener.problems(dict.fromkeys([*self.plan.warnings, *problems]))
        return [gpu.uuid for gpu in preflight.choose_gpus(self.gpus.gpus(), here.vram.card)]

    def lock_gpus(
        self, sweep: Sweep, gpus: list[str], runs: Sequence[Run] | None = None
    ) -> AbstractContextManager[list[str]]:
        """As `gpu_locks.acquire`; with `vram.ignore_other_sweeps`, all GPUs without a lock."""
        return nullcontext(gpus) if self.settings.vram.ignore_other_sweeps else gpu_locks.acquire(sweep, gpus, runs)

    def context(self, gpus: list[str], *, frozen: bool = True, cluster: bool = False) -> Context:
        """Prepare the datasets, freeze the sweep unless it is only probed, and return what its runs share."""
        from orchestrator.datasets import prepare
        from orchestrator.plan import freeze
        from orchestrator.run import lora_files
        from orchestrator.store.hashes import HashCache

        settings = self.settings
        threads: int | None
        threads = default = settings.trainer.threads or self._default_threads(len(gpus), cluster=cluster)
        hashes = HashCache(settings.runs)
        prepared = prepare.prepare_all(self.plan.points, settings, hashes, self.listener.message)
        if frozen:
            threads = freeze.freeze(self.plan, prepared, hashes, threads=default)
            lora_files.store_points(self.plan.points, self.sweep, settings)
        return Context(
            settings=replace(settings, trainer=replace(settings.trainer, threads=threads)),
            templates=self.sweep.templates if frozen else settings.templates,
            datasets=prepared,
            prompts=self.plan.prompts,
            probe=self.gpus,
            listener=self.listener,
            environ=self.environ,
            gpu=gpus[0] if gpus else "",
            stop=self.stop,
        )

    def _default_threads(self, gpus: int, *, cluster: bool) -> int:
        from orchestrator.run import schedule

        if cluster:
            return schedule.CORES_PER_TRAINING
        trainings = sum(not point.is_baseline for point in self.plan.points)
        return schedule.default_threads(Host().cores(), gpus, trainings, colocate=self.settings.vram.colocate)

    def _executor(
        self, runs: list[Run], ctx: Context, gpus: list[str], cluster: str
    ) -> AbstractContextManager[Executor]:
        """Threads of this machine, or the machines of a Ray cluster."""
        from orchestrator.plan import preflight
        from orchestrator.run import local_executor, ray_executor, sweep

        if not cluster:
            return local_executor.LocalExecutor.open(ctx, gpus or [ctx.gpu], sweep.perform, runs)
        check = partial(preflight.findings, self.settings, self.plan.points, Nvml())  # pickled: a new one
        return ray_executor.RayExecutor.open(cluster, ctx, sweep.perform, runs, check)

    def _note_retry(self, runs: list[Run], retry: bool) -> None:
        if retry and not any(state.status(run).state is State.FAILED for run in runs):
            self.listener.message("none of the selected runs has failed, so there is nothing to retry")

    def _report(self, *, if_outdated: bool = False) -> Report:
        from orchestrator.report import files

        return files.write(self.sweep, self._secrets(), comparison=self.settings.comparison, if_outdated=if_outdated)

    def _secrets(self) -> dict[str, str]:
        """The environment of child processes: the report hides the secrets in it."""
        return {**self.environ, **self.settings.trainer.env}
