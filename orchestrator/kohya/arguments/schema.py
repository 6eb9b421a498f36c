"""Reads the arguments of sdxl_train_network.py from its source, without importing it (no torch, under 1 s).

`python -m orchestrator.kohya.arguments.schema SD_SCRIPTS COMMIT > .../arguments/sdxl_train_network.json` writes the
snapshot.
"""

import ast
import json
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import Any

from orchestrator.errors import NotReady, Problem
from orchestrator.kohya import release
from orchestrator.model import Scalar, Value

ENTRY = "sdxl_train_network"
SNAPSHOT = Path(__file__).with_name(f"{ENTRY}.json")


class Kind(StrEnum):
    """The type to which argparse converts an argument."""

    STR = "str"
    INT = "int"
    FLOAT = "float"
    FLAG = "flag"
    INT_OR_FLOAT = "int_or_float"  # integers are steps, fractions below 1 a share of all steps


@dataclass(frozen=True, slots=True, kw_only=True)
class Argument:
    """One argument. `many`: takes a list. `choices`: empty if any value is allowed. `where`: `module.function`."""

    name: str
    kind: Kind
    many: bool = False
    choices: tuple[Scalar, ...] = ()
    default: Value | None = None
    where: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ArgumentSchema:
    """All arguments by name, and their source: a path, or the commit of the snapshot."""

    origin: str
    by_name: Mapping[str, Argument]


def load_schema(sd_scripts: Path | None) -> ArgumentSchema:
    """The arguments of the checkout at `sd_scripts`, or of the pinned commit if there is none.

    Raises NotReady if the source exists but is not understood.
    """
    if sd_scripts is not None and (sd_scripts / f"{ENTRY}.py").is_file():
        return read_source(sd_scripts)
    return read_snapshot()


@cache
def read_snapshot(path: Path = SNAPSHOT) -> ArgumentSchema:
    """The arguments of one commit from a file; by default of the pinned one, shipped with this package."""
    record = json.loads(path.read_text(encoding="utf-8"))
    arguments = [_from_json(key) for key in record["keys"]]
    return ArgumentSchema(origin=record["commit"], by_name={argument.name: argument for argument in arguments})


def _from_json(record: dict[str, Any]) -> Argument:
    lists = {name: tuple(value) for name, value in record.items() if isinstance(value, list)}
    return Argument(**{**record, **lists, "kind": Kind(record["kind"])})


def read_source(sd_scripts: Path) -> ArgumentSchema:
    """The arguments of the checkout at `sd_scripts`; raises NotReady if the source is not understood."""
    with _understood(sd_scripts, ENTRY):
        found = [
            replace(_argument(call, tree), where=where)
            for call, tree, where in _Reader(sd_scripts).calls(ENTRY, "setup_parser")
        ]
    return ArgumentSchema(origin=str(sd_scripts), by_name={key.name: key for key in found})


def option_names(sd_scripts: Path, program: str) -> set[str]:
    """The names of a program's options, of any type; raises NotReady if the source is not understood."""
    with _understood(sd_scripts, program):
        return {_name(call) for call, _, _ in _Reader(sd_scripts).calls(program, "setup_parser")}


@contextmanager
def _understood(sd_scripts: Path, program: str) -> Iterator[None]:
    try:
        yield
    except (OSError, SyntaxError, ValueError, LookupError) as error:
        what = f"cannot read the arguments of {program}.py from its source: {error}"
        raise NotReady(Problem(what=what, where=str(sd_scripts), remedy=release.remedy(sd_scripts))) from error


