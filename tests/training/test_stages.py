"""The phases of each stage, as they are handed to the loop: their programs hold no data."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from configs import base, distill, fewshot
from configs.baselines import ifs_rcnn, imtfa, imtfa_fc, mrcn_ft_full, mtfa
from maskdiff_jax import checkpoint, sharding
from maskdiff_jax.data import pipeline
from maskdiff_jax.data.fewshot import shots as shots_of
from maskdiff_jax.data.support import class_ids, sample_shots
from maskdiff_jax.model import build
from maskdiff_jax.training import loop, optim, stages
from maskdiff_jax.training.side_by_side import train_parts
from maskdiff_jax.types import TrainState
from maskdiff_jax.workdir import load_weights, read_config
from tests import lowered

KILOBYTE = 1024


def small(config, folder):
    """The preset with narrow nets and few scenes."""
    config.data.update(root=str(folder / "shapes"), shapes_train=24, shapes_support=40, shapes_test=4)
    config.model.detector.update(blocks=(1, 1, 1, 1), width=8, fpn_channels=16, fc_channels=16)
    config.model.mask.unet.width = 8
    # a table of the noise schedule has T numbers and is part of the method, not data: keep it under the bound
    config.model.mask.diffusion.timesteps = 200
    return config


@functools.cache
def phases(folder):
    """Name -> phase and the parameters that it is given, of all three stages; nothing is trained."""
    found = {}

    def run(stage, config, workdir):
        workdir.mkdir()
        (workdir / "config.json").write_text(config.to_json_best_effort())

        def train(phase, params):
            found[f"{stage}/{phase.name}"] = phase, params
            return params

        params = train_parts(stages.STAGES[stage](config, workdir), [train])
        checkpoint.save_params(workdir / "checkpoints" / "final", params)

    run("base", small(base.get_config("shapes"), folder), folder / "base")
    second = small(fewshot.get_config("shapes,shots=2"), folder)
    second.init_from = str(folder / "base")
    run("fewshot", second, folder / "fewshot")
    third = small(distill.get_config("shapes,shots=2"), folder)
    third.init_from = str(folder / "fewshot")
    third.distill.guidance = 2.0
    run("distill", third, folder / "distill")
    return found


NAMES = ("base/detector", "base/mask", "fewshot/novel", "fewshot/detector", "fewshot/mask", "distill/guidance",
         "distill/steps4", "distill/steps2")  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("stages")


def test_phases_in_order(folder):
    assert tuple(phases(folder)) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_training_programs_hold_no_data(folder, name):
    """On a GPU a closed-over device array stops the loop; a literal compiles the program again for each value."""
    phase, params = phases(folder)[name]
    labels = optim.label_parameters(params, phase.patterns)
    rule = optim.combine({k: loop._optimizer(phase.steps, p) for k, p in phase.configs.items()}, labels)
    trainable, _ = optim.split(params, labels)
    state = TrainState(jnp.zeros((), jnp.int32), params, rule.init(trainable), trainable)
    decays = {k: p.ema for k, p in phase.configs.items()}
    step = loop.make_step(phase.loss, rule, labels, decays, sharding.make_mesh(1), unit_columns=phase.unit_columns)
    args = (state, next(phase.loader), jax.random.key(0))
    assert not lowered.device_arrays(step, *args)
    assert max(lowered.constants(step, *args), default=0) <= KILOBYTE


def test_the_measure_sees_a_closed_over_array():
    big = np.random.default_rng(0).random(1000, np.float32)
    held = jnp.asarray(big)
    inside, outside = jax.jit(lambda x: x + jnp.asarray(big)), jax.jit(lambda x: x + held)
    assert lowered.constants(inside, 1.0) == lowered.constants(outside, 1.0) == [4000]
    assert not lowered.device_arrays(inside, 1.0) and len(lowered.device_arrays(outside, 1.0)) == 1
    assert lowered.constants(jax.jit(lambda x: x + jnp.zeros(1000)), 1.0) == []


def test_the_cosine_classifier_is_projected_where_it_is_trained(folder):
    for name, (phase, params) in phases(folder).items():
        labels = optim.label_parameters(params, phase.patterns)
        trained = labels[stages.CLASS_VECTORS] != optim.FROZEN
        assert (stages.CLASS_VECTORS in phase.unit_columns) == trained, name


def test_the_second_pass_trains_after_all_else_with_the_box_regression(tmp_path):
    """In phase "detector" it stays as it is; in phase "refine" nothing but it and the box regression is trained."""
    config = small(ifs_rcnn.get_config("shapes,stage=base").unlock(), tmp_path)
    trained = {}

    def train(phase, params):
        labels = optim.label_parameters(params, phase.patterns)
        trained[phase.name] = {name for name, label in labels.items() if label != optim.FROZEN}
        return params

    params = train_parts(stages.base_stage(config, tmp_path), [train])
    assert list(trained)[:2] == ["detector", "refine"]
    boxes = {f"detector/box_predictor/bbox_{x}/{leaf}" for x in ("pred", "variance") for leaf in ("kernel", "bias")}
    second = {x for x in flatten_dict(params, sep="/") if x.startswith("detector/refine/")}
    assert len(second) == 8 and trained["refine"] == second | boxes
    assert boxes < trained["detector"] and not second & trained["detector"]


def test_heads_one_after_the_other_equal_the_joint_loss(folder):
    """The paper's stage 2 trains them together: no loss reads a parameter that the other one trains."""
    (detector, params), (mask, _) = (phases(folder)[f"fewshot/{k}"] for k in ("detector", "mask"))
    for phase, other in ((detector, mask), (mask, detector)):
        jaxpr = jax.make_jaxpr(phase.loss)(params, jax.random.key(3), next(phase.loader)).jaxpr
        paths = ["/".join(k.key for k in path) for path, _ in jax.tree_util.tree_leaves_with_path(params)]
        used = {id(v) for equation in jaxpr.eqns for v in equation.invars}
        read = {path for path, v in zip(paths, jaxpr.invars, strict=False) if id(v) in used}
        mine, theirs = (
            {k for k, v in optim.label_parameters(params, x.patterns).items() if v != optim.FROZEN}
            for x in (phase, other)
        )
        assert mine and mine <= read and not theirs & read


