"""Each lint rule reports its problem, and nothing else."""

from pathlib import Path

import pytest

from orchestrator.config.schema import Dataset
from orchestrator.errors import Severity
from orchestrator.kohya.arguments import check, dataset_lint, lint, schema, training_lint
from orchestrator.model import Params, Point, Value

GOOD: Params = {
    "base_model": "sdxl",
    "dataset": "persona",
    "network_dim": 16,
    "network_alpha": 8,
    "learning_rate": 1e-4,
    "optimizer_type": "AdamW8bit",
    "max_train_epochs": 10,
    "seed": 1,
    "mixed_precision": "bf16",
    "save_precision": "fp16",
    "sdpa": True,
    "cache_latents": True,
    "enable_bucket": True,
    "resolution": "1024,1024",
    "max_bucket_reso": 2048,
}
ABSENT = "absent"
PRODIGY: Params = {"optimizer_type": "Prodigy", "learning_rate": 1.0}
FREE: Params = {"optimizer_type": "AdamWScheduleFree"}
PLUS = "prodigyplus.ProdigyPlusScheduleFree"
TEXT_CACHE: Params = {"cache_text_encoder_outputs": True, "network_train_unet_only": True}
UNCACHED: Params = {"cache_latents": ABSENT}


def changed(*changes: Params) -> Params:
    merged = {key: value for change in (GOOD, *changes) for key, value in change.items()}
    return {key: value for key, value in merged.items() if value is not ABSENT}


def reported(params: Params) -> set[tuple[str, Severity]]:
    return {(problem.key, problem.severity) for problem in lint.lint_points([params])}


@pytest.mark.parametrize("change", [{}, PRODIGY, FREE, TEXT_CACHE, {"lr_scheduler": "cosine", "lr_warmup_steps": 0.1}])
def test_a_valid_point_has_no_problem(change: Params) -> None:
    assert reported(changed(change)) == set()


