"""Predictions of one split -> COCO results -> metrics, for one model, one draw of shots, one noise seed."""

import contextlib
import datetime
import io
import json
import os
import platform
import time
from collections.abc import Iterable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict
from pycocotools import mask as mask_utils
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from tqdm import tqdm

from maskdiff_jax import sharding
from maskdiff_jax.data import pipeline
from maskdiff_jax.data.dataset import Dataset
from maskdiff_jax.data.formats import ground_truth as truth_file
from maskdiff_jax.data.formats.coco import ground_truth
from maskdiff_jax.data.support import active_class_ids, active_mask, class_ids, make_support_set
from maskdiff_jax.evaluation import figures
from maskdiff_jax.inference import segment
from maskdiff_jax.model import build
from maskdiff_jax.types import Batch
from maskdiff_jax.workdir import load_weights, read_seconds

PACKAGES = ("jax", "flax", "optax", "orbax-checkpoint", "numpy", "pycocotools")


def run(config: ConfigDict, workdir: str | Path) -> dict:
    """Evaluates the weights that training left in ``workdir``.

    Writes ``metrics.json``, ``predictions.json`` (COCO results) and ``figures/*.png`` into ``folder_of``.

    Returns:
      What stands in metrics.json; its "metrics" are percentages but for counts, "images_per_second" is the speed that
      ``predict`` gives. With
      ``eval.gt_classes_only`` they are there again under "gt_classes_only/", see ``of_true_classes``; with
      ``eval.rescore`` under "rescored/": the score of each detection times its mask's confidence.

    Raises:
      FileNotFoundError: no finished training there, or no data set.
      ValueError: the weights are of another model, or ``eval.source`` has other classes.
    """
    workdir, c, e = Path(workdir), config, config.eval
    start = time.monotonic()
    model, mesh = build(c.model), sharding.make_mesh(c.train.devices)
    params = jax.device_put(load_weights(workdir, model), sharding.replicated(mesh))
    dataset = pipeline.open_split(_data(c), e.split)
    if e.images:
        dataset = dataset._replace(infos=dataset.infos[: e.images])
    support_split = pipeline.open_split(c.data, "support")
    if [(x.id, x.name) for x in support_split.categories] != [(x.id, x.name) for x in dataset.categories]:
        what, mend = f"the {e.split} split", "list the same categories in its json"
        if e.source:
            what, mend = f"eval.source={e.source}", "set eval.source=''"
        raise ValueError(f"{what} has other classes than {c.data.source}, which the model was trained on: {mend}")
    shots, support = make_support_set(c, support_split)
    del support_split  # many annotations, of no more use
    ids = active_class_ids(c, dataset.categories)
    active = active_mask(ids, c.model.num_classes)
    segmenter = segment.make_segmenter(
        model, support, size=c.model.mask.size, context=c.data.context, top_n=e.mask_top_n,
        mask_batches=(e.mask_batch,), threshold=e.mask_threshold, samples=e.samples, noise_seed=e.noise_seed, mesh=mesh,
    )  # fmt: skip

    predictions, maskless, speed = predict(config, segmenter, params, dataset, active)
    folder = folder_of(c, workdir)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "predictions.json", predictions)  # hours of sampling, kept whatever happens below
    metrics, per_class, curves = score(dataset, predictions, ids)
    if e.gt_classes_only:
        filtered, _, _ = score(dataset, of_true_classes(dataset, predictions), ids)
        metrics |= {f"gt_classes_only/{k}": v for k, v in filtered.items()}
    if e.rescore:
        again = [p | {"score": p["score"] * p.get("confidence", 1.0)} for p in predictions]
        metrics |= {f"rescored/{k}": v for k, v in score(dataset, again, ids)[0].items()}
    ious = mask_ious(config, segmenter, params, dataset)
    for group, members in groups(dataset, np.arange(c.model.num_classes)).items():
        values = [v for i in members for v in ious.get(int(i), [])]
        if values:
            metrics["mask_iou/" + (group or "all")] = 100 * float(np.mean(values))
    names = [x.name for x in dataset.categories]
    per_class["mask_iou"] = {names[i]: 100 * float(np.mean(v)) for i, v in sorted(ious.items())}
    metrics |= {
        "images": len(dataset.infos),
        "detections": len(predictions),
        "detections_without_mask": maskless,
    }
    figures.draw(config, folder / "figures", model, params, dataset, support, predictions, segmenter)
    seconds = read_seconds(workdir) | {"evaluation": round(time.monotonic() - start, 1)}
    document = {
        "config": json.loads(c.to_json_best_effort()),
        "preset": c.preset, "stage": c.stage, "dataset": e.source or c.data.source, "split": e.split,
        "shots": c.fewshot.shots, "seed": c.fewshot.seed, "noise_seed": e.noise_seed,
        "shots_per_class": {names[i]: len(shots[i]) for i in sorted(shots)},
        "step": {name: c.train[name].steps for name in ("detector", "mask", "novel")},
        "versions": {p: version(p) for p in PACKAGES}, "device": device_name(),
        "date": datetime.date.today().isoformat(),
        "novel_classes": [x.name for x in dataset.categories if x.novel],
        "metrics": metrics, "per_class": per_class, "curves": curves, "seconds": seconds, "images_per_second": speed,
    }  # fmt: skip
    write_json(folder / "metrics.json", document)
    return document


