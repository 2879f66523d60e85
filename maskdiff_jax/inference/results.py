"""The objects that the predictor finds in an image; functions to show, save and convert them."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from maskdiff_jax import atomic
from maskdiff_jax.data.dataset import Category
from maskdiff_jax.data.formats.segmentation import decode_mask
from maskdiff_jax.inference import paste
from maskdiff_jax.reporting import visualize

PICTURES = {".png": "png", ".jpg": "jpeg", ".jpeg": "jpeg", ".webp": "webp"}  # suffix -> Pillow's format


@dataclasses.dataclass(frozen=True, eq=False)
class Detections:
    """n objects of one image, best first: ``len(found)``, ``found[0]``, ``found[found.scores > 0.5]``.

    Masks are kept as RLE and as the M x M values that were sampled: arrays of a photo's size would take gigabytes.
    ``masks``, ``soft``, ``samples`` and ``uncertainty`` compute arrays of the image's size at every access.
    """

    image: np.ndarray  # uint8 [h, w, 3] RGB
    file: str | None  # what the image was read from; None: it was given as pixels
    categories: tuple[Category, ...]  # C, by class id
    boxes: np.ndarray  # [n, 4] float32, xyxy in pixels of the image
    scores: np.ndarray  # [n] float32, 0..1
    class_ids: np.ndarray  # [n] int32, 0..C-1
    rles: list[dict[str, Any]]  # n masks as compressed COCO RLE, {"size": [h, w], "counts": str}
    confidence: np.ndarray  # [n] float32, 0..1: of the masks, see segment.confidence
    regions: np.ndarray  # [n, 4] float32, xyxy: what the M x M values cover, the boxes with a margin
    region_soft: np.ndarray  # [n, M, M] float32, 0..1: mean of the sampled masks
    region_samples: np.ndarray | None  # [n, N, M, M] float32, 0..1: each sampled mask; None unless kept, see `load`

    def __len__(self) -> int:
        return len(self.scores)

    def __getitem__(self, which: Any) -> "Detections":
        """Some of the objects: of an index one, of a slice, of indices or of bools [n] several."""
        chosen = np.atleast_1d(np.arange(len(self))[which])
        arrays = {k: getattr(self, k)[chosen] for k in ("boxes", "scores", "class_ids", "confidence", "regions")}
        samples = None if self.region_samples is None else self.region_samples[chosen]
        return dataclasses.replace(
            self, **arrays, rles=[self.rles[i] for i in chosen], region_soft=self.region_soft[chosen],
            region_samples=samples,
        )  # fmt: skip

    def __repr__(self) -> str:
        objects = ", ".join(f"{n} {s:.2f}" for n, s in zip(self.labels, self.scores, strict=True))
        return f"Detections({len(self)} in {self.hw[0]} x {self.hw[1]} px{': ' * bool(objects)}{objects})"

    @property
    def hw(self) -> tuple[int, int]:
        """Height and width of the image."""
        return self.image.shape[0], self.image.shape[1]

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all C classes, by class id."""
        return tuple(c.name for c in self.categories)

    @property
    def labels(self) -> list[str]:
        """The n class names of the objects."""
        return [self.categories[i].name for i in self.class_ids]

    @property
    def masks(self) -> np.ndarray:
        """[n, h, w] bool."""
        return np.array([self.mask(i) for i in range(len(self))], bool).reshape(-1, *self.hw)

    @property
    def soft(self) -> np.ndarray:
        """[n, h, w] float32, 0..1: mean of the sampled masks."""
        return _pasted(self.region_soft[:, None], self.regions, self.hw)[:, 0]

    @property
    def samples(self) -> np.ndarray | None:
        """[n, N, h, w] float32, 0..1: each sampled mask; None unless `load(keep_samples=True)`."""
        return None if self.region_samples is None else _pasted(self.region_samples, self.regions, self.hw)

    @property
    def uncertainty(self) -> np.ndarray:
        """[n, h, w] float32, 0..1: 4 p (1 - p) with p = `soft`, the variance of a pixel's label scaled to 0..1."""
        soft = self.soft
        return 4 * soft * (1 - soft)

    def mask(self, i: int) -> np.ndarray:
        """[h, w] bool: the mask of object i."""
        return decode_mask(self.rles[i]).astype(bool)

    def rescored(self) -> "Detections":
        """The same objects, each score multiplied by the confidence of its mask; best first."""
        scores = self.scores * self.confidence
        return dataclasses.replace(self, scores=scores)[np.argsort(-scores, kind="stable")]

    def plot(self) -> Image.Image:
        """The image with tinted masks, boxes and labels; novel classes have a star. Small images are enlarged."""
        return draw(self.image, self)

    def save(self, path: str | Path) -> Path:
        """Writes a picture as `plot` makes it, or with the suffix .json COCO results.

        Args:
          path: with the suffix .png, .jpg, .jpeg, .webp or .json; folders above are made.

        Raises:
          ValueError: another suffix.
        """
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        suffix = path.suffix.lower()
        if suffix == ".json":
            atomic.write_json(path, self.to_coco())
        elif suffix in PICTURES:
            picture = self.plot()
            atomic.write(path, lambda file: picture.save(file, PICTURES[suffix]))
        else:
            raise ValueError(f"cannot save {path}: the name must end in {', '.join(PICTURES)} or .json")
        return path

    def to_coco(self, image_id: int = 1) -> list[dict[str, Any]]:
        """One COCO result for each object, also with "category_name", "confidence" (of the mask) and "file_name"."""
        rows = []
        for i, rle in enumerate(self.rles):
            category = self.categories[self.class_ids[i]]
            row = result_row(image_id, category.id, self.scores[i], self.boxes[i], rle, self.confidence[i])
            row |= {"category_name": category.name} | ({"file_name": self.file} if self.file is not None else {})
            rows.append(row)
        return rows

    def to_supervision(self) -> dict[str, Any]:
        """The arguments of ``supervision.Detections(**found.to_supervision())`` (roboflow/supervision)."""
        return {
            "xyxy": self.boxes.reshape(-1, 4),
            "mask": self.masks,
            "confidence": self.scores,
            "class_id": self.class_ids.astype(int),
            "data": {"class_name": np.array(self.labels, dtype=str)},
        }


