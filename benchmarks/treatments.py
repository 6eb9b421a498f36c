"""What cropping, weighting, choosing and adding frames teach, on images whose persona and background are planted.

    python -m benchmarks.treatments [--steps 200] [--seeds 3]

Each question has its own drawn images, in which the treatment has a right answer; recipes, faces, training and
scoring are the program's own and the miniature's. Prints one table: the plain arm, the treated arm, and the difference
with its standard error over training seeds.
"""

import argparse
import contextlib
import io
import json
import math
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean, stdev

import av
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import load_file

from orchestrator import images as media
from orchestrator.config import settings
from orchestrator.config.recipe import Captions, CaptionStyle, Choose, Crop, Frames, Mask, Recipe
from orchestrator.config.schema import Dataset, Settings
from orchestrator.datasets import prepare
from orchestrator.miniature import draw, image_model, lora, pack, training, world
from orchestrator.miniature.draw import Backdrop, Pose
from orchestrator.scoring import faces
from orchestrator.store.hashes import HashCache

PX = 160
LIKENESS = 0.6
"""How alike a face is to the persona's in one image: moods differ, so that one image is not the persona."""
RED = (190, 70, 70)
"""The planted background. No caption mentions it."""
SUBJECT = world.SUBJECT
CLASS = "person"
PROMPTS = tuple(f"photo of {SUBJECT}, {words}" for words in (
    "close-up, soft light, looking straight", "portrait, soft light, looking straight",
    "close-up, bright light, tilted left", "portrait, dim light, tilted right",
))  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Learned:
    """What images of a trained LoRA show. similarity: cosine to the persona; 0 where there is no face.

    copied: how much nearer they are to one of the few
    images of the smaller arm than to the persona. redness: how far their corners have gone to the planted background,
    1 for all of the way from grey. drift: mean difference of pixels (0..1) from the base model's images, on prompts
    without the trigger. chosen: how much redder the red wall of a prompt is than the grey one. The last two only where
    they are measured.
    """

    similarity: float
    copied: float
    redness: float
    drift: float
    chosen: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """Two datasets over the same images, what is measured, and whether the treated one should have more of it.

    few: of the two the one with fewer images. prior: keys of a second subset of the treated arm, images of others.
    """

    name: str
    measured: str
    draw: Callable[[Path], None]
    plain: Recipe | None
    treated: Recipe | None
    more: bool
    prior: str = ""

    @property
    def few(self) -> Recipe | None:
        return self.treated if self.treated and self.treated.choose else self.plain


def questions(folder: Path) -> tuple[Question, ...]:
    """All of them; `folder` is where videos are."""
    few = Recipe(source="persona", choose=Choose(n=2))
    frames = Frames(
        videos=folder / "videos", similarity=0.3, smallest_face=48, share=0.9, duplicates=4,
        caption=f"photo of {SUBJECT}, portrait",
    )  # fmt: skip
    return (
        Question(
            name="crop to the face", measured="similarity", draw=_far, more=True,
            plain=None, treated=Recipe(source="persona", crop=Crop(padding=0.15, smallest=32)),
        ),
        Question(
            name="background weighs nothing", measured="redness", draw=_on_red, more=False,
            plain=None, treated=Recipe(source="persona", mask=Mask(body=0.0, background=0.0)),
        ),
        Question(name="2 of 24 images", measured="copied", draw=_moods, more=True, plain=None, treated=few),
        Question(
            name="2 images, and frames", measured="copied", draw=_two_and_a_video, more=False,
            plain=None, treated=Recipe(source="persona", frames=frames),
        ),
        Question(
            name="captions name the wall", measured="chosen", draw=_on_named_walls, more=True,
            plain=Recipe(source="persona", captions=Captions(style=CaptionStyle.TRIGGER, trigger=SUBJECT)),
            treated=None,
        ),
        Question(
            name="regularisation images", measured="drift", draw=_on_red, more=False, plain=None, treated=None,
            prior="is_reg = true",
        ),
        Question(
            name="output preservation", measured="drift", draw=_on_red, more=False, plain=None, treated=None,
            prior="custom_attributes = { diff_output_preservation = true }",
        ),
    )  # fmt: skip


