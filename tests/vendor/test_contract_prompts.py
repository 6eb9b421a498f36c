"""What orchestrate reports about prompts is what gen_img.py does with them."""

import json
import subprocess

import pytest
from small_world import Trainer

from orchestrator.errors import Severity
from orchestrator.kohya import prompts

READ = """
import json, sys
sys.path.insert(0, sys.argv[1])
import gen_img
class Tokenizer:
    model_max_length, pad_token_id = 77, -1
    def __call__(self, word):
        class Found:
            input_ids = [0, *word.split(), 1]
        return Found()
found = {}
for text in json.loads(sys.argv[2]):
    parts = text.split(" AND ")
    try:
        tokens, weights = gen_img.get_prompts_with_weights(Tokenizer(), lambda token: token, parts, 75)
        found[text] = [[[word, weight] for word, weight in zip(*pair) if word != -1] for pair in zip(tokens, weights)]
    except ValueError as error:
        found[text] = str(error)
print("\\nFOUND " + json.dumps(found))
"""

CUT = {"a BREAK b": ["a"], "BREAKFAST at a window": [], "an OUTBREAK of joy": ["an", "OUT"]}
FAILING = ("(version:1.5.2)", "(a, (b:.))", "(a:+.)")
PLAIN = ("black and white", "BLACK-AND-WHITE", "at 10:30) yes", "\\(16:9\\)", "a :) (b)")


@pytest.fixture(scope="module")
def read(trainer: Trainer) -> dict[str, object]:
    """The words and weights that gen_img.py reads, for each part between " AND "; or its error."""
    texts = [*CUT, *FAILING, *PLAIN, "BLACK AND WHITE", "(aspect ratio 16:9)"]
    argv = [trainer.python, "-c", READ, trainer.sd_scripts, json.dumps(texts)]
    done = subprocess.run(argv, capture_output=True, text=True, check=True, timeout=300)
    return json.loads(done.stdout.rpartition("FOUND ")[2])


def words(found: object) -> list[str]:
    assert isinstance(found, list), found
    return [word for part in found for word, _ in part]


@pytest.mark.parametrize("text", CUT)
def test_what_follows_break_is_cut(read: dict[str, object], text: str) -> None:
    assert words(read[text]) == CUT[text]
    assert [problem.severity for problem in prompts.unusable(text, where="")] == [Severity.ERROR]


@pytest.mark.parametrize("text", FAILING)
def test_malformed_weights_fail(read: dict[str, object], text: str) -> None:
    assert "could not convert string to float" in str(read[text])
    assert [problem.severity for problem in prompts.unusable(text, where="")] == [Severity.ERROR]


@pytest.mark.parametrize("text", PLAIN)
def test_plain_words_are_read_completely(read: dict[str, object], text: str) -> None:
    assert len(words(read[text])) == len(text.split())
    assert prompts.unusable(text, where="") == []


def test_and_splits_a_prompt_and_a_ratio_is_a_weight(read: dict[str, object]) -> None:
    assert len(read["BLACK AND WHITE"]) == 2
    assert {weight for part in read["(aspect ratio 16:9)"] for _, weight in part} == {9.0}
