"""Blind votes: the ballot, its page, imported files and the results."""

import json
import random
import re
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image, PngImagePlugin
from scipy import special

from benchmarks import page as sweeps
from orchestrator import cli
from orchestrator.errors import InputError, NothingSelected
from orchestrator.evidence import ballot, configurations, summary, vote_design, votes
from orchestrator.evidence.ballot import Answer, Ballot, ShownImage, Trial, VoteSheet
from orchestrator.evidence.stats import acceptance, preference
from orchestrator.evidence.summary import SweepSummary
from orchestrator.model import Question, Score
from orchestrator.report import answers, html, results_view, vote_page
from orchestrator.report import votes as report
from orchestrator.store.layout import Sweep

PROMPTS = tuple(f"prompt {number}" for number in range(8))


@pytest.fixture(scope="module")
def album(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Images with metadata that name the LoRA, as image generators write them."""
    paths = sweeps.album(tmp_path_factory.mktemp("votes") / "album", px=48, count=4)
    for path in paths:
        note = PngImagePlugin.PngInfo()
        note.add_text("parameters", "<lora:network_dim=64:1>")
        Image.open(path).save(path, pnginfo=note)
    return paths


@pytest.fixture(scope="module")
def read(tmp_path_factory: pytest.TempPathFactory, album: list[Path]) -> SweepSummary:
    """Eight configurations with one seed, 8 prompts, 3 image seeds. Tests do not change its files."""
    sweep = Sweep(tmp_path_factory.mktemp("votes") / "runs" / "secret-sweep")
    sweeps.write(sweep, 8, sweeps.Made(album=album, prompts=PROMPTS, seeds=3))
    return summary.read(sweep)


@pytest.fixture
def small(tmp_path: Path, album: list[Path]) -> SweepSummary:
    """Two configurations with 4 images each."""
    sweep = Sweep(tmp_path / "runs" / "s")
    sweeps.write(sweep, 2, sweeps.Made(album=album, prompts=PROMPTS[:4], seeds=1))
    return summary.read(sweep)


Chooser = Callable[[Trial, str], Any]


def sheet(design: Ballot, choose: Chooser, voter: str = "Ann", session: int = 1) -> VoteSheet:
    """The answers of a voter to all trials."""
    given = {}
    for trial in design.trials:
        questions = ballot.QUESTIONS if trial.right else ("publish",)
        given[trial.id] = Answer(**{question: choose(trial, question) for question in questions})
    return VoteSheet(ballot=design.id, session=f"{session:032x}", voter=voter, revision=len(given), answers=given)


def saved(path: Path, one: VoteSheet | dict[str, Any]) -> Path:
    """The file that the page saves: answers that were not given are absent."""
    record = one if isinstance(one, dict) else asdict(one)
    for answer in record["answers"].values():
        for name in [name for name, value in answer.items() if value is None]:
            del answer[name]
    path.write_text(json.dumps(record), encoding="utf-8")
    return path


def scores(read: SweepSummary) -> dict[ShownImage, Score]:
    return {ShownImage(run=one.run.point.id, file=s.image.file): s for one in read.runs for s in one.scores}


def labels(read: SweepSummary) -> dict[str, str]:
    return {run.run.point.id: one.label for one in configurations.group(read.runs) for run in one.runs}


def evaluated(read: SweepSummary, design: Ballot, *sheets: VoteSheet) -> votes.VoteResults:
    found = votes.evaluate(replace(read, ballots=(replace(design, sheets=sheets),)))
    assert found
    return found


# --- the ballot -------------------------------------------------------------------------------------------------------


def test_pairs_share_prompt_and_seed_and_are_balanced(read: SweepSummary) -> None:
    design, is_new = vote_design.design(read, best=3, pairs=48, singles=12)
    assert is_new
    known, names = scores(read), labels(read)
    pairs = [one for one in design.trials if one.right and not one.repeats]
    assert len(pairs) == 48
    shown = [(known[one.left].image, known[one.right].image) for one in pairs if one.right]
    assert all((a.prompt, a.seed) == (b.prompt, b.seed) for a, b in shown)
    counts = [
        sum({names[one.left.run], names[one.right.run]} == match for one in pairs if one.right)
        for match in {frozenset((names[one.left.run], names[one.right.run])) for one in pairs if one.right}
    ]
    assert counts == [16, 16, 16], "three pairs of the three best configurations"
    by_prompt = [sum(image.prompt == number for image, _ in shown) for number in range(8)]
    assert min(by_prompt) >= 5, "each prompt equally often, except for what is missing"
    left = [names[one.left.run] for one in pairs]
    assert 0 < sum(name == left[0] for name in left) < 32, "sides are random"


def test_repeated_pairs_have_swapped_sides_and_come_later(read: SweepSummary) -> None:
    design, _ = vote_design.design(read, best=2, pairs=20, singles=0)
    order = {one.id: (place, one) for place, one in enumerate(design.trials)}
    repeated = [one for one in design.trials if one.repeats]
    assert len(repeated) == 4
    for one in repeated:
        place, first = order[one.repeats]
        assert (one.left, one.right) == (first.right, first.left)
        assert place < order[one.id][0]


def test_the_same_images_give_the_same_ballot(small: SweepSummary) -> None:
    design, _ = vote_design.design(small, best=2, pairs=4, singles=4)
    ballot.write(small.sweep, design)
    assert vote_design.design(small, best=2, pairs=4, singles=4) == (design, False)
    assert vote_design.design(small, best=2, pairs=6, singles=4)[0].id != design.id


def test_one_configuration_is_compared_with_the_baseline(tmp_path: Path, album: list[Path]) -> None:
    sweep = Sweep(tmp_path / "runs" / "s")
    sweeps.write(sweep, 1, sweeps.Made(album=album, prompts=PROMPTS, seeds=1))
    one = summary.read(sweep)
    design, _ = vote_design.design(one, best=3, pairs=4, singles=0)
    assert {labels(one)[side.run] for trial in design.trials for side in (trial.left, trial.right) if side} == set(
        labels(one).values()
    )
    alone = replace(one, runs=tuple(run for run in one.runs if not run.run.point.is_baseline))
    with pytest.raises(NothingSelected, match="two scored configurations"):
        vote_design.design(alone, best=3, pairs=4, singles=0)


def test_the_page_reveals_no_names(read: SweepSummary) -> None:
    design, _ = vote_design.design(read, best=3, pairs=6, singles=3)
    ballot.write(read.sweep, design)
    text = vote_page.write(read, design).read_text(encoding="utf-8")
    names = [one.run.point.name for one in read.runs] + [one.run.point.id for one in read.runs]
    names += [
        *labels(read).values(),
        read.sweep.name,
        "images/",
        "safetensors",
        "network_dim",
        "parameters",
        "similarity",
    ]
    assert [name for name in names if name in text] == []
    images = re.findall(r'"images": \[([^\]]*)\]', text)
    assert len(images) == len(design.trials)
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', text)
    assert policy
    assert policy[1].startswith("default-src &#39;none&#39;; img-src data:; style-src &#39;sha256-")
    assert "http" not in re.sub(r"base64,\S*|Content-Security-Policy|http-equiv", "", text)


# --- results ----------------------------------------------------------------------------------------------------------


def test_a_known_preference_is_recovered_within_the_interval(read: SweepSummary) -> None:
    """Voters who prefer each better-ranked configuration in 80 % of pairs find the persona; the image is a coin."""
    design, _ = vote_design.design(read, best=2, pairs=24, singles=0)
    order, dice = list(dict.fromkeys(labels(read).values())), random.Random(1)

    def choose(trial: Trial, question: str) -> str:
        assert trial.right
        left_is_better = order.index(labels(read)[trial.left.run]) < order.index(labels(read)[trial.right.run])
        better = dice.random() < (0.8 if question == "persona" else 0.5)
        return "left" if left_is_better == better else "right"

    found = evaluated(read, design, *(sheet(design, choose, f"voter {n}", n) for n in range(6)))
    persona, image = found.preferences
    assert (persona.question, image.question, persona.first) == ("persona", "image", order[0])
    assert persona.share.interval
    assert image.share.interval
    assert persona.share.interval.low <= 0.8 <= persona.share.interval.high
    assert persona.share.interval.low > 0.5
    assert persona.preferred == order[0]
    assert image.preferred is None
    assert persona.share.votes == 6 * 24, "repeated pairs count in the order check only"
    assert found.standings["persona", order[0]] == persona.share
    assert found.standings["persona", order[1]].mean == pytest.approx(1 - persona.share.mean)
    assert not any(one.prefers_a_side for one in found.voters)


def test_a_voter_who_always_chooses_left_is_reported_and_not_counted(read: SweepSummary) -> None:
    design, _ = vote_design.design(read, best=2, pairs=20, singles=0)
    by_file = sheet(design, lambda trial, _: "left" if trial.left.run < trial.right.run else "right", "Ann", 1)  # type: ignore[union-attr]
    one_sided = sheet(design, lambda *_: "left", "Bob", 2)
    half = sheet(design, lambda _, question: "right" if question == "image" else "equal", "Cleo", 3)
    found = evaluated(read, design, by_file, one_sided, half)
    assert [one.one_sided for one in found.voters] == [False, True, True]
    assert found.voters[0].consistent == found.voters[0].repeated == 8
    assert found.voters[1].consistent == 0
    assert {one.share.votes for one in found.preferences} == {20}
    assert found.preferences[0].share.mean in (0, 1)
    text = " ".join(report.sentences(found))
    assert "voter Bob: chose left 24, right 0, equal 0 times; the same image in 0 of 8 repeated questions" in text
    assert text.count("not counted") == 2


def test_agreement_with_similarity_is_that_of_the_voter(read: SweepSummary) -> None:
    design, _ = vote_design.design(read, best=3, pairs=30, singles=0)
    known = scores(read)

    def by_similarity(trial: Trial, question: str) -> str:
        assert trial.right
        values = [-1.0 if (s := known[one].similarity) is None else s for one in (trial.left, trial.right)]
        if values[0] == values[1]:
            return "equal"
        return "left" if (values[0] > values[1]) == (question == "persona") else "right"

    found = evaluated(read, design, sheet(design, by_similarity))
    shares = {(one.question, one.measure): one.share.mean for one in found.agreements}
    assert shares == {("persona", "similarity"): 1.0, ("image", "similarity"): 0.0}


def test_the_similarity_that_a_person_accepts_is_recovered(read: SweepSummary) -> None:
    design, _ = vote_design.design(read, best=8, pairs=0, singles=60)
    known, dice = scores(read), random.Random(0)
    middle = float(np.median([known[one.left].similarity or 0 for one in design.trials]))

    def publish(trial: Trial, _: str) -> bool:
        return dice.random() < special.expit(40 * ((known[trial.left].similarity or 0) - middle))

    found = evaluated(read, design, sheet(design, publish)).acceptance
    assert found
    for one, truth in zip(found.levels, (middle, middle + float(special.logit(0.9)) / 40), strict=True):
        assert one.interval
        assert one.interval.low <= truth <= one.interval.high
    assert "50% are accepted at similarity" in " ".join(
        report.sentences(evaluated(read, design, sheet(design, publish)))
    )


def test_answers_without_relation_to_the_similarity_are_undecided(read: SweepSummary) -> None:
    design, _ = vote_design.design(read, best=8, pairs=0, singles=40)
    known, dice = scores(read), random.Random(2)
    for publish, reason in (
        (lambda *_: dice.random() < 0.5, "do not rise with the similarity"),
        (lambda trial, _: (known[trial.left].similarity or 0) < 0.55, "do not rise with the similarity"),
        (lambda *_: True, "all votes accept the image"),
    ):
        results = evaluated(read, design, sheet(design, publish))
        assert results.acceptance
        assert results.acceptance.levels == ()
        assert reason in " ".join(report.sentences(results))


def test_votes_on_runs_that_are_gone_are_reported(read: SweepSummary) -> None:
    design, _ = vote_design.design(read, best=2, pairs=4, singles=0)
    kept = tuple(run for run in read.runs if run.run.point.id != design.trials[0].left.run)
    found = evaluated(replace(read, runs=kept), design, sheet(design, lambda *_: "left"))
    assert found.dropped == len(design.trials)
    assert f"{len(design.trials)} answers about images that the sweep no longer has" in report.sentences(found)[-1]


def test_a_separated_threshold_has_an_interval_between_the_classes() -> None:
    values = np.linspace(0.1, 0.7, 40)
    found = acceptance.fit([(float(x), bool(x > 0.4), n % 8) for n, x in enumerate(values)])
    below, above = values[values <= 0.4].max(), values[values > 0.4].min()
    half = found.levels[0]
    assert half.interval
    assert below <= half.similarity <= above
    assert half.interval.low < below < above < half.interval.high < 0.5


@pytest.mark.parametrize(("truth", "prompts", "spread"), [(0.5, 8, 0.0), (0.75, 8, 0.3), (0.75, 20, 0.1)])
def test_intervals_of_shares_contain_the_truth(truth: float, prompts: int, spread: float) -> None:
    rng, inside, trials = np.random.default_rng(0), 0, 500
    for _ in range(trials):
        by_prompt = np.full(prompts, truth)
        if spread:
            by_prompt = rng.beta(truth * (1 / spread - 1), (1 - truth) * (1 / spread - 1), prompts)
        cast = [(float(rng.random() < p), n) for n, p in enumerate(by_prompt) for _ in range(5)]
        found = preference.share(cast)
        assert found
        assert found.interval
        inside += found.interval.low <= truth <= found.interval.high
    assert inside / trials > 0.94


def test_votes_appear_beside_the_scores_and_change_none(small: SweepSummary) -> None:
    design, _ = vote_design.design(small, best=2, pairs=10, singles=20)
    question = Question(id="Q8", ask="From which similarity?", kind="threshold")
    plain = replace(small, questions=(question,))
    with_votes = replace(
        plain, ballots=(replace(design, sheets=(sheet(design, lambda t, _: "equal" if t.right else True, "<b>&"),)),)
    )
    before, after = (answers.answer_questions([one])[0][0] for one in (plain, with_votes))
    assert before.verdict == after.verdict
    table = results_view.table(with_votes, "config")
    assert table["votes_persona"].dropna().tolist() == [0.5, 0.5]
    pairs = sum(one.right is not None and not one.repeats for one in design.trials)
    assert set(table["votes_persona_number"].dropna()) == {pairs}
    assert (table["votes_image_low"].dropna() < 0.5).all()
    assert not [name for name in results_view.table(plain, "config") if name.startswith("votes")]
    page = html.write(with_votes).read_text(encoding="utf-8")
    assert "Blind votes" in page
    assert "&lt;b&gt;&amp;" in page
    assert "<b>&" not in page
    assert "Blind votes" not in html.write(plain).read_text(encoding="utf-8")


# --- imported files ---------------------------------------------------------------------------------------------------


@pytest.fixture
def design(small: SweepSummary) -> Ballot:
    found, _ = vote_design.design(small, best=2, pairs=4, singles=2)
    ballot.write(small.sweep, found)
    return found


def test_an_import_is_idempotent_and_a_longer_session_replaces_a_shorter_one(
    small: SweepSummary, design: Ballot, tmp_path: Path
) -> None:
    full = sheet(design, lambda trial, _: "left" if trial.right else True)
    short = replace(full, revision=1, answers=dict([next(iter(full.answers.items()))]))
    counts = []
    for one in (short, full, full, short):
        _, is_new = ballot.import_sheet(small.sweep, saved(tmp_path / "votes.json", one))
        (kept,) = ballot.read_all(small.sweep)[0]
        counts.append((is_new, len(kept.sheets), len(kept.sheets[0].answers)))
    assert counts == [(True, 1, 1), (True, 1, 8), (False, 1, 8), (False, 1, 8)], "4 pairs, 2 of them repeated, 2 images"
    (small.sweep.votes / full.ballot / f"{full.session}.json").write_text("{", encoding="utf-8")
    assert ballot.import_sheet(small.sweep, saved(tmp_path / "votes.json", short))[1], "a damaged copy is replaced"
    other = replace(full, session="f" * 32, voter="Bob")
    ballot.import_sheet(small.sweep, saved(tmp_path / "votes.json", other))
    assert len(ballot.read_all(small.sweep)[0][0].sheets) == 2


HOSTILE: dict[str, tuple[dict[str, Any], str]] = {
    "session": ({"session": "../../../evil" + "0" * 19}, "session is not 32 hex digits"),
    "voter": ({"voter": "a\x1b[2J"}, "printable"),
    "no voter": ({"voter": "  "}, "printable"),
    "long voter": ({"voter": "a" * 61}, "printable"),
    "bidi": ({"voter": "a\u202eb"}, "printable"),
    "ballot": ({"ballot": "../00000"}, "belongs to no ballot"),
    "revision": ({"revision": -1}, "revision"),
    "text revision": ({"revision": "7"}, "revision"),
    "trial": ({"answers": {"x": {"persona": "left"}}}, "there is no trial 'x'"),
    "extra": ({"more": 1}, "more"),
    "answers": ({"answers": []}, "answers"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_file_is_rejected(small: SweepSummary, design: Ballot, tmp_path: Path, case: str) -> None:
    change, reason = HOSTILE[case]
    record = {**asdict(sheet(design, lambda trial, _: "left" if trial.right else True)), **change}
    path = tmp_path / "votes.json"
    path.write_text(json.dumps(record), encoding="utf-8")
    with pytest.raises(InputError, match=re.escape(reason)):
        ballot.import_sheet(small.sweep, path)
    assert [one.name for one in small.sweep.votes.glob("*/*")] == [ballot.KEY]


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"\xff", b"[" * 100_000, b'{"ballot": NaN}', b" " * (ballot.MAX_BYTES + 1), None]
)
def test_a_file_that_is_no_sheet_is_rejected(
    small: SweepSummary, design: Ballot, tmp_path: Path, content: bytes | None
) -> None:
    path = tmp_path / "votes.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match="is no file of votes"):
        ballot.import_sheet(small.sweep, path)


def test_answers_of_the_other_kind_are_rejected(small: SweepSummary, design: Ballot, tmp_path: Path) -> None:
    good = sheet(design, lambda trial, _: "left" if trial.right else True)
    for trial in design.trials:
        wrong = Answer(publish=True) if trial.right else Answer(image="left")
        one = replace(good, answers={trial.id: wrong})
        with pytest.raises(InputError, match="another kind of trial"):
            ballot.import_sheet(small.sweep, saved(tmp_path / "votes.json", one))


def test_a_damaged_file_in_the_folder_is_a_warning(small: SweepSummary, design: Ballot, tmp_path: Path) -> None:
    ballot.import_sheet(
        small.sweep, saved(tmp_path / "votes.json", sheet(design, lambda t, _: "left" if t.right else True))
    )
    (small.sweep.votes / design.id / f"{'e' * 32}.json").write_text("{", encoding="utf-8")
    again = summary.read(small.sweep)
    assert [len(one.sheets) for one in again.ballots] == [1]
    assert len(again.problems) == 1
    (small.sweep.votes / design.id / ballot.KEY).write_text("{}", encoding="utf-8")
    assert summary.read(small.sweep).ballots == ()


def test_a_damaged_ballot_does_not_stop_the_import_for_another(
    small: SweepSummary, design: Ballot, tmp_path: Path
) -> None:
    damaged, path = small.sweep.votes / "0badba11" / ballot.KEY, tmp_path / "votes.json"
    damaged.parent.mkdir()
    damaged.write_text("{", encoding="utf-8")
    wanted = sheet(design, lambda t, _: "left" if t.right else True)
    assert ballot.import_sheet(small.sweep, saved(path, wanted))[1]
    with pytest.raises(InputError) as raised:
        ballot.import_sheet(small.sweep, saved(path, replace(wanted, ballot="0badba11")))
    assert [one.where for one in raised.value.problems] == [str(path), str(damaged)]


def test_the_command_makes_a_page_and_imports_votes(small: SweepSummary, tmp_path: Path) -> None:
    settings = tmp_path / "orchestrate.toml"
    settings.write_text((Path(__file__).parents[1] / "orchestrate.toml").read_text(encoding="utf-8"), encoding="utf-8")
    sweep = str(small.sweep.path)
    command = ["vote", sweep, "--settings", str(settings), "--pairs", "4", "--singles", "2"]
    made = CliRunner().invoke(cli.main, command)
    assert made.exit_code == 0, made.output
    page = Path(made.stdout.replace("\n", ""))
    again = CliRunner().invoke(cli.main, command)
    assert again.stdout == made.stdout
    known = ballot.read(small.sweep, page.parent.name)
    assert known
    path = saved(tmp_path / "v.json", sheet(known, lambda t, _: "left" if t.right else True))
    done = CliRunner().invoke(cli.main, ["vote", sweep, "--settings", str(settings), "--import", str(path)])
    assert done.exit_code == 0, done.output
    assert "voter Ann" in done.stdout
    assert (
        (small.sweep.report / "votes.csv").read_text(encoding="utf-8").startswith("question,first,second,share_first")
    )
    results = CliRunner().invoke(cli.main, ["results", sweep, "--settings", str(settings)])
    assert "Votes, " in results.stdout
