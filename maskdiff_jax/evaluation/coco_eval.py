"""COCO results and their average precision, by pycocotools; over all, base and novel classes.

A COCO result is one detection as COCO's result files hold it: {"image_id", "category_id", "score", "bbox" [x, y, w, h]
in pixels, "segmentation" as compressed RLE}. Class ids are positions in `Dataset.categories`, category ids those of the
file.
"""

import contextlib
import io
from typing import Any, NamedTuple

import numpy as np
from pycocotools import mask as mask_utils
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from maskdiff_jax.data.dataset import Dataset
from maskdiff_jax.data.formats import ground_truth as truth_file
from maskdiff_jax.data.formats.coco import ground_truth
from maskdiff_jax.inference.results import result_row as result_row


class Scores(NamedTuple):
    """Average precision in percent. Groups and classes without ground truth are absent."""

    metrics: dict[str, float]  # "bbox/AP", "bbox/AP50", "segm/novel/AP" ...
    per_class: dict[str, dict[str, float]]  # "bbox" or "segm" -> class name -> AP
    curves: dict[str, list[float | None]]  # "iou": thresholds; "bbox/all", "segm/novel" ...: AP at each of them


def score(dataset: Dataset, results: list[dict], class_ids: np.ndarray, scorer: str = "pycocotools") -> Scores:
    """COCO's average precision.

    Args:
      dataset: the split. Where it comes from a json file, the ground truth is read from that file as pycocotools reads
        it (`Dataset.truth`), so annotations that training drops or fixes count as they do in the official tool.
      results: COCO results; those without "segmentation" count for boxes only.
      class_ids: the classes to score.
      scorer: "pycocotools", the official tool, or "faster_coco_eval".

    Raises:
      ValueError: as ``check_scorer``.
    """
    if dataset.truth is None:
        truth = ground_truth(dataset)
    else:
        truth = truth_file.of_images(dataset.truth(), {i.id for i in dataset.infos})
    category_ids = [dataset.categories[i].id for i in class_ids]
    scores = Scores({}, {}, {})
    for kind in ("bbox", "segm"):
        precision, thresholds = _precision(truth, results, kind, category_ids, scorer)
        scores.curves["iou"] = [round(float(t), 2) for t in thresholds]
        by_class = {dataset.categories[i].name: _mean(precision[:, :, n, 0]) for n, i in enumerate(class_ids)}
        scores.per_class[kind] = {name: ap for name, ap in by_class.items() if ap is not None}
        for group, members in groups(dataset, class_ids).items():
            of_group = precision[:, :, np.flatnonzero(np.isin(class_ids, members))]
            prefix = kind if group == "all" else f"{kind}/{group}"
            scores.metrics.update({f"{prefix}/{k}": v for k, v in _summary(of_group, thresholds).items()})
            scores.curves[f"{kind}/{group}"] = [_mean(p) for p in of_group[..., 0]]
    return scores


def groups(dataset: Dataset, class_ids: np.ndarray) -> dict[str, np.ndarray]:
    """Which of these class ids are "all", "base" and "novel"; empty groups are absent."""
    novel = np.array([dataset.categories[i].novel for i in class_ids], bool)
    members = {"all": class_ids, "base": class_ids[~novel], "novel": class_ids[novel]}
    return {name: ids for name, ids in members.items() if len(ids)}


def gt_classes_only(dataset: Dataset, results: list[dict]) -> list[dict]:
    """The results whose class occurs in the ground truth of their image.

    iMTFA reports COCO2VOC this way, after FGN: the evaluation knows which classes an image contains, so its numbers are
    higher than plain AP. iMTFA (modeling/roi_heads/fast_rcnn.py, `_filter_scores_on_gts`) sets the scores of the other
    classes to 0 before it chooses detections; here their detections are dropped afterwards. Both give the same results
    except for images with more than ``model.detector.max_detections`` detections.
    """
    present = {
        (a.image_id, dataset.categories[a.class_id].id) for i in dataset.infos for a in i.annotations if not a.crowd
    }
    return [r for r in results if (r["image_id"], r["category_id"]) in present]


