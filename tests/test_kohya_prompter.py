"""Every image is made with its own LoRA's weights, however gen_img.py divides the batches."""

import itertools
import json
import re
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from standins.jobs import given

from orchestrator.kohya import gen_img_plugin


class Lora(torch.nn.Module):
    """One module of networks.lora: the scale is a number fixed at creation, alpha a buffer."""

    def __init__(self, name: str, rank: int, alpha: float) -> None:
        super().__init__()
        self.lora_name, self.lora_dim, self.scale = name, rank, alpha / rank
        self.register_buffer("alpha", torch.tensor(alpha))
        self.lora_down = torch.nn.Linear(3, rank, bias=False)
        self.lora_up = torch.nn.Linear(rank, 3, bias=False)


class Network(torch.nn.Module):
    """What gen_img.py has in its list of networks."""

    def __init__(self, rank: int = 2, alpha: float = 2) -> None:
        super().__init__()
        self.text_encoder_loras = [Lora("lora_te1_a", rank, alpha)]
        self.unet_loras = [Lora("lora_unet_a", rank, alpha)]
        for lora in (*self.text_encoder_loras, *self.unet_loras):
            self.add_module(lora.lora_name, lora)
        self.multiplier = 1.0

    def set_multiplier(self, multiplier: float) -> None:
        self.multiplier = multiplier

    def restore_weights(self) -> None: ...

    def pre_calculation(self) -> None: ...


def saved(path: Path, value: float, *, alpha: float = 2, rank: int = 2) -> Path:
    weights = {
        name: torch.full_like(tensor, alpha if name.endswith("alpha") else value)
        for name, tensor in Network(rank, alpha).state_dict().items()
    }
    save_file(weights, path)
    return path


def test_weights_and_scale_are_replaced(tmp_path: Path) -> None:
    network = Network(alpha=2)
    gen_img_plugin.load(network, str(saved(tmp_path / "a.safetensors", 7, alpha=1)))
    for lora in (*network.text_encoder_loras, *network.unet_loras):
        assert (lora.lora_down.weight == 7).all()
        assert (lora.lora_up.weight == 7).all()
        assert lora.scale == 0.5


def test_weights_of_another_rank_or_of_other_modules_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="size mismatch"):
        gen_img_plugin.load(Network(), str(saved(tmp_path / "a.safetensors", 1, rank=4)))
    save_file({"lora_unet_a.alpha": torch.tensor(1.0)}, tmp_path / "b.safetensors")
    with pytest.raises(RuntimeError, match="Missing key"):
        gen_img_plugin.load(Network(), str(tmp_path / "b.safetensors"))


def write_plan(folder: Path, loras: Sequence[Path], cells: Sequence[tuple[int | None, float]]) -> Any:
    images = [
        {"file": f"{n}.png", "text": "a photo", "negative": "", "seed": n, "lora": lora, "strength": strength}
        for n, (lora, strength) in enumerate(cells)
    ]
    plan = {"schema": 1, "loras": [str(path) for path in loras], "images": images}
    (folder / "plan.json").write_text(json.dumps(plan))
    weights = [str(path) for path in loras[:1]]
    return SimpleNamespace(prompter_module_args=str(folder / "plan.json"), network_weights=weights, n_iter=1)


def gen_img(args: Any, networks: list[Any], batch_size: int) -> list[list[tuple[str, float, float]]]:
    """gen_img.py's loop: ask for a prompt, start a new batch when the multipliers differ, set them, make the batch.

    Returns per batch the (file, weight in the LoRA, multiplier) of each image.
    """
    batches: list[list[tuple[str, float, float]]] = []
    ask = gen_img_plugin.get_prompter(args, None, networks)
    with suppress(SystemExit):
        for _ in range(args.n_iter):
            _iterate(ask, args, networks, batch_size, batches)
    return batches


def _iterate(ask: Any, args: Any, networks: list[Any], batch_size: int, batches: list[Any]) -> None:
    pending: list[tuple[str, list[float]]] = []

    def make() -> None:
        for network, multiplier in zip(networks, pending[0][1], strict=False):
            network.set_multiplier(multiplier)
        lora = networks[-1]
        weight = lora.unet_loras[0].lora_up.weight[0, 0].item()
        batches.append([(file, weight, lora.multiplier) for file, _ in pending])
        pending.clear()

    while (raw := ask(args, None, None, None, 0, 0)) is not None:
        file = re.search(r" --f (.+)", raw)[1]  # type: ignore[index]
        multipliers = [float(number) for number in re.search(r" --am ([\d\.\-,]+)", raw)[1].split(",")]  # type: ignore[index]
        if pending and pending[-1][1] != multipliers:
            make()
        pending.append((f"{args.outdir}/{file}" if hasattr(args, "outdir") else file, multipliers))
        if len(pending) == batch_size:
            make()
    if pending:
        make()