ERRORS: list[tuple[str, Params]] = [
    ("learning_rate", {"optimizer_type": "Prodigy"}),
    ("learning_rate", {"optimizer_type": "DAdaptAdam"}),
    ("learning_rate", {"optimizer_type": PLUS}),
    ("learning_rate", {"learning_rate": 1.0}),
    ("learning_rate", {"learning_rate": 1.0, "optimizer_type": ABSENT}),
    ("learning_rate", {"learning_rate": 0.1, "optimizer_type": "Lion"}),
    ("learning_rate", {"learning_rate": ABSENT}),
    ("unet_lr", {**PRODIGY, "unet_lr": 0.5}),
    ("text_encoder_lr", {**PRODIGY, "text_encoder_lr": 0.5}),
    ("network_args", {**PRODIGY, "network_args": ("loraplus_lr_ratio=4",)}),
    ("text_encoder_lr", {"text_encoder_lr": (1e-4, 1e-5)}),
    ("unet_lr", {"optimizer_type": "Adafactor", "unet_lr": 1e-4}),
    ("lr_warmup_steps", {"optimizer_type": "Adafactor", "lr_warmup_steps": 10, "lr_scheduler": "cosine"}),
    ("use_8bit_adam", {"use_8bit_adam": True}),
    ("fused_backward_pass", {"fused_backward_pass": True}),
    ("network_train_unet_only", {"network_train_unet_only": True, "network_train_text_encoder_only": True}),
    ("deepspeed", {"deepspeed": True, "zero_stage": 2}),
    ("cpu_offload_checkpointing", {"cpu_offload_checkpointing": True, "gradient_checkpointing": True}),
    ("persistent_data_loader_workers", {"persistent_data_loader_workers": True, "max_data_loader_n_workers": 0}),
    ("max_train_epochs", {"max_train_epochs": ABSENT}),
    ("max_train_steps", {"max_train_steps": 100}),
    ("seed", {"seed": ABSENT}),
    ("lr_warmup_steps", {"lr_warmup_steps": 10}),
    ("lr_warmup_steps", {"lr_scheduler_type": "CosineAnnealingLR", "lr_warmup_steps": 10}),
    ("lr_scheduler", {"lr_scheduler_type": "CosineAnnealingLR", "lr_scheduler": "cosine"}),
    ("lr_scheduler", {"lr_scheduler": "adafactor"}),
    ("lr_scheduler", {**FREE, "lr_scheduler": "cosine"}),
    ("dynamo_backend", {"torch_compile": True, "dynamo_backend": "ofi"}),
    ("lr_scheduler_type", {"optimizer_type": "Adafactor", "lr_scheduler_type": "LinearLR"}),
    ("text_encoder_lr", {"text_encoder_lr": (1e-4, 1e-5, 1e-6), "network_module": "networks.loha"}),
    ("network_args", {"network_train_unet_only": True, "network_args": ("block_dims=" + ",".join("0" * 23),)}),
    (
        "network_args",
        {
            "network_train_unet_only": True,
            "network_args": (
                "down_lr_weight=zeros+0.1",
                "mid_lr_weight=0.1,0,0",
                "up_lr_weight=zeros",
                "block_lr_zero_threshold=0.5",
            ),
        },
    ),
    ("optimizer_args", {**PRODIGY, "optimizer_args": ("slice_p=0",)}),
    ("optimizer_args", {**PRODIGY, "optimizer_args": ("eps=0",)}),
    ("optimizer_args", {"optimizer_type": "AdamW", "optimizer_args": ("differentiable=True",)}),
    ("optimizer_args", {"optimizer_type": "SGD", "optimizer_args": ("nesterov=True",)}),
    ("optimizer_args", {"optimizer_type": "PagedAdamW", "optimizer_args": ("optim_bits=16",)}),
    ("optimizer_args", {"optimizer_type": "SGDScheduleFree", "optimizer_args": ("momentum=0",)}),
    ("optimizer_args", {"optimizer_type": "Adafactor", "optimizer_args": ("relative_step=False", "decay_rate=0.8")}),
    ("lr_scheduler_args", {"lr_scheduler_type": "ConstantLR", "lr_scheduler_args": ("factor=0",)}),
    ("lr_warmup_steps", {**FREE, "lr_warmup_steps": 10}),
    (
        "lr_warmup_steps",
        {"max_train_epochs": ABSENT, "max_train_steps": 100, "lr_warmup_steps": 100, "lr_scheduler": "cosine"},
    ),
    ("network_dim", {"network_dim": ABSENT}),
    ("mixed_precision", {"mixed_precision": "fp16"}),
    ("full_bf16", {"full_bf16": True, "mixed_precision": "no"}),
    ("full_fp16", {"full_fp16": True}),
    ("fp8_base", {"fp8_base": True, "mixed_precision": "no"}),
    ("adaptive_noise_scale", {"adaptive_noise_scale": 0.1}),
    ("scale_v_pred_loss_like_noise_pred", {"scale_v_pred_loss_like_noise_pred": True}),
    ("v_pred_like_loss", {"v_pred_like_loss": 0.1, "v_parameterization": True}),
    ("cache_text_encoder_outputs", {"cache_text_encoder_outputs": True}),
    ("shuffle_caption", {**TEXT_CACHE, "shuffle_caption": True}),
    ("caption_dropout_rate", {**TEXT_CACHE, "caption_dropout_rate": 0.1}),
    ("caption_prefix", {**TEXT_CACHE, "caption_prefix": "photo of "}),
    ("random_crop", {"random_crop": True}),
    ("color_aug", {"color_aug": True}),
    ("cache_latents_to_disk", {"cache_latents_to_disk": True}),
    ("cache_latents_to_disk", {"cache_latents_to_disk": True, **UNCACHED}),
    ("cache_info", {"cache_info": True}),
    ("face_crop_aug_range", {"face_crop_aug_range": "2,4", **UNCACHED}),
    ("face_crop_aug_range", {"face_crop_aug_range": "2,4", "enable_bucket": ABSENT}),
    ("resolution", {"resolution": "1000,1000", "enable_bucket": ABSENT}),
    ("max_bucket_reso", {"max_bucket_reso": 768}),
    ("resolution", {"max_bucket_reso": ABSENT, "resolution": "1280,1280"}),
    ("resolution", {"max_bucket_reso": ABSENT, "resolution": "1280,1280", "bucket_no_upscale": True}),
    ("min_bucket_reso", {"min_bucket_reso": 2048}),
    ("resolution", {"resolution": "128,128"}),
    ("validation_split", {"validation_split": 0.1}),
    ("validation_split", {"validation_split": 0.1, "validation_seed": 1, "masked_loss": True}),
    ("caption_dropout_every_n_epochs", {"caption_dropout_every_n_epochs": 2, "masked_loss": True}),
]


