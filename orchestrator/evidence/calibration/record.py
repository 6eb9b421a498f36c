"""calibration.json: what was measured, by which face pack and from which photos; refused for any other."""

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from orchestrator.errors import OrchestrateError, Problem, Severity
from orchestrator.evidence.calibration.statistics import Calibration, Impostors, KnownPair, PairBaseline, Reference
from orchestrator.evidence.stats.estimates import Interval
from orchestrator.store import records
from orchestrator.text import pluralize

_AGAIN = "`orchestrate calibrate` measures anew"


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationRecord:
    """A calibration and what it holds for.

    face_pack, references: as in a sweep's fingerprint. rejected: photos that were not used, and why.
    trained_on: references that also stand in a training set, which were let through on the user's word.
    faceless: sets of impostors without a single face, of which nothing is known.
    twins: references that are one photo, by their cosine: it counts twice.
    known_pairs, baseline: of the owner's list; expected_from_pairs: their mean on the scale of centroid scores.
    """

    face_pack: str
    references: str
    measured_at: str
    calibration: Calibration
    rejected: dict[str, str]
    trained_on: tuple[str, ...] = ()
    faceless: tuple[str, ...] = ()
    twins: tuple[tuple[str, str], ...] = ()
    known_pairs: tuple[KnownPair, ...] = ()
    baseline: PairBaseline | None = None
    expected_from_pairs: float | None = None

    @property
    def caveats(self) -> tuple[str, ...]:
        """What must stand beside every number that is read against it; none when nothing is the matter."""
        found = []
        if self.calibration.provisional:
            found.append(f"provisional: {pluralize(self.calibration.photos, 'photo')}")
        if self.trained_on:
            found.append(f"trained on {pluralize(len(self.trained_on), 'reference')}")
        return tuple(found)


def write(path: Path, kept: CalibrationRecord) -> None:
    """Replaces an earlier one; whole or not at all."""
    records.write(path, asdict(kept))


def read(path: Path) -> CalibrationRecord:
    """Raises OrchestrateError when it is damaged or of another version."""
    record = records.read(path)
    try:
        return _kept(record)
    except (KeyError, TypeError) as error:
        raise OrchestrateError(Problem(what=f"is damaged: {error}", where=str(path), remedy=_AGAIN)) from error


def load_matching(path: Path, fingerprint: dict[str, str]) -> tuple[CalibrationRecord | None, list[Problem]]:
    """The calibration for a sweep with this fingerprint; None, and why, when there is none or it is another's."""
    if not path.exists():
        return None, []
    try:
        kept = read(path)
    except OrchestrateError as error:
        return None, [replace(problem, severity=Severity.WARNING) for problem in error.problems]
    made_with = {"face pack": kept.face_pack, "references": kept.references}
    other = [key for key, value in made_with.items() if fingerprint.get(key) != value]
    return (None, [_unfit(path, key) for key in other]) if other else (kept, [])


def _unfit(path: Path, key: str) -> Problem:
    what = f"is not used: the sweep has another {key}" if key == "face pack" else f"is not used: the {key} are others"
    return Problem(what=what, where=str(path), key=key, remedy=_AGAIN, severity=Severity.WARNING)


def _kept(record: dict[str, Any]) -> CalibrationRecord:
    baseline = record["baseline"]
    return CalibrationRecord(
        **{
            **record,
            "calibration": _calibration(record["calibration"]),
            "trained_on": tuple(record["trained_on"]),
            "faceless": tuple(record.get("faceless", ())),
            "twins": tuple((first, second) for first, second in record["twins"]),
            "known_pairs": tuple(KnownPair(**pair) for pair in record["known_pairs"]),
            "baseline": _baseline(baseline) if baseline else None,
        }
    )


def _calibration(record: dict[str, Any]) -> Calibration:
    intervals = {key: Interval(**record[key]) for key in ("threshold_interval", "band", "nearest_band")}
    sets = [Impostors(**{**one, "similarities": tuple(one["similarities"])}) for one in record["impostors"]]
    references = tuple(Reference(**one) for one in record["references"])
    return Calibration(**{**record, **intervals, "references": references, "impostors": tuple(sets)})


def _baseline(record: dict[str, Any]) -> PairBaseline:
    interval = record["interval"]
    return PairBaseline(**{**record, "interval": Interval(**interval) if interval else None})
