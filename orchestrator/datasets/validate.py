"""Checks a dataset before it is trained on: every image is decoded, every caption is read as sd-scripts reads it."""

import itertools
import os
import re
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from orchestrator import errors, images
from orchestrator.config.recipe import Recipe
from orchestrator.config.schema import Dataset
from orchestrator.datasets import captions, mask, video
from orchestrator.errors import Problem
from orchestrator.files import read_bytes, why_no_folder
from orchestrator.redaction import unfit
from orchestrator.text import agree, first_names, invisible, pluralize

_MAX_CAPTION_BYTES = 2**20

_MAX_TOKENS = 75
"""Of a caption, where `max_token_length` is not set."""

# CLIP's tokenizer splits a text like this, then every part into one token or more.
_PART = re.compile(r"'(?:s|t|re|ve|m|ll|d)\b|[^\W\d_]+|\d|(?:[^\s\w]|_)+")
_KOHYA_FOLDER = re.compile(r"(\d+)_(.+)")


def validate_dataset(
    dataset: Dataset, where: str, arguments: Mapping[str, object] | None = None, *, rewritten: bool = False
) -> list[Problem]:
    """The problems of a dataset. where: the settings file. arguments: of a training that uses it.

    rewritten: recipes rewrite all captions that are trained on, and add the trigger where it is missing.

    For a recipe, only what does not depend on its source's images; these are checked as the source's.
    """
    return list(_merged(_problems(dataset, where, arguments or {}, rewritten), dataset.image_dir))


def _merged(problems: Iterable[Problem], folder: Path) -> Iterator[Problem]:
    """One problem for the files of a folder that share a remedy: the first, with the names of the others."""
    groups: dict[object, list[Problem]] = {}
    for one in problems:
        is_file = Path(one.where).parent == folder
        groups.setdefault((one.key, one.severity, one.remedy) if is_file else one, []).append(one)
    for first, *others in groups.values():
        if names := [Path(one.where).name for one in others]:
            first = replace(first, what=f"{first.what} (and {len(names)} more: {first_names(names)})")
        yield first


def _problems(dataset: Dataset, where: str, arguments: Mapping[str, object], rewritten: bool) -> list[Problem]:
    key = f"datasets.{dataset.name}"
    listing = images.list_images(dataset.image_dir)
    if dataset.recipe:
        return list(_recipe(dataset.recipe, listing.paths, where, key))
    if not listing.paths:
        elsewhere = not dataset.image_dir.is_dir() or _image_folders(dataset.image_dir)
        return (not elsewhere and listing.why_empty(f"{key}.image_dir")) or [_no_images(dataset, where, key)]
    problems = [*listing.problems, *_same_stem(listing.paths, key), *_subfolders(dataset.image_dir, key)]
    if dataset.pictures and len(listing.paths) != dataset.pictures:
        what, remedy = f"contains {len(listing.paths)} images, not {dataset.pictures}", f"correct {key}.pictures"
        problems.append(_warning(what, dataset.image_dir, key, f"find what is missing, or {remedy}"))
    described = []  # without unreadable images that have no caption: they must be replaced anyway
    for image in listing.paths:
        try:
            images.load(image)
        except images.Unreadable as error:
            what, remedy = f"cannot be read: {error.reason}", "replace the image or remove it"
            problems.append(errors.error(key, what, remedy, where=str(image)))
            if not image.with_suffix(dataset.caption_extension).exists():
                continue
        else:
            problems += _image(image, dataset, key)
        described.append(image)
    return [*problems, *_captions(described, dataset, key, arguments, rewritten)]


