"""Trains a LoRA on the small model, with the arguments, console, files and exit codes of sdxl_train_network.py."""

import math
import os
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm  # type: ignore[import-untyped]

from orchestrator.miniature import (
    arguments,
    image_model,
    log,
    lora,
    memory,
    metadata,
    optimizer,
    photos,
    previews,
    state,
)
from orchestrator.miniature.arguments import Arguments
from orchestrator.miniature.photos import Batch, Dataset

_PRECISIONS = {"fp16": torch.float16, "bf16": torch.bfloat16}
_NO_DATA = (
    "No data found. Please verify arguments (train_data_dir must be the parent of folders with images) / "
    "画像がありません。引数指定を確認してください（train_data_dirには画像があるフォルダではなく、"
    "画像があるフォルダの親フォルダを指定する必要があります）"
)


def main(argv: Sequence[str]) -> None:
    """The whole program. As sd-scripts, it also returns normally without data and with a NaN loss."""
    asked = arguments.read(argv)
    torch.set_num_threads(1)  # results depend on it, and two trainings on two cores would slow each other down
    torch.manual_seed(torch.seed() if asked["seed"] is None else asked["seed"])
    datasets = photos.read(asked)
    if not datasets:
        log.error(_NO_DATA)
        return
    print("accelerator device: cpu", flush=True)
    training = Training(asked, datasets)
    training.announce()
    training.run()


