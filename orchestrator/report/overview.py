"""The outcome of a sweep in sentences: the best configuration, the failures with remedies, the next command."""

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from orchestrator.evidence import configurations, lora_files
from orchestrator.evidence.configurations import Configuration
from orchestrator.evidence.run_metrics import FAILURE
from orchestrator.evidence.stats.contrast import TestSettings
from orchestrator.evidence.summary import RunSummary, SweepSummary, log_of
from orchestrator.files import from_here
from orchestrator.kohya.outputs import log
from orchestrator.model import RUNNABLE, Failure, State
from orchestrator.report import status
from orchestrator.report.labels import labels
from orchestrator.store import layout
from orchestrator.text import first_names, pluralize

_MEMORY = "set a smaller `train_batch_size` or `resolution`, or add an [[oom_fallback]] step to the settings"
_GENERATION_MEMORY = (
    "end other programs on the GPU, or set `vram.card` to a larger one; [generate] is frozen (docs/oom-fallback.md)"
)
_REMEDIES = {
    Failure.OOM: _MEMORY,
    Failure.SPILL: _MEMORY,
    Failure.HOST_OOM: "close other programs, set a smaller `max_data_loader_n_workers`, or raise a limit that is named",
    Failure.DISK_FULL: "free disk space; `orchestrate prune {sweep} --keep-best 1` lists files that can go",
    Failure.STORAGE: "make the file that is named available; `dmesg` and `mount` show errors of its disk",
    Failure.NETWORK: "repair the connection, or free the port; cached tokenizers need no connection",
    Failure.NAN: 'set a smaller `learning_rate`, or `mixed_precision = "bf16"`',
    Failure.DATASET: "`orchestrate check` lists what is wrong with the dataset",
    Failure.GPU_LOST: "`nvidia-smi` must list the GPU and a driver as new as torch's CUDA, if necessary after a reboot",
    Failure.BAD_CONFIG: "correct what the reason names; `orchestrate check --deep {grid}` finds most causes",
    Failure.STALLED: "raise `limits.stall_minutes` if the program was only slow",
    Failure.TIMEOUT: "raise `limits.wall_hours`",
    Failure.LOG_FLOOD: "raise `limits.log_mib` if the log is in order",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class FailedRuns:
    """Runs that failed for the same reason, and what to do."""

    text: str
    remedy: str


def best(ranked: Sequence[Configuration]) -> str:
    """The best configuration with a LoRA and its lead over the second; empty before one is scored.

    The 95 % interval is corrected for the number of configurations (Bonferroni): the best of many leads by chance, too.
    """
    lora = [one for one in ranked if one.value is not None and not one.is_baseline]
    scored = [one for one in lora if not one.is_substituted]
    if others := first_names([one.label for one in lora if one.is_substituted]):
        excluded = f"Not compared, because an OOM fallback changed the settings: {others}."
        return f"{best([one for one in ranked if not one.is_substituted])} {excluded}".lstrip()
    if scored and scored[0].value == FAILURE:
        return "No image of a trained run contains a face."
    if scored and _has_no_effect(scored[0], ranked):
        return f"No configuration is better than the baseline. The best is {scored[0].label}."
    if len(scored) < 2:
        return "".join(f"Best: {one.label}. No other configuration is scored." for one in scored)
    first, second = scored[:2]
    text = f"Best: {first.label}. It leads {second.label} by "
    if first.is_file and second.is_file:
        return text + _between_files(first, second, len(scored) - 1)
    found = configurations.lead(first, second)
    if not found:
        difference = (first.value or 0) - (second.value or 0)
        waiting = any(run.status.state in RUNNABLE for one in (first, second) for run in one.runs)
        seeds = "further seeds, not finished yet, will show" if waiting else "add seeds to see"
        if round(difference, 3) == 0:
            return f"{first.label} and {second.label} are equally similar; {seeds} which is better."
        return f"{text}{difference:+.3f} similarity; {seeds} whether that is chance."
    interval = found.interval(1 - 0.05 / (len(scored) - 1))
    bounds = f"95 % interval {interval:+.3f}, {pluralize(found.replicates, 'seed')}"
    if found.mean <= 0:  # seeds that only one of the two has make it the best
        return f"Best on average: {first.label}. On the common seeds {second.label} is not worse ({bounds})."
    return f"{text}{found.mean:+.3f} similarity ({bounds})" + ("." if interval.low > 0 else ": that may be chance.")


def _has_no_effect(first: Configuration, ranked: Sequence[Configuration]) -> bool:
    """Whether the images of the best configuration show no face or are not more similar than those of a baseline."""
    baselines = [one.value for one in ranked if one.value is not None and one.is_baseline]
    value = FAILURE if first.value is None else first.value
    return value == FAILURE or (bool(baselines) and max(baselines) + TestSettings().unchanged > value)


def _between_files(first: Configuration, second: Configuration, pairs: int) -> str:
    """The lead of one LoRA file over another: they have no training seeds."""
    scores = [configurations.reported(one.counted[0]) for one in (second, first)]
    (found,) = lora_files.compare(scores, [(), ()], ["", ""], family=pairs) or (None,)
    if found is None or found.interval is None:
        return "an unknown difference: they have too few common images."
    bounds = f"95 % interval {found.interval:+.3f} over prompts and image seeds"
    chance = "" if found.interval.low > 0 else " that may be chance;"
    return f"{found.difference:+.3f} similarity ({bounds});{chance} a comparison of files, not of training settings."


def failures(summary: SweepSummary) -> Iterator[FailedRuns]:
    """The failed runs, those with the same reason together."""
    names = labels([run.run.point for run in summary.runs])
    grid = summary.grid_file or next(reversed(summary.sweep.grids()), Path("GRID"))
    named = {"sweep": summary.sweep.name, "grid": shlex.quote(str(from_here(grid)))}
    groups: dict[tuple[str, Failure | None, str], list[RunSummary]] = {}
    for run in summary.runs:
        if run.status.state is State.FAILED:
            groups.setdefault((run.status.stage, run.status.failure, run.status.reason), []).append(run)
    for (stage, failure, reason), runs in groups.items():
        shown = "; ".join(names[run.run.point.id] for run in runs[:4])
        who = f"{shown}; and {len(runs) - 4} more" if len(runs) > 4 else shown
        generating = failure is Failure.OOM and stage in layout.GENERATING
        known = _GENERATION_MEMORY if generating else _REMEDIES.get(failure or Failure.UNKNOWN)
        remedy = known.format_map(named) if known else f"the cause is in {log_of(runs[0].run)}"
        retry = "then repeat the command with `--retry failed`"
        yield FailedRuns(
            text=f"{who}: {stage} failed, {failure}: {log.shorten(reason)}",
            remedy=f"{remedy}; {retry}",
        )


def next_step(summary: SweepSummary, *, running: bool = False) -> str:
    """The command that is useful now. running: whether another process runs the sweep."""
    if running:
        return f"The sweep is running: `orchestrate status {summary.sweep.name} --watch` shows its progress."
    name = summary.sweep.name
    if any(run.status.state in RUNNABLE for run in summary.runs):
        return status.resume_hint(name, summary.grid_file)
    if not any(run.choice for run in summary.runs if not run.run.point.is_baseline):
        return ""
    ranked = configurations.group(summary.runs)
    trained = [one for one in ranked if one.value is not None and not one.is_baseline and not one.is_file]
    if trained and _has_no_effect(trained[0], ranked):
        cause = "without the persona in them, train more steps or check learning rate, trigger and captions"
        return f"Next: `orchestrate sheet {name}` shows the images; {cause}."
    if not any(run.confirmation for run in summary.runs):
        return f"Next: `orchestrate confirm {name}` scores the best runs on new images."
    return f"Next: `orchestrate export {name}` copies the best LoRA with a model card."