@pytest.mark.parametrize(("key", "change"), ERRORS)
def test_arguments_that_sd_scripts_ignores_or_rejects_are_errors(key: str, change: Params) -> None:
    assert (key, Severity.ERROR) in reported(changed(change))


WARNINGS: list[tuple[str, Params]] = [
    ("unet_lr", {**PRODIGY, "unet_lr": 1.0}),
    ("text_encoder_lr", {"text_encoder_lr": 1e-5, "network_train_unet_only": True}),
    ("text_encoder_lr", {"text_encoder_lr": 0}),
    ("unet_lr", {"unet_lr": 1e-4, "network_train_text_encoder_only": True}),
    ("clip_skip", {"clip_skip": 2}),
    ("ddp_timeout", {"ddp_timeout": 60}),
    ("sdpa", {"xformers": True, "sdpa": True}),
    ("debiased_estimation_loss", {"debiased_estimation_loss": True, "min_snr_gamma": 5.0}),
    ("multires_noise_iterations", {"multires_noise_iterations": 6, "noise_offset": 0.05}),
    ("caption_dropout_rate", {"caption_dropout_rate": 1.0}),
    ("caption_dropout_every_n_epochs", {"caption_dropout_every_n_epochs": 1}),
    ("caption_tag_dropout_rate", {"caption_tag_dropout_rate": 1.0}),
    ("caption_tag_dropout_rate", {"caption_tag_dropout_rate": 0.1}),
    ("lr_scheduler", {**PRODIGY, "lr_scheduler": "cosine_with_restarts"}),
    ("lr_decay_steps", {"lr_decay_steps": 10, "lr_scheduler": "cosine"}),
    ("network_alpha", {"network_alpha": ABSENT}),
    ("network_alpha", {"network_alpha": 0}),
    ("network_alpha", {"network_alpha": 32}),
    ("mixed_precision", {"mixed_precision": ABSENT}),
    ("save_precision", {"save_precision": ABSENT}),
    ("sdpa", {"sdpa": ABSENT}),
    ("zero_terminal_snr", {"zero_terminal_snr": True}),
    ("cache_text_encoder_outputs_to_disk", {**TEXT_CACHE, "cache_text_encoder_outputs_to_disk": True}),
    ("max_bucket_reso", {"max_bucket_reso": ABSENT}),
    ("face_crop_aug_range", {"face_crop_aug_range": "2,4", "enable_bucket": ABSENT, **UNCACHED}),
    ("huber_c", {"huber_c": 0.2}),
    ("wandb_run_name", {"wandb_run_name": "a"}),
    ("sample_every_n_steps", {"sample_every_n_steps": 1, "sample_every_n_epochs": 1}),
    ("save_every_n_epochs", {"save_every_n_epochs": 20}),
    ("unet_lr", {"unet_lr": 0.0}),
    ("network_args", {"network_args": ("conv_dim=8",)}),
    ("lr_scheduler", {"lr_scheduler": "warmup_stable_decay"}),
    ("lr_scheduler_num_cycles", {**FREE, "lr_scheduler_num_cycles": 3}),
    ("keep_tokens", {**TEXT_CACHE, "keep_tokens": 1}),
    ("keep_tokens_separator", {**TEXT_CACHE, "keep_tokens_separator": "|||"}),
    ("adaptive_noise_scale", {"adaptive_noise_scale": 0.1, "noise_offset": 0.0}),
    ("huber_scale", {"loss_type": "huber", "huber_scale": 2.0}),
    ("min_timestep", {"min_timestep": 500, "max_timestep": 500}),
]


@pytest.mark.parametrize(("key", "change"), WARNINGS)
def test_rarely_intended_arguments_are_warnings(key: str, change: Params) -> None:
    assert reported(changed(change)) == {(key, Severity.WARNING)}


