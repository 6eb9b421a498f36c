"""Lint rules for images and captions of one training: caches, buckets, crops, masks, validation."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from orchestrator.errors import Problem, error, warning
from orchestrator.kohya import step_count
from orchestrator.kohya.arguments import check
from orchestrator.kohya.arguments.schema import ArgumentSchema
from orchestrator.model import Params
from orchestrator.text import did_you_mean
from orchestrator.values import toml_repr

SUBSET_KEYS = (
    "alpha_mask", "cache_info", "caption_dropout_every_n_epochs", "caption_dropout_rate", "caption_prefix",
    "caption_separator", "caption_suffix", "caption_tag_dropout_rate", "class_tokens", "color_aug",
    "conditioning_data_dir", "custom_attributes", "enable_wildcard", "face_crop_aug_range", "flip_aug", "is_reg",
    "keep_tokens", "keep_tokens_separator", "random_crop", "resize_interpolation", "secondary_separator",
    "shuffle_caption", "token_warmup_min", "token_warmup_step",
)  # fmt: skip
"""What a subset may set beside its images. Source: config_util.ConfigSanitizer of sd-scripts v0.10.1 and v0.11.1."""

_NO_ARGUMENTS = {"class_tokens": str, "is_reg": bool, "conditioning_data_dir": str}
"""Those that are no arguments, or differ from the one of this name; their types."""


def check_subset(subset: Params, schema: ArgumentSchema) -> Iterator[Problem]:
    """What sd-scripts rejects in the keys of one subset by themselves: it stops at an unknown key or a wrong type."""
    for key, value in subset.items():
        kind = _NO_ARGUMENTS.get(key)
        if key.partition(".")[0] not in SUBSET_KEYS:
            remedy = "set it in [arguments]" if key in schema.by_name else did_you_mean(key, SUBSET_KEYS)
            yield error(key, f"a subset of sd-scripts has no key {key}", remedy, value=toml_repr(value))
        elif key == "face_crop_aug_range":
            if not (isinstance(value, tuple) and len(value) == 2 and all(isinstance(one, float) for one in value)):
                yield error(key, f"{key} takes two numbers here", "write [2.0, 4.0]", value=toml_repr(value))
        elif kind and not isinstance(value, kind):
            noun, example = ("a string", '"woman"') if kind is str else ("true or false", "true")
            yield error(key, f"{key} takes {noun}", f"write {key} = {example}", value=toml_repr(value))
        elif key == "conditioning_data_dir" and not (Path(str(value)).is_absolute() and Path(str(value)).is_dir()):
            what = f"{key} is not the absolute path of a folder"
            yield error(key, what, "write the full path of the folder of masks", value=toml_repr(value))
        elif not kind and key in schema.by_name:
            yield from check.check([{key: value}], schema)


def lint(params: Params, *, subsets: Sequence[Params]) -> Iterator[Problem]:
    """The problems of these arguments; `subsets`: what each sets itself, none if the dataset is not known."""
    for rule in (_text_cache, _latent_cache, _face_crop, _buckets, _validation):
        yield from rule(params)
    yield from _masks(params, subsets)
    yield from _prior(params, subsets)


def _text_cache(params: Params) -> Iterator[Problem]:
    key = next((key for key in _TEXT_CACHES if params.get(key)), None)
    if key is None:
        return
    if not params.get("network_train_unet_only"):
        what = "sd-scripts cannot cache the outputs of text encoders that it trains, and exits"
        yield error(key, what, f"set network_train_unet_only = true, or remove {key}")
    for option in ("shuffle_caption", "caption_dropout_rate", "caption_tag_dropout_rate", "token_warmup_step"):
        if params.get(option):
            what = f"sd-scripts rejects {option} together with {key}, and exits"
            yield error(option, what, f"remove {option} or {key}")
    for option in _IGNORED_BY_TEXT_CACHE:
        if params.get(option):
            what = f"{key} caches each caption as it is in its file, so {option} has no effect"
            yield error(option, what, f"remove {option} or {key}")
    if key.endswith("_to_disk"):
        what = "the cache on disk is reused even if captions, trigger or base model have changed"
        yield warning(key, what, "use cache_text_encoder_outputs, which caches in memory")


_TEXT_CACHES = ("cache_text_encoder_outputs_to_disk", "cache_text_encoder_outputs")
_IGNORED_BY_TEXT_CACHE = (
    "caption_prefix", "caption_suffix", "enable_wildcard", "caption_dropout_every_n_epochs", "secondary_separator",
)  # fmt: skip


def _latent_cache(params: Params) -> Iterator[Problem]:
    for option in ("color_aug", "random_crop"):
        if params.get(option) and params.get("cache_latents"):
            what = f"sd-scripts rejects {option} together with cached latents, and exits"
            yield error(option, what, f"remove {option} or cache_latents")
    if params.get("cache_latents_to_disk"):
        what = (
            "sd-scripts reuses latents on disk after the VAE, a crop or an image has changed, so runs could train on "
            "the wrong ones; encoding takes seconds per training"
        )
        remedy = "set cache_latents = true, which caches in memory, and remove cache_latents_to_disk"
        yield error("cache_latents_to_disk", what, remedy)
    if params.get("cache_info"):
        what = "sd-scripts then stores captions and sizes in a file beside the images and ignores later edits"
        yield error("cache_info", what, "remove it")


def _face_crop(params: Params) -> Iterator[Problem]:
    key = "face_crop_aug_range"
    if not params.get(key):
        return
    if params.get("enable_bucket"):
        what = f"with enable_bucket, images are cropped to their bucket, so {key} has no effect"
        yield error(key, what, f"remove {key} or enable_bucket, or use a dataset of crops")
    elif params.get("cache_latents"):
        what = f"cached latents are cropped once, so {key} has no effect"
        yield error(key, what, f"remove {key} or cache_latents, or use a dataset of crops")
    else:
        what = "sd-scripts reads face positions from file names (name_cx_cy_w_h.png) and crops no other images"
        yield warning(key, what, "rename the images, or use a dataset of crops")


def _buckets(params: Params) -> Iterator[Problem]:
    sides = [int(side) for side in str(params.get("resolution", "")).split(",") if side.strip().isdecimal()]
    if not sides:
        return
    if not params.get("enable_bucket"):
        if any(side % 32 for side in sides):
            what = "without enable_bucket, SDXL needs sides that are multiples of 32: training fails at its first step"
            yield error("resolution", what, "write multiples of 32, or set enable_bucket = true")
        return
    least, most = params.get("min_bucket_reso", 256), params.get("max_bucket_reso", 1024)
    step = step_count.whole(params, "bucket_reso_steps", 64)
    if isinstance(least, int) and isinstance(most, int) and least > most:
        return  # reported as a pair
    if isinstance(most, int) and most + -most % step < max(sides):
        key = "max_bucket_reso" if "max_bucket_reso" in params else "resolution"
        what = f"max_bucket_reso is {most}, below the resolution: sd-scripts exits"
        yield error(key, what, "set max_bucket_reso = 2048")
    elif "max_bucket_reso" not in params and max(sides) >= 1024 and not params.get("bucket_no_upscale"):
        what = "no max_bucket_reso: sd-scripts uses 1024, which makes tall images smaller than the resolution allows"
        yield warning("max_bucket_reso", what, "set max_bucket_reso = 2048")
    if isinstance(least, int) and least - least % step > min(sides):
        key = "min_bucket_reso" if "min_bucket_reso" in params else "resolution"
        what = f"min_bucket_reso is {least}, above the resolution: sd-scripts exits"
        yield error(key, what, "set min_bucket_reso = 256")


_NOT_WITH_MASKS = {"is_reg", "class_tokens", "alpha_mask"}


def _validation(params: Params) -> Iterator[Problem]:
    if params.get("validation_split") and params.get("validation_seed") is None:
        what = "without validation_seed, sd-scripts draws both halves independently and validates on training images"
        yield error("validation_split", what, "set validation_seed = 1")


def _prior(params: Params, subsets: Sequence[Params]) -> Iterator[Problem]:
    if "prior_loss_weight" in params and subsets and not any(subset.get("is_reg") for subset in subsets):
        what = "scales the loss of regularisation images, and the dataset has none (a subset with is_reg = true)"
        yield warning("prior_loss_weight", what, "remove it, or add regularisation images to the dataset")


def _masks(params: Params, subsets: Sequence[Params]) -> Iterator[Problem]:
    masked = ["conditioning_data_dir" in subset for subset in subsets]
    if any(masked) and (not all(masked) or any(subset.keys() & _NOT_WITH_MASKS for subset in subsets)):
        what = "sd-scripts accepts conditioning_data_dir only in all subsets, and then no is_reg and no class_tokens"
        yield error("dataset", what, "use masks in the alpha channel instead (`mask` of a recipe)")
    if not params.get("masked_loss"):
        if any(masked):
            what = "the dataset has a folder of masks, which sd-scripts rejects without masked_loss"
            yield error("masked_loss", what, "set masked_loss = true, or use a dataset without masks")
        return
    in_alpha = any(subset.get("alpha_mask") for subset in (params, *subsets))
    if subsets and not any(masked) and not in_alpha:
        what = "the dataset has no masks, so masked_loss has no effect"
        yield warning("masked_loss", what, "use a dataset with masks, or remove masked_loss")
    if not any(masked) and (subsets or in_alpha):
        return
    if params.get("validation_split"):
        what = (
            "with a folder of masks, sd-scripts v0.10 rejects validation_split, and v0.11 validates on training images"
        )
        yield error("validation_split", what, "remove validation_split")
    if params.get("caption_dropout_every_n_epochs"):
        what = "with a folder of masks, sd-scripts drops every caption in every epoch, not in every n-th"
        yield error("caption_dropout_every_n_epochs", what, "remove it")
