"""Duration and size of the report page of a large sweep:  python -m benchmarks.page [--runs 200] [--px 256] [--scroll]

Writes made-up records of a sweep with 64 images per run into a temporary folder. Prints the time for thumbnails (which
the scorers make), for the first page, for a page after one more run, for an unchanged page, and the size of the file.
Seconds are wall time and CPU time; CPU time is reliable on a busy machine, too. --scroll also scrolls the page in
headless Chromium (needs Playwright).
"""

import argparse
import math
import os
import random
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

from orchestrator.config import grid
from orchestrator.evidence import summary
from orchestrator.miniature import world
from orchestrator.model import Checkpoint, FaceStatus, Failure, Image, Point, Question, Result, Score, Value
from orchestrator.report import html
from orchestrator.scoring import References, Scored, thumbnails, write_scored
from orchestrator.store import layout, records
from orchestrator.store.layout import Run, Sweep

_MIB = 1024**2
_DIMS: Mapping[str, Sequence[Value]] = {"network_dim": (8, 16, 32, 64), "optimizer_type": ("Prodigy", "AdamW8bit")}
_LOG = "steps:  42%|####      | 840/2000 [10:00<13:48,  1.40it/s, avr_loss=0.0934]\r" * 100 + "\nmodel saved.\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """The images of each run: every checkpoint and strength with all prompts and seeds."""

    album: Sequence[Path]
    prompts: Sequence[str] = world.PROMPTS
    seeds: int = 8
    checkpoints: int = 1
    strengths: Sequence[float] = (1.0,)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--px", type=int, default=256, help="side of the images; 1024 is the usual size")
    parser.add_argument("--scroll", action="store_true", help="time its frames in headless Chromium, too")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        sweep = Sweep(Path(folder) / "runs" / "large")
        write(sweep, options.runs, Made(album=album(Path(folder) / "album", px=options.px)))
        _time("thumbnails, beside the scoring", lambda: _thumbnails(sweep))
        _time(f"the first page of {options.runs} runs", lambda: _page(sweep))
        _leave(sweep.runs()[0])
        _time("one run later", lambda: _page(sweep))
        _time("nothing new", lambda: _page(sweep))
        print(f"{(sweep.report / html.PAGE).stat().st_size / _MIB:.1f} MiB")
        if options.scroll:
            _scroll(sweep.report / html.PAGE)


def album(folder: Path, *, px: int, count: int = 24) -> list[Path]:
    """Drawn portraits instead of generated ones."""
    world.photos(folder, world.PERSONA, count=count, first=0, captions=False, px=px)
    return sorted(folder.glob("*.png"))


def write(sweep: Sweep, count: int, made: Made, *, pending: int = 0) -> None:
    """A sweep of `count` trained runs and a baseline: some degraded, some failed, the last `pending` not started."""
    points = [*_points(count), _point({"base_model": "realvisxl-v5", "dataset": "persona"}, (), is_baseline=True)]
    question = Question(
        id="Q3", ask="Is network_dim 16 too low for identity capture?", dim="network_dim", levels=(16, 32)
    )
    record = {
        "name": sweep.name,
        "created_at": "2026-11-22T17:06:05Z",
        "fingerprint": {"trainer": "48d368fa" * 5, "dataset persona": "8a1acd68" * 8},
        "versions": {"python": "3.11.7", "insightface": "2.1"},
        "points": [asdict(point) for point in points],
        "questions": [asdict(question)],
    }
    sweep.freeze(record, grid="[dims]\nnetwork_dim = [8, 16, 32, 64]\n", templates={})
    for number, point in enumerate(points):
        if point.is_baseline or number < count - pending:
            _perform(sweep.run(point), number, made)


def _points(count: int) -> Iterator[Point]:
    levels = list(product(*_DIMS.values()))
    for number in range(count):
        seed, at = divmod(number, len(levels))
        dims = dict(zip(_DIMS, levels[at], strict=True))
        yield _point({"base_model": "realvisxl-v5", "dataset": "persona", **dims, "seed": seed + 1}, (*dims, "seed"))


def _point(params: dict[str, Value], dims: tuple[str, ...], *, is_baseline: bool = False) -> Point:
    identity = grid.point_id(params)
    name = f"baseline-{identity}" if is_baseline else grid.point_name(params, dims, identity)
    return Point(id=identity, name=name, params=params, dims=dims, is_baseline=is_baseline)


def _perform(run: Run, number: int, made: Made) -> None:
    run.create()
    if not run.point.is_baseline and not _trained(run, number, made.checkpoints):
        return
    for stage in ("generate", "score"):
        _attempt(run, stage, Result(failure=None, exit_code=0, seconds=240.0 if stage == "generate" else 30.0))
    images = list(_pictures(run, made))
    _finish(run, "generate", {"images": [asdict(image) for image in images]})
    scores = tuple(_score(run, number, image) for image in images)
    scored = Scored(
        fingerprint="made up", provider="", references=References(leave_one_out={}), training=36, scores=scores
    )
    write_scored(run.path / "scores.json", scored)


def _trained(run: Run, number: int, checkpoints: int) -> bool:
    """Every 13th run uses an OOM fallback, every 17th fails."""
    seconds, peak = 3000.0 + 37 * (number % 11), 14000 + 120 * int(str(run.point.params["network_dim"]))
    if number % 13 == 6:
        oom = Result(failure=Failure.OOM, reason="CUDA out of memory", retry=True, seconds=90.0, peak_vram_mib=24400)
        _attempt(run, "train", oom)
    fallback: dict[str, Value] = {"optimizer_type": "AdamW8bit", "learning_rate": 1e-4} if number % 13 == 6 else {}
    if number % 17 == 11:
        _attempt(run, "train", Result(failure=Failure.NAN, reason="the loss became nan by step 840", seconds=900.0))
        return False
    good = Result(failure=None, exit_code=0, seconds=seconds, seconds_per_step=1.4, steps=2000, peak_vram_mib=peak)
    _attempt(run, "train", good, fallback)
    attempt = 2 if fallback else 1
    found = [
        Checkpoint(file=f"train/{attempt}/output/lora-{epoch:06d}.safetensors", epoch=epoch, step=200 * epoch)
        for epoch in range(11 - checkpoints, 11)
    ]
    for one in found:
        (run.path / one.file).parent.mkdir(parents=True, exist_ok=True)
        (run.path / one.file).write_bytes(b"a LoRA")
    _finish(run, "train", {"attempt": attempt, "checkpoints": [asdict(one) for one in found]})
    return True


def _finish(run: Run, stage: str, record: Mapping[str, Any]) -> None:
    """As Run.finish without fsync, which would take minutes for 13,000 files."""
    records.write(run.path / layout.PRODUCTS[stage], record)


def _attempt(run: Run, stage: str, result: Result, fallback: Mapping[str, Value] | None = None) -> None:
    attempt = run.new_attempt(stage)
    fallbacks = ["AdamW8bit"] if fallback else []
    attempt.open({"overrides": fallback or {}, "fallbacks": fallbacks, "degraded": bool(fallback)})
    (attempt.path / "log").write_text(_LOG, encoding="utf-8")
    if stage == "train":
        lines = "\n".join(f"{key} = {value!r}" for key, value in run.point.params.items())
        (attempt.path / "config.toml").write_text(f"[arguments]\n{lines}\n", encoding="utf-8")
        _curve(attempt.path / "vram.csv", result)
    attempt.close(result)


def _curve(path: Path, result: Result) -> None:
    """A sample a minute: loading, then level, with the peak where latents are cached."""
    peak = result.peak_vram_mib or 16000
    rows = [
        f"{1.7e9 + 60 * minute:.1f},{peak if minute == 2 else round(peak * 0.9 * (1 - math.exp(-minute)))},24564,"
        for minute in range(int(result.seconds / 60) + 1)
    ]
    path.write_text("time,used_mib,total_mib,own_mib\n" + "\n".join(rows) + "\n", encoding="ascii")


def _pictures(run: Run, made: Made) -> Iterator[Image]:
    run.images.mkdir()
    files = [""] if run.point.is_baseline else [one.file for one in run.checkpoints()]
    strengths = (0.0,) if run.point.is_baseline else made.strengths
    cells = product(enumerate(files), strengths, enumerate(made.prompts), range(1, made.seeds + 1))
    for (index, checkpoint), strength, (prompt, text), seed in cells:
        name = f"images/c{index}_s{strength:g}_p{prompt:03d}_{seed}.png"
        original = made.album[random.Random(f"{run.point.id}{name}").randrange(len(made.album))]
        try:
            os.link(original, run.path / name)
        except OSError:  # another file system, or too many links to one file
            shutil.copyfile(original, run.path / name)
        yield Image(file=name, checkpoint=checkpoint, strength=strength, prompt=prompt, seed=seed, text=text)


def _score(run: Run, number: int, image: Image) -> Score:
    """A higher rank is more similar; a baseline is not; each run has noise."""
    noise = random.Random(f"{number} {image.file}")
    rank = int(str(run.point.params.get("network_dim", 0)))
    trained = image.checkpoint.removesuffix(".safetensors").rpartition("-")[2]
    late = int(trained) / 10 if trained.isdigit() else 1.0
    strong = 1 - 1.5 * (image.strength - 0.9) ** 2
    mean = (0.35 + 0.07 * math.log2(rank) * late) * strong + 0.03 * math.sin(number) if rank else 0.12
    if noise.random() < 0.04:
        return Score(image=image, status=FaceStatus.NO_FACE)
    similarity = max(-1.0, min(0.99, noise.gauss(mean - 0.02 * (image.prompt % 4), 0.06)))
    return Score(
        image=image, status=FaceStatus.OK, similarity=similarity, faces=1, face_px=300.0, nearest_training=similarity
    )


def _leave(run: Run) -> None:
    """Remove the last record of a run, as if it were being scored."""
    (run.path / "scores.json").unlink()


def _thumbnails(sweep: Sweep) -> None:
    """As the scorer of each run does."""
    for run in sweep.runs():
        if run.done("score"):
            thumbnails.prepare(run.path, [image.file for image in run.generated_images()], layout.thumbnails(run.path))


def _page(sweep: Sweep) -> None:
    html.write(summary.read(sweep))


_FRAMES = """async () => {
    document.querySelectorAll("details").forEach(one => one.open = true)
    const next = () => new Promise(requestAnimationFrame), times = []
    await next(); await next()
    for (let end = false, last = performance.now(); !end; ) {
        const before = scrollY
        scrollBy({top: innerHeight / 2, behavior: "instant"})
        const now = await next()
        times.push(now - last); last = now; end = scrollY === before
    }
    return times
}"""
"""Half a screen a frame, faster than anybody reads, with everything unfolded that can be."""


def _scroll(path: Path) -> None:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as started:
        root = ["--no-sandbox"] if os.geteuid() == 0 else []
        chromium = started.chromium.launch(executable_path=shutil.which("chromium"), args=["--disable-gpu", *root])
        tab = chromium.new_page(viewport={"width": 1280, "height": 900})
        _time("the browser opens it", lambda: tab.goto(path.as_uri()))
        times = sorted(tab.evaluate(_FRAMES))
        chromium.close()
    median, late = times[len(times) // 2], times[len(times) * 95 // 100]
    print(
        f"{len(times)} frames: {median:.0f} ms in the middle, 95 % within {late:.0f} ms, the longest {times[-1]:.0f} ms"
    )


def _time(what: str, work: Callable[[], object]) -> None:
    began, spent = time.perf_counter(), time.process_time()
    work()
    print(f"{what}: {time.perf_counter() - began:.1f} s, {time.process_time() - spent:.1f} s of all cores", flush=True)


if __name__ == "__main__":
    main()
