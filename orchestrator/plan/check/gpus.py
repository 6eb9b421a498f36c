"""Checks of the GPUs: driver, size, and whether each memory profile of a plan fits."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from orchestrator.errors import Problem, warning
from orchestrator.gpu import Gpu
from orchestrator.plan import vram_estimate
from orchestrator.plan.forecast import Forecast


def facts(found: Sequence[Gpu]) -> dict[str, str]:
    """The GPUs and their driver; {} where there is none."""
    gpus = [f"{c.name}, {c.total_mib / 1024:.1f} GiB, {c.used_mib / 1024:.1f} in use, {c.uuid}" for c in found]
    return {"GPU": "; ".join(gpus), "driver": found[0].driver} if found else {}


def too_small(planned: Forecast) -> Iterator[Problem]:
    """A warning for each memory profile that did not fit into VRAM, or is not expected to."""
    for profile in planned.profiles:
        named = ", ".join(f"{key} = {value}" for key, value in profile.settings.items()) or "every training"
        problem = vram_estimate.verdict(profile.peak, planned.gpu_gib) if profile.peak and planned.gpu_gib else None
        if profile.fallbacks:
            fallbacks = ", ".join(profile.fallbacks)
            what = f"{named}: out of memory ({profile.origin}); it fitted with the fallbacks {fallbacks}"
            remedy = "write those values into the grid; otherwise each run fails once before the fallback is applied"
            yield warning("vram", what, remedy)
        elif problem:
            yield replace(problem, what=f"{named}: {problem.what}")
