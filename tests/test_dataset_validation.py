"""`check` names everything in a dataset's folder that sd-scripts would ignore, cut or stop at."""

from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from orchestrator import images
from orchestrator.config.schema import Dataset
from orchestrator.datasets.validate import validate_dataset
from orchestrator.errors import Severity

ERROR, WARNING = Severity.ERROR, Severity.WARNING
Make = Callable[..., Dataset]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Writes files into a dataset's folder: an image for each name with None, otherwise the text."""

    def write(files: dict[str, str | None], **fields: object) -> Dataset:
        for name, text in files.items():
            path = tmp_path / "images" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if text is None:
                Image.new("RGB", (8, 8)).save(path, format="PNG")
            else:
                path.write_bytes(text.encode())
        settings = {"trigger": "ohwx person", **fields}
        return Dataset(name="portraits", image_dir=tmp_path / "images", **settings)  # type: ignore[arg-type]

    return write


def found(dataset: Dataset, **arguments: object) -> list[tuple[Severity, str]]:
    return [(one.severity, f"{one.what} -> {one.remedy}") for one in validate_dataset(dataset, "settings", arguments)]


def test_a_dataset_without_problems(make: Make) -> None:
    dataset = make({"a.png": None, "a.txt": "ohwx person smiling", "b.JPG": None, "b.txt": "ohwx person\n"})
    assert found(dataset) == []


@pytest.mark.parametrize("text", ["\ufeffohwx person", "ohwx person\r\n", "\ufeffohwx person, smiling\r\n\r\n"])
def test_a_caption_with_a_byte_order_mark_or_windows_line_ends_is_accepted(make: Make, text: str) -> None:
    assert found(make({"a.png": None, "a.txt": text})) == []


@pytest.mark.parametrize(
    ("text", "what"),
    [("\ufeff", "is empty"), ("\ufeff\r\nohwx person", "blank first line"), ("a\r\nohwx person", "only after")],
)
def test_a_byte_order_mark_hides_no_error_of_a_caption(make: Make, text: str, what: str) -> None:
    assert any(what in one for _, one in found(make({"a.png": None, "a.txt": text})))


@pytest.mark.parametrize("caption", [{}, {"b.txt": ""}])
def test_an_unreadable_image_is_one_problem_beside_those_of_its_caption(make: Make, caption: dict[str, str]) -> None:
    dataset = make({"a.png": None, "a.txt": "ohwx person", "b.png": "text", **caption})
    [(_, unreadable), *others] = found(dataset)
    assert "cannot be read" in unreadable
    assert [what.partition(":")[0] for _, what in others] == ["is empty"] * len(caption)


def test_files_that_look_like_images_are_named(make: Make) -> None:
    names = ["c.tif", "d.gif", "e.jfif", "f.heic", "g.jxl", "h.Jpg"]
    dataset = make({"a.png": None, "a.txt": "ohwx person", "notes.md": "", **dict.fromkeys(names)})
    ((severity, text),) = found(dataset)
    assert severity is WARNING
    assert "6 files look like images and are not used: c.tif, d.gif, e.jfif, f.heic, g.jxl and 1 more" in text
    assert "(suffixes .Jpg, .gif, .heic, .jfif, .jxl, .tif)" in text
    assert [path.name for path in images.list_images(dataset.image_dir).paths] == ["a.png"]


def test_a_folder_of_unused_files_alone_is_an_error_that_names_them(make: Make) -> None:
    ((severity, text),) = found(make({"a.heic": None, "b.ARW": None}))
    assert severity is ERROR
    assert text.startswith("no image can be used: 2 files look like images and are not used: a.heic, b.ARW")


def test_a_missing_folder_is_one_problem(tmp_path: Path) -> None:
    (one,) = found(Dataset(name="portraits", image_dir=tmp_path / "absent", trigger="x"))
    assert one[1].startswith("there is no such folder ->")
    (tmp_path / "pictures").mkdir()
    (one,) = found(Dataset(name="portraits", image_dir=tmp_path / "Pictures", trigger="x"))
    assert one[1].startswith("there is no such folder: did you mean pictures? ->")


