"""Renders the config files of sd-scripts from the user's templates, and verifies that they read back as intended."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import FileSystemLoader, StrictUndefined, TemplateError
from jinja2.exceptions import TemplateNotFound, TemplateSyntaxError
from jinja2.sandbox import SandboxedEnvironment

from orchestrator.config.schema import BaseModel, Dataset, Trainer
from orchestrator.errors import InputError, Problem
from orchestrator.kohya.toml_writer import TomlWriter, Unwritable, alike, homogeneous, same_in_both
from orchestrator.model import TREATMENTS, Params, Point, Value
from orchestrator.redaction import find_secret
from orchestrator.values import toml_repr

TRAIN, DATASET, PROMPTS = "train.toml.j2", "dataset.toml.j2", "prompts.txt.j2"
TEMPLATES = (TRAIN, DATASET, PROMPTS)


def shipped_templates() -> Path:
    """The templates of orchestrate: beside the package in a checkout, inside it once installed."""
    package = Path(__file__).parents[1]
    inside = package / "templates"
    return inside if inside.is_dir() else package.parent / "templates"


class Renderer:
    """The templates of one folder, each compiled once, and again after it has changed."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._quoter = TomlWriter()
        self._environment = SandboxedEnvironment(
            loader=FileSystemLoader(folder),
            undefined=StrictUndefined,
            autoescape=False,  # TOML, not HTML: the filter quotes
            trim_blocks=True,
            lstrip_blocks=True,
            keep_trailing_newline=True,
        )
        self._environment.filters["toml"] = self._quoter

    def train_toml(
        self, point: Point, *, base: BaseModel, ours: Params, trainer: Trainer, params: Params, verify: bool = True
    ) -> str:
        """sd-scripts' `--config_file`. `ours`: the arguments that orchestrate sets; `params`: the point's.

        InputError if a value cannot be written, if both set the same argument, or if the text does not read back as
        intended; `verify=False` skips that check, which parses the text twice.
        """
        model = _model(base, trainer)
        arguments = {key: value for key, value in params.items() if key not in TREATMENTS}
        if doubled := sorted((model.keys() | ours.keys()) & arguments.keys()):
            raise InputError(*(_reserved(key, point.name) for key in doubled))
        meant = {**model, **ours, **arguments}
        text = self._render(TRAIN, meant, point=point, model=model, output=ours, arguments=arguments)
        if verify:
            read_back(text, meant, where=str(self._folder / TRAIN))
        return text

    def dataset_toml(self, point: Point, *, dataset: Dataset, folders: Sequence[Path]) -> str:
        """sd-scripts' `--dataset_config`: a dataset for each size, each subset with a folder; verified as above."""
        subsets = [_subset(part, folder) for part, folder in zip(dataset.parts, folders, strict=True)]
        sizes = [_of_size(one) for one in dataset.resolutions or ({},)]
        values = {key: value for table in (*subsets, *sizes) for key, value in table.items()}
        text = self._render(DATASET, values, point=point, sizes=sizes, subsets=subsets, subset=subsets[0])
        meant = {
            f"datasets[{at}].{key}": value
            for at, size in enumerate(sizes)
            for key, value in (
                *size.items(),
                *((f"subsets[{n}].{key}", value) for n, subset in enumerate(subsets) for key, value in subset.items()),
            )
        }
        read_back(text, meant, where=str(self._folder / DATASET))
        return text

    def prompts_txt(self, point: Point, lines: Sequence[str]) -> str:
        """gen_img.py's `--from_file`: these lines, one image each."""
        text = self._render(PROMPTS, {}, point=point, lines=lines)
        if [line for line in text.splitlines() if line and not line.startswith("#")] != list(lines):
            what, where = "the prompts do not read back as intended", str(self._folder / PROMPTS)
            raise InputError(Problem(what=what, where=where, remedy="write each line of `lines` unchanged"))
        return text

    def _render(self, name: str, values: Params, **variables: Any) -> str:
        """The text of a template; `values` are those that it quotes."""
        try:
            text = self._environment.get_template(name).render(**variables)
        except Unwritable:
            raise InputError(*self._unwritable(values)) from None
        except (TemplateError, ArithmeticError, TypeError, ValueError, OSError) as error:
            raise InputError(self._broken(name, error)) from None
        # The caller verifies that everything else has the values of the point, which were checked before.
        if found := find_secret("\n".join(line.partition("#")[2] for line in text.splitlines())):
            what = f"writes {found} into a comment, which would be recorded"
            raise InputError(Problem(what=what, where=str(self._folder / name), remedy="remove it from the template"))
        return text

    def _unwritable(self, values: Params) -> Iterator[Problem]:
        for key, value in values.items():
            try:
                self._quoter(value)
            except Unwritable as error:
                yield Problem(what=str(error), key=key, value=ascii(value), remedy="choose another value or name")

    def _broken(self, name: str, error: Exception) -> Problem:
        path, remedy = self._folder / name, f"correct the template; the original is in {shipped_templates()}"
        if isinstance(error, TemplateNotFound):
            return Problem(what=f"the template {error.name} does not exist", where=str(self._folder), remedy=remedy)
        line = error.lineno if isinstance(error, TemplateSyntaxError) else _line_in(path, error)
        return Problem(what=str(error), where=f"{path}:{line}" if line else str(path), remedy=remedy)


