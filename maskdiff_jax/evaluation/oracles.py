"""Replaces detected boxes or classes by those of the ground truth, to score a perfect detector: ``eval.oracle``.

n objects, m ground-truth objects of one image. Boxes are xyxy in pixels of the image as stored. Ground truth here is
that of active classes, without crowds.
"""

from collections.abc import Iterable, Iterator

import numpy as np
from pycocotools import mask as mask_utils

from maskdiff_jax.data.dataset import Dataset
from maskdiff_jax.inference.segment import Objects

SAME_OBJECT = 0.5  # IoU of boxes from which on a detection is of a ground-truth object, as in AP50
Truth = dict[int, tuple[np.ndarray, np.ndarray]]  # image id -> boxes [m, 4] float32, class ids [m] int32
Detection = tuple[int, int, float, np.ndarray]  # image id, class id, score, box [4]


def ground_truth(dataset: Dataset, active: np.ndarray) -> Truth:
    """The boxes and classes of the ground-truth objects of each image that has any.

    Args:
      active: [C] bool, the classes that may be detected.
    """
    truth = {}
    for info in dataset.infos:
        objects = [a for a in info.annotations if not a.crowd and active[a.class_id]]
        if objects:
            boxes = np.array([a.box for a in objects], np.float32)
            truth[info.id] = boxes, np.array([a.class_id for a in objects], np.int32)
    return truth


def true_classes(boxes: np.ndarray, class_ids: np.ndarray, image_id: int, truth: Truth) -> np.ndarray:
    """The class of the ground-truth object that each box of an image overlaps most.

    Args:
      boxes: [n, 4].
      class_ids: [n], the detected classes; a box keeps its own if no object overlaps it by IoU >= `SAME_OBJECT`.

    Returns:
      [n], the dtype of ``class_ids``.
    """
    if image_id not in truth or not len(boxes):
        return class_ids
    true_boxes, true_ids = truth[image_id]
    iou = np.asarray(mask_utils.iou(_xywh(boxes), _xywh(true_boxes), [0] * len(true_boxes)))  # [n, m]
    best = iou.argmax(1)
    return np.where(iou.max(1) >= SAME_OBJECT, true_ids[best], class_ids).astype(class_ids.dtype)


def with_true_classes(
    stream: Iterable[tuple[Objects, np.ndarray]], truth: Truth
) -> Iterator[tuple[Objects, np.ndarray]]:
    """The detected objects of ``segment.detected_objects``, each with the class that ``true_classes`` gives it."""
    for objects, hw in stream:
        image_id = int(objects.image_id[0])  # objects of one image
        yield objects._replace(class_id=true_classes(objects.box, objects.class_id, image_id, truth)), hw


def relabel(detections: list[Detection], truth: Truth) -> list[Detection]:
    """The detections without a mask, as ``segment.detected_objects`` lists them, likewise."""
    return [
        (image_id, int(true_classes(box[None], np.array([class_id]), image_id, truth)[0]), score, box)
        for image_id, class_id, score, box in detections
    ]


def _xywh(boxes: np.ndarray) -> np.ndarray:
    return np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], 1).astype(np.float64)
