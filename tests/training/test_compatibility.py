"""What a stage inherits from another run, and what it refuses to start from."""

from pathlib import Path

import pytest

from configs import base, distill, fewshot
from maskdiff_jax import workdir
from maskdiff_jax.training import compatibility

FOLDER = Path("runs/before")
# what configs/fewshot.py may set for stage 2
OWN = frozenset({"model.detector.roi_positive"})


def changed(config, **fields):
    config = config.unlock()
    config.update_from_flattened_dict(fields)
    return config.lock()


def test_model_and_classes_are_inherited():
    before = changed(
        base.get_config("shapes"),
        **{"model.mask.unet.width": 8, "model.mask.diffusion.steps": 7, "data.context": 0.1, "data.flip": 0.0},
    )
    before = changed(before, **{"data.novel_classes": ("star",)})
    config = fewshot.get_config("shapes")
    found = compatibility.inherit(config, before, FOLDER, given=frozenset(), own=OWN)
    assert found == {
        "data.context": 0.1, "data.novel_classes": ("star",), "model.mask.diffusion.steps": 7,
        "model.mask.unet.width": 8,
    }  # fmt: skip
    assert config.data.flip == 0.5 and config.is_locked
    differ = workdir.different_fields(workdir.as_json(config)["model"], workdir.as_json(before)["model"])
    assert set(differ) <= {"detector.roi_positive"}
    assert not compatibility.stage2_problems(config, workdir.as_json(before))
    assert compatibility.inherit(config, before, FOLDER, given=frozenset(), own=OWN) == {}


def test_a_given_field_stays_where_it_may():
    before = changed(base.get_config("shapes"), **{"model.mask.diffusion.p_uncond": 0.2})
    config, given = fewshot.get_config("shapes"), frozenset({"model.mask.diffusion.p_uncond"})
    assert compatibility.inherit(config, before, FOLDER, given=given, own=OWN) == {}
    assert config.model.mask.diffusion.p_uncond == 0.1


def test_the_place_of_the_data_and_image_sizes_are_inherited():
    """Stage 2 would read other data, or images of another size, and nothing would say so."""
    theirs = {"data.root": "mine", "data.train_json": "a.json", "data.buckets": ((64, 64),), "data.short_sides": (64,)}
    before = changed(base.get_config("custom"), **theirs)
    assert compatibility.inherit(fewshot.get_config("custom"), before, FOLDER, given=frozenset()) == theirs
    config = changed(fewshot.get_config("custom"), **{"data.root": "moved"})
    found = compatibility.inherit(config, before, FOLDER, given=frozenset({"data.root"}))
    assert config.data.root == "moved" and "data.root" not in found and len(found) == 3


@pytest.mark.parametrize("name, value", [("model.mask.unet.width", 8), ("data.novel_classes", ("star",))])
def test_a_given_field_that_cannot_differ_is_named(name, value):
    config = changed(fewshot.get_config("shapes"), **{name: value})
    with pytest.raises(
        ValueError, match=rf"^{name}=.* was given, but the run in runs/before .* the value is inherited$"
    ):
        compatibility.inherit(config, base.get_config("shapes"), FOLDER, given=frozenset({name}), own=OWN)


def test_distillation_keeps_its_own_sampler():
    before = changed(fewshot.get_config("shapes"), **{"model.mask.diffusion.steps": 50, "model.mask.unet.width": 8})
    config = distill.get_config("shapes")
    assert compatibility.inherit(config, before, FOLDER, given=frozenset(), own=OWN) == {"model.mask.unet.width": 8}


@pytest.mark.parametrize("arguments", [("shapes", "shapes_hard"), ("shapes,paper=true,shots=5", "shapes")])
def test_presets_and_papers_do_not_mix(arguments):
    with pytest.raises(ValueError, match="runs/before was trained with (preset|paper)="):
        compatibility.inherit(
            fewshot.get_config(arguments[1]), base.get_config(arguments[0]), FOLDER, given=frozenset()
        )


