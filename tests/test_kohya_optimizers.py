"""Arguments of optimizers and schedulers, checked against the signatures of the real classes."""

import json
from pathlib import Path

import pytest

from orchestrator.config import settings
from orchestrator.errors import Severity
from orchestrator.kohya import inheritance, optimizers, signatures
from orchestrator.kohya.arguments import lint
from orchestrator.model import Params, Value

BASE: Params = {
    "network_dim": 16,
    "network_alpha": 8,
    "learning_rate": 1e-4,
    "optimizer_type": "AdamW8bit",
    "max_train_steps": 1000,
    "seed": 1,
    "mixed_precision": "bf16",
    "save_precision": "fp16",
    "sdpa": True,
}
PRODIGY: Params = {"optimizer_type": "Prodigy", "learning_rate": 1.0}


MIN_LR: Params = {"lr_scheduler": "cosine_with_min_lr"}
PIECEWISE: Params = {"lr_scheduler": "piecewise_constant"}
RESTARTS: Params = {"lr_scheduler_type": "CosineAnnealingWarmRestarts"}
CYCLIC: Params = {"lr_scheduler_type": "CyclicLR"}
LIMITS = ("base_lr=1e-5", "max_lr=1e-4")
FIXED_STEP: Params = {
    "optimizer_type": "Adafactor",
    "optimizer_args": ("relative_step=False", "scale_parameter=False", "warmup_init=False"),
}
DECAY: Params = {"lr_scheduler": "warmup_stable_decay"}
ONE_CYCLE: Params = {"lr_scheduler_type": "OneCycleLR"}


def reported(**change: Value) -> list[tuple[str, str, str]]:
    params = {key: value for key, value in {**BASE, **change}.items() if value != ""}
    return [(p.key, p.what, p.remedy) for p in lint.lint_points([params]) if p.severity is Severity.ERROR]


def one(found: list[tuple[str, str, str]], key: str, what: str, remedy: str = "") -> None:
    assert len(found) == 1, found
    assert found[0][0] == key
    assert what in found[0][1]
    assert remedy in found[0][2]


@pytest.mark.parametrize("name", optimizers.SHORT_NAMES + optimizers.TORCH_CLASSES)
def test_every_optimizer_has_a_signature(name: str) -> None:
    found = optimizers.signature_of(optimizers.optimizer_of({"optimizer_type": name}))
    assert found is not None
    assert "weight_decay" in found.args or name == "Rprop"
    assert not {"lr", "params"} & set(found.args)


