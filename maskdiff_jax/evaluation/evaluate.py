"""Evaluates a trained run on a split: opens both, predicts, scores, and writes the results.

``coco_eval`` computes AP; mask IoU is measured on masks sampled in ground-truth boxes.
"""

import time
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict
from pycocotools import mask as mask_utils
from tqdm import tqdm

from maskdiff_jax import atomic, sharding
from maskdiff_jax.data import pipeline
from maskdiff_jax.data.dataset import Annotation, Dataset
from maskdiff_jax.data.fewshot.shots import ShotSet
from maskdiff_jax.data.support import active_class_ids, active_mask, make_support_set
from maskdiff_jax.evaluation import coco_eval, figures, metrics_document, oracles
from maskdiff_jax.inference import segment
from maskdiff_jax.model import Model
from maskdiff_jax.shared import Shared, fingerprint
from maskdiff_jax.types import Batch, PyTree, SupportSet
from maskdiff_jax.workdir import FIGURES, METRICS, PREDICTIONS, check_shots, load_weights, read_seconds

# objects of one image, and its original height, width, repeated for each of them [n, 2]
ObjectsOfImage = tuple[segment.Objects, np.ndarray]


class Setup(NamedTuple):
    """The inputs of one evaluation."""

    model: Model
    params: PyTree  # on every device
    segmenter: segment.Segmenter
    dataset: Dataset  # the split that is scored
    shots: ShotSet  # class id -> annotation ids
    support: SupportSet
    class_ids: np.ndarray  # int32, the classes that the stage was trained on: these are detected and scored


class Found(NamedTuple):
    """The objects of a split whose masks are sampled, as streams of ``segment``; they do not depend on the noise."""

    detected: Iterable[ObjectsOfImage]
    without_mask: list  # (image_id, class id, score, box) of the others; complete once `detected` has been read
    in_true_boxes: Iterable[ObjectsOfImage]  # the ground-truth objects that count in the mask IoU
    speed: "Speed"


class Predictions(NamedTuple):
    """Detections of a split."""

    results: list[dict]  # COCO results, by image, best first
    without_mask: int  # how many of them have no mask
    images_per_second: float | None  # from loading to RLE; None: too few images to measure it


def run(config: ConfigDict, workdir: str | Path, output: str | Path | None = None) -> dict:
    """Evaluates the weights of a finished run.

    Writes ``metrics.json``, ``predictions.json`` (COCO results) and ``figures/*.png``.

    Args:
      config: of the run, see ``config.eval``.
      workdir: the run.
      output: where to write; None: ``default_output``.

    Returns:
      The content of metrics.json. Its "metrics" are percentages, except for counts. With ``eval.gt_classes_only`` the
      APs appear a second time under "gt_classes_only/", with ``eval.rescore`` under "rescored/": see the functions
      of these names in ``coco_eval``; likewise ``eval.tighten_boxes`` ("tightened/").

    Raises:
      FileNotFoundError: the run is missing or not finished, or the dataset is missing.
      ValueError: the weights are of another model, the dataset gives other shots than those of the run, or
        ``eval.source`` has other classes, or the package of ``eval.scorer`` is not installed.
      OSError: ``output`` cannot be written to.
    """
    start = time.monotonic()
    output = default_output(config, workdir) if output is None else Path(output)
    atomic.check_writable(output)
    coco_eval.check_scorer(config.eval.scorer)
    seconds = read_seconds(workdir)
    setup = open_run(config, workdir)
    return sample_and_score(config, setup, find_objects(config, setup), output, seconds=seconds, start=start)


