"""The facade for users: an exported model, then images.

    predictor = load("exports/mine")
    prediction = predictor(image)            # uint8 [h, w, 3] RGB, any size

The path is evaluation's, `segment.py`: the same resizing, the same regions, the same sampler.
"""

from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from maskdiff_jax import checkpoint
from maskdiff_jax.data import transforms
from maskdiff_jax.data.dataset import Category
from maskdiff_jax.data.formats.segmentation import decode_mask
from maskdiff_jax.data.support import active_class_ids, active_mask
from maskdiff_jax.inference import paste, segment
from maskdiff_jax.model import build
from maskdiff_jax.types import Batch, Instances

MASK_BATCHES = (1, 4, 16)  # objects whose masks are sampled together; one image seldom has more


class Prediction(NamedTuple):
    """n objects of one image, best first.

    Masks are kept as RLE and as the M x M values that were sampled: at the size of a photo they would take gigabytes.
    ``masks``, ``soft`` and ``samples`` make arrays of the image's size, at every access anew.
    """

    hw: tuple[int, int]  # height, width of the image as given
    boxes: np.ndarray  # [n, 4] float32, xyxy in pixels of the image as given
    scores: np.ndarray  # [n] float32, 0..1
    class_ids: np.ndarray  # [n] int32, positions in Predictor.categories
    labels: list[str]  # n class names
    rles: list[dict[str, Any]]  # n masks as compressed COCO RLE, {"size": [h, w], "counts": str}
    confidence: np.ndarray  # [n] float32, 0..1: how sure the mask is of itself, see segment.confidence
    regions: np.ndarray  # [n, 4] float32, xyxy: what the M x M values cover, the boxes with a margin
    region_soft: np.ndarray  # [n, M, M] float32, 0..1: mean of the sampled masks
    region_samples: np.ndarray | None  # [n, N, M, M] likewise: each sampled mask, where `load` was asked to keep them

    @property
    def masks(self) -> np.ndarray:
        """[n, h, w] bool."""
        return np.array([self.mask(i) for i in range(len(self.rles))], bool).reshape(-1, *self.hw)

    @property
    def soft(self) -> np.ndarray:
        """[n, h, w] float32, 0..1: mean of the sampled masks."""
        return _pasted(self.region_soft[:, None], self.regions, self.hw)[:, 0]

    @property
    def samples(self) -> np.ndarray | None:
        """[n, N, h, w] float32, 0..1: each sampled mask, where `load` was asked to keep them."""
        return None if self.region_samples is None else _pasted(self.region_samples, self.regions, self.hw)

    def mask(self, i: int) -> np.ndarray:
        """[h, w] bool: the mask of object i."""
        return decode_mask(self.rles[i]).astype(bool)


def _pasted(values: np.ndarray, boxes: np.ndarray, hw: tuple[int, int]) -> np.ndarray:
    """[n, N, M, M] -> [n, N, h, w] float32."""
    out = np.zeros((*values.shape[:2], *hw), np.float32)
    for i, k in np.ndindex(*values.shape[:2]):
        out[i, k] = paste.paste(values[i, k], boxes[i], hw)
    return out


