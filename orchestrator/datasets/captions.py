"""Captions: rewrites them as a recipe says, and finds what weakens the trigger in them."""

import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from functools import cache

from orchestrator.config.recipe import Captions, CaptionStyle
from orchestrator.datasets.samples import SampleSet
from orchestrator.text import agree, first_names, pluralize

_SENTENCE_END = re.compile(r"(?<=[.!?])\s+")
_TAG_WORDS = 3
"""Text with more words than this between commas, on average, is a sentence."""

_SHAPED = (
    r"(?:light|dark|pale|blue|green|brown|hazel|gr[ae]y|amber|black|big|large|small|tiny|narrow|wide|round|thin|"
    r"full|plump|long|short|pointed|square|oval|heart-shaped|high|low|strong|sharp|soft|almond(?:-shaped)?|deep-set|arched|"
    r"thick|bushy|freckled|tan(?:ned)?|olive|fair|wrinkled|chubby)"
)
_FACE = re.compile(
    rf"\b(?:{_SHAPED}[ -](?:eye[sd]?|eyebrows?|lips|mouth|chin|jaw|jawline|cheeks?|forehead|ears?|face|skin|complexion)"
    r"|nose|freckles?|freckled|cheekbones?|dimples?|jawline|eyelashes|birthmark|wrinkles?|moles?|beauty mark|"
    r"facial features)\b",
    re.IGNORECASE,
)
_DESCRIBED = 3
"""So many words besides the trigger make a caption a description of its image."""


def apply(captions: Captions, batch: SampleSet) -> SampleSet:
    """The samples with rewritten captions; one without a caption has the trigger as caption."""
    return batch.keep(replace(one, caption=rewrite(captions, one.caption or "")) for one in batch.samples)


def rewrite(captions: Captions, text: str) -> str:
    """Each line of a caption by itself; the trigger, or what replaces it, where nothing else is left."""
    return "\n".join(_rewrite(captions, line) for line in text.split("\n") if line.strip()) or _rewrite(captions, "")


def _rewrite(captions: Captions, line: str) -> str:
    trigger = captions.trigger
    parts = [part for part in _parts(line) if _is_kept(captions, *part)]
    if captions.style is CaptionStyle.TRIGGER:
        parts = []
    if captions.shuffle:  # sd-scripts shuffles what is between commas and keeps the first of these in place
        parts = [(tag.strip(), False) for part, _ in parts for tag in part.split(",")]
        parts.sort(key=lambda part: not find_trigger(part[0], trigger))
    text = ""
    for part, is_sentence in parts:
        separator = "" if not text else " " if text.endswith((".", "!", "?")) else ". " if is_sentence else ", "
        text += separator + part
    if trigger and not find_trigger(text, trigger):
        text = f"{trigger}, {text}" if text else trigger
    if captions.replace_trigger:
        text = _trigger(trigger).sub(lambda _: captions.replace_trigger, text)
    return f"{captions.prefix} {text}" if captions.prefix else text


def _parts(line: str) -> Iterator[tuple[str, bool]]:
    """The tags and sentences of a line, and which of these each is."""
    for piece in filter(None, map(str.strip, _SENTENCE_END.split(line))):
        tags = [tag.strip() for tag in piece.split(",") if tag.strip()]
        ends = piece.endswith((".", "!", "?"))
        if tags and (len(piece.split()) / len(tags) > _TAG_WORDS or (ends and len(tags) == 1)):
            yield piece, True
        else:
            yield from ((tag.rstrip(".!?"), False) for tag in tags)


def _is_kept(captions: Captions, part: str, is_sentence: bool) -> bool:
    """The part with the trigger stays, unless its kind is left out."""
    if captions.style is (CaptionStyle.TAGS if is_sentence else CaptionStyle.SENTENCES):
        return False
    if find_trigger(part, captions.trigger):
        return True
    wanted = not captions.keep_words or contains(part, captions.keep_words)
    return wanted and not contains(part, captions.drop_words)


def contains(text: str, words: Collection[str]) -> bool:
    """Whether the text has one of the words, whatever their case."""
    pattern = "|".join(rf"(?<!\w){re.escape(word)}(?!\w)" for word in words)
    return bool(words) and re.search(pattern, text, re.IGNORECASE) is not None


def without_words(caption: str, words: Collection[str], *, trigger: str) -> str:
    """The caption without its comma-separated parts that contain one of the words; a part with the trigger stays."""
    parts = [part.strip() for part in caption.split(",")]
    return ", ".join(part for part in parts if part and (find_trigger(part, trigger) or not contains(part, words)))


def find_trigger(text: str, trigger: str) -> re.Match[str] | None:
    """The first place of the trigger as CLIP reads it: whole words, whatever their case and the spaces between them."""
    return _trigger(trigger).search(text) if trigger else None


@cache
def _trigger(trigger: str) -> re.Pattern[str]:
    words = r"\s+".join(map(re.escape, trigger.split()))
    return re.compile(rf"(?<![0-9A-Za-z_]){words}(?![0-9A-Za-z_])", re.IGNORECASE)


def lint(texts: Mapping[str, str], trigger: str) -> Iterator[tuple[str, str]]:
    """What weakens the trigger in captions by image name, and the remedies."""
    found = {name: words for name, text in texts.items() if (words := [one.group() for one in _FACE.finditer(text)])}
    if found:
        words = [word for word, _ in Counter(word.lower() for one in found.values() for word in one).most_common()]
        what = f"{pluralize(len(found), 'caption')} of {len(texts)} describe the face ({first_names(words)}): "
        what += f"these words would learn the face instead of the trigger: {first_names(list(found))}"
        listed = ", ".join(f'"{word}"' for word in words)
        yield what, f"remove the words, or train on a recipe with captions = {{ drop_words = [{listed}] }}"
    repeated = {text: count for text, count in Counter(texts.values()).items() if 1 < count < len(texts)}
    described = [
        text for text in repeated if len((_trigger(trigger).sub("", text) if trigger else text).split()) >= _DESCRIBED
    ]
    if described:
        names = [name for name, text in texts.items() if text == described[0]]
        counted = agree(len(described), "description belongs", "descriptions belong")
        what = f"{counted} to several images: {first_names(names)} share "
        yield f'{what}"{described[0]}"', "describe what differs, or shorten all captions to the trigger"
