"""`check --deep`: sd-scripts itself reads every distinct configuration and its dataset, without the base model.

The configurations are those of the points and of their OOM fallbacks.
"""

import json
import os
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from orchestrator.config.schema import Settings
from orchestrator.datasets import prepare
from orchestrator.errors import InputError, NotReady, Problem, error
from orchestrator.files import read_tail
from orchestrator.kohya import argv, config_files, dry_run, oom_fallback, release
from orchestrator.kohya.outputs import log
from orchestrator.model import Point
from orchestrator.plan import train_config
from orchestrator.plan.check import token_counts
from orchestrator.plan.check.report import CheckReport
from orchestrator.store.hashes import HashCache
from orchestrator.store.layout import Attempt, Run
from orchestrator.text import pluralize

_IMPORT_S, _CONFIG_S = 180, 120
"""Time limits: the first import of torch from a slow disk takes a minute, a dataset of thousands of images too."""
_LOG_BYTES = 256 * 1024


def check_configurations(settings: Settings, points: Iterable[Point], prompts: Sequence[str]) -> CheckReport:
    """What sd-scripts rejects, once for each cause. Builds the datasets below `runs/`, as `run` does."""
    distinct: dict[str, Point] = {}
    for point in _with_fallbacks(points, settings):
        read = {key: value for key, value in point.params.items() if key not in ("seed", "base_model")}
        distinct.setdefault(repr(sorted(read.items())), point)
    trainer = settings.trainer
    with tempfile.TemporaryDirectory() as folder:
        try:
            configs = _render(Path(folder), list(distinct.values()), settings, prompts)
        except (InputError, NotReady) as failed:
            return CheckReport(problems=tuple(failed.problems))
        child = [str(trainer.python), str(Path(dry_run.__file__)), str(trainer.sd_scripts)]
        child += [str(trainer.sd_scripts / trainer.train_script), *map(str, configs)]
        environment = {**os.environ, **argv.environment(trainer, gpu="")}
        limit = _IMPORT_S + _CONFIG_S * len(configs)
        try:
            done = subprocess.run(
                child, capture_output=True, text=True, errors="replace", timeout=limit, env=environment, check=False
            )
        except subprocess.TimeoutExpired:
            return CheckReport(problems=(_broken(settings, f"has not finished after {limit} s"),))
        if done.returncode:
            reason = (log.classify(done.stderr, done.returncode) or ("", ""))[1]
            return CheckReport(problems=(_broken(settings, f"cannot be imported: {reason}"),))
        codes = json.loads(done.stdout.splitlines()[-1])
        names = {config: point.name for config, point in configs.items()}
        problems = _rejected(dict(zip(configs, codes, strict=True)), names)
        counted = token_counts.report(configs, [*prompts, settings.generation.negative_prompt], settings)
    accepted = f"{codes.count(0)} of {pluralize(len(codes), 'configuration')} accepted by sd-scripts"
    return CheckReport(facts={"deep check": accepted, **counted.facts}, problems=(*problems, *counted.problems))


def _with_fallbacks(points: Iterable[Point], settings: Settings) -> Iterator[Point]:
    """The points, each followed by what it is after each OOM fallback."""
    for point in points:
        yield point
        for step in oom_fallback.fallbacks(point.params, settings.oom_fallback, settings.optimizers):
            name = f"{point.name} after the OOM fallback {' and '.join(dict.fromkeys(step.fallbacks))}"
            yield replace(point, name=name, params={**point.params, **step.overrides})


def _render(folder: Path, points: Sequence[Point], settings: Settings, prompts: Sequence[str]) -> dict[Path, Point]:
    """The configs, each with its point."""
    prepared = prepare.prepare_all(points, settings, HashCache(settings.runs), lambda _: None)
    renderer, configs = config_files.Renderer(settings.templates), {}
    for number, point in enumerate(points):
        run = Run(folder / str(number), point)
        attempt = Attempt(run.path / "1")
        attempt.path.mkdir(parents=True)
        files = train_config.input_files(run, attempt, settings, renderer, prepared, prompts)
        for name, text in files.items():
            (attempt.path / name).write_text(text, encoding="utf-8", newline="\n")
        texts = json.dumps([*prompts, settings.generation.negative_prompt])
        (attempt.path / "texts.json").write_text(texts, encoding="utf-8")
        configs[attempt.path / "config.toml"] = point
    return configs


def _rejected(codes: Mapping[Path, int], names: Mapping[Path, str]) -> list[Problem]:
    causes: dict[str, list[str]] = {}
    for config, code in codes.items():
        if code:
            found = log.classify(read_tail(config.with_name(f"{config.name}.log"), _LOG_BYTES), code)
            causes.setdefault(found[1] if found else f"exit code {code}", []).append(names[config])
    remedy = "change what the message names in the grid or the settings"
    return [
        error("", f"sd-scripts rejects {pluralize(len(found), 'configuration')}: {reason}", remedy, where=found[0])
        for reason, found in causes.items()
    ]


def _broken(settings: Settings, what: str) -> Problem:
    remedy = release.setup_remedy(settings.trainer.python, settings.trainer.sd_scripts)
    value = str(settings.trainer.sd_scripts)
    return error("trainer.sd_scripts", f"sd-scripts {what}", remedy, where=str(settings.path), value=value)
