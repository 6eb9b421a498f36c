"""The OOM fallback: the order of its steps, their conditions and their expressions."""

import pytest

from orchestrator.config.schema import FallbackStep
from orchestrator.errors import InputError
from orchestrator.kohya import oom_fallback

CHECKPOINTING = FallbackStep(name="checkpointing", set={"gradient_checkpointing": True}, keeps_result=True)
HALVE = FallbackStep(
    name="halve",
    when={"train_batch_size": (2, 4, 8)},
    set={
        "train_batch_size": "{{ train_batch_size // 2 }}",
        "gradient_accumulation_steps": "{{ gradient_accumulation_steps * 2 }}",
    },
    keeps_result=True,
)
ADAMW = FallbackStep(
    name="AdamW8bit",
    when={"optimizer_type": "Prodigy"},
    set={"optimizer_type": "AdamW8bit", "learning_rate": 1e-4, "optimizer_args": ("weight_decay=0.01",)},
)
STEPS = (CHECKPOINTING, HALVE, ADAMW)
POINT = {
    "train_batch_size": 4,
    "gradient_accumulation_steps": 1,
    "gradient_checkpointing": False,
    "optimizer_type": "Prodigy",
    "learning_rate": 1.0,
}


def all_fallbacks(point, steps=STEPS):
    """The fallbacks of a run whose attempts all run out of memory."""
    tried, found = [{}], []
    while step := oom_fallback.next_fallback(point, tried, steps):
        found.append(step)
        tried.append(step.overrides)
        assert len(found) < 50
    return found


def test_each_fallback_adds_a_step_and_the_last_sets_its_own_learning_rate():
    first, second, third, last = all_fallbacks(POINT)
    assert first == oom_fallback.Fallback(
        overrides={"gradient_checkpointing": True}, fallbacks=("checkpointing",), degraded=False
    )
    assert second.overrides == {
        "gradient_checkpointing": True,
        "train_batch_size": 2,
        "gradient_accumulation_steps": 2,
    }
    assert third.overrides["train_batch_size"] == 1
    assert third.overrides["gradient_accumulation_steps"] == 4
    assert third.fallbacks == ("checkpointing", "halve", "halve")
    assert not third.degraded
    assert last.overrides.items() > third.overrides.items()
    assert (last.overrides["optimizer_type"], last.overrides["learning_rate"]) == ("AdamW8bit", 1e-4)
    assert last.degraded


def test_steps_that_do_not_apply_or_change_nothing_are_skipped():
    point = POINT | {"gradient_checkpointing": True, "train_batch_size": 1, "optimizer_type": "AdamW8bit"}
    assert oom_fallback.next_fallback(point, [{}], STEPS) is None
    assert [step.fallbacks for step in all_fallbacks(point | {"optimizer_type": "Prodigy"})] == [("AdamW8bit",)]


def test_a_step_whose_condition_names_an_unset_argument_does_not_apply():
    point = {key: value for key, value in POINT.items() if key != "train_batch_size"}
    assert [step.fallbacks[-1] for step in all_fallbacks(point)] == ["checkpointing", "AdamW8bit"]


def test_true_does_not_equal_one():
    step_ = FallbackStep(name="r", when={"a": True}, set={"b": 1})
    assert oom_fallback.next_fallback({"a": 1, "b": True}, [{}], [step_]) is None
    assert oom_fallback.next_fallback({"a": True, "b": True}, [{}], [step_]).overrides == {"b": 1}


def test_tried_fallbacks_are_recognized_by_their_overrides_after_a_rename():
    renamed = (FallbackStep(name="other", set=CHECKPOINTING.set), HALVE)
    assert oom_fallback.next_fallback(POINT, [{}, {"gradient_checkpointing": True}], renamed).fallbacks == (
        "other",
        "halve",
    )


def test_a_step_that_always_changes_something_is_limited():
    assert 1 < len(all_fallbacks({"a": 1}, [FallbackStep(name="more", set={"a": "{{ a + 1 }}"})])) < 40


def test_values_of_the_point_are_not_evaluated():
    step_ = FallbackStep(name="copy", set={"b": "{{ a }}"})
    step = oom_fallback.next_fallback({"a": "{{ 1 + 1 }}", "b": ""}, [{}], [step_])
    assert step.overrides == {"b": "{{ 1 + 1 }}"}


def test_a_failing_expression_is_reported_with_step_key_and_remedy():
    point = {"train_batch_size": 4, "gradient_acumulation_steps": 1}
    with pytest.raises(InputError, match=r'fallback step "halve" cannot compute gradient_accumulation_steps') as caught:
        oom_fallback.next_fallback(point, [{}], [HALVE])
    assert caught.value.problems[0].remedy == "did you mean gradient_acumulation_steps?"
