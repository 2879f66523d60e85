"""The interface for users: open a trained model, then give it images.

    predictor = load("exports/mine")         # an export, or the folder of a run
    found = predictor("photo.jpg")           # a file, a uint8 array or a PIL image: Detections
    found.save("photo_with_masks.png")
    for found in predictor("photos/"):       # a folder or a list: a list; a generator: a generator
        print(found)

Masks are made as in evaluation, by `segment.py`: the same resizing, the same regions, the same sampler.
"""

import threading
from collections.abc import Iterable, Iterator
from itertools import islice
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, overload

import jax
import numpy as np
from PIL import Image

from maskdiff_jax import workdir
from maskdiff_jax.data import transforms
from maskdiff_jax.data.crops import crops_from_dataset
from maskdiff_jax.data.dataset import Category, Dataset
from maskdiff_jax.data.support import active_class_ids, active_mask, support_set
from maskdiff_jax.inference import classes, export, inputs, paste, results, segment, shots
from maskdiff_jax.inference.export import TrainedModel
from maskdiff_jax.inference.inputs import Photo, as_batch
from maskdiff_jax.inference.results import Detections
from maskdiff_jax.model import Model, build
from maskdiff_jax.types import SupportSet

if TYPE_CHECKING:  # an export is used without ml_collections
    from ml_collections import ConfigDict

MASK_BATCHES = (1, 4, 16)  # objects whose masks are sampled together; one image seldom has more
SPARE = 7  # slots for more classes when the first one is added: the next ones need no compilation
AHEAD = 16  # images of a list or folder that are read before their masks are sampled together

OneImage: TypeAlias = np.ndarray | Image.Image


