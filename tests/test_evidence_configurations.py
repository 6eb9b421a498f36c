"""Configurations: means over training seeds, ranking, and the lead of the best."""

from dataclasses import replace

import pytest
from test_answers import grid, run, trained_with

from orchestrator.evidence import configurations
from orchestrator.model import State


def test_runs_of_one_setting_form_a_configuration_and_the_best_comes_first() -> None:
    found = configurations.group(list(grid(0.1, seeds=3)))
    assert [one.label for one in found] == ["network_dim 32", "network_dim 16"]
    assert [len(one.runs) for one in found] == [3, 3]
    best, other = found
    assert best.value == pytest.approx(0.615, abs=0.01)
    assert best.interval
    assert best.interval.low < best.value < best.interval.high
    lead = configurations.lead(best, other)
    assert lead
    assert lead.mean == pytest.approx(0.1, abs=0.01)
    assert lead.interval().low > 0


def test_one_seed_has_a_value_without_an_interval() -> None:
    best, other = configurations.group(list(grid(0.1, seeds=1)))
    assert (best.interval, configurations.lead(best, other)) == (None, None)


def test_the_label_names_only_what_varies() -> None:
    runs = [run({"network_dim": dim, "base_model": "x", "seed": 1}, 0.5) for dim in (16, 32)]
    assert {one.label for one in configurations.group(runs)} == {"network_dim 16", "network_dim 32"}
    assert configurations.group(runs[:1])[0].label == "network_dim 16, base_model x"
    assert configurations.group([run({"seed": 1}, 0.5)])[0].label == "all runs"


def test_the_baseline_takes_part_in_the_ranking() -> None:
    bare = run({"base_model": "x"}, 0.7)
    baseline = replace(bare, run=replace(bare.run, point=replace(bare.run.point, is_baseline=True, dims=())))
    runs = [run({"base_model": "x", "network_dim": 16, "seed": seed}, 0.6) for seed in (1, 2)]
    found = configurations.group([*runs, baseline])
    assert [one.label for one in found] == ["baseline x", "base_model x, network_dim 16"]
    lead = configurations.lead(*found[::-1])
    assert lead
    assert lead.mean == pytest.approx(-0.1, abs=0.01)


def test_degraded_and_unfinished_runs_do_not_count_and_come_last() -> None:
    first, second, *others = grid(0.1, seeds=3)
    changed = replace(second, training=(trained_with(degraded=True),))
    pending = run({"network_dim": 64, "seed": 1}, 0.9, state=State.PENDING)
    found = configurations.group([first, changed, *others, pending])
    assert [one.label for one in found] == ["network_dim 32", "network_dim 16", "network_dim 64"]
    assert (len(found[0].counted), found[0].degraded, found[2].value) == (2, 1, None)
    all_degraded = [replace(one, training=(trained_with(degraded=True),)) for one in (second,)]
    assert [one.label for one in configurations.group([first, *all_degraded])] == ["network_dim 16", "network_dim 32"]