def result(stage, config, workdir):
    """What a stage leaves when training changes nothing, and the names of the phases that it runs."""
    workdir.mkdir()
    names = []

    def train(phase, params):
        names.append(phase.name)
        return params

    return train_parts(stages.STAGES[stage](config, workdir), [train]), names


def equal(a, b):
    return jax.tree.all(jax.tree.map(lambda x, y: np.array_equal(x, y), a, b))


def weights_of(folder):
    return load_weights(folder, build(read_config(folder).model))


def test_stage_1_takes_over_a_detector(folder, tmp_path):
    """Another mask head, from another seed, with the detector of a trained run."""
    phases(folder)
    config = small(base.get_config("shapes"), folder)
    config.model.mask.head, config.seed = "plain_unet", 7
    config.detector_from = str(folder / "base")
    params, names = result("base", config, tmp_path / "run")
    assert names == ["mask"] and equal(params["detector"], weights_of(folder / "base")["detector"])
    with pytest.raises(ValueError, match="cannot be used .*stage is 'base' there and 'fewshot' here"):
        second = small(fewshot.get_config("shapes,shots=2"), folder)
        second.init_from = second.detector_from = str(folder / "base")
        stages.fewshot_stage(second, tmp_path / "none")


def test_stage_2_takes_over_a_detector_of_the_same_shots(folder, tmp_path):
    phases(folder)
    config = small(fewshot.get_config("shapes,shots=2"), folder)
    config.init_from, config.detector_from, config.seed = str(folder / "base"), str(folder / "fewshot"), 7
    params, names = result("fewshot", config, tmp_path / "run")
    theirs = weights_of(folder / "fewshot")["detector"]
    assert names == ["mask"] and equal(params["detector"], theirs)
    assert not equal(theirs, weights_of(folder / "base")["detector"])  # it has other weights for the novel classes
    config.data.shapes_seed = 3  # other scenes, so other shots with the same fields
    with pytest.raises(ValueError, match="other shots than .*shots.json lists"):
        result("fewshot", config, tmp_path / "other")
    config.fewshot.seed = 1
    with pytest.raises(ValueError, match="fewshot.seed is 0 there and 1 here"):
        result("fewshot", config, tmp_path / "third")


