"""An answer as it is told, whatever it was made from."""

from dataclasses import dataclass, field

from orchestrator.evidence.stats.estimates import Interval


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One question of one sweep and its answer.

    contrast: what yes and no are said to, whatever was asked. verdict: yes, no or undecided. reason: a sentence with
    the size of it. p: what the verdict rests on. rows: further lines, each under a heading of its own, in the order in
    which they are read. difference, interval: in similarity, second level less the first.
    """

    id: str
    ask: str
    sweep: str
    verdict: str
    reason: str
    contrast: str = ""
    needs: str = ""
    difference: float | None = None
    interval: Interval | None = None
    p: float | None = None
    replicates: int | None = None
    pairs: int | None = None
    left_out: int | None = None
    gpu_hours: float | None = None
    peak_gib: float | None = None
    rows: tuple[tuple[str, str], ...] = field(default=())
