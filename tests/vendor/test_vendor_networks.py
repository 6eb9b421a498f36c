"""Every network type on the real trainer: arguments, parameter counts, training, verification and images."""

import ast
import json
import subprocess
from pathlib import Path

import pytest
from PIL import Image
from small_world import Swept, Trainer, World

from orchestrator.kohya import networks
from orchestrator.kohya.arguments import key_values, required
from orchestrator.kohya.outputs import safetensors_header

GRID = """
[dims]
network_module = {modules}

[fixed]
network_dim = 4
network_alpha = 4
learning_rate = 0.05
network_train_unet_only = true
cache_text_encoder_outputs = true
"""

RULES = {
    "networks.oft": "network_alpha = 0.01",
    "networks.lokr": 'network_args = ["factor=4"]',
    "lycoris.kohya": 'network_args = ["algo=lora", "dora_wd=True", "wd_on_output=False"]',
}
"""What the grid sets for a network."""

ALSO_READ = {
    "networks.lora": set(),
    "networks.loha": {"train_llm_adapter"},
    "networks.lokr": {"train_llm_adapter"},
    "networks.oft": set(),
    "lycoris.kohya": {
        "disable_conv_cp", "use_conv_cp", "block_size", "constraint", "rescaled", "train_t5xxl", "train_llm_adapter",
    },
}  # fmt: skip
"""What the modules read too: for other models and algorithms, or deprecated."""

COUNT = """
import importlib, json, sys, torch
sys.path.insert(0, sys.argv[1])
from library.sdxl_original_unet import SdxlUNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel
def encoder(hidden, layers, heads):
    return CLIPTextModel(CLIPTextConfig(
        hidden_size=hidden, intermediate_size=4 * hidden, num_hidden_layers=layers, num_attention_heads=heads
    ))
with torch.device("meta"):
    encoders, unet = [encoder(768, 12, 12), encoder(1280, 32, 20)], SdxlUNet2DConditionModel()
    found = []
    for module, arguments, dim in json.loads(sys.argv[2]):
        create = importlib.import_module(module).create_network
        network = create(1.0, dim, 1, None, encoders, unet, **dict(one.split("=", 1) for one in arguments))
        network.apply_to(encoders, unet, True, True)
        found.append(sum(one.numel() for one in network.parameters()))
print("\\nCOUNTS " + json.dumps(found))
"""


def lycoris(trainer: Trainer) -> Path | None:
    code = "import importlib.util as u; print(u.find_spec('lycoris').submodule_search_locations[0])"
    done = subprocess.run([trainer.python, "-c", code], capture_output=True, text=True, check=False)
    return Path(done.stdout.strip()) if done.returncode == 0 else None


@pytest.mark.parametrize("module", networks.MODULES)
def test_the_arguments_are_those_that_the_module_reads(trainer: Trainer, module: str) -> None:
    folder = lycoris(trainer) if module == networks.LYCORIS else trainer.sd_scripts / "networks"
    source = folder and folder / f"{module.rpartition('.')[2]}.py"
    if not (source and source.is_file()):
        pytest.skip(f"{module} is not here")
    tree = ast.parse(source.read_text(encoding="utf-8-sig"))
    read = {
        ast.literal_eval(call.args[0])
        for call in ast.walk(tree)
        if isinstance(call, ast.Call) and ast.unparse(call.func).endswith("kwargs.get")
    }
    known = set(key_values.NETWORK_ARGS[module])
    assert known - read <= {"rank_dropout_scale"}  # kohya_ss writes it, and it must be False
    assert read - known <= ALSO_READ[module]


@pytest.fixture(scope="module")
def modules(trainer: Trainer) -> list[str]:
    """The networks that the trainer has: networks.loha and networks.lokr are not in v0.10.1."""
    found = [one for one in networks.MODULES if not any(required.missing_module(trainer.sd_scripts, one))]
    return [one for one in found if one != networks.LYCORIS or lycoris(trainer)]