def test_stage_2_can_start_with_a_new_mask_head(folder, tmp_path):
    """`train.reset`: the detector is the trained one, the mask head is new and depends on the seed."""
    phases(folder)
    config = small(fewshot.get_config("shapes,shots=2"), folder)
    config.init_from, config.train.reset, config.fewshot.novel_init = str(folder / "base"), ("mask_head/.*",), "random"
    config.seed = 7
    params, names = result("fewshot", config, tmp_path / "run")
    before = weights_of(folder / "base")
    assert names == ["detector", "mask"]
    assert equal(params["detector"]["backbone"], before["detector"]["backbone"])
    new = jax.jit(build(config.model).init)(jax.random.key(7))
    assert equal(params["mask_head"], new["mask_head"]) and not equal(params["mask_head"], before["mask_head"])


def test_novel_classes_by_mean_embeddings(folder, tmp_path):
    """iMTFA: one forward pass over the shots sets the novel class vectors, and nothing else changes."""
    phases(folder)
    config = small(fewshot.get_config("shapes,shots=2"), folder)
    config.init_from, config.fewshot.novel_init = str(folder / "base"), "mean_embedding"
    params, names = result("fewshot", config, tmp_path / "run")
    before, box_features = weights_of(folder / "base"), jax.jit(build(config.model).box_features)
    assert names == ["detector", "mask"] and equal(params["mask_head"], before["mask_head"])  # no phase "novel"
    support = pipeline.open_split(config.data, "support")
    novel, shots = class_ids(support.categories, novel=True), sample_shots(config, support)
    kernel = np.array(before["detector"]["box_predictor"]["cls_score"]["kernel"])
    for c in novel:
        vectors = []
        dataset = shots_of.shot_dataset(support, {c: shots[c]}, "background")
        for batch in pipeline.eval_batches(dataset, config.data, batch=1):
            features = box_features(before, batch.image, batch.image_hw, batch.instances.boxes)[0]
            (i,) = np.flatnonzero(batch.instances.classes[0] == c)
            vectors.append(features[i] / np.linalg.norm(features[i]))
        assert len(vectors) == 2
        kernel[:, c] = np.mean(vectors, 0)
    np.testing.assert_allclose(params["detector"]["box_predictor"]["cls_score"]["kernel"], kernel, atol=1e-5)
    predictor = before["detector"]["box_predictor"] | {"cls_score": params["detector"]["box_predictor"]["cls_score"]}
    assert equal(params["detector"], before["detector"] | {"box_predictor": predictor})


def test_the_three_runs_of_imtfa(folder, tmp_path):
    """A linear classifier, then a cosine one with new weights; then nothing but the novel class vectors changes."""

    def run(file, arg, name, init_from=""):
        config = small(file.get_config(arg), folder)
        config.init_from = init_from and str(tmp_path / init_from)
        config.model.mask.cnn.update(convs=1, channels=8)
        params, names = result("fewshot" if config.stage == "fewshot" else "base", config, tmp_path / name)
        (tmp_path / name / "config.json").write_text(config.to_json_best_effort())
        checkpoint.save_params(tmp_path / name / "checkpoints" / "final", params)
        return params, names, config

    first, names, _ = run(imtfa_fc, "shapes", "first")
    assert names == ["detector"] and "bias" in first["detector"]["box_predictor"]["cls_score"]
    second, names, config = run(imtfa, "shapes,stage=base", "second", "first")
    labels = optim.label_parameters(second, stages._detector_phase(
        config, build(config.model), "detector", pipeline.open_split(config.data, "train"), np.arange(8)
    ).patterns)  # fmt: skip
    assert labels[stages.CLASS_VECTORS] == labels["detector/box_head/fc1/kernel"] == "detector"
    assert {v for k, v in labels.items() if re.match("detector/(backbone|fpn|rpn)/|mask_head/", k)} == {optim.FROZEN}
    assert list(second["detector"]["box_predictor"]["cls_score"]) == ["kernel"]
    for part in ("backbone", "fpn", "rpn", "box_head"):
        assert equal(second["detector"][part], first["detector"][part])
    assert equal(second["detector"]["box_predictor"]["bbox_pred"], first["detector"]["box_predictor"]["bbox_pred"])
    third, names, config = run(imtfa, "shapes,shots=2", "third", "second")
    assert config.train.detector.steps == 0 and equal(third["mask_head"], first["mask_head"])
    kernels = [p["detector"]["box_predictor"]["cls_score"]["kernel"] for p in (second, third)]
    differ = np.flatnonzero((kernels[0] != kernels[1]).any(0))
    np.testing.assert_array_equal(differ, [8, 9, 10, 11])  # the novel classes


