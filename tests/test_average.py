"""Averaged checkpoints: their numbers, types, metadata, and that they are candidates like others."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file
from standins.world import World

from orchestrator.errors import InputError
from orchestrator.kohya import average
from orchestrator.kohya.outputs import safetensors_header, verify
from orchestrator.model import Checkpoint
from orchestrator.plan import forecast
from orchestrator.run.stages import generate, train


@pytest.mark.parametrize(
    ("kind", "count", "shares"),
    [
        ("mean", 4, [0.25] * 4),
        ("mean-2", 4, [0, 0, 0.5, 0.5]),
        ("mean-9", 2, [0.5, 0.5]),
        ("ema-0.5", 3, [0.25, 0.25, 0.5]),
        ("ema-0.9", 2, [0.9, 0.1]),
    ],
)
def test_the_shares_of_the_checkpoints(kind: str, count: int, shares: list[float]) -> None:
    found = average.shares(kind, count)
    assert found == pytest.approx(shares)
    assert sum(found) == pytest.approx(1)


def saved(folder: Path, epoch: int, value: float, dtype: Any = np.float16, **more: Any) -> tuple[Path, Checkpoint]:
    path = folder / f"lora-{epoch:06d}.safetensors"
    tensors = {"a.alpha": np.array(8, dtype), "a.lora_up.weight": np.full((2, 3), value, dtype), **more}
    save_file(tensors, path, {"ss_network_dim": "4", "sshs_model_hash": "x", "ss_epoch": str(epoch)})
    return path, Checkpoint(file=path.name, epoch=epoch, step=10 * epoch, sha256=f"hash {epoch}")


@pytest.mark.parametrize(("dtype", "stored"), [(np.float16, "F16"), (np.float32, "F32")])
def test_an_average_has_the_metadata_of_the_last_checkpoint_and_its_provenance(
    tmp_path: Path, dtype: Any, stored: str
) -> None:
    sources = [saved(tmp_path, epoch, value, dtype) for epoch, value in ((1, 1.0), (2, 2.0), (3, 6.0))]
    target = tmp_path / "lora-mean.safetensors"
    average.write("mean", sources, target)
    header = safetensors_header.read_header(target)
    values = safetensors_header.values(target, header.tensors["a.lora_up.weight"])
    assert values.tolist() == [[3.0] * 3] * 2
    assert float(safetensors_header.values(target, header.tensors["a.alpha"])) == 8
    assert {tensor.dtype for tensor in header.tensors.values()} == {stored}
    assert (header.metadata["ss_network_dim"], header.metadata["ss_epoch"]) == ("4", "3")
    assert not verify.is_torn(target, header)
    record = json.loads(header.metadata[average.METADATA])
    assert record["kind"] == "mean"
    assert [(one["file"], one["sha256"]) for one in record["of"]] == [(one.file, one.sha256) for _, one in sources]


def test_bfloat16_is_read_as_it_is_stored(tmp_path: Path) -> None:
    path, _ = saved(tmp_path, 1, 1.0)
    raw = path.read_bytes().replace(b'"F16"', b'"BF16"', 2)
    length = int.from_bytes(raw[:8], "little")
    end = raw.index(b"}}") + 2
    header, body = raw[8:end], raw[8 + length + 2 :]
    header += b" " * (-len(header) % 8)
    one = np.float32(1.5).tobytes()[2:]
    path.write_bytes(len(header).to_bytes(8, "little") + header + one * (len(body) // 2))
    found = safetensors_header.read_header(path)
    assert safetensors_header.values(path, found.tensors["a.lora_up.weight"]).tolist() == [[1.5] * 3] * 2


def test_checkpoints_of_different_shapes_are_not_averaged(tmp_path: Path) -> None:
    sources = [saved(tmp_path, 1, 1.0), saved(tmp_path, 2, 1.0, more=np.ones(2, np.float16))]
    with pytest.raises(ValueError, match="cannot be averaged"):
        average.write("mean", sources, tmp_path / "x.safetensors")


def test_averages_are_generated_besides_the_chosen_checkpoints() -> None:
    trained = [Checkpoint(file=f"{epoch}", epoch=epoch, step=epoch) for epoch in (1, 2, 3)]
    both = [*trained, Checkpoint(file="mean", epoch=3, step=3, average="mean")]
    for which, files in (("last", ["3", "mean"]), ("all", ["1", "2", "3", "mean"]), ((2,), ["2", "mean"])):
        assert [one.file for one in generate.choose(both, which)] == files
    assert [one.file for one in generate.choose(both[-1:], "last")] == ["mean"]


def test_averages_are_candidates_like_the_checkpoints_of_the_training(world: World) -> None:
    text = world.settings.read_text(encoding="utf-8")
    world.settings.write_text(
        text.replace("[generate]", '[generate]\naverages = ["mean", "ema-0.5"]'), encoding="utf-8"
    )
    world.ask("[fixed]\nnetwork_dim = 2\n")
    with pytest.raises(InputError, match="a training that saves one checkpoint has no average"):
        world.plan()
    world.ask("[fixed]\nnetwork_dim = 2\nsave_every_n_epochs = 1\n")
    images = forecast.forecast(world.sweep, world.plan().runs(), world.plan().settings, prompts=1).runs[0].images
    ctx, run = world.context(), world.run()
    run.create()
    assert train.perform(run, ctx).failure is None
    saved = [(Path(one.file).name, one.average) for one in run.checkpoints()]
    assert saved == [
        ("lora-000001.safetensors", ""), ("lora.safetensors", ""), ("lora-mean.safetensors", "mean"),
        ("lora-ema-0.5.safetensors", "ema-0.5"),
    ]  # fmt: skip
    assert all((run.path / one.file).is_file() and one.sha256 for one in run.checkpoints())
    wanted = generate.wanted(run, ctx.settings.generation, ["a photo"])
    assert len({one.checkpoint for one in wanted}) == 3
    assert len(wanted) == images
