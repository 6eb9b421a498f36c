"""`orchestrate bug-report`: what the archive contains and what it must not contain."""

import json
import os
import tarfile
from pathlib import Path

from click.testing import CliRunner
from standins.world import World

from orchestrator import cli

SECRET = "s3cr3t-of-the-test"
PROMPTS = ("photo of ohwx person", "ohwx person outside")


def unpack(world: World, name: str = "grid") -> dict[str, str]:
    """The texts in the archive by their names."""
    out = world.folder / "report.tar.gz"
    args = ["bug-report", name, "--settings", str(world.settings), "--out", str(out)]
    result = CliRunner().invoke(cli.main, args, catch_exceptions=False, env={"MY_TOKEN": SECRET})
    assert result.exit_code == 0, result.output
    with tarfile.open(out) as archive:
        members = [(entry, archive.extractfile(entry)) for entry in archive]
        return {entry.name: file.read().decode() for entry, file in members if file}


def ended(world: World) -> None:
    """Run a sweep: one training fails, and its log has a prompt, a caption, a secret and a home directory."""
    env = {"STANDIN_TRAIN": "oom:network_dim=4", "MY_TOKEN": SECRET, "NOTE": "/home/somebody/models"}
    world.settle(env=env)
    world.drive()
    caption = next((world.folder / "images").glob("*.txt"))
    caption.write_text("ohwx person, a very private caption", encoding="utf-8")
    failed = world.run("network_dim=4*").attempts("train")[-1]
    lines = [
        "the last line",
        SECRET,
        f"caption: {caption.read_text()}",
        "prompt 3/9: of an older file",
        "a very long ohwx person, a very private caption",
    ]
    (failed.path / "log").write_text("\n".join([*lines, f"{Path.home()}/models", *PROMPTS]), encoding="utf-8")


def test_records_are_there_and_private_texts_are_not(world: World) -> None:
    ended(world)
    found = unpack(world)
    run, failed = world.run("network_dim=2*").path.name, world.run("network_dim=4*").path.name
    for name in (
        *("versions.json", "settings.json", "status.json", "sweep/sweep.json", "sweep/grid-1.json"),
        *(f"sweep/{run}/train/1/attempt.json", f"sweep/{run}/train/1/result.json", f"sweep/{run}/generate/1/exit.json"),
    ):
        assert json.loads(found[name]), name
    assert json.loads(found["status.json"])[failed]["state"] == "failed"
    assert json.loads(found["versions.json"])["versions"]["python"]
    assert json.loads(found[f"sweep/{run}/train/1/attempt.json"])["environment"]["versions"]
    logs = [name for name in found if name.endswith("/log")]
    assert logs
    assert all(name.startswith(f"sweep/{failed}/train/") for name in logs), "of failed attempts only"
    assert "the last line" in found[logs[-1]]
    assert {Path(name).suffix for name in found} <= {".json", ".txt", ""}
    everything = "\n".join([*found, *found.values()])
    for text in (
        SECRET,
        *PROMPTS,
        "ohwx person",
        "private caption",
        "of an older file",
        f"{Path.home()}/",
        "/home/somebody",
    ):
        assert text not in everything, text
    assert "left-out.txt" not in found


def test_links_and_damaged_records_are_left_out(world: World) -> None:
    ended(world)
    outside = world.folder / "outside"
    outside.mkdir()
    (outside / "point.json").write_text('{"a": "of another folder"}', encoding="utf-8")
    (world.sweep.path / "linked").symlink_to(outside, target_is_directory=True)
    point = world.run("network_dim=2*").path / "point.json"
    point.unlink()
    point.symlink_to(outside / "point.json")
    (world.sweep.path / "grid-1.toml").write_text("[", encoding="utf-8")
    for name in (b"a\nb", b"\xff", "\u202ea".encode()):
        odd = world.sweep.path / os.fsdecode(name)
        odd.mkdir()
        (odd / "exit.json").write_text("{}", encoding="utf-8")
    found = unpack(world)
    assert [name for name in found if not name.isprintable()] == []
    assert sum(name.endswith("exit.json") and name.count("/") == 2 for name in found) == 3
    assert "of another folder" not in "\n".join(found.values())
    assert not [name for name in found if "linked" in name]
    assert "grid-1" in found["left-out.txt"]
    assert "sweep/sweep.json" in found