def validate_captions(dataset: Dataset, known: Mapping[str, Dataset]) -> Iterator[Problem]:
    """Warnings about the captions that each subset trains on, and about the subsets of a dataset together.

    known: all datasets of the settings.
    """
    triggers = {part.trigger for part in dataset.parts if part.trigger}
    counts = {True: 0, False: 0}
    for part in dataset.parts:
        texts, key = _final_captions(part, known), f"datasets.{part.name}"
        counts[bool(part.subset.get("is_reg"))] += len(texts) * part.num_repeats
        if not part.is_prior:
            for what, remedy in captions.lint(texts, part.trigger):
                yield _warning(what, part.image_dir, key, remedy)
        elif named := [
            name for name, text in texts.items() if any(captions.find_trigger(text, trigger) for trigger in triggers)
        ]:
            what = (
                f"the captions of {pluralize(len(named), 'image')} contain the trigger, and would bind it to the class"
            )
            remedy = 'remove it from them, or use a recipe with captions = { replace_trigger = "woman" }'
            yield _warning(f"{what}: {first_names(named)}", part.image_dir, key, remedy)
    if counts[True] > counts[False] and not any(part.recipe for part in dataset.parts):
        what = f"sd-scripts uses {counts[False]} of {counts[True]} regularisation images: no more than training images"
        key = f"datasets.{dataset.name}"
        yield _warning(what, dataset.image_dir, key, "raise num_repeats of the training images, or ignore this")


def _final_captions(dataset: Dataset, known: Mapping[str, Dataset]) -> dict[str, str]:
    """The caption of each image by name, as far as files and recipes determine it."""
    if recipe := dataset.recipe:
        texts = _final_captions(known[recipe.source], known)
        return (
            {name: captions.rewrite(recipe.captions, text) for name, text in texts.items()}
            if recipe.captions
            else texts
        )
    found = {
        path.name: path.with_suffix(dataset.caption_extension) for path in images.list_images(dataset.image_dir).paths
    }
    return {name: _readable(path) or dataset.class_tokens for name, path in found.items()}


def _readable(caption: Path) -> str:
    """The text of a caption; empty where it cannot be read."""
    try:
        return read_bytes(caption, max_bytes=_MAX_CAPTION_BYTES).decode("utf-8-sig", "replace").strip()
    except (OSError, ValueError):
        return ""


def _recipe(recipe: Recipe, pictures: Sequence[Path], where: str, key: str) -> Iterator[Problem]:
    if recipe.frames and not video.files(recipe.frames.videos):
        videos, suffixes = str(recipe.frames.videos), ", ".join(sorted(video.SUFFIXES))
        remedy = f"put videos there ({suffixes}), or correct {key}.frames.videos"
        yield Problem(what="contains no video", where=where, key=f"{key}.frames", value=videos, remedy=remedy)
    if recipe.choose and not recipe.frames and recipe.choose.n > len(pictures):
        what, remedy = f"asks for {recipe.choose.n} of {len(pictures)} images", f"n = {len(pictures)} or less"
        yield Problem(what=what, where=where, key=f"{key}.choose.n", remedy=remedy)
    if recipe.mask and (folder := recipe.mask.masks):
        wrong = [f"{path.name} {why}" for path in pictures if (why := mask.check(folder, path))]
        if wrong:
            what = f"{len(wrong)} of {len(pictures)} images have no usable mask: {'; '.join(wrong[:5])}"
            remedy = "add a mask of the image's name and size, white where the loss counts"
            yield Problem(what=what, where=where, key=f"{key}.mask.masks", value=str(folder), remedy=remedy)
    yield from _same_stem(pictures, key)


def _same_stem(pictures: Sequence[Path], key: str) -> Iterator[Problem]:
    for one, other in itertools.pairwise(sorted(pictures, key=lambda image: image.stem)):
        if one.stem == other.stem:
            what = f"{one.name} and {other.name} share a name: sd-scripts reads one caption and one cache for both"
            yield errors.error(key, what, "rename one of the two, and its caption", where=str(one))


