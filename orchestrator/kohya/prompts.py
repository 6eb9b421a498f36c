"""Prompt files: one prompt per line, `#` starts a comment. Rejects what gen_img.py reads as its own syntax."""

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from orchestrator.config.schema import Generation
from orchestrator.errors import Problem, Severity, error
from orchestrator.files import read_bytes, why_no_file
from orchestrator.redaction import unfit

TOKENS = 75
"""One chunk of CLIP: gen_img.py ignores the rest of a prompt."""


def read_prompts(path: Path, key: str = "generate.prompts") -> tuple[tuple[str, ...], list[Problem]]:
    """The prompts of a file in UTF-8, and what is wrong with it. key: the settings key that names the file."""
    try:
        text = read_bytes(path).decode("utf-8-sig")
    except OSError as error:
        what = f"cannot be read: {error.strerror}" if path.is_file() else why_no_file(path)
        remedy = "correct the path, or write one prompt per line into this file"
        return (), [Problem(what=what, where=str(path), key=key, remedy=remedy)]
    except UnicodeDecodeError as error:
        what = f"byte {error.start} is not UTF-8"
        return (), [Problem(what=what, where=str(path), remedy="save the file as UTF-8")]
    return parse_prompts(text, where=str(path))


def parse_prompts(text: str, *, where: str) -> tuple[tuple[str, ...], list[Problem]]:
    """The prompts of a file's text, and what is wrong with them. `where` is the file's name."""
    lines = [(number, line.strip()) for number, line in enumerate(text.split("\n"), start=1)]
    prompts = [(number, line) for number, line in lines if line and not line.startswith("#")]
    problems = [problem for number, line in prompts for problem in unusable(line, where=f"{where}:{number}")]
    if not prompts:
        problems.append(Problem(what="the file contains no prompt", where=where, remedy="write one prompt per line"))
    return tuple(line for _, line in prompts), [*problems, *_repeated(prompts, where), *_long(prompts, where)]


def preview(text: str, generation: Generation, seed: int) -> str:
    """A line of the trainer's `--sample_prompts`, with the same settings as the scored images."""
    negative = f" --n {generation.negative_prompt}" if generation.negative_prompt else ""
    size = f"--w {generation.width} --h {generation.height}"
    return f"{text}{negative} {size} --d {seed} --s {generation.steps} --l {generation.scale:g}"


def unusable(text: str, *, where: str, key: str = "") -> list[Problem]:
    """What gen_img.py would not read as plain words in a prompt or, with `key`, in the negative prompt."""
    rules = [*_SYNTAX, *_LITERAL] if key else [*_SYNTAX, *_LITERAL, _REGIONS]
    if (wrong := unfit(text))[0]:
        return [error(key, wrong[0], wrong[1], where=where)]
    found = [
        Problem(what=what, where=where, key=key, value=text, remedy=remedy, severity=severity)
        for pattern, what, remedy, severity in rules
        if re.search(pattern, text)
    ]
    return [*found, *_weights(text, where, key)]


_SYNTAX = (
    (
        r"(^|\s)--",
        "gen_img.py reads text after -- as an option",
        "remove it: size, steps, scale, seeds and negative prompt are set under [generate]",
        Severity.ERROR,
    ),
    (r"[{}]", "gen_img.py reads {a|b} as a random choice", "write each variant as a separate prompt", Severity.ERROR),
    (
        r"[\x00-\x08\x0a-\x1f\x7f\x85\u2028\u2029]",
        "a prompt is one line without control characters",
        "remove them",
        Severity.ERROR,
    ),
    (
        r"BREAK",
        "gen_img.py reads BREAK, also inside a word, as the end of the prompt and ignores the rest",
        "remove it, or write the word in lower case",
        Severity.ERROR,
    ),
)
_REGIONS = (
    r" AND ",
    'gen_img.py splits a prompt at " AND " into image regions, and fails',
    'write "and" in lower case, or "-AND-" with hyphens',
    Severity.ERROR,
)
_LITERAL = tuple(
    (pattern, f"gen_img.py reads {name} as plain words", remedy, Severity.WARNING)
    for pattern, name, remedy in (
        (r"(?i)<(lora|lyco|lycoris|hypernet):", "<lora:...>", "remove it: each run uses its own LoRA and strength"),
        (r"(?i)\bembedding:", "embedding:...", "remove it: embeddings are not loaded"),
        (r"__[\w/*-]+__", "__wildcard__", "write each variant as a separate prompt"),
        (r"\[[^\[\]]*(\||:[^\[\]]*:\s*[\d.]+\s*)[^\[\]]*\]", "[a:b:0.5] and [a|b]", "write one of the words"),
    )
)
"""Syntax of other programs, which has no effect in gen_img.py."""


def _weights(text: str, where: str, key: str) -> Iterator[Problem]:
    """`(word:1.2)` weights a word: gen_img.py fails if the number is malformed, and a ratio (16:9) is a weight of 9."""
    escaped = re.sub(r"\\.", "", text)
    for match in re.finditer(r":([+-]?[.\d]+)\)", escaped):
        wrong = not re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)", match[1])
        if "(" in escaped[: match.start()] and (wrong or abs(float(match[1])) > _MAX_WEIGHT):
            yield Problem(
                what=f"gen_img.py {'fails at' if wrong else 'reads'} the weight {match[1]} in (...:{match[1]})",
                where=where,
                key=key,
                value=text,
                remedy=f"write a weight like 1.2, or remove the {'colon' if wrong else 'parentheses'}",
                severity=Severity.ERROR if wrong else Severity.WARNING,
            )


_MAX_WEIGHT = 2


def _repeated(prompts: list[tuple[int, str]], where: str) -> Iterator[Problem]:
    first: dict[str, int] = {}
    for number, line in prompts:
        if first.setdefault(line, number) != number:
            what = f"the same prompt as in line {first[line]}"
            yield _warning(what, f"{where}:{number}", line, "remove one: the same prompt and seed give the same image")


def _long(prompts: list[tuple[int, str]], where: str) -> Iterator[Problem]:
    """Prompts of more than one chunk; each word, digit and run of other characters is at least one token."""
    for number, line in prompts:
        if len(re.findall(r"[^\W\d_]+|\d|[^\w\s]+", line)) > TOKENS:
            what = f"longer than {TOKENS} tokens: gen_img.py ignores the rest"
            yield replace(_warning(what, f"{where}:{number}", line, "shorten it"), is_estimate=True)


def _warning(what: str, where: str, value: str, remedy: str) -> Problem:
    return Problem(what=what, where=where, value=value, remedy=remedy, severity=Severity.WARNING)
