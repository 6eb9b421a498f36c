"""The commands that README.md and docs/ show: on lines of their own, and within sentences."""

import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]

_COMMAND = r"(?:[A-Z_]+=\S+ )*(?:orchestrate|make|python -m|pip install|ray start)"
_LINE = re.compile(rf"^ {{4}}(?:\w+\$ +)?({_COMMAND} [^#\n]+?)(?: {{2,}}.*| *#.*)?$", re.MULTILINE)
_INLINE = re.compile(rf"`({_COMMAND} [^`\n]+)`")


def lines(*pages: Path) -> Iterator[str]:
    """What stands on a line of its own, to be copied."""
    for page in pages or PAGES:
        yield from (match[1].strip() for match in _LINE.finditer(page.read_text(encoding="utf-8")))


def mentioned() -> Iterator[str]:
    """What stands within a sentence."""
    for page in PAGES:
        yield from (match[1] for match in _INLINE.finditer(page.read_text(encoding="utf-8")))


def others() -> set[str]:
    """The commands that are not `orchestrate` itself: make, pip, ray, benchmarks."""
    return {line for line in (*lines(), *mentioned()) if not line.startswith("orchestrate ")}
