"""Input that means no good, made up by hypothesis: refused with a reason, or taken as it is; never an accident."""

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from standins.world import World

from orchestrator.config import settings as settings_file
from orchestrator.config.schema import Dataset
from orchestrator.datasets import prepare, validate
from orchestrator.errors import InputError, OrchestrateError
from orchestrator.kohya import prompts
from orchestrator.model import PreparedDataset, State
from orchestrator.plan import plan
from orchestrator.scoring import faces
from orchestrator.store import records
from orchestrator.store.hashes import HashCache

few = settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))

KEYS = st.sampled_from(
    ["network_dim", "seed", "learning_rate", "optimizer_args", "base_model", "dataset", "x", "__class__"]
)
SCALARS = st.one_of(
    st.integers(),
    st.floats(),
    st.booleans(),
    st.text(max_size=12),
    st.sampled_from(["{{ network_dim * 2 }}", "{{ ''.__class__ }}", "{{", "../../etc", "a\0b", "9" * 400]),
)
VALUES = st.one_of(SCALARS, st.lists(SCALARS, max_size=3))
TABLES = st.sampled_from(["dims", "fixed", "zip", "[when]", "[exclude]", "[question]", "nonsense"])


def toml(value: object) -> str:
    """A value as TOML, right or nearly so."""
    if isinstance(value, list):
        return f"[{', '.join(map(toml, value))}]"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return '"' + value.encode("unicode_escape").decode().replace('"', '\\"').replace("\\x", "\\u00") + '"'
    return str(value)


@st.composite
def grids(draw: st.DrawFn) -> str:
    tables = draw(st.dictionaries(TABLES, st.dictionaries(KEYS, VALUES, max_size=3), max_size=3))
    return "\n".join(
        f"[{name}]\n" + "\n".join(f"{key} = {toml(value)}" for key, value in table.items())
        for name, table in tables.items()
    )


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, shared: Path) -> World:
    """One world for all examples of this file: nothing is run in it."""
    return World.build(tmp_path_factory.mktemp("place") / "world", shared)


# --- what the user writes ---------------------------------------------------------------------------------------------


@few
@given(text=grids())
def test_a_grid_is_a_plan_or_a_list_of_mistakes(place: World, text: str) -> None:
    place.grid.write_text(text, encoding="utf-8")
    _plan_or_mistakes(place)


@few
@given(raw=st.binary(max_size=200))
def test_bytes_are_a_plan_or_a_list_of_mistakes(place: World, raw: bytes) -> None:
    place.grid.write_bytes(raw)
    _plan_or_mistakes(place)


def _plan_or_mistakes(place: World) -> None:
    try:
        made = plan.read(place.settings, place.grid)
    except InputError as error:
        _told(error)
        return
    inside = place.sweep.path.resolve()
    assert all(run.path.resolve().parent == inside for run in made.runs()), "a run's folder is in its sweep's"
    assert len({point.id for point in made.points}) == len(made.points)


@few
@given(line=st.integers(0, 60), key=st.text(max_size=8), value=VALUES)
def test_settings_are_read_or_a_list_of_mistakes(place: World, line: int, key: str, value: object) -> None:
    lines = place.settings.read_text(encoding="utf-8").splitlines()
    lines.insert(min(line, len(lines)), f"{key} = {toml(value)}")
    broken = place.folder / "broken.toml"
    broken.write_text("\n".join(lines), encoding="utf-8", errors="replace")
    try:
        settings_file.load(broken)
    except InputError as error:
        _told(error)


def _told(error: InputError) -> None:
    assert error.problems
    assert all(problem.what and problem.remedy for problem in error.problems), str(error)


@few
@given(name=st.text(max_size=120))
def test_a_sweeps_name_never_leads_out_of_runs(place: World, name: str) -> None:
    place.ask("[dims]\nnetwork_dim = [2]\n")
    try:
        made = plan.read(place.settings, place.grid, name)
    except InputError:
        return
    assert made.sweep.path.parent == place.folder / "runs"
    assert not made.sweep.name.startswith(".")


@few
@given(text=st.text(max_size=80))
def test_a_prompt_is_taken_as_plain_words_or_refused(text: str) -> None:
    taken, problems = prompts.parse_prompts(text, where="prompts.txt")
    if not problems:
        assert taken
        assert all(line == line.strip() and "\n" not in line and " --" not in line for line in taken)


# --- what lies in the folders -----------------------------------------------------------------------------------------

NAMES = st.binary(min_size=1, max_size=30).filter(lambda raw: not set(raw) & set(b"/\0") and raw not in (b".", b".."))


