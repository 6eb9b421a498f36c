"""Run summaries -> answers, and answers -> a page of questions, with scores whose true effect is known."""

import csv
import io
import json
import os
import random
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner
from standins.world import World

from orchestrator import cli, scoring
from orchestrator.errors import InputError
from orchestrator.evidence import choice, run_metrics, summary
from orchestrator.evidence.stats.contrast import TestSettings
from orchestrator.evidence.summary import AttemptSummary, RunSummary, SweepSummary
from orchestrator.model import (
    FaceStatus,
    Failure,
    Image,
    Params,
    Point,
    Question,
    Result,
    Score,
    State,
    Value,
    VramSample,
)
from orchestrator.report import answers, answers_page
from orchestrator.report.answers import answer as answer_text
from orchestrator.report.answers.answer import Answer
from orchestrator.store import vram_log
from orchestrator.store.layout import Attempt, Run, Sweep
from orchestrator.store.state import Status

Q3 = Question(id="Q3", ask="Is network_dim 16 too low?", dim="network_dim", levels=(16, 32))


def run(
    params: Params,
    similarity: float,
    *,
    state: State = State.FINISHED,
    training: tuple[AttemptSummary, ...] = (),
    prompts: int = 4,
    nearest: float = 0.5,
    trained_faces: int | None = None,
) -> RunSummary:
    """A run whose images all have about this similarity: prompts and seeds differ a little."""
    name = "_".join(f"{key}={value}" for key, value in params.items())
    point = Point(id="0" * 8, name=name, params=params, dims=tuple(params))
    noise = random.Random(name).uniform(-0.005, 0.005)
    scores = tuple(
        Score(
            image=Image(file=f"images/p{p}_{s}.png", checkpoint="c", strength=1.0, prompt=p, seed=s, text=str(p)),
            status=FaceStatus.OK,
            similarity=similarity + noise + 0.01 * p,
            nearest_training=nearest + noise,
        )
        for p in range(prompts)
        for s in (1, 2)
    )
    seen = scores if state is State.FINISHED else ()
    chosen = choice.choose(seen, choice.split({choice.cell(score) for score in scores}))
    return RunSummary(
        run=Run(Path("/nowhere/sweep") / name, point),
        status=Status(state=state),
        training=training,
        scores=seen,
        trained_faces=trained_faces,
        choice=chosen,
        metrics=run_metrics.summary(seen) if seen else None,
    )


def trained_with(*, degraded: bool) -> AttemptSummary:
    return AttemptSummary(number=1, result=Result(failure=None), fallbacks=("x",), overrides={}, degraded=degraded)


def grid(
    effect: float, *, seeds: int = 4, dim: str = "network_dim", levels: tuple[Value, Value] = (16, 32)
) -> Iterator[RunSummary]:
    for seed in range(1, seeds + 1):
        yield run({dim: levels[0], "seed": seed}, 0.5)
        yield run({dim: levels[1], "seed": seed}, 0.5 + effect)


def read(runs: Iterator[RunSummary] | list[RunSummary], *questions: Question, name: str = "sweep") -> SweepSummary:
    return SweepSummary(sweep=Sweep(Path(name)), questions=questions or (Q3,), runs=tuple(runs))


def only(runs: Iterator[RunSummary] | list[RunSummary], *questions: Question) -> Answer:
    ((answer, *_),) = answers.answer_questions([read(runs, *questions)])
    return answer


def rows(answer: Answer) -> dict[str, str]:
    return dict((*answer.facts, *answer.details))


# --- verdicts ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("effect", "verdict"), [(0.1, "yes"), (-0.1, "no"), (0.0, "no"), (0.016, "undecided")])
def test_a_known_effect_gets_its_verdict(effect: float, verdict: str) -> None:
    answer = only(grid(effect))
    assert answer.verdict == verdict
    assert answer.difference == pytest.approx(effect, abs=0.01)
    assert answer.interval
    assert answer.interval.low < effect < answer.interval.high


