"""Traps in what is done with the pictures and captions of one training: caches, buckets, crops, masks, validation."""

from collections.abc import Iterator

from orchestrator.kohya.arguments.lint_issue import LintIssue, error, warning
from orchestrator.model import Params


def findings(params: Params, *, subset: Params | None) -> Iterator[LintIssue]:
    """The traps of these arguments; `subset`: what the dataset sets itself, None if it is not known."""
    for rule in (_text_cache, _latent_cache, _face_crop, _buckets, _validation):
        yield from rule(params)
    yield from _masks(params, subset)


def _text_cache(params: Params) -> Iterator[LintIssue]:
    key = next((key for key in _TEXT_CACHES if params.get(key)), None)
    if key is None:
        return
    if not params.get("network_train_unet_only"):
        what = "the text encoders are trained, so their outputs cannot be cached: the run stops at its start"
        yield error(key, what, "set network_train_unet_only = true, or leave the cache out")
    for option in ("shuffle_caption", "caption_dropout_rate", "caption_tag_dropout_rate", "token_warmup_step"):
        if params.get(option):
            yield error(option, f"{key} needs captions that stay the same: the run stops at its start", "leave one out")
    for option in _IGNORED_BY_TEXT_CACHE:
        if params.get(option):
            yield error(option, f"{key} caches the caption as it is in its file: this does nothing", "leave one out")
    if key.endswith("_to_disk"):
        what = "the cache on disk does not know captions, trigger or base model, and is used again whatever changed"
        yield warning(key, what, "use cache_text_encoder_outputs, which caches in memory")


_TEXT_CACHES = ("cache_text_encoder_outputs_to_disk", "cache_text_encoder_outputs")
_IGNORED_BY_TEXT_CACHE = (
    "caption_prefix", "caption_suffix", "enable_wildcard", "caption_dropout_every_n_epochs", "secondary_separator",
    "keep_tokens",
)  # fmt: skip


def _latent_cache(params: Params) -> Iterator[LintIssue]:
    if params.get("cache_latents"):
        for option in ("color_aug", "random_crop"):
            if params.get(option):
                what = "cached latents cannot be changed from step to step: the run stops at its start"
                yield error(option, what, "leave it out, or leave cache_latents out")
    if params.get("cache_latents_to_disk"):
        what = (
            "sd-scripts reuses latents on disk after the VAE, a crop or a picture has changed, so runs could train on "
            "the wrong ones; encoding takes seconds per training"
        )
        remedy = "set cache_latents = true, which caches in memory, and remove cache_latents_to_disk"
        yield error("cache_latents_to_disk", what, remedy)
    if params.get("cache_info"):
        what = "sd-scripts then keeps captions and sizes in a file beside the pictures, and ignores later edits"
        yield error("cache_info", what, "leave it out: it saves seconds")


def _face_crop(params: Params) -> Iterator[LintIssue]:
    if not params.get("face_crop_aug_range"):
        return
    if params.get("enable_bucket"):
        what = "with enable_bucket pictures are cropped to their bucket, and this does nothing"
        yield error("face_crop_aug_range", what, "leave one of the two out, or use a dataset of crops")
    elif params.get("cache_latents"):
        what = "cached latents are cropped once, and this does nothing"
        yield error("face_crop_aug_range", what, "leave the latent cache out, or use a dataset of crops")
    else:
        what = "faces are looked for in file names (name_cx_cy_w_h.png): pictures without them are not cropped"
        yield warning("face_crop_aug_range", what, "name the pictures so, or use a dataset of crops")


def _buckets(params: Params) -> Iterator[LintIssue]:
    sides = [int(side) for side in str(params.get("resolution", "")).split(",") if side.isdecimal()]
    if not sides:
        return
    if not params.get("enable_bucket"):
        if any(side % 32 for side in sides):
            what = "without enable_bucket SDXL needs sides that are multiples of 32: the run stops at its first step"
            yield error("resolution", what, "round it, or set enable_bucket = true")
        return
    if params.get("bucket_no_upscale"):
        return
    least, most = params.get("min_bucket_reso", 256), params.get("max_bucket_reso", 1024)
    if isinstance(most, int) and most < max(sides):
        key = "max_bucket_reso" if "max_bucket_reso" in params else "resolution"
        yield error(
            key, f"max_bucket_reso is {most}, below the resolution: the run stops", "set max_bucket_reso = 2048"
        )
    elif "max_bucket_reso" not in params and max(sides) >= 1024:
        what = "no max_bucket_reso: sd-scripts takes 1024, so a tall picture is made smaller than the resolution allows"
        yield warning("max_bucket_reso", what, "set max_bucket_reso = 2048")
    if isinstance(least, int) and least > min(sides):
        key = "min_bucket_reso" if "min_bucket_reso" in params else "resolution"
        yield error(
            key, f"min_bucket_reso is {least}, above the resolution: the run stops", "set min_bucket_reso = 256"
        )


def _validation(params: Params) -> Iterator[LintIssue]:
    if params.get("validation_split") and params.get("validation_seed") is None:
        what = "without validation_seed the two halves are drawn independently: training pictures are validated on"
        yield error("validation_split", what, "set validation_seed = 1 beside it")


def _masks(params: Params, subset: Params | None) -> Iterator[LintIssue]:
    if not params.get("masked_loss"):
        if subset and "conditioning_data_dir" in subset:
            what = "the dataset has a folder of masks, which sd-scripts refuses without masked_loss"
            yield error("masked_loss", what, "set masked_loss = true, or use a dataset without masks")
        return
    if subset is not None and "conditioning_data_dir" not in subset and not params.get("alpha_mask"):
        what = "the dataset has no masks: the loss is not weighted at all"
        yield error("masked_loss", what, "use a dataset with masks, or leave it out")
    if params.get("validation_split"):
        yield error("validation_split", "with masks sd-scripts stops at the held-out pictures' masks", "leave it out")
    if params.get("caption_dropout_every_n_epochs"):
        what = "with masks sd-scripts drops every caption in every epoch, not every n-th"
        yield error("caption_dropout_every_n_epochs", what, "leave it out")
