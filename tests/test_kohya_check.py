"""Arguments that sd-scripts would accept and misuse are rejected, with the value and a remedy."""

import time

import pytest

from orchestrator.errors import Problem
from orchestrator.kohya import optimizers
from orchestrator.kohya.arguments import check, schema, values
from orchestrator.model import Params, Value

KEYS = schema.read_snapshot()

GOOD: Params = {
    "base_model": "sdxl",
    "dataset": "persona",
    "network_dim": 16,
    "network_alpha": 8,
    "learning_rate": 1e-4,
    "text_encoder_lr": 5e-5,
    "unet_lr": 1,
    "optimizer_type": "prodigy",
    "optimizer_args": ("decouple=True", "betas=0.9,0.99", "weight_decay=0.01", "mode='a'"),
    "network_args": ("conv_dim=8", "conv_alpha=1"),
    "lr_scheduler": "cosine",
    "lr_warmup_steps": 0.1,
    "resolution": "1024,1024",
    "mixed_precision": "bf16",
    "sdpa": True,
    "max_train_epochs": 10,
    "face_crop_aug_range": "2.0,4.0",
    "network_module": "networks.lora",
    "max_token_length": 225,
}


def problems(**change: Value) -> list[Problem]:
    return check.check([{**GOOD, **change}], KEYS, where="dims.toml")


def test_a_valid_point_has_no_problem() -> None:
    assert problems() == []


@pytest.mark.parametrize(
    ("key", "value", "what", "remedy"),
    [
        ("netwrok_dim", 16, "no argument `netwrok_dim`", "did you mean network_dim?"),
        ("text_encoder_lr1", 1e-4, "no argument", "did you mean text_encoder_lr?"),
        ("batch_size", 4, "no argument", "did you mean train_batch_size?"),
        ("xyzzy", 1, "no argument", "--help"),
        ("learning_rate", "1e-4", "takes a number, not a string", "write 1e-4 without quotes"),
        ("learning_rate", True, "takes a number, not true or false", "write a number"),
        ("learning_rate", float("nan"), "not finite", "write a number"),
        ("learning_rate", -1e-4, "must not be negative", "default"),
        ("network_dim", 8.5, "takes an integer, not a float", "write an integer"),
        ("network_dim", 8.0, "takes an integer, not a float", "write 8"),
        ("network_dim", True, "takes an integer, not true or false", "write an integer"),
        ("network_dim", 0, "must be positive", "default"),
        ("network_dim", (8, 16), "takes an integer, not a list", "give one value"),
        ("save_state", "false", "takes true or false, not a string", "write false without quotes"),
        ("sdpa", 1, "takes true or false, not an integer", "write true or false"),
        ("resolution", 1024, "takes a string", 'write "1024"'),
        ("resolution", "1024x1024", "not of the form", '"1024,1024"'),
        ("resolution", "0,1024", "not of the form", '"1024,1024"'),
        ("mixed_precision", "fp8", "one of no, fp16, bf16", "known here: bf16, fp16, no"),
        ("loss_type", "hubber", "one of l1, l2, huber, smooth_l1", "did you mean huber?"),
        ("max_token_length", 100, "one of 150, 225", "write 150 or 225"),
        ("optimizer_type", "Prodgy", 'no optimizer "Prodgy"', "did you mean Prodigy?"),
        ("optimizer_type", "adam", 'no optimizer "adam"', "did you mean Adam?"),  # torch.optim is case-sensitive
        ("optimizer_type", "a..b", "no optimizer", "full path"),
        ("optimizer_args", "decouple=True", "takes a list, not a string", 'write ["decouple=True"]'),
        ("optimizer_args", ("decouple=true",), "not a Python literal", "write True"),
        ("optimizer_args", ("a=b=c",), "not a Python literal", "write True"),
        ("optimizer_args", ("decouple",), "not of the form key=value", "without spaces"),
        ("optimizer_args", ("decouple =True",), "not of the form key=value", "without spaces"),
        ("optimizer_args", (1,), "each item is a string", "write each item as a string"),
        ("network_args", ("conv_dmi=8",), "has no `conv_dmi`", "did you mean conv_dim?"),
        ("network_args", ("conv_dim=8.5",), "conv_dim takes int", "write conv_dim as int"),
        ("text_encoder_lr", (1e-5, 0), "floats and integers", "write 0.0 instead of 0"),
        ("lr_warmup_steps", 100.0, "100 times all steps", "write 100 for steps"),
        ("lr_warmup_steps", "10%", "takes an integer or a fraction", "write an integer or a fraction"),
        ("lr_scheduler", "cosin", "no scheduler", "did you mean cosine?"),
        ("validation_split", 0, "takes a float", "write 0.0"),
        ("bucket_reso_steps", 48, "multiple of 32", "write 64"),
        ("face_crop_aug_range", "4,2", "not of the form", "2.0,4.0"),
        ("network_module", "lycoris.kohya", "cannot verify", "networks.lora"),
        ("save_model_as", "ckpt", "pickle", "safetensors"),
        ("network_weights", "/loras/earlier.pt", "pickle", "safetensors"),
        ("output_dir", "/elsewhere", "orchestrate sets", "its own folder"),
        ("pretrained_model_name_or_path", "x", "orchestrate sets", "base_model"),
        ("wandb_api_key", "s3cret", "orchestrate sets", "WANDB_API_KEY"),
    ],
)
def test_a_mistake_is_reported_with_its_remedy(key: str, value: Value, what: str, remedy: str) -> None:
    found = problems(**{key: value})
    assert len(found) == 1, found
    assert found[0].key == key
    assert found[0].where == "dims.toml"
    assert what in found[0].what
    assert remedy in found[0].remedy


