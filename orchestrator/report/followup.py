"""Reports of follow-up images: confirm.csv and transfer.csv, and one sentence for each run."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from orchestrator.config.schema import Comparison
from orchestrator.evidence import choice, confirmation, run_metrics, summary
from orchestrator.evidence.confirmation import ConfirmationResult
from orchestrator.evidence.stats import contrast
from orchestrator.evidence.stats.contrast import ContrastResult, QuestionFamily, TestSettings
from orchestrator.evidence.stats.estimates import Interval
from orchestrator.evidence.stats.pairs import RunRow
from orchestrator.evidence.summary import RunSummary, scores_of
from orchestrator.model import Question
from orchestrator.plan import plan
from orchestrator.report import csv_files
from orchestrator.report.answers import rows as answer_rows
from orchestrator.report.labels import labels
from orchestrator.store import layout, state
from orchestrator.store.layout import Run, Sweep
from orchestrator.text import pluralize

CONFIRM = "confirm.csv"
TRANSFER = "transfer.csv"


def report_confirmations(sweep: Sweep) -> list[str]:
    """Write confirm.csv; returns a sentence for each confirmed run, best first."""
    runs = summary.gather(sweep)
    names = labels([one.run.point for one in runs])
    found = [(one, one.confirmation) for one in runs if one.confirmation]
    found.sort(key=lambda pair: pair[1].comparison.confirmed, reverse=True)
    trained = [(one, result) for one, result in found if not one.run.point.is_baseline]
    optimism = confirmation.optimism([result for _, result in trained])
    best = trained[0][0] if trained else None
    rows = [_confirm_row(one, result, optimism if one is best else 0.0) for one, result in found]
    csv_files.write(sweep.report / CONFIRM, list(rows[0]) if rows else ["run"], rows)
    sentences = [_confirm_sentence(names[one.run.point.id], result) for one, result in found]
    if best and len(trained) > 1:
        sentences.append(_best_sentence(names[best.run.point.id], trained[0][1], len(trained), optimism))
    return sentences


def quote(one: RunSummary) -> str:
    """The confirmed similarity of a run that was selected on other images, with its interval."""
    assert one.confirmation, "the run is confirmed"
    assert one.choice, "the run is confirmed"
    result, ends = one.confirmation, one.confirmation.comparison.confirmed_interval
    bounds = f" (95 % interval {ends:.3f})" if ends else " (no interval: one prompt)"
    gain = "" if result.gain is None else f"; gain over the base model {result.gain:+.3f}"
    prompts = len({score.image.text for score in result.scores})
    images = f"{pluralize(len(result.scores), 'new image')} of {pluralize(prompts, 'prompt')}"
    file = f"{one.run.point.name}, {Path(one.choice.checkpoint).name}, strength {one.choice.strength:g}"
    return f"Similarity to quote: {result.comparison.confirmed:.3f}{bounds} on {images}{gain}. Selected: {file}."


def _best_sentence(name: str, result: ConfirmationResult, count: int, optimism: float | None) -> str:
    """What the selection of the best confirmed run adds to its value."""
    start = f"{name} was selected as the best of {count} confirmed runs, so its value is too high: "
    if optimism is None:
        return f"{start}by how much is unknown, because the runs have fewer than two common prompts"
    corrected = result.comparison.confirmed - optimism
    return f"{start}by {optimism:.3f} on average if the runs are equal; quote {corrected:.3f}"


def _confirm_row(one: RunSummary, result: ConfirmationResult, optimism: float | None) -> dict[str, str]:
    comparison = result.comparison
    return {
        "run": one.run.point.name,
        "reported": _number(comparison.reported, 6),
        "confirmed_similarity": _number(comparison.confirmed, 6),
        **_bounds("confirmed_similarity", comparison.confirmed_interval),
        "change": _number(comparison.change, 6),
        **_bounds("change", comparison.change_interval),
        "gain": _number(result.gain, 6),
        "reported_gain": _number(result.reported_gain, 6),
        "paired": "yes" if comparison.paired else "no",
        "new_prompts": "yes" if result.new_prompts else "no",
        "optimism": _number(optimism, 6),
        "corrected_similarity": _number(None if optimism is None else comparison.confirmed - optimism, 6),
        "images": str(len(result.scores)),
    }


def _bounds(name: str, interval: Interval | None) -> dict[str, str]:
    low, high = (interval.low, interval.high) if interval else (None, None)
    return {f"{name}_low": _number(low, 6), f"{name}_high": _number(high, 6)}


def _confirm_sentence(name: str, result: ConfirmationResult) -> str:
    """With the gain over the baseline where it is known: new prompts may be harder for the base model, too."""
    comparison, ends = result.comparison, result.comparison.change_interval
    bounds = f" ({ends:+.3f})" if ends else ""
    gain = ""
    if result.gain is not None and result.reported_gain is not None:
        gain = f"; gain over the baseline {result.gain:+.3f}, reported {result.reported_gain:+.3f}"
    if not result.new_prompts:
        gain += (
            "; the checkpoint was selected on these prompts, so only the seeds are new (set generate.confirm_prompts)"
        )
    same = " on the same prompts" if comparison.paired else ""
    return (
        f"{name}: similarity {comparison.confirmed:.3f} on {len(result.scores)} new images, "
        f"reported {comparison.reported:.3f}{same}: change {comparison.change:+.3f}{bounds}{gain}"
    )


def report_transfers(sweep: Sweep, comparison: Comparison) -> list[str]:
    """Write transfer.csv; returns a sentence for each LoRA and base model, then one for each pair of base models.

    comparison: of the settings.
    """
    found = [one for one in summary.gather(sweep) if one.choice]
    results = {(result.question.levels): result for result in compare_transfers(found, sweep, comparison)}
    rows = [row for one in found for row in _transfer_rows(one, sweep)]
    for row in rows:
        result = results[row["trained_on"], row["made_on"]]
        row |= {
            "verdict": result.verdict.value,
            "difference": _number(result.difference),
            "low": _number(result.interval.low if result.interval else None),
            "high": _number(result.interval.high if result.interval else None),
        }
    csv_files.write(sweep.report / TRANSFER, list(rows[0]) if rows else ["run"], rows)
    sentences = [
        f"{row['run']} on {row['made_on']}: similarity {row['similarity_mean']}, gain over the baseline "
        f"{row['gain'] or 'unknown'}; on {row['trained_on']}, where it was trained: {row['similarity_at_home']}, "
        f"{row['gain_at_home'] or 'unknown'}"
        for row in rows
    ]
    return [*sentences, *map(_transfer_sentence, results.values())]


def compare_transfers(
    found: Sequence[RunSummary], sweep: Sweep, comparison: Comparison | None = None
) -> list[ContrastResult]:
    """For each pair of base models: is the gain of the LoRAs better on the other base model than where it was trained?

    Paired by run; the training seeds are the replicates. All pairs of base models are corrected together.
    """
    groups: dict[tuple[str, str], list[RunSummary]] = {}
    for one in found:
        home = str(one.run.point.params["base_model"])
        done = sorted((run for run in one.run.transfers() if run.done("score")), key=_scored_at)
        for base, transfer in {str(run.point.params["base_model"]): run for run in done}.items():
            if moved := _on(one, transfer):
                groups.setdefault((home, base), []).extend((one, moved))
    families = [
        QuestionFamily(
            rows=_with_base_as_dim(
                answer_rows.rows([*members, *(_baseline(name, sweep) for name in bases)]), comparison or Comparison()
            ),
            questions=[Question(id=f"transfer to {bases[1]}", ask="", dim="base_model", levels=bases, measure="gain")],
        )
        for bases, members in groups.items()
    ]
    return [result for (result,) in contrast.evaluate_together(families, settings=TestSettings())]


def _on(one: RunSummary, transfer: Run) -> RunSummary | None:
    """The run with the images of a transfer: those of the prompts and seeds that the run reports."""
    reported = {choice.cell(score) for score in one.choice.reported} if one.choice else set()
    scores = tuple(score for score in scores_of(transfer) if choice.cell(score) in reported)
    if not scores or one.choice is None:
        return None
    return replace(
        one,
        run=transfer,
        scores=scores,
        choice=replace(one.choice, reported=scores),
        previews={},
        environment=summary.environment_of(transfer),
    )


def _baseline(base: str, sweep: Sweep) -> RunSummary:
    run = sweep.baseline_run(plan.baseline_point(base))
    environment = summary.environment_of(run)
    return RunSummary(run=run, status=state.status(run), training=(), scores=scores_of(run), environment=environment)


def _with_base_as_dim(rows: Sequence[RunRow], comparison: Comparison) -> list[RunRow]:
    """Named apart, because both runs of a pair are the same training."""
    return [
        replace(
            row,
            run=f"{row.run} on {row.params['base_model']}",
            dims=tuple(dict.fromkeys((*row.dims, "base_model"))),
            environment={} if comparison.allow_different_hardware else row.environment,
        )
        for row in rows
    ]


def _transfer_sentence(result: ContrastResult) -> str:
    home, base = result.question.levels
    return (
        f"Do LoRAs trained on {home} gain more on {base}? {result.verdict.value}: {result.reason} "
        f"({pluralize(len(result.matching.pairs), 'LoRA')}, {pluralize(result.replicates, 'training seed')})"
    )


def _transfer_rows(one: RunSummary, sweep: Sweep) -> Iterator[dict[str, str]]:
    """Means over the prompts and seeds that the run's own report uses."""
    reported = {choice.cell(score) for score in one.choice.reported} if one.choice else set()
    for transfer in one.run.transfers():
        base = str(transfer.point.params["base_model"])
        scores = [score for score in scores_of(transfer) if choice.cell(score) in reported]
        if not scores:
            continue
        metrics = run_metrics.summary(scores)
        yield {
            "run": one.run.point.name,
            "trained_on": str(one.run.point.params["base_model"]),
            "made_on": base,
            "similarity_mean": _number(metrics.similarity_mean),
            "no_face_rate": _number(metrics.no_face_rate),
            "gain": _number(confirmation.gain(scores, scores_of(sweep.baseline_run(plan.baseline_point(base))))),
            "similarity_at_home": _number(one.metrics.similarity_mean if one.metrics else None),
            "gain_at_home": _number(one.gain),
        }


def _scored_at(run: Run) -> int:
    return (run.path / layout.PRODUCTS["score"]).stat().st_mtime_ns


def _number(value: float | None, digits: int = 4) -> str:
    return "" if value is None else f"{value:.{digits}g}"
