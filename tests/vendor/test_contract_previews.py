"""Previews of the unmodified trainer: their steps and names, and that they do not change weights."""

import hashlib

from PIL import Image
from small_world import SIDE, Trained, World, trained

from orchestrator.config.schema import EarlyStop
from orchestrator.kohya import previews
from orchestrator.run.stages import train

LENGTH = {"max_train_epochs": 2, "max_train_steps": 4}
"""Two batches an epoch; preview checks are counted by steps."""


def _train(tiny: World, name: str, asked: EarlyStop | None) -> Trained:
    run = tiny.run(name, **LENGTH)
    return trained(run, train.perform(run, tiny.context(early_stop=asked)))


def _weights(one: Trained) -> str:
    content = (one.output / "lora.safetensors").read_bytes()
    header = 8 + int.from_bytes(content[:8], "little")
    return hashlib.sha256(content[header:]).hexdigest()


def test_previews_have_the_expected_names(tiny: World) -> None:
    looked, alone = _train(tiny, "looked", EarlyStop()), _train(tiny, "alone", None)
    assert looked.result.failure is None, looked.result.reason
    assert [len(previews.files_at_step(looked.output, step, 4)) for step in (1, 2, 3)] == [0, 4, 0]
    drawn = previews.files_at_step(looked.output, 2, 4)
    assert [path.stem.rpartition("_")[2] for path in drawn] == ["1", "1", "2", "2"], "every prompt before a second seed"
    assert {Image.open(path).size for path in drawn} == {(SIDE, SIDE)}
    assert previews.files_at_step(alone.output, 2, 4) == []
    assert _weights(looked) == _weights(alone), "a training is the same with previews as without"
