"""Values that are Jinja expressions over a point: `"{{ network_dim // 2 }}"` is the number 8 where network_dim is 16.

Only expressions and `{% if %}`: no loops, no assignments, no calls, no attributes and only a few filters, so that
the cost of a line is bounded by its length. The value of an expression is data and is never evaluated again.
"""

from collections.abc import Callable
from typing import Any

from jinja2 import StrictUndefined, TemplateError, Undefined, meta, nodes
from jinja2.exceptions import SecurityError
from jinja2.filters import do_round
from jinja2.sandbox import SandboxedEnvironment

from orchestrator.model import Params, Scalar, Value
from orchestrator.redaction import find_secret
from orchestrator.values import canonical_json

MAX_LENGTH = 2000
"""Characters of an expression, and of what it yields."""

_FILTERS = ("abs", "float", "int", "length", "lower", "max", "min", "round", "string", "upper")
_STATEMENTS = (nodes.Output, nodes.If)
_REFUSED = (nodes.Call, nodes.Getattr)
_MAX_POWER_BITS = 256
_MAX_DIGITS = 15
_MAX_DEPTH = 40
"""Jinja's search for constants takes cubic time in the depth of an expression."""
_TOO_DEEP = "operators, filters or parentheses are nested too deeply"


class ExpressionError(ValueError):
    """Why an expression cannot be evaluated. `missing` names the param that is not set, if that is the cause."""

    def __init__(self, reason: str, missing: str = "") -> None:
        super().__init__(reason)
        self.missing = missing


def is_expression(value: Value) -> bool:
    """Whether a value as written has an expression; any other text stays unchanged."""
    if isinstance(value, tuple):
        return any(map(is_expression, value))
    return isinstance(value, str) and ("{{" in value or "{%" in value)


class Expressions:
    """Evaluates expressions; each is compiled once, and computed once for the same inputs."""

    def __init__(self) -> None:
        self._environment = _Environment(undefined=StrictUndefined, autoescape=False, keep_trailing_newline=True)
        self._compiled: dict[str, _Compiled | ExpressionError] = {}
        self._results: dict[tuple[str, ...], Scalar | tuple[Scalar, ...]] = {}

    def names(self, value: Value) -> frozenset[str]:
        """The params that a value's expressions use. ExpressionError when it is not an expression."""
        if isinstance(value, tuple):
            return frozenset(name for part in value for name in self.names(part))
        return self._compile(str(value)).names if is_expression(value) else frozenset()

    def evaluate(self, value: Value, params: Params) -> Value:
        """The value with its expressions computed over `params`: of their type where one stands alone, else text."""
        if not isinstance(value, tuple):
            return self._evaluate(value, params)
        parts = tuple(self._evaluate(part, params) for part in value)
        if any(isinstance(part, tuple) for part in parts):
            raise ExpressionError("an expression inside a list must yield one value, not a list")
        return parts  # type: ignore[return-value]  # the line above: no part is a tuple

    def _evaluate(self, value: Scalar, params: Params) -> Value:
        if not is_expression(value):
            return value
        source = str(value)
        compiled = self._compile(source)
        for name in compiled.names:
            if name not in params:
                raise ExpressionError(f"{name} is not set here", missing=name)
        inputs = {name: params[name] for name in compiled.names}
        key = (source, *map(repr, inputs.values()))
        if key not in self._results:
            self._results[key] = compiled(inputs)
        return self._results[key]

    def _compile(self, source: str) -> "_Compiled":
        if source not in self._compiled:
            try:
                self._compiled[source] = _Compiled(self._environment, source)
            except ExpressionError as error:
                self._compiled[source] = error
        if isinstance(found := self._compiled[source], ExpressionError):
            raise found.with_traceback(None)
        return found


class _Compiled:
    """One expression, parsed, checked and compiled."""

    def __init__(self, environment: "_Environment", source: str) -> None:
        if len(source) > MAX_LENGTH:
            raise ExpressionError(f"longer than {MAX_LENGTH} characters")
        tree = _guarded(environment.parse, source)
        _refuse_all_but_expressions(tree)
        self.names: frozenset[str] = frozenset(_guarded(meta.find_undeclared_variables, tree))
        self._run = _guarded(_runner, environment, source, tree)

    def __call__(self, inputs: Params) -> Value:
        return _checked(_guarded(self._run, inputs))