@pytest.fixture
def start(tmp_path):
    """Writes a config as that of a run, which another is then to start from."""

    def write(config):
        (tmp_path / "config.json").write_text(config.to_json_best_effort())
        return tmp_path

    return write


def test_stage_2_names_what_differs_and_calls_no_weights_damaged(start):
    folder = start(base.get_config("shapes"))
    compatibility.check_start(fewshot.get_config("shapes"), folder)
    config = changed(fewshot.get_config("shapes"), **{"model.mask.unet.blocks": 3, "data.context": 0.5})
    with pytest.raises(ValueError) as error:
        compatibility.check_start(config, folder)
    text = str(error.value)
    assert "model.mask.unet.blocks is 1 there and 3 here" in text and "data.context is 0.0 there and 0.5 here" in text
    assert "damaged" not in text and "delete" not in text
    with pytest.raises(FileNotFoundError, match="holds no run to start from"):
        compatibility.check_start(config, folder / "none")


def test_stage_2_needs_slots_for_its_shots():
    before = workdir.as_json(base.get_config("shapes"))
    problems = compatibility.stage2_problems(fewshot.get_config("shapes,shots=6"), before)
    assert len(problems) == 1 and "fewshot.shots=6, but its mask head has model.mask.slots=5" in problems[0]
    config = changed(fewshot.get_config("shapes"), **{"fewshot.novel_init": "zeros"})
    assert "choose finetune, fresh, random, imprint, mean_embedding" in compatibility.stage2_problems(config, before)[0]


def test_what_starts_anew_may_differ():
    """A new mask head may be another net; a classifier that is reset may be of another kind."""
    before = workdir.as_json(base.get_config("shapes"))
    fields = {"model.mask.unet.width": 8, "model.detector.classifier": "linear"}
    config = changed(fewshot.get_config("shapes"), **fields)
    assert len(compatibility.stage2_problems(config, before)) == 2
    config = changed(config, **{"train.reset": ("mask_head/.*",)})
    assert compatibility.stage2_problems(config, before) == [
        "model.detector.classifier is 'cosine' there and 'linear' here: use the same value in both"
    ]
    config = changed(config, **{"train.reset": ("mask_head/.*", "detector/box_predictor/cls_score/.*")})
    assert compatibility.stage2_problems(config, before) == []
    config = changed(config, **{"train.reset": ("mask_head/out/.*",)})  # a part of the head alone
    assert len(compatibility.stage2_problems(config, before)) == 2


@pytest.mark.parametrize(
    "fields, words",
    [
        ({"data.novel_classes": ("star",)}, r"data.novel_classes is \['star', 'ring', 'arrow', 'crescent'\] there"),
        ({"model.detector.width": 8}, "model.detector.width is 16 there and 8 here"),
        ({"model.detector.norm": "frozen_bn"}, "model.detector.norm is 'group' there"),
        ({"stage": "distill"}, "stage is 'base' there and 'distill' here"),
        ({"data.source": "shapes_hard"}, "data.source is 'shapes' there"),
    ],
)
def test_a_detector_is_taken_over_where_it_fits(start, fields, words):
    folder = start(base.get_config("shapes"))
    free = {"model.mask.head": "plain_unet", "model.mask.slots": 1, "train.detector.steps": 1, "paper": True}
    config = changed(base.get_config("shapes"), detector_from=str(folder), **free)
    compatibility.check_detector(config)
    with pytest.raises(ValueError, match=f"cannot be used .detector_from.: {words}"):
        compatibility.check_detector(changed(config, **fields))
    with pytest.raises(FileNotFoundError, match="there is no run in"):
        compatibility.check_detector(changed(config, detector_from=str(folder / "none")))


def test_a_head_that_is_trained_with_its_detector_takes_over_none():
    config = changed(base.get_config("shapes"), detector_from="runs/other", **{"model.mask.head": "cnn"})
    with pytest.raises(ValueError, match="head='cnn' is trained with the detector: omit --config.detector_from"):
        compatibility.check_detector(config)


