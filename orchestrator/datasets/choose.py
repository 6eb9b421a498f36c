"""Chooses a subset of the images; subsets are nested: 12 images are part of 24, which are part of 36."""

from collections.abc import Iterable, Sequence
from dataclasses import replace

from orchestrator.config.recipe import Choose
from orchestrator.datasets.samples import Sample, SampleSet, drop
from orchestrator.errors import InputError, Problem
from orchestrator.store.hashes import sha256, sha256_text

REPEATED = "repeated for equal steps"
"""The note of a repeated image."""


def apply(choose: Choose, batch: SampleSet, *, key: str) -> SampleSet:
    """The first `n` images of a draw. Raises InputError when there are fewer. key: the recipe's, for the message."""
    available = len(batch.samples)
    if choose.n > available:
        what = f"asks for {choose.n} of {available} images"
        raise InputError(Problem(what=what, key=f"{key}.choose.n", remedy=f"n = {available} or less"))
    ordered = order(batch.samples, draw=choose.draw)
    dropped = [drop(sample, f"not among the {choose.n} of draw {choose.draw}") for sample in ordered[choose.n :]]
    return batch.keep(ordered[: choose.n], dropped)


def order(samples: Iterable[Sample], *, draw: int) -> list[Sample]:
    """A shuffle that depends only on the images' content and the draw: an added image does not move the others."""
    return sorted(samples, key=lambda one: (sha256_text(f"{draw} {sha256(one.file)}"), one.name))


def repeated(samples: Sequence[Sample], total: int) -> list[Sample]:
    """`total` samples: all equally often, or some of them once more."""
    ordered, mark = order(samples, draw=1), "~"
    while any(mark in sample.name for sample in samples):  # phones call an edited image `NAME~2`
        mark += "~"
    found = list(ordered)
    for index in range(len(ordered), total):
        time, place = divmod(index, len(ordered))
        sample = ordered[place]
        found.append(replace(sample, name=f"{sample.name}{mark}{time + 1}").with_note(REPEATED))
    return found
