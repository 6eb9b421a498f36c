"""Arguments of the network that have no effect, files of weights that do not fit, packages that are needed."""

import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from safetensors.numpy import save_file

from orchestrator.errors import Severity
from orchestrator.kohya import networks, packages
from orchestrator.kohya.arguments import lint
from orchestrator.kohya.generator_modules import lycoris_network
from orchestrator.model import Params, Value

BASE: Params = {
    "network_dim": 4,
    "network_alpha": 4,
    "learning_rate": 1e-4,
    "optimizer_type": "AdamW",
    "max_train_steps": 1000,
    "seed": 1,
    "mixed_precision": "bf16",
    "save_precision": "fp16",
    "sdpa": True,
}


def reported(severity: Severity = Severity.ERROR, **change: Value) -> list[tuple[str, str, str]]:
    found = lint.lint_points([{**BASE, **change}])
    return [(problem.key, problem.what, problem.remedy) for problem in found if problem.severity is severity]


def one(found: list[tuple[str, str, str]], key: str, what: str, remedy: str = "") -> None:
    assert len(found) == 1, found
    assert found[0][0] == key
    assert what in found[0][1]
    assert remedy in found[0][2]


@pytest.mark.parametrize(
    ("change", "key", "what"),
    [
        ({"min_timestep": 500, "max_timestep": 400}, "min_timestep", "min_timestep = 500 is above"),
        ({"min_bucket_reso": 2048, "max_bucket_reso": 512}, "min_bucket_reso", "is above max_bucket_reso"),
    ],
)
def test_pairs_in_the_wrong_order_are_reported(change: Params, key: str, what: str) -> None:
    one(reported(**change), key, what)


@pytest.mark.parametrize(
    "change",
    [{"min_timestep": 400, "max_timestep": 500}, {"max_timestep": 1}, {"min_bucket_reso": 512, "max_bucket_reso": 512}],
)
def test_pairs_in_order_are_accepted(change: Params) -> None:
    assert reported(**change) == []


@pytest.mark.parametrize(
    ("args", "change", "what"),
    [
        (("block_alphas=" + ",".join(["1"] * 23),), {}, "ignores block_alphas without block_dims"),
        (("conv_alpha=1",), {}, "ignores conv_alpha without conv_dim"),
        (("conv_block_alphas=" + ",".join(["1"] * 23),), {}, "ignores conv_block_alphas without conv_block_dims"),
        (("block_lr_zero_threshold=0.1",), {}, "ignores block_lr_zero_threshold without block weights"),
        (("loraplus_text_encoder_lr_ratio=4",), {"network_train_unet_only": True}, "has no effect"),
        (("loraplus_unet_lr_ratio=4",), {"network_train_text_encoder_only": True}, "has no effect"),
        (("mid_lr_weight=1,0,1",), {"network_train_text_encoder_only": True}, "mid_lr_weight has no effect"),
        (
            ("down_lr_weight=zeros", "mid_lr_weight=0,0,0", "up_lr_weight=zeros"),
            {"network_train_unet_only": True},
            "every block is 0",
        ),
    ],
)
def test_network_args_without_effect_are_reported(args: Value, change: Params, what: str) -> None:
    one(reported(network_args=args, **change), "network_args", what)


@pytest.mark.parametrize(
    "args",
    [
        ("conv_dim=4", "conv_alpha=1"),
        ("conv_dim=0",),
        ("block_dims=" + ",".join(["4"] * 23), "block_alphas=" + ",".join(["1"] * 23)),
        ("loraplus_lr_ratio=4", "mid_lr_weight=1,0,1", "block_lr_zero_threshold=0.1"),
    ],
)
def test_network_args_that_work_are_accepted(args: Value) -> None:
    assert reported(network_args=args) == reported(Severity.WARNING, network_args=args) == []


# --- files ------------------------------------------------------------------------------------------------------------


