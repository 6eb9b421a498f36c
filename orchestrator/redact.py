"""Secrets of the environment, kept out of what a program's own words are repeated in."""

import re
from collections.abc import Mapping

_SECRET = re.compile(r"KEY|TOKEN|SECRET|PASSW|CREDENTIAL|AUTH", re.IGNORECASE)
_SHORTEST = 6


def redact(text: str, environ: Mapping[str, str]) -> str:
    """The text with the names of such variables in the place of their values."""
    for name, value in environ.items():
        if len(value) >= _SHORTEST and _SECRET.search(name):
            text = text.replace(value, f"[{name}]")
    return text
