"""Writes annotated photos in the layouts of labeling tools, small enough to check by hand."""

import json

import numpy as np
from PIL import Image

WIDTH, HEIGHT = 20, 10


def photo(path, orientation=1, size=(WIDTH, HEIGHT), mode="RGB"):
    """An image file of `size` pixels as stored, with an EXIF orientation."""
    path.parent.mkdir(parents=True, exist_ok=True)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.new(mode, size, 99).save(path, exif=exif)
    return path


def shape(points, label="cup", kind="polygon", **more):
    return {"label": label, "points": points, "shape_type": kind, "group_id": None, **more}


def labelme(folder, *shapes, name="a", orientation=1, size=(WIDTH, HEIGHT), **more):
    """A photo with LabelMe's json beside it; the json's size is that of the image as stored."""
    photo(folder / f"{name}.jpg", orientation, size)
    document = {"version": "5.4.1", "shapes": list(shapes), "imagePath": f"{name}.jpg"}
    document |= {"imageHeight": size[1], "imageWidth": size[0]} | more
    (folder / f"{name}.json").write_text(json.dumps(document))
    return folder


def yolo(folder, labels, *, names=("cup", "dog"), split="", yaml=True):
    """A YOLO folder: stem -> lines of its text file."""
    for stem, lines in labels.items():
        photo(folder / "images" / split / f"{stem}.jpg")
        path = folder / "labels" / split / f"{stem}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(lines))
    if yaml:
        (folder / "data.yaml").write_text(f"names: {json.dumps(list(names))}\n")
    else:
        (folder / "classes.txt").write_text("\n".join(names))
    return folder


def rectangle(x0, y0, x1, y1, size=(HEIGHT, WIDTH)):
    """A mask [h, w] of the pixels x0 <= x < x1, y0 <= y < y1."""
    mask = np.zeros(size, np.uint8)
    mask[y0:y1, x0:x1] = 1
    return mask


def save_mask(path, mask):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(mask).save(path)


def masks(collected, split="all"):
    """Class name and mask of each annotation, in order."""
    from maskdiff_jax.data.formats import segmentation

    document = collected.documents[split]
    names = {c["id"]: c["name"] for c in document["categories"]}
    sizes = {i["id"]: (i["height"], i["width"]) for i in document["images"]}
    return [
        (
            names[a["category_id"]],
            segmentation.decode_mask(segmentation.from_json(a["segmentation"], *sizes[a["image_id"]], [])[0]),
        )
        for a in document["annotations"]
    ]
