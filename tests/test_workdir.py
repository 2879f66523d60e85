"""A run folder: which config it is of, and what it gives back."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from configs import base, distill, fewshot
from maskdiff_jax import checkpoint, workdir


@pytest.mark.parametrize(
    "config", [base.get_config("coco"), fewshot.get_config("shapes,shots=1"), distill.get_config()]
)
def test_a_config_comes_back_as_it_was(tmp_path, config):
    workdir.create(tmp_path, config)
    back = workdir.read_config(tmp_path)
    before, after = (flatten_dict(c.to_dict(), sep=".") for c in (config, back))
    assert after == before
    assert {k: type(v) for k, v in after.items()} == {k: type(v) for k, v in before.items()}
    assert back.is_locked
    with pytest.raises(AttributeError):
        back.eval.no_such_field = 1
    with pytest.raises(TypeError):
        back.eval.samples = "many"
    back.eval.samples = 3


@pytest.mark.parametrize("text", ['{"stage": "base", ', "[1, 2]", "\x00\x01", '{"stage": "base"}', ""])
def test_a_broken_config_is_named_with_its_fix(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ValueError, match=r"config\.json .*restore it from a backup"):
        workdir.read_config(tmp_path)


def test_a_folder_without_a_run(tmp_path):
    with pytest.raises(FileNotFoundError, match="no run in .*none: train first"):
        workdir.check(tmp_path / "none", base.get_config())
    assert not workdir.is_trained(tmp_path)


def test_a_folder_belongs_to_what_was_trained(tmp_path):
    config = base.get_config("shapes").unlock()
    config.seed = 8
    workdir.create(tmp_path, config)
    config.seed = 9  # nothing was trained yet
    workdir.create(tmp_path, config)
    (tmp_path / "checkpoints" / "mask" / "3").mkdir(parents=True)
    config.model.mask.diffusion.update(steps=7, guidance=3.0, spacing="even")
    config.eval.samples, config.data.root, config.data.test_json = 3, "elsewhere", "other.json"
    config.distill.steps = 16  # of another stage
    workdir.check(tmp_path, config)
    assert workdir.read_config(tmp_path).eval.samples == 1  # `check` writes nothing
    workdir.create(tmp_path, config)
    assert workdir.read_config(tmp_path).eval.samples == 3
    config.model.mask.diffusion.prediction = "v"
    config.train.mask.steps += 1
    with pytest.raises(ValueError) as error:
        workdir.create(tmp_path, config)
    text = str(error.value)
    assert "model.mask.diffusion.prediction: 'sigmoid' there, 'v' here" in text
    assert f"train.mask.steps: {config.train.mask.steps - 1} there, {config.train.mask.steps} here" in text
    assert "delete" not in text and "eval" not in text


def test_workers_stay_until_training_is_finished(tmp_path):
    """The position of the data iterator that a checkpoint holds is one per worker."""
    config = base.get_config("shapes").unlock()
    workdir.create(tmp_path, config)
    (tmp_path / "checkpoints" / "mask" / "3").mkdir(parents=True)
    config.data.workers = 3
    with pytest.raises(ValueError, match="data.workers: 0 there, 3 here"):
        workdir.create(tmp_path, config)
    workdir.weights_folder(tmp_path).mkdir()
    workdir.create(tmp_path, config)


def test_the_cosine_scale_may_change_after_training(tmp_path):
    """iMTFA scores with another scale than it was trained with; a run that resumes trains with the one it has."""
    config = base.get_config("shapes").unlock()
    workdir.create(tmp_path, config)
    (tmp_path / "checkpoints" / "detector" / "3").mkdir(parents=True)
    config.model.detector.cosine_scale = 10.0
    workdir.check(tmp_path, config)
    with pytest.raises(ValueError, match="model.detector.cosine_scale: 20.0 there, 10.0 here"):
        workdir.create(tmp_path, config)
    workdir.weights_folder(tmp_path).mkdir()
    workdir.create(tmp_path, config)


def test_what_was_not_trained_yet_may_change(tmp_path):
    """A batch that does not fit into memory can be lowered, as `cli` says, also that of a later phase."""
    config = fewshot.get_config("shapes").unlock()
    workdir.create(tmp_path, config)
    (tmp_path / "checkpoints" / "novel" / "3.orbax-checkpoint-tmp").mkdir(parents=True)  # cut off before it was whole
    config.train.novel.batch, config.seed = 4, 5
    workdir.create(tmp_path, config)
    (tmp_path / "checkpoints" / "detector" / "3").mkdir(parents=True)
    config.train.mask.batch = 4
    workdir.create(tmp_path, config)
    assert workdir.read_config(tmp_path).train.mask.batch == 4
    for phase in ("detector", "novel"):  # the detector started from the novel classes of the phase before it
        changed = config.copy_and_resolve_references()
        changed.train[phase].batch = 2
        with pytest.raises(ValueError, match=f"train.{phase}.batch: . there, 2 here"):
            workdir.create(tmp_path, changed)
    workdir.weights_folder(tmp_path).mkdir()
    config.train.mask.batch = 2
    with pytest.raises(ValueError, match="train.mask.batch: 4 there, 2 here"):
        workdir.create(tmp_path, config)


def test_another_test_set_of_coco(tmp_path):
    """The check that the json has the published contents can be turned off with it."""
    config = base.get_config("coco").unlock()
    workdir.create(tmp_path, config)
    workdir.weights_folder(tmp_path).mkdir(parents=True)
    config.data.update(test_json="mine.json", test_images="mine", counts="", more_images=())
    workdir.check(tmp_path, config)


def test_shots_are_those_of_training(tmp_path):
    workdir.check_shots(tmp_path, {0: (3,)})  # stage 1 has none
    shots = {0: (3, 1), 7: ()}
    (tmp_path / "shots.json").write_text('{"0": [3, 1], "7": []}')
    workdir.check_shots(tmp_path, shots)
    for other in ({0: (1, 3), 7: ()}, {0: (3, 1)}, {**shots, 2: (4,)}):
        with pytest.raises(
            ValueError, match=r"other shots than .*shots\.json lists \(1 of . classes differ\): set --conf"
        ):
            workdir.check_shots(tmp_path, other)
    (tmp_path / "shots.json").write_text('{"0": [3')
    with pytest.raises(ValueError, match=r"shots\.json is broken .*: restore it from a backup"):
        workdir.check_shots(tmp_path, shots)


def test_a_distilled_run_belongs_to_the_steps_that_were_taught(tmp_path):
    config = distill.get_config("shapes").unlock()
    workdir.create(tmp_path, config)
    (tmp_path / "checkpoints" / "steps4" / "3").mkdir(parents=True)
    config.distill.steps = 16
    config.model.mask.diffusion.spacing = "even"
    with pytest.raises(ValueError, match=r"distill\.steps: 8 there, 16 here; model\.mask\.diffusion\.spacing"):
        workdir.create(tmp_path, config)


def test_a_run_keeps_the_row_that_it_was_trained_for(tmp_path):
    """An evaluation of it may be another row."""
    config = base.get_config("shapes").unlock()
    workdir.create(tmp_path, config)
    (tmp_path / "checkpoints" / "mask" / "3").mkdir(parents=True)
    config.method = "guided"
    workdir.check(tmp_path, config)
    for folder in ("mask", "final"):
        (tmp_path / "checkpoints" / folder).mkdir(exist_ok=True)
        with pytest.raises(ValueError, match="another config .method: 'maskdiff' there, 'guided' here."):
            workdir.create(tmp_path, config)


class SmallModel:
    """A model of one parameter."""

    @staticmethod
    def init(key):
        return {"a": {"w": jax.random.normal(key, (3,))}}


def test_weights_to_start_from(tmp_path):
    config, model = base.get_config("shapes").unlock(), SmallModel()
    new = workdir.initial_params(config, model)
    np.testing.assert_array_equal(new["a"]["w"], jax.random.normal(jax.random.key(0), (3,)))
    workdir.create(tmp_path, config)
    with pytest.raises(FileNotFoundError, match=f"training has not finished in {tmp_path}: run its launch/train.py"):
        workdir.load_weights(tmp_path, model)
    checkpoint.save_params(workdir.weights_folder(tmp_path), {"a": {"w": jnp.arange(3.0)}})
    assert workdir.is_trained(tmp_path)
    config.init_from = str(tmp_path)
    np.testing.assert_array_equal(workdir.initial_params(config, model)["a"]["w"], [0, 1, 2])
    config.model.mask.unet.width *= 2
    with pytest.raises(ValueError, match="model.mask.unet.width is 32 there and 64 here"):
        workdir.initial_params(config, model)
    config.init_from = str(tmp_path / "none")
    with pytest.raises(FileNotFoundError, match="holds no run to start from"):
        workdir.initial_params(config, model)


def test_seconds_add_up(tmp_path):
    assert workdir.read_seconds(tmp_path) == {}
    workdir.add_seconds(tmp_path, "mask", 1.26)
    workdir.add_seconds(tmp_path, "mask", 1.0)
    workdir.add_seconds(tmp_path, "detector", 5.0)
    assert workdir.read_seconds(tmp_path) == {"mask": 2.3, "detector": 5.0}
    assert json.loads((tmp_path / "seconds.json").read_text())["mask"] == 2.3
    (tmp_path / "seconds.json").write_text('{"mask": 2.')
    with pytest.raises(ValueError, match=r"seconds\.json is broken .*: delete this file"):
        workdir.read_seconds(tmp_path)
    for value in ('"long"', "NaN", "true", "[1]"):
        (tmp_path / "seconds.json").write_text(f'{{"mask": {value}}}')
        with pytest.raises(ValueError, match=r"seconds\.json is broken .*: delete this file"):
            workdir.add_seconds(tmp_path, "mask", 1.0)