class Training:
    """One training: the model, its LoRA and its progress."""

    def __init__(self, asked: Arguments, datasets: list[Dataset]) -> None:
        self.asked, self.datasets = asked, datasets
        self.per_epoch = math.ceil(photos.batches_per_epoch(datasets) / asked["gradient_accumulation_steps"])
        self.steps = self._steps()
        self.epochs = math.ceil(self.steps / self.per_epoch)
        base = Path(asked["pretrained_model_name_or_path"])
        log.info(f"load StableDiffusion checkpoint: {base}")
        self.model = image_model.load(base)
        self.additions = _network(asked, self.model)
        print("prepare optimizer, data loader etc.", flush=True)
        self.optimizer, optimizer_name = optimizer.make(asked, self.additions)
        self.rates = optimizer.schedule(asked, self.optimizer, self.steps)
        self.recorded = metadata.started(
            asked, datasets, optimizer=optimizer_name, steps=self.steps, epochs=self.epochs
        )
        self.losses = _Losses()
        self.step = 0

    def _steps(self) -> int:
        if epochs := self.asked["max_train_epochs"]:
            steps: int = epochs * self.per_epoch
            print(f"override steps. steps for {epochs} epochs is / 指定エポックまでのステップ数: {steps}", flush=True)
            return steps
        return int(self.asked["max_train_steps"])

    def announce(self) -> None:
        """What sd-scripts prints before it starts; orchestrate reads the number of steps from it."""
        batch_sizes = ", ".join(str(dataset.batch_size) for dataset in self.datasets)
        print(
            "running training / 学習開始",
            f"  num train images * repeats / 学習画像の数×繰り返し回数: {self._count(is_reg=False)}",
            "  num validation images * repeats / 学習画像の数×繰り返し回数: 0",
            "  num reg images / 正則化画像の数: {self._count(is_reg=True)}",
            f"  num batches per epoch / 1epochのバッチ数: {photos.batches_per_epoch(self.datasets)}",
            f"  num epochs / epoch数: {self.epochs}",
            f"  batch size per device / バッチサイズ: {batch_sizes}",
            f"  gradient accumulation steps / 勾配を合計するステップ数 = {self.asked['gradient_accumulation_steps']}",
            f"  total optimization steps / 学習ステップ数: {self.steps}",
            sep="\n",
            flush=True,
        )

    def _count(self, *, is_reg: bool) -> int:
        return sum(dataset.count(is_reg=is_reg) for dataset in self.datasets)

    def run(self) -> None:
        """Trains to the end and writes the last checkpoint."""
        first, skip = divmod(self._resume(), self.per_epoch)
        self.step = skip = skip if self.asked["skip_until_initial_step"] else 0
        self._preview(0)
        bar = tqdm(range(self.steps - skip), smoothing=0, desc="steps")
        for epoch in range(first, self.epochs):
            print(f"\nepoch {epoch + 1}/{self.epochs}\n", flush=True)
            self._epoch(epoch, bar, skip if epoch == first else 0)
            self._save_epoch(epoch + 1)
            self._preview(epoch + 1)
        if self.asked["save_state"]:
            log.info("saving last state.")
            self._save_state("", self.epochs)
        self._save("", self.epochs)
        log.info("model saved.")
        bar.close()

    def _resume(self) -> int:
        """The steps to begin after; whole epochs of them are not counted again, as in sd-scripts."""
        if not self.asked["resume"]:
            return 0
        done = state.load(Path(self.asked["resume"]), self.additions, self.optimizer, self.rates)
        if self.asked["initial_epoch"]:  # overrides the state, as in sd-scripts
            done = (self.asked["initial_epoch"] - 1) * self.per_epoch
        if self.asked["initial_step"] is not None:
            done = self.asked["initial_step"]
        assert self.steps > done, f"max_train_steps should be greater than initial step: {self.steps} vs {done}"
        return int(done)

    def _epoch(self, epoch: int, bar: "tqdm[int]", skip: int) -> None:
        accumulate = self.asked["gradient_accumulation_steps"]
        batches = photos.batches_per_epoch(self.datasets)
        for index, batch in enumerate(photos.epoch(self.datasets)):
            if index < skip:
                continue
            loss = self._learn(batch, accumulate)
            memory.claim(memory.needed_gib(self.asked, self.datasets), os.environ)
            if (index + 1) % accumulate == 0 or index + 1 == batches:
                self._move()
                bar.update(1)
                self._preview(None)
                self._save_step(epoch)
            self.losses.add(epoch, index, loss)
            bar.set_postfix(avr_loss=self.losses.average)
            if self.step >= self.steps:
                break

    def _learn(self, batch: Batch, accumulate: int) -> float:
        """Adds this batch's gradient. The mask reduces the loss without rescaling, as in sd-scripts."""
        noisy, times, target = image_model.noised(batch.pictures)
        if batch.preserved.any():
            target = torch.where(batch.preserved[:, None, None, None], self._prior(noisy, times, batch), target)
        error = torch.square(self.model(noisy, times, batch.captions).float() - target)
        loss: Tensor = ((error * batch.masks).mean((1, 2, 3)) * batch.weights).mean()
        (loss / accumulate).backward()  # type: ignore[no-untyped-call]
        return loss.item()

    @torch.no_grad()
    def _prior(self, noisy: Tensor, times: Tensor, batch: Batch) -> Tensor:
        """The prediction without the LoRA."""
        for addition in self.additions.values():
            addition.multiplier = 0.0
        predicted: Tensor = self.model(noisy, times, batch.captions)
        for addition in self.additions.values():
            addition.multiplier = 1.0
        return predicted

    def _move(self) -> None:
        if self.asked["max_grad_norm"]:
            trained = [parameter for addition in self.additions.values() for parameter in addition.parameters()]
            torch.nn.utils.clip_grad_norm_(trained, self.asked["max_grad_norm"])
        self.optimizer.step()
        self.rates.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1

    def _preview(self, epoch: int | None) -> None:
        if previews.due(self.asked, step=self.step, epoch=epoch):
            previews.draw(self.asked, self.model, step=self.step, epoch=epoch)

    def _save_step(self, epoch: int) -> None:
        every = self.asked["save_every_n_steps"]
        if every and self.step % every == 0:
            suffix = f"-step{self.step:08d}"
            self._save(suffix, epoch)
            if self.asked["save_state"]:
                self._save_state(suffix, epoch + 1)

    def _save_epoch(self, epoch: int) -> None:
        every = self.asked["save_every_n_epochs"]
        if every and epoch % every == 0 and epoch < self.epochs:
            self._save(f"-{epoch:06d}", epoch)
            if self.asked["save_state"]:
                self._save_state(f"-{epoch:06d}", epoch)

    def _save(self, suffix: str, epoch: int) -> None:
        """Announced before it is written, and not written atomically, as in sd-scripts."""
        output = self.asked.output
        output.parent.mkdir(parents=True, exist_ok=True)
        path = output.with_name(f"{output.name}{suffix}.safetensors")
        print(f"\nsaving checkpoint: {path}", flush=True)
        precision = _PRECISIONS.get(self.asked["save_precision"], torch.float32)
        header = metadata.saved(self.recorded, step=self.step, epoch=epoch)
        save_file(lora.weights(self.additions, precision), path, header)

    def _save_state(self, suffix: str, epoch: int) -> None:
        output = self.asked.output
        folder = output.with_name(f"{output.name}{suffix}-state")
        state.save(folder, self.additions, self.optimizer, self.rates, epoch=epoch, step=self.step)


def _network(asked: Arguments, model: image_model.ImageModel) -> lora.Additions:
    print(f"import network module: {asked['network_module']}", flush=True)
    log.info(f"create LoRA network. base dim (rank): {asked.rank}, alpha: {asked.alpha}")
    text = not asked["network_train_unet_only"]
    additions = lora.attach(model, rank=asked.rank, alpha=asked.alpha, text=text)
    in_text = sum(name.startswith("lora_te") for name in additions)
    log.info(f"create LoRA for Text Encoder: {in_text} modules.")
    log.info(f"create LoRA for U-Net: {len(additions) - in_text} modules.")
    return additions


class _Losses:
    """The mean over the last epoch's length, as sd-scripts shows it; once NaN, always NaN."""

    def __init__(self) -> None:
        self._losses: list[float] = []
        self._total = 0.0

    def add(self, epoch: int, index: int, loss: float) -> None:
        if epoch == 0 or index >= len(self._losses):
            self._losses.append(0.0)
            index = len(self._losses) - 1
        self._total += loss - self._losses[index]
        self._losses[index] = loss

    @property
    def average(self) -> float:
        return self._total / len(self._losses)
