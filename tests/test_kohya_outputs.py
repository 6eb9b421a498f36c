"""Trainings are verified by their files: missing, broken, non-finite or foreign files are rejected by name."""

import contextlib
import hashlib
import json
import math
import struct
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save as save_bytes
from safetensors.numpy import save_file

from orchestrator.kohya import base_model
from orchestrator.kohya.outputs import files, safetensors_header, verify
from orchestrator.kohya.outputs.files import TrainingLength
from orchestrator.model import Failure, Params

METADATA: dict[str, str] = json.loads((Path(__file__).parent / "fixtures" / "lora-metadata.json").read_text("utf-8"))
"""Of a real training: rank 4, AdamW, 3 epochs of 2 steps, a checkpoint each epoch and each second step."""

ASKED: Params = {
    "network_dim": 4,
    "network_alpha": 4.0,
    "seed": 1,
    "learning_rate": 0.01,
    "max_train_epochs": 3,
    "save_every_n_epochs": 1,
    "mixed_precision": "no",
    "optimizer_type": "AdamW",
}
COMMENT = METADATA["ss_training_comment"]
LOG = "  total optimization steps / 学習ステップ数: 6\nsteps: 100%|███| 6/6 [00:30<00:00,  5.04s/it, avr_loss=1.02]"


def weights(rank: int = 4, value: float = 0.5) -> dict[str, Any]:
    return {
        "lora_unet_x.alpha": np.array(4, dtype=np.float16),
        "lora_unet_x.lora_down.weight": np.full((rank, 8), value, dtype=np.float16),
        "lora_unet_x.lora_up.weight": np.full((8, rank), value, dtype=np.float16),
    }


def save(folder: Path, name: str, tensors: Mapping[str, Any] | None = None, **metadata: str) -> Path:
    """With the hash that sd-scripts takes: of all that follows the header."""
    body = save_bytes(dict(tensors or weights()))
    hashed = hashlib.sha256(body[8 + struct.unpack("<Q", body[:8])[0] :]).hexdigest()
    save_file(dict(tensors or weights()), folder / name, {**METADATA, "sshs_model_hash": hashed, **metadata})
    return folder / name


@pytest.fixture
def output(tmp_path: Path) -> Path:
    save(tmp_path, "lora-000001.safetensors", ss_steps="2")
    save(tmp_path, "lora-000002.safetensors", ss_steps="4")
    save(tmp_path, "lora.safetensors")
    return tmp_path


def check(output: Path, asked: Params = ASKED, log: str = LOG, comment: str = COMMENT) -> verify.OutputCheck:
    return verify.verify(output, "lora", asked, log, training_comment=comment)


def test_weights_that_were_not_written_to_disk_are_rejected(output: Path) -> None:
    final = output / "lora.safetensors"
    final.write_bytes(final.read_bytes()[:-8] + bytes(8))  # as after a power cut: the size is right, a page is not
    found = check(output)
    assert found.failure is Failure.NO_PRODUCT
    assert "was not written to disk" in str(found.problems[0])


NETWORKS = {
    "networks.loha": ("w1_a", "w1_b", "w2_a*", "w2_b"),
    "networks.lokr": ("w1", "w2_a", "w2_b*"),
    "lokr, full matrix": ("w1", "w2*"),
    "loha with tucker": ("t1", "w1_a*", "w1_b", "w2_a"),
}


def tensors_of(name: str, zero: float) -> dict[str, Any]:
    prefix = "hada" if "loha" in name else "lokr"
    return {
        f"lora_unet_x.{prefix}_{part.removesuffix('*')}": np.full((4, 4), zero if "*" in part else 0.5, np.float16)
        for part in NETWORKS[name]
    }


@pytest.mark.parametrize("name", NETWORKS)
def test_other_networks_are_verified_by_the_tensors_that_start_at_zero(output: Path, name: str) -> None:
    module = "networks.loha" if "loha" in name else "networks.lokr"
    asked = {"network_module": module, "max_train_epochs": 3, **{k: v for k, v in ASKED.items() if "save_" not in k}}
    for value, failure in ((0.5, None), (0.0, Failure.NO_PRODUCT)):
        save(output, "lora.safetensors", tensors_of(name, value), ss_network_module=module)
        found = check(output, asked)
        assert found.failure is failure, found.problems
        assert all("nothing was learned" in problem.what for problem in found.problems)
    save(output, "lora.safetensors", tensors_of(name, 0.5))
    assert any("ss_network_module" in problem.what for problem in check(output, asked).problems)


