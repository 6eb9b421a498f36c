"""The images that a calibration compares besides the references: known-good pairs and impostors."""

import csv
import io
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from orchestrator import files, images
from orchestrator.config import toml_reader
from orchestrator.config.fields import FilePath, Table
from orchestrator.errors import InputError, NothingSelected, Problem
from orchestrator.store.layout import Sweep

_FORMAT = 'write first,second on each line, or [[pair]] tables with first = "..." and second = "..." in a .toml file'


@dataclass(frozen=True, slots=True, kw_only=True)
class ImagePair(Table):
    """Two images that the user calls a good match; absolute paths."""

    first: FilePath
    second: FilePath


def read_pairs(path: Path) -> tuple[ImagePair, ...]:
    """The pairs of a CSV file with two columns or a TOML file of `[[pair]]` tables; paths are relative to the file.

    Raises InputError with all problems.
    """
    pairs, problems = _toml_pairs(path) if path.suffix.lower() == ".toml" else _csv_pairs(path)
    if not pairs and not problems:
        problems = [Problem(what="contains no pairs", where=str(path), remedy=_FORMAT)]
    if problems:
        raise InputError(*problems)
    return tuple(pairs)


def impostor_images(folders: Iterable[Path]) -> dict[str, tuple[Path, ...]]:
    """Name of a set -> the images of a folder. Raises InputError for a folder without images."""
    found: dict[str, tuple[Path, ...]] = {}
    for folder in folders:
        name = str(folder) if folder.name in found else folder.name
        read = images.list_images(folder)
        found[name] = read.paths
        if not read.paths:
            remedy = "give a folder of images with one face each"
            none = Problem(what="contains no images", where=str(folder), key="--impostors", remedy=remedy)
            raise InputError(*(read.why_empty("--impostors") or [none]))
    return found


def baseline_images(sweeps: Iterable[Sweep]) -> dict[str, tuple[Path, ...]]:
    """Name of a set -> the images of a base model without LoRA. Raises NothingSelected for a sweep without any."""
    found: dict[str, tuple[Path, ...]] = {}
    for sweep in sweeps:
        baselines = [run for run in sweep.runs() if run.point.is_baseline and run.done("generate")]
        if not baselines:
            what = f"sweep {sweep.name} has no images of a base model without a LoRA yet"
            raise NothingSelected(Problem(what=what, key="--against", remedy="run its baseline-... runs first"))
        for run in baselines:
            name = f"{run.point.params['base_model']} without a LoRA, {sweep.name}"
            found[name] = tuple(run.path / image.file for image in run.generated_images())
    return found


def _toml_pairs(path: Path) -> tuple[list[ImagePair], list[Problem]]:
    file = toml_reader.read(path)
    file.note_unknown_keys({"pair"})
    pairs = [(file.where(place), file.parse(place, ImagePair)) for place in file.tables("pair", array=True)]
    if file.problems:
        return [], file.problems
    return _existing([(where, pair.first, pair.second) for where, pair in pairs])


def _csv_pairs(path: Path) -> tuple[list[ImagePair], list[Problem]]:
    try:
        text = files.read_bytes(path).decode("utf-8-sig")
        rows = [(line, row) for line, row in enumerate(csv.reader(io.StringIO(text, newline="")), start=1) if any(row)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        return [], [
            Problem(what=f"cannot be read: {getattr(error, 'strerror', error)}", where=str(path), remedy=_FORMAT)
        ]
    if rows and [cell.strip().lower() for cell in rows[0][1]] == ["first", "second"]:
        rows = rows[1:]
    problems = [
        Problem(what=f"has {len(row)} columns, not 2", where=f"{path}:{line}", value=",".join(row), remedy=_FORMAT)
        for line, row in rows
        if len(row) != 2
    ]
    if problems:
        return [], problems
    return _existing([(f"{path}:{line}", _absolute(path, row[0]), _absolute(path, row[1])) for line, row in rows])


def _absolute(path: Path, name: str) -> Path:
    return Path(os.path.normpath(path.parent.absolute() / Path(name.strip()).expanduser()))


def _existing(found: list[tuple[str, Path, Path]]) -> tuple[list[ImagePair], list[Problem]]:
    problems = []
    for where, first, second in found:
        remedy = "correct the path; it is relative to the list"
        problems += [
            Problem(what="there is no such file", where=where, value=str(one), remedy=remedy)
            for one in (first, second)
            if not one.is_file()
        ]
        if first == second:
            remedy = "name two different images"
            problems.append(Problem(what="pairs an image with itself", where=where, value=str(first), remedy=remedy))
    return [ImagePair(first=first, second=second) for _, first, second in found], problems