@pytest.mark.parametrize(("effect", "against"), [(0.1, "no difference"), (0.0, "a difference of 0.02 or more")])
def test_details_give_the_p_value_of_the_test_that_the_verdict_is_based_on(effect: float, against: str) -> None:
    answer = only(grid(effect))
    assert answer.p is not None
    assert answer.p < 0.05
    shown = "p < 0.001" if answer.p < 0.0005 else f"p = {answer.p:.3f}"
    assert dict(answer.details)["Test"] == f"{shown} against {against}, Holm-corrected over all questions"


@pytest.mark.parametrize(
    ("effect", "sentence"),
    [
        (
            0.1,
            r"network_dim 32 is better than 16: estimated \+0\.\d{3} similarity on the same prompts "
            r"\(\+0\.\d{3} to \+0\.\d{3}\), in all 4 seeds\. The difference is larger than 0\.02\.",
        ),
        (-0.1, r"network_dim 32 is worse than 16: -0\.\d{3} similarity on the same prompts, in all 4 seeds\."),
        (0.0, r"network_dim 32 is not better than 16 by 0\.02 or more: [+-]0\.00\d similarity on the same prompts\."),
        (0.016, r"Not decided whether network_dim 32 is better than 16: \+0\.01\d similarity on the same prompts, .*"),
    ],
)
def test_an_answer_begins_with_a_sentence_without_statistics(effect: float, sentence: str) -> None:
    answer = only(grid(effect))
    assert re.fullmatch(sentence, answer.sentence)
    text = answer_text.block([answer])
    assert text.index(f"**{answer.verdict.capitalize()}.** {answer.sentence}") < text.index("- Difference:")
    assert "p = " not in answer_text.block([answer], details=False)
    assert text.index("- Details:") < text.index("p = ")


def test_the_sentence_counts_the_seeds_that_agree() -> None:
    *most, first, second = grid(0.1, seeds=6)
    answer = only([*most, first, run(second.run.point.params, 0.45)])
    assert "in 5 of 6 seeds" in answer.sentence


def test_one_pair_of_runs_is_undecided() -> None:
    answer = only(grid(0.4, seeds=1))
    assert answer.verdict == "undecided"
    assert "same training seed" in answer.sentence
    assert answer.interval is None
    assert answer.needs == "about 2 more training seeds (2 runs at each level)"


def test_a_sweep_with_open_runs_needs_these_before_further_seeds() -> None:
    *first, last = grid(0.0, seeds=2)
    answer = only([*first, run(last.run.point.params, 0.5, state=State.PENDING)])
    assert answer.needs == "1 run of this sweep, not finished yet"
    assert dict(answer.facts)["Needed to decide"] == answer.needs


@pytest.mark.parametrize(("kept", "needs"), [(2, "6 failed runs, repeated with `--retry failed`"), (8, "")])
def test_failed_runs_are_repeated_before_further_seeds(kept: int, needs: str) -> None:
    runs = [
        one if at < kept else run(one.run.point.params, 0.5, state=State.FAILED) for at, one in enumerate(grid(0.1))
    ]
    assert only(runs).needs.startswith(needs)
    assert bool(only(runs).needs) is bool(needs)


def test_further_seeds_are_no_remedy_where_every_run_is_degraded() -> None:
    runs = [run(one.run.point.params, 0.5, training=(trained_with(degraded=True),)) for one in grid(0.1)]
    assert only(runs).needs == "runs that can be compared: all were excluded, and further seeds do not change that"


def test_degraded_and_failed_runs_are_excluded_and_counted() -> None:
    fallback = AttemptSummary(
        number=1, result=Result(failure=None), fallbacks=("AdamW8bit",), overrides={}, degraded=True
    )
    first, second, *others = grid(0.1)
    answer = only(
        [replace(first, training=(fallback,)), run(second.run.point.params, 0.6, state=State.FAILED), *others]
    )
    assert answer.left_out == 2
    assert answer.pairs == 3
    assert rows(answer)["Excluded runs"] == "1 degraded: an attempt changed its settings; 1 failed"


def test_several_sweeps_are_corrected_together_but_compared_separately() -> None:
    alone = only(grid(0.03))
    sweeps = [read(grid(0.03), name="a"), *(read(grid(0.0), name=str(n)) for n in range(5))]
    (together, *_), *_ = answers.answer_questions(sweeps)
    assert alone.p is not None
    assert together.p == pytest.approx(min(6 * alone.p, 1.0))
    assert together.pairs == alone.pairs == 4
    assert together.interval == alone.interval