class _Environment(SandboxedEnvironment):
    """Jinja's sandbox with nothing to call, and with limits on operators and filters whose cost can explode."""

    intercepted_binops = frozenset({"*", "**", "%"})

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.globals.clear()
        self.filters = {name: self.filters[name] for name in _FILTERS} | {"round": _round}

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:  # noqa: ARG002 - the sandbox's signature
        return False  # Jinja tries attributes where an item is not found: `text["upper"]`

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        if operator == "%" and isinstance(left, str):
            raise SecurityError("% formats text here, which is not allowed; use ~ to join")
        if operator == "*" and any(isinstance(side, str | list | tuple) for side in (left, right)):
            raise SecurityError("text and lists cannot be multiplied")
        if operator == "**":
            _check_power(left, right)
        return super().call_binop(context, operator, left, right)


def _runner(environment: _Environment, source: str, tree: nodes.Template) -> Callable[[Params], Any]:
    if alone := _only_expression(environment, source):
        return environment.compile_expression(alone, undefined_to_none=False)
    return environment.from_string(tree).render


def _only_expression(environment: _Environment, source: str) -> str | None:
    """The inside of `{{ }}` when there is no text around it: only then the result keeps its type."""
    tokens = [(kind, text) for _, kind, text in environment.lex(source.strip())]
    kinds = [kind for kind, _ in tokens]
    if kinds[0] != "variable_begin" or kinds.index("variable_end") != len(kinds) - 1:
        return None
    return "".join(text for _, text in tokens[1:-1])


def _refuse_all_but_expressions(tree: nodes.Template) -> None:
    level: list[nodes.Node] = [tree]
    for _ in range(_MAX_DEPTH):
        level = [child for node in level for child in node.iter_child_nodes()]
    if level:
        raise ExpressionError(_TOO_DEEP)
    for node in tree.find_all(nodes.Node):
        if isinstance(node, _REFUSED) or (isinstance(node, nodes.Stmt) and not isinstance(node, _STATEMENTS)):
            raise ExpressionError(
                f"only values, operators, filters and if are allowed, not {type(node).__name__.lower()}"
            )


def _round(value: Any, precision: int = 0, method: str = "common") -> Any:
    if not isinstance(value, int | float) or abs(precision) > _MAX_DIGITS:
        raise SecurityError(f"round needs a number and at most {_MAX_DIGITS} digits")
    return do_round(value, precision, method)  # type: ignore[arg-type]  # it checks the method itself


def _check_power(base: Any, exponent: Any) -> None:
    if not all(isinstance(side, int | float) for side in (base, exponent)):
        raise SecurityError("** needs two numbers")
    if isinstance(base, int) and base.bit_length() * abs(exponent) > _MAX_POWER_BITS:
        raise SecurityError("the power is too large")


def _guarded(function: Callable[..., Any], *arguments: Any) -> Any:
    """Calls a function; every error of an expression becomes an ExpressionError."""
    try:
        return function(*arguments)
    except (
        TemplateError,
        ArithmeticError,
        TypeError,
        ValueError,
        LookupError,
    ) as error:
        raise ExpressionError(str(error) or type(error).__name__) from None
    except (SyntaxError, RecursionError, MemoryError):
        raise ExpressionError(_TOO_DEEP) from None
    except NameError:  # Jinja writes infinite constants as `inf` into its code
        raise ExpressionError("contains a number that is not finite") from None


def _checked(result: Any) -> Value:
    if isinstance(result, Undefined):
        raise ExpressionError("yields nothing: an if without else, or an item that is not there")
    if isinstance(result, list | tuple):
        if len(result) > MAX_LENGTH:
            raise ExpressionError(f"yields more than {MAX_LENGTH} values")
        return tuple(map(_checked_scalar, result))
    return _checked_scalar(result)


def _checked_scalar(result: Any) -> Scalar:
    if isinstance(result, str) and len(result) > MAX_LENGTH:
        raise ExpressionError(f"yields more than {MAX_LENGTH} characters")
    if isinstance(result, str) and (found := find_secret(result)):
        raise ExpressionError(f"yields {found}, which would be recorded")
    if isinstance(result, int) and not -(2**63) <= result < 2**63:
        raise ExpressionError("yields a number that does not fit 64 bits")
    if not isinstance(result, str | int | float):
        raise ExpressionError(f"yields {type(result).__name__}, not text, a number, true, false or a list of these")
    try:
        canonical_json(result)
    except ValueError as error:
        raise ExpressionError(f"yields {result}: {error}") from None
    return result
