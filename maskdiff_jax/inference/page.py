"""The functions behind the web page of launch/demo.py: reading photos and masks, also painted ones; pictures, tables
and files to download.

Bad input is a ValueError whose text tells the visitor what to do; it contains the name of the file, not the path of the
upload.
"""

import dataclasses
import html
import io
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from maskdiff_jax.data.dataset import Category
from maskdiff_jax.data.formats.images import decode_image
from maskdiff_jax.inference import export, inputs, paste, shots
from maskdiff_jax.inference.inputs import Photo
from maskdiff_jax.inference.results import Detections
from maskdiff_jax.ops import nms
from maskdiff_jax.reporting import visualize

MAX_PIXELS = 50_000_000  # of a photo: any phone's, and arrays of its size still fit the memory of a laptop
SHOWN_SIDE = 720  # px: what is shown is made this small first; the json has the photo's own pixels
THUMBNAIL = 192  # px


class Shot(NamedTuple):
    """One object that shows a new class."""

    photo: Photo
    mask: np.ndarray  # [h, w] bool


def read_photo(path: str | Path) -> Photo:
    """An uploaded photo.

    Raises:
      ValueError: not an image, or of more than `MAX_PIXELS`, which the header says before anything is decoded.
    """
    path = Path(path)
    return Photo(decode_image(_checked_bytes(path), path.name), path.name)


def read_mask(path: str | Path) -> np.ndarray:
    """An uploaded mask, bool [h, w]: what is brighter than half of the brightest; of a transparent image the opaque.

    Raises:
      ValueError: as `read_photo`.
    """
    path = Path(path)
    data = _checked_bytes(path)
    values = decode_image(data, path.name).max(2)
    with Image.open(io.BytesIO(data)) as image:
        alpha = np.asarray(image.getchannel("A")) if "A" in image.getbands() else np.uint8([[255]])
    if alpha.min() < 255:
        values = alpha
    return values > values.max() / 2


def _checked_bytes(path: Path) -> bytes:
    """The bytes of an image file whose header names a size that can be decoded."""
    data = path.read_bytes()
    try:
        with Image.open(io.BytesIO(data)) as image:
            too_large = image.width * image.height > MAX_PIXELS
    except Image.DecompressionBombError:
        too_large = True
    except Exception:  # each of Pillow's readers raises its own errors; decoding says what is wrong
        decode_image(data, path.name)
        raise
    if too_large:
        raise ValueError(
            f"{path.name} has more than {MAX_PIXELS // 10**6} million pixels, the most that this page accepts: "
            "make it smaller, for example 4000 px wide, and choose it again"
        )
    return data


def painted_mask(layers: Sequence[np.ndarray], hw: tuple[int, int]) -> np.ndarray:
    """What a brush painted, bool [h, w].

    Args:
      layers: uint8 [a, b, 4] RGBA each, of any size; painted where they are opaque.
      hw: height and width of the photo, px.

    Raises:
      ValueError: nothing is painted.
    """
    mask = np.zeros(hw, bool)
    for layer in layers:
        alpha = Image.fromarray(np.ascontiguousarray(layer[..., 3]))
        mask |= np.asarray(alpha.resize((hw[1], hw[0]), Image.Resampling.BILINEAR)) >= 128
    if not mask.any():
        raise ValueError("nothing is painted: paint over the object with the brush, or upload its mask")
    return mask


def make_shot(photo: Photo, mask: np.ndarray) -> Shot:
    """A photo with the mask of an object, checked.

    Raises:
      ValueError: the mask is empty, covers everything or has another size than the photo.
    """
    try:
        shots.read(photo.pixels, mask, None, Category(0, "new", True), 0)
    except ValueError as error:
        raise ValueError(str(error).replace("image 1, mask 1", f"the mask for {photo.file}")) from None
    return Shot(photo, mask)


def masks_by_photo(photos: Sequence[str], masks: Sequence[str]) -> list[list[int]]:
    """Which uploaded masks belong to which photo.

    A mask belongs to the photo that its name starts with: `cup.png` or `cup_2.png` to `cup.jpg`. If the names do not
    match, a single photo gets all masks, and as many masks as photos are paired in order.

    Args:
      photos, masks: file names.

    Returns:
      For each photo positions in `masks`.

    Raises:
      ValueError: the masks cannot be assigned.
    """
    stems = [Path(p).stem for p in photos]
    owners = []
    for mask in masks:
        mine = [s for s in stems if Path(mask).stem.startswith(s)]
        longest = max(mine, key=len, default=None)
        owners.append(stems.index(longest) if longest is not None and stems.count(longest) == 1 else None)
    if len(photos) == 1:
        return [list(range(len(masks)))]
    if None not in owners:
        return [[m for m, owner in enumerate(owners) if owner == p] for p in range(len(photos))]
    if len(masks) == len(photos):
        return [[i] for i in range(len(photos))]
    raise ValueError(
        f"{len(photos)} photos, but {len(masks)} masks: name each mask as its photo ({stems[0]}.png), or give one mask "
        "for each photo, in the same order"
    )


def visible(found: Detections, score: float, agnostic_iou: float | None) -> Detections:
    """The objects that are shown.

    Args:
      found: the objects of a photo.
      score: the minimum score, 0..1.
      agnostic_iou: as in `segment.detected_objects`: each object once, as the class of the highest score; None: all.

    Raises:
      ValueError: no such score.
    """
    if not isinstance(score, int | float) or not 0 <= score <= 1:
        raise ValueError(f"the minimum score is {score}: give one from 0 to 1")
    found = found[found.scores >= score]
    return found if agnostic_iou is None else found[nms.class_agnostic(found.boxes, found.scores, agnostic_iou)]


