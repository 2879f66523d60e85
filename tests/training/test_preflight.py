"""What would stop a run late is an error before it trains."""

import json
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import jax
import pytest

from configs import base, distill, fewshot
from maskdiff_jax.data import checks, pipeline
from maskdiff_jax.data.formats import coco
from maskdiff_jax.data.synthetic import scenes
from maskdiff_jax.model import build
from maskdiff_jax.training import preflight, stages

NARROW = {"blocks": (1, 1, 1, 1), "width": 8, "fpn_channels": 16, "fc_channels": 16}


def narrow(config):
    config = config.unlock()
    config.model.detector.update(NARROW)
    config.model.mask.size = 32
    config.model.mask.unet.update(width=8, multipliers=(1,), attention=())
    return config


@pytest.fixture
def custom(tmp_path):
    """Stage 1 on a custom dataset with 4 photos per split."""
    config = narrow(base.get_config("custom"))
    config.data.update(root=str(tmp_path), workers=0, novel_classes=("ring",))
    config.model.num_classes = len(scenes.NAMES)
    for split in ("train", "test"):
        coco.save(scenes.scenes("shapes", split, 0, 4), tmp_path / f"{split}.json", tmp_path / split)
    return config


def edit(path, change):
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


def test_nothing_to_say(custom, tmp_path):
    assert preflight.check(custom, tmp_path / "run") == []
    assert preflight.check(narrow(base.get_config("shapes")), tmp_path / "run") == []
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("count", [3, 13])
def test_the_number_of_classes(custom, tmp_path, count):
    """Objects of the others would train as background, and nothing would say so."""
    custom.model.num_classes = count
    with pytest.raises(ValueError, match=f"^train.json has 12 classes, but the model has {count}: .*num_classes=12$"):
        preflight.check(custom, tmp_path)
    config = narrow(base.get_config("shapes"))
    config.model.num_classes = count
    with pytest.raises(ValueError, match=f"^shapes has 12 classes, but the model has {count}: "):
        preflight.check(config, tmp_path)


def test_a_dataset_of_novel_classes_alone(custom, tmp_path):
    """One class is enough for stage 1, but not a novel one."""
    for name in ("train.json", "test.json"):
        edit(tmp_path / name, lambda d: d.update(categories=[{"id": 1, "name": "ring"}]))
    custom.model.num_classes = 1
    with pytest.raises(ValueError, match="^train.json: no base class: every class is in data.novel_classes"):
        preflight.check(custom, tmp_path)
    custom.data.novel_classes = ()
    for name in ("train.json", "test.json"):
        edit(tmp_path / name, lambda d: [a.update(category_id=1) for a in d["annotations"]])
    assert preflight.check(custom, tmp_path) == []


def test_the_test_split(custom, tmp_path):
    edit(tmp_path / "test.json", lambda d: d["categories"][3].update(name="sphere"))
    with pytest.raises(ValueError, match=r"test.json lists other classes than train.json, e.g. '\w+' \(id 4\)"):
        preflight.check(custom, tmp_path)
    (tmp_path / "test.json").unlink()
    with pytest.raises(FileNotFoundError, match=str(tmp_path / "test.json")):
        preflight.check(custom, tmp_path)
    custom.data.test_json = ""  # a dataset without a test split
    assert preflight.check(custom, tmp_path) == []


@pytest.mark.parametrize("split", ["train", "test"])
def test_missing_images(custom, tmp_path, split):
    (tmp_path / split / f"{split}_000002.png").unlink()
    with pytest.raises(FileNotFoundError, match=f"1 of 4 images of custom {split} .*among them {split}_000002.png"):
        pipeline.open_split(custom.data, split)
    if split == "test":
        with pytest.raises(FileNotFoundError, match="1 of 4"):
            preflight.check(custom, tmp_path)
    shutil.rmtree(tmp_path / split)
    with pytest.raises(FileNotFoundError, match="image folder of custom is missing"):
        pipeline.open_split(custom.data, split)