def sample_and_score(
    config: ConfigDict, setup: Setup, found: Found, output: Path, *, seconds: dict[str, float], start: float,
    with_predictions: bool = True, with_figures: bool = True,
) -> dict:  # fmt: skip
    """Samples the masks of the objects of a split and writes what ``run`` writes.

    Args:
      config: with the ``eval.noise_seed`` of the setup's segmenter.
      setup: from ``open_run``.
      found: from ``find_objects``.
      output: where to write.
      seconds: of training, by phase.
      start: time at which this evaluation began, as ``time.monotonic`` gives it.
      with_predictions: whether to write predictions.json.
      with_figures: whether to render figures, as many as ``eval.figures``.

    Returns:
      As ``run``.
    """
    params, segmenter, dataset = setup.params, setup.segmenter, setup.dataset
    predictions = predict(config, setup, found)
    results = predictions.results
    if with_predictions:
        atomic.write_json(output / PREDICTIONS, results)  # hours of sampling: kept if a later step fails
    scores = score(config, dataset, predictions, setup.class_ids)
    mean_ious, ious_per_class = mean_mask_ious(dataset, mask_ious(config, setup, found))
    if with_figures:
        figures.render(config, output / FIGURES, setup.model, params, dataset, setup.support, results, segmenter)
    document = metrics_document.describe(config, dataset, setup.shots) | {
        "metrics": scores.metrics | mean_ious,
        "per_class": scores.per_class | {"mask_iou": ious_per_class},
        "curves": scores.curves,
        "seconds": seconds | {"evaluation": round(time.monotonic() - start, 1)},
        "images_per_second": predictions.images_per_second,
    }
    atomic.write_json(output / METRICS, document)
    return document


def default_output(config: ConfigDict, workdir: str | Path) -> Path:
    """The default output folder: the run folder, or ``eval.source`` in it for another dataset."""
    return Path(workdir) / config.eval.source if config.eval.source else Path(workdir)


def open_run(config: ConfigDict, workdir: str | Path, shared: Shared | None = None) -> Setup:
    """Opens the weights, the split and the support set, and prepares the model's functions; raises as ``run``.

    Args:
      config: as for ``run``.
      workdir: the run.
      shared: objects that this evaluation shares with others of the same process.
    """
    options, shared = config.eval, shared or Shared()
    model, mesh = shared.model(config), sharding.make_mesh(config.train.devices)
    params = jax.device_put(load_weights(workdir, model), sharding.replicated(mesh))
    dataset = shared.split(scored_data(config), options.split)
    if options.images:
        dataset = dataset._replace(infos=dataset.infos[: options.images])
    support_split = shared.split(config.data, "support")
    _check_same_classes(config, dataset, support_split)
    shots, support = make_support_set(config, support_split)
    check_shots(workdir, shots)
    segmenter = _segmenter(config, model, support, mesh, shared)
    class_ids = active_class_ids(config, dataset.categories)
    return Setup(model, params, segmenter, dataset, shots, support, class_ids)


def _segmenter(
    config: ConfigDict, model: Model, support: SupportSet, mesh: Mesh, shared: Shared
) -> segment.Segmenter:  # fmt: skip
    """The compiled functions, shared by all evaluations with the same options, with this support set and noise seed."""
    options = config.eval
    settings = dict(
        size=config.model.mask.size, context=config.data.context, top_n=options.mask_top_n,
        mask_batches=(options.mask_batch,), threshold=options.mask_threshold, samples=options.samples, mesh=mesh,
    )  # fmt: skip
    make = partial(segment.make_segmenter, model, support, noise_seed=options.noise_seed, **settings)
    segmenter = shared.once(("segmenter", fingerprint(config.model), *settings.values()), make)
    return with_inputs(segmenter, support=support, noise_seed=options.noise_seed)


def with_inputs(
    segmenter: segment.Segmenter, *, noise_seed: int, support: SupportSet | None = None
) -> segment.Segmenter:
    """The same compiled functions with other noise, and with another support set unless that is None."""
    everywhere = sharding.replicated(segmenter.mesh)
    shots = segmenter.shots if support is None else jax.device_put(support.shots, everywhere)
    return segmenter._replace(shots=shots, noise=jax.device_put(jax.random.key(noise_seed), everywhere))


