"""`orchestrate dataset generate`: class images of the base model, for regularisation."""

import shutil

import pytest
from click.testing import CliRunner, Result
from standins.world import World

from orchestrator import cli


def call(world: World, *words: str, prompt: str = "photo of a man") -> Result:
    folder = str(world.folder / "class")
    asked = ["dataset", "generate", folder, "--settings", str(world.settings), "--prompt", prompt, *words]
    return CliRunner().invoke(cli.main, asked)


def test_missing_images_are_added_and_existing_ones_are_kept(world: World) -> None:
    folder = world.folder / "class"
    done = call(world, "--count", "2", "--seed", "5")
    assert done.exit_code == 0, done.output
    assert sorted(path.name for path in folder.iterdir()) == ["p00_5.png", "p00_5.txt", "p00_6.png", "p00_6.txt"]
    assert (folder / "p00_5.txt").read_text(encoding="utf-8") == "photo of a man\n"
    (folder / "p00_6.png").write_bytes(b"edited")
    shutil.rmtree(world.folder / "runs" / ".class-images")
    assert call(world, "--count", "3", "--seed", "5").exit_code == 0
    assert (folder / "p00_6.png").read_bytes() == b"edited"
    assert (folder / "p00_7.png").exists()
    (plan,) = world.folder.glob("runs/.class-images/*/generate/1/plan.json")
    assert plan.read_text(encoding="utf-8").count('"seed"') == 1
    again = call(world, "--count", "3", "--seed", "5")
    assert (again.exit_code, len(list(world.folder.glob("runs/.class-images/*")))) == (0, 1 + 1)  # and the lock


@pytest.mark.parametrize(
    ("words", "prompt", "part"),
    [
        ((), "photo of ohwx person", 'contains the trigger "ohwx person"'),
        ((), "a man --n ugly", "reads text after -- as an option"),
        (("--base", "other"), "photo of a man", "there is no [base_models.other]"),
    ],
)
def test_a_wrong_request_is_rejected_before_anything_starts(
    world: World, words: tuple[str, ...], prompt: str, part: str
) -> None:
    done = call(world, *words, prompt=prompt)
    assert done.exit_code == 2
    assert part in done.stderr
    assert not (world.folder / "class").exists()


def test_images_of_another_prompt_are_not_mixed(world: World) -> None:
    (world.folder / "class").mkdir()
    (world.folder / "class" / "p00_1.txt").write_text("photo of a dog", encoding="utf-8")
    done = call(world)
    assert (done.exit_code, "generated with another prompt" in done.stderr) == (2, True)