def test_distillation_takes_over_no_detector(start):
    folder = start(fewshot.get_config("shapes"))
    config = changed(distill.get_config("shapes"), detector_from="runs/other")
    with pytest.raises(ValueError, match="detector_from is given, but distillation keeps"):
        compatibility.check_teacher(config, folder)


@pytest.mark.parametrize(
    "fields, words",
    [
        ({"distill.rounds": (3,)}, "starting with half of distill.steps=8"),
        ({"distill.rounds": (4, 2, 1, 0)}, "each must be half"),
        ({"distill.rounds": ()}, "without guidance there must be at least one"),
        ({"distill.rounds": (4,)}, "set sampler=ddim, eta=0.0, steps=4, guidance=1.0"),
        ({"model.mask.diffusion.eta": 1.0}, "eta=1.0, with guidance=1.0, but .* teaches 2 steps"),
    ],
)
def test_rounds_halve_the_steps_and_are_sampled_as_taught(fields, words):
    compatibility.check_rounds(distill.get_config("shapes"))
    with pytest.raises(ValueError, match=words):
        compatibility.check_rounds(changed(distill.get_config("shapes"), **fields))


def test_a_teacher_has_the_same_head_and_shots(start):
    config = distill.get_config("shapes,shots=2,seed=1")
    teacher = changed(fewshot.get_config("shapes,shots=2,seed=1"), **{"fewshot.novel_init": "random"})
    teacher = changed(teacher, **{"model.mask.diffusion.steps": 50, "data.root": "elsewhere"})
    folder = start(teacher)
    compatibility.check_teacher(config, folder)
    config = changed(config, **{"model.mask.diffusion.prediction": "v", "fewshot.seed": 2, "data.context": 0.1})
    with pytest.raises(ValueError) as error:
        compatibility.check_teacher(config, folder)
    assert (
        "(data.context: 0.0 there, 0.1 here; fewshot.seed: 1 there, 2 here; model.mask.diffusion.prediction: 'sigmoid' "
        "there, 'v' here): use the same values to distill it"
    ) in str(error.value)
    with pytest.raises(ValueError, match="is a run of stage 'base': distillation must start from a run of stage 2"):
        compatibility.check_teacher(config, start(base.get_config("shapes")))


def test_what_stage_2_sets_for_itself_stays_where_it_may():
    config = fewshot.get_config("shapes")
    before = changed(base.get_config("shapes"), **{"model.detector.roi_positive": 0.9, "model.mask.slots": 7})
    own = frozenset({"model.detector.roi_positive", "model.mask.slots"})  # slots are part of the weights
    found = compatibility.inherit(config, before, FOLDER, given=frozenset(), own=own)
    assert found == {"model.mask.slots": 7} and config.model.detector.roi_positive != 0.9


def test_stage_2_may_have_a_cosine_classifier_after_a_linear_one():
    """As TFA's on COCO; the other way the bias would be missing."""
    linear = changed(base.get_config("shapes"), **{"model.detector.classifier": "linear"})
    cosine = fewshot.get_config("shapes")
    assert not compatibility.stage2_problems(cosine, workdir.as_json(linear))
    after = changed(fewshot.get_config("shapes"), **{"model.detector.classifier": "linear"})
    problems = compatibility.stage2_problems(after, workdir.as_json(base.get_config("shapes")))
    assert problems == ["model.detector.classifier is 'cosine' there and 'linear' here: use the same value in both"]
    own = frozenset({compatibility.CLASSIFIER})
    assert compatibility.inherit(cosine, linear, FOLDER, given=frozenset(), own=OWN | own) == {}
    found = compatibility.inherit(cosine, linear, FOLDER, given=frozenset(), own=OWN)
    assert found == {"model.detector.classifier": "linear"}  # unless the config file says which it has