def test_oft_and_dora_are_verified(output: Path) -> None:
    asked = {key: value for key, value in ASKED.items() if "save_" not in key}
    blocks = {"oft_unet_x.oft_blocks": np.full((4, 8, 8), 0.1, np.float16)}
    save(output, "lora.safetensors", blocks, ss_network_module="networks.oft")
    assert check(output, {**asked, "network_module": "networks.oft"}).failure is None
    dora = {"network_module": "lycoris.kohya", "network_args": ("algo=lora", "dora_wd=True")}
    save(output, "lora.safetensors", ss_network_module="lycoris.kohya")
    assert "no dora_scale" in str(check(output, {**asked, **dora}).problems[0])
    scaled = {**weights(), "lora_unet_x.dora_scale": np.ones((8, 1), np.float16)}
    save(output, "lora.safetensors", scaled, ss_network_module="lycoris.kohya", sshs_model_hash="0x12")
    assert check(output, {**asked, **dora}).failure is None


def test_a_complete_training_is_verified(output: Path) -> None:
    found = check(output)
    assert found.failure is None
    assert found.problems == ()
    assert [(item.file, item.epoch, item.step) for item in found.checkpoints] == [
        ("lora-000001.safetensors", 1, 2),
        ("lora-000002.safetensors", 2, 4),
        ("lora.safetensors", 3, 6),
    ]
    assert all(len(item.sha256) == 64 for item in found.checkpoints)


@pytest.mark.parametrize("name", ["lora.safetensors", "lora-000001.safetensors"])
def test_a_missing_checkpoint_is_named(output: Path, name: str) -> None:
    (output / name).unlink()
    found = check(output)
    assert (found.failure, found.checkpoints) == (Failure.NO_PRODUCT, ())
    assert found.problems[0].where == str(output / name)


@pytest.mark.parametrize("name", ["lora.safetensors", "lora-000002.safetensors"])
def test_a_truncated_checkpoint_is_rejected(output: Path, name: str) -> None:
    whole = (output / name).read_bytes()
    (output / name).write_bytes(whole[:-5])
    found = check(output)
    assert found.failure is Failure.NO_PRODUCT
    assert "cut off" in found.problems[0].what


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", ["lora.safetensors", "lora-000001.safetensors"])
def test_weights_that_are_not_finite_are_rejected(output: Path, name: str, value: float) -> None:
    tensors = weights()
    tensors["lora_unet_x.lora_up.weight"][3, 2] = value
    save(output, name, tensors, ss_steps="2" if "1" in name else "6")
    found = check(output)
    assert found.failure is Failure.NAN
    assert "1 of 3 tensors" in found.problems[0].what


def test_untrained_weights_are_rejected(output: Path) -> None:
    tensors = weights()
    tensors["lora_unet_x.lora_up.weight"][:] = 0
    save(output, "lora.safetensors", tensors)
    assert "nothing was learned" in check(output).problems[0].what


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"network_dim": 8}, "ss_network_dim"),
        ({"network_alpha": 1}, "ss_network_alpha"),
        ({"seed": 2}, "ss_seed"),
        ({"learning_rate": 0.02}, "ss_learning_rate"),
        ({"max_train_epochs": 4}, "ss_num_epochs"),
        ({"optimizer_type": "Prodigy"}, "ss_optimizer"),
        ({"optimizer_type": "prodigyplus.ProdigyPlusScheduleFree"}, "ss_optimizer"),
        ({"min_snr_gamma": 5}, "ss_min_snr_gamma"),
        ({"mixed_precision": "bf16"}, "ss_mixed_precision"),
        ({"unet_lr": 1e-4}, "ss_unet_lr"),
    ],
)
def test_metadata_that_disagrees_is_rejected(output: Path, change: Params, key: str) -> None:
    found = check(output, {**ASKED, **change})
    assert found.failure is Failure.NO_PRODUCT
    assert key in {problem.key for problem in found.problems}


def test_a_file_of_another_attempt_is_rejected(output: Path) -> None:
    (problem,) = check(output, comment="orchestrate abc 2").problems
    assert problem.key == "ss_training_comment"