def weights(path: Path, *, rank: int = 4, name: str = "lora_unet_input_blocks_1", **metadata: str) -> str:
    tensors = {
        f"{name}.lora_down.weight": np.zeros((rank, 8), dtype=np.float16),
        f"{name}.lora_up.weight": np.zeros((8, rank), dtype=np.float16),
    }
    save_file(tensors, path, {"ss_network_module": "networks.lora", **metadata})
    return str(path)


def test_weights_that_fit_are_accepted(tmp_path: Path) -> None:
    file = weights(tmp_path / "a.safetensors", ss_network_alpha="4.0")
    assert reported(network_weights=file, base_weights=(file,), base_weights_multiplier=(0.5,)) == []
    assert reported(Severity.WARNING, network_weights=file) == []


@pytest.mark.parametrize("key", ["network_weights", "base_weights", "log_tracker_config", "metadata_thumbnail"])
def test_a_file_that_does_not_exist_is_reported(key: str, tmp_path: Path) -> None:
    name = str(tmp_path / "no-such.safetensors")
    one(reported(**{key: (name,) if key == "base_weights" else name}), key, "does not exist", "correct the path")


def test_a_thumbnail_may_be_the_picture_itself() -> None:
    assert reported(metadata_thumbnail="data:image/png;base64,AAAA") == []


def test_a_relative_path_is_reported_with_the_absolute_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = weights(tmp_path / "a.safetensors")
    monkeypatch.chdir(tmp_path)
    one(reported(network_weights="a.safetensors"), "network_weights", "not an absolute path", f'write "{file}"')


def test_weights_that_do_not_fit_are_reported(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    one(reported(network_weights=weights(path, rank=8)), "network_weights", "rank 8, not network_dim = 4", "= 8")
    assert reported(network_weights=str(path), dim_from_weights=True) == []
    one(reported(network_weights=weights(path, name="lora_te_text_model")), "network_weights", "another model family")
    one(reported(network_weights=weights(path, ss_base_model_version="sd_v1")), "network_weights", "another model")
    one(reported(network_weights=weights(path, ss_network_module="lycoris.kohya")), "network_weights", "lycoris.kohya")
    path.write_bytes(b"no")
    one(reported(base_weights=(str(path),)), "base_weights", "cannot be read", "again")
    path.with_suffix(".pt").write_bytes(b"no")
    one(reported(base_weights=(str(path.with_suffix(".pt")),)), "base_weights", "pickle")


def test_another_alpha_than_that_of_the_weights_is_a_warning(tmp_path: Path) -> None:
    file = weights(tmp_path / "a.safetensors", ss_network_alpha="1.0")
    one(reported(Severity.WARNING, network_weights=file), "network_weights", "network_alpha = 1", "network_alpha = 1")


def test_a_rank_from_weights_needs_weights() -> None:
    one(reported(dim_from_weights=True), "dim_from_weights", "is not set", "set network_weights")
    one(reported(base_weights_multiplier=(1.0,)), "base_weights_multiplier", "no effect")


# --- packages ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "needed"),
    [
        ({"optimizer_type": "AdamW"}, {}),
        ({"optimizer_type": "Prodigy"}, {"prodigyopt": "optimizer_type"}),
        ({"use_8bit_adam": True, "optimizer_type": ""}, {"bitsandbytes": "use_8bit_adam or use_lion_optimizer"}),
        ({"xformers": True}, {"xformers": "xformers"}),
        ({"log_with": "wandb"}, {"wandb": "log_with"}),
        ({"log_with": "all"}, {"wandb": "log_with"}),
        ({"log_with": "tensorboard"}, {}),
        ({"torch_compile": True}, {"triton": "torch_compile"}),
        ({"torch_compile": True, "dynamo_backend": "eager"}, {}),
        ({"network_module": "lycoris.kohya"}, {"lycoris": "network_module"}),
        ({"network_module": "networks.lora"}, {}),
        ({"lr_scheduler_type": "pytorch_optimizer.REXScheduler"}, {"pytorch_optimizer": "lr_scheduler_type"}),
        ({"lr_scheduler_type": "CosineAnnealingLR"}, {}),
    ],
)
def test_packages_follow_from_the_arguments(change: Params, needed: dict[str, str]) -> None:
    assert packages.packages({**BASE, **change}) == needed


