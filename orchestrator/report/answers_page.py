"""Inserts answers into a Markdown page of questions, between marks under each heading; all other text stays unchanged.

### Q3: Is network_dim 16 too low?
...
<!-- orchestrate:Q3 begin -->
replaced by the next run
<!-- orchestrate:Q3 end -->
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from orchestrator import files
from orchestrator.errors import InputError, Problem, Severity

_HEADING = re.compile(r"#{1,6}[ \t]")
_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})")
_CODE = re.compile(r"(?<!`)(`+)(?!`).+?(?<!`)\1(?!`)")
_LINE = re.compile(r"[^\n]*\n|[^\n]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class EditResult:
    """The page with its answers, and a warning for each question without a heading."""

    text: str
    problems: tuple[Problem, ...]


def update(path: Path, blocks: Mapping[str, str]) -> list[Problem]:
    """Insert the blocks (question id -> Markdown) into the page; returns a warning for each one without a heading.

    Bytes that are not UTF-8, the file's mode and its owner stay. Raises InputError if the page cannot be read or its
    marks are damaged; the page is then unchanged.
    """
    try:
        before, status = files.read_text(path), path.stat()
        edited = edit(before, blocks, where=str(path))
        if edited.text != before:
            files.write_text(path.resolve(), edited.text)
            path.chmod(status.st_mode)
            if os.geteuid() == 0:
                os.chown(path, status.st_uid, status.st_gid)
    except OSError as error:
        remedy = "name a page with a heading such as `### Q1: ...` for each question"
        raise InputError(Problem(what=f"cannot be edited: {error.strerror}", where=str(path), remedy=remedy)) from None
    return list(edited.problems)


def edit(text: str, blocks: Mapping[str, str], *, where: str) -> EditResult:
    """The page with each block between its marks, or else at the end of its section."""
    problems = []
    newline = "\r\n" if "\r\n" in text else "\n"
    for name, block in blocks.items():
        place = _between_marks(text, name, where) or _section_end(text, name)
        if place is None:
            heading = f"### {_heading_of(name)}: ..."
            what, remedy = f"has no heading for {name}, so its answer is not inserted", f"add a heading `{heading}`"
            problems.append(Problem(what=what, where=where, remedy=remedy, severity=Severity.WARNING))
            continue
        first, last = _marks(name)
        begin, end = place
        gap = newline * 2 if begin == end else ""
        text = text[:begin] + gap + newline.join([first, *block.strip().splitlines(), last]) + text[end:]
    return EditResult(text=text, problems=tuple(problems))


def _marks(name: str) -> tuple[str, str]:
    return f"<!-- orchestrate:{name} begin -->", f"<!-- orchestrate:{name} end -->"


def _between_marks(text: str, name: str, where: str) -> tuple[int, int] | None:
    """Begin and end of the block with its marks; None without marks outside of code."""
    plain = _plain(text)
    begins, ends = ([match.start() for match in re.finditer(re.escape(mark), plain)] for mark in _marks(name))
    if not begins and not ends:
        return None
    if len(begins) != 1 or len(ends) != 1 or begins[0] > ends[0]:
        what = f"the marks of {name} are damaged: {len(begins)} begin, {len(ends)} end"
        line = text.count("\n", 0, (begins or ends)[0]) + 1
        remedy = "delete the rest of the block and its marks; the next run inserts it again"
        raise InputError(Problem(what=what, where=f"{where}:{line}", remedy=remedy))
    return begins[0], ends[0] + len(_marks(name)[1])


def _section_end(text: str, name: str) -> tuple[int, int] | None:
    """The end of the last non-empty line in a question's section, twice; None without the section."""
    heading = re.compile(rf"###[ \t]+{re.escape(_heading_of(name))}\b(?!-)")
    inside, end, at = False, None, 0
    for line, shown in zip(_LINE.findall(text), _LINE.findall(_plain(text)), strict=True):
        plain = shown.removeprefix("\ufeff")
        if _HEADING.match(plain):
            if inside:
                break
            inside = bool(heading.match(plain))
        if inside and line.strip():
            end = at + len(line.rstrip("\r\n"))
        at += len(line)
    return None if end is None else (end, end)


def _plain(text: str) -> str:
    """The text with spaces for code and further lines of comments; all other characters keep their places."""
    fence, comment, lines = "", False, []
    for line in _LINE.findall(text):
        before, hidden = fence, comment
        if not comment:
            fence = _fence_after(fence, line)
        if not (before or fence):
            line = line if comment else _CODE.sub(lambda found: " " * len(found[0]), line)
            comment = line.rfind("<!--") > line.rfind("-->") or (comment and "-->" not in line)
        lines.append(re.sub(r"[^\r\n]", " ", line) if before or fence or hidden else line)
    return "".join(lines)


def _fence_after(fence: str, line: str) -> str:
    """The code fence that is open after a line; empty for none. A fence ends with one that is at least as long."""
    found = _FENCE.match(line)
    if not found:
        return fence
    if not fence:
        return found[1]
    return "" if found[1].startswith(fence) else fence


def _heading_of(name: str) -> str:
    """`Q6-12` is a second question under the heading Q6."""
    return name.partition("-")[0]
