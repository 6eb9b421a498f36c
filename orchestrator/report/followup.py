"""Reports of follow-up images: confirm.csv and transfer.csv, and one sentence for each run."""

from collections.abc import Iterator

from orchestrator import scoring
from orchestrator.evidence import choice, confirmation, run_metrics, summary
from orchestrator.evidence.confirmation import ConfirmationResult
from orchestrator.evidence.stats.estimates import Interval
from orchestrator.evidence.summary import RunSummary
from orchestrator.model import Score
from orchestrator.plan import plan
from orchestrator.report import csv_files
from orchestrator.store import layout
from orchestrator.store.layout import Run, Sweep

CONFIRM = "confirm.csv"
TRANSFER = "transfer.csv"


def report_confirmations(sweep: Sweep) -> list[str]:
    """Write confirm.csv; returns a sentence for each confirmed run, best first."""
    found = [(one, one.confirmation) for one in summary.gather(sweep) if one.confirmation]
    found.sort(key=lambda pair: pair[1].comparison.confirmed, reverse=True)
    rows = [_confirm_row(one, result) for one, result in found]
    csv_files.write(sweep.report / CONFIRM, list(rows[0]) if rows else ["run"], rows)
    return [_confirm_sentence(one, result) for one, result in found]


def _confirm_row(one: RunSummary, result: ConfirmationResult) -> dict[str, str]:
    comparison = result.comparison
    return {
        "run": one.run.point.name,
        "reported": _number(comparison.reported, 6),
        "confirmed_similarity": _number(comparison.confirmed, 6),
        **_bounds("confirmed_similarity", comparison.confirmed_interval),
        "change": _number(comparison.change, 6),
        **_bounds("change", comparison.change_interval),
        "gain": _number(result.gain, 6),
        "reported_gain": _number(one.gain, 6),
        "pictures": str(len(result.scores)),
    }


def _bounds(name: str, interval: Interval | None) -> dict[str, str]:
    low, high = (interval.low, interval.high) if interval else (None, None)
    return {f"{name}_low": _number(low, 6), f"{name}_high": _number(high, 6)}


def _confirm_sentence(one: RunSummary, result: ConfirmationResult) -> str:
    """With the gain over the baseline where it is known: new prompts may be harder for the base model, too."""
    comparison, ends = result.comparison, result.comparison.change_interval
    bounds = f" ({ends.low:+.3f} to {ends.high:+.3f})" if ends else ""
    gain = ""
    if result.gain is not None and one.gain is not None:
        gain = f"; gain over the baseline {result.gain:+.3f}, reported {one.gain:+.3f}"
    return (
        f"{one.run.point.name}: similarity {comparison.confirmed:.3f} on {len(result.scores)} new images, "
        f"reported {comparison.reported:.3f}: change {comparison.change:+.3f}{bounds}{gain}"
    )


def report_transfers(sweep: Sweep) -> list[str]:
    """Write transfer.csv; returns a sentence for each LoRA and base model."""
    rows = [row for one in summary.gather(sweep) if one.choice for row in _transfer_rows(one, sweep)]
    csv_files.write(sweep.report / TRANSFER, list(rows[0]) if rows else ["run"], rows)
    return [
        f"{row['run']} on {row['made_on']}: similarity {row['similarity_mean']}, gain over the baseline "
        f"{row['gain'] or 'unknown'}; on {row['trained_on']}, where it was trained: {row['similarity_at_home']}, "
        f"{row['gain_at_home'] or 'unknown'}"
        for row in rows
    ]


def _transfer_rows(one: RunSummary, sweep: Sweep) -> Iterator[dict[str, str]]:
    """Means over the prompts and seeds that the run's own report uses."""
    reported = {choice.cell(score) for score in one.choice.reported} if one.choice else set()
    for transfer in one.run.transfers():
        base = str(transfer.point.params["base_model"])
        scores = [score for score in _scores(transfer) if choice.cell(score) in reported]
        if not scores:
            continue
        metrics = run_metrics.summary(scores)
        yield {
            "run": one.run.point.name,
            "trained_on": str(one.run.point.params["base_model"]),
            "made_on": base,
            "similarity_mean": _number(metrics.similarity_mean),
            "no_face_rate": _number(metrics.no_face_rate),
            "gain": _number(confirmation.gain(scores, _scores(sweep.baseline_run(plan.baseline_point(base))))),
            "similarity_at_home": _number(one.metrics.similarity_mean if one.metrics else None),
            "gain_at_home": _number(one.gain),
        }


def _scores(run: Run) -> tuple[Score, ...]:
    return scoring.read_scores(run.path / layout.PRODUCTS["score"]) if run.done("score") else ()


def _number(value: float | None, digits: int = 4) -> str:
    return "" if value is None else f"{value:.{digits}g}"