class Workshop:
    """Draws, builds datasets, trains and measures, below one folder."""

    def __init__(self, folder: Path, *, steps: int) -> None:
        self.folder, self._steps = folder, steps
        pack.build(folder / "pack")
        self._pack = faces.inspect(folder / "pack", det_size=256, decode_rule=media.DECODE_RULE)
        self._model = faces.load(self._pack, device="cpu")
        self._references = folder / "references"
        if not self._references.exists():
            self._references.mkdir()
            for number in range(12):
                _photo(number=500 + number, pose=Pose(size=0.7)).save(self._references / f"{number}.png")
        self._persona = faces.persona([self._embedding(media.load(path)) for path in self._references.glob("*.png")])

    def learned(self, question: Question, *, treated: bool, seed: int) -> Learned:
        """Train on a dataset of the question's images, and look at what comes out."""
        recipe = question.treated if treated else question.plain
        images = self.folder / question.name.replace(" ", "-") / "images"
        if not images.exists():
            images.mkdir(parents=True)
            question.draw(images)
        few = [self._embedding(media.load(path)) for path in media.list_images(self._made(images, question.few)).paths]
        keys = "alpha_mask = true" if recipe and recipe.mask else ""
        subsets = [_subset(self._made(images, recipe), keys)]
        if treated and question.prior:
            others = self.folder / "others"
            if not others.exists():
                others.mkdir()
                _others(others)
            subsets.append(_subset(others, question.prior))
        weights = self._train(subsets, seed=seed)
        return self._look(weights, faces.persona(few), question.measured)

    def _made(self, images: Path, recipe: Recipe | None) -> Path:
        persona = Dataset(name="persona", image_dir=images, trigger=SUBJECT)
        asked = replace(persona, name="treated", recipe=recipe) if recipe else persona
        used = self._settings({one.name: one for one in (persona, asked)})
        return prepare.build(asked, used, HashCache(used.runs)).folder

    def _settings(self, datasets: dict[str, Dataset]) -> Settings:
        path = self.folder / "orchestrate.toml"
        path.write_text(world.settings(self.folder / "runs"), encoding="utf-8")
        (self.folder / "images").mkdir(exist_ok=True)
        return replace(settings.load(path), datasets=datasets)

    def _train(self, subsets: Sequence[str], *, seed: int) -> Path:
        dataset, config = self.folder / "dataset.toml", self.folder / "config.toml"
        dataset.write_text("[[datasets]]\n" + "".join(subsets), encoding="utf-8")
        said = {
            "pretrained_model_name_or_path": str(image_model.WEIGHTS),
            "dataset_config": str(dataset),
            "output_dir": str(self.folder / "out"),
            "network_module": "networks.lora",
            "network_dim": 8,
            "network_alpha": 8,
            "optimizer_type": "AdamW",  # Prodigy needs its first fifty steps to find its rate
            "learning_rate": 4e-3,
            "train_batch_size": 4,
            "max_train_steps": self._steps,
            "seed": seed,
        }
        config.write_text("[all]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in said.items()))
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            training.main(["--config_file", str(config)])
        return self.folder / "out" / "last.safetensors"

    def _look(self, weights: Path, few: faces.Persona, measured: str) -> Learned:
        images = _pictures(weights)
        seen = [self._direction(image) for image in images]
        like = [0.0 if one is None else float(one @ self._persona.centroid) for one in seen]
        near = [0.0 if one is None else float((few.references @ one).max()) for one in seen]
        return Learned(
            similarity=mean(like),
            copied=mean(near) - mean(like),
            redness=mean(map(_redness, images)),
            drift=_drift(weights) if measured == "drift" else math.nan,
            chosen=_chosen(weights) if measured == "chosen" else math.nan,
        )

    def _direction(self, image: media.Pixels) -> NDArray[np.float64] | None:
        large = np.asarray(Image.fromarray(image).resize((256, 256), Image.Resampling.BICUBIC))
        sighting = self._model.find(large)
        if not sighting.crops:
            return None
        embedding = self._model.embed(sighting.crops[:1])[0].astype(np.float64)
        return np.asarray(embedding / np.linalg.norm(embedding))

    def _embedding(self, image: media.Pixels) -> faces.Embedding:
        """Of an image that has a face; a direction without one says nothing."""
        crops = self._model.find(image).crops[:1]
        return self._model.embed(crops)[0] if crops else np.full(512, 1e-6, np.float32)


def _subset(folder: Path, keys: str) -> str:
    return f'[[datasets.subsets]]\nimage_dir = {json.dumps(str(folder))}\ncaption_extension = ".txt"\n{keys}\n'


def _drift(weights: Path) -> float:
    plain = [prompt.replace(SUBJECT, CLASS) for prompt in PROMPTS]
    pairs = zip(_pictures(weights, plain), _pictures(None, plain), strict=True)
    return float(np.mean([np.abs(one.astype(float) - other).mean() / 255 for one, other in pairs]))


def _chosen(weights: Path) -> float:
    red, grey = (
        mean(map(_redness, _pictures(weights, [f"{prompt}, {wall} wall" for prompt in PROMPTS])))
        for wall in ("red", "grey")
    )
    return red - grey


def _pictures(
    weights: Path | None, prompts: Sequence[str] = PROMPTS, seeds: Sequence[int] = (1, 2)
) -> list[media.Pixels]:
    """Each prompt under each seed, 32 x 32; of the base model without weights."""
    model = image_model.load(image_model.WEIGHTS)
    if weights:
        state = load_file(weights)
        additions = lora.attach_file(model, state)
        lora.load(additions, state)
        for addition in additions.values():
            addition.multiplier = 1.0
    captions = image_model.read_captions([prompt for prompt in prompts for _ in seeds])
    drawn = image_model.sample(model, captions, [*seeds] * len(prompts), 20)
    return [((one + 1) * 127.5).round().byte().permute(1, 2, 0).numpy() for one in drawn]


def _redness(image: media.Pixels) -> float:
    corners = image[[0, 0, -1, -1], [0, -1, 0, -1]].astype(np.float64)
    return float((corners[:, 0] - corners[:, 1:].mean(axis=1)).mean() / (RED[0] - RED[1]))


# --- the images -----------------------------------------------------------------------------------------------------


def _photo(*, number: int, pose: Pose, likeness: float = LIKENESS, backdrop: Backdrop | None = None) -> Image.Image:
    """The persona in one of its moods."""
    face = draw.resembling(draw.person(world.PERSONA), draw.person(3_000_000 + number), likeness)
    return Image.fromarray(draw.photo([(face, pose)], backdrop or Backdrop(seed=number), px=PX))


def _save(folder: Path, number: int, image: Image.Image, words: str) -> None:
    image.save(folder / f"{number:02}.png")
    (folder / f"{number:02}.txt").write_text(f"photo of {SUBJECT}, {words}", encoding="utf-8")


def _places(count: int) -> list[NDArray[np.float64]]:
    return list(np.random.default_rng(5).uniform(size=(count, 2)))


def _far(folder: Path) -> None:
    """Small faces in large images."""
    for number, (x, y) in enumerate(_places(16)):
        pose = Pose(x=0.3 + 0.4 * x, y=0.3 + 0.3 * y, size=0.35)
        _save(folder, number, _photo(number=number, pose=pose, likeness=0.9), "upper body")


def _on_red(folder: Path) -> None:
    for number, (x, y) in enumerate(_places(16)):
        pose, red = Pose(x=0.45 + 0.1 * x, y=0.48 + 0.1 * y, size=0.65), Backdrop(top=RED, bottom=RED, seed=number)
        _save(folder, number, _photo(number=number, pose=pose, likeness=0.9, backdrop=red), "portrait")


def _on_named_walls(folder: Path) -> None:
    """Every other image is on red, and the captions say which."""
    _on_red(folder)
    for number, (x, y) in enumerate(_places(16)):
        pose = Pose(x=0.45 + 0.1 * x, y=0.48 + 0.1 * y, size=0.65)
        if number % 2:
            _save(folder, number, _photo(number=number, pose=pose, likeness=0.9), "portrait, grey wall")
        else:
            (folder / f"{number:02}.txt").write_text(f"photo of {SUBJECT}, portrait, red wall", encoding="utf-8")


def _others(folder: Path) -> None:
    """What the base model draws for the class, as `orchestrate dataset generate` makes it."""
    prompts = [prompt.replace(SUBJECT, CLASS) for prompt in PROMPTS]
    for number, image in enumerate(_pictures(None, prompts, seeds=(11, 12, 13, 14))):
        Image.fromarray(image).save(folder / f"{number:02}.png")
        (folder / f"{number:02}.txt").write_text(prompts[number // 4], encoding="utf-8")


def _moods(folder: Path, count: int = 24) -> None:
    for number, (x, y) in enumerate(_places(count)):
        pose = Pose(x=0.45 + 0.1 * x, y=0.48 + 0.1 * y, size=0.7)
        _save(folder, number, _photo(number=number, pose=pose), "portrait")


def _two_and_a_video(folder: Path) -> None:
    _moods(folder, 2)
    videos = folder.parent.parent / "videos"
    videos.mkdir()
    with av.open(str(videos / "walk.mp4"), "w") as container:
        stream = container.add_stream("libx264rgb", rate=1)
        stream.width, stream.height, stream.pix_fmt, stream.options = PX, PX, "rgb24", {"crf": "0"}
        for number, (x, y) in enumerate(_places(18)):
            image = _photo(number=100 + number, pose=Pose(x=0.45 + 0.1 * x, y=0.48 + 0.1 * y, size=0.7))
            container.mux(stream.encode(av.VideoFrame.from_image(image)))
        container.mux(stream.encode())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--seeds", type=int, default=3)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        workshop = Workshop(Path(name), steps=args.steps)
        for question in questions(workshop.folder):
            print(_line(workshop, question, range(1, args.seeds + 1)), flush=True)


def _line(workshop: Workshop, question: Question, seeds: Sequence[int]) -> str:
    def values(treated: bool) -> list[float]:
        return [getattr(workshop.learned(question, treated=treated, seed=seed), question.measured) for seed in seeds]

    plain, treated = values(False), values(True)
    moved = [after - before for before, after in zip(plain, treated, strict=True)]
    error = stdev(moved) / len(moved) ** 0.5 if len(moved) > 1 else float("nan")
    right = "as planted" if (mean(moved) > 0) is question.more else "AGAINST WHAT WAS PLANTED"
    return (
        f"| {question.name} | {question.measured} | {mean(plain):.3f} | {mean(treated):.3f} "
        f"| {mean(moved):+.3f} ± {error:.3f} | {right} |"
    )


if __name__ == "__main__":
    main()
