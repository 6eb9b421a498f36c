"""Chooses the images of a ballot: pairs with one prompt and seed, repeated pairs and single images."""

import random
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import chain, combinations, zip_longest
from typing import TypeVar

from orchestrator.errors import NothingSelected, Problem
from orchestrator.evidence import ballot, configurations
from orchestrator.evidence.ballot import Ballot, ShownImage, Trial
from orchestrator.evidence.choice import cell
from orchestrator.evidence.configurations import Configuration
from orchestrator.evidence.run_metrics import image_value
from orchestrator.evidence.summary import RunSummary, SweepSummary
from orchestrator.model import Score
from orchestrator.store.hashes import sha256_json

REPEATED = 0.15
"""The share of pairs that is shown twice, with the sides swapped; at least MIN_REPEATED."""
MIN_REPEATED = 4

T = TypeVar("T")


def design(read: SweepSummary, *, best: int, pairs: int, singles: int) -> tuple[Ballot, bool]:
    """The ballot of these numbers, and whether it is new; the same images give the existing one.

    best: number of configurations to compare with each other, from the top of the ranking. pairs: of images. singles:
    single images, over the whole range of similarities. Only images that a report counts are shown. Raises
    NothingSelected without two configurations.
    """
    ranked = [one for one in configurations.group(read.runs) if one.counted]
    compared = [one for one in ranked if not one.is_baseline][:best]
    if len(compared) == 1:
        compared += [one for one in ranked if one.is_baseline]
    if len(compared) < 2:
        what = "a vote needs two scored configurations"
        remedy = (
            f"finish the sweep (`orchestrate status {read.sweep.name}` names the command), or add a value to its grid"
        )
        raise NothingSelected(Problem(what=what, where=str(read.sweep.path), remedy=remedy))
    shown = [(one, score) for group in compared for one in group.counted for score in _reported(one)]
    inputs = [best, pairs, singles, [(one.run.point.id, score.image.file) for one, score in shown]]
    identity = sha256_json(inputs)[:8]
    if found := ballot.read(read.sweep, identity):
        return found, False
    trials = (*_pairs(compared, pairs), *_singles(shown, singles))
    return Ballot(id=identity, trials=trials), True


def _pairs(compared: Sequence[Configuration], count: int) -> list[Trial]:
    """Equally many of each pair of configurations and of each prompt; the repeated ones come in the second half."""
    draw, matches = random.SystemRandom(), list(combinations(compared, 2))
    found = []
    for number, match in enumerate(matches):
        wanted = count // len(matches) + (number < count % len(matches))
        found += [_trial(*draw.sample(pair, 2)) for pair in _same_cell(*match)[:wanted]]
    draw.shuffle(found)
    half = max(1, len(found) // 2)
    again = found[: min(half, max(MIN_REPEATED, round(REPEATED * len(found))))]
    late = [*found[half:], *(_swapped(one) for one in again)]
    draw.shuffle(late)
    return [*found[:half], *late]


def _same_cell(first: Configuration, second: Configuration) -> list[tuple[ShownImage, ShownImage]]:
    """The pairs of images with one prompt and seed, in random order and each prompt equally early.

    Runs with the same training seed are paired; without a common one, each with each.
    """
    runs = [(one, other) for one in first.counted for other in second.counted]
    paired = [pair for pair in runs if pair[0].seed == pair[1].seed] or runs
    by_prompt: dict[int, list[tuple[ShownImage, ShownImage]]] = {}
    for one, other in paired:
        theirs = {cell(score): score for score in _reported(other)}
        for score in _reported(one):
            if match := theirs.get(cell(score)):
                pair = (_shown(one, score), _shown(other, match))
                by_prompt.setdefault(score.image.prompt, []).append(pair)
    return list(_in_turn([_shuffled(pairs) for pairs in _shuffled(list(by_prompt.values()))]))


def _singles(shown: Sequence[tuple[RunSummary, Score]], count: int) -> list[Trial]:
    """Images with a face at even distances in the order of their similarity."""
    faces = sorted(((one, score) for one, score in shown if score.similarity is not None), key=_similarity)
    count = min(count, len(faces))
    chosen = [faces[round(number * (len(faces) - 1) / max(count - 1, 1))] for number in range(count)]
    return [_trial(_shown(one, score)) for one, score in _shuffled(chosen)]


def _similarity(one: tuple[RunSummary, Score]) -> float:
    return one[1].similarity or 0.0


def _reported(one: RunSummary) -> list[Score]:
    return [score for score in one.choice.reported if image_value(score) is not None] if one.choice else []


def _shown(one: RunSummary, score: Score) -> ShownImage:
    return ShownImage(run=one.run.point.id, file=score.image.file)


def _trial(left: ShownImage, right: ShownImage | None = None) -> Trial:
    return Trial(id=secrets.token_hex(8), left=left, right=right)


def _swapped(one: Trial) -> Trial:
    return replace(_trial(one.right or one.left, one.left), repeats=one.id)


def _shuffled(items: Sequence[T]) -> list[T]:
    return random.SystemRandom().sample(items, len(items))


def _in_turn(groups: Sequence[Sequence[T]]) -> Iterator[T]:
    """The first of each group, then the second of each, and so on."""
    return (item for item in chain.from_iterable(zip_longest(*groups)) if item is not None)