def _no_images(dataset: Dataset, where: str, key: str) -> Problem:
    """Names the subfolder that has images, where there is one: kohya's own layout is `10_ohwx person/`."""
    folder, key = dataset.image_dir, f"{key}.image_dir"
    if not folder.is_dir():
        remedy = f"create it and put the images there, or correct {key}"
        if folder.exists():
            remedy = f'image_dir = "{folder.parent.as_posix()}"'
        return errors.error(key, why_no_folder(folder), remedy, where=where, value=str(folder))
    for name, count in _image_folders(folder).items():
        remedy = f'image_dir = "{(folder / name).as_posix()}"'
        if match := _KOHYA_FOLDER.fullmatch(Path(name).name):
            remedy += f", num_repeats = {int(match[1])}" + ("" if dataset.trigger else f', trigger = "{match[2]}"')
        what = f'contains no images itself; its subfolder "{name}" contains {count}, and subfolders are not read'
        return errors.error(key, what, f"{remedy} (a [datasets.NAME] for each folder)", where=where, value=str(folder))
    remedy = f"put the images into {folder}, or correct {key}"
    return errors.error(key, "contains no images", remedy, where=where, value=str(folder))


def _subfolders(folder: Path, key: str) -> Iterator[Problem]:
    if found := _image_folders(folder):
        counted = agree(sum(found.values()), "image in its subfolders is", "images in its subfolders are")
        what = f"{counted} not used: {first_names(list(found))}"
        yield _warning(what, folder, key, "move them into the folder, or make a [datasets.NAME] for each subfolder")


def _image_folders(folder: Path) -> dict[str, int]:
    """Subfolder, or subfolder of one -> number of its images."""
    inner = sorted(path for pattern in ("[!.]*", "[!.]*/[!.]*") for path in folder.glob(pattern) if path.is_dir())
    found = {path.relative_to(folder).as_posix(): path for path in inner if not path.is_symlink()}
    counts = {name: len(images.list_images(path).paths) for name, path in found.items()}
    return {name: count for name, count in counts.items() if count}


def _image(image: Path, dataset: Dataset, key: str) -> list[Problem]:
    if images.has_exif_rotation(image):
        what = "is rotated by its EXIF data, which sd-scripts does not read: it would be trained rotated"
        remedy = "save it upright, for example with `mogrify -auto-orient`"
        return [errors.error(key, what, remedy, where=str(image))]
    if images.has_transparency(image) and not dataset.subset.get("alpha_mask"):
        # Recipes make transparent parts white: their datasets would differ from this one in more than the recipe.
        what = "has transparent parts: sd-scripts trains the colours hidden under them, recipes make them white"
        remedy = "save it without, for example with `mogrify -background white -alpha remove`"
        return [_warning(what, image, key, remedy)]
    return []


def _captions(
    pictures: Sequence[Path], dataset: Dataset, key: str, arguments: Mapping[str, object], rewritten: bool
) -> Iterator[Problem]:
    subset: Mapping[str, object] = {**arguments, **dataset.subset}
    affixes = f"{subset.get('caption_prefix', '')} {subset.get('caption_suffix', '')}"
    trigger = "" if dataset.is_prior or captions.find_trigger(affixes, dataset.trigger) else dataset.trigger
    limit = int(str(subset.get("max_token_length") or _MAX_TOKENS))
    wildcard = bool(subset.get("enable_wildcard"))
    files = {image: image.with_suffix(dataset.caption_extension) for image in pictures}
    texts = yield from _caption_texts(files.values(), trigger, key, wildcard=wildcard)
    missing = [image for image, file in files.items() if file not in texts]
    untriggered = [
        file for file, text in texts.items() if text and trigger and not captions.find_trigger(text, trigger)
    ]
    read = {file.name: text if wildcard else text.split("\n")[0] for file, text in texts.items()}
    ignored = [file.name for file, text in texts.items() if text != read[file.name]]
    long = [name for name, text in read.items() if _tokens(text) > limit]
    triggers = {name: captions.find_trigger(read[name], trigger) for name in long}
    cut = [name for name, found in triggers.items() if found and _tokens(read[name][: found.end()]) > limit]
    if missing and not (dataset.is_prior and dataset.class_tokens and len(missing) == len(pictures)):
        yield _missing(missing, len(pictures), dataset, key)
    folder = dataset.image_dir
    if untriggered:
        is_error = len(untriggered) == len(texts) and not missing and not rewritten
        yield _untriggered(untriggered, trigger, key, is_error=is_error)
    if ignored:
        counted = agree(len(ignored), "caption has", "captions have")
        what = f"{counted} text after the first line, which sd-scripts does not read"
        yield _warning(f"{what}: {first_names(ignored)}", folder, key, "write each caption in one line")
    if cut:
        counted = pluralize(len(cut), "caption")
        what = f"the trigger of {counted} is cut: it comes after the first {limit} tokens, which alone are read"
        yield _warning(f"{what}: {first_names(cut)}", folder, key, "write the trigger first")
    if long:
        counted = agree(len(long), "caption has", "captions have")
        what = f"{counted} more than {limit} tokens, and the rest is cut: {first_names(long)}"
        remedy = "shorten them" if limit >= 225 else "shorten them, or max_token_length = 225 under [arguments]"
        yield replace(_warning(what, folder, key, remedy), is_estimate=True)
    for what, remedy in (*_unread_syntax(read, subset), *_untagged(read, subset)):
        yield _warning(what, folder, key, remedy)
    stems = {name for image in pictures for name in (image.stem, image.name)}  # a.png.txt is reported as missing
    if orphans := [
        path.name for path in sorted(folder.glob(f"[!.]*{dataset.caption_extension}")) if path.stem not in stems
    ]:
        what = f"{agree(len(orphans), 'caption belongs', 'captions belong')} to no image: {first_names(orphans)}"
        yield _warning(what, folder, key, "name each like its image, or remove it")