@pytest.mark.parametrize(
    ("name", "args", "what", "remedy"),
    [
        ("Prodigy", ("d_coeff=0.8", "decouple=True"), 'Prodigy has no argument "d_coeff"', "did you mean d_coef?"),
        ("AdamW8bit", ("decouple=True",), 'AdamW8bit has no argument "decouple"', "remove it: it belongs to"),
        ("AdamW8bit", ("relative_step=False",), "no argument", "remove it: it belongs to Adafactor"),
        ("Lion", ("T_max=1024",), "no argument", "move it to lr_scheduler_args: it belongs to CosineAnnealingLR"),
        ("AdamW8bit", ("betas=0.9",), "takes 2 numbers", "betas=0.9,0.99"),
        ("AdamW8bit", ("weight_decay='a'",), "takes a number", "weight_decay=0.01"),
        ("AdamW8bit", ("weight_decay=True",), "takes a number", "weight_decay=0.01"),
        ("AdamW8bit", ("lr=1e-3",), "sd-scripts passes lr", "learning_rate"),
        ("AdamW8bit", ("amsgrad=True",), "does not support amsgrad", "remove amsgrad"),
        ("PagedAdamW8bit", ("optim_bits=8",), "accepts 32 only", "remove optim_bits"),
        ("AdamW", ("betas=0.9,1.0",), "betas must be 0 or more and below 1", ""),
        ("AdamW", ("weight_decay=-0.1",), "weight_decay must be 0 or more", ""),
        ("AdamW", ("foreach=True", "fused=True"), "either fused or foreach", "remove foreach"),
        ("Lion", ("eps=1e-8",), 'Lion has no argument "eps"', ""),
        ("SGDNesterov", ("nesterov=True",), "always uses nesterov", "remove nesterov"),
        ("SGDNesterov8bit", ("momentum=0",), "needs a momentum above 0", "momentum=0.9"),
        ("adafactor", ("relative_step=False", "warmup_init=True"), "uses relative_step=True", "warmup_init=False"),
        ("DAdaptAdan", ("betas=0.9,0.99",), "takes 3 numbers", "0.9,0.99,0.999"),
        ("AdamWScheduleFree", ("use_bias_correction=True",), "no argument", ""),
        ("prodigyplus.ProdigyPlusScheduleFree", ("decouple=True",), 'no argument "decouple"', ""),
        ("bitsandbytes.optim.AdEMAMix8bit", ("betas=0.9,0.99",), "takes 3 numbers", ""),
        ("pytorch_optimizer.CAME", ("betas=0.9,0.99",), "takes 3 numbers", ""),
        ("torch.optim.AdamW", ("decouple=True",), 'no argument "decouple"', ""),
    ],
)
def test_arguments_that_an_optimizer_rejects_are_reported(name: str, args: Value, what: str, remedy: str) -> None:
    rate = 1.0 if optimizers.optimizer_of({"optimizer_type": name}).adaptive else 1e-4
    one(reported(optimizer_type=name, learning_rate=rate, optimizer_args=args), "optimizer_args", what, remedy)


@pytest.mark.parametrize(
    ("name", "args"),
    [
        ("Prodigy", ("decouple=True", "weight_decay=0.01", "betas=0.9,0.99", "use_bias_correction=True", "d_coef=2",
                     "safeguard_warmup=True", "beta3=None", "slice_p=11")),
        ("AdamW8bit", ("weight_decay=0.1", "betas=(0.9, 0.99)", "eps=1e-8")),
        ("Lion", ("weight_decay=0.1", "betas=0.9,0.99")),
        ("Adafactor", ("scale_parameter=False", "relative_step=False", "warmup_init=False")),
        ("my_package.MyOptimizer", ("anything=1",)),
        ("AdamW", ("amsgrad=1",)),
    ],
)  # fmt: skip
def test_valid_arguments_are_accepted(name: str, args: Value) -> None:
    rate = 1.0 if optimizers.optimizer_of({"optimizer_type": name}).adaptive else 1e-4
    assert reported(optimizer_type=name, learning_rate=rate, optimizer_args=args) == []


def test_a_misspelt_optimizer_has_no_follow_up_errors() -> None:
    assert reported(optimizer_type="Prodgy", learning_rate=1.0, optimizer_args=("d_coeff=1",)) == []


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"unet_lr": 0.5}, "unet_lr"),
        ({"text_encoder_lr": 0.5}, "text_encoder_lr"),
        ({"network_args": ("loraplus_unet_lr_ratio=4",)}, "network_args"),
        ({"network_args": ("down_lr_weight=cosine",)}, "network_args"),
        ({"network_args": ("mid_lr_weight=1,0.5,1",)}, "network_args"),
        ({"network_args": ("up_lr_weight=zeros+0.5",)}, "network_args"),
    ],
)
@pytest.mark.parametrize("name", ["Prodigy", "DAdaptAdam", "DAdaptation", "pytorch_optimizer.Prodigy"])
def test_an_adaptive_optimizer_accepts_one_rate_only(name: str, change: Params, key: str) -> None:
    found = reported(**{**PRODIGY, "optimizer_type": name, **change})
    assert [one[0] for one in found] == [key], found
    assert "one" in found[0][1]