def test_a_file_instead_of_a_folder_is_not_to_be_created(make: Make) -> None:
    image = make({"a.png": None}).image_dir / "a.png"
    (one,) = found(Dataset(name="portraits", image_dir=image, trigger="x"))
    assert one[1].startswith("is a file, not a folder")


def test_two_images_of_one_name_are_refused(make: Make) -> None:
    ((severity, text),) = found(make({"a.jpg": None, "a.png": None, "a.txt": "ohwx person"}))
    assert severity is ERROR
    assert text.startswith("a.jpg and a.png share a name")


def test_images_in_a_kohya_folder_are_found_by_the_message(make: Make, tmp_path: Path) -> None:
    dataset = make({"10_ohwx person/a.png": None, "10_ohwx person/b.png": None}, trigger="")
    ((severity, text),) = found(dataset)
    assert severity is ERROR
    assert 'its subfolder "10_ohwx person" contains 2' in text
    folder = (tmp_path / "images" / "10_ohwx person").as_posix()
    assert f'-> image_dir = "{folder}", num_repeats = 10, trigger = "ohwx person"' in text


def test_images_in_subfolders_beside_images_are_named(make: Make) -> None:
    ((severity, text),) = found(make({"a.png": None, "a.txt": "ohwx person", "old/b.png": None}))
    assert severity is WARNING
    assert "1 image in its subfolders is not used: old" in text


@pytest.mark.parametrize(
    ("other", "remedy"),
    [("a.caption", 'caption_extension = ".caption"'), ("a.png.txt", "rename a.png.txt to a.txt"), ("a.md", "a.txt")],
)
def test_no_captions_at_all_are_an_error(make: Make, other: str, remedy: str) -> None:
    ((severity, text),) = found(make({"a.png": None, other: "ohwx person"}))
    assert severity is ERROR
    assert "no image has a caption (.txt)" in text
    assert remedy in text


def test_kohyas_folder_of_folders_is_found_by_the_message(make: Make) -> None:
    ((_, text),) = found(make({"img/10_ohwx person/a.png": None}, trigger=""))
    assert 'its subfolder "img/10_ohwx person" contains 1' in text
    assert 'num_repeats = 10, trigger = "ohwx person"' in text


@pytest.mark.parametrize(
    ("caption", "severity", "what"),
    [
        ("person", ERROR, "lacks the trigger"),
        ("", ERROR, "is empty"),
        ("\nohwx person", ERROR, "has a blank first line"),
    ],
)
def test_one_cause_in_many_files_is_one_problem(make: Make, caption: str, severity: Severity, what: str) -> None:
    files = {f"{name}.{suffix}": caption if suffix == "txt" else None for name in "abc" for suffix in ("png", "txt")}
    ((found_severity, text),) = found(make(files))
    assert (found_severity, text.startswith(what), "(and 2 more: b.txt, c.txt)" in text) == (severity, True, True)


def test_captions_of_no_image_are_named(make: Make) -> None:
    dataset = make({"a.png": None, "a.txt": "ohwx person", "b.txt": "ohwx person", "c.md": ""})
    ((severity, text),) = found(dataset)
    assert (severity, "1 caption belongs to no image: b.txt" in text) == (WARNING, True)


@pytest.mark.parametrize(
    ("caption", "arguments", "what"),
    [
        ("ohwx person {smiling|sad}", {}, "1 caption contains {a|b}"),
        ("ohwx person {smiling|sad}", {"enable_wildcard": True}, ""),
        ("ohwx person (smiling:1.2)", {}, "1 caption contains (word:1.2)"),
        ("ohwx person (smiling:1.2)", {"weighted_captions": True}, ""),
        ("ohwx person <lora:x:1>", {}, "1 caption contains <lora:...>"),
        ("ohwx person at 9:30 (see below)", {}, ""),
        ("ohwx person smiling", {"shuffle_caption": True}, 'no caption contains ",", so shuffle_caption has no effect'),
        ("ohwx person, smiling", {"shuffle_caption": True}, ""),
        ("ohwx person smiling", {"caption_tag_dropout_rate": 0.1}, "drops whole captions"),
        ("ohwx person, smiling", {"keep_tokens_separator": "|||"}, 'no caption contains "|||"'),
        ("ohwx person ||| smiling", {"keep_tokens_separator": "|||"}, ""),
    ],
)
def test_syntax_and_separators_of_captions(make: Make, caption: str, arguments: dict[str, object], what: str) -> None:
    texts = found(make({"a.png": None, "a.txt": caption}), **arguments)
    assert [what in text for _, text in texts] == [True] * bool(what)


