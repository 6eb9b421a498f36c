"""Answers to contrasts of existing LoRA files: a comparison of files, not of the settings they were trained with."""

from orchestrator.evidence import lora_files
from orchestrator.evidence.lora_files import FileComparison
from orchestrator.evidence.stats.contrast import TestSettings, Verdict
from orchestrator.evidence.summary import RunSummary, SweepSummary
from orchestrator.model import LORA, Question
from orchestrator.report.answers.answer import Answer
from orchestrator.store import layout, records
from orchestrator.text import code_span, escape_markdown, pluralize
from orchestrator.values import same


def answer(sweep: SweepSummary, question: Question, settings: TestSettings) -> Answer:
    """As the verdicts of other contrasts, with an interval over prompts and image seeds."""
    runs = [one for level in question.levels for one in sweep.runs if _is_file(one, level) and one.choice]
    found = _compare(sweep, question, runs)
    first, second = (escape_markdown(str(level)) for level in question.levels)
    verdict, reason = _verdict(found, settings.smallest)
    over = f" on {pluralize(found.prompts, 'prompt')} and {pluralize(found.seeds, 'image seed')}" if found else ""
    return Answer(
        id=question.id,
        ask=question.ask,
        sweep=sweep.sweep.name,
        verdict=verdict.value,
        sentence=f"{second} against {first}: {reason}{over}. This is a comparison of files, not of training settings.",
        contrast=f"is {second} better than {first}?",
        difference=found.difference if found else None,
        interval=found.interval if found else None,
        smallest=settings.smallest,
        pairs=found.prompts * found.seeds if found else None,
        facts=(
            ("Interval", "95 %, over prompts and image seeds; another training may give another order"),
            *((f"File {escape_markdown(str(one.run.point.params[LORA]))}", _origin(one)) for one in runs),
        ),
    )


def _is_file(one: RunSummary, level: object) -> bool:
    name = one.run.point.params.get(LORA)
    return name is not None and same(name, str(level))


def _compare(sweep: SweepSummary, question: Question, runs: list[RunSummary]) -> FileComparison | None:
    bases = [str(one.run.point.params["base_model"]) for one in runs]
    baselines = {one.run.point.params["base_model"]: one.scores for one in sweep.runs if one.run.point.is_baseline}
    compared = lora_files.compare(
        [one.choice.reported if one.choice else () for one in runs],
        [baselines.get(base, ()) for base in bases],
        bases,
        family=sum(other.dim == LORA for other in sweep.questions),
        by_gain=question.measure == "gain",
    )
    return compared[0] if compared else None


def _verdict(found: FileComparison | None, smallest: float) -> tuple[Verdict, str]:
    if found is None or found.interval is None:
        return Verdict.UNDECIDED, "too few common images are scored"
    low, high = found.interval.low, found.interval.high
    measure = "gain" if found.by_gain else "similarity"
    text = f"{measure} {found.difference:+.3f} (95 % interval {low:+.3f} to {high:+.3f})"
    if low > 0 and found.difference >= smallest:
        return Verdict.YES, f"better, {text}"
    if high < smallest:
        return Verdict.NO, f"{'worse' if high < 0 else 'no relevant difference'}, {text}"
    return Verdict.UNDECIDED, text


def _origin(one: RunSummary) -> str:
    """Path, hash and metadata."""
    record = records.read(one.run.path / layout.LORA_ORIGIN)
    named = {"module": record["module"], "trained on": record["base_name"]}
    known = "; ".join(f"{key} {code_span(str(text))}" for key, text in named.items() if text) or "no metadata"
    return f"{code_span(ascii(record['path'])[1:-1])}, SHA-256 {record['sha256'][:16]}, {known}"
