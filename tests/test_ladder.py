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
RUNGS = (CHECKPOINTING, HALVE, ADAMW)
POINT = {
    "train_batch_size": 4,
    "gradient_accumulation_steps": 1,
    "gradient_checkpointing": False,
    "optimizer_type": "Prodigy",
    "learning_rate": 1.0,
}


def climbed(point, fallbacks=RUNGS):
    """Every step as a run would see it: one more attempt fails each time."""
    tried, found = [{}], []
    while step := oom_fallback.next_overrides(point, tried, fallbacks):
        found.append(step)
        tried.append(step.overrides)
        assert len(found) < 50
    return found


def test_steps_add_up_and_the_last_has_its_own_learning_rate():
    first, second, third, last = climbed(POINT)
    assert first == oom_fallback.Step(
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


def test_rungs_that_do_not_apply_or_change_nothing_are_passed_over():
    point = POINT | {"gradient_checkpointing": True, "train_batch_size": 1, "optimizer_type": "AdamW8bit"}
    assert oom_fallback.next_overrides(point, [{}], RUNGS) is None
    assert [step.fallbacks for step in climbed(point | {"optimizer_type": "Prodigy"})] == [("AdamW8bit",)]


def test_a_rung_whose_condition_names_an_argument_that_is_not_set_does_not_apply():
    point = {key: value for key, value in POINT.items() if key != "train_batch_size"}
    assert [step.fallbacks[-1] for step in climbed(point)] == ["checkpointing", "AdamW8bit"]


def test_true_is_not_one():
    rung = FallbackStep(name="r", when={"a": True}, set={"b": 1})
    assert oom_fallback.next_overrides({"a": 1, "b": True}, [{}], [rung]) is None
    assert oom_fallback.next_overrides({"a": True, "b": True}, [{}], [rung]).overrides == {"b": 1}


def test_tried_steps_are_known_by_what_they_change_even_when_rungs_were_renamed():
    renamed = (FallbackStep(name="other", set=CHECKPOINTING.set), HALVE)
    assert oom_fallback.next_overrides(POINT, [{}, {"gradient_checkpointing": True}], renamed).fallbacks == (
        "other",
        "halve",
    )


def test_an_endless_rung_ends():
    assert 1 < len(climbed({"a": 1}, [FallbackStep(name="more", set={"a": "{{ a + 1 }}"})])) < 40


def test_values_of_the_point_are_not_evaluated():
    rung = FallbackStep(name="copy", set={"b": "{{ a }}"})
    step = oom_fallback.next_overrides({"a": "{{ 1 + 1 }}", "b": ""}, [{}], [rung])
    assert step.overrides == {"b": "{{ 1 + 1 }}"}


def test_an_expression_that_cannot_be_computed_names_rung_key_and_remedy():
    point = {"train_batch_size": 4, "gradient_acumulation_steps": 1}
    with pytest.raises(InputError, match=r'rung "halve" cannot compute gradient_accumulation_steps') as caught:
        oom_fallback.next_overrides(point, [{}], [HALVE])
    assert caught.value.problems[0].remedy == "did you mean gradient_acumulation_steps?"
