"""The tables of optimizers and schedulers agree with the real classes in the trainer's interpreter."""

import json
import subprocess
from pathlib import Path

import pytest
from small_world import HERE, Trainer

from orchestrator.kohya import optimizers, signatures
from orchestrator.kohya.arguments import key_values, schedulers, values

SHIPPED = json.loads(Path(signatures.__file__).with_suffix(".json").read_text(encoding="utf-8"))

CREATE = """
import json, sys, torch
sys.path.insert(0, sys.argv[1])
from library import train_util
import sdxl_train_network
parser = sdxl_train_network.setup_parser()
found = {}
for name in json.loads(sys.argv[2]):
    args = parser.parse_args(["--optimizer_type", name, "--learning_rate", "1e-3"])
    try:
        found[name] = train_util.get_optimizer(args, [{"params": [torch.nn.Parameter(torch.ones(2))], "lr": 1e-3}])[0]
    except Exception as error:
        found[name] = f"{type(error).__name__}: {error}"
print("\\nFOUND " + json.dumps(found))
"""

SCHEDULE = """
import json, sys, torch
def works(name, keywords):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(2))], lr=0.1, momentum=0.9)
    try:
        scheduler = getattr(torch.optim.lr_scheduler, name)(optimizer, **keywords)
        for _ in range(3):
            optimizer.step()
            scheduler.step()
        return True
    except Exception:
        return False
print(json.dumps([works(name, keywords) for name, keywords in json.loads(sys.argv[1])]))
"""
CYCLE = {"base_lr": 0.1, "max_lr": 0.2}
VALUES: list[tuple[str, dict[str, object], str, list[object]]] = [
    ("StepLR", {}, "step_size", [1, 10, 0]),
    ("StepLR", {"step_size": 2}, "gamma", [0.1, 1.0, "a"]),
    ("MultiStepLR", {}, "milestones", [[1, 2], 3]),
    ("ExponentialLR", {}, "gamma", [0.5, 1.0, "a"]),
    ("CosineAnnealingWarmRestarts", {}, "T_0", [1, 100, 0, -1, 1.5]),
    ("CosineAnnealingWarmRestarts", {"T_0": 2}, "T_mult", [1, 2, 0, 1.5]),
    ("CosineAnnealingLR", {}, "T_max", [1, 100, 0]),
    ("LinearLR", {}, "start_factor", [0.1, 1.0, 0, 1.5, -1]),
    ("LinearLR", {}, "end_factor", [0, 1, 1.5, -1]),
    ("ConstantLR", {}, "factor", [0, 0.5, 1, 2, -1]),
    ("OneCycleLR", {"max_lr": 0.1}, "total_steps", [10, 0, -1, 2.5]),
    ("OneCycleLR", {"max_lr": 0.1, "total_steps": 10}, "pct_start", [0, 0.5, 1, 2, -1]),
    ("OneCycleLR", {"max_lr": 0.1, "total_steps": 10}, "anneal_strategy", ["cos", "linear", "cosine"]),
    ("CyclicLR", CYCLE, "mode", ["triangular", "triangular2", "exp_range", "cos"]),
    ("CyclicLR", CYCLE, "step_size_up", [1, 5, 0]),
    ("PolynomialLR", {}, "total_iters", [1, 5]),
]
"""Scheduler, its other arguments, and values of one argument that it may or may not accept."""


@pytest.fixture(scope="module")
def real(trainer: Trainer) -> dict[str, dict[str, dict[str, object]]]:
    """The table of the installed packages."""
    done = subprocess.run(
        [trainer.python, HERE / "signatures.py"], capture_output=True, text=True, check=True, timeout=300
    )
    return json.loads(done.stdout)


@pytest.mark.parametrize("section", ["optimizers", "schedulers"])
def test_signatures_are_those_of_the_installed_classes(real: dict[str, dict[str, object]], section: str) -> None:
    """Of packages in the versions of the table; of others, every argument of the table must exist."""
    same = {name for name, version in SHIPPED["versions"].items() if real["versions"].get(name) == version}
    if "torch" not in same:
        pytest.skip(f"torch is {real['versions']['torch']}, the table is of {SHIPPED['versions']['torch']}")
    roots = {name.replace("-", "_") for name in same} | {"prodigyplus"}
    for path, found in SHIPPED[section].items():
        root = path.partition(".")[0]
        if "." not in path or root in roots:
            assert real[section][path] == found, path


def test_short_names_create_the_recorded_classes(trainer: Trainer) -> None:
    names = [*optimizers.SHORT_NAMES, *optimizers.TORCH_CLASSES, "prodigyplus.ProdigyPlusScheduleFree"]
    argv = [trainer.python, "-c", CREATE, trainer.sd_scripts, json.dumps(names)]
    done = subprocess.run(argv, capture_output=True, text=True, check=True, timeout=300)
    found = json.loads(done.stdout.rpartition("FOUND ")[2])
    expected = {name: optimizers.optimizer_of({"optimizer_type": name}).recorded for name in names}
    assert {name: path.rpartition(".")[2] for name, path in found.items()} == expected


def test_schedulers_are_those_of_the_source(trainer: Trainer) -> None:
    source = "".join(path.read_text(encoding="utf-8") for path in (trainer.sd_scripts / "library").rglob("*.py"))
    assert all(f"args.{name}" in source for name in schedulers.USED_BY)
    assert set(values.SCHEDULERS) - {"adafactor"} == {name for name in SHIPPED["schedulers"] if "." not in name}


def test_values_that_torch_rejects_are_rejected_and_no_others(trainer: Trainer) -> None:
    cases = [(name, {**others, argument: value}) for name, others, argument, tried in VALUES for value in tried]
    argv = [trainer.python, "-c", SCHEDULE, json.dumps(cases)]
    works = json.loads(subprocess.run(argv, capture_output=True, text=True, check=True, timeout=300).stdout)

    def accepted(name: str, keywords: dict[str, object]) -> bool:
        given = tuple(f"{key}={value!r}" for key, value in keywords.items())
        params = {"lr_scheduler_type": name, "lr_scheduler_args": given, "optimizer_type": "SGD", "learning_rate": 0.1}
        return not [one for one in schedulers.lint(params, ignored="") if one.severity == "error"]

    wrong = [
        (case, "works" if fine else "fails") for case, fine in zip(cases, works, strict=True) if accepted(*case) != fine
    ]
    assert not wrong


def test_curves_of_block_weights_are_those_of_networks_lora(trainer: Trainer) -> None:
    source = (trainer.sd_scripts / "networks" / "lora.py").read_text(encoding="utf-8")
    assert all(f'name == "{curve}"' in source for curve in key_values.CURVES)
