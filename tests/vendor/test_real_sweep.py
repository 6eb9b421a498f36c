"""A whole sweep with the unmodified trainer and generator: four points, their images, their scores, one CSV."""

from small_world import Swept


def test_every_run_is_finished(swept: Swept) -> None:
    assert swept.code == 0, swept.output
    states = {row["run"].partition("-")[0]: row["state"] for row in swept.rows("results.csv")}
    assert states == dict.fromkeys(
        [
            "network_dim=4_optimizer_type=AdamW",
            "network_dim=4_optimizer_type=Prodigy",
            "network_dim=8_optimizer_type=AdamW",
            "network_dim=8_optimizer_type=Prodigy",
            "baseline",
        ],
        "finished",
    )


def test_computed_arguments_reach_the_trainer(swept: Swept) -> None:
    trained = [row for row in swept.rows("results.csv") if row["params_network_dim"]]
    rates = {(row["params_optimizer_type"], float(row["params_learning_rate"])) for row in trained}
    assert rates == {("AdamW", 1e-3), ("Prodigy", 1.0)}
    assert {row["steps"] for row in trained} == {"2"}


def test_random_images_have_no_face_and_no_score(swept: Swept) -> None:
    for row in swept.rows("results.csv"):
        assert (row["images"], row["no_face_rate"], row["similarity_median"]) == ("4", "1", "")
    assert {row["status"] for row in swept.rows("images.csv")} == {"no_face"}