def test_the_smallest_relevant_difference_can_be_set() -> None:
    assert answers.answer_questions([read(grid(0.1))], TestSettings(smallest=0.2))[0][0].verdict == "no"


def test_zipped_dims_are_compared_together() -> None:
    """As in [[zip]]; a dim that follows the seed does not count as zipped with it."""
    zipped = [
        run({"resolution": size, "train_batch_size": batch, "seed": seed}, value)
        for seed in (1, 2, 3)
        for size, batch, value in (("768,768", 2, 0.5), ("1024,1024", 1, 0.6))
    ]
    question = Question(id="Q", ask="?", dim="resolution", levels=("768,768", "1024,1024"))
    answer = only(zipped, question)
    assert (answer.pairs, answer.verdict) == (3, "yes")
    assert "changed with it: train_batch_size" in rows(answer)["Compared"]


@pytest.mark.parametrize(
    ("effects", "warned"),
    [({"a": 0.1, "b": -0.1}, True), ({"a": 0.1, "b": 0.1}, False), ({"a": 0.1, "b": 0.11}, False)],
)
def test_a_difference_that_depends_on_another_dim_is_a_warning(effects: dict[str, float], warned: bool) -> None:
    runs = [
        run({"dataset": dataset, "network_dim": rank, "seed": seed}, 0.5 + effect * (rank == 32))
        for dataset, effect in effects.items()
        for rank in (16, 32)
        for seed in (1, 2, 3)
    ]
    found = "the difference depends on dataset (+0.1" in only(runs, Q3).warnings
    assert found is warned


def test_a_level_without_faces_is_named_beside_the_difference() -> None:
    runs = [
        replace(one, choice=choice.choose(scores, choice.split({choice.cell(score) for score in scores})))
        for one in grid(0.1)
        for scores in [
            tuple(
                replace(score, status=FaceStatus.NO_FACE, similarity=None)
                if one.run.point.params["network_dim"] == 32
                else score
                for score in one.scores
            )
        ]
    ]
    parts = rows(only(runs))["Parts of it"]
    assert parts == (
        "no image of one level contains a face, +100.0 percentage points of images without a face (each counts as -1)"
    )


def test_no_p_value_is_printed_as_zero() -> None:
    assert "p < 0.001 against no difference" in rows(only(grid(0.1, seeds=8)))["Test"]


def test_arms_are_compared_with_a_common_middle() -> None:
    middle: Params = {"network_dim": 16, "learning_rate": 1e-3}
    arms = [(middle, 0.6), ({**middle, "network_dim": 1}, 0.3), ({**middle, "learning_rate": 1e-4}, 0.5)]
    runs = [run({**params, "seed": seed}, value) for seed in (1, 2, 3) for params, value in arms]
    question = Question(id="rank", ask="?", dim="network_dim", levels=(1, 16))
    answer = only(runs, question)
    assert answer.pairs == 3
    assert answer.difference == pytest.approx(0.3, abs=0.02)


def test_a_change_of_the_nearest_training_image_is_reported() -> None:
    runs = [run({"dataset": d, "seed": s}, 0.6, nearest=n) for s in (1, 2, 3) for d, n in (("all", 0.5), ("few", 0.7))]
    answer = only(runs, Question(id="Q6", ask="?", dim="dataset", levels=("all", "few")))
    assert rows(answer)["Nearest training image"].startswith("+0.2")


def test_three_dataset_sizes_give_an_extrapolation() -> None:
    sizes = {"12": (12, 0.40), "24": (24, 0.50), "36": (36, 0.54)}
    runs = [
        run({"dataset": name, "seed": seed}, value, trained_faces=count)
        for seed in (1, 2, 3)
        for name, (count, value) in sizes.items()
    ]
    answer = only(runs, Question(id="Q6", ask="?", dim="dataset", levels=("24", "36")))
    assert rows(answer)["More training images"].startswith("72 instead of 36 images: +0.")
    assert "extrapolated" in rows(answer)["More training images"]


