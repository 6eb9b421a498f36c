"""Texts for people: quantities, times, lists, and suggestions for unknown names."""

import difflib
import re
import time
import unicodedata
from collections.abc import Collection, Sequence

_GIB = 1024**3
_MAX_NAME_BYTES = 60
_RESERVED_NAMES = ("calibration.json", "calibration.svg")
"""Files in the folder of all sweeps; others begin with a dot."""
_JOINER = re.compile(r"(?<=[^\x00-\x7f])[\u200c\u200d](?=[^\x00-\x7f])")
_DEVICES = re.compile(r"(?i)(con|prn|aux|nul|com[\d¹²³]|lpt[\d¹²³])(\..*)?")
"""Names that Windows reserves, with any suffix: exported files are copied there."""


def duration(seconds: float) -> str:
    """`4 s`, `3 min`, `2.5 h`, `3.1 days`."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 100 * 3600 else f"{seconds / 86400:.1f} days"


def size(count: int) -> str:
    """Of bytes: `12 MiB`, `3.4 GiB`."""
    return f"{count / _GIB:.1f} GiB" if count >= _GIB // 2 else f"{count / 1024**2:.0f} MiB"


def pluralize(number: int, noun: str) -> str:
    """`1 run`, `2 runs`."""
    return f"{number} {noun}" + ("" if number == 1 else "s")


def agree(number: int, singular: str, plural: str) -> str:
    """`1 caption has`, `2 captions have`."""
    return f"{number} {singular if number == 1 else plural}"


def first_names(names: Sequence[str], count: int = 5) -> str:
    """`a, b, c and 4 more`."""
    more = f" and {len(names) - count} more" if len(names) > count else ""
    return ", ".join(names[:count]) + more


def now() -> str:
    """The time in UTC, to the second."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def did_you_mean(name: str, known: Collection[str], otherwise: str = "remove it") -> str:
    """The remedy for an unknown name: the most similar known one in any case, or all when they are at most 20."""
    folded = {candidate.casefold(): candidate for candidate in known}
    if near := difflib.get_close_matches(name.casefold(), folded, n=1):
        return f"did you mean {folded[near[0]]}?"
    return f"known here: {', '.join(sorted(known))}" if 0 < len(known) <= 20 else otherwise


def escape_formula(cell: str) -> str:
    """A CSV cell that spreadsheets show as text: an apostrophe precedes what they would evaluate. Numbers stay.

    Some spreadsheets remove spaces and invisible characters first, and convert full-width and small signs.
    """
    cell = re.sub("\r\n?", "\n", cell)
    visible = next((letter for letter in cell if unicodedata.category(letter)[0] not in "CMZ"), "")
    if not cell.startswith(("\t", "\n")) and unicodedata.normalize("NFKC", visible) not in {*"=+-@"}:
        return cell
    try:
        float(cell)
    except ValueError:
        return f"'{cell}"
    return cell


def escape_markdown(text: str) -> str:
    """The text on one line, so that Markdown shows every character as it is. Underscores within words stay."""
    return re.sub(r"[\\`*\[\]<>|#&~$]|!(?=--|\[)|(?<!\w)_|_(?!\w)", r"\\\g<0>", " ".join(text.split()))


def invisible(text: str) -> str:
    """The first control character, direction mark or invisible letter, as `U+202E`; empty if there is none.

    Tabs and line feeds are allowed, and joiners between letters that are not ASCII, as some scripts and emoji need.
    """
    found = _JOINER.sub("", text.expandtabs(1).replace("\n", ""))
    letter = next((one for one in found if unicodedata.category(one) in ("Cc", "Cf", "Zl", "Zp")), "")
    return f"U+{ord(letter):04X}" if letter else ""


def code_span(text: str) -> str:
    """The text on one line as code in Markdown, also if it contains backticks."""
    line = " ".join(text.split())
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", line)), default=0))
    pad = " " if "`" in line else ""
    return f"{fence}{pad}{line}{pad}{fence}"


def bad_name(name: str) -> str:
    """Why a sweep, dataset, base model or question cannot have this name; empty when it can.

    Names become file names and appear in tables and in commands to copy, so they need no quotes in a shell and are no
    options or formulas. The limit of 60 bytes leaves room for dims and ids in the names of exported files.
    """
    if not name or len(name.encode("utf-8", "surrogateescape")) > _MAX_NAME_BYTES:
        return f"must have 1 to {_MAX_NAME_BYTES} bytes"
    if not re.fullmatch(r"[\w.,+=@%-]+", name):
        return "must consist of letters, digits and . , _ - + = @ %, without spaces"
    if name[0] in ".,-+=@" or name[-1] == ".":
        return "must start with a letter, a digit, _ or %, and not end with a dot"
    return "is reserved" if name.casefold() in _RESERVED_NAMES or _DEVICES.fullmatch(name) else ""