def test_lion_with_triton_needs_triton() -> None:
    found = packages.packages({"optimizer_type": "Lion", "optimizer_args": ("use_triton=True",)})
    assert set(found) == {"lion_pytorch", "triton"}


def test_a_package_is_installed_under_its_name_on_pypi() -> None:
    assert packages.install_command("/py", "prodigyplus") == "`/py -m pip install prodigy-plus-schedule-free`"
    assert packages.install_command("/py", "xformers") == "`/py -m pip install xformers`"


# --- other networks ---------------------------------------------------------------------------------------------------

LOKR: Params = {"network_module": "networks.lokr", "network_args": ("factor=4",)}
OFT: Params = {"network_module": "networks.oft", "network_alpha": 1e-3, "network_train_unet_only": True}
DORA: Params = {
    "network_module": "lycoris.kohya",
    "network_args": ("algo=lora", "dora_wd=True", "wd_on_output=False"),
}


@pytest.mark.parametrize(
    ("change", "key", "what"),
    [
        ({**LOKR, "network_dropout": 0.1}, "network_dropout", "networks.lokr ignores network_dropout"),
        ({**LOKR, "scale_weight_norms": 1.0}, "scale_weight_norms", "networks.lokr ignores"),
        ({**LOKR, "network_args": ("use_tucker=True",)}, "network_args", "ignores use_tucker without conv_dim"),
        ({**LOKR, "network_args": ("conv_alpha=1",)}, "network_args", "networks.lokr ignores conv_alpha without"),
        ({**OFT, "network_dim": 48}, "network_dim", "48 does not divide 640"),
        ({**OFT, "network_dim": 128, "network_args": ("enable_conv=True",)}, "network_dim", "does not divide 320"),
        ({**DORA, "network_args": ("algo=lora", "factor=4")}, "network_args", "algo=lora ignores factor"),
        ({**DORA, "network_args": ("algo=lora", "full_matrix=True")}, "network_args", "algo=lora ignores full_matrix"),
        ({**DORA, "network_args": ("algo=loha", "loraplus_lr_ratio=4")}, "network_args", "loha ignores loraplus_lr"),
        ({**DORA, "network_args": ("dora_wd=True", "bypass_mode=True")}, "network_args", "ignores dora_wd with bypass"),
        ({**DORA, "network_args": ("algo=loha", "dropout=0.1")}, "network_args", "has no dropout of neurons"),
        ({**DORA, "network_args": ("algo=lokr",), "network_dropout": 0.1}, "network_dropout", "no dropout of neurons"),
    ],
)
def test_arguments_that_another_network_ignores_or_rejects_are_reported(change: Params, key: str, what: str) -> None:
    one(reported(**change), key, what)


def test_lycoris_takes_any_text_of_decompose_both_for_true() -> None:
    lokr: Params = {"network_module": "lycoris.kohya", "network_args": ("algo=lokr", "decompose_both=False")}
    one(reported(Severity.WARNING, **lokr), "network_args", "for True", "remove decompose_both")
    assert reported(Severity.WARNING, **lokr, network_dim=64, network_alpha=64) == []  # too large to be split


@pytest.mark.parametrize(
    "change",
    [
        LOKR, OFT, DORA, {**LOKR, "text_encoder_lr": (1e-5, 0.0)},
        {**DORA, "network_args": ("algo=locon", "conv_dim=8", "factor=-1", "decompose_both=False")},
    ],
)  # fmt: skip
def test_valid_settings_of_another_network_are_accepted(change: Params) -> None:
    assert reported(**change) == reported(Severity.WARNING, **change) == []