@few
@given(names=st.sets(NAMES, min_size=1, max_size=3), caption=st.binary(max_size=60))
def test_pictures_of_any_name_and_captions_of_any_bytes_are_copied_or_told(
    place: World, tmp_path_factory: pytest.TempPathFactory, names: set[bytes], caption: bytes
) -> None:
    folder = tmp_path_factory.mktemp("named")
    for raw in names:
        shutil.copyfile(place.folder / "images" / "0000.png", folder / os.fsdecode(raw + b".png"))
        (folder / os.fsdecode(raw + b".txt")).write_bytes(caption)
    dataset = Dataset(name="odd", image_dir=folder, trigger="ohwx person")
    problems = validate.validate_dataset(dataset, "settings")
    assert all(str(problem) for problem in problems)
    made = _built(place, dataset, folder)
    assert {os.fsencode(name) for name in made.pictures} == {raw + b".png" for raw in names}
    copies = [made.folder / name for name in made.pictures]
    assert all(copy.with_suffix(".txt").read_bytes() == caption for copy in copies)
    assert bool(problems) or caption.decode("utf-8").strip()


def _built(place: World, dataset: Dataset, folder: Path) -> PreparedDataset:
    used = replace(settings_file.load(place.settings), runs=folder / "runs")
    return prepare.build(dataset, used, HashCache(folder / "runs"))


def test_a_link_out_of_the_dataset_is_not_followed(place: World, tmp_path: Path) -> None:
    secret = tmp_path / "id_rsa"
    secret.write_text("a private key", encoding="utf-8")
    folder = tmp_path / "images"
    shutil.copytree(place.folder / "images", folder)
    (folder / "0000.txt").unlink()
    (folder / "0000.txt").symlink_to(secret)
    (folder / "stolen.png").symlink_to(place.folder / "images" / "0001.png")
    dataset = Dataset(name="linked", image_dir=folder, trigger="ohwx person")
    told = "\n".join(map(str, validate.validate_dataset(dataset, "settings")))
    assert "0000.txt: datasets.linked: is a link to a file outside its folder" in told
    assert "stolen.png: is ignored" in told
    made = _built(place, dataset, tmp_path)
    assert "stolen.png" not in made.pictures
    assert not (made.folder / "0000.txt").exists()


@pytest.mark.parametrize(
    "make", [os.mkfifo, Path.mkdir, lambda path: path.symlink_to(path.name), lambda path: path.symlink_to("nothing")]
)
def test_a_caption_that_is_no_file_is_refused(place: World, tmp_path: Path, make: Callable[[Path], None]) -> None:
    folder = tmp_path / "images"
    shutil.copytree(place.folder / "images", folder)
    (folder / "0000.txt").unlink()
    make(folder / "0000.txt")
    dataset = Dataset(name="odd", image_dir=folder, trigger="ohwx person")
    assert [
        "0000.txt: datasets.odd: is not a file" in str(problem) for problem in validate.validate_dataset(dataset, "x")
    ] == [True]
    assert not (_built(place, dataset, tmp_path).folder / "0000.txt").exists()


@few
@given(content=st.one_of(st.binary(max_size=80), st.just("deep"), st.just(b'{"schema": 1}')))
def test_a_damaged_record_is_named_with_its_remedy(
    tmp_path_factory: pytest.TempPathFactory, content: bytes | str
) -> None:
    path = tmp_path_factory.mktemp("record") / "result.json"
    path.write_bytes(b"[" * 100_000 if content == "deep" else content)
    try:
        record = records.read(path)
    except OrchestrateError as error:
        told = str(error)
    else:
        told = f"{path} -> {record}"
    assert str(path) in told
    assert "->" in told


@few
@given(content=st.binary(max_size=80))
def test_a_damaged_face_is_looked_at_again(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    cache = faces.Cache(tmp_path_factory.mktemp("faces"), "f" * 64)
    key = "ab" * 32
    path = cache._path(key)
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    assert cache.get(key) is None


# --- secrets ----------------------------------------------------------------------------------------------------------


def test_no_secret_of_the_environment_reaches_a_record_or_a_report(world: World) -> None:
    world.settle(env={"HF_TOKEN": "hf_fromsettings1", "STANDIN_TRAIN": "bad_config:network_dim=2"})
    ctx = world.context(environ={**os.environ, "WANDB_API_KEY": "wandbfromshell2", "MY_PASSWORD": "hunter2hunter2"})
    world.drive(ctx)
    assert world.states()["network_dim=4"] is State.FINISHED
    world.rows()
    written = [path for path in (world.folder / "runs").rglob("*") if path.is_file()]
    assert len(written) > 50
    for secret in (b"hf_fromsettings1", b"wandbfromshell2", b"hunter2hunter2"):
        assert [path for path in written if secret in path.read_bytes()] == []


def test_a_secret_that_a_program_wrote_into_its_log_does_not_reach_the_page(world: World) -> None:
    world.settle(env={"HF_TOKEN": "hf_fromsettings1", "STANDIN_TRAIN": "bad_config"})
    world.drive(only="network_dim=2*")
    with (world.run("network_dim=2*").attempts("train")[0].path / "log").open("a", encoding="utf-8") as log:
        log.write("\nlogged in with hf_fromsettings1 and wandbfromshell2\n")
    assert world.call("--only", "network_dim=2*", env={"WANDB_API_KEY": "wandbfromshell2"}).returncode == 1
    page = (world.sweep.report / "report.html").read_text(encoding="utf-8")
    assert "logged in with [HF_TOKEN] and [WANDB_API_KEY]" in page