def test_some_missing_captions_are_a_warning_with_names(make: Make) -> None:
    dataset = make({"a.png": None, "a.txt": "ohwx person", "b.png": None, "c.png": None})
    ((severity, text),) = found(dataset)
    assert severity is WARNING
    assert "2 of 3 images have no caption and would be trained on the trigger alone: b.png, c.png" in text


def test_one_caption_with_another_suffix_is_to_be_renamed(make: Make) -> None:
    """A caption_extension in the settings would make all other captions missing."""
    dataset = make({"a.png": None, "a.txt": "ohwx person", "b.png": None, "b.TXT": "ohwx person"})
    ((severity, text),) = found(dataset)
    assert (severity, "rename b.TXT to b.txt" in text) == (WARNING, True)


def test_hidden_files_are_not_read(make: Make) -> None:
    dataset = make({"a.png": None, "a.txt": "ohwx person"})
    for name in ("._a.png", "._a.gif", ".DS_Store"):
        (dataset.image_dir / name).write_bytes(b"\0\5\26\7")
    assert found(dataset) == []


def test_regularisation_images_need_neither_captions_nor_the_trigger(make: Make) -> None:
    files = {"a.png": None, "b.png": None, "b.txt": "a person"}
    ((severity, text),) = found(make(files, subset={"is_reg": True}))
    assert (severity, "b.png" in text) == (WARNING, False)


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize(
    ("lines", "part"),
    [
        (("photo of a street", "ohwx person smiling"), "has the trigger only after its first line"),
        (("", "ohwx person smiling"), "has a blank first line"),
        (("  ", "ohwx person"), "has a blank first line"),
    ],
)
def test_what_follows_the_first_line_is_not_read(make: Make, lines: tuple[str, ...], part: str, end: str) -> None:
    dataset = make({"a.png": None, "a.txt": end.join(lines)})
    (severity, text), *_ = found(dataset)
    assert severity is ERROR
    assert part in text
    assert found(dataset, enable_wildcard=True) == []


def test_ignored_lines_are_a_warning(make: Make) -> None:
    ((severity, text),) = found(make({"a.png": None, "a.txt": "ohwx person\nin the rain"}))
    assert severity is WARNING
    assert "1 caption has text after the first line" in text
    assert "a.txt" in text


def test_a_trigger_in_the_prefix_counts(make: Make) -> None:
    files = {"a.png": None, "a.txt": "smiling"}
    assert "lacks the trigger" in found(make(files))[0][1]
    assert found(make(files, subset={"caption_prefix": "ohwx person,"})) == []


def test_captions_without_the_trigger_are_an_error_if_all_lack_it(make: Make) -> None:
    files = {"a.png": None, "a.txt": "smiling", "b.png": None}
    assert "lacks the trigger -> add it to the caption" in [
        text for _, text in found(make({**files, "b.txt": "ohwx person"}))
    ]
    dataset = make({**files, "b.txt": "a woman"})
    ((severity, text),) = found(dataset)
    assert severity is ERROR
    assert "or correct datasets.portraits.trigger" in text
    (rewritten,) = validate_dataset(dataset, "settings", rewritten=True)
    assert rewritten.severity is WARNING


def test_captions_that_are_cut_are_named(make: Make) -> None:
    tags = ", ".join(f"tag{chr(97 + number % 26)}" for number in range(60))
    dataset = make({"a.png": None, "a.txt": f"{tags}, ohwx person", "b.png": None, "b.txt": f"ohwx person, {tags}"})
    trigger, long = found(dataset)
    assert "the trigger of 1 caption is cut: it comes after the first 75 tokens" in trigger[1]
    assert "a.txt" in trigger[1]
    assert "b.txt" not in trigger[1]
    assert "2 captions have more than 75 tokens, and the rest is cut: a.txt, b.txt" in long[1]
    assert {severity for severity, _ in (trigger, long)} == {WARNING}
    assert found(dataset, max_token_length=225) == []
    assert [severity for severity, _ in found(dataset, max_token_length="75")] == [WARNING] * 2