def test_a_training_that_ended_early_is_rejected(output: Path) -> None:
    save(output, "lora.safetensors", ss_steps="5")
    assert [problem.key for problem in check(output).problems] == ["ss_steps"]


def test_the_log_must_agree_on_the_steps(output: Path) -> None:
    assert [problem.key for problem in check(output, log=LOG.replace(": 6", ": 60")).problems] == ["ss_max_train_steps"]


def test_a_nan_loss_is_a_failure(output: Path) -> None:
    assert check(output, log=LOG.replace("1.02", "nan")).failure is Failure.NAN


def test_an_earlier_checkpoint_of_another_step_is_rejected(output: Path) -> None:
    save(output, "lora-000002.safetensors", ss_steps="2")
    assert "records step 2, not 4" in check(output).problems[0].what


@pytest.mark.parametrize("steps", ["", "None", "-1", "1e9", "99999999"])
def test_a_checkpoint_with_a_false_length_is_rejected(output: Path, steps: str) -> None:
    save(output, "lora.safetensors", ss_steps=steps, ss_max_train_steps=steps)
    assert check(output, log="").failure is Failure.NO_PRODUCT


@pytest.mark.parametrize(
    ("asked", "recorded", "equal"),
    [
        ({"optimizer_type": "adamw8bit"}, "bitsandbytes.optim.adamw.AdamW8bit(weight_decay=0.1)", True),
        ({"optimizer_type": "SGDNesterov"}, "torch.optim.sgd.SGD(momentum=0.9)", True),
        ({"optimizer_type": "DAdaptation"}, "dadaptation.experimental.x.DAdaptAdamPreprint", True),
        ({"optimizer_type": ""}, "torch.optim.adamw.AdamW", True),
        ({"optimizer_type": "Prodigy"}, "prodigyopt.prodigy.Prodigy(d_coef=1.0,note='a(b.c)')", True),
        ({"optimizer_type": "Prodigy"}, "bitsandbytes.optim.adamw.AdamW8bit", False),
    ],
)
def test_optimizers_are_compared_by_class(output: Path, asked: Params, recorded: str, equal: bool) -> None:
    save(output, "lora.safetensors", ss_optimizer=recorded)
    assert (check(output, {**ASKED, **asked}).failure is None) is equal


def test_adafactor_may_clear_the_rates_it_sets_itself(output: Path) -> None:
    cleared = {"ss_learning_rate": "None", "ss_lr_scheduler": "adafactor:0.01"}
    save(output, "lora.safetensors", ss_optimizer="transformers.optimization.Adafactor(relative_step=True)", **cleared)
    assert check(output, {**ASKED, "optimizer_type": "adafactor"}).failure is None


def test_of_several_text_encoder_rates_the_first_counts(output: Path) -> None:
    save(output, "lora.safetensors", ss_text_encoder_lr="1e-05")
    assert check(output, {**ASKED, "text_encoder_lr": (1e-5,)}).failure is None
    assert check(output, {**ASKED, "text_encoder_lr": 2e-5}).failure is Failure.NO_PRODUCT


# --- which files to expect --------------------------------------------------------------------------------------------


def names(params: Params, **length: int) -> list[str]:
    given = {"steps": 60, "epochs": 6, "steps_per_epoch": 10, **length}
    return [item.file.removesuffix(".safetensors") for item in files.expected("p", params, TrainingLength(**given))]


def test_the_last_epoch_has_no_number() -> None:
    assert names({}) == ["p"]
    assert names({"save_every_n_epochs": 2}) == ["p-000002", "p-000004", "p"]
    assert names({"save_every_n_epochs": 4}) == ["p-000004", "p"]
    assert names({"save_n_epoch_ratio": 2}) == ["p-000003", "p"]


def test_saves_by_step_include_the_last_step() -> None:
    assert names({"save_every_n_steps": 30}) == ["p-step00000030", "p-step00000060", "p"]
    assert names({"save_every_n_steps": 25}, steps=60) == ["p-step00000025", "p-step00000050", "p"]


def test_pruned_checkpoints_are_not_expected() -> None:
    assert names({"save_every_n_epochs": 1, "save_last_n_epochs": 2}) == ["p-000004", "p-000005", "p"]
    # sd-scripts' own example: every 10, last 30: at step 50 the one of step 10 goes
    by_step = {"save_every_n_steps": 10, "save_last_n_steps": 30}
    assert names(by_step, steps=50) == ["p-step00000020", "p-step00000030", "p-step00000040", "p-step00000050", "p"]