def folder_of(config: ConfigDict, workdir: str | Path) -> Path:
    """Where results go: the workdir, or the folder of another data set in it."""
    return Path(workdir) / config.eval.source if config.eval.source else Path(workdir)


def _data(config: ConfigDict) -> ConfigDict:
    """config.data of what is scored."""
    if not config.eval.source:
        return config.data
    data = config.data.copy_and_resolve_references()
    data.update(source=config.eval.source, root=config.eval.root)
    return data


def predict(
    config: ConfigDict, segmenter: segment.Segmenter, params: Any, dataset: Dataset, active: np.ndarray
) -> tuple[list[dict], int, float | None]:
    """Detects the objects of a split and samples their masks.

    Returns:
      COCO results; how many of them have no mask; images per second, loading to RLE, of the images that are loaded
      after the first batch of masks is there, so that compilation does not count (None: there are no such images).
    """
    e = config.eval
    ids = [x.id for x in dataset.categories]
    maskless: list = []
    results = []
    loaded, start = 0, None  # images; when the first masks were there, and how many images were loaded by then

    def batches() -> Iterator[Batch]:
        nonlocal loaded
        for batch in _batches(config, segmenter, dataset, "detecting, sampling masks"):
            loaded += int((batch.image_id >= 0).sum())
            yield batch

    stream = segment.detected_objects(
        segmenter, params, batches(), active, min_score=e.mask_min_score, top_n=e.mask_top_n, maskless=maskless
    )
    for drawn in segment.draw_masks(segmenter, params, stream):
        start = start or (time.monotonic(), loaded)
        objects, sure = drawn.objects, segment.confidence(drawn.soft, e.mask_threshold)
        for i, rle in enumerate(segment.pasted(segmenter, drawn)):
            results.append(
                _result(int(objects.image_id[i]), ids[objects.class_id[i]], objects.score[i], objects.box[i])
                | {"segmentation": rle, "confidence": round(float(sure[i]), 5)}
            )
    results += [_result(image_id, ids[c], score, box) for image_id, c, score, box in maskless]
    seconds, after = (time.monotonic() - start[0], loaded - start[1]) if start else (0.0, 0)
    speed = round(after / seconds, 3) if after else None
    return sorted(results, key=lambda r: (r["image_id"], -r["score"])), len(maskless), speed