def draw(image: np.ndarray, found: Detections) -> Image.Image:
    """An image with the objects of `found`: tinted masks, boxes, labels; novel classes have a star.

    Args:
      image: uint8 [h, w, 3], of the size of the image that they were found in.
      found: the objects.

    Raises:
      ValueError: an image of another size.
    """
    if image.shape[:2] != found.hw:
        height, width = image.shape[:2]
        raise ValueError(
            f"these objects belong to an image of {found.hw[0]} x {found.hw[1]} px, but the image has {height} "
            f"x {width} px"
        )
    novel = [found.categories[i].novel for i in found.class_ids]
    colors = [visualize.color(i) for i in found.class_ids]
    masks = found.masks
    picture = visualize.overlay(image, masks, found.boxes, found.labels, found.scores, colors, novel=novel)
    return Image.fromarray(picture)


def result_row(
    image_id: int, category_id: int, score: float, box: np.ndarray, rle: dict[str, Any] | None = None,
    confidence: float | None = None,
) -> dict[str, Any]:  # fmt: skip
    """One detection as a COCO result.

    Args:
      box: [4] xyxy in pixels of the image as stored.
      rle: the mask, as compressed COCO RLE; None: a detection without a mask.
      confidence: of the mask, 0..1, see ``segment.confidence``; not part of COCO's format, other tools ignore it.
    """
    x0, y0, x1, y1 = (round(float(v), 2) for v in box)
    row: dict[str, Any] = {
        "image_id": int(image_id),
        "category_id": int(category_id),
        "score": round(float(score), 5),
        "bbox": [x0, y0, round(x1 - x0, 2), round(y1 - y0, 2)],
    }
    if rle is not None:
        row["segmentation"] = rle
    if confidence is not None:
        row["confidence"] = round(float(confidence), 5)
    return row


def _pasted(values: np.ndarray, boxes: np.ndarray, hw: tuple[int, int]) -> np.ndarray:
    """[n, N, M, M] -> [n, N, h, w] float32."""
    out = np.zeros((*values.shape[:2], *hw), np.float32)
    for i, k in np.ndindex(*values.shape[:2]):
        out[i, k] = paste.paste(values[i, k], boxes[i], hw)
    return out
