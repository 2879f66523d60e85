"""Values by seed, by hand: noise seeds are averaged first, and are no independent repeats."""

import math

import pytest

from maskdiff_jax.reporting import grid
from maskdiff_jax.reporting.experiments import by_repeat, describe, method_label, nested_values, noise_std, seed_name
from tests.reporting.example_grid import base_document, document, write_document


def experiment(tmp_path, values):
    """``values``: (training seed, shot seed, noise seed) -> mask AP."""
    for (seed, shot_seed, noise_seed), value in values.items():
        doc = document(seed=shot_seed, noise_seed=noise_seed)
        doc["config"]["seed"] = seed
        doc["metrics"] = {"segm/AP": value}
        write_document(tmp_path / f"{seed}-{shot_seed}-{noise_seed}", doc)
    found, _ = grid.read(grid.find([tmp_path]).evaluated)
    (out,), _ = grid.experiments(found)
    return out


def test_each_shot_seed_is_the_mean_over_its_models_and_noise_seeds(tmp_path):
    x = experiment(tmp_path, {(0, 0, 0): 10.0, (0, 0, 1): 12.0, (7, 0, 0): 20.0, (0, 1, 0): 30.0})
    assert by_repeat(x, "segm/AP") == {0: (11.0 + 20.0) / 2, 1: 30.0}
    assert by_repeat(x, "bbox/AP") == {} and nested_values(x, "bbox/AP") == {}


def test_noise_spread_is_the_std_within_a_model_averaged_over_models(tmp_path):
    x = experiment(tmp_path, {(0, 0, 0): 1.0, (0, 0, 1): 3.0, (0, 1, 0): 5.0, (0, 1, 1): 6.0, (0, 1, 2): 7.0})
    std, models, least = noise_std(x, "segm/AP")
    assert std == pytest.approx((math.sqrt(2) + 1.0) / 2) and (models, least) == (2, 2)


def test_one_noise_seed_has_no_spread(tmp_path):
    std, models, least = noise_std(experiment(tmp_path, {(0, 0, 0): 1.0, (0, 1, 0): 3.0}), "segm/AP")
    assert math.isnan(std) and (models, least) == (0, 0)


def test_repeats_of_stage_1_are_training_seeds(tmp_path):
    for seed in (0, 1):
        doc = base_document()
        doc["config"]["seed"] = seed
        write_document(tmp_path / str(seed), doc)
    found, _ = grid.read(grid.find([tmp_path]).evaluated)
    (x,), _ = grid.experiments(found)
    assert sorted(by_repeat(x, "segm/AP")) == [0, 1] and seed_name(x.key) == "training seed"
    assert describe(x.key) == "MaskDiff, stage 1 (coco, test)"


def test_labels():
    assert method_label("mrcn_ft_full") == "MRCN+ft-full"
    assert method_label("maskdiff+paper") == "MaskDiff, as in the paper"
    assert method_label("maskdiff+distilled") == "MaskDiff, distilled"
    assert method_label("no_shots") == "MaskDiff without shots"
    assert method_label("guided") == method_label("guided5") == "MaskDiff, w = 5"
    assert method_label("steps8") == "MaskDiff, 8 steps"
    assert method_label("mine") == "mine"
