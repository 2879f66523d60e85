"""What a data set holds and what is wrong with it, for people who prepare one."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from maskdiff_jax.data import coco, shapes, sources
from maskdiff_jax.data.coco import Records


def check(
    data: Any, split: str, *, progress: Callable[[Sequence], Iterable] = lambda x: x
) -> tuple[Records, Counter]:
    """Reads every annotation and every image of a split.

    Args:
      data: config.data.
      split: "train", "pool" or "test".
      progress: wraps the range of images that is walked.

    Returns:
      The records, and how often each kind of problem occurs.

    Raises:
      FileNotFoundError, ValueError: what cannot be read at all, as `pipeline.open_split`.
    """
    problems: Counter = Counter()
    if data.source in shapes.LEVELS:
        records = sources.SOURCES[data.source](data, split)
    else:
        json_path, image_dir = sources.files(data, split)
        records = coco.load(
            json_path, image_dir, data.novel_classes, name=data.source, split=split, problems=problems
        )
    for i in progress(range(len(records.infos))):
        try:
            records.read(i)
        except FileNotFoundError:
            problems["image file is missing"] += 1
        except ValueError:
            problems["image file is broken or of another size than the json says"] += 1
        for a in records.infos[i].annotations:
            small = (
                min(a.box[2] - a.box[0], a.box[3] - a.box[1]) < data.min_box_side
                or a.area < data.min_mask_area
            )
            problems["object too small for the mask head"] += small and not a.crowd
        too_many = sum(not a.crowd for a in records.infos[i].annotations) > data.max_boxes
        problems[f"image with more than {data.max_boxes} objects (data.max_boxes; the largest stay)"] += (
            too_many
        )
    return records, +problems


def describe(records: Records, problems: Counter) -> str:
    """Classes, instances per class and problems by kind, as a text of several lines."""
    objects = Counter(a.class_id for i in records.infos for a in i.annotations if not a.crowd)
    images = Counter(c for i in records.infos for c in {a.class_id for a in i.annotations if not a.crowd})
    lines = [
        f"{records.name} {records.split}: {len(records.infos)} images, {sum(objects.values())} objects, "
        f"{len(records.categories)} classes"
    ]
    width = max(len(c.name) for c in records.categories) if records.categories else 0
    lines.append(f"  {'class':{width}}  {'id':>5}  kind   objects  images")
    for k, c in enumerate(records.categories):
        kind = "novel" if c.novel else "base "
        lines.append(f"  {c.name:{width}}  {c.id:5d}  {kind}  {objects[k]:7d}  {images[k]:6d}")
    lines += [f"  problem: {count} x {kind}" for kind, count in problems.most_common()] or ["  no problems"]
    return "\n".join(lines)