def test_images_to_compare_have_one_prompt_and_seed() -> None:
    typical, largest = rows(only(grid(0.1)))["Images to compare"].split("; ")
    assert typical.startswith("typical difference (+0.")
    first, second = (part.partition("/images/")[2].partition("`")[0] for part in largest.split(" and "))
    assert first == second
    assert "network_dim=16" in largest.split(" and ")[0]
    assert "network_dim=32" in largest.split(" and ")[1]


# --- memory -----------------------------------------------------------------------------------------------------------


def trained(*attempts: AttemptSummary, state: State = State.FINISHED) -> RunSummary:
    return run({"optimizer_type": "Prodigy", "seed": 1}, 0.5, state=state, training=attempts)


def attempt(
    failure: Failure | None = None,
    *,
    peak_gib: float | None = None,
    fallbacks: tuple[str, ...] = (),
    other: str = "",
    reason: str = "",
) -> AttemptSummary:
    peak = None if peak_gib is None else round(1024 * peak_gib)
    overrides: Mapping[str, object] = {"optimizer_type": other} if other else {}
    result = Result(failure=failure, reason=reason, peak_vram_mib=peak)
    return AttemptSummary(number=1, result=result, fallbacks=fallbacks, overrides=dict(overrides), degraded=bool(other))


def memory(*runs: RunSummary, within_gib: float | None = 24) -> Answer:
    question = Question(id="M", ask="Does it fit?", kind="memory", within_gib=within_gib)
    ((answer,),) = answers.answer_questions([SweepSummary(sweep=Sweep(Path("s")), questions=(question,), runs=runs)])
    return answer


def oom(gib: float) -> AttemptSummary:
    return attempt(Failure.OOM, reason=f"CUDA out of memory. GPU 0 has a total capacity of {gib:.2f} GiB of which ...")


@pytest.mark.parametrize(
    ("attempts", "state", "verdict", "sentence"),
    [
        (
            [attempt(peak_gib=21.3)],
            State.FINISHED,
            "yes",
            "1 of 1 training fit 24 GiB of VRAM; the highest use was 21.3",
        ),
        (
            [oom(23.6), attempt(peak_gib=18, fallbacks=("gradient checkpointing",))],
            State.FINISHED,
            "yes",
            "VRAM, 1 of them after an OOM fallback",
        ),
        (
            [oom(23.6), attempt(other="AdamW8bit", peak_gib=15)],
            State.FINISHED,
            "no",
            "1 of 1 training did not fit",
        ),
        ([oom(40)], State.FAILED, "no", "1 of 1 training did not fit"),
        ([attempt(Failure.OOM, reason="over the budget of 24 GiB")], State.FAILED, "no", "did not fit"),
        ([oom(13.7)], State.FAILED, "undecided", "of 1 training, 1 out of memory with less VRAM than that"),
        ([oom(13.7), attempt(other="AdamW8bit", peak_gib=9)], State.FINISHED, "undecided", "with less VRAM"),
        ([attempt(Failure.OOM)], State.FAILED, "undecided", "1 without a measured VRAM use"),
        ([oom(23.6)], State.PENDING, "undecided", "of 1 training, 1 not finished"),
        ([attempt(Failure.CRASHED)], State.PENDING, "undecided", "1 not finished"),
        ([attempt(peak_gib=41.0)], State.FINISHED, "no", "did not fit 24 GiB"),
        ([attempt()], State.FINISHED, "undecided", "1 without a measured VRAM use"),
        ([oom(13.7), attempt(fallbacks=("gradient checkpointing",))], State.FINISHED, "yes", "after an OOM fallback."),
        (
            [oom(40), attempt(fallbacks=("gradient checkpointing",))],
            State.FINISHED,
            "undecided",
            "1 without a measured",
        ),
    ],
)
def test_a_memory_question_is_answered_from_attempts_that_allow_a_conclusion(
    attempts: list[AttemptSummary], state: State, verdict: str, sentence: str
) -> None:
    answer = memory(trained(*attempts, state=state))
    assert (answer.id, answer.ask, answer.verdict) == ("M", "Does it fit?", verdict)
    assert sentence in answer.sentence