def test_parameters_are_counted_as_the_modules_create_them(trainer: Trainer, modules: list[str]) -> None:
    cells = [
        ("networks.lora", [], 16), ("networks.lora", ["conv_dim=8"], 16), ("networks.loha", [], 8),
        ("networks.lora", ["conv_dim=0"], 16), ("networks.lokr", ["conv_dim=0"], 16),
        ("networks.loha", ["conv_dim=4", "use_tucker=True"], 8), ("networks.lokr", [], 16),
        ("networks.lokr", ["factor=4"], 16), ("networks.lokr", ["factor=8", "conv_dim=8"], 400),
        ("networks.oft", [], 16), ("networks.oft", ["enable_conv=True"], 16),
        ("networks.oft", ["enable_all_linear=True"], 20),
    ]  # fmt: skip
    cells += [
        *(("lycoris.kohya", [f"preset={preset}"], 8) for preset in key_values.PRESETS),
        ("lycoris.kohya", ["conv_dim=0"], 8),
        ("lycoris.kohya", ["conv_dim=4", "use_tucker=True"], 8),
        ("lycoris.kohya", ["algo=lokr", "decompose_both=False", "preset=attn-only"], 8),
        ("lycoris.kohya", ["algo=lokr", "factor=8", "decompose_both=True", "preset=attn-mlp"], 4),
        ("lycoris.kohya", ["algo=loha", "preset=attn-mlp"], 8),
    ]
    cells = [cell for cell in cells if cell[0] in modules]
    command = [trainer.python, "-c", COUNT, trainer.sd_scripts, json.dumps(cells)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "COUNTS " in done.stdout, done.stderr[-2000:]
    counted = json.loads(done.stdout.rpartition("COUNTS ")[2])
    ours = [
        networks.trained_numbers({"network_module": module, "network_args": tuple(arguments), "network_dim": dim})
        for module, arguments, dim in cells
    ]
    assert dict(zip(map(str, cells), ours, strict=True)) == dict(zip(map(str, cells), counted, strict=True))


@pytest.fixture(scope="module")
def grid(modules: list[str]) -> str:
    rules = [
        f'[[when]]\nmatch = {{ network_module = "{module}" }}\nset = {{ {setting} }}\n'
        for module, setting in RULES.items()
        if module in modules
    ]
    return GRID.format(modules=json.dumps(modules)) + "".join(rules)


@pytest.fixture(scope="module")
def base_model(tiny: World, grid: str) -> list[bytes]:
    """The images of the base model alone, in the sweep that each test adds its network to."""
    return _images(tiny.sweep(grid, "networks", only="baseline*"), "")


@pytest.mark.parametrize("module", networks.MODULES)
def test_a_network_trains_is_verified_generates_and_is_exported(
    tiny: World, grid: str, base_model: list[bytes], module: str
) -> None:
    if module not in grid:
        pytest.skip(f"{module} is not here")
    swept = tiny.sweep(grid, "networks", only=f"network_module={module}*")
    (row,) = [row for row in swept.rows("results.csv") if row["params_network_module"] == module]
    assert row["state"] == "finished", swept.output
    (checkpoint,) = (swept.folder / row["run"]).glob("train/*/output/lora.safetensors")
    header = safetensors_header.read_header(checkpoint)
    names = networks.zero_at_start(list(header.tensors))
    assert names
    assert not safetensors_header.all_zero(checkpoint, header, names)
    images = _images(swept, module)
    assert len(images) == len(base_model)
    assert not set(images) & set(base_model)
    exported = tiny.orchestrate("export", "networks", "--run", row["run"])
    assert exported.returncode == 0, exported.stderr
    assert Path(exported.stdout.splitlines()[0]).read_bytes() == checkpoint.read_bytes()


def _images(swept: Swept, module: str) -> list[bytes]:
    """The pixels of the images of a network, or of the base model."""
    assert swept.code in (0, 1), swept.output
    rows = [row for row in swept.rows("results.csv") if row["params_network_module"] == module]
    paths = sorted((swept.folder / rows[0]["run"]).rglob("*.png"))
    assert paths, swept.output
    return [Image.open(path).tobytes() for path in paths]
