"""Tracked text uses standard terms: none of the words that docs and messages no longer use."""

import re
import subprocess

import pytest
from pages import ROOT

BANNED = re.compile(
    r"(?<![a-z])(told|conceded|yardsticks?|nobody|rungs?|luck|on_front|seed_spread|the night)(?![a-z])", re.IGNORECASE
)
SUFFIXES = (".md", ".py", ".toml", ".j2")
EXEMPT = ("CHANGELOG.md", "LICENSE", "tests/test_words.py")
"""The changelog names what was renamed."""


def test_no_banned_words() -> None:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a git checkout")
    names = [name for name in listed.stdout.split("\0") if name.endswith(SUFFIXES) and name not in EXEMPT]
    assert names
    found = [
        f"{name}:{number}: {match[0]}"
        for name in names
        if (ROOT / name).is_file()
        for number, line in enumerate((ROOT / name).read_text(encoding="utf-8").splitlines(), start=1)
        for match in BANNED.finditer(line)
    ]
    assert found == []
