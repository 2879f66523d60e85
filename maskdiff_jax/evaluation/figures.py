"""The pictures of an evaluation: scenes, the support set, noising, denoising, several masks of one object."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict
from PIL import Image
from pycocotools import mask as rle

from maskdiff_jax import diffusion
from maskdiff_jax.data import pipeline
from maskdiff_jax.data.dataset import Dataset, ImageInfo
from maskdiff_jax.inference import segment
from maskdiff_jax.model import Model
from maskdiff_jax.reporting import visualize
from maskdiff_jax.types import SupportSet

SHOWN_SCORE = 0.3  # detections below would only crowd the picture
SHOWN_IOU = 0.6  # boxes of several classes on one object would hide it
STRIP = 8  # pictures in a strip
SAMPLES = 6  # masks of one object


def draw(
    config: ConfigDict, folder: Path, model: Model, params: Any, dataset: Dataset, support: SupportSet,
    predictions: list[dict], segmenter: segment.Segmenter,
) -> None:  # fmt: skip
    """Writes ``scenes_*.png``, ``support.png`` and, for objects of the split, ``forward.png``,
    ``denoising.png`` and ``samples.png`` into ``folder``; ``eval.figures`` = 0 writes nothing."""
    if not config.eval.figures:
        return
    folder.mkdir(parents=True, exist_ok=True)
    by_image: dict[int, list] = {}
    for p in predictions:
        by_image.setdefault(p["image_id"], []).append(p)
    for n, i in enumerate(chosen_scenes(dataset, config.eval.figures)):
        info = dataset.infos[i]
        sheet = scene(dataset, dataset.read(i), info, by_image.get(info.id, []))
        _save(folder / f"scenes_{n:02d}.png", sheet)
    _save(folder / "support.png", visualize.support_sheet(support, dataset.categories))
    _mask_strips(config, folder, model, params, dataset, support, segmenter)


def chosen_scenes(dataset: Dataset, count: int) -> list[int]:
    """Positions of up to ``count`` images, spread over the split, those with novel objects first in line."""
    novel = [
        i for i, info in enumerate(dataset.infos) if any(dataset.categories[a.class_id].novel for a in info.annotations)
    ]
    order = novel[: count * 2 // 3] + [i for i in range(len(dataset.infos)) if i not in set(novel)]
    rest = novel[count * 2 // 3 :]
    return (order + rest)[:count]


def scene(dataset: Dataset, image: np.ndarray, info: ImageInfo, predictions: list[dict]) -> np.ndarray:
    """One image with its truth beside its better predictions, see ``_readable``."""
    shape = (info.height, info.width)
    index = {c.id: i for i, c in enumerate(dataset.categories)}
    truth = [a for a in info.annotations if not a.crowd]
    found = _readable(predictions)
    empty = np.zeros(shape, bool)
    left = visualize.Objects(
        boxes=np.array([a.box for a in truth], np.float32).reshape(-1, 4),
        classes=np.array([a.class_id for a in truth], np.int32),
        masks=np.array([rle.decode(a.rle) for a in truth], bool).reshape(-1, *shape),
    )
    right = visualize.Objects(
        boxes=np.array([_xyxy(p["bbox"]) for p in found], np.float32).reshape(-1, 4),
        classes=np.array([index[p["category_id"]] for p in found], np.int32),
        masks=np.array([rle.decode(p["segmentation"]) if "segmentation" in p else empty for p in found], bool).reshape(
            -1, *shape
        ),
        scores=np.array([p["score"] for p in found], np.float32),
    )
    return visualize.side_by_side(image, left, right, dataset.categories)


def _readable(predictions: list[dict]) -> list[dict]:
    """Scores over SHOWN_SCORE and, of boxes that stand on each other whatever their class, the best."""
    kept: list[dict] = []
    for p in sorted(predictions, key=lambda p: -p["score"]):
        others = [q["bbox"] for q in kept]
        free = not others or np.max(rle.iou([p["bbox"]], others, [0] * len(others))) < SHOWN_IOU
        if p["score"] >= SHOWN_SCORE and free:
            kept.append(p)
    return kept


def _xyxy(box: list[float]) -> list[float]:
    return [box[0], box[1], box[0] + box[2], box[1] + box[3]]


def _mask_strips(config, folder, model, params, dataset, support, segmenter) -> None:
    """Noising and denoising of one novel object, several masks of some."""
    examples = _examples(config, dataset, segmenter, params)
    if not examples:
        return
    regions = np.stack([r for r, _, _ in examples])
    classes = np.array([c for _, _, c in examples], np.int32)
    f = config.model.mask.diffusion
    b = f.signal_scale

    clean = jnp.asarray(2.0 * examples[0][1] - 1.0) * b
    schedule = diffusion.make_schedule(f.schedule, f.timesteps)
    chain = diffusion.noise_chain(schedule, jax.random.key(0), clean)
    # evenly spaced in what is left of the mask, from most of it to nearly nothing
    left = np.linspace(0.95, 0.05, STRIP - 1)
    at = np.unique([np.abs(schedule.sqrt_alphas_cumprod - x).argmin() for x in left])
    images = [examples[0][1], *(np.asarray(chain[t]) / (2 * b) + 0.5 for t in at)]
    captions = ["mask", *(f"t = {t + 1}" for t in at)]
    _save(folder / "forward.png", visualize.strip(images, captions))

    trajectory = jax.jit(model.trajectory)  # everything is an argument: nothing becomes a constant of the program
    shots = support.shots[classes]
    draws = [
        jax.device_get(trajectory(params, jax.random.split(jax.random.key(s), len(classes)), regions, shots, classes))
        for s in range(SAMPLES)
    ]
    y, x0 = draws[0]
    steps = np.unique(np.round(np.linspace(0, len(y) - 1, STRIP)).astype(int))
    rows = [
        visualize.strip([regions[0], *(y[s, 0] for s in steps)], ["region", *(f"step {s + 1}: y" for s in steps)]),
        visualize.strip([examples[0][1], *(x0[s, 0] for s in steps)], ["truth", *("estimate" for _ in steps)]),
    ]
    _save(folder / "denoising.png", visualize.above(rows))
    sheets = [
        visualize.samples(
            regions[i], examples[i][1], [d[1][-1, i] for d in draws], title=_title(dataset.categories[classes[i]])
        )
        for i in range(len(classes))
    ]  # fmt: skip
    _save(folder / "samples.png", visualize.above(sheets))


def _title(category) -> str:
    return category.name + (" (novel)" if category.novel else "")


def _examples(config, dataset: Dataset, segmenter, params, count: int = 5) -> list:
    """(region, mask [M, M] float 0 or 1, class id) of true objects, large ones of different classes, novel first."""
    best: dict[int, tuple] = {}
    for i, info in enumerate(dataset.infos):
        for a in info.annotations:
            if not a.crowd and (a.class_id not in best or a.area > best[a.class_id][0]):
                best[a.class_id] = (a.area, i, a)
    order = sorted(best, key=lambda c: (not dataset.categories[c].novel, c))[:count]
    out = []
    for c in order:
        _, i, a = best[c]
        one = dataset._replace(infos=[dataset.infos[i]], read=lambda _, i=i: dataset.read(i))
        size = segment.whole_batch(config.eval.batch, segmenter.mesh)
        batch = next(iter(pipeline.eval_batches(one, config.data, batch=size)))
        boxes = np.zeros((len(batch.image_id), 1, 4), np.float32)
        boxes[:] = np.array(a.box)
        region = jax.device_get(segmenter.crop(batch, boxes))[0, 0]
        x0, y0, x1, y1 = a.box
        whole = Image.fromarray(rle.decode(a.rle) * 255)
        m = config.model.mask.size
        mask = whole.resize((m, m), Image.Resampling.BILINEAR, box=(x0, y0, x1, y1))
        out.append((region, (np.asarray(mask) >= 128).astype(np.float32), c))
    return out


def _save(path: Path, picture: np.ndarray) -> None:
    new = path.with_suffix(".partial.png")
    Image.fromarray(picture).save(new)
    new.rename(path)
