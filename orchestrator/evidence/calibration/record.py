"""calibration.json: a calibration with the face pack and the reference photos it applies to."""

from dataclasses import asdict, dataclass, replace
from pathlib import Path

from orchestrator.errors import OrchestrateError, Problem, Severity
from orchestrator.evidence.calibration.statistics import Calibration, KnownPair, PairBaseline
from orchestrator.store import records
from orchestrator.text import pluralize

_REMEDY = "run `orchestrate calibrate` again"


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationRecord:
    """A calibration and its conditions.

    face_pack, references: as in a sweep's fingerprint. rejected: photo -> reason. trained_on: references that are
    also training images, allowed by the user. faceless: sets of impostors without a face.
    known_pairs, baseline: the user's known-good pairs. expected_from_pairs: their mean on the scale of scores.
    """

    face_pack: str
    references: str
    measured_at: str
    calibration: Calibration
    rejected: dict[str, str]
    trained_on: tuple[str, ...] = ()
    faceless: tuple[str, ...] = ()
    known_pairs: tuple[KnownPair, ...] = ()
    baseline: PairBaseline | None = None
    expected_from_pairs: float | None = None

    @property
    def caveats(self) -> tuple[str, ...]:
        """Notes to print next to every metric that uses this calibration."""
        found = []
        if self.calibration.provisional:
            found.append(f"provisional: {pluralize(self.calibration.photos, 'photo')}")
        if self.trained_on:
            found.append(f"trained on {pluralize(len(self.trained_on), 'reference')}")
        return tuple(found)


def write(path: Path, calibration: CalibrationRecord) -> None:
    """Replace the record atomically."""
    records.write(path, asdict(calibration))


def read(path: Path) -> CalibrationRecord:
    """Raises OrchestrateError if the record is damaged or has another version."""
    from pydantic import TypeAdapter, ValidationError  # slow to import

    record = records.read(path)
    try:
        return TypeAdapter(CalibrationRecord).validate_python(record)
    except ValidationError as error:
        first = error.errors()[0]
        what = f"is damaged: {'.'.join(map(str, first['loc']))}: {first['msg']}"
        raise OrchestrateError(Problem(what=what, where=str(path), remedy=_REMEDY)) from error


def load_matching(path: Path, fingerprint: dict[str, str]) -> tuple[CalibrationRecord | None, list[Problem]]:
    """The calibration for a sweep with this fingerprint; otherwise None and the reasons (no record: no reasons)."""
    if not path.exists():
        return None, []
    try:
        found = read(path)
    except OrchestrateError as error:
        return None, [replace(problem, severity=Severity.WARNING) for problem in error.problems]
    made_with = {"face pack": found.face_pack, "references": found.references}
    different = [key for key, value in made_with.items() if fingerprint.get(key) != value]
    problems = [
        Problem(
            what=f"is not used: the sweep has a different {key}" if key == "face pack" else f"is not used: other {key}",
            where=str(path),
            key=key,
            remedy=_REMEDY,
            severity=Severity.WARNING,
        )
        for key in different
    ]
    return (None, problems) if problems else (found, [])
