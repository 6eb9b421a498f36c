"""Every remedy of an argument rule that names a value or an argument is followed, and then nothing is wrong."""

import re
import tomllib

import pytest
from test_kohya_lint import ERRORS, WARNINGS, changed

from orchestrator.errors import InputError, Problem, errors_of
from orchestrator.kohya.arguments import check, lint, schema
from orchestrator.model import Params
from orchestrator.values import toml_repr

SCHEMA = schema.read_snapshot()
_SET = re.compile(r"(?<![\w.])([a-z]\w+) = (\"[^\"]*\"|'[^']*'|\[[^\]]*\]|[\d.e+-]*\d|true|false)")
_REMOVE = re.compile(r"(?:remove|without|unset) ([a-z]+_\w+(?: and [a-z]+_\w+)*)")


def problems(params: Params) -> list[Problem]:
    return [*check.check([params], SCHEMA), *lint.lint_points([params])]


def alternatives(problem: Problem) -> list[tuple[dict[str, object], set[str]]]:
    """What to set and what to remove, for each way out that a remedy names; none for one without names and values."""
    found = []
    for clause in re.split(r",? or (?=set|remove|add|use|write|without)", problem.remedy):
        written = {key: tomllib.loads(f"value = {text}")["value"] for key, text in _SET.findall(clause)}
        removed = {name for match in _REMOVE.findall(clause) for name in match.split(" and ")}
        if re.match(r"remove (it|one of the two)\b", clause):
            removed.add(problem.key)
        if (written or removed) and "as a dim" not in clause:
            found.append((written, removed))
    return found


def followed(params: Params, written: dict[str, object], removed: set[str]) -> Params:
    kept = {key: value for key, value in params.items() if key not in removed}
    new = {key: tuple(value) if isinstance(value, list) else value for key, value in written.items()}
    return {**kept, **{key: 2 if "{{" in str(value) else value for key, value in new.items()}}


CASES = [
    (change, problem, way)
    for _, change in (*ERRORS, *WARNINGS)
    for problem in problems(changed(change))
    for way in alternatives(problem)
]


@pytest.mark.parametrize(("change", "problem", "way"), CASES)
def test_a_remedy_that_is_followed_removes_its_problem_and_makes_no_error(change, problem, way, monkeypatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "k")
    before = changed(change)
    after = problems(followed(before, *way))
    assert (problem.key, problem.what) not in {(one.key, one.what) for one in after}
    new = {one.what for one in errors_of(after)} - {one.what for one in errors_of(problems(before))}
    assert new == set(), problem.remedy


def test_most_remedies_are_followed() -> None:
    assert len(CASES) > 60


def test_all_remedies_of_a_plan_are_followed_at_once(world) -> None:
    fixed = {
        "train_batch_size": 64, "epoch": 4, "cache_latents_to_disk": True, "save_precision": "fp32", "clip_skip": 2,
        "resolution": "1024x1024", "lr_scheduler": "cosin", "lr_warmup_steps": "10%", "huber_c": 0.2, "seed": -1,
        "optimizer_args": ("weight_decay=0.1,",), "caption_dropout_rate": 5.0, "keep_tokens": 1,
    }  # fmt: skip
    for _ in range(3):  # the problems of wrong values hide those of their combinations
        world.ask("[fixed]\n" + "".join(f"{key} = {toml_repr(value)}\n" for key, value in fixed.items()))
        try:
            found = [*world.plan().warnings]
        except InputError as rejected:
            found = [*rejected.problems]
        for problem in (one for one in found if one.key in fixed or one.key == "train_batch_size"):
            remedy = problem.remedy
            if renamed := re.fullmatch(r"write (\w+) instead of (\w+)", remedy):
                fixed[renamed[1]] = fixed.pop(renamed[2])
            elif meant := re.fullmatch(r"did you mean (\w+)\?", remedy):
                fixed[problem.key] = meant[1]
            elif ways := alternatives(problem):
                fixed = followed(fixed, *ways[0])
            elif value := re.match(r"write (\"[^\"]*\"|\[[^\]]*\]|[\d.]+)", remedy):
                new = tomllib.loads(f"value = {value[1]}")["value"]
                fixed[problem.key] = (new,) if problem.key == "optimizer_args" else new
            else:
                del fixed[problem.key]
    assert not errors_of(found), found
    assert set(fixed) >= {"max_train_epochs", "cache_latents", "train_batch_size", "lr_scheduler", "lr_warmup_steps"}