def test_every_mistake_of_a_point_is_reported() -> None:
    found = problems(netwrok_dim=1, learning_rate="1e-4", optimizer_type="nope", output_dir="x")
    assert {problem.key for problem in found} == {"netwrok_dim", "learning_rate", "optimizer_type", "output_dir"}


def test_the_same_mistake_in_many_points_is_reported_once_and_quickly() -> None:
    points: list[Params] = [{**GOOD, "seed": seed, "netwrok_dim": seed % 3} for seed in range(10_000)]
    start = time.process_time()
    found = check.check(points, KEYS)
    assert time.process_time() - start < 1
    assert [problem.key for problem in found] == ["netwrok_dim"]


def test_a_secret_is_not_printed() -> None:
    (found,) = problems(wandb_api_key="s3cret")
    assert "s3cret" not in str(found)


def test_equal_values_of_different_types_are_distinguished() -> None:
    found = check.check([{"network_dim": 1}, {"network_dim": True}, {"network_dim": 1.0}], KEYS)
    assert len(found) == 2


@pytest.mark.parametrize("name", [*optimizers.SHORT_NAMES, *optimizers.TORCH_CLASSES])
def test_known_optimizers_are_accepted(name: str) -> None:
    assert problems(optimizer_type=name) == []


@pytest.mark.parametrize(
    ("name", "packages", "adaptive"),
    [
        ("PagedAdamW", ("bitsandbytes",), False),
        ("lion", ("lion_pytorch",), False),
        ("Prodigy", ("prodigyopt",), True),
        ("prodigyplus.ProdigyPlusScheduleFree", ("schedulefree", "prodigyplus"), True),
        ("bitsandbytes.optim.AdEMAMix8bit", ("bitsandbytes",), False),
        ("pytorch_optimizer.Prodigy", ("pytorch_optimizer",), True),
        ("torch.optim.AdamW", (), False),
    ],
)
def test_an_optimizers_packages_follow_from_its_name(name: str, packages: tuple[str, ...], adaptive: bool) -> None:
    assert problems(optimizer_type=name) == []
    found = optimizers.optimizer_of({"optimizer_type": name})
    assert (found.packages, found.adaptive) == (packages, adaptive)


def test_the_tables_name_real_arguments() -> None:
    names = (*values.KEY_VALUE_LISTS, *values.POSITIVE, *values.NOT_NEGATIVE, *values.RESERVED)
    for name in (*names, *values.OTHER_NAMES.values()):
        assert name in KEYS.by_name, name
    for name in values.OTHER_NAMES:
        assert name not in KEYS.by_name, name
