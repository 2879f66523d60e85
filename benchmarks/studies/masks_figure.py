"""docs/mask_head.png: the same objects through the heads and samplers of the study, soft masks."""

from pathlib import Path

import jax
import numpy as np
from PIL import Image, ImageDraw

from benchmarks import measure
from benchmarks.studies.mask_scores import changed
from benchmarks.studies.masks import TRAININGS, open_data, slug
from maskdiff_jax import checkpoint
from maskdiff_jax.data import pipeline
from maskdiff_jax.data.formats.segmentation import decode_mask
from maskdiff_jax.inference import segment
from maskdiff_jax.model import build

OBJECTS = 10  # base and novel by turns
SIDE, GAP, HEAD = 96, 6, 30  # px
# title, folder of the training, its name, steps, w
COLUMNS = [
    ("1 step", "baseline", 1, 1.0), ("2 steps", "baseline", 2, 1.0), ("10 steps, w = 2", "baseline", 10, 2.0),
    ("10 steps, w = 5", "baseline", 10, 5.0), ("plain UNet", "plain UNet", 1, 1.0),
    ("b = 1, 10 steps", "b=1", 10, 1.0), ("eps, b = 1,\n10 steps", "paper: eps b=1", 10, 1.0),
    ("eps, b = 1,\nw = 5", "paper: eps b=1", 10, 5.0),
]  # fmt: skip


def render(form: str) -> Path:
    """Renders the figure from the newest study of this form in runs/study_masks; returns its path."""
    folder = max((measure.ROOT / "runs" / "study_masks").glob(f"{form}-*"), key=lambda p: p.stat().st_mtime)
    data = open_data(None)
    truth, order = _objects(data)
    columns, titles = [], ["region", "truth"]
    for title, name, steps, guidance in COLUMNS:
        here = folder / slug(name, 0)
        changes = {"model.mask.diffusion.steps": steps, "model.mask.diffusion.guidance": guidance}
        config = changed(data.config, TRAININGS[name] | changes)
        model = build(config.model)
        params = checkpoint.load_params(here / "params", jax.eval_shape(model.init, jax.random.key(0)))
        segmenter = segment.make_segmenter(
            model, data.support, size=config.model.mask.size, context=config.data.context, top_n=1,
            mask_batches=(OBJECTS,), threshold=0.5, samples=1, noise_seed=0,
        )  # fmt: skip
        found, soft = _soft(segmenter, params, data, truth, order)
        if not columns:
            columns = [list(found.region), [_true(data, found, i) for i in range(len(found.rank))]]
        columns.append(list(soft))
        titles.append(title)
    page = Image.new("RGB", ((SIDE + GAP) * len(columns) + GAP, (SIDE + GAP) * OBJECTS + HEAD), "white")
    pen = ImageDraw.Draw(page)
    for x, (title, cells) in enumerate(zip(titles, columns, strict=True)):
        pen.multiline_text((GAP + x * (SIDE + GAP), 2), title, "black", font_size=12, spacing=1)
        for y, cell in enumerate(cells):
            pixels = cell if cell.dtype == np.uint8 else np.round(255 * cell).astype(np.uint8)
            tile = Image.fromarray(pixels).resize((SIDE, SIDE), Image.Resampling.NEAREST).convert("RGB")
            page.paste(tile, (GAP + x * (SIDE + GAP), HEAD + y * (SIDE + GAP)))
    path = measure.ROOT / "docs" / "mask_head.png"
    page.quantize(64).save(path, optimize=True)
    return path


def _objects(data) -> tuple[dict, list]:
    """Boxes and classes of the first images, and which objects are shown: base and novel by turns."""
    kinds: dict[bool, list] = {False: [], True: []}
    for image_id, annotations in data.truth.items():
        for rank, a in enumerate(annotations):
            kinds[data.test.categories[a.class_id].novel].append((image_id, rank))
    half = OBJECTS // 2
    pairs = zip(kinds[False][::9][:half], kinds[True][::9][:half], strict=True)
    return data.truth, [key for pair in pairs for key in pair]


def _soft(segmenter, params, data, truth, order):
    boxes = {
        i: (np.array([a.box for a in v], np.float32), np.array([a.class_id for a in v])) for i, v in truth.items() if v
    }
    batches = pipeline.eval_batches(data.test, data.config.data, batch=data.config.eval.batch)
    kept = []
    for found, hw in segment.ground_truth_objects(segmenter, params, batches, boxes):
        for row in range(len(hw)):
            key = (int(found.image_id[row]), int(found.rank[row]))
            if key in order:
                kept.append((order.index(key), jax.tree.map(lambda v, row=row: v[row : row + 1], (found, hw))))
    stream = [pair for _, pair in sorted(kept, key=lambda item: item[0])]
    sampled = next(segment.sample_masks(segmenter, params, stream))
    return sampled.objects, sampled.soft


def _true(data, found, i) -> np.ndarray:
    a = data.truth[int(found.image_id[i])][found.rank[i]]
    mask = Image.fromarray(decode_mask(a.rle) * np.uint8(255))
    box = (*np.maximum(found.box[i][:2], 0), *np.minimum(found.box[i][2:], mask.size))
    return np.asarray(mask.resize(found.region.shape[1:3], Image.Resampling.BILINEAR, box=box))
