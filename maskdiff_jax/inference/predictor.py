"""The interface for users: open a trained model, then give it images.

    predictor = load("exports/mine")         # an export, or the folder of a run
    prediction = predictor(image)            # uint8 [h, w, 3] RGB, any size

Masks are made as in evaluation, by `segment.py`: the same resizing, the same regions, the same sampler.
"""

from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from maskdiff_jax import workdir
from maskdiff_jax.data import transforms
from maskdiff_jax.data.dataset import Category
from maskdiff_jax.data.formats.segmentation import decode_mask
from maskdiff_jax.data.support import active_class_ids, active_mask
from maskdiff_jax.inference import export, paste, segment
from maskdiff_jax.inference.export import TrainedModel
from maskdiff_jax.model import build
from maskdiff_jax.types import Batch, Instances

MASK_BATCHES = (1, 4, 16)  # objects whose masks are sampled together; one image seldom has more


class Prediction(NamedTuple):
    """n objects of one image, best first.

    Masks are kept as RLE and as the M x M values that were sampled: arrays of a photo's size would take gigabytes.
    ``masks``, ``soft`` and ``samples`` make arrays of the image's size, anew at every access.
    """

    hw: tuple[int, int]  # height, width of the image as given
    boxes: np.ndarray  # [n, 4] float32, xyxy in pixels of the image as given
    scores: np.ndarray  # [n] float32, 0..1
    class_ids: np.ndarray  # [n] int32, positions in Predictor.categories
    labels: list[str]  # n class names
    rles: list[dict[str, Any]]  # n masks as compressed COCO RLE, {"size": [h, w], "counts": str}
    confidence: np.ndarray  # [n] float32, 0..1: of the masks, see segment.confidence
    regions: np.ndarray  # [n, 4] float32, xyxy: what the M x M values cover, the boxes with a margin
    region_soft: np.ndarray  # [n, M, M] float32, 0..1: mean of the sampled masks
    region_samples: np.ndarray | None  # [n, N, M, M] float32, 0..1: each sampled mask; None unless kept, see `load`

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
        """[n, N, h, w] float32, 0..1: each sampled mask; None unless `load(keep_samples=True)`."""
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
    """A trained model on one device, compiled for each padded size when the first image needs it."""

    categories: tuple[Category, ...]  # by class id
    active: np.ndarray  # [C] bool: the classes that can be detected

    def __init__(self, trained: TrainedModel, *, noise_seed: int, samples: int, min_score: float, keep_samples: bool):
        """See ``load``."""
        self._config = config = trained.config
        self.categories = trained.categories
        self.active = active_mask(active_class_ids(config, trained.categories), len(trained.categories))
        self._params = jax.device_put(trained.params)
        self._min_score, self._samples, self._keep_samples = min_score, samples, keep_samples
        self._top_n = min(config.eval.mask_top_n, config.model.detector.max_detections)
        model = build(config.model)
        self._mask_side = model.mask_side
        self._segmenter = segment.make_segmenter(
            model, trained.support, size=config.model.mask.size, context=config.data.context,
            top_n=self._top_n, mask_batches=MASK_BATCHES, threshold=config.eval.mask_threshold,
            samples=samples, noise_seed=noise_seed,
        )  # fmt: skip

    def __call__(self, image: np.ndarray, image_id: int = 0) -> Prediction:
        """Detects the objects of one image and samples their masks.

        Args:
          image: uint8 [h, w, 3] RGB, any size.
          image_id: 0..2^31-1, selects the noise: the same image with the same id gives the same masks.

        Raises:
          ValueError: not such an array or id.
        """
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or not image.size:
            raise ValueError(f"an image must be uint8 [h, w, 3], not {image.dtype} {list(image.shape)}")
        if not 0 <= image_id < 2**31:
            raise ValueError(f"image_id={image_id}: give a number in 0..{2**31 - 1}")
        batch = as_batch(image, image_id, self._config.data)
        objects = segment.detected_objects(
            self._segmenter, self._params, [batch], self.active,
            min_score=self._min_score, top_n=self._top_n, without_mask=[],
        )  # fmt: skip
        sampled = segment.sample_masks(self._segmenter, self._params, objects)
        return self._prediction(image, segment.concatenate(sampled, self._mask_side, self._samples))

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