@pytest.mark.parametrize("batch_size", [1, 2, 3, 4, 5])
def test_a_batch_has_one_set_of_weights(tmp_path: Path, batch_size: int) -> None:
    files = [saved(tmp_path / f"{n}.safetensors", 10.0 + n) for n in range(3)]
    cells = [cell for cell in itertools.product(range(3), (1.0, 0.5)) for _ in range(3)]
    networks: list[Any] = [Network()]
    gen_img_plugin.load(networks[0], str(files[0]))  # gen_img.py's --network_weights
    batches = gen_img(write_plan(tmp_path, files, cells), networks, batch_size)
    made = {file: (weight, multiplier) for batch in batches for file, weight, multiplier in batch}
    assert made == {f"{n}.png": (10.0 + lora, strength) for n, (lora, strength) in enumerate(cells)}
    assert max(map(len, batches)) == min(batch_size, 3)


@pytest.mark.parametrize("batch_size", [1, 2, 4])
def test_a_resident_process_makes_each_job_with_its_own_weights_and_then_ends(tmp_path: Path, batch_size: int) -> None:
    files = [saved(tmp_path / f"{n}.safetensors", 10.0 + n) for n in range(3)]
    jobs: list[dict[str, str]] = []
    for name, loras in (("one", files[:1]), ("two", files[1:])):
        (tmp_path / name).mkdir()
        plan = write_plan(tmp_path / name, loras, [(n, 1.0) for n in range(len(loras)) for _ in range(3)])
        jobs.append({"plan": plan.prompter_module_args, "outdir": name})
    folder = tmp_path / "generator"
    args = SimpleNamespace(prompter_module_args=str(folder), network_weights=[str(files[0])], n_iter=1)
    networks: list[Any] = [Network()]
    gen_img_plugin.load(networks[0], str(files[0]))  # gen_img.py's --network_weights
    with given(folder, jobs):
        batches = gen_img(args, networks, batch_size)
    made = {file: weight for batch in batches for file, weight, _ in batch}
    assert made == {
        **{f"one/{n}.png": 10.0 for n in range(3)},
        **{f"two/{n}.png": 11.0 + n // 3 for n in range(6)},
    }


def test_weights_are_loaded_once_per_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[str] = []
    monkeypatch.setattr(gen_img_plugin, "load", lambda _, file: loaded.append(file))
    switch = gen_img_plugin.Switch(Network(), "a")
    switch.files = ["a", "b"]
    for number in (0.0, 0.0, 1.0, 1.0, 0.0):
        switch.set_multiplier(number)
    switch.files = ["c", "a"]
    switch.set_multiplier(1.0)
    switch.set_multiplier(0.0)
    assert loaded == ["b", "a", "c"]


def test_lines_are_in_gen_imgs_syntax() -> None:
    image = {"file": "1.png", "text": "a photo", "negative": "bad", "seed": 7, "lora": 1, "strength": 1e-5}
    assert gen_img_plugin.line(image) == "a photo --n bad --am 1,0.000010 --d 7 --f 1.png"
    assert gen_img_plugin.line({**image, "lora": None, "negative": ""}) == "a photo --d 7 --f 1.png"


def test_the_base_alone_needs_no_network(tmp_path: Path) -> None:
    networks: list[Any] = []
    found = gen_img_plugin.get_prompter(write_plan(tmp_path, [], [(None, 0.0), (None, 0.0)]), None, networks)
    assert networks == []
    assert found(1, 2, 3) == "a photo --d 0 --f 0.png"
    assert len(found) == 2
    assert found() == "a photo --d 1 --f 1.png"
    assert found() is None
    assert found() is None


def test_a_plan_of_another_schema_is_refused(tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_text('{"schema": 2}')
    prompter = gen_img_plugin.get_prompter(SimpleNamespace(prompter_module_args=str(tmp_path / "plan.json")), None, [])
    with pytest.raises(ValueError, match="schema 2"):
        prompter()
