"""What the page may do: run this one script and use this one style sheet, show pictures out of itself, and no more."""

import base64
import hashlib

from markupsafe import Markup


def policy(style: str, script: str) -> str:
    """The Content-Security-Policy that names both by their hashes; nothing is ever fetched."""
    return (
        f"default-src 'none'; img-src data:; style-src '{_hash(style)}'; script-src '{_hash(script)}'; "
        "base-uri 'none'; form-action 'none'"
    )


def trusted(text: str) -> Markup:
    """Text of this program's own, to stand in the page as it is."""
    return Markup(text)  # noqa: S704 (never of a user, a picture or a child)


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
