"""`orchestrate score`."""

from __future__ import annotations

from pathlib import Path

import click

from orchestrator.cli import common, options

_PATH = click.Path(path_type=Path)


@click.command()
@options.settings
@click.option("--images", "folder", type=_PATH, help="A folder of images of any generator; only read.")
@click.option("--lora", "loras", type=_PATH, multiple=True, help="A LoRA file (.safetensors); repeat for several.")
@click.option(
    "--strength", type=click.FloatRange(0.0, min_open=True), default=1.0, show_default=True, help="The LoRA multiplier."
)
@click.option("--base", metavar="BASE", default="", help="Base model of all LoRAs. Default: by their metadata.")
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), help="Write the results here instead.")
def score(
    settings_file: Path, folder: Path | None, loras: tuple[Path, ...], strength: float, base: str, out: Path | None
) -> None:
    """Score existing images or LoRA files.

    They are scored as a sweep's images are, with the settings' face pack and references. LoRA files are compared in
    pairs, on the prompts and image seeds of the settings.

    \b
    Example:
      orchestrate score --images comfyui-output

    \b
    Writes:
      runs/.scores/NAME-HASH/   images.csv, scores.html: the images of a folder
      runs/.scores/loras-HASH/  loras.csv, pairs.csv: LoRA files and their pairs
      runs/.scores/lora-.../    the images of a LoRA file
    """
    if bool(folder) == bool(loras):
        raise click.UsageError("Give either --images FOLDER or --lora FILE.")
    if folder:
        _score_images(settings_file, folder, out)
    else:
        _score_loras(settings_file, loras, strength, base, out)


def _score_images(settings_file: Path, folder: Path, out: Path | None) -> None:
    from orchestrator.config import settings
    from orchestrator.evidence import image_folder
    from orchestrator.report import image_folder as folder_report

    console, loaded = common.console(), settings.load(settings_file)
    target = folder_report.output_folder(loaded, folder, out)
    found = image_folder.score(loaded, folder)
    console.problems(found.problems)
    target.mkdir(parents=True, exist_ok=True)
    paths = folder_report.write(found, target)
    for line in folder_report.sentences(found):
        console.sentence(line)
    for path in paths:
        console.result(str(path))


def _score_loras(settings_file: Path, paths: tuple[Path, ...], strength: float, base: str, out: Path | None) -> None:
    from orchestrator import images
    from orchestrator.config import settings
    from orchestrator.report import lora_files as lora_report
    from orchestrator.run import lora_files
    from orchestrator.session import Session
    from orchestrator.store.hashes import HashCache

    console, loaded = common.console(), settings.load(settings_file)
    files, problems = lora_files.read(paths, loaded, base)
    console.problems(problems)
    plan, runs = lora_files.plan(files, loaded, strength)
    session = Session(plan=plan, listener=console)
    finished = session.run_followup(lambda ctx: (lora_files.prepare(runs, strength), ctx), frozen=False)
    target = out or lora_report.output_folder(runs)
    references = HashCache(loaded.runs).of_all(images.list_images(loaded.scoring.references).paths)
    lines, problems = lora_report.write(runs, strength, references, target)
    console.problems(problems)
    for line in lines:
        console.sentence(line)
    console.result(str(target / lora_report.LORAS))
    common.leave(session.stop, finished)