class Predictor:
    """A trained model on one device, compiled for each padded size when the first image needs it."""

    trained: TrainedModel  # what `save` writes; a value: changes of classes make a new one, see `use`
    categories: tuple[Category, ...]  # by class id
    active: np.ndarray  # bool, by class id: the classes that can be detected; perhaps longer than `categories`

    def __init__(
        self, trained: TrainedModel, *,
        noise_seed: int, samples: int, min_score: float, keep_samples: bool, batch: int = 1,
        class_agnostic_nms: bool = False,
    ):  # fmt: skip
        """See ``load``."""
        self._config = config = trained.config
        self._noise_seed, self._samples, self._keep_samples = noise_seed, samples, keep_samples
        self._min_score, self._batch = min_score, batch
        self._agnostic_iou = float(config.model.detector.nms) if class_agnostic_nms else None
        self._top_n = min(config.eval.mask_top_n, config.model.detector.max_detections)
        model = build(config.model)
        self._mask_side, self._box_features = model.mask_side, jax.jit(model.box_features)
        self._segmenter = self._compiled(model, trained.support)
        self._lock = threading.RLock()  # a call sees the model before or after a change of its classes
        self._slots = len(trained.categories)  # for classes, in the compiled programs
        self.use(trained)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the classes that can be detected."""
        return tuple(c.name for c, active in zip(self.categories, self.active, strict=False) if active)

    @overload
    def __call__(self, images: OneImage, image_id: int = 0) -> Detections: ...
    @overload
    def __call__(self, images: str | PathLike, image_id: int = 0) -> Any: ...  # a file: Detections; a folder: a list
    @overload
    def __call__(self, images: list | tuple, image_id: int = 0) -> list[Detections]: ...
    @overload
    def __call__(self, images: Iterable, image_id: int = 0) -> Iterator[Detections]: ...

    def __call__(self, images: Any, image_id: int = 0) -> Any:
        """Detects the objects of images and samples their masks.

        Args:
          images: one image of any size: uint8 [h, w] gray, [h, w, 3] RGB or [h, w, 4] RGBA, a PIL image, or the name
            of a file. EXIF rotation is applied, transparency dropped. Or several: a folder, a list or tuple, or any
            other iterable.
          image_id: 0..2^31-1, selects the noise: the same image with the same id gives the same masks, alone or
            among others.

        Returns:
          Detections of one image. A list of them for a folder, a list or a tuple. For another iterable a generator,
          which reads no more images ahead than are detected together, see `load`.

        Raises:
          FileNotFoundError: no such file or folder, or no image in the folder.
          ValueError: not an image, or one of another type or shape or too large, or no such id.
          TypeError: an object of another type.
        """
        if not 0 <= image_id < 2**31:
            raise ValueError(f"image_id={image_id}: give a number in 0..{2**31 - 1}")
        if inputs.is_one(images):
            photo = inputs.read(images)
            with self._lock:
                return self._together([photo], image_id)[0]
        if isinstance(images, str | PathLike | list | tuple):
            return list(self._stream(images, image_id, max(AHEAD, self._batch)))
        if not isinstance(images, Iterable):
            inputs.read(images)  # raises
        return self._stream(images, image_id, self._batch)

    def draw(self, image: Any, found: Detections) -> Image.Image:
        """An image with the objects of `found`: tinted masks, boxes, labels; novel classes have a star.

        Args:
          image: as one image of a call, of the size of the one that they were found in.
          found: the objects.
        """
        return results.draw(inputs.read(image).pixels, found)

    def add_class(self, name: str, images: Any, masks: Any, *, boxes: Any = None) -> None:
        """Adds a class from a few shots, in seconds and without training.

        The class's vector in the classifier is fitted to the features of the shots and of stored objects of the known
        classes, which keep theirs (docs/design.md, "Adding a class without training"), and the shots join the support
        set. Fine-tuning on the same shots takes longer and finds more.

        Args:
          name: of the class; the others keep theirs.
          images: one image or several, as in a call.
          masks: of one image its objects, one mask or several; of several images a list with the objects of each. A
            mask is an array [h, w] of the image's size (bool, or integers that are 0 off the object), a PIL image or a
            file of one, polygons as in COCO (``[[x, y, x, y, ...], ...]``, px), or COCO RLE. All objects together are
            at most ``model.mask.slots`` shots.
          boxes: None: those around the masks. Else xyxy in px, [n, 4] for one image, a list of these for several.

        Raises:
          FileNotFoundError, TypeError: as in a call.
          ValueError: a name that is taken; a mask that is empty, outside its image, all of it or of another size; too
            few or too many shots; or a model that no class can be added to. The model is as before.
        """
        classes.check_can_add(classes.active_only(self.trained), name)
        dataset = shots.read(images, masks, boxes, Category(0, name, True), 0)
        mask, data = self._config.model.mask, self._config.data
        ids, least = [a.id for info in dataset.infos for a in info.annotations], max(1, mask.min_shots)
        if not least <= len(ids) <= mask.slots:
            raise ValueError(
                f"{len(ids)} shots of '{name}': this mask head was trained with {least} to {mask.slots} shots of a "
                "class, give that many masks"
            )
        crops = crops_from_dataset(dataset, data)
        support = support_set(crops, {0: ids}, num_classes=1, slots=mask.slots, size=mask.size, context=data.context)
        with self._lock:
            trained = classes.active_only(self.trained)
            classes.check_can_add(trained, name)  # again: another thread may have added it
            features = self._shot_features(dataset)
            self.use(classes.added(trained, name, features, support.shots[0, : support.count[0]]))

    def remove_class(self, name: str) -> None:
        """Drops a class, added or trained; its objects are no longer found, or found as another class.

        Raises:
          ValueError: there is no such class, or it is the only one.
        """
        with self._lock:
            self.use(classes.removed(classes.active_only(self.trained), name))

    def save(self, folder: str | Path) -> None:
        """Writes the model with its classes as an export; an older export there is replaced when the new one is
        complete.

        Raises:
          FileExistsError: the folder holds something else.
          OSError: it cannot be written.
        """
        export.write(folder, self.trained)

    def use(self, trained: TrainedModel) -> None:
        """Makes this the model of `trained`, which this or another predictor of the same model has or had as `trained`.

        Programs are compiled again only if the slots for classes are full.
        """
        with self._lock:
            count = len(trained.categories)
            full = count > self._slots
            if full:
                self._slots = count + SPARE
            fresh = np.full(self._slots - count, classes.NEW)
            padded = classes.resized(trained, np.concatenate([np.arange(count), fresh])) if len(fresh) else trained
            if full:
                self._segmenter = self._compiled(build(padded.config.model), padded.support)
            self._segmenter = self._segmenter._replace(
                shots=jax.device_put(padded.support.shots, self._segmenter.shots.sharding)
            )
            self.trained, self._params = trained, jax.device_put(padded.params)
            self.categories = trained.categories
            self.active = active_mask(active_class_ids(trained.config, trained.categories), self._slots)

    def _compiled(self, model: Model, support: SupportSet) -> segment.Segmenter:
        config = self._config
        return segment.make_segmenter(
            model, support, size=config.model.mask.size, context=config.data.context,
            top_n=self._top_n, mask_batches=MASK_BATCHES, threshold=config.eval.mask_threshold,
            samples=self._samples, noise_seed=self._noise_seed,
        )  # fmt: skip

    def _shot_features(self, dataset: Dataset) -> np.ndarray:
        """The classifier's features of each object [n, F], in the order of the images."""
        detector = {k: v for k, v in self._params["detector"].items() if k != "box_predictor"}  # the part with classes
        features = []
        for i, info in enumerate(dataset.infos):
            batch = as_batch(dataset.read(i), 0, self._config.data)
            boxes = np.zeros((1, self._config.model.mask.slots, 4), np.float32)
            boxes[..., 2:] = 1.0
            count = len(info.annotations)
            given = np.array([a.box for a in info.annotations]).reshape(-1, 4)
            boxes[0, :count] = transforms.scale_boxes(given, (info.height, info.width), batch.image_hw[0])
            found = self._box_features({"detector": detector}, batch.image, batch.image_hw, boxes)
            features.append(np.asarray(found)[0, :count])
        return np.concatenate(features)

    def _stream(self, images: Any, image_id: int, ahead: int) -> Iterator[Detections]:
        photos = map(inputs.read, inputs.several(images))
        while group := list(islice(photos, ahead)):
            with self._lock:
                found = self._together(group, image_id)
            yield from found

    def _together(self, photos: list[Photo], image_id: int) -> list[Detections]:
        """The objects of some images, whose masks are sampled together."""
        rows: dict[int, slice] = {}  # position of an image -> its objects among all
        batches = inputs.batches(photos, self._batch, self._config.data)

        def with_image_id() -> Iterator[tuple[segment.Objects, np.ndarray]]:
            found = segment.detected_objects(
                self._segmenter, self._params, batches, self.active, min_score=self._min_score,
                top_n=self._top_n, without_mask=[], agnostic_iou=self._agnostic_iou,
            )  # fmt: skip
            for objects, hw in found:  # of one image, whose id so far is its position
                first = max((part.stop for part in rows.values()), default=0)
                rows[int(objects.image_id[0])] = slice(first, first + len(hw))
                yield objects._replace(image_id=np.full(len(hw), image_id, np.int32)), hw

        parts = segment.sample_masks(self._segmenter, self._params, with_image_id())
        sampled = segment.concatenate(parts, self._mask_side, self._samples)
        mine = [rows.get(i, slice(0)) for i in range(len(photos))]
        return [
            self._detections(photo, jax.tree.map(lambda x, part=part: x[part], sampled))
            for photo, part in zip(photos, mine, strict=True)
        ]

    def _detections(self, photo: Photo, sampled: segment.SampledMasks) -> Detections:
        """The sampled masks of one image's objects, pasted."""
        objects, context = sampled.objects, self._segmenter.context
        regions = [paste.context_box(box, context, photo.pixels.shape) for box in objects.box]
        return Detections(
            image=photo.pixels,
            file=photo.file,
            categories=self.categories,
            boxes=objects.box,
            scores=objects.score,
            class_ids=objects.class_id,
            rles=segment.paste_all(self._segmenter, sampled),
            confidence=segment.confidence(sampled.soft, self._segmenter.threshold),
            regions=np.array(regions, np.float32).reshape(-1, 4),
            region_soft=sampled.soft,
            region_samples=sampled.each if self._keep_samples else None,
        )


