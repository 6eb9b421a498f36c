"""Calibration with the real InsightFace: measurement, record, and use in reports."""

import csv
import json
import shutil
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image, ImageOps
from standins.world import World, blind_pack

from orchestrator import cli
from orchestrator import scoring as scorer
from orchestrator.config import settings
from orchestrator.config.schema import Settings
from orchestrator.errors import InputError, NotReady, OrchestrateError, Severity
from orchestrator.evidence import summary
from orchestrator.evidence.calibration import inputs, measure, plot, record
from orchestrator.evidence.calibration import text as words
from orchestrator.evidence.calibration.measure import CalibrationRequest
from orchestrator.evidence.calibration.record import CalibrationRecord
from orchestrator.miniature import world as miniature
from orchestrator.model import FaceStatus
from orchestrator.plan import preflight
from orchestrator.scoring import embedding
from orchestrator.store import layout

STRANGER = 12


@pytest.fixture(scope="module")
def album(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve photos of the persona, six of a stranger, three to train on."""
    folder = tmp_path_factory.mktemp("album")
    miniature.photos(folder / "references", miniature.PERSONA, count=12, first=1000, captions=False, px=128)
    miniature.photos(folder / "strangers", STRANGER, count=6, first=3000, captions=False, px=128)
    miniature.photos(folder / "images", miniature.PERSONA, count=3, first=0, captions=True, px=128)
    return folder


@pytest.fixture(scope="module")
def used(album: Path, shared: Path) -> Settings:
    """Settings of a small world with these photos."""
    made = World.build(album / "world", shared)
    found = settings.load(made.settings)
    dataset = replace(found.datasets["portraits"], image_dir=album / "images")
    scoring = replace(found.scoring, references=album / "references", det_size=256)
    return replace(found, datasets={"portraits": dataset}, scoring=scoring, runs=album / "runs")


@pytest.fixture(scope="module")
def kept(album: Path, used: Settings) -> CalibrationRecord:
    """Measured once, with the strangers and with two known-good pairs."""
    photo = [album / "references" / f"{number}.png" for number in range(1000, 1004)]
    pairs = tuple(inputs.ImagePair(first=a, second=b) for a, b in [photo[:2], photo[1:3]])
    return measure.measure(
        used, CalibrationRequest(impostors=inputs.impostor_images([album / "strangers"]), pairs=pairs)
    )


def test_each_photo_is_compared_with_the_centroid_of_the_others(
    kept: CalibrationRecord, album: Path, used: Settings
) -> None:
    paths = sorted((album / "references").glob("*.png"))
    faces = [np.array(one.embedding) for one in embedding.embed(used.scoring, paths, cache=album / "runs" / ".faces")]
    units = np.array([face / np.linalg.norm(face) for face in faces])
    for number, (path, found) in enumerate(zip(paths, kept.calibration.references, strict=True)):
        others = np.delete(units, number, axis=0).mean(axis=0)
        assert found.name == path.name
        assert found.similarity == pytest.approx(units[number] @ others / np.linalg.norm(others))


def test_impostors_fail_and_few_photos_are_provisional(kept: CalibrationRecord) -> None:
    found = kept.calibration
    (strangers,) = found.impostors
    assert strangers.accepted == 0
    assert max(strangers.similarities) < found.threshold_interval.low
    assert found.threshold_interval.low < found.threshold < found.threshold_interval.high
    assert found.provisional
    assert found.more_photos == 8
    assert kept.caveats == ("provisional: 12 photos",)


def test_known_good_pairs_are_reported_on_both_scales(kept: CalibrationRecord) -> None:
    assert kept.baseline
    assert kept.baseline.mean == pytest.approx(np.mean([pair.similarity for pair in kept.known_pairs]))
    assert kept.expected_from_pairs
    assert kept.expected_from_pairs > kept.baseline.mean, "a centroid of twelve is nearer than a single photo"
    assert "2 known-good pairs of 3 images" in "\n".join(words.format_lines(kept))


def test_folders_with_the_same_name_are_separate_sets(tmp_path: Path) -> None:
    for place in ("a", "b"):
        (tmp_path / place / "others").mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(tmp_path / place / "others" / "x.png")
    found = inputs.impostor_images([tmp_path / place / "others" for place in ("a", "b")])
    assert list(found.values()) == [(tmp_path / p / "others" / "x.png",) for p in ("a", "b")]


def test_impostors_of_unsupported_suffixes_are_named(tmp_path: Path) -> None:
    (tmp_path / "phone.heic").touch()
    with pytest.raises(InputError, match=r"no image can be used(.|\n)*phone\.heic"):
        inputs.impostor_images([tmp_path])


def test_impostors_without_a_face_are_reported(used: Settings, tmp_path: Path) -> None:
    Image.new("RGB", (64, 64)).save(tmp_path / "x.png")
    found = measure.measure(used, CalibrationRequest(impostors={"others": (tmp_path / "x.png",)}))
    assert found.calibration.impostors == ()
    assert "others: no image shows a face, so it gives no result" in list(words.format_lines(found))
    record.write(tmp_path / "calibration.json", found)
    assert record.read(tmp_path / "calibration.json") == found


def test_an_outlier_is_reported(album: Path, used: Settings, tmp_path: Path) -> None:
    shutil.copytree(album / "references", tmp_path / "references")
    shutil.copyfile(album / "strangers" / "3000.png", tmp_path / "references" / "odd.png")
    found = measure.measure(
        replace(used, scoring=replace(used.scoring, references=tmp_path / "references")), CalibrationRequest()
    )
    assert found.calibration.outliers == ("odd.png",)
    assert any("odd.png" in line and "check for another person" in line for line in words.format_lines(found))


def test_a_photo_without_a_face_is_rejected_by_name(album: Path, used: Settings, tmp_path: Path) -> None:
    shutil.copytree(album / "references", tmp_path / "references")
    Image.new("RGB", (64, 64)).save(tmp_path / "references" / "empty.png")
    found = measure.measure(
        replace(used, scoring=replace(used.scoring, references=tmp_path / "references")), CalibrationRequest()
    )
    assert found.rejected == {"empty.png": "shows no face"}
    assert found.calibration.photos == 12


@pytest.mark.parametrize("copy", ["equal", "mirrored"])
def test_a_duplicate_reference_is_rejected(
    kept: CalibrationRecord, copy: str, album: Path, used: Settings, tmp_path: Path
) -> None:
    shutil.copytree(album / "references", tmp_path / "references")
    with Image.open(album / "references" / "1005.png") as photo:
        changed = ImageOps.mirror(photo) if copy == "mirrored" else photo
        changed.save(tmp_path / "references" / "again.png")
    found = measure.measure(
        replace(used, scoring=replace(used.scoring, references=tmp_path / "references")), CalibrationRequest()
    )
    assert found.rejected == {"again.png": "is the same photo as 1005.png"}
    assert found.calibration.threshold == kept.calibration.threshold, "a duplicate does not count twice"


def test_references_with_an_unsupported_suffix_are_named(album: Path, used: Settings, tmp_path: Path) -> None:
    shutil.copytree(album / "references", tmp_path / "references")
    (tmp_path / "references" / "phone.HEIC").touch()
    found = measure.measure(
        replace(used, scoring=replace(used.scoring, references=tmp_path / "references")), CalibrationRequest()
    )
    why = {"phone.HEIC": "has the unsupported suffix .HEIC: convert it to .jpg or .png"}
    assert found.rejected == why
    for photo in (tmp_path / "references").glob("*.png"):
        photo.unlink()
    with pytest.raises(NotReady, match=r"only 0 usable reference photos.*phone\.HEIC has the unsupported suffix"):
        measure.measure(
            replace(used, scoring=replace(used.scoring, references=tmp_path / "references")), CalibrationRequest()
        )


def test_impostors_as_similar_as_the_persona_are_rejected(album: Path, used: Settings) -> None:
    """As a recogniser that gives every face the same embedding."""
    persona = tuple(sorted((album / "references").glob("*.png")))
    with pytest.raises(InputError, match="does not separate the persona from others"):
        measure.measure(used, CalibrationRequest(impostors={"others": persona}))


def test_two_photos_are_too_few(album: Path, used: Settings, tmp_path: Path) -> None:
    (tmp_path / "references").mkdir()
    for number in (1000, 1001):
        shutil.copy(album / "references" / f"{number}.png", tmp_path / "references")
    with pytest.raises(NotReady, match="only 2 usable reference photos"):
        measure.measure(
            replace(used, scoring=replace(used.scoring, references=tmp_path / "references")), CalibrationRequest()
        )


@pytest.mark.parametrize("how", ["the same file", "saved anew", "mirrored", "grey"])
def test_a_reference_in_the_training_set_is_rejected_or_marked(
    how: str, album: Path, used: Settings, tmp_path: Path
) -> None:
    (tmp_path / "images").mkdir()
    twin = tmp_path / "images" / "twin.png"
    with Image.open(album / "references" / "1003.png") as photo:
        changed = {"mirrored": ImageOps.mirror(photo), "grey": photo.convert("L")}.get(how, photo)
        changed.save(twin.with_suffix(".jpg"), quality=90)
    if how == "the same file":
        twin.with_suffix(".jpg").unlink()
        shutil.copyfile(album / "references" / "1003.png", twin)
    dataset = replace(used.datasets["portraits"], image_dir=tmp_path / "images")
    tainted = replace(used, datasets={"portraits": dataset})
    with pytest.raises(InputError, match=r"1003\.png: score\.references: is also a training image .*twin"):
        measure.measure(tainted, CalibrationRequest())
    found = measure.measure(tainted, CalibrationRequest(allow_training_references=True))
    assert found.trained_on == ("1003.png",)
    assert "trained on 1 reference" in words.format_verdict(found)


def test_the_record_reads_back_and_a_damaged_one_is_rejected(kept: CalibrationRecord, tmp_path: Path) -> None:
    path = tmp_path / "calibration.json"
    record.write(path, kept)
    assert record.read(path) == kept
    path.write_text(path.read_text(encoding="utf-8")[:-30], encoding="utf-8")
    with pytest.raises(OrchestrateError, match=r"calibration\.json"):
        record.read(path)
    found, (problem,) = record.load_matching(path, {})
    assert found is None
    assert problem.severity is Severity.WARNING, "a report is written without it"


@pytest.mark.parametrize("key", ["face pack", "references"])
def test_a_calibration_for_another_pack_or_other_photos_is_not_used(
    kept: CalibrationRecord, tmp_path: Path, key: str
) -> None:
    path = tmp_path / "calibration.json"
    record.write(path, kept)
    fingerprint = {"face pack": kept.face_pack, "references": kept.references}
    assert record.load_matching(path, fingerprint) == (kept, [])
    found, problems = record.load_matching(path, {**fingerprint, key: "another"})
    assert found is None
    assert [problem.key for problem in problems] == [key]
    assert record.load_matching(tmp_path / "none.json", fingerprint) == (None, [])


def test_the_plot_shows_every_photo_and_is_reproducible(kept: CalibrationRecord, tmp_path: Path) -> None:
    for name in ("one.svg", "two.svg"):
        plot.draw(kept, tmp_path / name)
    assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "two.svg").read_bytes()
    drawing = ET.parse(tmp_path / "one.svg")
    dots = [group for group in drawing.iter("{http://www.w3.org/2000/svg}g") if "PathCollection" in group.get("id", "")]
    drawn = [len(list(group.iter("{http://www.w3.org/2000/svg}use"))) for group in dots]
    assert drawn == [12, 6, 1]


# --- the user's list of pairs -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("pairs.csv", "first,second\na.png,b.png\n"),
        ("pairs.csv", "\ufeffa.png , b.png\r\n\r\n"),
        ("pairs.toml", '[[pair]]\nfirst = "a.png"\nsecond = "b.png"\n'),
    ],
)
def test_pairs_are_read_from_toml_and_csv(tmp_path: Path, name: str, text: str) -> None:
    for image in ("a.png", "b.png"):
        (tmp_path / image).touch()
    (tmp_path / name).write_text(text, encoding="utf-8")
    (pair,) = inputs.read_pairs(tmp_path / name)
    assert (pair.first, pair.second) == (tmp_path / "a.png", tmp_path / "b.png")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("pairs.csv", "a.png,b.png\na.png,gone.png\n", r"pairs\.csv:2: there is no such file \(value: .*gone\.png\)"),
        ("pairs.csv", "a.png\n", r"pairs\.csv:1: has 1 columns, not 2"),
        ("pairs.csv", "a.png,a.png\n", r"pairs\.csv:1: pairs an image with itself"),
        ("pairs.csv", "", r"pairs\.csv: contains no pairs"),
        ("pairs.toml", '[[pair]]\nfirst = "a.png"\n', r"pairs\.toml:1: pair\[0\]\.second: .*missing"),
        ("pairs.toml", '[[pairs]]\nfirst = "a.png"\n', r"did you mean pair\?"),
    ],
)
def test_errors_in_a_pair_list_name_the_line(tmp_path: Path, name: str, text: str, message: str) -> None:
    for image in ("a.png", "b.png"):
        (tmp_path / image).touch()
    (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=message):
        inputs.read_pairs(tmp_path / name)


# --- the command, and the reports that follow -------------------------------------------------------------------------


def call(world: World, *arguments: str) -> Result:
    return CliRunner().invoke(cli.main, [arguments[0], "--settings", str(world.settings), *arguments[1:]])


def test_reports_use_the_calibration(world: World) -> None:
    world.drive()
    assert all(row["pass_rate"] == row["threshold"] == "" for row in world.rows().values()), "unknown is empty"
    done = call(world, "calibrate", "--against", "grid")
    assert done.exit_code == 0, done.output
    path = Path(done.stdout.splitlines()[-1])
    assert path == layout.calibration(world.sweep.path.parent)
    assert path.with_suffix(".svg").exists()
    kept = record.read(path)
    (row,) = [row for name, row in world.rows().items() if name == "network_dim=2"]
    scores = scorer.read_scores(world.run("network_dim=2*").path / "scores.json")
    passed = [s for s in scores if s.similarity is not None and s.similarity >= kept.calibration.threshold]
    assert float(row["pass_rate"]) == pytest.approx(len(passed) / len(scores))
    assert float(row["pass_low"]) <= float(row["pass_rate"]) <= float(row["pass_high"])
    assert row["copying"] == "", "too few images for a verdict"
    assert (row["threshold"], row["threshold_caveat"]) == (f"{kept.calibration.threshold:.6g}", "provisional: 8 photos")


@pytest.mark.parametrize("common", [4.0, 30.0])
def test_a_pack_that_does_not_separate_people_gives_no_calibration(
    world: World, shared: Path, album: Path, used: Settings, tmp_path: Path, common: float
) -> None:
    """As a recogniser with wrong input normalisation. With a large constant all references are as one photo."""
    blind = blind_pack(shared / "pack", tmp_path / "blind", common)
    genuine, others = (sorted(folder.glob("*.png")) for folder in (shared / "references", album / "strangers"))
    scoring = replace(used.scoring, pack=blind)
    found = embedding.embed(scoring, [*genuine, *others], cache=tmp_path / "faces")
    faces = np.array([one.embedding for one in found])
    units = faces / np.linalg.norm(faces, axis=1, keepdims=True)
    cosines = units @ units[:8].mean(axis=0)
    assert np.median(cosines[8:]) > np.median(cosines[:8]) - 0.05, "strangers are as similar as the persona"
    text = world.settings.read_text(encoding="utf-8")
    world.settings.write_text(text.replace(f'pack = "{shared}/pack"', f'pack = "{blind}"'), encoding="utf-8")
    done = call(world, "calibrate")
    said = " ".join(done.stderr.split())
    assert done.exit_code == 4, said
    assert f"{blind}: score.pack: the face pack does not separate people: the references score" in said
    assert not layout.calibration(world.sweep.path.parent).exists()


def test_a_report_says_why_a_calibration_is_not_used(world: World) -> None:
    world.drive()
    call(world, "calibrate")
    path = layout.calibration(world.sweep.path.parent)
    made = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**made, "face_pack": "another"}), encoding="utf-8")
    for command in ("answer", "export", "report"):
        result = call(world, command, "grid")
        assert result.exit_code == 0, result.output
        assert "is not used: the sweep has a different face pack" in " ".join(result.stderr.split()), command
    with (world.sweep.report / "results.csv").open(encoding="utf-8", newline="") as file:
        assert all(row["pass_rate"] == "" for row in csv.DictReader(file))


def test_a_sweep_without_baselines_gives_no_impostors(world: World) -> None:
    world.context()
    refused = call(world, "calibrate", "--against", "grid")
    assert refused.exit_code == 3
    assert "no images of a base model without a LoRA" in " ".join(refused.stderr.split())


def test_a_second_pack_scores_every_image_and_reports_its_agreement(world: World, shared: Path) -> None:
    # A copy of the first pack, so that its scores are known.
    shutil.copytree(shared / "pack", world.folder / "second")
    text = world.settings.read_text(encoding="utf-8").replace("[score]", '[score]\nsecond_pack = "second"')
    world.settings.write_text(text.replace("seeds = [1]", "seeds = [1, 2]"), encoding="utf-8")
    world.drive(only="network_dim=2*")
    (found,) = [one for one in summary.gather(world.sweep) if one.choice]
    assert found.metrics
    assert all(s.second_similarity == s.similarity for s in found.scores if s.status is FaceStatus.OK)
    assert found.metrics.second_similarity == pytest.approx(found.metrics.similarity_mean)
    assert found.metrics.second_agreement == pytest.approx(1.0)
    assert "second face pack" in world.sweep.record()["fingerprint"]
    assert _second_pack_problems(world) == [(Severity.WARNING, "has the recogniser of score.pack")]
    shutil.rmtree(world.folder / "second")
    assert _second_pack_problems(world) == [(Severity.ERROR, "the face pack: there is no such folder")]


def _second_pack_problems(world: World) -> list[tuple[Severity, str]]:
    session = world.session()
    found = preflight.findings(session.settings, session.plan.points, session.gpus)
    return [(one.severity, one.what) for one in found if one.key == "score.second_pack"]