def test_shots_that_stage_2_will_want(custom, tmp_path):
    _, count = checks.objects_per_class(tmp_path / "train.json")
    dataset = pipeline.open_split(custom.data, "train")
    objects = [a.class_id + 1 for i in dataset.infos for a in i.annotations]
    assert {k: v for k, v in count.items() if v} == {k: objects.count(k) for k in set(objects)}
    custom.fewshot.short_classes = "error"
    notes = preflight.check(custom, tmp_path)
    assert [int(re.match(r"stage 2 with (\d+) shots", n)[1]) for n in notes] == [1, 5, 10]
    assert "train.json has too few objects of " in notes[0] and "more classes" in notes[0]
    custom.paper, custom.fewshot.shots = True, 5  # the mask head has inputs for 5 shots, neither more nor fewer
    with pytest.raises(ValueError, match="stage 2 with 5 shots: .* has too few objects .*works only for this K"):
        preflight.check(custom, tmp_path)
    custom.fewshot.update(sampler="imtfa", shots=3)
    with pytest.raises(
        ValueError, match="3 shots: fewshot.sampler=imtfa supports only K = 1, 5, 10; use fewshot.sampler=instances"
    ):
        preflight.check(custom, tmp_path)


def test_crowds_and_faulty_annotations_are_no_objects(custom, tmp_path):
    _, before = checks.objects_per_class(tmp_path / "train.json")

    def change(document):
        document["annotations"][0]["iscrowd"] = 1
        document["annotations"] += [{"category_id": "9"}, 7, {}]

    edit(tmp_path / "train.json", change)
    _, after = checks.objects_per_class(tmp_path / "train.json")
    assert sum(after.values()) == sum(before.values()) - 1


def test_settings_of_the_last_phase(tmp_path, monkeypatch):
    config = narrow(base.get_config("shapes"))
    config.train.mask.optimizer = "adam"
    with pytest.raises(ValueError, match="train.mask: unknown optimizer 'adam'"):
        preflight.check(config, tmp_path)
    config.train.mask.update(optimizer="adamw", schedule="linear")
    with pytest.raises(ValueError, match="train.mask: unknown schedule 'linear'"):
        preflight.check(config, tmp_path)
    config.train.mask.update(schedule="constant", batch=12)
    monkeypatch.setattr(preflight, "make_meshes", lambda config: [SimpleNamespace(size=8)])
    with pytest.raises(ValueError, match="train.mask.batch=12 cannot be divided by 8 devices"):
        preflight.check(config, tmp_path)
    config.train.mask.steps = 0  # a phase that does not run
    assert preflight.check(config, tmp_path) == []
    config.train.detector.batch = 0
    with pytest.raises(ValueError, match="train.detector has batch=0"):
        preflight.check(config, tmp_path)


