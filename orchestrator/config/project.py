"""Creates a project: settings, grids, templates and the folders for a persona, ready for `orchestrate plan`."""

import importlib.resources
import re
import shutil
from collections.abc import Mapping
from pathlib import Path

import tomli_w

from orchestrator.errors import InputError, Problem

QUESTIONS = {
    "trigger": "The trigger: the words for the persona in every caption",
    "path": "The base model, an SDXL .safetensors file",
    "sd_scripts": "The folder of kohya sd-scripts",
    "pack": "The face pack, a folder of .onnx files",
}
"""Settings that differ in every project, by key: the first line of orchestrate.toml with that key is replaced."""

_README = """# The persona

Put the images to train on into `pictures/`, each with its caption beside it in a `.txt` file of the same name. Every
caption contains the trigger of `[datasets.persona]` in orchestrate.toml.

Put photos of the persona that are not trained on into `references/`: at least 8, better 20. Images are compared with
them.

`prompts.txt` has one prompt per line. The same prompts and seeds are used for every LoRA.
"""
_IGNORED = "/runs/\n/models/\n/persona/pictures/\n/persona/references/\n"


def shipped(name: str) -> Path:
    """A file or folder of the repository's root, which a wheel carries inside the package."""
    package = Path(str(importlib.resources.files("orchestrator")))
    inside = package / name
    return inside if inside.exists() else package.parent / name


def defaults() -> dict[str, str]:
    """The shipped values of QUESTIONS."""
    text = shipped("orchestrate.toml").read_text(encoding="utf-8")
    found = {key: _line(key).search(text) for key in QUESTIONS}
    return {key: match["value"] for key, match in found.items() if match}


def require_new(folder: Path) -> None:
    """Raises InputError if the folder has an orchestrate.toml."""
    if (settings := folder / "orchestrate.toml").exists():
        raise InputError(
            Problem(what="exists and is not overwritten", where=str(settings), remedy="edit it, or name another folder")
        )


def create(folder: Path, values: Mapping[str, str]) -> list[Path]:
    """Write the project; returns the new files. Existing files are kept, except that orchestrate.toml must not exist.

    values: replaces the defaults of QUESTIONS.
    """
    require_new(folder)
    text = shipped("orchestrate.toml").read_text(encoding="utf-8")
    text = re.sub(r" \(docs/[\w-]+\.md\)", "", text)  # a new project has no docs/
    for key, value in values.items():
        text = _replaced(text, key, tomli_w.dumps({key: value}).rstrip("\n"))
    default, prompts = defaults()["trigger"], shipped("persona/prompts.txt").read_text(encoding="utf-8")
    files = {
        "persona/prompts.txt": prompts.replace(default, values.get("trigger", default)),
        "persona/README.md": _README,
        ".gitignore": _IGNORED,
        "orchestrate.toml": text,
    }
    try:
        made = [path for name in ("grids", "templates") for path in _copy(shipped(name), folder / name)]
        for name in ("pictures", "references"):
            (folder / "persona" / name).mkdir(parents=True, exist_ok=True)
        made += [path for name, content in files.items() if _write(path := folder / name, content)]
    except OSError as error:
        remedy = "name a folder that you can write to"
        raise InputError(
            Problem(what=f"cannot be written: {error.strerror}", where=str(folder), remedy=remedy)
        ) from None
    return made


def _line(key: str) -> re.Pattern[str]:
    return re.compile(rf'^{key} = "(?P<value>[^"]*)"', re.MULTILINE)


def _replaced(text: str, key: str, line: str) -> str:
    """The text with its first line for the key replaced; a comment behind the value stays."""
    return _line(key).sub(lambda _: line, text, count=1)


def _copy(source: Path, target: Path) -> list[Path]:
    """Copy the files of a folder that are not there yet; returns them."""
    target.mkdir(parents=True, exist_ok=True)
    made = []
    for file in sorted(source.iterdir()):
        path = target / file.name
        if file.is_file() and not path.exists():
            shutil.copyfile(file, path)
            made.append(path)
    return made


def _write(path: Path, text: str) -> bool:
    if path.exists():
        return False
    path.write_text(text, encoding="utf-8", newline="\n")
    return True