def test_complete_states_are_found_in_the_order_of_their_steps(tmp_path: Path) -> None:
    for name, step in (("p-state", 12), ("p-000001-state", 4), ("p-step00000008-state", 8), ("q-state", 1)):
        (tmp_path / name).mkdir()
        for part in ("model.safetensors", "optimizer.bin", "scheduler.bin", "random_states_0.pkl"):
            (tmp_path / name / part).touch()
        (tmp_path / name / "train_state.json").write_text(json.dumps({"current_epoch": 1, "current_step": step}))
    (tmp_path / "p-step00000008-state" / "random_states_0.pkl").unlink()
    assert [path.name for path in files.states(tmp_path, "p")] == ["p-000001-state", "p-state"]


# --- false headers ----------------------------------------------------------------------------------------------------


def raw(content: object, data: bytes = b"\0" * 8) -> bytes:
    text = content if isinstance(content, bytes) else json.dumps(content).encode()
    return struct.pack("<Q", len(text)) + text + data


def tensor(**change: object) -> dict[str, object]:
    return {"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8], **change}}


HOSTILE: dict[str, Callable[[], bytes]] = {
    "empty": lambda: b"",
    "short": lambda: b"1234567",
    "length beyond the file": lambda: struct.pack("<Q", 2**63) + b"{}",
    "length of 1 GB": lambda: struct.pack("<Q", 2**30) + b"{}" * 10,
    "not JSON": lambda: raw(b"{nope"),
    "not UTF-8": lambda: raw(b"\xff\xfe{}"),
    "a list": lambda: raw([]),
    "nested": lambda: raw(b"[" * 100_000),
    "a giant number": lambda: raw(b'{"a": ' + b"9" * 5000 + b"}"),
    "metadata of numbers": lambda: raw({"__metadata__": {"a": 1}}, b""),
    "metadata that is no text": lambda: raw({"__metadata__": {"a": "\ud800"}}, b""),
    "unknown dtype": lambda: raw(tensor(dtype="F128")),
    "dtype of another kind": lambda: raw(tensor(dtype=["F32"])),
    "no shape": lambda: raw({"a": {"dtype": "F32", "data_offsets": [0, 8]}}),
    "negative shape": lambda: raw(tensor(shape=[-2])),
    "boolean shape": lambda: raw(tensor(shape=[True, 2])),
    "shape of another size": lambda: raw(tensor(shape=[3])),
    "huge shape": lambda: raw(tensor(shape=[2**40, 2**40])),
    "shape of a million dims": lambda: raw(tensor(shape=[9] * 1_000_000)),
    "beyond the data": lambda: raw(tensor(data_offsets=[8, 16])),
    "backwards": lambda: raw(tensor(data_offsets=[8, 0])),
    "three offsets": lambda: raw(tensor(data_offsets=[0, 4, 8])),
    "overlapping": lambda: raw({**tensor(), "b": tensor()["a"]}),
    "appended": lambda: raw(tensor(), b"\0" * 9),
    "cut off": lambda: raw(tensor(), b"\0" * 7),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_false_header_is_rejected(tmp_path: Path, name: str) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(HOSTILE[name]())
    began = time.process_time()
    with pytest.raises(ValueError, match=r"\w"):
        safetensors_header.read_header(path)
    assert time.process_time() - began < 5


@pytest.mark.parametrize(("content", "said"), [(b"", "it is empty"), (b"abc", "it is cut off after 3 bytes")])
def test_a_file_without_a_header_is_described(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "x.safetensors").write_bytes(content)
    with pytest.raises(ValueError, match=said):
        safetensors_header.read_header(tmp_path / "x.safetensors")


@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_rejected_at_most(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzz.safetensors"
    path.write_bytes(struct.pack("<Q", len(content)) + content)
    with contextlib.suppress(ValueError):
        safetensors_header.read_header(path)


def test_every_kind_of_number_is_checked_for_nan(tmp_path: Path) -> None:
    """bf16 and 8-bit floats, which numpy does not know, by their bits."""
    cases = {
        "F64": (struct.pack("<d", 1.5), struct.pack("<d", math.nan)),
        "F32": (struct.pack("<f", -1e38), struct.pack("<f", -math.inf)),
        "F16": (struct.pack("<e", 65504), struct.pack("<e", math.nan)),
        "BF16": (b"\x7f\x7f", b"\xc0\x7f"),  # the largest bf16, and its NaN
        "I64": (b"\xff" * 8, None),
    }
    for dtype, (good, bad) in cases.items():
        for data, finite in ((good, True), (bad, False)):
            if data is not None:
                path = tmp_path / "x.safetensors"
                path.write_bytes(raw({"a": {"dtype": dtype, "shape": [1], "data_offsets": [0, len(data)]}}, data))
                assert (safetensors_header.not_finite(path, safetensors_header.read_header(path)) == []) is finite, (
                    dtype
                )


def test_ranks_come_from_the_header(output: Path) -> None:
    assert verify.ranks(safetensors_header.read_header(output / "lora.safetensors")) == {4}


# --- base models ------------------------------------------------------------------------------------------------------


def checkpoint(path: Path, *, channels: int = 4, label: int = 2816, without: str = "-") -> Path:
    tensors = {
        "model.diffusion_model.input_blocks.0.0.weight": np.zeros((2, channels, 1, 1), dtype=np.float16),
        "model.diffusion_model.label_emb.0.0.weight": np.zeros((2, label), dtype=np.float16),
        "conditioner.embedders.0.transformer.x": np.zeros(1, dtype=np.float16),
        "conditioner.embedders.1.model.x": np.zeros(1, dtype=np.float16),
        "first_stage_model.x": np.zeros(1, dtype=np.float16),
    }
    save_file({name: value for name, value in tensors.items() if not name.startswith(without)}, path)
    return path


def what(path: Path) -> str:
    return " ".join(problem.what for problem in base_model.problems(path))


def test_an_sdxl_checkpoint_is_accepted(tmp_path: Path) -> None:
    assert base_model.problems(checkpoint(tmp_path / "hyperrealism_steps.safetensors")) == []


def test_other_models_are_rejected(tmp_path: Path) -> None:
    path = tmp_path / "base.safetensors"
    assert "no VAE" in what(checkpoint(path, without="first_stage_model"))
    assert "no second text encoder" in what(checkpoint(path, without="conditioner.embedders.1"))
    assert "inpainting" in what(checkpoint(path, channels=9))
    assert "refiner" in what(checkpoint(path, label=2560))
    path.write_bytes(b"<html>not found</html>")
    assert "cannot be read" in what(path)
    path.unlink()
    assert "does not exist" in what(path)


def test_a_pickle_is_never_opened(tmp_path: Path) -> None:
    (tmp_path / "base.ckpt").write_bytes(b"cos\nsystem\n(S'touch owned'\ntR.")
    assert "pickle" in what(tmp_path / "base.ckpt")
    assert "pickle" in base_model.vae_problems(tmp_path / "vae.pt", key="base_models.doll.vae")[0].what
    vae = {"decoder.conv_in.weight": np.zeros((8, 4, 3, 3), dtype=np.float32)}
    save_file(vae, tmp_path / "vae.safetensors")
    assert base_model.vae_problems(tmp_path / "vae.safetensors") == []


def test_a_link_that_sd_scripts_follows_incorrectly_is_reported(tmp_path: Path) -> None:
    blob = checkpoint(tmp_path / "blob.safetensors").rename(tmp_path / "blob")
    link = tmp_path / "base.safetensors"
    link.symlink_to(blob)
    assert "link" in what(link)
    link.unlink()
    checkpoint(tmp_path / "real.safetensors")
    link.symlink_to("real.safetensors")
    assert "link" in what(link)
    link.unlink()
    link.symlink_to(tmp_path / "real.safetensors")
    assert what(link) == ""


@pytest.mark.parametrize(
    "name",
    ["juggernautXL_v9Lightning", "DreamShaperXL-Turbo", "x_lcm", "Hyper-SDXL", "HyperSDXL", "sdxl_dmd2", "base_4step"],
)
def test_distilled_models_are_warned_about(tmp_path: Path, name: str) -> None:
    (problem,) = base_model.problems(checkpoint(tmp_path / f"{name}.safetensors"), where="orchestrate.toml", key="x")
    assert problem.severity == "warning"
    assert (problem.where, problem.key) == ("orchestrate.toml", "x")