@pytest.mark.parametrize("weights", ["mid_lr_weight=0,1,0", "down_lr_weight=zeros", "up_lr_weight=zeros+1"])
def test_blocks_at_rate_0_suit_an_adaptive_optimizer(weights: str) -> None:
    assert reported(**PRODIGY, network_args=(weights,)) == []


def test_a_text_encoder_at_rate_0_suits_an_adaptive_optimizer() -> None:
    assert reported(**PRODIGY, text_encoder_lr=0.0) == []


def test_rates_that_are_all_0_are_reported() -> None:
    one(reported(learning_rate=0.0), "learning_rate", "nothing is trained")
    one(reported(learning_rate=1e-4, unet_lr=0.0, text_encoder_lr=0.0), "unet_lr", "nothing is trained")


@pytest.mark.parametrize(
    ("change", "key", "what"),
    [
        ({"lr_scheduler": "polynomial", "lr_scheduler_args": ("lr_ned=0",)}, "lr_scheduler_args", "lr_ned"),
        (
            {"lr_scheduler": "cosine_with_restarts", "lr_scheduler_args": ("num_cycles=2",)},
            "lr_scheduler_args",
            "itself",
        ),
        ({"lr_scheduler": "piecewise_constant"}, "lr_scheduler", "needs step_rules"),
        ({"lr_scheduler": "cosine_with_min_lr"}, "lr_scheduler", "lr_scheduler_min_lr_ratio"),
        (
            {**MIN_LR, "lr_scheduler_min_lr_ratio": 0.1, "lr_scheduler_args": ("min_lr=1e-6",)},
            "lr_scheduler",
            "either",
        ),
        ({"lr_scheduler_type": "CosineAnnealingLR"}, "lr_scheduler_type", "needs T_max"),
        ({"lr_scheduler_type": "CosineAnealingLR"}, "lr_scheduler_type", "no scheduler CosineAnealingLR"),
        ({"lr_scheduler_type": "torch.optim.lr_scheduler.StepLR"}, "lr_scheduler_type", "needs step_size"),
        ({"lr_scheduler_type": "ReduceLROnPlateau"}, "lr_scheduler_type", "needs the loss"),
        ({"lr_scheduler_type": "LambdaLR"}, "lr_scheduler_type", "Python object"),
        ({"lr_scheduler_type": "LambdaLR", "lr_scheduler_args": ("lr_lambda=1",)}, "lr_scheduler_args", "object"),
        ({"lr_scheduler_type": "SequentialLR"}, "lr_scheduler_type", "Python object"),
        ({"lr_scheduler_args": ("milestones=[30,59]", "gamma=0.3")}, "lr_scheduler_args", "no gamma and no mile"),
        ({**RESTARTS, "lr_scheduler_args": ("T_0=0", "T_mult=0")}, "lr_scheduler_args", "T_0 = 0 is no value"),
        ({**RESTARTS, "lr_scheduler_args": ("T_0=1.5",)}, "lr_scheduler_args", "T_0 = 1.5 is no value"),
        ({"lr_scheduler_type": "StepLR", "lr_scheduler_args": ("step_size=0",)}, "lr_scheduler_args", "1 or more"),
        ({"lr_scheduler_type": "MultiStepLR", "lr_scheduler_args": ("milestones=9",)}, "lr_scheduler_args", "no value"),
        ({**CYCLIC, "lr_scheduler_args": (*LIMITS, "mode='up'")}, "lr_scheduler_args", "no value"),
        ({**CYCLIC, **FIXED_STEP, "lr_scheduler_args": LIMITS}, "lr_scheduler_args", "has none"),
        ({**PIECEWISE, "lr_scheduler_args": ("step_rules='1:10:3'",)}, "lr_scheduler_args", "no value"),
        ({**ONE_CYCLE, "lr_scheduler_args": ("max_lr=1e-4",)}, "lr_scheduler_type", "total_steps"),
        (
            {**ONE_CYCLE, "lr_scheduler_args": ("max_lr=1e-4", "total_steps=10")},
            "lr_scheduler_args",
            "ends after 10 steps",
        ),
        ({"lr_scheduler": "constant", "lr_warmup_steps": 10}, "lr_warmup_steps", "warmup"),
        (
            {**PIECEWISE, "lr_scheduler_args": ("step_rules='1:10,0.1'",), "lr_warmup_steps": 10},
            "lr_warmup_steps",
            "warmup",
        ),
        ({**DECAY, "lr_warmup_steps": 0.6, "lr_decay_steps": 0.6}, "lr_decay_steps", "longer"),
        ({"lr_scheduler": "adafactor"}, "lr_scheduler", "Adafactor"),
    ],
)  # fmt: skip
def test_schedules_that_fail_are_reported(change: Params, key: str, what: str) -> None:
    one(reported(**change), key, what)


