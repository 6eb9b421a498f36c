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

_FILES = "This is a comparison of files, not of training settings."


def answer(sweep: SweepSummary, question: Question, settings: TestSettings) -> Answer:
    """As the verdicts of other contrasts, with an interval over prompts and image seeds."""
    runs = [one for level in question.levels for one in sweep.runs if _is_file(one, level) and one.choice]
    found = _compare(sweep, question, runs)
    first, second = (escape_markdown(str(level)) for level in question.levels)
    verdict, claim = _verdict(found, settings.smallest)
    return Answer(
        id=question.id,
        ask=question.ask,
        sweep=sweep.sweep.name,
        verdict=verdict.value,
        sentence=f"{claim.format(first=first, second=second)}: {_size(found)}. {_FILES}",
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
    """The verdict, and what it says about the files `{first}` and `{second}`."""
    if found and found.interval and found.interval.low > 0 and found.difference >= smallest:
        return Verdict.YES, "{second} is better than {first}"
    if found and found.interval and found.interval.high < 0:
        return Verdict.NO, "{second} is worse than {first}"
    if found and found.interval and found.interval.high < smallest:
        return Verdict.NO, "No relevant difference between {first} and {second}"
    return Verdict.UNDECIDED, "Not decided whether {second} is better than {first}"


def _size(found: FileComparison | None) -> str:
    if found is None or found.interval is None:
        return "too few common images are scored"
    measure = "gain" if found.by_gain else "similarity"
    images = f"{pluralize(found.prompts, 'prompt')} and {pluralize(found.seeds, 'image seed')}"
    bounds = f"{found.interval:+.3f}"
    return f"{found.difference:+.3f} {measure} (95 % interval {bounds}) on {images}"


def _origin(one: RunSummary) -> str:
    """Path, hash and metadata."""
    record = records.read(one.run.path / layout.LORA_ORIGIN)
    named = {"module": record["module"], "trained on": record["base_name"]}
    known = "; ".join(f"{key} {code_span(str(text))}" for key, text in named.items() if text) or "no metadata"
    return f"{code_span(ascii(record['path'])[1:-1])}, SHA-256 {record['sha256'][:16]}, {known}"
