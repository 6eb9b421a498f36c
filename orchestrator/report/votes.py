"""Results of blind votes as sentences and as votes.csv."""

from collections.abc import Iterator
from pathlib import Path

from orchestrator.evidence import votes
from orchestrator.evidence.stats.acceptance import Acceptance
from orchestrator.evidence.stats.preference import Share
from orchestrator.evidence.summary import SweepSummary
from orchestrator.evidence.votes import Preference, Voter, VoteResults
from orchestrator.report import csv_files
from orchestrator.text import pluralize

TABLE = "votes.csv"
_COLUMNS = ("question", "first", "second", "share_first", "low", "high", "votes", "prompts", "preferred")
_QUESTIONS = {"persona": "more like the persona", "image": "the better image", "publish": "would be published"}
_PREDICTS = {
    "similarity": "the image with the higher similarity is chosen",
    "adherence": "the image with the higher adherence is chosen",
    "threshold": "the only image of the two that passes the threshold is chosen",
}


def write(read: SweepSummary) -> Path | None:
    """Write report/votes.csv, one row per pair of configurations and question; None without votes."""
    found = votes.evaluate(read)
    if found is None:
        return None
    path = read.sweep.report / TABLE
    csv_files.write(path, _COLUMNS, map(_row, found.preferences))
    return path


def _row(one: Preference) -> dict[str, object]:
    interval = one.share.interval
    return {
        "question": one.question,
        "first": one.first,
        "second": one.second,
        "share_first": one.share.mean,
        "low": interval.low if interval else None,
        "high": interval.high if interval else None,
        "votes": one.share.votes,
        "prompts": one.share.clusters,
        "preferred": one.preferred or "undecided",
    }


def sentences(found: VoteResults | None) -> list[str]:
    """All results, one line each; empty without votes."""
    return list(_sentences(found)) if found else []


def _sentences(found: VoteResults) -> Iterator[str]:
    yield from map(_preference, found.preferences)
    yield from threshold_sentences(found)
    yield from (
        f"{_QUESTIONS[one.question]}: {_PREDICTS[one.measure]} in {_share(one.share)} that prefer an image"
        for one in found.agreements
        if one.question != "publish"
    )
    yield from map(_voter, found.voters)
    if found.dropped:
        yield f"{pluralize(found.dropped, 'answer')} about images that the sweep no longer has: not counted"


def threshold_sentences(found: VoteResults) -> list[str]:
    """What votes on single images say about the similarity of an acceptable image."""
    lines = [] if found.acceptance is None else [_acceptance(found.acceptance)]
    return lines + [
        f"the calibrated threshold agrees with {_share(one.share)} on publishing"
        for one in found.agreements
        if one.question == "publish"
    ]


def _preference(one: Preference) -> str:
    verdict = f"{one.preferred} is preferred" if one.preferred else "undecided"
    return f"{_QUESTIONS[one.question]}: {one.first} rather than {one.second} in {_share(one.share)}: {verdict}"


def _share(one: Share) -> str:
    bounds = f"{one.interval:.0%}" if one.interval else "no interval"
    return f"{one.mean:.0%} ({bounds}) of {pluralize(one.votes, 'vote')} on {pluralize(one.clusters, 'prompt')}"


def _acceptance(found: Acceptance) -> str:
    counts = f"{found.accepted} of {pluralize(found.votes, 'vote')} on single images would publish"
    if not found.levels:
        return f"{counts}; similarity of an acceptable image: undecided, because {found.reason}"
    levels = (
        f"{one.level:.0%} are accepted at similarity {one.similarity:.3f}"
        + (f" ({one.interval:.3f})" if one.interval else " (undecided: the votes give no interval)")
        for one in found.levels
    )
    return f"{counts}; {', '.join(levels)}"


def _voter(one: Voter) -> str:
    text = f"voter {one.name}: chose left {one.left}, right {one.right}, equal {one.equal} times"
    if one.repeated:
        text += f"; the same image in {one.consistent} of {one.repeated} repeated questions with swapped sides"
    if one.one_sided:
        return f"{text}. Chooses nearly always one side (p = {one.p:.2g}): not counted"
    return f"{text}. Prefers one side (p = {one.p:.2g})" if one.prefers_a_side else text
