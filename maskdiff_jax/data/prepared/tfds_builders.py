"""TFDS builders that write a shard of a prepared dataset as array_record, without TensorFlow."""

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

SPLIT = "data"  # the only split of each shard


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
    """One object each, cropped with a margin; pixels as in `crops.encode`."""

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
    """One object each, cropped and resized as a shot; pixels as in `crops.encode`."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self) -> tfds.core.DatasetInfo:
        f = tfds.features
        features = {
            "pixels": f.Tensor(shape=(None,), dtype=np.uint8, encoding="bytes"),  # 4 x size x size
            "annotation_id": np.int64,
            "size": np.int64,
        }
        return tfds.core.DatasetInfo(builder=self, features=f.FeaturesDict(features), disable_shuffling=True)


def write_shard(
    builder: type[SceneImages],
    example: Callable[[int], dict],
    count: int,
    path: Path,
    tick: Callable[[int], None] = lambda _: None,
) -> None:
    """Writes a TFDS dataset of `count` examples, which has its name `path` only when it is complete.

    Args:
      builder: of the examples.
      example: position 0..count-1 -> the example.
      count: at least 1.
      path: of the dataset's folder, in a folder that exists.
      tick: called with 1 before each example is made.

    Raises:
      OSError: the disk is full.
      Exception: whatever `example` raises.
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

    tfds.disable_progress_bar()  # ours says what is written
    # in the same folder as the result: a rename is only atomic inside one file system
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".shard-", ignore_cleanup_errors=True) as temporary:
        try:
            made = builder(examples=examples(), data_dir=temporary, file_format="array_record")
            with contextlib.redirect_stdout(io.StringIO()):  # it prints about downloads
                made.download_and_prepare()
            if not is_complete(Path(made.data_dir), count):
                raise OSError(errno.EIO, "fewer bytes or examples than were written: is the disk full?", str(path))
        except Exception as error:
            if failed:  # tfds wraps it in its own words
                raise failed[0] from None
            raise _disk_full(error, path) from error
        os.rename(made.data_dir, path)


def files_of(shard: Path) -> list[tuple[str, int, int]]:
    """Name, number of examples and bytes of each array_record file of a shard, in order."""
    info = tfds.builder_from_directory(str(shard)).info.splits[SPLIT]
    files = [(Path(f.filename), int(f.take)) for f in info.file_instructions]
    return [(f.name, n, f.stat().st_size) for f, n in files]


def is_complete(shard: Path, count: int) -> bool:
    """Whether the shard has `count` examples, in files of the right length."""
    try:
        wanted = files_of(shard)
        found = [len(grain.sources.ArrayRecordDataSource([str(shard / name)])) for name, *_ in wanted]
    except Exception:  # tfds, array_record and the file system each raise their own for a truncated file
        return False
    return found == [n for _, n, _ in wanted] and sum(found) == count


def _disk_full(error: Exception, path: Path) -> Exception:
    """OSError if `error` is about a full disk, which array_record reports in its own words; else `error`."""
    text = str(error).lower()
    full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT)
    if full or "no space left" in text or "quota" in text or "resource_exhausted" in text:
        return OSError(errno.ENOSPC, "no space left on the disk", str(path))
    return error