def test_a_dora_that_other_programs_apply_differently_is_reported() -> None:
    found = reported(Severity.WARNING, **{**DORA, "network_args": ("algo=lora", "dora_wd=True")})
    one(found, "network_args", "A1111 applies it wrongly", "wd_on_output=False")


def test_alpha_of_oft_is_no_scale() -> None:
    one(reported(Severity.WARNING, **{**OFT, "network_alpha": 2}), "network_alpha", "constraint", "1e-3")


@pytest.mark.parametrize(
    ("params", "millions"),
    [
        ({}, 57.0),
        (LOKR, 14.3),
        ({"network_module": "networks.loha"}, 114.0),
        (OFT, 51.2),
        ({**DORA, "network_args": ("dora_wd=True", "preset=attn-mlp")}, 58.9),
        ({**DORA, "network_args": ("dora_wd=True", "wd_on_output=False", "preset=attn-mlp")}, 58.7),
    ],
)
def test_parameters_are_counted_for_each_network(params: Params, millions: float) -> None:
    assert networks.trained_numbers({"network_dim": 16, **params}) / 1e6 == pytest.approx(millions, abs=0.1)


@pytest.mark.parametrize(
    ("dimension", "factor", "parts"),
    [(128, -1, (8, 16)), (512, -1, (16, 32)), (1024, -1, (32, 32)), (512, 4, (4, 128)), (640, 6, (5, 128))],
)
def test_dimensions_are_factorised_as_in_networks_lokr(dimension: int, factor: int, parts: tuple[int, int]) -> None:
    assert networks.factorization(dimension, factor) == parts


def test_gen_img_gets_arguments_that_the_file_cannot_contain() -> None:
    assert (networks.generation_args(LOKR), networks.generation_args(DORA)) == ("factor=4", "")
    assert (networks.can_merge(LOKR), networks.can_merge(DORA)) == (True, False)


@pytest.mark.parametrize(("shape", "of_outputs"), [((2, 1), True), ((1, 3), False), (None, True)])
def test_a_dora_is_loaded_with_the_axis_of_its_norms_and_scaled_as_a_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shape: tuple[int, int] | None, of_outputs: bool
) -> None:
    """LyCORIS's loader creates its modules as if the norms were those of the outputs."""

    class Kind:
        def __init__(self, wd_on_out: bool = True) -> None:
            self.wd_on_out, self.wd, self.org_weight = wd_on_out, shape is not None, 2.0

        def apply_weight_decompose(self, weight: float, multiplier: float = 1) -> float:
            return 3 * weight

    def load(*_: object, **__: object) -> tuple[SimpleNamespace, dict[str, object]]:
        parts = {"unet_loras": [Kind()], "text_encoder_loras": []}
        return SimpleNamespace(apply_to=lambda *words: applied.extend(words), **parts), {}

    applied: list[object] = []
    kinds = dict.fromkeys(("LoConModule", "LohaModule", "LokrModule"), Kind)
    parts = {"kohya": SimpleNamespace(create_network_from_weights=load), "modules": SimpleNamespace(**kinds)}
    monkeypatch.setitem(sys.modules, "lycoris", SimpleNamespace(**parts))
    names = {"lora_unet_a.alpha": np.ones(())} | ({"lora_unet_a.dora_scale": np.ones(shape)} if shape else {})
    save_file(names, tmp_path / "dora.safetensors")
    network, _ = lycoris_network.create_network_from_weights(1.0, str(tmp_path / "dora.safetensors"))
    (module,) = network.unet_loras
    assert module.wd_on_out is of_outputs
    if shape:
        assert [module.apply_weight_decompose(4.0, strength) for strength in (0, 0.5, 1)] == [2.0, 7.0, 12.0]
    network.apply_to("encoders", "unet")
    assert applied == ["encoders", "unet", True, True]
    assert Kind().wd_on_out is True, "the next network of the process is loaded as LyCORIS loads it"