class Predictor:
    """An exported model on one device, compiled for each padded size when the first image needs it."""

    categories: tuple[Category, ...]  # by class id
    active: np.ndarray  # [C] bool: the classes that can be detected

    def __init__(
        self, exported: checkpoint.Export, noise_seed: int, samples: int, min_score: float, keep_samples: bool
    ):
        """Use ``load``."""
        self._config = c = as_config(exported.config)
        self.categories = tuple(Category(**x) for x in exported.categories)
        self.active = active_mask(active_class_ids(c, self.categories), len(self.categories))
        self._params = jax.device_put(exported.params)
        self._min_score, self._samples, self._keep_samples = min_score, samples, keep_samples
        self._top_n = min(c.eval.mask_top_n, c.model.detector.max_detections)
        self._segmenter = segment.make_segmenter(
            build(c.model), exported.support, size=c.model.mask.size, context=c.data.context,
            top_n=self._top_n, mask_batches=MASK_BATCHES, threshold=c.eval.mask_threshold,
            samples=samples, noise_seed=noise_seed,
        )  # fmt: skip

    def __call__(self, image: np.ndarray, image_id: int = 0) -> Prediction:
        """Detects the objects of one image and samples their masks.

        Args:
          image: uint8 [h, w, 3] RGB, any size.
          image_id: selects the noise: the same image with the same id gives the same masks.

        Raises:
          ValueError: not such an array.
        """
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or not image.size:
            raise ValueError(f"an image must be uint8 [h, w, 3], not {image.dtype} {list(image.shape)}")
        batch = as_batch(image, image_id, self._config.data)
        objects = segment.detected_objects(
            self._segmenter, self._params, [batch], self.active,
            min_score=self._min_score, top_n=self._top_n, without_mask=[],
        )  # fmt: skip
        sampled = segment.sample_masks(self._segmenter, self._params, objects)
        return self._prediction(image, segment.concatenate(sampled, self._config.model.mask.size, self._samples))

    def _prediction(self, image: np.ndarray, sampled: segment.SampledMasks) -> Prediction:
        """The sampled masks of one image's objects, pasted and named."""
        objects, context = sampled.objects, self._segmenter.context
        regions = [paste.context_box(box, context, image.shape) for box in objects.box]
        return Prediction(
            hw=(image.shape[0], image.shape[1]),
            boxes=objects.box,
            scores=objects.score,
            class_ids=objects.class_id,
            labels=[self.categories[i].name for i in objects.class_id],
            rles=segment.paste_all(self._segmenter, sampled),
            confidence=segment.confidence(sampled.soft, self._segmenter.threshold),
            regions=np.array(regions, np.float32).reshape(-1, 4),
            region_soft=sampled.soft,
            region_samples=sampled.each if self._keep_samples else None,
        )


def load(
    folder: str | Path,
    *,
    noise_seed: int | None = None,
    samples: int | None = None,
    min_score: float | None = None,
    keep_samples: bool = False,
) -> Predictor:
    """Opens what launch/export.py wrote.

    Args:
      folder: the export.
      noise_seed: of the sampler; None: as the model was evaluated, likewise below.
      samples: masks drawn per object and averaged, from 1 on.
      min_score: detections below are left out, 0..1.
      keep_samples: predictions hold each of the `samples` masks too.

    Raises:
      FileNotFoundError: not an export.
      ValueError: damaged, or an option out of range.
    """
    exported = checkpoint.load_export(folder, _abstract_params)
    e = exported.config["eval"]
    noise_seed = e["noise_seed"] if noise_seed is None else noise_seed
    samples = e["samples"] if samples is None else samples
    min_score = e["mask_min_score"] if min_score is None else min_score
    if samples < 1:
        raise ValueError(f"samples={samples}: at least one mask must be drawn per object")
    if not 0 <= min_score <= 1:
        raise ValueError(f"min_score={min_score} must be in 0..1")
    return Predictor(exported, noise_seed, samples, min_score, keep_samples)


def as_config(tree: dict) -> ConfigDict:
    """The config of a json file; json's lists were tuples."""
    return ConfigDict({k: _tuples(v) for k, v in tree.items()})


def _tuples(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _tuples(v) for k, v in value.items()}
    return tuple(_tuples(v) for v in value) if isinstance(value, list) else value


def _abstract_params(config: dict) -> Any:
    return jax.eval_shape(build(as_config(config).model).init, jax.random.key(0))


def as_batch(image: np.ndarray, image_id: int, data: ConfigDict) -> Batch:
    """One image as an evaluation batch of one (``data.pipeline.eval_batches``), without ground truth.

    Args:
      image: uint8 [h, w, 3].
      image_id: 0 or more.
      data: config.data.
    """
    h, w = image.shape[:2]
    hw = transforms.resized_hw(h, w, data.test_short_side, data.long_side)
    hw = (max(hw[0], 1), max(hw[1], 1))  # of a very long strip nothing would be left
    canvas = np.zeros((1, *transforms.padded_size(hw, data.buckets), 3), np.uint8)
    canvas[0, : hw[0], : hw[1]] = transforms.resize(image, hw)
    small = transforms.resize(image, transforms.region_hw(h, w, data.region_long_side))
    region = np.zeros((1, data.region_long_side, data.region_long_side, 3), np.uint8)
    region[0, : small.shape[0], : small.shape[1]] = small
    nothing = Instances(np.zeros((1, 1, 4), np.float32), np.full((1, 1), -1, np.int32), np.zeros((1, 1), bool))
    return Batch(
        image=canvas,
        image_hw=np.array([hw], np.int32),
        original_hw=np.array([(h, w)], np.int32),
        image_id=np.array([image_id], np.int32),
        instances=nothing,
        region_image=region,
        region_hw=np.array([small.shape[:2]], np.int32),
    )
