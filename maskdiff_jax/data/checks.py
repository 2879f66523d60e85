"""The contents and the problems of a dataset, for users who prepare one."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from maskdiff_jax.data import sources
from maskdiff_jax.data.dataset import Dataset, large_enough
from maskdiff_jax.data.formats import coco, coco_json, images, segmentation
from maskdiff_jax.data.synthetic import scenes

SHOTS = (1, 5, 10)  # the K of the paper's tables
NAMED = 3  # classes that a line names, of those with too few objects
AGREEMENT = 0.5  # IoU of a box and its mask's: rounding alone gives more, unless an object is too small to be used

MISSING = "image file is missing"
BROKEN = "image file is broken or of another size than the json says"
SMALL = "object too small for the mask head"
DARK = "16-bit image that decodes to almost black: it uses the lower bits only; scale its values to 0..65535"
DARKEST = 16  # of 0..255: 12-bit values in a 16-bit file decode to less
NO_BASE = (
    "no base class: every class is in data.novel_classes, so stage 1 has nothing to learn from; add classes with "
    "many objects, or remove names from data.novel_classes"
)
ELSEWHERE = "box that is not around its mask (is bbox x, y, width, height in px?)"
MANY = "image with more than"


def check(
    data: Any,
    split: str,
    *,
    progress: Callable[[Sequence], Iterable] = lambda x: x,
    examples: dict[str, str] | None = None,
) -> tuple[Dataset, Counter]:
    """Reads every annotation and every image of a split.

    Args:
      data: config.data.
      split: "train", "support" or "test".
      progress: wraps the range of images.
      examples: gets the first place of each kind of problem, if given.

    Returns:
      The dataset, and how often each kind of problem occurs.

    Raises:
      FileNotFoundError, ValueError: the dataset cannot be read at all, as in `pipeline.open_split`.
    """
    problems: Counter = Counter()
    examples = {} if examples is None else examples
    if data.source in scenes.LEVELS:
        dataset = sources.SOURCES[data.source](data, split)
    else:
        dataset = sources.load(data, split, problems=problems, examples=examples)
    for i in progress(range(len(dataset.infos))):
        try:
            dark = dataset.read(i).max() < DARKEST
            if dark and dataset.encoded and images.is_16_bit(dataset.encoded(i)):
                problems[DARK] += 1
                examples.setdefault(DARK, dataset.infos[i].file_name)
        except FileNotFoundError as error:
            problems[MISSING] += 1
            examples.setdefault(MISSING, str(error))
        except ValueError as error:
            problems[BROKEN] += 1
            examples.setdefault(BROKEN, str(error))
        objects = [a for a in dataset.infos[i].annotations if not a.crowd]
        for a in objects:
            usable = large_enough(a, data.min_box_side, data.min_mask_area)
            problems[SMALL] += not usable
            if usable and _agreement(a.box, segmentation.mask_box(a.rle)) < AGREEMENT:
                problems[ELSEWHERE] += 1
                examples.setdefault(ELSEWHERE, f"annotation {a.id} of {dataset.infos[i].file_name}")
        problems[f"{MANY} {data.max_boxes} objects (data.max_boxes; the largest are kept)"] += (
            len(objects) > data.max_boxes
        )
    return dataset, +problems


def objects_per_class(json_path: str | Path) -> tuple[dict[int, str], Counter]:
    """The categories of a COCO-format json, {id: name}, and the number of objects of each, without crowd regions.

    Annotations are only counted; `coco.load` drops or fixes broken ones.

    Raises:
      FileNotFoundError, ValueError: the file is missing, or not a COCO-format json.
    """
    _, annotations, raw_categories = coco_json.lists(Path(json_path))
    categories = dict(coco_json.categories(raw_categories, Path(json_path)))
    objects = [a for a in annotations if isinstance(a, dict) and not a.get("iscrowd")]
    return categories, Counter(i for a in objects if isinstance(i := a.get("category_id"), int))


def describe(
    dataset: Dataset,
    problems: Counter,
    *,
    examples: dict[str, str] | None = None,
    min_box_side: float = 0.0,
    min_mask_area: float = 0.0,
) -> str:
    """Classes, instances per class, possible K and problems by kind, as a text of several lines.

    The column K is the largest number of shots of a class that `fewshot.shots.sample` can sample with the sampler
    "instances". The test split has none: shots are sampled from the training images.

    Args:
      dataset: from `check`.
      problems: from `check`.
      examples: from `check`: the first place of each kind.
      min_box_side: px; smaller objects are never shots (config.data.min_box_side).
      min_mask_area: px; likewise.
    """
    every = [a for i in dataset.infos for a in i.annotations if not a.crowd]
    objects = Counter(a.class_id for a in every)
    photos = Counter(c for i in dataset.infos for c in {a.class_id for a in i.annotations if not a.crowd})
    shots = _shots(dataset, min_box_side, min_mask_area)
    with_shots = dataset.split != "test"
    lines = [
        f"{dataset.name} {dataset.split}: {len(dataset.infos)} images, {sum(objects.values())} objects, "
        f"{len(dataset.categories)} classes"
    ]
    width = max([len(c.name) for c in dataset.categories], default=0)
    lines.append(f"  {'class':{width}}  {'id':>5}  kind   objects  images" + "       K" * with_shots)
    for k, c in enumerate(dataset.categories):
        kind = "novel" if c.novel else "base "
        line = f"  {c.name:{width}}  {c.id:5d}  {kind}  {objects[k]:7d}  {photos[k]:6d}"
        lines.append(line + f"  {shots[k]:6d}" * with_shots)
    if with_shots:
        lines += _possible_shots(dataset, shots)
    examples = examples or {}
    noted = sorted(problems.items(), key=lambda item: (_is_note(item[0]), -item[1]))
    for kind, count in noted:
        lines.append(f"  {'note' if _is_note(kind) else 'problem'}: {count} x {kind}")
        if kind in examples and not _is_note(kind):
            lines.append(f"           first: {examples[kind]}")
    if all(_is_note(kind) for kind in problems):
        lines.append("  no problems")
    return "\n".join(lines)


def stops(
    dataset: Dataset, problems: Counter, *, min_box_side: float, min_mask_area: float, needs_shots: bool
) -> list[str]:
    """Problems that would stop or spoil training, each as one sentence that says what to do.

    Args:
      dataset: from `check`.
      problems: from `check`.
      min_box_side: px; smaller objects are never shots (config.data.min_box_side).
      min_mask_area: px; likewise.
      needs_shots: whether shots are sampled from this split.
    """
    found = []
    if unreadable := problems[MISSING] + problems[BROKEN]:
        files, them = ("image", "it") if unreadable == 1 else ("images", "them")
        found.append(f"{unreadable} {files} cannot be read: replace {them}, or remove {them} from the json")
    found += [f"{problems[kind]} x {kind}" for kind in (DARK, coco.REFUSED) if problems[kind]]
    if not needs_shots:
        return found
    if all(c.novel for c in dataset.categories):
        found.append(NO_BASE)
    shots = _shots(dataset, min_box_side, min_mask_area)
    without = [c.name for k, c in enumerate(dataset.categories) if not shots[k]]
    if without:
        named = ", ".join(without[:NAMED]) + (f" and {len(without) - NAMED} more" if len(without) > NAMED else "")
        found.append(
            f"class without a shot: {named}; stage 2 needs an object of every class: outline at least one of each"
        )
    return found


def json_stops(train_json: str | Path, test_json: str | Path | None) -> list[str]:
    """Problems in the lists of categories of a dataset, as in `stops`.

    Args:
      train_json: COCO-format json.
      test_json: COCO-format json; None: there is no test split.

    Raises:
      FileNotFoundError, ValueError: a file is missing, or not a COCO-format json.
    """
    dummies = coco_json.dummies(coco_json.parse(Path(train_json)))
    found = [
        f"category '{name}' is empty and only the supercategory of others, as Roboflow exports it: remove it from "
        "'categories' of each json (prepare_data.py --convert does)"
        for name in dummies
    ]
    if test_json and (text := other_classes(train_json, test_json)):
        found.append(text)
    return found


def other_classes(train_json: str | Path, test_json: str | Path) -> str:
    """A sentence about the first category that two COCO-format json files do not share; "" if they share all."""
    (ours, _), (theirs, _) = objects_per_class(train_json), objects_per_class(test_json)
    differ = sorted(ours.items() ^ theirs.items())
    if not differ:
        return ""
    return (
        f"{Path(test_json).name} lists other classes than {Path(train_json).name}, e.g. {differ[0][1]!r} (id "
        f"{differ[0][0]}): list the same categories in both"
    )


def _shots(dataset: Dataset, min_box_side: float, min_mask_area: float) -> Counter:
    """The number of objects of each class id that can be shots."""
    every = [a for i in dataset.infos for a in i.annotations if a.is_target]
    return Counter(a.class_id for a in every if large_enough(a, min_box_side, min_mask_area))


def _possible_shots(dataset: Dataset, shots: Counter) -> list[str]:
    """One line each for the novel and for all classes: for which K of SHOTS every class has enough objects."""
    novel = [k for k, c in enumerate(dataset.categories) if c.novel]
    lines = []
    for what, classes in (("novel", novel), ("all", range(len(dataset.categories)))):
        answers = []
        for wanted in SHOTS if classes else ():
            short = sorted((k for k in classes if shots[k] < wanted), key=lambda k: shots[k])
            names = ", ".join(f"{dataset.categories[k].name} {shots[k]}" for k in short[:NAMED])
            more = f" and {len(short) - NAMED} more" if len(short) > NAMED else ""
            answers.append(f"{wanted} no ({names}{more})" if short else f"{wanted} yes")
        lines.append(f"  possible K, {what} classes: " + ("; ".join(answers) or "data.novel_classes is empty"))
    if any("no (" in line for line in lines):
        lines.append("  (with fewshot.short_classes=take_all a class with fewer than K objects uses all of them)")
    return lines


def _is_note(kind: str) -> bool:
    """Whether a kind is not a problem of the data, only something to know."""
    return kind in (coco.CROWD, coco.EMPTY, SMALL) or kind.startswith(MANY)


def _agreement(box: tuple[float, ...], mask: tuple[float, ...]) -> float:
    """IoU of a box, xyxy, and a mask's box, x, y, width, height."""
    x0, y0, x1, y1 = box
    u0, v0, w, h = mask
    inter = max(min(x1, u0 + w) - max(x0, u0), 0.0) * max(min(y1, v0 + h) - max(y0, v0), 0.0)
    return inter / ((x1 - x0) * (y1 - y0) + w * h - inter)
