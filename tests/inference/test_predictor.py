"""The interface for users: images of any size, the same masks for the same image, a run folder as well as an export."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from maskdiff_jax import workdir
from maskdiff_jax.data.formats.segmentation import encode_mask
from maskdiff_jax.inference import export, predictor, segment
from maskdiff_jax.ops import masks
from tests import lowered, tiny
from tests.reference import paste as reference


@pytest.fixture(scope="module")
def exported(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("export") / "model"
    export.write(folder, tiny.trained())
    return folder


@pytest.fixture(scope="module")
def model() -> predictor.Predictor:
    return tiny.model()


def photo(h: int, w: int, seed: int = 0) -> np.ndarray:
    small = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), np.uint8)
    return np.asarray(Image.fromarray(small).resize((w, h), Image.Resampling.BICUBIC))


@pytest.mark.parametrize("hw", [(64, 64), (150, 90), (20, 33), (1, 1), (7, 700)])
def test_any_image_size(model, hw):
    found = model(photo(*hw))
    n = len(found.scores)
    assert n == 4 or hw == (1, 1) or hw == (7, 700)
    assert found.masks.shape == found.soft.shape == (n, *hw) and found.masks.dtype == bool
    clear = np.abs(found.soft - 0.5) > 1e-6
    assert found.masks.any() == (n > 0) or hw == (1, 1)
    np.testing.assert_array_equal(found.masks[clear], (found.soft >= 0.5)[clear])
    assert [encode_mask(m) for m in found.masks] == found.rles
    assert len(found.labels) == len(found.class_ids) == len(found.boxes) == n
    assert (np.diff(found.scores) <= 0).all()
    assert (found.boxes >= 0).all() and (found.boxes <= np.array([hw[1], hw[0]] * 2) + 1e-3).all()
    assert found.soft.min(initial=0) >= 0 and found.soft.max(initial=0) <= 1
    assert found.confidence.shape == (n,) and ((found.confidence == 0) | (found.confidence >= 0.5)).all()
    assert found.confidence.max(initial=0) <= 1
    for box, soft in zip(found.boxes, found.soft, strict=True):
        ys, xs = np.nonzero(soft)
        if len(ys):  # the mask reaches at most a pixel beyond the box
            assert xs.min() >= box[0] - 2 and xs.max() <= box[2] + 1
            assert ys.min() >= box[1] - 2 and ys.max() <= box[3] + 1


def test_the_same_image_gives_the_same_masks_and_other_noise_others(model):
    image = photo(64, 64)
    first, again, other = model(image), model(image), model(image, image_id=1)
    np.testing.assert_array_equal(first.soft, again.soft)
    np.testing.assert_array_equal(first.boxes, other.boxes)
    assert (first.soft != other.soft).any()


def test_agrees_with_the_path_of_evaluation(model):
    """A square image at the test size is evaluated as is: the mask pasted there is the mask given here."""
    image, seg = photo(64, 64), model._segmenter
    batch = predictor.as_batch(image, 0, tiny.config().data)
    stream = segment.detected_objects(
        seg, model._params, [batch], model.active, min_score=0.0, top_n=4, without_mask=[]
    )
    sampled, *_ = segment.sample_masks(seg, model._params, stream)
    box = masks.context_box(sampled.objects.box[0], tiny.config().data.context, sampled.hw[0])
    found = model(image)
    np.testing.assert_allclose(found.soft[0], reference.paste(sampled.soft[0], box, (64, 64)), atol=1e-6)
    assert segment.paste_all(seg, sampled)[: len(found.rles)] == found.rles[: len(sampled.soft)]


def test_programs_hold_no_data(model):
    """Weights and shots are arguments: as constants they would be copies, compiled again for every set of shots."""
    seg, data = model._segmenter, tiny.config().data
    batch = predictor.as_batch(photo(64, 64), 0, data)
    objects = segment.concatenate([], 16, 1).objects
    objects = jax.tree.map(lambda x: np.zeros((4, *x.shape[1:]), x.dtype), objects)
    programs = {
        seg.detect: (model._params, batch, model.active),
        seg.crop: (model._params, batch, np.zeros((1, 4, 4), np.float32)),
        seg.sample: (model._params, seg.shots, seg.noise, objects),
    }
    for program, arguments in programs.items():
        assert max(lowered.constants(program, *arguments), default=0) <= 1024
        assert not lowered.device_arrays(program, *arguments)


def test_other_shots_give_other_masks_without_compiling(model):
    image, seg = photo(64, 64), model._segmenter
    first, programs = model(image), seg.sample._cache_size()
    model._segmenter = seg._replace(shots=seg.shots[::-1])
    try:
        second = model(image)
    finally:
        model._segmenter = seg
    assert (first.region_soft != second.region_soft).any() and seg.sample._cache_size() == programs


def load(folder, model, **options):
    """A predictor of an export that takes its detections from the programs of `model`, which are compiled already."""
    found = predictor.load(folder, **options)
    found._segmenter = found._segmenter._replace(detect=model._segmenter.detect)
    return found


def test_samples_are_kept_when_asked_for(exported, model):
    image = photo(60, 90)
    several = load(exported, model, samples=3, keep_samples=True)
    kept = several(image)
    assert kept.samples is not None and kept.samples.shape == (len(kept.boxes), 3, 60, 90) and len(kept.boxes)
    np.testing.assert_allclose(kept.samples.mean(1), kept.soft, atol=1e-5)
    assert np.abs(kept.samples[:, 0] - kept.samples[:, 1]).max() > 1e-3
    several._min_score = 1.0
    blank = several(image)
    assert blank.samples is not None and blank.samples.shape == (0, 3, 60, 90)


def test_min_score_drops_detections(exported, model):
    found = load(exported, model, min_score=1.0)(photo(64, 64))
    assert found.masks.shape == (0, 64, 64) and found.labels == []


def test_an_object_of_two_classes_is_reported_once_where_asked_for(exported, model):
    """The best of overlapping detections, in each image by itself; it has the same mask as without."""
    boxes = np.float32([[[0, 0, 40, 40], [2, 0, 42, 40], [0, 0, 40, 18], [44, 44, 60, 60]]])  # IoU 0.9 and 0.45

    def detect(params, batch, active):
        _, _, _, regions = model._segmenter.detect(params, batch, active)
        return boxes, np.float32([[0.9, 0.8, 0.7, 0.6]]), np.int32([[3, 8, 8, 3]]), regions

    def found(**options):
        opened = predictor.load(exported, **options)
        programs = model._segmenter
        opened._segmenter = opened._segmenter._replace(detect=detect, sample=programs.sample, noise=programs.noise)
        return opened([photo(64, 64), photo(64, 64, 1)])

    for all_found, once in zip(found(), found(class_agnostic_nms=True), strict=True):
        assert all_found.labels == ["class3", "class8", "class8", "class3"]
        assert once.labels == ["class3", "class8", "class3"]
        np.testing.assert_array_equal(once.boxes, boxes[0, [0, 2, 3]])
        np.testing.assert_allclose(once.region_soft, all_found.region_soft[[0, 2, 3]], atol=1e-5)
    only_low = found(class_agnostic_nms=True, min_score=0.75)
    assert [len(one) for one in only_low] == [1, 1]


@pytest.mark.parametrize(
    ("options", "message"),
    [({"samples": 0}, "samples=0"), ({"min_score": 2.0}, "min_score=2.0"), ({"batch": 0}, "batch=0: give at least 1")],
)
def test_options_out_of_range(exported, options, message):
    with pytest.raises(ValueError, match=message):
        predictor.load(exported, **options)


def test_what_is_no_image(model, tmp_path):
    with pytest.raises(ValueError, match="an image must be"):
        model(np.zeros((4, 4, 3), np.float32))
    for wrong in (None, 5, [photo(8, 8), None], b"what a file holds"):
        with pytest.raises(TypeError, match="not an image: (NoneType|int|bytes); give a uint8 array"):
            model(wrong)
    with pytest.raises(FileNotFoundError, match="contains no image: give a folder with image files"):
        model(tmp_path)
    for image_id in (-1, 2**31):
        with pytest.raises(ValueError, match="image_id"):
            model(photo(8, 8), image_id=image_id)


def same(first, second):
    np.testing.assert_allclose(first.region_soft, second.region_soft, atol=1e-5)
    np.testing.assert_allclose(first.boxes, second.boxes, atol=1e-3)
    assert first.labels == second.labels and first.file == second.file and first.hw == second.hw


@pytest.mark.parametrize("batch", [1, 3])
def test_several_images_are_found_as_each_alone(model, tmp_path, batch):
    """In a list, a folder and a generator; an image without any object among them."""
    images = [photo(64, 64, 1), photo(64, 64, 5), photo(40, 64, 2), photo(64, 50, 3), photo(30, 30, 4)]
    least = sorted(model(image).scores[0] for image in images)[1]  # one image has nothing that scores so high
    alone = [(found := model(image))[found.scores >= least] for image in images]
    assert sorted(map(len, alone))[:2] == [0, 1]
    several = predictor.Predictor(
        tiny.trained(), noise_seed=0, samples=1, min_score=float(least), keep_samples=False, batch=batch
    )
    several._segmenter = several._segmenter._replace(sample=model._segmenter.sample)
    if batch == 1:
        several._segmenter = several._segmenter._replace(detect=model._segmenter.detect)
    for found, expected in zip(several(images), alone, strict=True):
        same(found, expected)
    for number, image in enumerate(images):
        Image.fromarray(image).save(tmp_path / f"{number}.png")
    (tmp_path / "notes.txt").write_text("not an image, and not looked at")
    in_folder = several(str(tmp_path))
    assert [Path(found.file).name for found in in_folder] == [f"{i}.png" for i in range(5)]
    np.testing.assert_allclose(in_folder[3].region_soft, alone[3].region_soft, atol=1e-5)
    assert several._segmenter.detect._cache_size() == 1  # one program for the padded size


def test_a_generator_in_is_a_generator_out(model):
    taken = []

    def images():
        for seed in range(5):
            taken.append(seed)
            yield photo(64, 64, seed)

    found = model(images())
    assert not taken and iter(found) is found
    assert len(next(found)) == 4 and taken == [0]
    assert len(list(found)) == 4 and taken == [0, 1, 2, 3, 4]


def test_compiled_once_for_each_padded_size():
    """Images of many sizes, alone and together, need a program for each padded size and each number of objects."""
    trained = tiny.trained()
    config = trained.config.copy_and_resolve_references().unlock()
    config.data.buckets = ((32, 64), (64, 64))
    found = predictor.Predictor(
        trained._replace(config=config.lock()), noise_seed=0, samples=1, min_score=0.0, keep_samples=False
    )
    found._segmenter = found._segmenter._replace(sample=tiny.model()._segmenter.sample)
    before = found._segmenter.sample._cache_size()
    found([photo(64, 64), photo(20, 60), photo(200, 210), photo(60, 200), photo(64, 40)])
    found(photo(10, 30))
    assert found._segmenter.detect._cache_size() == 2
    assert found._segmenter.sample._cache_size() <= max(before, len(predictor.MASK_BATCHES))


def test_without_ml_collections_from_any_folder(exported, tmp_path):
    """An export is opened by a process that has the package alone, in another folder."""
    Image.fromarray(photo(40, 60)).save(tmp_path / "photo.png")
    code = (
        "import sys; sys.modules['ml_collections'] = None\n"
        "import maskdiff_jax; assert 'jax' not in sys.modules\n"
        f"model = maskdiff_jax.load({str(exported)!r})\n"
        "found = model('photo.png'); found.save('out/masks.png')\n"
        "print(len(found), found.hw, type(found).__name__)"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(predictor.__file__).parents[2])}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.stdout.split("\n")[0] == "4 (40, 60) Detections", done.stderr
    assert (tmp_path / "out" / "masks.png").is_file()


def test_type_information_is_shipped():
    assert (Path(predictor.__file__).parents[1] / "py.typed").is_file()


def test_a_folder_without_a_model(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no model: give the folder of a trained run"):
        predictor.load(tmp_path)


def test_an_export_predicts_as_the_model_did(exported, model):
    again, image = predictor.load(exported), photo(64, 64)
    assert again.categories == model.categories
    jax.tree.map(np.testing.assert_array_equal, again._params, model._params)
    again._segmenter = model._segmenter._replace(shots=again._segmenter.shots)  # its programs are compiled already
    np.testing.assert_array_equal(again(image).soft, model(image).soft)


def test_a_run_folder_is_a_model(tmp_path, model):
    """Without an export: config and weights from the folder, the shots from the dataset."""
    run = tiny.write_run(tmp_path / "run")
    config = workdir.read_config(run)
    config.model.mask.diffusion.steps = 1
    found = predictor.load(run, config=config, samples=3)
    assert [c.name for c in found.categories if c.novel] == ["star", "ring", "arrow", "crescent"]
    assert found._config.model.mask.diffusion.steps == 1 and found._samples == 3
    assert (
        found._segmenter.shots.shape == (12, 2, 16, 16, 4)
        and np.asarray(found._segmenter.shots).any((1, 2, 3, 4)).all()
    )
    jax.tree.map(np.testing.assert_array_equal, found._params, model._params)
    shutil.rmtree(workdir.weights_folder(run))
    with pytest.raises(
        FileNotFoundError, match="training has not finished in .*: run its launch/train.py command again"
    ):
        predictor.load(run)
