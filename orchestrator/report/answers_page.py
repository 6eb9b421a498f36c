"""Writes answers into the owner's own page of questions, between marks under each heading; all else stays as it is.

### Q3: Is network_dim 16 too low?
...
<!-- orchestrate:Q3 begin -->
replaced on the next run
<!-- orchestrate:Q3 end -->
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from orchestrator import files
from orchestrator.errors import InputError, Problem, Severity

_HEADING = re.compile(r"#{1,6}[ \t]")
_LINE = re.compile(r"[^\n]*\n|[^\n]+")
_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})")


@dataclass(frozen=True, slots=True, kw_only=True)
class EditResult:
    """The page with its answers, and what found no place in it."""

    text: str
    problems: tuple[Problem, ...]


def update(path: Path, blocks: Mapping[str, str]) -> list[Problem]:
    """Put the blocks, by the id of their question, into the page; warnings for those without a heading.

    Bytes that are not UTF-8 survive. Raises InputError when the page cannot be read, or when marks in it are torn; it
    is then left as it was.
    """
    try:
        before, mode = files.read_text(path), path.stat().st_mode
        edited = edit(before, blocks, where=str(path))
        if edited.text != before:
            files.write_text(path.resolve(), edited.text)
            path.chmod(mode)
    except OSError as error:
        remedy = "name the page with your questions, one under each heading `### Q1: ...`"
        raise InputError(Problem(what=f"cannot be edited: {error.strerror}", where=str(path), remedy=remedy)) from None
    return list(edited.problems)


def edit(text: str, blocks: Mapping[str, str], *, where: str) -> EditResult:
    """The text of a page with each block in its place: where its marks are, else at the end of its section."""
    problems = []
    for name, block in blocks.items():
        place = _marked(text, name, where) or _section_end(text, name)
        if place is None:
            problems.append(_homeless(name, where))
            continue
        begin, end = place
        text = text[:begin] + _with_marks(text, begin, end, name, block) + text[end:]
    return EditResult(text=text, problems=tuple(problems))


def _marked(text: str, name: str, where: str) -> tuple[int, int] | None:
    """From the first mark to the end of the last; None where there are none."""
    begins, ends = ([m.start() for m in re.finditer(re.escape(mark), text)] for mark in _marks(name))
    if not begins and not ends:
        return None
    if len(begins) != 1 or len(ends) != 1 or begins[0] > ends[0]:
        what = f"the marks of {name} are torn: {len(begins)} begin, {len(ends)} end"
        remedy = "delete what is left of the block; it is written anew"
        raise InputError(Problem(what=what, where=f"{where}:{_line(text, (begins or ends)[0])}", remedy=remedy))
    return begins[0], ends[0] + len(_marks(name)[1])


def _marks(name: str) -> tuple[str, str]:
    return f"<!-- orchestrate:{name} begin -->", f"<!-- orchestrate:{name} end -->"


def _section_end(text: str, name: str) -> tuple[int, int] | None:
    """Behind the last line with text in the section of a question, twice."""
    wanted = re.compile(rf"###[ \t]+{re.escape(_heading_of(name))}\b(?!-)")
    inside, end, fence = False, None, ""
    at = 0
    for number, line in enumerate(_LINE.findall(text)):
        words = line if number else line.removeprefix("\ufeff")
        fence = _fence_after(fence, words)
        if not fence and _HEADING.match(words):
            if inside:
                break
            inside = bool(wanted.match(words))
        if inside and line.strip():
            end = at + len(line.rstrip("\r\n"))
        at += len(line)
    return None if end is None else (end, end)


def _fence_after(fence: str, line: str) -> str:
    """The fence that is open behind a line; empty when none is. As long a one, at least, closes it."""
    found = _FENCE.match(line)
    if not found:
        return fence
    if not fence:
        return found[1]
    return "" if found[1].startswith(fence) else fence


def _heading_of(name: str) -> str:
    """`Q6-12` is a second question under the heading Q6."""
    return name.partition("-")[0]


def _with_marks(text: str, begin: int, end: int, name: str, block: str) -> str:
    """The block as the page writes its lines; a new one stands apart from what is before it."""
    newline = "\r\n" if "\r\n" in text else "\n"
    first, last = _marks(name)
    lines = [first, *block.strip().splitlines(), last]
    return (newline * 2 if begin == end else "") + newline.join(lines)


def _line(text: str, at: int) -> int:
    return text.count("\n", 0, at) + 1


def _homeless(name: str, where: str) -> Problem:
    heading = f"### {_heading_of(name)}: ..."
    return Problem(
        what=f"has no heading for {name}, so its answer is not written there",
        where=where,
        remedy=f"add a heading `{heading}`",
        severity=Severity.WARNING,
    )