def read_config(folder: str | Path) -> "ConfigDict":
    """The config of an export or of a run, to change fields of it for `load`.

    Raises:
      FileNotFoundError: the folder is neither.
      ValueError: its json is damaged.
    """
    folder = Path(folder)
    if (folder / export.DOCUMENT).is_file():
        from ml_collections import ConfigDict

        return ConfigDict(export.read_document(folder)[0].to_dict()).lock()
    if (folder / workdir.CONFIG).is_file():
        return workdir.read_config(folder)
    raise FileNotFoundError(
        f"{folder} holds no model: give the folder of a trained run, or of a model that launch/export.py wrote"
    )


def load(
    folder: str | Path,
    *,
    config: "ConfigDict | None" = None,
    noise_seed: int | None = None,
    samples: int | None = None,
    min_score: float | None = None,
    keep_samples: bool = False,
    batch: int = 1,
    class_agnostic_nms: bool = False,
) -> Predictor:
    """Opens a trained model.

    Args:
      folder: of an export, or of a run whose training has finished. A run needs its dataset, for the shots; an export
        holds them.
      config: the folder's config, changed in fields that may change after training, such as those of the sampler; None:
        unchanged.
      noise_seed: of the sampler; None: as in the config.
      samples: masks sampled per object and averaged, from 1 on; None: as in the config.
      min_score: minimum score of a detection, 0..1; None: as in the config.
      keep_samples: Detections hold each of the `samples` masks too.
      batch: images that are detected together, one program per padded size; fewer are filled up. More than 1 pays on a
        GPU with many images.
      class_agnostic_nms: an object is reported as one class, that of the highest score: detections of different classes
        suppress each other where their IoU is above ``model.detector.nms`` (0.5), before masks are sampled. False: only
        those of the same class do, as COCO's AP expects.

    Raises:
      FileNotFoundError: the folder holds no model, or the run's dataset is missing.
      ValueError: the folder is damaged, or an option is out of range.
    """
    folder = Path(folder)
    if (folder / export.DOCUMENT).is_file():
        trained = export.read(folder)
        trained = trained if config is None else trained._replace(config=config)
    else:
        trained = export.from_run(read_config(folder) if config is None else config, folder)
    options = trained.config.eval
    noise_seed = int(options.noise_seed if noise_seed is None else noise_seed)
    samples = int(options.samples if samples is None else samples)
    min_score = float(options.mask_min_score if min_score is None else min_score)
    if samples < 1:
        raise ValueError(f"samples={samples}: give at least 1, the masks that are sampled per object")
    if not 0 <= min_score <= 1:
        raise ValueError(f"min_score={min_score}: give a score in 0..1")
    if batch < 1:
        raise ValueError(f"batch={batch}: give at least 1, the images that are detected together")
    return Predictor(
        trained, noise_seed=noise_seed, samples=samples, min_score=min_score, keep_samples=keep_samples, batch=batch,
        class_agnostic_nms=class_agnostic_nms,
    )  # fmt: skip
