"""Arguments that sd-scripts would accept and misuse are rejected, with the value and a remedy."""

import re
import time
import tomllib

import pytest

from orchestrator.errors import Problem
from orchestrator.kohya import optimizers
from orchestrator.kohya.arguments import check, key_values, ranges, schema, values
from orchestrator.kohya.arguments.schema import Kind
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


SAMPLES: dict[str, Value] = {
    "learning_rate": 1e-4, "unet_lr": 1e-4, "text_encoder_lr": 1e-4, "lr_scheduler": "cosine", "min_snr_gamma": 5.0,
    "optimizer_type": "AdamW8bit", "resolution": "1024,1024", "cache_text_encoder_outputs": True, "no_half_vae": True,
    "v_parameterization": True, "zero_terminal_snr": True,
}  # fmt: skip
"""A value that a user of a GUI would give to an argument that is renamed; 8 for all others."""


def test_a_valid_point_has_no_problem() -> None:
    assert problems() == []


@pytest.mark.parametrize(
    ("key", "value", "what", "remedy"),
    [
        ("netwrok_dim", 16, "no argument `netwrok_dim`", "did you mean network_dim?"),
        ("train_inpainting", True, "U-Net with 9 input channels", "remove it"),
        ("text_encoder_lr1", 1e-4, "no argument", "write text_encoder_lr instead"),
        ("batch_size", 4, "no argument", "write train_batch_size instead"),
        ("xyzzy", 1, "no argument", "--help"),
        ("learning_rate", "1e-4", "takes a number, not a string", "write 1e-4 without quotes"),
        ("learning_rate", True, "takes a number, not true or false", "write a number"),
        ("learning_rate", float("nan"), "not finite", "write a number"),
        ("learning_rate", -1e-4, "must be 0 or more, not -0.0001", "default"),
        ("max_train_epochs", 10**9, "must be from 1 to 100000, not 1000000000", "in this range"),
        ("resolution", "999999,64", "not of the form", "1024,1024"),
        ("network_dim", 8.5, "takes an integer, not a float", "write an integer"),
        ("network_dim", 8.0, "takes an integer, not a float", "write 8"),
        ("network_dim", True, "takes an integer, not true or false", "write an integer"),
        ("network_dim", 0, "must be 1 or more, not 0", "default"),
        ("network_dim", (8, 16), "takes an integer, not a list", "give one value; to compare several"),
        ("save_state", "false", "takes true or false, not a string", "write false without quotes"),
        ("sdpa", 1, "takes true or false, not an integer", "write true or false"),
        ("resolution", 1024, "takes a string", 'write "1024"'),
        ("resolution", "1024x1024", "not of the form", '"1024,1024"'),
        ("resolution", "0,1024", "not of the form", '"1024,1024"'),
        ("mixed_precision", "fp8", "one of no, fp16, bf16", "known here: bf16, fp16, no"),
        ("loss_type", "hubber", "one of l1, l2, huber, smooth_l1", "did you mean huber?"),
        ("max_token_length", 100, "one of 150, 225", "write 150 or 225"),
        ("optimizer_type", "Prodgy", 'no optimizer "Prodgy"', "did you mean Prodigy?"),
        ("optimizer_type", "adam", 'no optimizer "adam"', 'write "Adam"'),  # torch.optim is case-sensitive
        ("optimizer_type", "a..b", "not the path of a class", "full path"),
        ("optimizer_args", "decouple=True", "takes a list, not a string", 'write ["decouple=True"]'),
        ("optimizer_args", ("decouple=true",), "malformed", 'write "decouple=True"'),
        ("optimizer_args", ("a=b=c",), "malformed", "write it like"),
        ("optimizer_args", ("decouple",), "malformed", "write it like"),
        ("optimizer_args", ("decouple =True",), "malformed", 'write "decouple=True"'),
        ("optimizer_args", (1,), "each item is a string", "write each item as a string"),
        ("network_args", ("conv_dmi=8",), "has no `conv_dmi`", "did you mean conv_dim?"),
        ("network_args", ("conv_dim=8.5",), "conv_dim takes 1 integer", "conv_dim=1"),
        ("text_encoder_lr", (1e-5, 0), "floats and integers", "write 0.0 instead of 0"),
        ("lr_warmup_steps", 100.0, "100 times all steps", "write 100 for steps"),
        ("lr_warmup_steps", "10%", "takes an integer or a fraction", "write 0.1, a share of all steps"),
        ("lr_warmup_steps", "half", "takes an integer or a fraction", "write an integer or a fraction"),
        ("resolution", (1024, 768), "takes a string, not a list", 'write "1024,768"'),
        ("lr_scheduler", "CosineAnnealingLR", "no scheduler", 'set lr_scheduler_type = "CosineAnnealingLR"'),
        ("lr_scheduler", "cosin", "no scheduler", "did you mean cosine?"),
        ("validation_split", 0, "takes a float", "write 0.0"),
        ("bucket_reso_steps", 48, "multiple of 32", "write 64"),
        ("face_crop_aug_range", "4,2", "not of the form", "2.0,4.0"),
        ("network_module", "networks.dylora", "cannot verify", "networks.lora"),
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
    for name in (
        *key_values.NAMES,
        *ranges.ranges("arguments"),
        *values.RESERVED,
        *values.REJECTED,
        *check.gui_names()["renamed"].values(),
    ):
        assert name in KEYS.by_name, name
    for name in (*check.gui_names()["renamed"], *check.gui_names()["other"]):
        assert name not in KEYS.by_name, name


@pytest.mark.parametrize(
    ("module", "argument", "what", "remedy"),
    [
        ("networks.lora", "factor=4", "networks.lora has no `factor`", "networks.lokr"),
        ("networks.loha", "factor=4", "networks.loha has no `factor`", "networks.lokr"),
        ("networks.lokr", "block_dims=1", "networks.lokr has no `block_dims`", "networks.lora"),
        ("networks.lokr", "factor=x", "factor takes 1 integer", "factor=1"),
        ("networks.lokr", "use_tucker=1", "use_tucker must be True or False", "use_tucker=True"),
        ("networks.oft", "enable_conv=False", "enable_conv must be True", "remove it"),
        ("networks.loha", "exclude_patterns=attn", "takes regular expressions", "exclude_patterns=["),
        ("networks.loha", "network_reg_dims=attn=0.5", "takes regular expressions", "network_reg_dims=.*attn1.*=4"),
        ("lycoris.kohya", "algo=boft", "algo must be lora or", "algo=lora"),
        ("lycoris.kohya", "preset=Full", "preset must be full or", 'write "preset=full"'),
        ("lycoris.kohya", "dora_wd=0", "dora_wd must be True or False", 'write "dora_wd=False"'),
        ("lycoris.kohya", "train_norm=True", "train_norm must be False", "remove it"),
        ("lycoris.kohya", "use_cp=True", "use_cp must be False", 'write "use_tucker=True"'),
    ],
)
def test_network_args_are_those_of_the_module(module: str, argument: str, what: str, remedy: str) -> None:
    (found,) = problems(network_module=module, network_args=(argument,))
    assert (what in found.what, remedy in found.remedy) == (True, True), found


# As kohya_ss writes a LoCon, with a key twice and keys of LoKr.
GUI_LOCON = (
    "preset=full", "conv_dim=0", "conv_alpha=1", "use_tucker=False", "rank_dropout=0", "bypass_mode=False",
    "dora_wd=False", "module_dropout=0", "use_tucker=False", "use_scalar=False", "rank_dropout_scale=False",
    "algo=locon", "train_norm=False", "use_cp=False",
)  # fmt: skip


@pytest.mark.parametrize(
    ("module", "arguments"),
    [
        ("networks.loha", ("conv_dim=4", "use_tucker=true", "exclude_patterns=['.*attn1.*', 'x']")),
        ("networks.lokr", ("factor=-1", "network_reg_lrs=.*attn1.*=1e-4,.*ff.*=2e-4", "network_reg_dims=.*ff.*=4")),
        ("networks.oft", ("enable_all_linear=True",)),
        ("lycoris.kohya", ("algo=LoKr", "factor=8", "dora_wd=True", "preset=attn-mlp")),
        ("networks.lora", ("conv_dim=0", "conv_alpha=1")),
        ("lycoris.kohya", GUI_LOCON),
    ],
)
def test_network_args_of_each_module_are_accepted(module: str, arguments: Value) -> None:
    assert problems(network_module=module, network_args=arguments) == []


def test_an_argument_that_only_later_versions_have_is_named_as_such() -> None:
    old = schema.ArgumentSchema(
        origin="", by_name={key: one for key, one in KEYS.by_name.items() if key != "masked_loss"}
    )
    (found,) = check.check([{"masked_loss": True}], old)
    assert "use sd-scripts v0.11.1 or later" in found.remedy


def test_every_numeric_argument_has_a_range() -> None:
    numeric = {name for name, key in KEYS.by_name.items() if key.kind in (Kind.INT, Kind.FLOAT, Kind.INT_OR_FLOAT)}
    assert numeric == set(ranges.ranges("arguments"))
    tables = key_values.NETWORK_ARGS.values()
    numbers = {name for table in tables for name, (kind, _) in table.items() if kind in ("int", "float")}
    assert numbers == set(ranges.ranges("network_args"))


def test_the_default_of_every_argument_is_in_its_range() -> None:
    for name, allowed in ranges.ranges("arguments").items():
        default = KEYS.by_name[name].default
        assert default is None or (isinstance(default, int | float) and default in allowed), name


@pytest.mark.parametrize(
    ("key", "value", "what", "remedy"),
    [
        ("caption_dropout_rate", 5.0, "must be from 0 to 1, not 5", "write 0.05 for 5 percent"),
        ("caption_tag_dropout_rate", 1.5, "from 0 to 1", "write 0.015 for 1.5 percent"),
        ("caption_tag_dropout_rate", -0.5, "from 0 to 1", "in this range"),
        ("network_dropout", 1.0, "0 or more and below 1, not 1", "in this range"),
        ("validation_split", 20.0, "below 1", "write 0.2 for 20 percent"),
        ("seed", -1, "from 0 to 4294967295, not -1", "in this range"),
        ("seed", 2**32, "from 0 to 4294967295, not 4294967296", "in this range"),
        ("min_timestep", 1000, "from 0 to 999", "in this range"),
        ("max_timestep", 0, "from 1 to 1000", "in this range"),
        ("vae_batch_size", 0, "1 or more", "or remove it"),
        ("save_last_n_epochs", 0, "1 or more", "or remove it"),
        ("huber_c", 0.0, "above 0", "in this range"),
        ("text_encoder_lr", (-1e-5,), "0 or more", "in this range"),
        ("network_args", ("rank_dropout=1",), "below 1", "or remove it"),
        ("network_args", ("conv_dim=-1",), "0 or more", "or remove it"),
        ("network_args", ("loraplus_lr_ratio=0",), "above 0", "or remove it"),
        ("network_args", ("mid_lr_weight=0",), "takes 3 numbers for SDXL, not 1", 'write "mid_lr_weight=0,0,0"'),
        ("network_args", ("mid_lr_weight=cosine",), "mid_lr_weight takes 3 numbers", "mid_lr_weight=1,1,1"),
        ("network_args", ("mid_lr_weight=0,-1,0",), "0 or more, not -1", "or remove it"),
        ("network_args", ("down_lr_weight=0.5",), "takes 9 numbers for SDXL", "=0.5,0.5,0.5,0.5,0.5,0.5,0.5,0.5,0.5"),
        ("network_args", ("up_lr_weight=1,1",), "takes 9 numbers for SDXL, not 2", "=1,1,1,1,1,1,1,1,1"),
        ("network_args", ("up_lr_weight=1,0",), "takes 9 numbers for SDXL, not 2", "write 9 numbers"),
        ("network_args", ("up_lr_weight=" + ",".join(["1"] * 12),), "not 12", "=1,1,1,1,1,1,1,1,1"),
        ("network_args", ("up_lr_weight=cosin",), 'no curve "cosin"', "did you mean cosine?"),
        ("network_args", ("up_lr_weight=sine+x",), "is not a number", "sine+0.25"),
        ("network_args", ("block_dims=8",), "takes 23 integers for SDXL, not 1", "=8,8,8"),
        ("network_args", ("block_dims=" + ",".join(["8.5"] * 23),), "takes 23 integers", "block_dims=1,1"),
        ("network_args", ("block_alphas=1,1",), "takes 23 numbers for SDXL, not 2", "=1,1,1"),
        ("network_args", ("conv_dim = 8",), "malformed", 'write "conv_dim=8"'),
        ("network_args", ("conv_dim=8,",), "malformed", 'write "conv_dim=8"'),
        ("network_args", ("conv_dim=8 conv_alpha=1",), "malformed", 'write "conv_dim=8", "conv_alpha=1"'),
        ("network_args", ("conv_dim=8", "conv_dim=4"), "sets conv_dim twice", "remove one"),
        ("optimizer_args", ("weight_decay=0.01,",), "malformed", 'write "weight_decay=0.01"'),
        ("optimizer_args", ("betas=0.9,0.99 d_coef=2",), "malformed", 'write "betas=0.9,0.99", "d_coef=2"'),
        ("optimizer_args", ("betas=0.9,0.99,d_coef=2",), "malformed", 'write "betas=0.9,0.99", "d_coef=2"'),
        ("optimizer_args", ("--weight_decay=0.1",), "malformed", 'write "weight_decay=0.1"'),
        ("optimizer_args", ("d_coef=TRUE",), "malformed", 'write "d_coef=True"'),
        ("lr_scheduler_args", ("mode=triangular",), "malformed", "write \"mode='triangular'\""),
        ("lr_scheduler_args", ("T_max=max_train_steps",), "malformed", 'write "T_max={{ max_train_steps }}"'),
        ("optimizer_args", ("weight_decay=10%",), "malformed", 'write "weight_decay=0.1"'),
        ("optimizer_args", ("betas=0.9 0.999",), "malformed", 'write "betas=0.9,0.999"'),
        ("optimizer_type", "CAME", 'no optimizer "CAME"', 'write "pytorch_optimizer.CAME"'),
        ("optimizer_type", "AdEMAMix8bit", "no optimizer", 'write "bitsandbytes.optim.AdEMAMix8bit"'),
        (
            "optimizer_type",
            "bitsandbytes.optim.AdamW8bits",
            "has no optimizer AdamW8bits",
            "bitsandbytes.optim.AdamW8bit",
        ),
        ("optimizer_type", "LBFGS", "needs a closure", "AdamW"),
    ],
)
def test_values_outside_of_their_range_or_form_are_reported(key: str, value: Value, what: str, remedy: str) -> None:
    found = problems(**{key: value})
    assert [problem.key for problem in found] == [key], found
    assert what in found[0].what
    assert remedy in found[0].remedy


@pytest.mark.parametrize(
    "value",
    [
        ("down_lr_weight=0,0,0,0.5,1,1,1,1,1", "mid_lr_weight=1,0,0", "up_lr_weight=reverse_linear+0.25"),
        ("block_dims=" + ",".join(["8"] * 23), "block_alphas=" + ",".join(["4"] * 23)),
        ("loraplus_unet_lr_ratio=16",),
    ],
)
def test_valid_network_args_are_accepted(value: Value) -> None:
    assert problems(network_args=value) == []


@pytest.mark.parametrize(
    ("key", "value", "remedy"),
    [
        ("epoch", 10, "write max_train_epochs instead of epoch"),
        ("LoRA_rank", 16, "write network_dim instead"),
        ("noise_offset_type", "Original", "remove it: noise_offset"),
        ("dynamo_backend", "no", "remove it"),
        ("max_token_length", 75, "remove it: 75 is the default"),
        ("vae_batch_size", 0, "remove it for sd-scripts' default"),
        ("num_repeats", 10, "set num_repeats in [datasets.NAME]"),
        ("repeats", 10, "set num_repeats in [datasets.NAME]"),
        ("class_tokens", "ohwx woman", "set trigger in [datasets.NAME]"),
        ("LoRA_type", "Standard", 'network_module = "networks.lora"'),
        ("conv_dim", 8, 'add "conv_dim=..." to network_args'),
        ("loraplus_lr_ratio", 16, 'add "loraplus_lr_ratio=..." to network_args'),
        ("weight_decay", 0.1, 'add "weight_decay=..." to optimizer_args'),
        ("T_max", 100, 'add "T_max=..." to lr_scheduler_args'),
        ("train_text_encoder", True, "remove it"),
        ("fused_optimizer_groups", 10, "full fine-tuning"),
        ("unset", ("sdpa",), "above the first table"),
        ("lr_scheduler", "adafactor:1e-4", "remove it"),
        ("num_processes", 2, "one run uses one GPU"),
        ("sd3_clip_l", "x", "another model family"),
        ("flux1_cache_text_encoder_outputs", True, "another model family"),
        ("log_tracker_config", "", "remove it"),
        ("network_weights", "", "remove it"),
        ("save_precision", "fp32", 'write save_precision = "float"'),
        ("mixed_precision", "fp32", 'write mixed_precision = "no"'),
    ],
)
def test_names_and_values_of_guis_have_a_remedy_that_works(key: str, value: Value, remedy: str) -> None:
    (found,) = problems(**{key: value})
    assert remedy in found.remedy


def test_every_name_of_a_gui_maps_to_an_argument_or_is_removed() -> None:
    for name, remedy in check.gui_names()["other"].items():
        assert remedy.startswith(("remove it", "write ")), name
    for name in ("optimizer_type", "lr_scheduler_type", "keep_tokens_separator"):
        assert problems(**{name: ""}) == []


# --- remedies, followed word for word ---------------------------------------------------------------------------------

MISTAKEN: list[tuple[str, Value]] = [
    *((name, SAMPLES.get(new, 8)) for name, new in check.gui_names()["renamed"].items()),
    *((name, 1) for name in check.gui_names()["other"] if name != "additional_parameters"),
    *(check._GUI_VALUES),
    ("learning_rate", "1e-4"), ("network_dim", 8.0), ("network_dim", "8"), ("cache_latents", "True"),
    ("training_comment", 5), ("validation_split", 0), ("text_encoder_lr", "1e-4"), ("optimizer_args", "d_coef=2"),
    ("caption_dropout_rate", 5.0), ("caption_tag_dropout_rate", 1.5), ("validation_split", 20.0),
    ("lr_warmup_steps", 100.0), ("bucket_reso_steps", 1), ("resolution", "1024x1024"), ("save_model_as", "ckpt"),
    ("face_crop_aug_range", "4,2"), ("network_module", "networks.dylora"), ("vae_batch_size", 0),
    ("optimizer_type", "CAME"), ("optimizer_type", "AdEMAMix8bit"), ("optimizer_type", "adamw8bits"),
    ("lr_scheduler", "cosin"), ("netwrok_dim", 16),
    *(("network_args", (text,)) for text in (
        "mid_lr_weight=0", "mid_lr_weight=cosine", "down_lr_weight=0.5", "up_lr_weight=1,1", "block_dims=8",
        "block_dims=" + ",".join(["8.5"] * 23), "block_alphas=1,1", "conv_dim = 8", "conv_dim=8,",
        "conv_dim=8 conv_alpha=1", "rank_dropout=1", "conv_dim=-1",
    )),
    *(("optimizer_args", (text,)) for text in (
        "weight_decay=0.01,", "betas=0.9,0.99 d_coef=2", "betas=0.9,0.99,d_coef=2", "--weight_decay=0.1", "d_coef=TRUE",
    )),
    ("lr_scheduler_args", ("mode=triangular",)),
]  # fmt: skip


def followed(key: str, value: Value, remedy: str) -> dict[str, Value] | None:
    """The argument after its remedy, word for word; None if the remedy names no value."""
    if remedy.startswith(("remove it", "leave it out")) or " or remove it" in remedy:
        added = re.search(r'add "(\w+)=', remedy)
        return {"network_args": (f"{added[1]}={value}",)} if added else {}
    if instead := re.fullmatch(r"write (\w+) instead of \w+", remedy):
        return {instead[1]: value}
    if meant := re.search(r"did you mean (\S+)\?", remedy):
        return {key: meant[1]} if key in KEYS.by_name else {meant[1]: value}
    if not (text := re.sub(r" without quotes.*| for .*|, or .*|^it like ", "", remedy.partition("write ")[2])):
        return None
    if re.match(r"\w+ = ", text):
        written = tomllib.loads(text)
    elif KEYS.by_name[key].many and not text.startswith("["):
        written = {key: tomllib.loads(f"value = [{text}]")["value"]}
    else:
        written = tomllib.loads(f"{key} = {text}")
    return {name: tuple(new) if isinstance(new, list) else new for name, new in written.items()}


@pytest.mark.parametrize(("key", "value"), MISTAKEN)
def test_a_remedy_followed_word_for_word_is_accepted(key: str, value: Value) -> None:
    (found,) = problems(**{key: value})
    arguments = followed(key, value, found.remedy)
    assert arguments is not None, found.remedy
    assert key not in arguments or repr(arguments[key]) != repr(value)
    assert problems(**arguments) == [], found.remedy
