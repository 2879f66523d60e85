"""The figures of an evaluation: scenes, the support set, noising, denoising, several samples of one object."""

from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict
from PIL import Image
from pycocotools import mask as rle

from maskdiff_jax import atomic, diffusion
from maskdiff_jax.data import pipeline
from maskdiff_jax.data.dataset import Annotation, Category, Dataset, ImageInfo
from maskdiff_jax.inference import segment
from maskdiff_jax.model import Model
from maskdiff_jax.reporting import visualize
from maskdiff_jax.types import PyTree, SupportSet

SHOWN_SCORE = 0.3  # detections below would only clutter a scene
SHOWN_IOU = 0.6  # of boxes that overlap more, one is shown: several classes on one object would hide it
STRIP = 8  # images in a strip
SAMPLES = 6  # masks of one object
EXAMPLES = 5  # objects whose samples are shown
OTHERS = ("support", "forward", "denoising", "samples")  # figures beside the scenes


class Example(NamedTuple):
    """A ground-truth object as the mask head sees it."""

    region: np.ndarray  # [M, M, 3] uint8, RGB
    mask: np.ndarray  # [M, M] float32, 0 or 1
    class_id: int


def render(
    config: ConfigDict, folder: Path, model: Model, params: PyTree, dataset: Dataset, support: SupportSet,
    results: list[dict], segmenter: segment.Segmenter,
) -> None:  # fmt: skip
    """Writes the figures of a split; with ``eval.figures`` = 0 none.

    ``scenes_*.png``: images with their ground truth and predictions. ``support.png``: the shots. For ground-truth
    objects of the split ``forward.png``: noise is added to a mask; ``denoising.png``: a mask is sampled;
    ``samples.png``: several samples per object. These three need a mask head that sees crops.

    Figures of an earlier evaluation are deleted, so that a report does not show them as figures of this one.

    Args:
      folder: is made when missing.
      results: COCO results.
    """
    if not config.eval.figures:
        return
    folder.mkdir(parents=True, exist_ok=True)
    for earlier in (*folder.glob("scenes_[0-9]*.png"), *(folder / f"{name}.png" for name in OTHERS)):
        earlier.unlink(missing_ok=True)
    by_image: dict[int, list] = {}
    for row in results:
        by_image.setdefault(row["image_id"], []).append(row)
    for n, i in enumerate(chosen_scenes(dataset, config.eval.figures)):
        info = dataset.infos[i]
        _save(folder / f"scenes_{n:02d}.png", scene(dataset, dataset.read(i), info, by_image.get(info.id, [])))
    _save(folder / "support.png", visualize.support_sheet(support, dataset.categories))
    examples = [] if model.mask_features else find_examples(config, params, dataset, segmenter)
    if examples:
        _save(folder / "forward.png", noising(config, examples[0]))
        trajectories = sample_trajectories(model, params, support, examples)
        _save(folder / "denoising.png", denoising(examples[0], *trajectories[0]))
        _save(folder / "samples.png", samples(dataset.categories, examples, [x0[-1] for _, x0 in trajectories]))


def chosen_scenes(dataset: Dataset, count: int) -> list[int]:
    """Positions of up to ``count`` images of the split, two thirds of them with novel objects where there are so many.

    The rule looks at the ground truth only: the first images with novel objects, then the first of the others.
    """
    has_novel = [any(dataset.categories[a.class_id].novel for a in info.annotations) for info in dataset.infos]
    novel, others = np.flatnonzero(has_novel).tolist(), np.flatnonzero(np.logical_not(has_novel)).tolist()
    share = count * 2 // 3
    return [*novel[:share], *others, *novel[share:]][:count]


def scene(dataset: Dataset, image: np.ndarray, info: ImageInfo, results: list[dict]) -> np.ndarray:
    """One image twice: with its ground truth, and with its better predictions (see ``_shown``)."""
    hw = (info.height, info.width)
    index = {c.id: i for i, c in enumerate(dataset.categories)}
    truth, shown = [a for a in info.annotations if not a.crowd], _shown(results)
    no_mask = np.zeros(hw, bool)
    left = visualize.Objects(
        boxes=np.array([a.box for a in truth], np.float32).reshape(-1, 4),
        classes=np.array([a.class_id for a in truth], np.int32),
        masks=np.array([rle.decode(a.rle) for a in truth], bool).reshape(-1, *hw),
    )
    masks = [rle.decode(r["segmentation"]) if "segmentation" in r else no_mask for r in shown]
    right = visualize.Objects(
        boxes=np.array([_xyxy(r["bbox"]) for r in shown], np.float32).reshape(-1, 4),
        classes=np.array([index[r["category_id"]] for r in shown], np.int32),
        masks=np.array(masks, bool).reshape(-1, *hw),
        scores=np.array([r["score"] for r in shown], np.float32),
    )
    return visualize.side_by_side(image, left, right, dataset.categories)


