"""Finds the real trainer, and starts what the tests share once.

The sources are at ORCHESTRATE_SD_SCRIPTS (default: vendor/sd-scripts), its interpreter is ORCHESTRATE_TRAINER_PYTHON
(default: vendor/.venv/bin/python). CLIP's vocabulary is taken from an open_clip_torch installed there or here.
"""

import importlib.util
import os
import subprocess
from pathlib import Path

import pytest
import small_world
from small_world import HERE, ROOT, Swept, Trained, Trainer, World

VOCABULARY = "bpe_simple_vocab_16e6.txt.gz"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Marks these tests; without the trainer one of them stands for all and says what is missing."""
    ours = [item for item in items if HERE in item.path.parents]
    for item in ours:
        item.add_marker(pytest.mark.vendor)
    if ours and (missing := _missing()):
        ours[0].add_marker(pytest.mark.skip(reason=missing))
        items[:] = [item for item in items if item not in ours[1:]]
        config.hook.pytest_deselected(items=ours[1:])


def _missing() -> str:
    for path, key in ((_sources() / "sdxl_train_network.py", "SD_SCRIPTS"), (_python(), "TRAINER_PYTHON")):
        if not path.exists():
            return f"the real trainer is not here: no {path} (`make setup-trainer`, or set ORCHESTRATE_{key})"
    return ""


def _sources() -> Path:
    return Path(os.environ.get("ORCHESTRATE_SD_SCRIPTS", ROOT / "vendor" / "sd-scripts")).absolute()


def _python() -> Path:
    return Path(os.environ.get("ORCHESTRATE_TRAINER_PYTHON", ROOT / "vendor" / ".venv" / "bin" / "python")).absolute()


@pytest.fixture(scope="session")
def trainer() -> Trainer:
    return Trainer(sd_scripts=_sources(), python=_python())


@pytest.fixture(scope="session")
def tiny(trainer: Trainer, tmp_path_factory: pytest.TempPathFactory) -> World:
    return small_world.write(tmp_path_factory.mktemp("tiny"), trainer, _vocabulary(trainer))


def _vocabulary(trainer: Trainer) -> Path:
    code = "import importlib.util as u; print(u.find_spec('open_clip').submodule_search_locations[0])"
    found = subprocess.run([trainer.python, "-c", code], capture_output=True, text=True, check=False)
    here = importlib.util.find_spec("open_clip")
    folders = [found.stdout.strip(), *(here.submodule_search_locations or () if here else ())]
    files = [Path(name) / VOCABULARY for name in folders if name]
    chosen = next((file for file in files if file.is_file()), None)
    if chosen is None:
        pytest.skip(f"CLIP's vocabulary is not here: `{trainer.python} -m pip install --no-deps open_clip_torch`")
    return chosen


@pytest.fixture(scope="session")
def swept(tiny: World) -> Swept:
    """Four points, generated, scored, reported."""
    return tiny.sweep()


@pytest.fixture(scope="session")
def masked(tiny: World) -> Trained:
    """Two epochs with masks, both text encoders, and the state saved after each epoch."""
    dataset = tiny.masked()
    return tiny.train(
        "masked", dataset=dataset, masked_loss=True, max_train_epochs=2, save_every_n_epochs=1, save_state=True
    )


@pytest.fixture(scope="session")
def plain(tiny: World) -> Trained:
    """One epoch of the U-Net alone, without masks, with the text encoders' outputs cached."""
    return tiny.train("plain", network_train_unet_only=True, cache_text_encoder_outputs=True)