def _caption_texts(
    files: Iterable[Path], trigger: str, key: str, *, wildcard: bool
) -> Generator[Problem, None, dict[Path, str]]:
    """Yields the problems of single captions; returns the text of each file that exists, empty if it is unusable."""
    texts = {}
    for file in filter(os.path.lexists, files):
        text = texts[file] = yield from _caption(file, trigger, key, wildcard=wildcard)
        if (wrong := unfit(text))[0]:
            severity = errors.warning if invisible(text) else errors.error
            yield severity(key, f"{wrong[0]}, in the metadata of LoRA files", wrong[1], where=str(file))
    return texts


def _tokens(text: str) -> int:
    """The least number of CLIP tokens of a text."""
    return len(_PART.findall(text))


_SYNTAX = (
    (re.compile(r"\{[^{}]*\|[^{}]*\}"), "{a|b}", "enable_wildcard"),
    (re.compile(r"(?<!\\)\([^()]*:\d*\.?\d+\)"), "(word:1.2)", "weighted_captions"),
    (re.compile(r"<(?:lora|lyco|hypernet):"), "<lora:...>", ""),
)
"""Syntax of prompts in captions, and the argument with which sd-scripts reads it."""


def _unread_syntax(texts: Mapping[str, str], subset: Mapping[str, object]) -> Iterator[tuple[str, str]]:
    for pattern, shown, key in _SYNTAX:
        if (found := [name for name, text in texts.items() if pattern.search(text)]) and not subset.get(key):
            counted = agree(len(found), "caption contains", "captions contain")
            what = f"{counted} {shown}, which is trained as plain words: {first_names(found)}"
            yield what, "remove it" + f", or set {key} = true under [arguments]" * bool(key)


def _untagged(texts: Mapping[str, str], subset: Mapping[str, object]) -> Iterator[tuple[str, str]]:
    """Arguments that need separators, where no caption has one."""
    for key, needs in (("caption_separator", _OF_TAGS), ("keep_tokens_separator", ("keep_tokens_separator",))):
        used, mark = [need for need in needs if subset.get(need)], str(subset.get(key) or ",")
        if used and texts and not any(mark in text for text in texts.values()):
            effect = "has no effect" if used[0] != "caption_tag_dropout_rate" else "drops whole captions"
            yield f'no caption contains "{mark}", so {used[0]} {effect}', f"remove {used[0]}, or write tags"


_OF_TAGS = ("shuffle_caption", "caption_tag_dropout_rate", "token_warmup_step")


