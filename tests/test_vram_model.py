"""The VRAM estimate against measurements on a GPU."""

import json

import pytest

from benchmarks.gpu import cells, fit
from orchestrator.model import Params
from orchestrator.plan import vram_estimate
from orchestrator.plan.vram_estimate import Estimate

MEASURED = json.loads(fit.PUBLISHED.read_text(encoding="utf-8"))["parts"]["train"]
CELLS = {cell.key: cell for cell in cells.training() if cell.key in MEASURED and not cell.sample}
PRODIGY_32: Params = fit.params(cells.Cell(dim=32, optimizer=cells.PRODIGY))


def test_constants_are_those_of_the_published_record() -> None:
    assert fit.fit(fit.PUBLISHED).gib == vram_estimate.GIB


def test_stated_error_covers_the_cells_it_was_not_fitted_to() -> None:
    held_out = fit.fit(fit.PUBLISHED).held_out
    assert len(held_out) >= 5
    assert max(map(abs, held_out.values())) <= vram_estimate.ERROR_GIB


@pytest.mark.parametrize("key", CELLS)
def test_every_measured_cell_is_predicted(key: str) -> None:
    expected = vram_estimate.estimate(fit.params(CELLS[key]))
    assert expected is not None
    assert expected.gib == pytest.approx(MEASURED[key]["card_gib"], abs=expected.error_gib)


@pytest.mark.parametrize(
    "changes",
    [
        {"optimizer_type": "CAME"},
        {"network_dim": 256},
        {"train_batch_size": 8},
        {"resolution": "512,512"},
        {"resolution": "768,768", "gradient_checkpointing": False},
        {"resolution": "large"},
        {"sample_every_n_epochs": 5},
        {"fp8_base": True},
        {"mixed_precision": "no"},
        {"cache_latents": False},
        {"network_module": "networks.oft", "gradient_checkpointing": False},
        {"network_module": "networks.lokr", "network_dim": 4, "gradient_checkpointing": True},
        {"network_args": ("conv_dim=8",)},
        {"network_train_unet_only": True, "cache_text_encoder_outputs": False},
    ],
)
def test_there_is_no_estimate_outside_the_measured_range(changes: Params) -> None:
    assert vram_estimate.estimate(PRODIGY_32) is not None
    assert vram_estimate.estimate({**PRODIGY_32, **changes}) is None


LIMIT = json.loads(fit.PUBLISHED.with_name("vram-limit.json").read_text(encoding="utf-8"))["parts"]["networks"]
NETWORKS: dict[str, Params] = {
    "lora": {},
    "loha": {"network_module": "networks.loha"},
    "lokr": {"network_module": "networks.lokr", "network_args": ("factor=4",)},
    "oft": {"network_module": "networks.oft"},
    "dora": {"network_module": "lycoris.kohya", "network_args": ("algo=lora", "dora_wd=True")},
}
CONTEXT_GIB = 0.6
"""The driver's, which these cells do not include."""


@pytest.mark.parametrize("dim", [16, 32])
@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_type_is_predicted(name: str, dim: int) -> None:
    params = {**fit.params(cells.Cell(dim=dim, optimizer="AdamW8bit", checkpointing=True)), **NETWORKS[name]}
    expected = vram_estimate.estimate(params)
    assert expected is not None
    measured = LIMIT[f"{name} dim{dim}-AdamW8bit-b1-te-gc-1024"]["reserved_gib"] + CONTEXT_GIB
    assert expected.gib == pytest.approx(measured, abs=expected.error_gib)


@pytest.mark.parametrize("resolution", ["1024,1024", "1024", 1024, "832,1216"])
def test_resolution_is_read_as_sd_scripts_writes_it(resolution: str | int) -> None:
    expected = vram_estimate.estimate({**PRODIGY_32, "resolution": resolution})
    assert expected is not None
    assert expected.gib == pytest.approx(10.98, abs=0.3)


@pytest.mark.parametrize(
    ("gib", "gpu_gib", "message"),
    [
        (18.0, 24, None),
        (22.8, 24, "about 23 GiB of 24: tight"),
        (24.3, 24, "about 24 GiB of 24: tight"),
        (26.4, 24, "about 26 GiB of 24: does not fit"),
    ],
)
def test_an_estimate_above_the_memory_of_the_gpu_is_a_problem(gib: float, gpu_gib: float, message: str | None) -> None:
    problem = vram_estimate.verdict(Estimate(gib=gib, error_gib=0.6), gpu_gib)
    assert (problem.what if problem else None) == message