def _shown(results: list[dict]) -> list[dict]:
    """The results above SHOWN_SCORE, and of those whose boxes overlap, whatever their class, the best one."""
    kept: list[dict] = []
    for row in sorted(results, key=lambda r: -r["score"]):
        others = [r["bbox"] for r in kept]
        apart = not others or np.max(rle.iou([row["bbox"]], others, [0] * len(others))) < SHOWN_IOU
        if row["score"] >= SHOWN_SCORE and apart:
            kept.append(row)
    return kept


def _xyxy(box: list[float]) -> list[float]:
    return [box[0], box[1], box[0] + box[2], box[1] + box[3]]


def find_examples(config: ConfigDict, params: PyTree, dataset: Dataset, segmenter: segment.Segmenter) -> list[Example]:
    """The largest ground-truth object of up to EXAMPLES classes, novel classes first."""
    largest: dict[int, tuple[int, Annotation]] = {}  # class id -> position of the image, object
    for i, info in enumerate(dataset.infos):
        for a in info.annotations:
            if not a.crowd and (a.class_id not in largest or a.area > largest[a.class_id][1].area):
                largest[a.class_id] = i, a
    order = sorted(largest, key=lambda c: (not dataset.categories[c].novel, c))
    return [_example(config, params, dataset, segmenter, *largest[c]) for c in order[:EXAMPLES]]


def _example(
    config: ConfigDict, params: PyTree, dataset: Dataset, segmenter: segment.Segmenter, position: int,
    annotation: Annotation,
) -> Example:  # fmt: skip
    """The region and mask of one object, cropped as evaluation crops them."""
    one = dataset._replace(infos=[dataset.infos[position]], read=lambda _: dataset.read(position))
    size = segment.round_up(config.eval.batch, segmenter.mesh)
    batch = next(iter(pipeline.eval_batches(one, config.data, batch=size)))
    boxes = np.broadcast_to(np.array(annotation.box, np.float32), (len(batch.image_id), 1, 4))
    region = jax.device_get(segmenter.crop(params, batch, boxes))[0, 0]
    side, whole = config.model.mask.size, Image.fromarray(rle.decode(annotation.rle) * 255)
    mask = whole.resize((side, side), Image.Resampling.BILINEAR, box=annotation.box)
    return Example(region, (np.asarray(mask) >= 128).astype(np.float32), annotation.class_id)


def noising(config: ConfigDict, example: Example) -> np.ndarray:
    """The forward process: one mask at steps that leave from most of it to nearly nothing, evenly spaced in that."""
    options = config.model.mask.diffusion
    scale = options.signal_scale  # masks are coded as -scale and +scale
    schedule = diffusion.make_schedule(options.schedule, options.timesteps)
    noise_chain = jax.jit(diffusion.noise_chain)  # compiled once per process, for every run
    chain = noise_chain(schedule, jax.random.key(0), jnp.asarray(2.0 * example.mask - 1.0) * scale)
    signal = np.linspace(0.95, 0.05, STRIP - 1)
    times = np.unique([np.abs(schedule.sqrt_alphas_cumprod - s).argmin() for s in signal])
    images = [example.mask, *(np.asarray(chain[t]) / (2 * scale) + 0.5 for t in times)]
    return visualize.strip(images, ["mask", *(f"t = {t + 1}" for t in times)])


def sample_trajectories(
    model: Model, params: PyTree, support: SupportSet, examples: list[Example]
) -> list[tuple[np.ndarray, np.ndarray]]:
    """SAMPLES times the noisy masks and estimates of every example after each step, [S, n, M, M] each."""
    trajectory = jax.jit(model.trajectory)  # everything is an argument: nothing becomes a constant of the program
    regions = np.stack([e.region for e in examples])
    classes = np.array([e.class_id for e in examples], np.int32)
    shots = support.shots[classes]
    keys = [jax.random.split(jax.random.key(s), len(examples)) for s in range(SAMPLES)]
    return [jax.device_get(trajectory(params, k, regions, shots, classes)) for k in keys]


def denoising(example: Example, noisy: np.ndarray, estimates: np.ndarray) -> np.ndarray:
    """The reverse process of the first example: noisy masks above, estimates of the clean mask below."""
    steps = np.unique(np.round(np.linspace(0, len(noisy) - 1, STRIP)).astype(int))
    above = visualize.strip(
        [example.region, *(noisy[s, 0] for s in steps)], ["region", *(f"step {s + 1}" for s in steps)]
    )
    captions = ["ground truth", *("estimate" for _ in steps)]
    below = visualize.strip([example.mask, *(estimates[s, 0] for s in steps)], captions)
    return visualize.above([above, below])


def samples(categories: tuple[Category, ...], examples: list[Example], masks: list[np.ndarray]) -> np.ndarray:
    """Each example with its mask and several samples [n, M, M] of it."""
    rows = []
    for i, example in enumerate(examples):
        category = categories[example.class_id]
        title = category.name + (" (novel)" if category.novel else "")
        rows.append(visualize.samples(example.region, example.mask, [m[i] for m in masks], title=title))
    return visualize.above(rows)


def _save(path: Path, figure: np.ndarray) -> None:
    atomic.write(path, lambda file: Image.fromarray(figure).save(file, "png"))
