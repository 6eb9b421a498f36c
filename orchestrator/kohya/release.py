"""The release of an sd-scripts checkout: its name, and how to get the tested one."""

import re
import shlex
from pathlib import Path

from orchestrator.store import provenance

PINNED = "c162e9039cc3228057b3fc6ae64ce770b87ab9bf"
"""The commit of the submodule, with which the snapshots and tests/vendor agree."""

TESTED = {PINNED: "v0.11.1+2", "48d368fa557731ad0488c07304dfeba8c07910eb": "v0.10.1"}
"""Release by commit: the last tag, and the number of commits since."""

URL = "https://github.com/kohya-ss/sd-scripts"
_ROOT = Path(__file__).resolve().parents[2]
_SUBMODULE = "vendor/sd-scripts"


def describe(sd_scripts: Path) -> str:
    """`v0.11.1+2, c162e903`; without git, the release that the README names."""
    commit = provenance.commit(sd_scripts)
    if not commit:
        return f"{_readme_version(sd_scripts) or 'unknown version'}, not a git checkout"
    head, _, changed = commit.partition("-dirty")
    name = TESTED.get(head) or _tag(sd_scripts) or _readme_version(sd_scripts) or "unknown version"
    return f"{name}, {head[:8]}{' with local changes' if changed else ''}"


def is_tested(sd_scripts: Path) -> bool:
    """Whether it is an unchanged checkout of a tested commit, or no checkout."""
    return provenance.commit(sd_scripts) in ("", *TESTED)


def _tag(sd_scripts: Path) -> str:
    tag = provenance.git(sd_scripts, "describe", "--tags", "--long")
    return re.sub(r"-(\d+)-g[0-9a-f]+$", lambda match: f"+{match[1]}" if match[1] != "0" else "", tag)


def _readme_version(sd_scripts: Path) -> str:
    try:
        text = (sd_scripts / "README.md").read_text(encoding="utf-8-sig", errors="replace")
    except OSError:
        return ""
    found = re.search(r"\*\*Version (\d+(?:\.\d+)+)", text)
    return f"v{found[1]}" if found else ""


def remedy(sd_scripts: Path) -> str:
    """The commands that bring the pinned commit to this folder, or beside a folder that cannot have it."""
    folder = shlex.quote(str(sd_scripts))
    if sd_scripts.resolve() == _ROOT / _SUBMODULE and (_ROOT / ".gitmodules").is_file():
        found = f"git -C {shlex.quote(str(_ROOT))} submodule update --init {_SUBMODULE}"
    elif (sd_scripts / ".git").exists():
        found = f"git -C {folder} fetch {URL} main && git -C {folder} checkout {PINNED}"
    elif not sd_scripts.exists() or (sd_scripts.is_dir() and not any(sd_scripts.iterdir())):
        found = f"git clone {URL} {folder} && git -C {folder} checkout {PINNED}"
    else:
        other = sd_scripts.with_name(f"{sd_scripts.name}-{PINNED[:8]}")
        quoted = shlex.quote(str(other))
        found = f"git clone {URL} {quoted} && git -C {quoted} checkout {PINNED}"
        return f"run `{found}`, and set trainer.sd_scripts = {str(other)!r}"
    if "-dirty" in provenance.commit(sd_scripts):
        found = f"git -C {folder} stash && {found}"
    return f"run `{found}`"


def setup_remedy(python: Path, sd_scripts: Path) -> str:
    """The commands that make the trainer's interpreter, or what to set if it is not in its own environment."""
    if python == _ROOT / "vendor" / ".venv" / "bin" / "python" and (_ROOT / "Makefile").is_file():
        return "run `make setup-trainer`, which installs it with everything it needs"
    other = "set trainer.python to the interpreter of your sd-scripts installation"
    if python.parent.name != "bin":
        return other
    venv, program, folder = (shlex.quote(str(path)) for path in (python.parents[1], python, sd_scripts))
    torch = f"python3 -m venv {venv} && {program} -m pip install torch==2.6.0 torchvision==0.21.0"
    return f"{other}, or run `{torch} && cd {folder} && {program} -m pip install -r requirements.txt bitsandbytes`"
