"""What of a caption stays true when its picture has been cut."""

import re
from collections.abc import Collection


def without(caption: str, words: Collection[str], *, trigger: str) -> str:
    """The parts between commas that hold none of the words, whole and in any case; a part with the trigger stays."""
    parts = [part.strip() for part in caption.split(",")]
    kept = [part for part in parts if part and ((trigger and trigger in part) or not _holds(part, words))]
    return ", ".join(kept)


def _holds(part: str, words: Collection[str]) -> bool:
    return any(re.search(rf"(?<!\w){re.escape(word)}(?!\w)", part, re.IGNORECASE) for word in words)
