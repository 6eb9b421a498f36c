"""Texts that are longer than CLIP reads, as sd-scripts' own tokenizer counts them in `check --deep`."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from orchestrator import files
from orchestrator.config.schema import Settings
from orchestrator.errors import Problem, warning
from orchestrator.kohya import prompts
from orchestrator.model import Point
from orchestrator.plan.check.report import CheckReport
from orchestrator.text import first_names, pluralize

_FACT, _UNKNOWN = "tokens", "estimated: sd-scripts has not loaded its tokenizer"
_LONGEST = 225


def report(configs: Mapping[Path, Point], texts: Sequence[str], settings: Settings) -> CheckReport:
    """A warning for each dataset and length of its captions, and one for the texts; the longest ones as a fact.

    configs: each with its point; the counts are in the files that `dry_run` has written beside them.
    texts: the prompts and the negative prompt.
    """
    counted = {config: _read(config) for config in configs}
    found = [(configs[config], counts) for config, counts in counted.items() if counts]
    if not found:
        return CheckReport(facts={_FACT: _UNKNOWN})
    captions: dict[tuple[str, int], dict[str, int]] = {}
    for point, counts in found:
        captions.setdefault((str(point.params["dataset"]), counts["limit"]), {}).update(counts["captions"])
    lengths = dict(zip(texts, found[0][1]["texts"], strict=True))
    longest = max((count for counts in captions.values() for count in counts.values()), default=0)
    fact = f"{longest} in the longest caption, {max(lengths.values())} in the longest prompt"
    problems = [one for (name, limit), counts in captions.items() for one in _captions(name, limit, counts)]
    return CheckReport(facts={_FACT: fact}, problems=(*problems, *_texts(lengths, settings)))


def without_estimates(problems: Iterable[Problem], counted: CheckReport) -> list[Problem]:
    """The problems without those that a report has counted exactly."""
    exact = counted.facts.get(_FACT, _UNKNOWN) != _UNKNOWN
    return [one for one in problems if not (exact and one.is_estimate)]


def _read(config: Path) -> Any:
    path = config.with_name(f"{config.name}.tokens")
    return files.read_json(path) if path.is_file() else None


def _captions(dataset: str, limit: int, counts: Mapping[str, int]) -> Iterator[Problem]:
    long = {Path(path): count for path, count in counts.items() if count > limit}
    if long:
        named = first_names([f"{path.name} ({count})" for path, count in long.items()])
        what = f"sd-scripts cuts {len(long)} of {pluralize(len(counts), 'caption')} after {limit} tokens: {named}"
        remedy = "shorten them" if limit >= _LONGEST else "shorten them, or max_token_length = 225 under [arguments]"
        yield warning(f"datasets.{dataset}", what, remedy, where=str(next(iter(long)).parent))


def _texts(lengths: Mapping[str, int], settings: Settings) -> Iterator[Problem]:
    if long := {text: count for text, count in lengths.items() if count > prompts.TOKENS}:
        named = first_names([f'"{text[:40]}..." ({count})' for text, count in long.items()])
        what = (
            f"gen_img.py cuts {len(long)} of {pluralize(len(lengths), 'prompt')} after {prompts.TOKENS} tokens: {named}"
        )
        yield warning("generate.prompts", what, "shorten them", where=str(settings.generation.prompts))
