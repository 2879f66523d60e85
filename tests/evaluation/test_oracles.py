"""Ground-truth boxes and classes in place of detected ones, by hand and through a whole prediction."""

import jax.numpy as jnp
import numpy as np
import pytest

from maskdiff_jax.evaluation import evaluate, oracles
from maskdiff_jax.inference import segment
from maskdiff_jax.model import Model
from maskdiff_jax.types import Detections, SupportSet
from tests import tiny
from tests.data.tiny import squares

ACTIVE = np.array([True, True, True])


def test_ground_truth_of_active_classes_without_crowds():
    data = squares([(1, 0), (2, 2)], [(3, 1)], [])
    crowd = data.infos[0].annotations[0]._replace(crowd=True, class_id=1)
    data.infos[0] = data.infos[0]._replace(annotations=(*data.infos[0].annotations, crowd))
    truth = oracles.ground_truth(data, np.array([True, False, True]))
    assert truth.keys() == {1}
    boxes, class_ids = truth[1]
    assert boxes.tolist() == [[0, 5, 10, 15], [10, 5, 20, 15]] and class_ids.tolist() == [0, 2]


def test_a_box_has_the_class_of_the_object_that_it_overlaps_most():
    truth = {1: (np.array([[0, 5, 10, 15], [10, 5, 20, 15]], np.float32), np.array([0, 2], np.int32))}
    boxes = np.array(
        [
            [0, 5, 10, 15],  # the first object
            [7, 5, 19, 15],  # IoU 9/13 with the second, 3/19 with the first
            [10, 5, 30, 15],  # exactly half
            [10, 5, 30.5, 15],  # less
            [40, 5, 50, 15],
        ],
        np.float32,
    )
    detected = np.array([1, 1, 1, 1, 1], np.int32)
    found = oracles.true_classes(boxes, detected, 1, truth)
    assert found.tolist() == [0, 2, 2, 1, 1] and found.dtype == np.int32
    assert oracles.true_classes(boxes, detected, 2, truth).tolist() == [1] * 5  # an image without objects
    assert oracles.true_classes(boxes[:0], detected[:0], 1, truth).tolist() == []
    without_mask = [(1, 1, 0.01, boxes[1]), (2, 1, 0.01, boxes[1])]
    assert [d[:3] for d in oracles.relabel(without_mask, truth)] == [(1, 2, 0.01), (2, 1, 0.01)]


def prediction(oracle):
    """Results on two images. The detector finds both squares under wrong classes, one of them loosely; a mask fills its
    box.
    """
    data, config = squares([(1, 0), (2, 2)], [(3, 1)]), tiny.config().unlock()
    config.eval.update(oracle=oracle, batch=2, mask_batch=4, mask_min_score=0.3)
    seen = []

    def detect(params, image, image_hw, active):
        original = np.array([[1, 6, 11, 16], [10, 5, 20, 15], [30, 20, 50, 30]])
        boxes = jnp.tile(original * 64.0 / 60.0, (len(image), 1, 1))
        classes, scores = jnp.array([2, 1, 0]), jnp.array([0.9, 0.2, 0.1])  # the second has no mask
        return Detections(boxes, *(jnp.tile(x, (len(image), 1)) for x in (scores, classes)))

    def fill(params, keys, region, shots, classes):
        seen.append(classes.shape)
        return jnp.ones(region.shape[:3])

    nothing = lambda *_: None
    model = Model(**dict.fromkeys(Model._fields, nothing))
    model = model._replace(detect=detect, segment=fill, mask_side=16, gt_mask_side=0, mask_features=None)
    support = SupportSet(np.zeros((3, 2, 16, 16, 4), np.uint8), np.full(3, 2))
    segmenter = segment.make_segmenter(
        model, support, size=16, context=0.0, top_n=3, mask_batches=(4,), threshold=0.5, samples=1, noise_seed=0
    )
    class_ids = np.flatnonzero(ACTIVE).astype(np.int32)
    setup = evaluate.Setup(model, jnp.zeros(1), segmenter, data, {}, support, class_ids)
    found = evaluate.predict(config, setup, evaluate.find_objects(config, setup))
    return found, evaluate.score(config, data, found, np.arange(3)).metrics


def categories(found):
    return [r["category_id"] for r in found.results]


def test_with_ground_truth_boxes_a_perfect_head_scores_100():
    found, metrics = prediction("boxes")
    assert sorted(categories(found)) == [10, 20, 30] and all(r["score"] == 1 for r in found.results)
    assert [metrics[k] for k in ("segm/AP", "bbox/AP", "segm/novel/AP")] == pytest.approx([100.0] * 3)
    assert found.without_mask == 0 == metrics["detections_without_mask"]
    assert prediction("")[1]["segm/AP"] == 0.0


def test_with_ground_truth_classes_boxes_stay_as_they_are():
    plain, found = prediction("")[0], prediction("classes")[0]
    assert [r["bbox"] for r in found.results] == [r["bbox"] for r in plain.results]
    assert [r["score"] for r in found.results] == [r["score"] for r in plain.results]
    assert categories(plain) == [30, 20, 10] * 2
    # image 1: IoU 0.68 with the first square, 1 with the second, none; image 2 has the first square alone
    assert categories(found) == [10, 30, 10, 20, 20, 10]
    assert found.without_mask == plain.without_mask == 4
