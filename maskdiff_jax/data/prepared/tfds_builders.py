"""TFDS builders that write a part of a prepared data set as array_record, without TensorFlow."""

import contextlib
import errno
import io
import os
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import grain
import numpy as np
import tensorflow_datasets as tfds

SPLIT = "data"  # the only split of each part


class SceneImages(tfds.core.GeneratorBasedBuilder):
    """Whole images with their objects."""

    VERSION = tfds.core.Version("1.0.0")
    code_path = None  # tfds would look for checksums of downloads beside this file; nothing is downloaded

    def __init__(self, *, examples: Iterable[dict], **kwargs):
        self._examples = examples
        super().__init__(**kwargs)

    def _info(self) -> tfds.core.DatasetInfo:
        f = tfds.features
        features = {
            "image": f.Image(shape=(None, None, 3)),
            "image_id": np.int64,
            "file_name": f.Text(),
            "height": np.int64,
            "width": np.int64,
            "objects": f.Sequence(
                {
                    "id": np.int64,
                    "class_id": np.int64,
                    "box": f.Tensor(shape=(4,), dtype=np.float32),  # xyxy, px
                    "area": np.float32,
                    "crowd": np.bool_,
                    "rle": f.Text(),  # counts; the size is height, width
                }
            ),
        }
        return tfds.core.DatasetInfo(builder=self, features=f.FeaturesDict(features), disable_shuffling=True)

    def _split_generators(self, dl_manager: Any) -> dict:
        return {SPLIT: self._generate_examples()}

    def _generate_examples(self) -> Iterable:
        yield from enumerate(self._examples)


class InstanceCrops(SceneImages):
    """One object each, cut out with a margin; pixels as in `crops.encode`."""

    VERSION = tfds.core.Version("2.0.0")

    def _info(self) -> tfds.core.DatasetInfo:
        f = tfds.features
        features = {
            "pixels": f.Tensor(shape=(None,), dtype=np.uint8, encoding="bytes"),  # 4 x height x width
            "annotation_id": np.int64,
            "image_id": np.int64,
            "class_id": np.int64,
            "box": f.Tensor(shape=(4,), dtype=np.float32),  # xyxy, px of the crop
            "height": np.int64,
            "width": np.int64,
        }
        return tfds.core.DatasetInfo(builder=self, features=f.FeaturesDict(features), disable_shuffling=True)


class InstanceShots(SceneImages):
    """One object each, cut out and resized as a shot; pixels as in `crops.encode`."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self) -> tfds.core.DatasetInfo:
        f = tfds.features
        features = {
            "pixels": f.Tensor(shape=(None,), dtype=np.uint8, encoding="bytes"),  # 4 x size x size
            "annotation_id": np.int64,
            "size": np.int64,
        }
        return tfds.core.DatasetInfo(builder=self, features=f.FeaturesDict(features), disable_shuffling=True)


def write_part(
    builder: type[SceneImages],
    example: Callable[[int], dict],
    count: int,
    path: Path,
    tick: Callable[[int], None] = lambda _: None,
) -> None:
    """Writes a whole TFDS data set of `count` examples, which has its name `path` only when it is whole.

    Args:
      builder: of the examples.
      example: position 0..count-1 -> the example.
      count: at least 1.
      path: of the data set's folder, in a folder that exists.
      tick: called with 1 before each example is made.

    Raises:
      Whatever `example` raises; OSError if the file system takes no more.
    """
    failed: list[BaseException] = []

    def examples() -> Iterable[dict]:
        try:
            for i in range(count):
                tick(1)
                yield example(i)
        except BaseException as error:
            failed.append(error)
            raise

    tfds.disable_progress_bar()  # ours says what it is about
    # in the same folder as the result: a rename is only atomic inside one file system
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".part-", ignore_cleanup_errors=True) as temporary:
        try:
            made = builder(examples=examples(), data_dir=temporary, file_format="array_record")
            with contextlib.redirect_stdout(io.StringIO()):  # it speaks of downloads
                made.download_and_prepare()
            if not is_whole(Path(made.data_dir), count):
                raise OSError(errno.EIO, "came out short, is the disk full?", str(path))
        except Exception as error:
            if failed:  # tfds wraps it in its own words
                raise failed[0] from None
            raise _no_room(error, path) from error
        os.rename(made.data_dir, path)


def files_of(part: Path) -> list[tuple[str, int, int]]:
    """Name, examples and bytes of each array_record file of a part, in order."""
    info = tfds.builder_from_directory(str(part)).info.splits[SPLIT]
    files = [(Path(f.filename), int(f.take)) for f in info.file_instructions]
    return [(f.name, n, f.stat().st_size) for f, n in files]


def is_whole(part: Path, count: int) -> bool:
    """Whether the part has `count` examples, in files as long as they should be."""
    try:
        wanted = files_of(part)
        found = [len(grain.sources.ArrayRecordDataSource([str(part / name)])) for name, *_ in wanted]
    except Exception:  # whatever tfds, array_record or the file system say of a file cut short
        return False
    return found == [n for _, n, _ in wanted] and sum(found) == count


def _no_room(error: Exception, path: Path) -> Exception:
    """array_record reports a full disk as one of many errors of its own; what is left over tells."""
    text = str(error).lower()
    full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT)
    if full or "no space left" in text or "quota" in text or "resource_exhausted" in text:
        return OSError(errno.ENOSPC, "no space left on the disk", str(path))
    return error