@pytest.mark.parametrize(
    "change",
    [
        {"optimizer_type": "SGDNesterov", "learning_rate": 0.1},
        {"optimizer_type": "Adafactor", "learning_rate": 1e-3},
        {"mixed_precision": "fp16", "no_half_vae": True},
        {"unet_lr": 1e-4, "learning_rate": ABSENT, "network_train_unet_only": True},
        {"xformers": True, "sdpa": ABSENT},
        {"caption_tag_dropout_rate": 1.0, "keep_tokens": 1},
        {"alpha_mask": True},
        {"alpha_mask": True, "masked_loss": True, "caption_dropout_every_n_epochs": 2},
        {"alpha_mask": True, "masked_loss": True, "validation_split": 0.1, "validation_seed": 1},
        {**TEXT_CACHE, "weighted_captions": True},
        {**UNCACHED, "vae_batch_size": 2, "train_batch_size": 4},
        {"loss_type": "huber", "huber_scale": 2.0, "huber_schedule": "constant"},
        {"text_encoder_lr": (1e-4, 1e-4)},
        {"text_encoder_lr": (1e-4, 1e-5), "network_module": "networks.loha"},
        {"resolution": "1024, 1024"},
        {"multires_noise_discount": 0.3, "huber_c": 0.1, "token_warmup_min": 1},  # the defaults, as GUIs write them
        {"lr_scheduler": "cosine", "lr_scheduler_num_cycles": 1, "lr_scheduler_power": 1},
        {"sample_every_n_steps": 0, "save_n_epoch_ratio": 0},
        {"validation_split": 0.1, "validation_seed": 1},
        {"bucket_no_upscale": True, "max_bucket_reso": ABSENT},
    ],
)
def test_working_arguments_are_accepted(change: Params) -> None:
    assert reported(changed(change)) == set()


@pytest.mark.parametrize("key", training_lint.NEEDS)
def test_an_argument_without_the_one_that_it_needs_has_no_effect(key: str) -> None:
    needed = training_lint.NEEDS[key]
    absent = dict.fromkeys(needed, ABSENT)
    value = "cpu" if key == "dynamo_backend" else 7
    assert (key, Severity.WARNING) in reported(changed({key: value, **absent}))
    assert (key, Severity.WARNING) not in reported(changed({key: value, **absent, needed[0]: 1}))


@pytest.mark.parametrize(
    "change",
    [
        {"min_bucket_reso": 4096},
        {"network_train_unet_only": True, "network_train_text_encoder_only": True},
        {"full_fp16": True, "full_bf16": True},
    ],
)
def test_one_cause_is_one_error(change: Params) -> None:
    assert [severity for _, severity in reported(changed(change))] == [Severity.ERROR]


def test_arguments_in_the_tests_are_real_ones() -> None:
    real = schema.read_snapshot().by_name.keys()
    assert {*training_lint.NEEDS, *(one for needed in training_lint.NEEDS.values() for one in needed)} <= real
    names = {key for _, change in [*ERRORS, *WARNINGS] for key in change} | {key for key, _ in [*ERRORS, *WARNINGS]}
    known = schema.read_snapshot()
    assert [name for name in names if name not in known.by_name] == []
    assert check.check([GOOD], known) == []


def test_a_problem_has_place_value_and_remedy() -> None:
    (found,) = lint.lint_points([changed({"optimizer_type": "Prodigy"})], where="dims.toml")
    assert (found.where, found.key, found.value) == ("dims.toml", "learning_rate", "0.0001")
    assert "learning_rate = 1.0" in found.remedy


def test_replicates_do_not_repeat_a_problem() -> None:
    points = [changed({"optimizer_type": "Prodigy", "seed": seed}) for seed in range(100)]
    assert len(lint.lint_points(points)) == 1


def dataset(**subset: Value) -> dict[str, Dataset]:
    return {"persona": Dataset(name="persona", image_dir=Path("/pictures"), subset=subset)}


def keys_reported(params: Params, datasets: dict[str, Dataset]) -> set[str]:
    return {problem.key for problem in lint.lint_points([params], datasets=datasets)}


def test_masked_loss_needs_masks() -> None:
    masked = changed({"masked_loss": True})
    assert keys_reported(masked, {}) == set()  # not known
    assert [(found.key, found.severity) for found in lint.lint_points([masked], datasets=dataset())] == [
        ("masked_loss", Severity.WARNING)
    ]
    assert keys_reported(masked, dataset(conditioning_data_dir="/masks")) == set()
    assert keys_reported(masked, dataset(alpha_mask=True)) == set()
    assert keys_reported(changed(), dataset(conditioning_data_dir="/masks")) == {"masked_loss"}