def test_room_for_checkpoints(tmp_path, monkeypatch):
    config = narrow(base.get_config("shapes"))
    params = jax.eval_shape(build(config.model).init, jax.random.key(0))
    detector, mask = (sum(x.size for x in jax.tree.leaves(params[k])) for k in ("detector", "mask_head"))
    # a state has all parameters, and mean and two moments of its part; the first phase's stay while the second trains
    states = [detector + mask + 3 * part for part in (detector, mask)]
    need = 4 * (2 * sum(states) + max(states) + detector + mask)
    assert preflight.checkpoint_bytes(config) == need
    config.train.detector.optimizer = config.train.mask.optimizer = "sgd"
    assert preflight.checkpoint_bytes(config) == need - 4 * (2 * (detector + mask) + max(detector, mask))
    folder = tmp_path / "not" / "there"
    for free, fits in ((need, True), (need // 2, False)):
        monkeypatch.setattr(preflight.shutil, "disk_usage", lambda path, free=free: SimpleNamespace(free=free))
        if fits:
            preflight.check(config, folder)
        else:
            with pytest.raises(OSError, match="free some space, or lower train.keep"):
                preflight.check(config, folder)
    # a run that resumes needs no room for what it has written
    (folder / "checkpoints" / "mask" / "2").mkdir(parents=True)
    (folder / "checkpoints" / "mask" / "2" / "d").write_bytes(bytes(need - need // 2))
    preflight.check(config, folder)


def test_room_for_a_mask_head_that_is_trained_with_the_detector(tmp_path):
    """One phase in stage 1, which trains both; the mask phase's fields are not read."""
    config = narrow(base.get_config("shapes"))
    config.model.mask.head, config.train.mask.optimizer = "cnn", "none"
    params = sum(x.size for x in jax.tree.leaves(jax.eval_shape(build(config.model).init, jax.random.key(0))))
    state = params + 3 * params
    assert preflight.checkpoint_bytes(config) == 4 * (2 * state + state + params)
    assert preflight.check(config, tmp_path) == []


def test_room_for_the_rounds_of_distillation():
    config = narrow(distill.get_config("shapes"))
    params = jax.eval_shape(build(config.model).init, jax.random.key(0))
    detector, mask = (sum(x.size for x in jax.tree.leaves(params[k])) for k in ("detector", "mask_head"))
    config.train.keep, config.distill.rounds = 1, (4, 2)
    state = detector + mask + mask + 3 * mask  # all, the teacher's mask head, mean and two moments
    assert preflight.checkpoint_bytes(config) == 4 * (2 * state + state + detector + mask)
    config.distill.guidance = 2.0  # one more phase
    assert preflight.checkpoint_bytes(config) == 4 * (3 * state + state + detector + mask)


def test_both_phases_are_made_before_the_first_trains(tmp_path):
    """Here the mask head's regions would reach out of its crops, which only its loader knows."""
    first, second = narrow(base.get_config("shapes")), narrow(fewshot.get_config("shapes,shots=1"))
    for config in (first, second):
        config.data.update(root=str(tmp_path / "shapes"), shapes_train=8, shapes_support=40, box_jitter=0.4)
    second.init_from = str(tmp_path)
    Path(tmp_path / "config.json").write_text(first.to_json_best_effort())
    second.fewshot.novel_init = "random"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stages, "starting_params", lambda config, model: jax.eval_shape(model.init, jax.random.key(0)))
        with pytest.raises(ValueError, match="data.crop_margin is 0.25, but"):
            stages.base_stage(first, tmp_path)
        with pytest.raises(ValueError, match="data.crop_margin is 0.25, but"):
            stages.fewshot_stage(second, tmp_path)


def test_a_shared_detector_has_no_phase():
    """Its batch is not checked, its checkpoints need no space, and no device is kept for it."""
    config = narrow(base.get_config("shapes"))
    whole = preflight.checkpoint_bytes(config)
    config.detector_from, config.train.detector.optimizer = "runs/other", "adagrad"
    assert preflight.trained_phases(config) == ("mask",)
    assert preflight.checkpoint_bytes(config) < whole
    preflight.check(config, "runs/none")
    config.detector_from = ""
    with pytest.raises(ValueError, match="train.detector: unknown optimizer"):
        preflight.check(config, "runs/none")


def test_a_run_that_trains_nothing_says_so():
    config = narrow(base.get_config("shapes"))
    assert preflight.check(config, "runs/none") == []
    config.train.detector.steps = config.train.mask.steps = 0
    assert preflight.check(config, "runs/none") == ["nothing to train: every phase of this run has 0 steps"]


def test_the_plan_counts_what_is_trained():
    """Frozen features are not trained in stage 2, and the mask head's steps are of objects."""
    first, second = (preflight.plan(narrow(m.get_config("shapes"))) for m in (base, fewshot))
    assert [x.partition(":")[0] for x in (*first, *second)] == ["detector", "mask", "novel", "detector", "mask"]
    counts = [list(map(int, re.findall(r"(\d+) of (\d+) param", x.replace(",", ""))[0])) for x in (*first, *second)]
    assert counts[0][0] == counts[0][1] == counts[3][1] and counts[2][0] == counts[2][1] == counts[3][0] < counts[3][1]
    assert first[0].startswith("detector: 3,000 steps of 8 images, ") and "3,000 steps of 16 objects" in first[1]


def test_the_plan_of_distillation():
    """A line for guidance, if it is taught, and one for each halving of the steps."""
    config = narrow(distill.get_config("shapes"))
    lines = preflight.plan(config)
    assert [x.partition(":")[0] for x in lines] == ["steps4", "steps2"]
    assert lines[0].startswith("steps4: 300 steps of 8 objects, ") and lines[0].endswith("parameters are trained")
    config.distill.guidance = 2.0
    assert [x.partition(":")[0] for x in preflight.plan(config)] == ["guidance", "steps4", "steps2"]
    config.train.mask.steps = 0
    assert preflight.plan(config) == []