def joint_phases(folder, get_config, arg, **fields):
    """Of a baseline's stage, which starts from the run in ``folder / "base"``: what each phase trains; its weights."""
    config = small(get_config(arg), folder).unlock()
    config.update_from_flattened_dict(fields)
    workdir = folder / ("base" if config.stage == "base" else "fewshot")
    workdir.mkdir(exist_ok=True)
    (workdir / "config.json").write_text(config.to_json_best_effort())
    config.init_from = "" if config.stage == "base" else str(folder / "base")
    found = {}

    def train(phase, params):
        labels = optim.label_parameters(params, phase.patterns)
        assert next(phase.loader).gt_masks.any()
        phase.loader.close()
        found[phase.name] = {name for name, label in labels.items() if label != optim.FROZEN}
        return jax.tree.map(lambda x: x + 1.0, params)  # as if everything were trained

    params = train_parts(stages.STAGES[config.stage](config, workdir), [train])
    if config.stage == "base":
        checkpoint.save_params(workdir / "checkpoints" / "final", params)
    return found, params


def test_phases_of_a_mask_head_that_is_trained_with_the_detector(tmp_path):
    """MTFA trains the last layers in stage 2, new ones first; MRCN+ft-full everything; from a linear classifier."""
    novel_only = {"fewshot.classes": "novel"}
    found, base_params = joint_phases(tmp_path, mtfa.get_config, "shapes,stage=base")
    everything = set(flatten_dict(base_params, sep="/"))
    assert found == {"detector": everything}
    last = {name for name in everything if re.match("detector/box_predictor/|mask_head/predictor/", name)}
    cosine = last - {"detector/box_predictor/cls_score/bias"}
    found, params = joint_phases(tmp_path, mtfa.get_config, "shapes,shots=2")
    assert found == {"novel": last, "detector": cosine}
    got, before = (np.asarray(x["mask_head"]["predictor"]["bias"] - y) for x, y in ((params, 1.0), (base_params, 0.0)))
    np.testing.assert_allclose(got[:8], before[:8], rtol=1e-5)  # combined: base classes from stage 1,
    np.testing.assert_allclose(got[8:], 1.0)  # novel ones from new weights, whose bias is 0, and their phase
    kernel = params["detector"]["box_predictor"]["cls_score"]["kernel"] - 1.0
    before = base_params["detector"]["box_predictor"]["cls_score"]["kernel"]
    kept = [*range(8), 12]  # and the background's
    np.testing.assert_allclose(kernel[:, kept], before[:, kept], rtol=1e-5)
    found, params = joint_phases(tmp_path, mtfa.get_config, "shapes,shots=2", **novel_only)
    assert found == {"novel": cosine}
    found, _ = joint_phases(tmp_path, mrcn_ft_full.get_config, "shapes,shots=2")
    assert found == {"novel": last, "detector": everything}


def test_stage_2_is_refused_before_any_data_is_read(folder, monkeypatch):
    phases(folder)
    monkeypatch.setattr(pipeline, "open_split", lambda *a: pytest.fail("data were opened"))
    config = small(fewshot.get_config("shapes,shots=2"), folder)
    config.init_from, config.model.mask.unet.blocks = str(folder / "base"), 3
    with pytest.raises(ValueError, match=re.escape("model.mask.unet.blocks is 1 there and 3 here")):
        stages.fewshot_stage(config, folder / "other")
