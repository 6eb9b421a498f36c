"""Reports what sd-scripts accepts but does differently than intended, in one point and across the points of a sweep.

An error: it would train something else or fail. A warning: it does what was written, which is seldom what was intended.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from orchestrator.config.schema import Dataset
from orchestrator.errors import Problem, error, warning
from orchestrator.kohya import networks
from orchestrator.kohya.arguments import dataset_lint, network_lint, optimizer_lint, training_lint
from orchestrator.model import Params, Point, Value
from orchestrator.values import toml_repr

_NO_DATASETS: Mapping[str, Dataset] = {}


def lint_points(
    points: Iterable[Params], *, where: str = "", datasets: Mapping[str, Dataset] = _NO_DATASETS
) -> list[Problem]:
    """The problems of these points, each reported once. `datasets` by name: what their subsets set counts, too."""
    distinct = {_without_seed(params): params for params in points}
    found = [
        replace(problem, where=where, value=toml_repr(params[problem.key]) if problem.key in params else "")
        for params in distinct.values()
        for problem in _lint_point(params, datasets.get(str(params.get("dataset"))))
    ]
    return list(dict.fromkeys(found))


def _without_seed(params: Params) -> tuple[str, ...]:
    """Replicates differ by their seed alone, and no rule depends on its value."""
    return (*params, *[repr(value) for key, value in params.items() if key != "seed" or value is None])


def _lint_point(params: Params, dataset: Dataset | None) -> Iterator[Problem]:
    subsets = [part.subset for part in dataset.parts] if dataset else []
    for key in params.keys() & set(dataset_lint.SUBSET_KEYS):
        values = [subset[key] for subset in subsets if key in subset]
        if dataset and values and len(values) == len(subsets) and params[key] not in values:
            what = f"dataset {dataset.name} sets {key} = {toml_repr(values[0])}, which overrides this"
            yield error(key, what, f"remove {key} from one of the two")
    for subset in subsets or [{}]:
        effective = {**params, **subset}
        yield from optimizer_lint.lint(effective)
        yield from training_lint.lint(effective)
        yield from network_lint.lint(effective)
        yield from dataset_lint.lint(effective, subsets=subsets)


# --- between points ---------------------------------------------------------------------------------------------------


def lint_sweep(points: Sequence[Point], *, steps: Mapping[str, int] | None = None) -> list[Problem]:
    """What makes the points of a sweep incomparable, or lets one use another's cache.

    `steps`: optimizer steps by point id, where they are known; batch sizes are compared where they are not.
    """
    trained = [point for point in points if point.is_trained]
    return [*_scale_follows_rank(trained), *_stale_cache(trained), *_unequal_steps(trained, steps or {})]


def _values(points: Sequence[Point], key: str) -> list[Value | None]:
    """The distinct values of one argument, in the order of the points."""
    return list(dict.fromkeys(point.params.get(key) for point in points))


def _scale_follows_rank(points: Sequence[Point]) -> Iterator[Problem]:
    """A LoRA is scaled by alpha / dim: a rank sweep at a fixed alpha sweeps the scale along with the rank."""
    scales: dict[float, list[str]] = {}
    for point in points:
        if networks.module_of(point.params) == networks.OFT:
            continue  # its alpha is no scale
        dim, alpha = point.params.get("network_dim"), point.params.get("network_alpha", 1)
        if isinstance(dim, int) and isinstance(alpha, int | float):
            scales.setdefault(round(alpha / dim, 9) if alpha else 1.0, []).append(f"{alpha:g}/{dim}")
    swept = {dim for point in points for dim in point.dims}
    if len(_values(points, "network_dim")) > 1 and len(scales) > 1 and "network_alpha" not in swept:
        ratios = ", ".join(f"{examples[0]} = {scale:g}" for scale, examples in scales.items())
        what = f"the scale alpha/dim changes with the rank ({ratios}), so their effects cannot be separated"
        yield warning("network_alpha", what, 'set network_alpha = "{{ network_dim // 2 }}"')


_CACHED = ("base_model", "max_token_length", "mixed_precision")
"""What the cached outputs of the text encoders depend on; sd-scripts' cache is not keyed by it."""


def _stale_cache(points: Sequence[Point]) -> Iterator[Problem]:
    key = "cache_text_encoder_outputs_to_disk"
    caching = [point for point in points if point.params.get(key)]
    varied = [name for name in _CACHED if len(_values(caching, name)) > 1]
    if varied:
        what = f"points differ in {', '.join(varied)}, but share one cache on disk: all use the first point's outputs"
        yield error(key, what, f"use {key.removesuffix('_to_disk')}, which caches in memory")


def _unequal_steps(points: Sequence[Point], steps: Mapping[str, int]) -> Iterator[Problem]:
    remedy = "set max_train_steps to compare at equal steps; ignore this if the difference is intended"
    seen = sorted({steps[point.id] for point in points if point.id in steps})
    if len(seen) > 1:
        what = f"points train for {seen[0]} to {seen[-1]} optimizer steps"
        yield warning("max_train_epochs", what, remedy)
    elif not steps:
        by_epoch = [point for point in points if "max_train_epochs" in point.params]
        for key in ("train_batch_size", "gradient_accumulation_steps", "dataset"):
            if len(_values(by_epoch, key)) > 1:
                what = f"{key} differs between points that train by epochs, so their optimizer steps differ"
                yield warning(key, what, remedy)