class _Reader:
    """Follows `setup_parser` through the modules it calls and finds each `add_argument`.

    Arguments inside `if support_...:` are all included: sdxl_train_network.py enables all of them.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._seen: set[tuple[str, str]] = set()
        self._module = cache(self._parse)

    def calls(self, module: str, function: str) -> Iterator[tuple[ast.Call, ast.Module, str]]:
        """Each `add_argument` of `module.function` and of the functions it calls, with its module and place."""
        if (module, function) in self._seen:
            return
        self._seen.add((module, function))
        tree = self._module(module)
        for call in _calls(_function(tree, module, function)):
            owner, _, name = ast.unparse(call.func).rpartition(".")
            if name == "add_argument":
                yield call, tree, f"{module.rpartition('.')[2]}.{function}"
            elif name == "setup_parser" or any(isinstance(arg, ast.Name) and arg.id == "parser" for arg in call.args):
                yield from self.calls(*self._target(owner, name, module))

    def _target(self, owner: str, name: str, module: str) -> tuple[str, str]:
        """The module and function that `owner.name`, or `name`, means in a module."""
        package = module if self._path(module).name == "__init__.py" else module.rpartition(".")[0]
        imported = _imports(self._module(module), package)
        if not owner:
            source, _, original = imported.get(name, f"{module}.{name}").rpartition(".")
            return source, original
        first, dot, rest = owner.partition(".")
        return f"{imported.get(first, first)}{dot}{rest}", name

    def _path(self, module: str) -> Path:
        path = self._root.joinpath(*module.split("."))
        return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")

    def _parse(self, module: str) -> ast.Module:
        path = self._path(module)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of sd-scripts' own escape sequences
            return ast.parse(path.read_text(encoding="utf-8-sig"), filename=str(path))


def _function(tree: ast.Module, module: str, name: str) -> ast.FunctionDef:
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and node.name == name:
            return node
    raise LookupError(f"no function {name} in {module}.py")


def _calls(function: ast.FunctionDef) -> list[ast.Call]:
    """All calls in a function, in the order of the file."""
    found = [node for node in ast.walk(function) if isinstance(node, ast.Call)]
    return sorted(found, key=lambda call: (call.lineno, call.col_offset))


def _imports(tree: ast.Module, package: str) -> dict[str, str]:
    """What each imported name stands for, as a dotted path from the root of sd-scripts."""
    found: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.asname: alias.name for alias in node.names if alias.asname}
        elif isinstance(node, ast.ImportFrom):
            around = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*around, *([node.module] if node.module else [])])
            found |= {alias.asname or alias.name: f"{base}.{alias.name}" for alias in node.names}
    return found


def _argument(call: ast.Call, tree: ast.Module) -> Argument:
    """The Argument of one `parser.add_argument(...)`; raises ValueError for an unsupported form."""
    name = _name(call)
    options = {keyword.arg: keyword.value for keyword in call.keywords}
    kind = _kind(name, options)
    choices = _value(options["choices"], tree) if "choices" in options else ()
    default = _value(options["default"], tree) if "default" in options else None
    return Argument(
        name=name,
        kind=kind,
        many="nargs" in options,
        choices=tuple(choice for choice in choices if choice is not None),
        default=False if kind is Kind.FLAG and default is None else default,
    )


def _name(call: ast.Call) -> str:
    flags = [ast.literal_eval(arg) for arg in call.args]
    return str(next(flag for flag in flags if flag.startswith("--"))).removeprefix("--").replace("-", "_")


def _kind(name: str, options: dict[str | None, ast.expr]) -> Kind:
    if "action" in options:
        if ast.literal_eval(options["action"]) != "store_true":
            raise ValueError(f"--{name}: action {ast.unparse(options['action'])} is not store_true")
        return Kind.FLAG
    if "nargs" in options and ast.literal_eval(options["nargs"]) not in ("*", "+"):
        raise ValueError(f"--{name}: nargs {ast.unparse(options['nargs'])} is not a list of any length")
    made_by = ast.unparse(options["type"]) if "type" in options else "str"
    return Kind.STR if made_by.rpartition(".")[2] == "Path" else Kind(made_by)


def _value(node: ast.expr, tree: ast.Module) -> Any:
    """A literal, or a name that the same module assigns a literal; raises ValueError for anything else."""
    if isinstance(node, ast.Name):
        for statement in tree.body:
            if isinstance(statement, ast.Assign) and any(
                isinstance(target, ast.Name) and target.id == node.id for target in statement.targets
            ):
                return ast.literal_eval(statement.value)
        raise ValueError(f"line {node.lineno}: {node.id} is not a constant of its module")
    return ast.literal_eval(node)


def main(sd_scripts: str, commit: str) -> None:
    """Print the snapshot of a checkout as JSON, one argument per line."""
    found = read_source(Path(sd_scripts)).by_name
    empty = asdict(Argument(name="", kind=Kind.STR))
    rows = (
        {name: value for name, value in asdict(found[key]).items() if name == "kind" or value != empty[name]}
        for key in sorted(found)
    )
    lines = ",\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    sys.stdout.write(f'{{"commit": "{commit}", "keys": [\n{lines}\n]}}\n')


if __name__ == "__main__":
    main(*sys.argv[1:])