def test_arguments_of_the_dataset_count() -> None:
    assert keys_reported(changed(TEXT_CACHE), dataset(shuffle_caption=True)) == {"shuffle_caption"}
    assert keys_reported(changed({"flip_aug": True}), dataset(flip_aug=False)) == {"flip_aug"}


def points(*changes: Params, dims: tuple[str, ...] = ()) -> list[Point]:
    return [Point(id=str(n), name=str(n), params=changed(change), dims=dims) for n, change in enumerate(changes)]


def sweep(found: list[Point], steps: dict[str, int] | None = None) -> list[tuple[str, Severity]]:
    return [(problem.key, problem.severity) for problem in lint.lint_sweep(found, steps=steps)]


def test_alpha_must_follow_the_rank() -> None:
    ranks = points({"network_dim": 16}, {"network_dim": 32}, dims=("network_dim",))
    assert sweep(ranks) == [("network_alpha", Severity.WARNING)]
    assert "8/16 = 0.5, 8/32 = 0.25" in lint.lint_sweep(ranks)[0].what
    assert sweep(points({"network_dim": 16, "network_alpha": 8}, {"network_dim": 32, "network_alpha": 16})) == []
    both = ({"network_dim": 16, "network_alpha": 1}, {"network_dim": 32, "network_alpha": 16})
    assert sweep(points(*both, dims=("network_dim", "network_alpha"))) == []  # the alpha itself is the question


def test_points_that_need_different_caches_do_not_share_one() -> None:
    disk: Params = {"cache_text_encoder_outputs_to_disk": True}
    assert sweep(points({**disk, "base_model": "a"}, {**disk, "base_model": "b"})) == [
        ("cache_text_encoder_outputs_to_disk", Severity.ERROR)
    ]
    assert sweep(points({"base_model": "a"}, {"base_model": "b"})) == []


def test_unequal_steps_are_reported() -> None:
    assert sweep(points({"train_batch_size": 1}, {"train_batch_size": 2})) == [("train_batch_size", Severity.WARNING)]
    two = points({"dataset": "a"}, {"dataset": "b"})
    assert sweep(two) == [("dataset", Severity.WARNING)]
    assert sweep(two, {"0": 100, "1": 100}) == []
    assert sweep(two, {"0": 100, "1": 200}) == [("max_train_epochs", Severity.WARNING)]


@pytest.mark.parametrize(
    ("subset", "what", "remedy"),
    [
        ({"flip_aug": "true"}, "takes true or false, not a string", "write true without quotes"),
        ({"keep_tokens": 1.0}, "takes an integer", "write 1"),
        ({"caption_dropout_rate": 5}, "from 0 to 1, not 5", "write 0.05"),
        ({"color_agu": True}, "no key color_agu", "did you mean color_aug?"),
        ({"network_dim": 8}, "no key network_dim", "set it in [arguments]"),
        ({"face_crop_aug_range": "2,4"}, "takes two numbers", "write [2.0, 4.0]"),
        ({"is_reg": "yes"}, "takes true or false", "write is_reg = true"),
        ({"class_tokens": 1}, "takes a string", 'write class_tokens = "woman"'),
        ({"conditioning_data_dir": "masks"}, "is not the absolute path of a folder", "full path"),
        ({"resize_interpolation": "lanczo"}, "must be one of", "did you mean lanczos?"),
    ],
)
def test_keys_of_a_subset_that_sd_scripts_stops_at_are_errors(subset: Params, what: str, remedy: str) -> None:
    ((found),) = dataset_lint.check_subset(subset, schema.read_snapshot())
    assert (found.severity, what in found.what, remedy in found.remedy) == (Severity.ERROR, True, True), found


def test_valid_keys_of_a_subset_are_accepted(tmp_path: Path) -> None:
    valid: Params = {
        "flip_aug": True, "keep_tokens": 1, "token_warmup_step": 0.1, "caption_prefix": "a ", "is_reg": False,
        "class_tokens": "woman", "face_crop_aug_range": (2.0, 4.0), "conditioning_data_dir": str(tmp_path),
        "custom_attributes.diff_output_preservation": True, "alpha_mask": True,
    }  # fmt: skip
    assert list(dataset_lint.check_subset(valid, schema.read_snapshot())) == []