def read_config(folder: str | Path) -> ConfigDict:
    """The config of an export or of a run.

    Raises:
      FileNotFoundError: the folder is neither.
      ValueError: its json is damaged.
    """
    folder = Path(folder)
    if (folder / export.DOCUMENT).is_file():
        return export.read_document(folder)[0]
    if (folder / workdir.CONFIG).is_file():
        return workdir.read_config(folder)
    raise FileNotFoundError(
        f"{folder} holds no model: give the folder of a trained run, or of a model that launch/export.py wrote"
    )


def load(
    folder: str | Path,
    *,
    config: ConfigDict | None = None,
    noise_seed: int | None = None,
    samples: int | None = None,
    min_score: float | None = None,
    keep_samples: bool = False,
) -> Predictor:
    """Opens a trained model.

    Args:
      folder: of an export, or of a run whose training has finished. A run needs its dataset, for the shots; an export
        holds them.
      config: the folder's config with other values of fields that may change after training, as those of the sampler;
        None: as it is.
      noise_seed: of the sampler; None: as in the config.
      samples: masks sampled per object and averaged, from 1 on; None: as in the config.
      min_score: detections below are dropped, 0..1; None: as in the config.
      keep_samples: predictions hold each of the `samples` masks too.

    Raises:
      FileNotFoundError: the folder holds no model, or the run's dataset is missing.
      ValueError: the folder is damaged, or an option is out of range.
    """
    folder = Path(folder)
    config = read_config(folder) if config is None else config
    if (folder / export.DOCUMENT).is_file():
        trained = export.read(folder)._replace(config=config)
    else:
        trained = export.from_run(config, folder)
    noise_seed = int(config.eval.noise_seed if noise_seed is None else noise_seed)
    samples = int(config.eval.samples if samples is None else samples)
    min_score = float(config.eval.mask_min_score if min_score is None else min_score)
    if samples < 1:
        raise ValueError(f"samples={samples}: give at least 1, the masks that are sampled per object")
    if not 0 <= min_score <= 1:
        raise ValueError(f"min_score={min_score}: give a score in 0..1")
    return Predictor(trained, noise_seed=noise_seed, samples=samples, min_score=min_score, keep_samples=keep_samples)


def as_batch(image: np.ndarray, image_id: int, data: ConfigDict) -> Batch:
    """One image as a batch of evaluation (``data.pipeline.eval_batches``), without ground truth.

    Args:
      image: uint8 [h, w, 3].
      image_id: 0 or more.
      data: config.data.
    """
    h, w = image.shape[:2]
    hw = transforms.resized_hw(h, w, data.test_short_side, data.long_side)
    hw = (max(hw[0], 1), max(hw[1], 1))  # a very long strip would shrink to nothing
    padded = np.zeros((1, *transforms.padded_size(hw, data.buckets), 3), np.uint8)
    padded[0, : hw[0], : hw[1]] = transforms.resize(image, hw)
    small = transforms.resize(image, transforms.region_hw(h, w, data.region_long_side))
    region = np.zeros((1, data.region_long_side, data.region_long_side, 3), np.uint8)
    region[0, : small.shape[0], : small.shape[1]] = small
    nothing = Instances(np.zeros((1, 1, 4), np.float32), np.full((1, 1), -1, np.int32), np.zeros((1, 1), bool))
    return Batch(
        image=padded,
        image_hw=np.array([hw], np.int32),
        original_hw=np.array([(h, w)], np.int32),
        image_id=np.array([image_id], np.int32),
        instances=nothing,
        region_image=region,
        region_hw=np.array([small.shape[:2]], np.int32),
    )