def scored_data(config: ConfigDict) -> ConfigDict:
    """``config.data`` of the dataset that is scored."""
    if not config.eval.source:
        return config.data
    data = config.data.copy_and_resolve_references()
    data.update(source=config.eval.source, root=config.eval.root)
    return data


def _check_same_classes(config: ConfigDict, dataset: Dataset, support_split: Dataset) -> None:
    if [(c.id, c.name) for c in support_split.categories] == [(c.id, c.name) for c in dataset.categories]:
        return
    what, fix = f"the {config.eval.split} split", "list the same categories in its json"
    if config.eval.source:
        what, fix = f"eval.source={config.eval.source}", "set eval.source=''"
    raise ValueError(f"{what} has other classes than {config.data.source}, on which the model was trained: {fix}")


def find_objects(config: ConfigDict, setup: Setup) -> Found:
    """Detects the objects of a split; what ``eval.oracle`` names comes from the ground truth. Nothing is read yet."""
    options, segmenter, dataset = config.eval, setup.segmenter, setup.dataset
    active = active_mask(setup.class_ids, config.model.num_classes)
    speed, without_mask = Speed(), []
    batches = speed.counted(_batches(config, segmenter, dataset, "detecting, sampling masks"))
    truth = oracles.ground_truth(dataset, active) if options.oracle else {}
    if options.oracle == "boxes":
        objects = segment.ground_truth_objects(segmenter, setup.params, batches, truth)
    else:
        objects = segment.detected_objects(
            segmenter, setup.params, batches, active,
            min_score=options.mask_min_score, top_n=options.mask_top_n, without_mask=without_mask,
        )  # fmt: skip
    if options.oracle == "classes":
        objects = oracles.with_true_classes(objects, truth)
    batches = _batches(config, segmenter, dataset, "masks in ground-truth boxes")
    boxes_of = {
        image_id: (np.array([a.box for a in annotations], np.float32), np.array([a.class_id for a in annotations]))
        for image_id, annotations in _scored_objects(config, dataset, setup.shots).items()
        if annotations
    }
    return Found(objects, without_mask, segment.ground_truth_objects(segmenter, setup.params, batches, boxes_of), speed)


def predict(config: ConfigDict, setup: Setup, found: Found) -> Predictions:
    """Samples the masks of the detected objects."""
    segmenter, results = setup.segmenter, []
    category_ids = [x.id for x in setup.dataset.categories]
    for sampled in segment.sample_masks(segmenter, setup.params, found.detected):
        found.speed.start()
        objects, confidence = sampled.objects, segment.confidence(sampled.soft, config.eval.mask_threshold)
        for i, rle in enumerate(segment.paste_all(segmenter, sampled)):
            category_id = category_ids[objects.class_id[i]]
            row = coco_eval.result_row(
                objects.image_id[i], category_id, objects.score[i], objects.box[i], rle, confidence[i]
            )
            results.append(row)
    without_mask = found.without_mask
    if config.eval.oracle == "classes":
        active = active_mask(setup.class_ids, config.model.num_classes)
        without_mask = oracles.relabel(without_mask, oracles.ground_truth(setup.dataset, active))
    results += [coco_eval.result_row(image, category_ids[c], score, box) for image, c, score, box in without_mask]
    results.sort(key=lambda r: (r["image_id"], -r["score"]))
    return Predictions(results, len(without_mask), found.speed.images_per_second())