def read_back(text: str, meant: Params, *, where: str) -> None:
    """InputError unless tomllib and sd-scripts' parser both read exactly `meant` in a rendered text.

    Section names are dropped, as in sd-scripts; keys in arrays of tables are named `datasets[0].subsets[0].key`.
    """
    try:
        read = list(_leaves(same_in_both(text)))
    except ValueError as error:
        raise InputError(Problem(what=str(error), where=where, remedy="correct the template")) from None
    found = dict(read)
    problems = [
        _mismatch(key, found.get(key), meant.get(key), where)
        for key in {**meant, **found}
        if not (key in found and key in meant and alike(found[key], homogeneous(meant[key])))
    ]
    keys = [key for key, _ in read]
    problems += [
        Problem(
            what=f"{key} is set in two sections", where=where, key=key, remedy="remove one: sd-scripts uses the last"
        )
        for key in found
        if keys.count(key) > 1
    ]
    if problems:
        raise InputError(*problems)


def _mismatch(key: str, found: Any, meant: Value | None, where: str) -> Problem:
    if meant is None:
        what, remedy = f"sets {key}, which this point does not", "set it in a grid or in [arguments] instead"
    elif found is None:
        what, remedy = f"omits {key} = {toml_repr(meant)}", f"write {key} = {{{{ value | toml }}}}"
    else:
        what, remedy = f"sets {key} = {found!r} instead of {toml_repr(meant)}", "quote values with the filter toml"
    return Problem(what=what, where=where, key=key, remedy=remedy)


def _leaves(node: Mapping[str, Any], at: str = "", depth: int = 0) -> Iterator[tuple[str, Any]]:
    for key, value in node.items():
        if isinstance(value, dict):
            yield from _leaves(value, at if depth == 0 else f"{at}{key}.", depth + 1)
        elif isinstance(value, list) and value and all(isinstance(item, dict) for item in value):
            for index, item in enumerate(value):
                yield from _leaves(item, f"{at}{key}[{index}].", depth + 1)
        else:
            yield f"{at}{key}", value


def _model(base: BaseModel, trainer: Trainer) -> dict[str, Value]:
    paths = {
        "pretrained_model_name_or_path": base.path,
        "vae": base.vae,
        "tokenizer_cache_dir": trainer.tokenizer_cache_dir,
    }
    return {key: str(path) for key, path in paths.items() if path is not None}


def _of_size(arguments: Params) -> dict[str, Value]:
    """The keys of a `[[datasets]]`, which differ from the arguments in name or type."""
    found = {"batch_size" if key == "train_batch_size" else key: value for key, value in arguments.items()}
    for key in ("resolution", "skip_image_resolution"):
        if key in found:
            found[key] = tuple(int(side) for side in f"{found[key]},{found[key]}".split(",")[:2])
    return found


def _subset(dataset: Dataset, image_dir: Path) -> dict[str, Value]:
    """sd-scripts rejects class_tokens together with a folder of masks; there only the captions have the trigger."""
    named = dataset.trigger and "conditioning_data_dir" not in dataset.subset
    return {
        "image_dir": str(image_dir),
        "caption_extension": dataset.caption_extension,
        "num_repeats": dataset.num_repeats,
        **({"class_tokens": dataset.trigger} if named else {}),
        **dataset.subset,
    }


def _reserved(key: str, where: str) -> Problem:
    return Problem(what=f"orchestrate sets {key} itself", where=where, key=key, remedy="remove it from the grid")


def _line_in(path: Path, error: Exception) -> int | None:
    """The line at which a template failed: Jinja names its frames after the template's file."""
    trace, line = error.__traceback__, None
    while trace:
        if Path(trace.tb_frame.f_code.co_filename) == path:
            line = trace.tb_lineno
        trace = trace.tb_next
    return line