@pytest.mark.parametrize(("within", "verdict"), [(12, "no"), (16, "yes"), (24, "yes")])
def test_a_memory_question_is_answered_for_the_size_that_it_asks_for(within: float, verdict: str) -> None:
    answer = memory(trained(attempt(peak_gib=14)), within_gib=within)
    assert answer.verdict == verdict
    assert f"{within} GiB" in answer.sentence


@pytest.mark.parametrize(("gpu_gib", "verdict"), [(12, "no"), (24, "yes")])
def test_without_a_size_a_memory_question_is_about_the_gpu(tmp_path: Path, gpu_gib: int, verdict: str) -> None:
    one = trained(attempt(peak_gib=14))
    folder = tmp_path / "train" / "1"
    folder.mkdir(parents=True)
    vram_log.append(folder, VramSample(used_mib=14 * 1024, total_mib=gpu_gib * 1024))
    answer = memory(replace(one, run=Run(tmp_path, one.run.point)), within_gib=None)
    assert (answer.verdict, f"{gpu_gib} GiB" in answer.sentence) == (verdict, True)


@pytest.mark.parametrize(
    ("own_gib", "others", "verdict"), [(23, {}, "no"), (10, {}, "undecided"), (None, {"7": 13 * 1024}, "undecided")]
)
def test_vram_that_other_processes_use_allows_no_conclusion(
    tmp_path: Path, own_gib: int | None, others: dict[str, int], verdict: str
) -> None:
    one = trained(attempt(Failure.OOM, reason="out of memory at 23.0 of 24 GiB"), state=State.FAILED)
    folder = Attempt(tmp_path / "train" / "1")
    folder.path.mkdir(parents=True)
    folder.open({"others": others})
    own = None if own_gib is None else own_gib * 1024
    vram_log.append(folder.path, VramSample(used_mib=23 * 1024, total_mib=24 * 1024, own_mib=own))
    assert memory(replace(one, run=Run(tmp_path, one.run.point))).verdict == verdict


def test_without_a_size_and_a_monitored_gpu_a_memory_question_is_undecided() -> None:
    answer = memory(trained(attempt(peak_gib=14)), within_gib=None)
    assert answer.verdict == "undecided"
    assert "VRAM was not monitored" in answer.sentence


def test_runs_that_fit_decide_nothing_while_another_tries_a_fallback() -> None:
    answer = memory(trained(attempt(peak_gib=20)), trained(oom(23.6), state=State.PENDING))
    assert (answer.verdict, "of 2 trainings, 1 not finished" in answer.sentence) == ("undecided", True)


def test_a_report_answers_the_questions_of_its_grid_and_no_others() -> None:
    one = trained(attempt(peak_gib=14))
    assert answers.answer_questions([SweepSummary(sweep=Sweep(Path("s")), questions=(), runs=(one,))]) == [()]
    asked = (Question(id="T", ask="?", kind="threshold"), Q3, Question(id="M", ask="?", kind="memory"))
    (answer,) = answers.answer_questions([read(grid(0.1), *asked)])
    assert [one.id for one in answer] == ["T", "Q3", "M"]
    assert [one.verdict for one in answer] == ["undecided", "yes", "undecided"]


# --- as text ----------------------------------------------------------------------------------------------------------


def test_answers_csv_has_one_row_per_answer_and_empty_unknown_cells() -> None:
    (answer,) = answers.answer_questions([read(grid(0.1, seeds=1))])
    (row,) = csv.DictReader(io.StringIO(answer_text.table(answer)))
    assert (row["id"], row["verdict"], row["low"], row["p"]) == ("Q3", "undecided", "", "")
    assert float(row["difference"]) == pytest.approx(0.1, abs=0.01)


def test_text_cannot_break_out_of_its_block() -> None:
    trick = "A <!-- orchestrate:Q3 end --> *b* [c](d) <script> \n\n### Q4: trick"
    runs = [run({"dataset": d, "seed": s}, v) for s in (1, 2, 3) for d, v in (("all", 0.5), (trick, 0.6))]
    block = answer_text.block([only(runs, Question(id="Q6", ask=trick, dim="dataset", levels=("all", trick)))])
    assert "<!--" not in block
    assert "-->" not in block
    assert "`A < !-- orchestrate" in block, "values are code"
    assert "\n#" not in block
    assert "\\*b\\* \\[c\\](d)" in block


