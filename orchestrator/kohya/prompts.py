"""Prompt files: one prompt per line, `#` starts a comment. Refuses what gen_img.py would read as its own syntax."""

import re
from pathlib import Path

from orchestrator.config.schema import Generation
from orchestrator.errors import Problem, Severity

_TOKENS = 75  # of one CLIP chunk; gen_img.py cuts off the rest


def read_prompts(path: Path) -> tuple[tuple[str, ...], list[Problem]]:
    """The prompts of a file in UTF-8, and what is wrong with it."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        what = f"the prompts file cannot be read: {error.strerror}"
        return (), [Problem(what=what, where=str(path), remedy="write one prompt per line into it")]
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
        problems.append(Problem(what="there is no prompt in it", where=where, remedy="write one prompt per line"))
    return tuple(line for _, line in prompts), problems + _repeated(prompts, where) + _long(prompts, where)


def preview(text: str, generation: Generation, seed: int) -> str:
    """A line of the trainer's `--sample_prompts`, drawn as the pictures that are scored."""
    negative = f" --n {generation.negative_prompt}" if generation.negative_prompt else ""
    size = f"--w {generation.width} --h {generation.height}"
    return f"{text}{negative} {size} --d {seed} --s {generation.steps} --l {generation.scale:g}"


def unusable(text: str, *, where: str, key: str = "") -> list[Problem]:
    """What gen_img.py would not take as plain words in this prompt, or negative prompt."""
    found = [
        Problem(what=what, where=where, key=key, value=text, remedy=remedy)
        for pattern, what, remedy in _SYNTAX
        if re.search(pattern, text)
    ]
    if text.startswith("--"):
        found.append(
            Problem(what="a prompt cannot start with --", where=where, key=key, value=text, remedy="reword it")
        )
    return found


_SYNTAX = (
    (
        r"\s--",
        'gen_img.py reads what follows " --" as an option',
        "leave options out: size, steps, scale, seeds and negative prompt stand under [generate]",
    ),
    (r"[{}]", "gen_img.py reads {a|b} as a random choice", "write each variant as a prompt of its own"),
    (r"[\x00-\x08\x0a-\x1f\x7f\x85\u2028\u2029]", "a prompt is one line without control characters", "remove them"),
)


def _repeated(prompts: list[tuple[int, str]], where: str) -> list[Problem]:
    first: dict[str, int] = {}
    return [
        Problem(
            what=f"the same prompt as in line {first[line]}",
            where=f"{where}:{number}",
            value=line,
            remedy="remove one: pictures of the same prompt and seed are the same",
            severity=Severity.WARNING,
        )
        for number, line in prompts
        if first.setdefault(line, number) != number
    ]


def _long(prompts: list[tuple[int, str]], where: str) -> list[Problem]:
    """Prompts of more than one chunk; each word, digit and run of signs is at least one token, so these are cut."""
    return [
        Problem(
            what=f"longer than {_TOKENS} tokens: gen_img.py cuts off the rest",
            where=f"{where}:{number}",
            value=line,
            remedy="shorten it",
            severity=Severity.WARNING,
        )
        for number, line in prompts
        if len(re.findall(r"[^\W\d_]+|\d|[^\w\s]+", line)) > _TOKENS
    ]