def rescored(results: list[dict]) -> list[dict]:
    """The results, each score multiplied by the confidence of its mask (1 for a result without a mask)."""
    return [r | {"score": r["score"] * r.get("confidence", 1.0)} for r in results]


def tightened(results: list[dict]) -> list[dict]:
    """The results, each box replaced by the smallest that holds its mask; a result without a mask, or with an empty
    one, keeps its box.

    A mask can reach beyond the detected box only by ``data.context``. In the paper's Table 5 guidance changes box AP as
    well as mask AP, though boxes are detected before masks are sampled; boxes computed from masks would explain that.
    """
    masks = [r.get("segmentation") for r in results]
    boxes = [mask_utils.toBbox(m).tolist() if m is not None and mask_utils.area(m) else None for m in masks]
    return [r if box is None else r | {"bbox": box} for r, box in zip(results, boxes, strict=True)]


def _precision(
    truth: dict, results: list[dict], kind: str, category_ids: list[int], scorer: str
) -> tuple[np.ndarray, np.ndarray]:
    """The precision of pycocotools, or of the scorer of this name.

    Returns:
      [thresholds, recalls, classes, areas] at 100 detections per image, -1 where there is no object; the areas are
      all, small, medium, large. And the IoU thresholds.
    """
    annotations = truth["annotations"]
    if kind == "segm":
        annotations = [a for a in annotations if "segmentation" in a]
        # without "bbox": loadRes takes the area of a result from its box, where it has one, instead of its mask
        results = [{k: v for k, v in r.items() if k != "bbox"} for r in results if "segmentation" in r]
    new_coco, new_evaluation = _scorer(scorer)
    with contextlib.redirect_stdout(io.StringIO()):
        true, found = new_coco(), new_coco()
        true.dataset = truth | {"annotations": [dict(a) for a in annotations]}  # type: ignore[assignment]
        true.createIndex()
        if results:
            found = true.loadRes([dict(r) for r in results])
        else:
            found.dataset = truth | {"annotations": []}  # type: ignore[assignment]
            found.createIndex()
        evaluation = new_evaluation(true, found, kind)
        evaluation.params.catIds = category_ids
        evaluation.evaluate()
        evaluation.accumulate()
    order = [sorted(category_ids).index(i) for i in category_ids]  # pycocotools sorts the category ids
    return evaluation.eval["precision"][..., -1][:, :, order], np.round(evaluation.params.iouThrs, 2)


def check_scorer(name: str) -> None:
    """Whether a scorer can be used.

    Raises:
      ValueError: an unknown name; or its package is not installed.
    """
    _scorer(name)


def _scorer(name: str) -> tuple[Any, Any]:
    """The classes COCO and COCOeval of a scorer; raises as ``check_scorer``."""
    if name == "pycocotools":
        return COCO, COCOeval
    if name != "faster_coco_eval":
        raise ValueError(f"eval.scorer is '{name}', must be pycocotools or faster_coco_eval")
    try:
        import faster_coco_eval
    except ImportError as error:
        raise ValueError(
            "eval.scorer='faster_coco_eval' needs a package that is not installed: pip install faster-coco-eval, or "
            "set eval.scorer=pycocotools"
        ) from error
    return faster_coco_eval.COCO, faster_coco_eval.COCOeval_faster


def _summary(precision: np.ndarray, thresholds: np.ndarray) -> dict[str, float]:
    """COCO's AP, AP50, AP75, APs, APm, APl of [thresholds, recalls, classes, areas]."""
    every_area = precision[..., 0]
    parts = {"AP": every_area, "AP50": every_area[thresholds == 0.5], "AP75": every_area[thresholds == 0.75]}
    parts |= {"APs": precision[..., 1], "APm": precision[..., 2], "APl": precision[..., 3]}
    return {name: value for name, part in parts.items() if (value := _mean(part)) is not None}


def _mean(precision: np.ndarray) -> float | None:
    """The mean in percent over classes and areas that have objects; None where none has."""
    known = precision[precision > -1]
    return 100 * float(known.mean()) if known.size else None