# --- the user's page --------------------------------------------------------------------------------------------------

PAGE = """# Open Questions

### Q1: Which base?
**Context:** none.

```
### Q3: inside a fence this is no heading
```

### Q3: Is network_dim 16 too low for identity capture?
**How to answer:** v3 sweep.

## Strategic Questions

### Q30: Something else?
ünïcode – stays
### Q8: When is it good enough?
**How to answer:** measure"""


def edited(text: str, **blocks: str) -> str:
    return answers_page.edit(text, blocks, where="page.md").text


def test_a_block_is_inserted_at_the_end_of_its_section() -> None:
    after = edited(PAGE, Q3="Yes.")
    marks = "\n\n<!-- orchestrate:Q3 begin -->\nYes.\n<!-- orchestrate:Q3 end -->"
    assert after == PAGE.replace("v3 sweep.", f"v3 sweep.{marks}")


def test_a_fence_within_a_longer_one_does_not_end_it() -> None:
    page = "````\n```\n### Q3: as one writes it\n```\n````\n### Q3: Too low?\n~~~\n```\n### Q4\n~~~\nend\n"
    assert edited(page, Q3="x").startswith(page.removesuffix("\n"))


def test_the_last_section_needs_no_newline_at_the_end() -> None:
    assert edited(PAGE, Q8="x").startswith(PAGE)
    assert edited(PAGE, Q8="x").endswith("measure\n\n<!-- orchestrate:Q8 begin -->\nx\n<!-- orchestrate:Q8 end -->")


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_a_second_run_replaces_the_block_and_nothing_else(newline: str) -> None:
    page = PAGE.replace("\n", newline)
    once = edited(page, Q3="Undecided.\n\n- more", Q8="x")
    twice = edited(once, Q3="Yes.", Q8="x")
    assert twice == once.replace(f"Undecided.{newline}{newline}- more", "Yes.")
    assert edited(twice, Q3="Yes.", Q8="x") == twice
    assert newline == "\n" or "\n" not in twice.replace("\r\n", "")


def test_a_moved_block_is_replaced_where_it_is() -> None:
    block = "<!-- orchestrate:Q3 begin -->\nold\n<!-- orchestrate:Q3 end -->"
    assert edited(f"{block}\n{PAGE}", Q3="new") == f"{block.replace('old', 'new')}\n{PAGE}"


def test_two_questions_share_a_heading() -> None:
    after = edited(PAGE, **{"Q1": "one", "Q1-helloworld": "other"})
    assert after.index("one") < after.index("other") < after.index("### Q3: Is")


def test_a_question_without_a_heading_is_a_warning() -> None:
    found = answers_page.edit(PAGE, {"Q5": "x", "Q8": "y"}, where="page.md")
    assert [problem.what for problem in found.problems] == ["has no heading for Q5, so its answer is not inserted"]
    assert "orchestrate:Q8" in found.text
    assert "orchestrate:Q5" not in found.text


@pytest.mark.parametrize("torn", ["<!-- orchestrate:Q3 begin -->\nhalf", "<!-- orchestrate:Q3 end -->"])
def test_damaged_marks_are_an_error_and_the_page_stays(tmp_path: Path, torn: str) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"{PAGE}\n{torn}", encoding="utf-8")
    before = page.read_bytes()
    with pytest.raises(InputError, match=r"page\.md:19: the marks of Q3 are damaged"):
        answers_page.update(page, {"Q3": "x"})
    assert page.read_bytes() == before