class Speed:
    """Images per second, of the images that are loaded after the first masks are there, so compilation is not timed.

    It is measured for the first noise seed, which loads the images; later calls return the same number.
    """

    def __init__(self) -> None:
        self._loaded = 0
        self._measured: float | None = None
        self._started: tuple[float, int] | None = None  # time, and the images that were loaded by then

    def counted(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """The same batches, their images counted."""
        for batch in batches:
            self._loaded += int((batch.image_id >= 0).sum())
            yield batch

    def start(self) -> None:
        """The first masks are there; later calls change nothing."""
        self._started = self._started or (time.monotonic(), self._loaded)

    def images_per_second(self) -> float | None:
        if self._measured is None and self._started is not None and self._loaded > self._started[1]:
            seconds = time.monotonic() - self._started[0]
            self._measured = round((self._loaded - self._started[1]) / seconds, 3)
        return self._measured


def _batches(config: ConfigDict, segmenter: segment.Segmenter, dataset: Dataset, what: str) -> Iterator[Batch]:
    """The split in batches, loaded ahead, with a progress line of images. The first batch waits for compilation."""
    size = segment.round_up(config.eval.batch, segmenter.mesh)
    with tqdm(desc=what, total=len(dataset.infos), unit="image", mininterval=1.0) as progress:
        for batch in pipeline.eval_batches(dataset, config.data, batch=size):
            yield batch
            progress.update(int((batch.image_id >= 0).sum()))


def score(config: ConfigDict, dataset: Dataset, predictions: Predictions, class_ids: np.ndarray) -> coco_eval.Scores:
    """Average precision, of every variant that ``config.eval`` asks for, and counts."""
    results, scorer = predictions.results, config.eval.scorer
    scores = coco_eval.score(dataset, results, class_ids, scorer)
    variants = {}
    if config.eval.gt_classes_only:
        variants["gt_classes_only"] = coco_eval.gt_classes_only(dataset, results)
    if config.eval.rescore:
        variants["rescored"] = coco_eval.rescored(results)
    if config.eval.tighten_boxes:
        variants["tightened"] = coco_eval.tightened(results)
    for name, changed in variants.items():
        metrics = coco_eval.score(dataset, changed, class_ids, scorer).metrics
        scores.metrics.update({f"{name}/{k}": v for k, v in metrics.items()})
    scores.metrics.update(
        images=len(dataset.infos), detections=len(results), detections_without_mask=predictions.without_mask
    )
    return scores


def _scored_objects(config: ConfigDict, dataset: Dataset, shots: ShotSet) -> dict[int, list[Annotation]]:
    """Image id -> the objects that count in the mask IoU.

    No crowds, none below ``eval.min_gt_area`` pixels, none of a class that the shot set leaves out: a model of the
    novel classes alone does not know the base classes.
    """
    least = config.eval.min_gt_area
    return {
        i.id: [a for a in i.annotations if not a.crowd and a.area >= least and a.class_id in shots]
        for i in dataset.infos
    }


def mask_ious(config: ConfigDict, setup: Setup, found: Found) -> dict[int, list[float]]:
    """IoU of the sampled and the true mask of each object, given its ground-truth box and class.

    Returns:
      class id -> IoUs, 0..1.
    """
    truth = _scored_objects(config, setup.dataset, setup.shots)
    values: dict[int, list[float]] = {}
    for sampled in segment.sample_masks(setup.segmenter, setup.params, found.in_true_boxes):
        objects, rles = sampled.objects, segment.paste_all(setup.segmenter, sampled)
        for image_id, rank, rle in zip(objects.image_id, objects.rank, rles, strict=True):
            annotation = truth[int(image_id)][rank]
            iou = mask_utils.iou([rle], [annotation.rle], [0])
            values.setdefault(annotation.class_id, []).append(float(iou[0, 0]))
    return values


def mean_mask_ious(dataset: Dataset, ious: dict[int, list[float]]) -> tuple[dict[str, float], dict[str, float]]:
    """Mean IoU in percent: "mask_iou/all", "mask_iou/base", "mask_iou/novel" over objects; and class name -> mean."""
    metrics = {}
    for group, members in coco_eval.groups(dataset, np.array(sorted(ious), np.int32)).items():
        metrics[f"mask_iou/{group}"] = 100 * float(np.mean([v for i in members for v in ious[int(i)]]))
    per_class = {dataset.categories[i].name: 100 * float(np.mean(values)) for i, values in sorted(ious.items())}
    return metrics, per_class
