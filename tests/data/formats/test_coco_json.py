import gzip
import json

import pytest
from PIL import Image

from maskdiff_jax.data.formats import coco
from tests.data.small_json import IMAGE, load, without


@pytest.mark.parametrize(
    "data, message",
    [
        (b"", "not valid json"),
        (b'{"images": [', "not valid json"),
        (b'{"images": [], "annotations": []}', "needs the lists"),
        (b'{"images": {}, "annotations": [], "categories": []}', "needs the lists"),
        (b"[]", "needs the lists"),
        (b"null", "needs the lists"),
        (b'{"images": "\xff\xfe"}', "UTF-8"),
        (gzip.compress(b"{}", mtime=0), "gunzip"),
        (b"[" * 100_000, "not valid json"),
        (b'{"images": [' + b"9" * 5000 + b"]}", "not valid json"),  # Python refuses to read such a number
        (b'{"images": [], "annotations": [], "categories": []}', "has no category"),
    ],
    ids=lambda v: v if isinstance(v, str) else None,
)
def test_broken_json_stops_with_its_name(write, data, message):
    path, folder = write()
    path.write_bytes(data)
    with pytest.raises(ValueError, match=message) as error:
        coco.load(path, folder)
    assert str(path) in str(error.value)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_names_in_any_writing(write, encoding):
    path, folder = write(change=lambda raw: raw["categories"][1].update(name="cão 犬"), file_name="köln_東京.png")
    assert "\\u" in path.read_text()  # as json.dumps writes it
    Image.new("RGB", (10, 8)).save(folder / "köln_東京.png")
    dataset = coco.load(path, folder, ["cão 犬"])
    assert dataset.categories[0].novel and dataset.read(0).shape == (8, 10, 3)
    path.write_text(json.dumps(json.loads(path.read_text()), ensure_ascii=False), encoding=encoding)
    assert coco.load(path, folder, ["cão 犬"]).infos == dataset.infos


@pytest.mark.parametrize(
    "entry, message",
    [(without(IMAGE, key), f"has no {key}") for key in IMAGE]
    + [
        (7, "must be an object"),
        (None, "must be an object"),
        ({**IMAGE, "id": "7"}, "image id"),
        ({**IMAGE, "id": True}, "image id"),
        ({**IMAGE, "id": 2**31}, "image id"),
        ({**IMAGE, "width": "10"}, 'width "10"'),
        ({**IMAGE, "width": None}, "width null"),
        ({**IMAGE, "width": 0}, "width 0"),
        ({**IMAGE, "height": -8}, "height -8"),
        ({**IMAGE, "height": 8.5}, "height 8.5"),
        ({**IMAGE, "height": float("nan")}, "height NaN"),
        ({**IMAGE, "height": 10**400}, "a huge number"),
        ({**IMAGE, "height": 10**6, "width": 10**6}, "divide it into tiles"),
        ({**IMAGE, "file_name": ""}, "file_name"),
        ({**IMAGE, "file_name": "."}, "inside the image folder"),
        ({**IMAGE, "file_name": "sub/"}, "inside the image folder"),
        ({**IMAGE, "file_name": None}, "file_name null"),
        ({**IMAGE, "file_name": "../a.png"}, "inside the image folder"),
        ({**IMAGE, "file_name": "/etc/passwd"}, "inside the image folder"),
        ({**IMAGE, "file_name": "C:\\a.png"}, "inside the image folder"),
        ({**IMAGE, "file_name": "..\\a.png"}, "inside the image folder"),
        ({**IMAGE, "file_name": "a\0.png"}, "file_name"),
        ({**IMAGE, "file_name": "\ud800.png"}, "not valid Unicode"),
    ],
)
def test_broken_image_entries_stop(write, entry, message):
    path, folder = write(change=lambda raw: raw.update(images=[IMAGE | {"id": 1}, entry]))
    with pytest.raises(ValueError, match=message) as error:
        coco.load(path, folder)
    assert f"{path}: images[1]" in str(error.value)


@pytest.mark.parametrize(
    "entry, message",
    [
        ({"id": 3}, "has no name"),
        ({"name": "x"}, "has no id"),
        ("x", "must be an object"),
        ({"id": "3", "name": "x"}, "category id"),
        ({"id": 3, "name": 4}, "the name 4"),
        ({"id": 3, "name": " "}, "the name"),
        ({"id": 3, "name": ["x"]}, "the name a list"),
    ],
)
def test_broken_categories_stop(write, entry, message):
    path, folder = write(change=lambda raw: raw["categories"].append(entry))
    with pytest.raises(ValueError, match=message) as error:
        coco.load(path, folder)
    assert f"{path}: categories[2]" in str(error.value)


def test_repeated_images_and_categories_stop(write):
    for change, message in [
        (lambda raw: raw["images"].append(raw["images"][0]), "image id 7 occurs more than once"),
        (lambda raw: raw["categories"].append({"id": 5, "name": "cow"}), "category id 5 occurs more than once"),
        (lambda raw: raw["categories"].append({"id": 6, "name": "cat"}), 'category name "cat" occurs more than once'),
    ]:
        path, folder = write(change=change)
        with pytest.raises(ValueError, match=message) as error:
            coco.load(path, folder)
        assert str(path) in str(error.value)


def test_sizes_as_whole_floats_are_taken(write):
    (info,) = load(write(width=10.0, height=8.0))[0].infos
    assert (info.height, info.width) == (8, 10) and type(info.width) is int