def test_bytes_that_are_not_utf8_survive(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_bytes(b"\xef\xbb\xbf### Q3: caf\xe9?\r\nbody\x0c\r\n")
    page.chmod(0o640)
    assert answers_page.update(page, {"Q3": "x"}) == []
    assert page.read_bytes() == (
        b"\xef\xbb\xbf### Q3: caf\xe9?\r\nbody\x0c"
        b"\r\n\r\n<!-- orchestrate:Q3 begin -->\r\nx\r\n<!-- orchestrate:Q3 end -->\r\n"
    )
    assert page.stat().st_mode & 0o777 == 0o640


def test_marks_and_comments_in_code_are_text() -> None:
    marks = "<!-- orchestrate:Q3 begin -->\n<!-- orchestrate:Q3 end -->"
    for code in (f"```\n{marks}\n```", f"~~~md\n{marks}\n~~~", "`<!--` begins a comment", "``a ` <!--`` does, too"):
        page = f"{code}\n\n### Q3: new\nbody\n"
        after = edited(page, Q3="x")
        assert after.startswith(page.rstrip("\n"))
        assert after.count("x\n<!-- orchestrate:Q3 end -->") == 1
        assert edited(after, Q3="x") == after


@pytest.mark.parametrize(
    "comment", ["<!--\n### Q3: old\n-->", "text <!-- a\n\n### Q3: old\n", "<!-- x --> <!--\n### Q3: old\n--> y"]
)
def test_a_heading_inside_a_comment_is_no_heading(comment: str) -> None:
    page = f"{comment}\n"
    assert answers_page.edit(page, {"Q3": "x"}, where="page.md").text == page
    after = edited(f"{comment.removesuffix('-->')}-->\n\n### Q3: new\nbody\n", Q3="x")
    assert after.index("### Q3: new\nbody") < after.index("orchestrate:Q3 begin")


def test_a_page_keeps_its_owner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "page.md"
    page.write_text("### Q3: ?\n", encoding="utf-8")
    owners: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(os, "chown", lambda _path, user, group: owners.append((user, group)))
    answers_page.update(page, {"Q3": "x"})
    assert owners == [(page.stat().st_uid, page.stat().st_gid)]


def test_a_missing_page_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"gone\.md: cannot be edited"):
        answers_page.update(tmp_path / "gone.md", {"Q3": "x"})


# --- the command ------------------------------------------------------------------------------------------------------


def test_the_command_prints_answers_and_inserts_them_into_a_page(world: World) -> None:
    world.ask(
        "[dims]\nnetwork_dim = [2, 4]\nseed = [1, 2]\n"
        '[[question]]\nid = "Q3"\nask = "Too low?"\ncontrast = { network_dim = [2, 4] }\n'
    )
    world.drive()
    page = world.folder / "questions.md"
    page.write_text("### Q3: Too low?\n", encoding="utf-8")
    words = ["answer", "--settings", str(world.settings), "grid", "--into", str(page), "--verbose"]
    done = CliRunner().invoke(cli.main, words)
    assert done.exit_code == 0, done.output
    assert done.stdout.strip() == (world.sweep.report / "answers.md").read_text(encoding="utf-8").strip()
    block = answer_text.blocks(answers.answer_questions([summary.read(world.sweep)]))["Q3"]
    assert block.strip() in page.read_text(encoding="utf-8")
    assert " hours without a GPU" in block
    assert (world.sweep.report / "answers.csv").exists()
    done = CliRunner().invoke(cli.main, [*words[:4], "--json"])
    (found,) = json.loads(done.stdout)["answers"]
    assert (found["id"], found["verdict"], found["interval"]) == ("Q3", "undecided", None)
    assert found["pairs"] == 2


def test_selection_and_report_use_different_images(world: World) -> None:
    """The metrics of a run come from images that were not used to select checkpoint and strength."""
    text = world.settings.read_text(encoding="utf-8").replace("max_train_steps = 4", "max_train_epochs = 2")
    text = text.replace("train_batch_size", "save_every_n_epochs = 1\ntrain_batch_size")
    text = text.replace("seeds = [1]", 'seeds = [1, 2, 3]\nstrengths = [0.5, 1.0]\ncheckpoints = "all"')
    world.settings.write_text(text, encoding="utf-8")
    world.drive(only="network_dim=2*")
    (found,) = [one for one in summary.gather(world.sweep) if one.choice]
    assert found.choice
    assert found.metrics
    scores = scoring.read_scores(found.run.path / "scores.json")
    assert len({(s.image.checkpoint, s.image.strength) for s in scores}) == len(found.choice.candidates) == 4
    reported = {choice.cell(score) for score in found.choice.reported}
    assert len(reported) == found.metrics.images == 4
    assert len({choice.cell(score) for score in scores} - reported) == found.choice.selection_n == 2
