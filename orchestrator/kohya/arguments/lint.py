"""What sd-scripts accepts and then does otherwise than was meant, in one point and between the points of a sweep.

An error: it would do the wrong thing in silence, or stop in the night. A warning: it does what was said, and that is
seldom what was wanted.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence

from orchestrator.config.schema import Dataset
from orchestrator.errors import Problem
from orchestrator.kohya.arguments import dataset_lint, training_lint
from orchestrator.kohya.arguments.check import shown
from orchestrator.kohya.arguments.lint_issue import LintIssue, error, warning
from orchestrator.model import Params, Point, Value

_NO_DATASETS: Mapping[str, Dataset] = {}


def traps(
    points: Iterable[Params], *, where: str = "", datasets: Mapping[str, Dataset] = _NO_DATASETS
) -> list[Problem]:
    """The traps of these points, each told once. `datasets` by name: what their subsets set counts, too."""
    distinct = {_but_for_the_seed(params): params for params in points}
    found = [
        _problem(finding, params, where)
        for params in distinct.values()
        for finding in _of_one(params, datasets.get(str(params.get("dataset"))))
    ]
    return list(dict.fromkeys(found))


def _but_for_the_seed(params: Params) -> tuple[str, ...]:
    """Replicates differ by their seed alone, and no trap depends on which seed it is."""
    return (*params, *[repr(value) for key, value in params.items() if key != "seed" or value is None])


def _of_one(params: Params, dataset: Dataset | None) -> Iterator[LintIssue]:
    if dataset is None:
        yield from training_lint.findings(params)
        yield from dataset_lint.findings(params, subset=None)
        return
    yield from _overridden(params, dataset)
    effective = {**params, **dataset.subset}
    yield from training_lint.findings(effective)
    yield from dataset_lint.findings(effective, subset=dataset.subset)


def _overridden(params: Params, dataset: Dataset) -> Iterator[LintIssue]:
    for key, value in dataset.subset.items():
        if key in params and params[key] != value:
            what = f"dataset {dataset.name} sets {key} = {shown(value)}, which wins over this in silence"
            yield error(key, what, f"take {key} out of one of the two")


def _problem(finding: LintIssue, params: Params, where: str) -> Problem:
    value = shown(params[finding.key]) if finding.key in params else ""
    return Problem(
        what=finding.what,
        where=where,
        key=finding.key,
        value=value,
        remedy=finding.remedy,
        severity=finding.severity,
    )


# --- between points ---------------------------------------------------------------------------------------------------


def sweep_traps(points: Sequence[Point], *, where: str = "", steps: Mapping[str, int] | None = None) -> list[Problem]:
    """What makes the points of a sweep incomparable, or one spoil another's input.

    `steps`: optimizer steps by point id, where they are known; the arms' batch sizes are compared where they are not.
    """
    trained = [point for point in points if not point.is_baseline]
    rules = (_scale_follows_rank, _stale_cache)
    found = [finding for rule in rules for finding in rule(trained)]
    found += _unequal_steps(trained, steps or {})
    return [
        Problem(what=item.what, where=where, key=item.key, remedy=item.remedy, severity=item.severity) for item in found
    ]


def _values(points: Sequence[Point], key: str) -> list[Value | None]:
    """The distinct values of one argument, in the order of the points."""
    return list(dict.fromkeys(point.params.get(key) for point in points))


def _scale_follows_rank(points: Sequence[Point]) -> Iterator[LintIssue]:
    """A LoRA is scaled by alpha / dim: a rank sweep at a fixed alpha sweeps the scale along with the rank."""
    scales: dict[float, list[str]] = {}
    for point in points:
        dim, alpha = point.params.get("network_dim"), point.params.get("network_alpha", 1)
        if isinstance(dim, int) and isinstance(alpha, int | float):
            scales.setdefault(round(alpha / dim, 9) if alpha else 1.0, []).append(f"{alpha:g}/{dim}")
    if len(_values(points, "network_dim")) > 1 and len(scales) > 1 and "network_alpha" not in _swept(points):
        told = ", ".join(f"{examples[0]} = {scale:g}" for scale, examples in scales.items())
        what = f"the scale alpha/dim changes with the rank ({told}), so the two cannot be told apart"
        yield warning("network_alpha", what, 'let it follow: network_alpha = "{{ network_dim // 2 }}"')


def _swept(points: Sequence[Point]) -> set[str]:
    """The arguments that the user made dims of."""
    return {dim for point in points for dim in point.dims}


_CACHED = ("base_model", "max_token_length", "mixed_precision")
"""What cached outputs of the text encoders depend on, although sd-scripts' cache files do not say so."""


def _stale_cache(points: Sequence[Point]) -> Iterator[LintIssue]:
    key = "cache_text_encoder_outputs_to_disk"
    caching = [point for point in points if point.params.get(key)]
    varied = [name for name in _CACHED if len(_values(caching, name)) > 1]
    if varied:
        what = f"points differ in {', '.join(varied)}, but the cache on disk does not know it: all get the first's"
        yield error(key, what, f"use {key.removesuffix('_to_disk')}, which caches in memory")


def _unequal_steps(points: Sequence[Point], steps: Mapping[str, int]) -> Iterator[LintIssue]:
    seen = sorted({steps[point.id] for point in points if point.id in steps})
    if len(seen) > 1:
        what = f"points are trained for {seen[0]} to {seen[-1]} optimizer steps: some learn longer than others"
        yield warning("max_train_epochs", what, "compare at equal steps (max_train_steps), or say that it is meant")
    elif not steps:
        by_epoch = [point for point in points if "max_train_epochs" in point.params]
        for key in ("train_batch_size", "gradient_accumulation_steps", "dataset"):
            if len(_values(by_epoch, key)) > 1:
                what = f"{key} differs between points that are trained by epochs, so their optimizer steps differ"
                yield warning(key, what, "compare at equal steps (max_train_steps), or say that it is meant")