def _batches(config: ConfigDict, segmenter: segment.Segmenter, dataset: Dataset, what: str) -> Iterable[Batch]:
    """The split in batches, loaded ahead, with a progress line; the first one waits for the compiler."""
    size = segment.whole_batch(config.eval.batch, segmenter.mesh)
    batches = pipeline.eval_batches(dataset, config.data, batch=size)
    return tqdm(batches, desc=what, total=-(-len(dataset.infos) // size), unit="batch", mininterval=1.0)


def _result(image_id: int, category_id: int, score: float, box: np.ndarray) -> dict:
    x0, y0, x1, y1 = (round(float(v), 2) for v in box)
    return {
        "image_id": image_id,
        "category_id": category_id,
        "score": round(float(score), 5),
        "bbox": [x0, y0, round(x1 - x0, 2), round(y1 - y0, 2)],
    }


def groups(dataset: Dataset, ids: np.ndarray) -> dict[str, np.ndarray]:
    """Class ids of "" (all of ``ids``), "base" and "novel", without empty groups."""
    parts = {"": ids}
    for name, is_novel in (("base", False), ("novel", True)):
        parts[name] = np.intersect1d(ids, class_ids(dataset.categories, novel=is_novel))
    return {k: v for k, v in parts.items() if len(v)}


def score(dataset: Dataset, predictions: list[dict], ids: np.ndarray) -> tuple[dict, dict, dict]:
    """COCO's average precision (pycocotools) in percent.

    Args:
      dataset: the split. Where a json is behind it, the ground truth is read from there as pycocotools reads it
        (`data.truth`), so that annotations which training drops or fixes count as in the official tool.
      predictions: COCO results; those without "segmentation" count for boxes only.
      ids: class ids to score.

    Returns:
      metrics ("bbox/AP", "bbox/AP50", "segm/novel/AP" ...), per class ("bbox" -> name -> AP), and curves
      ("iou" and AP at each of these IoU thresholds per group).
    """
    metrics, per_class, curves = {}, {}, {}
    truth = ground_truth(dataset)
    if dataset.truth is not None:
        truth = truth_file.of_images(dataset.truth(), {i.id for i in dataset.infos})
    for kind in ("bbox", "segm"):
        precision, thresholds = _precision(truth, predictions, kind, [dataset.categories[i].id for i in ids])
        curves["iou"] = [round(float(t), 2) for t in thresholds]
        by_class = {dataset.categories[i].name: _mean(precision[:, :, n, 0]) for n, i in enumerate(ids)}
        per_class[kind] = {k: v for k, v in by_class.items() if v is not None}
        for group, members in groups(dataset, ids).items():
            p = precision[:, :, np.flatnonzero(np.isin(ids, members))]
            prefix = f"{kind}/{group}/" if group else f"{kind}/"
            parts = {"AP": p[..., 0], "AP50": p[thresholds == 0.5][..., 0], "AP75": p[thresholds == 0.75][..., 0]}
            parts |= {"APs": p[..., 1], "APm": p[..., 2], "APl": p[..., 3]}
            metrics |= {prefix + k: v for k, x in parts.items() if (v := _mean(x)) is not None}
            curves[f"{kind}/{group or 'all'}"] = [_mean(x) for x in p[..., 0]]
    return metrics, per_class, curves


def of_true_classes(dataset: Dataset, predictions: list[dict]) -> list[dict]:
    """The predictions whose class the truth of their image holds, as iMTFA's ``gt_classes_only`` scores VOC (A28).

    There the scores of the other classes are set to 0 before detections are chosen, here those detections are
    taken out afterwards: the same but for images with more detections than ``max_detections``.
    """
    true = {
        (a.image_id, dataset.categories[a.class_id].id) for i in dataset.infos for a in i.annotations if not a.crowd
    }
    return [p for p in predictions if (p["image_id"], p["category_id"]) in true]


def _precision(truth: dict, results: list[dict], kind: str, category_ids: list[int]):
    """[thresholds, recalls, classes, areas] at 100 detections, -1 where there is no object."""
    annotations = truth["annotations"]
    if kind == "segm":
        annotations = [a for a in annotations if "segmentation" in a]
        # without "bbox": where results have one, loadRes sorts them into small, medium, large by the box's area
        results = [{k: v for k, v in r.items() if k != "bbox"} for r in results if "segmentation" in r]
    with contextlib.redirect_stdout(io.StringIO()):
        true, found = COCO(), COCO()
        true.dataset = truth | {"annotations": [dict(a) for a in annotations]}  # type: ignore[assignment]
        true.createIndex()
        if results:
            found = true.loadRes([dict(r) for r in results])
        else:
            found.dataset = truth | {"annotations": []}  # type: ignore[assignment]
            found.createIndex()
        judge = COCOeval(true, found, kind)
        judge.params.catIds = category_ids
        judge.evaluate()
        judge.accumulate()
    # pycocotools sorts the class ids
    order = [sorted(category_ids).index(i) for i in category_ids]
    return judge.eval["precision"][..., -1][:, :, order], np.round(judge.params.iouThrs, 2)


def _mean(precision: np.ndarray) -> float | None:
    """Mean over what exists, in percent; None where nothing does."""
    known = precision[precision > -1]
    return 100 * float(known.mean()) if known.size else None


def mask_ious(config: ConfigDict, segmenter: segment.Segmenter, params: Any, dataset: Dataset) -> dict[int, list]:
    """IoU of the drawn with the true mask for each object, given its true box and class; class id -> values.

    Objects smaller than ``eval.min_gt_area`` pixels and crowds are left out.
    """
    e = config.eval
    truth = {i.id: [a for a in i.annotations if not a.crowd and a.area >= e.min_gt_area] for i in dataset.infos}
    boxes = {
        k: (np.array([a.box for a in v], np.float32), np.array([a.class_id for a in v])) for k, v in truth.items() if v
    }
    batches = _batches(config, segmenter, dataset, "masks in true boxes")
    values: dict[int, list] = {}
    stream = segment.true_objects(segmenter, batches, boxes)
    for drawn in segment.draw_masks(segmenter, params, stream):
        for image_id, rank, rle in zip(
            drawn.objects.image_id, drawn.objects.rank, segment.pasted(segmenter, drawn), strict=True
        ):
            annotation = truth[int(image_id)][rank]
            iou = mask_utils.iou([rle], [annotation.rle], [0])
            values.setdefault(annotation.class_id, []).append(float(iou[0, 0]))
    return values


def device_name() -> str:
    """The accelerator's or processor's model and count, without the machine's name."""
    device = jax.devices()[0]
    if device.platform != "cpu":
        return f"{jax.device_count()} x {device.device_kind}"
    model = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(x.split(":", 1)[1].strip() for x in lines if x.startswith("model name"))
    except (OSError, StopIteration):
        pass
    return f"{model}, {os.cpu_count()} cores"


def write_json(path: Path, value: Any) -> None:
    """Writes json to a temporary name and renames it."""
    new = path.with_suffix(path.suffix + ".partial")
    new.write_text(json.dumps(value, indent=1))
    new.rename(path)
