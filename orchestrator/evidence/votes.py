"""Results of blind votes: preferences between configurations, agreement with the scores, and the voters' reliability.

Votes are separate evidence. They change no score, ranking or verdict.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from orchestrator.evidence import ballot, configurations
from orchestrator.evidence.ballot import QUESTIONS, Answer, ShownImage, Trial, VoteSheet
from orchestrator.evidence.run_metrics import image_value
from orchestrator.evidence.stats import acceptance, preference
from orchestrator.evidence.stats.acceptance import Acceptance
from orchestrator.evidence.stats.preference import Share
from orchestrator.evidence.summary import SweepSummary
from orchestrator.model import Score

_SIDE_P, _SIDE_SHARE = 0.01, 0.9
_SWAPPED = {"left": "right", "right": "left", "equal": "equal"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Voter:
    """left, right, equal: answers about pairs, of the question with the strongest preference for a side.

    p: of no preference for a side, corrected for the two questions. repeated: answers about pairs that were shown
    twice; consistent: those that chose the same image both times, although the sides were swapped.
    """

    name: str
    left: int
    right: int
    equal: int
    p: float
    repeated: int
    consistent: int

    @property
    def one_sided(self) -> bool:
        """Whether the voter nearly always chooses one side. Such votes are not counted."""
        decided = self.left + self.right
        return self.p < _SIDE_P and max(self.left, self.right) >= _SIDE_SHARE * decided

    @property
    def prefers_a_side(self) -> bool:
        return self.p < _SIDE_P


@dataclass(frozen=True, slots=True, kw_only=True)
class Preference:
    """The share of votes for `first` over `second`, two labels of configurations; "equal" counts one half.

    The interval is simultaneous over all pairs and questions (Bonferroni, 95 %), over prompts.
    """

    question: str
    first: str
    second: str
    share: Share

    @property
    def preferred(self) -> str | None:
        """The label of the preferred configuration; None if undecided."""
        interval = self.share.interval
        if interval is None or interval.low <= 0.5 <= interval.high:
            return None
        return self.first if self.share.mean > 0.5 else self.second


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """The share of decided votes that a measure predicts.

    question: persona, image or publish. measure: similarity, adherence (the chosen image has the higher value) or
    threshold (the chosen image passes and the other one does not; an accepted image passes, a rejected one does not).
    """

    question: str
    measure: str
    share: Share


@dataclass(frozen=True, slots=True, kw_only=True)
class VoteResults:
    """All results of the imported votes. dropped: answers about images that the sweep no longer has.

    standings: question and label of a configuration -> its share of the votes on all its pairs; intervals as in
    `Preference`. acceptance: from "would you publish this?"; None without such votes.
    """

    voters: tuple[Voter, ...]
    preferences: tuple[Preference, ...]
    standings: Mapping[tuple[str, str], Share]
    agreements: tuple[Agreement, ...]
    acceptance: Acceptance | None
    dropped: int


@dataclass(frozen=True, slots=True)
class _Vote:
    """An answer whose images are known."""

    sheet: VoteSheet
    trial: Trial
    answer: Answer
    left: Score
    right: Score | None

    @property
    def prompt(self) -> int:
        return self.left.image.prompt


def evaluate(read: SweepSummary) -> VoteResults | None:
    """The results; None without votes."""
    scores = {(one.run.point.id, score.image.file): score for one in read.runs for score in one.scores}
    given = ballot.answers(read.ballots)
    if not given:
        return None
    votes = [
        _Vote(sheet, trial, answer, scores[_key(trial.left)], scores[_key(trial.right)] if trial.right else None)
        for sheet, trial, answer in given
        if _key(trial.left) in scores and (trial.right is None or _key(trial.right) in scores)
    ]
    voters = tuple(_voters(votes))
    ignored = {one.name for one in voters if one.one_sided}
    counted = [one for one in votes if one.sheet.voter not in ignored]
    first = [one for one in counted if not one.trial.repeats]
    threshold = read.calibration.calibration.threshold if read.calibration else None
    compared = _compared(first, _labels(read))
    return VoteResults(
        voters=voters,
        preferences=tuple(_preferences(compared)),
        standings=_standings(compared),
        agreements=tuple(_agreements(first, threshold)),
        acceptance=_acceptance(first),
        dropped=len(given) - len(votes),
    )


def _key(image: ShownImage) -> tuple[str, str]:
    return image.run, image.file


def _labels(read: SweepSummary) -> dict[str, str]:
    """Run id -> label of its configuration, best configuration first."""
    return {run.run.point.id: one.label for one in configurations.group(read.runs) for run in one.runs}


# --- voters -----------------------------------------------------------------------------------------------------------


def _voters(votes: Sequence[_Vote]) -> Iterator[Voter]:
    by_name: dict[str, list[_Vote]] = defaultdict(list)
    for vote in votes:
        by_name[vote.sheet.voter].append(vote)
    for name, own in sorted(by_name.items()):
        sides = [Counter(getattr(one.answer, question) for one in own) for question in QUESTIONS]
        p_values = [preference.side_p(count["left"], count["right"]) for count in sides]
        strongest = sides[p_values.index(min(p_values))]
        repeated = list(_repeated(own))
        yield Voter(
            name=name,
            left=strongest["left"],
            right=strongest["right"],
            equal=strongest["equal"],
            p=min(1.0, min(p_values) * len(QUESTIONS)),
            repeated=len(repeated),
            consistent=sum(repeated),
        )


def _repeated(votes: Sequence[_Vote]) -> Iterator[bool]:
    """Of each question that was answered about a pair and its repetition: whether the same image was chosen."""
    known = {(one.sheet.session, one.trial.id): one.answer for one in votes}
    for vote in votes:
        earlier = known.get((vote.sheet.session, vote.trial.repeats))
        for question in QUESTIONS if earlier else ():
            before, now = getattr(earlier, question), getattr(vote.answer, question)
            if before and now:
                yield before == _SWAPPED[now]


# --- preferences and agreement ----------------------------------------------------------------------------------------


_Compared: TypeAlias = Mapping[tuple[str, str, str], Sequence[tuple[float, int]]]


def _compared(votes: Sequence[_Vote], labels: Mapping[str, str]) -> _Compared:
    """Question, better and worse configuration -> votes for the better one with their prompts."""
    order = {label: place for place, label in enumerate(dict.fromkeys(labels.values()))}
    groups: dict[tuple[str, str, str], list[tuple[float, int]]] = defaultdict(list)
    for question in QUESTIONS:
        for vote in votes:
            side = getattr(vote.answer, question)
            if not side or vote.trial.right is None:
                continue
            left, right = labels[vote.trial.left.run], labels[vote.trial.right.run]
            first, second = sorted((left, right), key=lambda label: order[label])
            value = 0.5 if side == "equal" else float((left if side == "left" else right) == first)
            groups[question, first, second].append((value, vote.prompt))
    return groups


def _preferences(compared: _Compared) -> Iterator[Preference]:
    for (question, first, second), values in compared.items():
        if found := preference.share(values, _confidence(compared)):
            yield Preference(question=question, first=first, second=second, share=found)


def _confidence(compared: _Compared) -> float:
    """Of one interval, so that all hold together (Bonferroni)."""
    return 1 - 0.05 / len(compared)


def _standings(compared: _Compared) -> dict[tuple[str, str], Share]:
    own: dict[tuple[str, str], list[tuple[float, int]]] = defaultdict(list)
    for (question, first, second), values in compared.items():
        own[question, first] += values
        own[question, second] += [(1 - value, prompt) for value, prompt in values]
    shares = {key: preference.share(values, _confidence(compared)) for key, values in own.items()}
    return {key: found for key, found in shares.items() if found}


def _agreements(votes: Sequence[_Vote], threshold: float | None) -> Iterator[Agreement]:
    groups: dict[tuple[str, str], list[tuple[float, int]]] = defaultdict(list)
    for vote in votes:
        if vote.answer.publish is not None and threshold is not None:
            agrees = vote.answer.publish == _passes(vote.left, threshold)
            groups["publish", "threshold"].append((float(agrees), vote.prompt))
        for question in QUESTIONS if vote.right else ():
            side = getattr(vote.answer, question)
            for measure, difference in _differences(vote, threshold).items():
                if difference and side in ("left", "right"):
                    groups[question, measure].append((float((difference < 0) == (side == "right")), vote.prompt))
    for (question, measure), values in sorted(groups.items()):
        if found := preference.share(values):
            yield Agreement(question=question, measure=measure, share=found)


def _differences(vote: _Vote, threshold: float | None) -> dict[str, float]:
    """Measure -> value of the left image minus that of the right one; unknown ones are absent."""
    if vote.right is None:
        return {}
    values = {
        "similarity": [image_value(one) for one in (vote.left, vote.right)],
        "adherence": [one.adherence for one in (vote.left, vote.right)],
        "threshold": [None if threshold is None else float(_passes(one, threshold)) for one in (vote.left, vote.right)],
    }
    return {name: left - right for name, (left, right) in values.items() if left is not None and right is not None}


def _passes(score: Score, threshold: float) -> bool:
    return score.similarity is not None and score.similarity >= threshold


def _acceptance(votes: Sequence[_Vote]) -> Acceptance | None:
    found = [
        (one.left.similarity, one.answer.publish, one.prompt)
        for one in votes
        if one.answer.publish is not None and one.left.similarity is not None
    ]
    return acceptance.fit(found) if found else None