def shrunk(found: Detections, threshold: float, side: int = SHOWN_SIDE) -> Detections:
    """The same objects in a smaller image, so that pictures of it cost little memory.

    Args:
      found: the objects.
      threshold: soft mask values from here on belong to the mask, as in `segment.make_segmenter`.
      side: px, the most that the image's long side has then.
    """
    scale = min(1.0, side / max(found.hw))
    if scale == 1.0:
        return found
    image = shown(found.image, side)
    hw = image.shape[:2]
    factor = np.float32([hw[1] / found.hw[1], hw[0] / found.hw[0]] * 2)
    regions = found.regions * factor
    rles = [paste.paste_rle(s, r, hw, threshold) for s, r in zip(found.region_soft, regions, strict=True)]
    return dataclasses.replace(found, image=image, boxes=found.boxes * factor, regions=regions, rles=rles)


def shown(pixels: np.ndarray, side: int = SHOWN_SIDE) -> np.ndarray:
    """An image that is made smaller where its long side is over `side` px; uint8 [h, w, 3]."""
    height, width = pixels.shape[:2]
    scale = min(1.0, side / max(height, width))
    if scale == 1.0:
        return pixels
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BOX))


def preview(pixels: np.ndarray) -> np.ndarray:
    """An image in the size that the page shows it in: small ones are enlarged by a whole factor."""
    return visualize.overlay(shown(pixels))


def uncertainty_picture(found: Detections) -> Image.Image:
    """Where the sampled masks disagree, see `visualize.uncertainty`."""
    uncertain = np.zeros(found.hw, np.float32)
    for i in range(len(found)):  # one at a time: arrays of all objects are large
        uncertain = np.maximum(uncertain, found[i].uncertainty[0])
    return Image.fromarray(visualize.uncertainty(found.image, uncertain, found.masks))


def thumbnail(shot: Shot) -> np.ndarray:
    """A shot with its mask tinted, cut out of the photo with a margin; uint8, its long side is `THUMBNAIL` px."""
    return visualize.cut_out(shot.photo.pixels, shot.mask, THUMBNAIL)


def table(found: Detections) -> str:
    """The objects as an HTML table: class with its color, score, confidence of the mask."""
    rows = []
    for label, class_id, score, confidence in zip(
        found.labels, found.class_ids, found.scores, found.confidence, strict=True
    ):
        color = "#{:02x}{:02x}{:02x}".format(*visualize.color(class_id))
        star = " ★" if found.categories[class_id].novel else ""
        rows.append(
            f'<tr><td><span class="dot" style="background:{color}"></span>{html.escape(label)}{star}</td>'
            f"<td>{100 * score:.0f} %</td><td>{100 * confidence:.0f} %</td></tr>"
        )
    head = "<tr><th>Class</th><th>Score</th><th>Mask confidence</th></tr>"
    return f'<table class="objects"><thead>{head}</thead><tbody>{"".join(rows)}</tbody></table>'


def nothing_found(found: Detections, score: float) -> str:
    """What to do if no object scores enough.

    Args:
      found: objects of any score.
      score: the minimum score that was asked for, 0..1.
    """
    best = f" The best candidate is '{found.labels[0]}' with {found.scores[0]:.2f}." if len(found) else ""
    return (
        f"Nothing found above score {score:.2f}.{best} Lower the minimum score, choose another photo, or add the "
        "class that you are looking for."
    )


def overlap(found: Detections, other: Detections) -> float:
    """Mean mask IoU, 0..1, of the same objects whose masks were sampled in two ways; 1 for no objects."""
    shares = []
    for i in range(len(found)):
        a, b = found.mask(i), other.mask(i)
        union = np.count_nonzero(a | b)
        shares.append(np.count_nonzero(a & b) / union if union else 1.0)
    return float(np.mean(shares)) if shares else 1.0


def notice(text: str, kind: str = "info") -> str:
    """A message on the page; it may hold names of files and classes, so it is text and no HTML."""
    return f'<div class="notice {kind}" role="{"alert" if kind == "error" else "status"}">{html.escape(text)}</div>'


def caption(found: Detections, first: Detections, evaluations: int) -> str:
    """The caption of a picture in a comparison, as HTML.

    Args:
      found: the objects, with masks of the settings that the picture is of.
      first: the same objects, with masks of the first settings.
      evaluations: network evaluations for a mask.
    """
    lines = [f"{len(found)} objects, {evaluations} network evaluations for each mask"]
    if len(found):
        lines.append(f"mask confidence {100 * found.confidence.mean():.0f} %")
    if found is not first and len(found):
        lines.append(f"IoU with the masks of A: {100 * overlap(found, first):.0f} %")
    return "<br>".join(lines)


def write_results(found: Detections, folder: str | Path) -> Path:
    """COCO results of a photo, as `Detections.to_coco`, in a json with the photo's name."""
    return found.save(Path(folder) / f"{Path(found.file or 'photo').stem}.json")


def write_zip(trained: export.TrainedModel, folder: str | Path) -> Path:
    """FOLDER/model.zip, which holds the export `model`."""
    with tempfile.TemporaryDirectory(dir=folder) as place:
        export.write(Path(place) / "model", trained)
        return Path(shutil.make_archive(str(Path(folder) / "model"), "zip", place, "model"))


def examples(folder: str | Path) -> list[Path]:
    """The images of a folder in the order of their names; none where there is no such folder."""
    try:
        return list(inputs.several(folder))
    except FileNotFoundError:
        return []
