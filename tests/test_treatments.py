"""Each recipe changes what is learned in the direction that its planted images define.

`python -m benchmarks.treatments` is the long form.
"""

import pytest

from benchmarks import treatments

# About half of what these few steps were seen to do.
LEAST = {
    "crop to the face": 0.2,
    "background weighs nothing": 0.2,
    "2 of 24 images": 0.1,
    "2 images, and frames": 0.05,
}


@pytest.fixture(scope="module")
def workshop(tmp_path_factory):
    return treatments.Workshop(tmp_path_factory.mktemp("treatments"), steps=25)


@pytest.mark.nightly
@pytest.mark.filterwarnings("ignore:.estimate. is deprecated:FutureWarning")
@pytest.mark.parametrize("name", LEAST)
def test_a_recipe_has_the_expected_effect(workshop, name):
    (question,) = (one for one in treatments.questions(workshop.folder) if one.name == name)
    plain, treated = (
        getattr(workshop.learned(question, treated=treated, seed=1), question.measured) for treated in (False, True)
    )
    moved = treated - plain
    assert (moved if question.more else -moved) > LEAST[name], (plain, treated)


@pytest.mark.nightly
@pytest.mark.filterwarnings("ignore:.estimate. is deprecated:FutureWarning")
@pytest.mark.parametrize(
    ("name", "least"),
    [("captions name the wall", 0.1), ("regularisation images", 0.05), ("output preservation", 0.05)],
)
def test_captions_and_prior_images_have_the_expected_effect(tmp_path, name, least):
    workshop = treatments.Workshop(tmp_path, steps=60)
    (question,) = (one for one in treatments.questions(tmp_path) if one.name == name)
    plain, treated = (
        getattr(workshop.learned(question, treated=treated, seed=1), question.measured) for treated in (False, True)
    )
    moved = treated - plain
    assert (moved if question.more else -moved) > least, (plain, treated)