@pytest.mark.parametrize(
    "change",
    [
        {"lr_scheduler_type": "CosineAnnealingLR", "lr_scheduler_args": ("T_max=1000", "eta_min=1e-6")},
        {"lr_scheduler": "cosine_with_min_lr", "lr_scheduler_min_lr_ratio": 0.1},
        {**RESTARTS, "lr_scheduler_args": ("T_0=2",)},
        {**CYCLIC, "lr_scheduler_args": (*LIMITS, "mode='triangular2'")},
        {**CYCLIC, **FIXED_STEP, "lr_scheduler_args": (*LIMITS, "cycle_momentum=False")},
        {"lr_scheduler": "cosine_with_restarts", "lr_scheduler_num_cycles": 3, "lr_warmup_steps": 0.05},
        {"lr_scheduler": "piecewise_constant", "lr_scheduler_args": ("step_rules='1:10,0.1:20,0.01'",)},
        {"lr_scheduler": "warmup_stable_decay", "lr_warmup_steps": 100, "lr_decay_steps": 0.2},
        {"lr_scheduler_type": "my_package.MyScheduler", "lr_scheduler_args": ("anything=1",)},
        {"optimizer_type": "Adafactor", "learning_rate": 1e-3, "lr_scheduler": "adafactor"},
    ],
)
def test_valid_schedules_are_accepted(change: Params) -> None:
    assert reported(**change) == []


def test_block_weights_and_loraplus_have_no_effect_where_adafactor_sets_the_rate() -> None:
    change: Params = {"optimizer_type": "Adafactor", "learning_rate": 1e-3}
    one(reported(**change, network_args=("loraplus_lr_ratio=4",)), "network_args", "no effect")
    one(reported(**change, network_args=("mid_lr_weight=1,0,1",)), "network_args", "no effect")


def test_the_table_names_its_versions() -> None:
    record = json.loads(Path(signatures.__file__).with_suffix(".json").read_text(encoding="utf-8"))
    assert {"torch", "bitsandbytes", "prodigyopt", "transformers"} <= set(record["versions"])


def test_the_shipped_settings_have_the_built_in_values() -> None:
    """docs/settings.md says so."""
    shipped = settings.load(Path(__file__).parents[1] / "orchestrate.toml").optimizers
    assert shipped
    assert dict(shipped) == {name: inheritance.TABLES[name.rpartition(".")[2]] for name in shipped}


def test_a_cosine_that_rises_again_is_a_warning() -> None:
    half = {**BASE, "lr_scheduler_type": "CosineAnnealingLR", "max_train_steps": 100}
    for most, count in (("T_max=20", 1), ("T_max=100", 0)):
        found = lint.lint_points([{**half, "lr_scheduler_args": (most,)}])
        assert ["rises again" in one.what for one in found] == [True] * count


def test_a_scheduler_that_replaces_the_learning_rates_is_a_warning() -> None:
    cyclic = {**BASE, **CYCLIC, "lr_scheduler_args": LIMITS}
    for rate, count in ((1e-4, 0), (3e-4, 1)):
        found = lint.lint_points([{**cyclic, "learning_rate": rate}])
        assert ["replaces every learning rate" in one.what for one in found] == [True] * count
