"""Applies [[when]] and [[exclude]] to the points of a grid, and finds those that match no point."""

from collections.abc import Collection, Mapping

from orchestrator.config.expressions import is_expression
from orchestrator.config.grid.reading import Exclude, Grid, When
from orchestrator.errors import Problem
from orchestrator.model import Params, Value
from orchestrator.text import did_you_mean
from orchestrator.values import matches, same, toml_repr


class Rules:
    """The rules of one grid, in the order of its files; records which ones matched a point.

    `computed` are the arguments that can have an expression.
    """

    def __init__(self, grid: Grid, computed: Collection[str]) -> None:
        self._whens = dict(enumerate(grid.whens))
        self._excludes = dict(enumerate(grid.excludes, start=len(grid.whens)))
        self._unmatched: dict[int, When | Exclude] = {**self._whens, **self._excludes}
        self._computed = frozenset(computed)
        self._seen: set[str] = set()
        self._problems: dict[Problem, None] = {}

    def apply(self, params: dict[str, Value], levels: Params) -> Mapping[str, str]:
        """Apply the [[when]] rules to `params`; `levels` are the values of the dims.

        Returns where each argument was set or removed.
        """
        places: dict[str, str] = {}
        self._seen |= params.keys()
        for number, rule in self._whens.items():
            self._check_computable(rule, params)
            if matches(params, rule.match):
                self._unmatched.pop(number, None)
                self._check_contradiction(rule, levels)
                params |= rule.set
                for key in rule.unset:
                    params.pop(key, None)
                places |= dict.fromkeys([*rule.set, *rule.unset], rule.where)
        return places

    def exclude(self, params: Params) -> bool:
        """Whether a computed point is excluded."""
        matched = [number for number, rule in self._excludes.items() if matches(params, rule.match)]
        for number in matched:
            self._unmatched.pop(number, None)
        self._seen |= params.keys() if self._excludes else set()
        return bool(matched)

    def wrong(self) -> list[Problem]:
        """The rules that cannot be applied."""
        return list(self._problems)

    def idle(self) -> list[Problem]:
        """The rules that matched no point."""
        return [_does_nothing(rule, self._seen) for rule in self._unmatched.values()]

    def _check_contradiction(self, rule: When, levels: Params) -> None:
        for key in rule.set.keys() & levels.keys():
            if not same(rule.set[key], levels[key]):
                what = f"sets {key} to {toml_repr(rule.set[key])} where the dim {key} is {toml_repr(levels[key])}"
                remedy = f"remove {key} from this rule or from the dims, or narrow the match"
                self._note(what, rule, f"set.{key}", remedy)
        for key in levels.keys() & set(rule.unset):
            self._note(f"removes the dim {key}", rule, "unset", f"remove {key} from unset or from the dims")

    def _check_computable(self, rule: When, params: Params) -> None:
        for key in rule.match.keys() & self._computed:
            if key in params and is_expression(params[key]):
                what = f"matches {key}, which is an expression: expressions are computed after the rules"
                self._note(what, rule, f"match.{key}", "match the arguments that the expression uses")

    def _note(self, what: str, rule: When | Exclude, key: str, remedy: str) -> None:
        self._problems[Problem(what=what, where=rule.where, key=f"{rule.key}.{key}", remedy=remedy)] = None


_CHANGE = "match values that a point has together, or remove the rule"


def _does_nothing(rule: When | Exclude, known: Collection[str]) -> Problem:
    wanted = ", ".join(f"{key} = {toml_repr(value)}" for key, value in rule.match.items())
    unknown = [key for key in rule.match if key not in known]
    remedy = did_you_mean(unknown[0], known, "remove it: no point sets it") if unknown else _CHANGE
    return Problem(what=f"no point has {wanted}", where=rule.where, key=rule.key, remedy=remedy)