def _caption(path: Path, trigger: str, key: str, *, wildcard: bool) -> Generator[Problem, None, str]:
    """Yields at most one problem; returns the text without surrounding blank lines, or nothing if it is unusable."""

    def problem(what: str, remedy: str) -> Problem:
        return errors.error(key, what, remedy, where=str(path))

    if images.escapes_folder(path):
        what = f"is a link to a file outside its folder ({path.resolve()})"
        yield problem(what, "replace the link by the caption itself")
        return ""
    if not path.is_file():
        yield problem("is not a file, or a broken link", "replace it by the caption itself, or remove it")
        return ""
    try:
        raw = read_bytes(path, max_bytes=_MAX_CAPTION_BYTES).decode("utf-8-sig")
    except OSError as error:
        yield problem(f"cannot be read: {error.strerror}", "replace it, or remove it")
        return ""
    except UnicodeDecodeError:
        yield problem("is not UTF-8: sd-scripts stops at such a caption", "save it as UTF-8")
        return ""
    text = re.sub(r"\r\n?", "\n", raw)
    first = text.split("\n")[0].strip()
    if not text.strip():
        yield problem("is empty: sd-scripts stops at an empty caption", "write the caption or delete the file")
    elif not first and not wildcard:
        yield problem("has a blank first line, and sd-scripts reads no other", "write the caption into the first line")
    elif captions.find_trigger(text, trigger) and not captions.find_trigger(first, trigger) and not wildcard:
        what = "has the trigger only after its first line, and sd-scripts reads no other line"
        yield problem(what, "write the caption in one line")
    return text.strip()


def _untriggered(found: Sequence[Path], trigger: str, key: str, *, is_error: bool) -> Problem:
    names = f" (and {len(found) - 1} more: {first_names([path.name for path in found[1:]])})" if found[1:] else ""
    what, remedy = f"lacks the trigger{names}", "add it to the caption"
    if not is_error:
        return errors.warning(key, what, remedy, where=str(found[0]), value=trigger)
    what, remedy = f"{what}, as all captions of the dataset", f"add it to the captions, or correct {key}.trigger"
    return errors.error(key, what, remedy, where=str(found[0]), value=trigger)


def _missing(missing: Sequence[Path], count: int, dataset: Dataset, key: str) -> Problem:
    """An error when no image has a caption or there is no trigger to use instead, otherwise a warning."""
    names = first_names([path.name for path in missing])
    name = missing[0].with_suffix(dataset.caption_extension).name
    remedy = f"write the caption of {missing[0].name} into {name}, of the others likewise (the trigger alone is enough)"
    for path in sorted(dataset.image_dir.iterdir()):
        if path.stem == missing[0].stem and path.suffix.lower() in (".caption", ".txt") and path != missing[0]:
            remedy = f'caption_extension = "{path.suffix}" under [{key}]'
            if len(missing) < count:  # the others have captions with the expected suffix
                remedy = f"rename {path.name} to {name}, and the others likewise"
        elif path.name.startswith(f"{missing[0].name}."):
            remedy = f"rename {path.name} to {missing[0].stem}{dataset.caption_extension}, and the others likewise"
    if not dataset.class_tokens:
        word = "class_tokens" if dataset.is_prior else "trigger"
        what = (
            f"{len(missing)} of {count} images have no caption, and the dataset has no {word} to use instead: {names}"
        )
        return errors.error(key, what, f"{remedy}, or set {key}.{word}", where=str(dataset.image_dir))
    used = f"and would be trained on the trigger alone: {names}"
    if dataset.is_prior:
        used = f'and would be trained on "{dataset.class_tokens}" alone: {names}'
    elif len(missing) == count:
        what = f"no image has a caption ({dataset.caption_extension}); all {count} have none {used}"
        return errors.error(key, what, remedy, where=str(dataset.image_dir))
    return _warning(f"{len(missing)} of {count} images have no caption {used}", dataset.image_dir, key, remedy)


def _warning(what: str, path: Path, key: str, remedy: str) -> Problem:
    return errors.warning(key, what, remedy, where=str(path))
