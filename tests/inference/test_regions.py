"""Training cuts regions from stored crops with pillow, evaluation from the batch under jit: the same pixels."""

import jax
import numpy as np
from PIL import Image

from configs import base
from maskdiff_jax.data import pipeline, transforms
from maskdiff_jax.data.dataset import Annotation, Category, Dataset, ImageInfo
from maskdiff_jax.data.formats.segmentation import decode_mask, encode_mask
from maskdiff_jax.ops import masks

M = 32
crop_resize = jax.jit(masks.crop_resize, static_argnums=2)


def photos():
    """Two images larger than the one that regions are cropped from, each with an ellipse as its object."""
    rng = np.random.default_rng(0)
    images, infos = [], []
    for k, (h, w) in enumerate([(150, 210), (240, 130)]):
        small = rng.integers(0, 256, (h // 15, w // 15, 3), dtype=np.uint8)
        images.append(np.asarray(Image.fromarray(small).resize((w, h), Image.Resampling.BICUBIC)))
        y, x = np.mgrid[:h, :w] + 0.5
        mask = ((x - w / 2) / 50) ** 2 + ((y - h / 2) / 37) ** 2 < 1
        box = (w / 2 - 50, h / 2 - 37, w / 2 + 50, h / 2 + 37)
        a = Annotation(k, k, 0, box, encode_mask(mask), float(mask.sum()), False)
        infos.append(ImageInfo(k, f"{k}.png", h, w, (a,)))
    return Dataset("photos", "test", (Category(1, "thing", False),), infos, images.__getitem__)


def test_training_and_evaluation_see_the_same_region(tmp_path):
    data = base.get_config("shapes").unlock().data
    data.root = str(tmp_path)
    data.region_long_side = 100  # half of the images' sides: both paths resize before they crop
    data.short_sides, data.test_short_side, data.long_side, data.buckets = (128,), 128, 256, ((256, 256),)
    dataset = photos()
    crops = pipeline.open_crops(data, dataset, "test")
    (batch,) = pipeline.eval_batches(dataset, data, batch=2)
    assert (batch.region_hw < batch.original_hw).all()
    for k, info in enumerate(dataset.infos):
        trained = transforms.crop_resize(transforms.pack(*crops.read(k)), np.array(crops.infos[k].box), M)
        (row,) = np.flatnonzero(batch.image_id == info.id)
        scale = np.tile((batch.region_hw[row] / batch.original_hw[row])[::-1], 2)
        (a,) = info.annotations
        evaluated = crop_resize(batch.region_image[row], np.array(a.box) * scale, M, batch.region_hw[row])
        assert np.abs(evaluated - trained[..., :3]).max() <= 2  # pillow rounds after each axis
        true = np.asarray(crop_resize(decode_mask(a.rle)[..., None], np.array(a.box), M))[..., 0] >= 0.5
        cropped = trained[..., 3] >= 128
        assert (true & cropped).sum() / (true | cropped).sum() > 0.97
