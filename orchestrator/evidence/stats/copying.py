"""Detection of runs that copy training images instead of learning the person.

A copy is close to one training image and not to the others. Real photos that were not trained on (the references) show
how close to training images an image of the same person is anyway. So a run is compared with the references: both are
measured against the same training images. An average of several training faces is close to all of them; the lead
separates it from a copy.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import comb

import numpy as np
import numpy.typing as npt
from scipy import stats

from orchestrator.scoring.faces.similarity import SAME_PHOTO

FloatArray = npt.NDArray[np.float64]

ALPHA = 0.02
"""Significance level of a run: share of runs of new photos that pass one of the two rank tests by chance."""
COPY_LEAD = 0.5
"""Smallest relative lead of a near copy. In simulations the medians are at most 0.25 for photos of the same person and
0.31 for averages of six training faces, and at least 0.73 for copies."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Closeness:
    """Cosines of images to the training images: to the most similar one, and the mean over the next five."""

    nearest: FloatArray
    following: FloatArray

    @property
    def lead(self) -> FloatArray:
        """Relative lead of the nearest training image: 0 as close as the next five, 1 identical."""
        lead: FloatArray = (self.nearest - self.following) / np.maximum(1 - self.following, 1e-9)
        return lead


@dataclass(frozen=True, slots=True, kw_only=True)
class CopyTest:
    """copying: the verdict on the run. lead: median relative lead of its images. near_copies: number of images with the
    lead of a copy.
    """

    copying: bool
    lead: float
    near_copies: int


def closeness(pairs: Sequence[tuple[float, float]]) -> Closeness:
    """From (nearest, mean of the next five) of each image."""
    nearest, following = np.array(pairs, dtype=float).reshape(-1, 2).T
    return Closeness(nearest=nearest, following=following)


def detect_copying(images: Closeness, references: Closeness, average: Closeness) -> CopyTest | None:
    """Whether the images of a run copy training images. average: the one closeness of the average training face.

    A run copies if its images are nearer to single training images than the references are (one-sided Mann-Whitney
    tests of the nearest cosine and of the relative lead, both at ALPHA), and if at least half of them have the lead of
    a copy: COPY_LEAD, or that of the average training face if this is larger.

    References that are the same photo as a training image are ignored. None if there are too few images and references
    for a significant result, or if half of the references are ignored.
    """
    unseen = references.nearest < SAME_PHOTO
    used = Closeness(nearest=references.nearest[unseen], following=references.following[unseen])
    count = len(used.nearest)
    if comb(len(images.nearest) + count, count) * ALPHA < 1 or 2 * count <= len(unseen):
        return None
    p_nearest = _greater(images.nearest, used.nearest)
    p_lead = _greater(images.lead, used.lead)
    required = max(COPY_LEAD, float(average.lead[0]))
    lead = float(np.median(images.lead))
    return CopyTest(
        copying=max(p_nearest, p_lead) <= ALPHA and lead >= required,
        lead=lead,
        near_copies=int((images.lead >= required).sum()),
    )


def _greater(images: FloatArray, references: FloatArray) -> float:
    return float(stats.mannwhitneyu(images, references, alternative="greater").pvalue)
