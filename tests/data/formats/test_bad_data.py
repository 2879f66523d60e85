"""Bad annotation files as they occur: each kind of problem is dropped or fixed and counted, or an error names it."""

import gzip
import io
import json
import struct
import unicodedata
import zlib
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from configs import base
from maskdiff_jax.data import checks
from maskdiff_jax.data.dataset import encoded_image
from maskdiff_jax.data.formats import coco, images, rle, segmentation
from maskdiff_jax.data.formats.segmentation import decode_mask

SQUARE = [2, 1, 6, 1, 6, 4, 2, 4]  # 4 x 3 px


@pytest.fixture
def write(tmp_path):
    """Writes a json of one 10 x 8 px image and two classes, after a change; returns load's arguments."""

    def write_(annotations=(), change=lambda raw: raw, **image):
        (tmp_path / "images").mkdir(exist_ok=True)
        raw = {
            "images": [{"id": 7, "file_name": "a.png", "width": 10, "height": 8, **image}],
            "annotations": list(annotations),
            "categories": [{"id": 5, "name": "dog"}, {"id": 2, "name": "cat"}],
        }
        (tmp_path / "a.json").write_text(json.dumps(change(raw) or raw))
        return tmp_path / "a.json", tmp_path / "images"

    return write_


def annotation(i=1, **more):
    return {"id": i, "image_id": 7, "category_id": 5, "bbox": [2, 1, 4, 3], "segmentation": [SQUARE], **more}


def load(paths):
    problems, examples = Counter(), {}
    dataset = coco.load(*paths, problems=problems, examples=examples)
    return dataset, +problems, examples


def without(entry, key):
    return {k: v for k, v in entry.items() if k != key}


# ------------------------------------------------------------------------------------------ the file


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
        (gzip.compress(b"{}"), "gunzip"),
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


IMAGE = {"id": 7, "file_name": "a.png", "width": 10, "height": 8}


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
        ({**IMAGE, "height": 10**6, "width": 10**6}, "cut it into tiles"),
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


# ----------------------------------------------------------------------------------- single annotations

UNLISTED_IMAGE = "annotation of an image that is not listed (dropped)"
UNLISTED_CATEGORY = "annotation of a category that is not listed (dropped)"
NO_NUMBER = "annotation whose image_id or category_id is not a number (dropped)"
NO_MASK = "annotation without a mask (dropped)"
NO_PIXEL = "annotation whose mask has no pixel in the image (dropped)"
NO_BOX = "annotation without a box inside the image (dropped)"
POLYGON = "annotation with a broken polygon (dropped)"
RLE = "annotation with a broken RLE (dropped)"
RLE_SIZE = "annotation whose RLE is of another size than its image (dropped)"
GOOD_RLE = segmentation.encode_mask(np.eye(8, 10, dtype=np.uint8))


@pytest.mark.parametrize(
    "bad, kind",
    [
        (None, "annotation entry that is not a json object (dropped)"),
        ([1], "annotation entry that is not a json object (dropped)"),
        (without(annotation(), "image_id"), UNLISTED_IMAGE),
        (annotation(image_id=8), UNLISTED_IMAGE),
        (annotation(image_id="7"), UNLISTED_IMAGE),
        (annotation(image_id=[7]), NO_NUMBER),
        (annotation(category_id=9), UNLISTED_CATEGORY),
        (without(annotation(), "category_id"), UNLISTED_CATEGORY),
        (annotation(category_id={}), NO_NUMBER),
        (annotation(iscrowd="0"), "annotation whose iscrowd is neither 0 nor 1 (dropped)"),
        (annotation(iscrowd=[]), "annotation whose iscrowd is neither 0 nor 1 (dropped)"),
        (without(annotation(), "segmentation"), NO_MASK),
        (annotation(segmentation=None), NO_MASK),
        (annotation(segmentation=[]), NO_MASK),
        (annotation(segmentation="polygon"), "annotation whose segmentation is neither polygons nor RLE (dropped)"),
        (annotation(segmentation=[[]]), POLYGON),
        (annotation(segmentation=[[1, 1, 5, 5]]), POLYGON),  # a line, or a box
        (annotation(segmentation=[SQUARE[:7]]), POLYGON),
        (annotation(segmentation=[[[2, 1], [6, 1], [6, 4]]]), POLYGON),  # points in lists of their own
        (annotation(segmentation=[SQUARE[:-1] + ["4"]]), POLYGON),
        (annotation(segmentation=[SQUARE[:-1] + [None]]), POLYGON),
        (annotation(segmentation=[SQUARE[:-1] + [float("nan")]]), POLYGON),
        (annotation(segmentation=[SQUARE[:-1] + [float("inf")]]), POLYGON),
        (annotation(segmentation=[SQUARE[:-1] + [1e300]]), POLYGON),
        (annotation(segmentation=[SQUARE[:-1] + [-(10**400)]]), POLYGON),
        (annotation(segmentation=[[3, 3] * 4]), NO_PIXEL),  # one point
        (annotation(segmentation=[[2, 2, 6, 2, 4, 2]]), NO_PIXEL),  # no area
        (annotation(segmentation=[[v + 20 for v in SQUARE]]), NO_PIXEL),  # outside
        (annotation(segmentation={"size": [10, 8], "counts": [80]}), RLE_SIZE),
        (annotation(segmentation={"counts": [80]}), RLE_SIZE),
        (annotation(segmentation={"size": [8, 10]}), RLE),
        (annotation(segmentation={"size": [8, 10], "counts": []}), RLE),
        (annotation(segmentation={"size": [8, 10], "counts": [79]}), RLE),
        (annotation(segmentation={"size": [8, 10], "counts": [40, 41]}), RLE),
        (annotation(segmentation={"size": [8, 10], "counts": [90, -10]}), RLE),
        (annotation(segmentation={"size": [8, 10], "counts": [40.0, 40]}), RLE),
        (annotation(segmentation={"size": [8, 10], "counts": ["40", 40]}), RLE),
        (annotation(segmentation={"size": [8, 10], "counts": [2**32, 80]}), RLE),
        (annotation(segmentation={"size": [8, 10], "counts": [80]}), NO_PIXEL),
        (annotation(segmentation={"size": [8, 10], "counts": ""}), RLE),
        (annotation(segmentation={"size": [8, 10], "counts": GOOD_RLE["counts"][:-1]}), RLE),
        (annotation(segmentation={"size": [8, 10], "counts": GOOD_RLE["counts"] + "o"}), RLE),
        (annotation(segmentation={"size": [8, 10], "counts": "oooooooo"}), RLE),
        (annotation(segmentation={"size": [8, 10], "counts": "hello, world"}), RLE),
        (annotation(segmentation={"size": [8, 10], "counts": "é"}), RLE),
        (annotation(segmentation={"size": [8, 10], "counts": 80}), RLE),
        (annotation(bbox=[20, 20, 4, 3]), NO_BOX),
        (annotation(bbox=[2, 1, 0, 3]), NO_BOX),
        (annotation(bbox=[2, 1, -4, 3]), NO_BOX),
        (annotation(bbox=[1e300, 1, 1e300, 3]), NO_BOX),
    ],
)
def test_a_bad_annotation_is_dropped_and_counted(write, bad, kind):
    dataset, problems, examples = load(write([annotation(1), bad, annotation(3)]))
    assert [a.id for a in dataset.infos[0].annotations] == [1, 3]
    assert problems == {kind: 1} and examples == {kind: "annotations[1]"}


@pytest.mark.parametrize(
    "change, kind",
    [
        ({"bbox": [2, 1, 4]}, "bbox is not four numbers (taken from the mask)"),
        ({"bbox": ["2", "1", "4", "3"]}, "bbox is not four numbers (taken from the mask)"),
        ({"bbox": [2, 1, 4, float("nan")]}, "bbox is not four numbers (taken from the mask)"),
        ({"bbox": {"x": 2}}, "bbox is not four numbers (taken from the mask)"),
        ({"area": None}, "area is not a possible number of pixels (taken from the mask)"),
        ({"area": -1}, "area is not a possible number of pixels (taken from the mask)"),
        ({"area": 1e300}, "area is not a possible number of pixels (taken from the mask)"),
        ({"area": "12"}, "area is not a possible number of pixels (taken from the mask)"),
        ({"segmentation": SQUARE}, "polygon is not in a list of polygons (read as the only one)"),
        ({"segmentation": [SQUARE, [1, 1]]}, "broken polygon of an object that has others (ignored)"),
        ({"segmentation": [None, SQUARE]}, "broken polygon of an object that has others (ignored)"),
        ({"id": None}, coco.RENUMBERED),
        ({"id": "uuid"}, coco.RENUMBERED),
        ({"id": -1}, coco.RENUMBERED),
        ({"id": 2**63}, coco.RENUMBERED),
        ({"id": [1]}, coco.RENUMBERED),
    ],
)
def test_what_needs_no_guess_is_fixed_and_counted(write, change, kind):
    dataset, problems, _ = load(write([annotation(**change)]))
    (a,) = dataset.infos[0].annotations
    assert (a.id, a.box, a.area) == (1, (2, 1, 6, 4), 12) and decode_mask(a.rle).sum() == 12
    assert problems == {kind: 1}


def test_no_box_and_no_area_are_no_fault(write):
    dataset, problems, _ = load(write([without(annotation(bbox=None), "area")]))
    assert dataset.infos[0].annotations[0].box == (2, 1, 6, 4) and not problems


def test_box_extends_beyond_the_image(write):
    dataset, problems, _ = load(write([annotation(1, bbox=[-3, -3, 9, 7]), annotation(2, bbox=[-0.4, 0, 10.5, 8])]))
    assert [a.box for a in dataset.infos[0].annotations] == [(0, 0, 6, 4), (0, 0, 10, 8)]
    assert problems == {"box extends beyond the image (clipped)": 1}  # half a pixel is rounding


def test_a_polygon_that_crosses_itself_or_the_border_is_kept(write):
    bow = [1, 1, 9, 7, 9, 1, 1, 7]
    half_out = [-30, -5, 5, -5, 5, 30]
    entries = [annotation(1, segmentation=[bow]), annotation(2, segmentation=[half_out])]
    dataset, problems, _ = load(write(entries))
    first, second = (decode_mask(a.rle) for a in dataset.infos[0].annotations)
    assert first[4, 2] and first[4, 8] and not first[1, 5] and not problems
    assert second.shape == (8, 10) and second[:, :4].any() and not second[:, 5:].any()


def test_both_kinds_of_rle_and_crowd_regions(write):
    mask = np.zeros((8, 10), np.uint8)
    mask[2:, 1], mask[0, 9] = 1, 1
    plain = {"size": [8, 10], "counts": [10, 6, 56, 1, 7]}
    packed = segmentation.encode_mask(mask)
    entries = [annotation(1, segmentation=plain, iscrowd=1), annotation(2, segmentation=packed)]
    dataset, problems, _ = load(write(entries))
    first, second = dataset.infos[0].annotations
    assert first.rle == second.rle == packed and (first.crowd, second.crowd) == (True, False)
    assert problems == {coco.CROWD: 1}


def test_repeated_annotation_ids(write):
    """An exact copy is dropped; another object keeps its place and gets the lowest free id."""
    other = annotation(4, bbox=[2, 1, 3, 3])
    entries = [annotation(4), annotation(4), other, annotation(1), without(annotation(), "id")]
    dataset, problems, examples = load(write(entries))
    assert [a.id for a in dataset.infos[0].annotations] == [4, 2, 1, 3] and dataset.annotation_order == (4, 2, 1, 3)
    assert problems == {"exact repeat of an annotation (dropped)": 1, coco.RENUMBERED: 2}
    assert examples[coco.RENUMBERED] == "annotations[2]"


def test_images_without_annotations_and_files_listed_twice(write):
    dataset, problems, _ = load(write([annotation()], change=lambda raw: raw["images"].append(IMAGE | {"id": 8})))
    assert len(dataset.infos) == 2 and dataset.infos[1].annotations == ()
    assert problems == {coco.EMPTY: 1, "image file that the json lists twice, with different ids": 1}


def test_mostly_unusable_annotations_stop(write):
    paths = write([annotation(1), annotation(2, category_id=9), annotation(3, category_id=9)])
    with pytest.raises(ValueError, match="more than half of its 3 annotations.*2 x annotation of a category") as error:
        coco.load(*paths)
    assert str(paths[0]) in str(error.value)
    assert load(paths)[1][coco.REFUSED] == 1  # a check continues, and says so
    coco.load(*write([annotation(1), annotation(2, category_id=9)]))


def test_what_was_dropped_is_said_once(write, capsys):
    paths = write([annotation(1), annotation(2), annotation(3, image_id=9), annotation(4, iscrowd=1)])
    coco.load(*paths)
    coco.load(*paths)
    (line,) = capsys.readouterr().err.splitlines()
    assert line == f"{paths[0]}, 4 annotations: 1 x {UNLISTED_IMAGE}, first annotations[2]"
    load(write([annotation(1), annotation(2), annotation(3, image_id=10)]))
    coco.load(*write([annotation(1), annotation(4, iscrowd=1)]))
    assert capsys.readouterr().err == ""


def test_compressed_runs_are_read_exactly():
    """Together, alone, and beside broken ones."""
    rng = np.random.default_rng(0)
    texts, expected = [], []
    for h, w in [(1, 1), (8, 10), (300, 200), (3000, 700), (40, 30)]:
        for share in (0.0, 0.001, 0.5, 1.0):
            mask = (rng.random((h, w)) < share).astype(np.uint8)
            texts += [
                segmentation.encode_mask(mask)["counts"],
                ["", "o", "hello, world", "é", "oooooooo0"][len(texts) % 5],
            ]
            expected += [(h * w, mask.sum()), rle.BROKEN]
    assert rle.sums(texts) == expected
    assert [rle.sums([text])[0] for text in texts] == expected
    assert rle.sums([]) == []
    # 10 background, then -3, then 73: the sum is right, the run is not
    assert rle.sums([chr(48 + 10) + chr(48 + 29) + "Y2"]) == [rle.BROKEN]


# ------------------------------------------------------------------------------------------ image files


def encoded(image, kind, **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def noise(h=8, w=10, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (h, w, 3), np.uint8)


def whole_jpeg():
    return encoded(Image.fromarray(noise(64, 64)), "JPEG")


@pytest.mark.parametrize(
    "data, message",
    [
        (b"", "it is empty"),
        (b"this is text\n", "not an image, or of a format"),
        (b"<html>404</html>", "not an image, or of a format"),
        (whole_jpeg()[:-200], "truncated"),
        (encoded(Image.fromarray(noise(64, 64)), "PNG")[:2000], "truncated"),
        (b"\x89PNG\r\n\x1a\n" + bytes(40), "cannot read"),
        (encoded(Image.new("F", (10, 8)), "TIFF"), "32 bit"),
    ],
    ids=["empty", "text", "html", "half jpeg", "half png", "png header", "float tiff"],
)
def test_unreadable_images_stop_with_their_name(write, data, message):
    path, folder = write(file_name="a.jpg")
    (folder / "a.jpg").write_bytes(data)
    with pytest.raises(ValueError, match=message) as error:
        coco.load(path, folder).read(0)
    assert str(folder / "a.jpg") in str(error.value)
    if len(data) < 100:  # no whole header: not even copied into a prepared set
        with pytest.raises(ValueError, match=r"a\.jpg"):
            encoded_image(coco.load(path, folder), 0)


def test_decompression_bomb(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    with pytest.raises(ValueError, match=r"a\.png \(more than"):
        images.decode_image(encoded(Image.new("L", (5, 5)), "PNG"), "a.png")


def test_missing_images(write):
    path, folder = write(file_name="sub/a.png")
    for make in (lambda: None, (folder / "sub" / "a.png").mkdir):
        (folder / "sub").mkdir(exist_ok=True)
        make()
        with pytest.raises(FileNotFoundError, match=r"sub/a\.png"):
            coco.load(path, folder).read(0)
    path, folder = write(file_name="x" * 300 + ".png")
    with pytest.raises(FileNotFoundError, match="xxx"):
        coco.load(path, folder).read(0)


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_names_composed_or_decomposed(write, form):
    other = {"NFC": "NFD", "NFD": "NFC"}[form]
    path, folder = write(file_name=unicodedata.normalize(form, "é/à.png"))
    there = folder / unicodedata.normalize(other, "é/à.png")
    there.parent.mkdir()
    Image.new("RGB", (10, 8)).save(there)
    assert coco.load(path, folder).read(0).shape == (8, 10, 3)


def test_folders_separated_by_backslashes(write):
    path, folder = write(file_name="sub\\a.png")
    (folder / "sub").mkdir()
    Image.new("RGB", (10, 8)).save(folder / "sub" / "a.png")
    dataset = coco.load(path, folder)
    assert dataset.read(0).shape == (8, 10, 3) and encoded_image(dataset, 0)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF"])
def test_exif_rotations(kind):
    """All eight orientations show the same scene; corners tell them apart."""
    scene = np.zeros((16, 32, 3), np.uint8)
    scene[:8, :8], scene[8:, 24:] = (255, 0, 0), (0, 0, 255)
    upright = Image.fromarray(scene)
    turns = ("FLIP_LEFT_RIGHT", "ROTATE_180", "FLIP_TOP_BOTTOM", "TRANSPOSE", "ROTATE_90", "TRANSVERSE", "ROTATE_270")
    stored = [upright] + [upright.transpose(Image.Transpose[turn]) for turn in turns]  # each undone by reading
    for orientation, image in enumerate(stored, start=1):
        exif = Image.Exif()
        exif[0x0112] = orientation
        found = images.decode_image(encoded(image, kind, exif=exif), "x")
        assert found.shape == scene.shape
        assert np.abs(found.astype(int) - scene).mean() < 8, orientation


def test_json_with_the_size_before_the_rotation_says_so(write):
    path, folder = write(file_name="a.jpg", width=8, height=10)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (8, 10)).save(folder / "a.jpg", exif=exif)
    for read in (lambda dataset: dataset.read, lambda dataset: dataset.encoded):
        with pytest.raises(ValueError, match=r"a\.jpg is 10 x 8 px, its json says 8 x 10.*before the rotation.*EXIF"):
            read(coco.load(path, folder))(0)
    Image.new("RGB", (10, 8)).save(folder / "a.jpg")  # swapped, but by nothing in the file
    with pytest.raises(ValueError, match="correct width and height"):
        coco.load(path, folder).read(0)


def test_broken_exif_is_ignored():
    data = encoded(Image.fromarray(noise()), "JPEG", exif=b"Exif\0\0" + b"nonsense" * 4)
    assert images.decode_image(data, "x").shape == (8, 10, 3)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_16_bit_gray_is_scaled(kind):
    ramp = np.linspace(0, 65535, 80).astype(np.uint16).reshape(8, 10)
    found = images.decode_image(encoded(Image.fromarray(ramp), kind), "x")
    np.testing.assert_array_equal(found, np.repeat((ramp >> 8).astype(np.uint8)[..., None], 3, axis=2))


def test_16_bit_color():
    """A PNG of 16 bit per channel, written by hand: Pillow cannot."""
    rgb = np.random.default_rng(0).integers(0, 65536, (8, 10, 3)).astype(">u2")
    rows = b"".join(b"\0" + row.tobytes() for row in rgb)
    data = b"\x89PNG\r\n\x1a\n"
    header = struct.pack(">IIBBBBB", 10, 8, 16, 2, 0, 0, 0)
    for name, body in [(b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]:
        data += struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
    np.testing.assert_array_equal(images.decode_image(data, "x"), (rgb >> 8).astype(np.uint8))


def test_cmyk_jpeg_as_adobe_writes_it():
    scene = np.zeros((16, 16, 3), np.uint8)
    scene[:, :8], scene[:, 8:] = (230, 60, 20), (255, 255, 255)
    data = encoded(Image.fromarray(scene).convert("CMYK"), "JPEG", quality=95)
    assert b"Adobe" in data  # whose values are inverted
    assert np.abs(images.decode_image(data, "x").astype(int) - scene).mean() < 6


def test_gray_palette_alpha_and_animations():
    gray = Image.fromarray(noise()[..., 0])
    np.testing.assert_array_equal(images.decode_image(encoded(gray, "PNG"), "x")[..., 1], noise()[..., 0])
    assert images.decode_image(encoded(Image.new("1", (10, 8), 1), "PNG"), "x").min() == 255
    palette = Image.new("P", (10, 8), 1)
    palette.putpalette([0, 0, 0, 10, 20, 30])
    for options in ({}, {"transparency": 1}):
        assert images.decode_image(encoded(palette, "PNG", **options), "x")[0, 0].tolist() == [10, 20, 30]
    # what is see-through keeps the color below, as in detectron2: nothing is blended
    clear = np.dstack([noise(), np.zeros((8, 10), np.uint8)])
    np.testing.assert_array_equal(images.decode_image(encoded(Image.fromarray(clear), "PNG"), "x"), noise())
    gray_alpha = Image.fromarray(clear[..., 2:])
    np.testing.assert_array_equal(images.decode_image(encoded(gray_alpha, "PNG"), "x")[..., 0], noise()[..., 2])
    frames = [Image.new("RGB", (10, 8), (c, 0, 0)) for c in (250, 10)]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert images.decode_image(data, "x").shape == (8, 10, 3) and images.decode_image(data, "x")[0, 0, 0] > 240


# ---------------------------------------------------------------------------------------------- the check


def test_check_says_what_a_folder_holds(write, tmp_path):
    data = base.get_config("custom").data.copy_and_resolve_references()
    data.root, data.train_json, data.train_images, data.novel_classes = str(tmp_path), "a.json", "images", ("dog",)
    data.min_box_side, data.min_mask_area = 3, 4
    (tmp_path / "images").mkdir()
    listed = [IMAGE | {"id": k, "file_name": f"{k}.png"} for k in range(4)]
    whole = [annotation(k, image_id=k % 4) for k in range(1, 7)]
    bad = [
        annotation(8, image_id=0, category_id=9),
        annotation(9, image_id=0, category_id=2, bbox=[7, 5, 3, 3]),
        annotation(10, image_id=0, bbox=[2, 1, 2, 2]),
    ]
    path, folder = write(whole + bad, change=lambda raw: raw.update(images=listed))
    for k in (0, 1, 2):
        Image.new("RGB", (10, 8 + (k == 2))).save(folder / f"{k}.png")
    examples = {}
    dataset, problems = checks.check(data, "train", examples=examples)
    text = checks.describe(dataset, problems, examples=examples, min_box_side=3, min_mask_area=4)
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert lines[0] == "custom train: 4 images, 8 objects, 2 classes"
    assert lines[2:4] == ["cat 2 base 1 1 1", "dog 5 novel 7 4 6"]  # K: one dog is too small
    assert lines[4] == "possible K, novel classes: 1 yes; 5 yes; 10 no (dog 6)"
    assert lines[5] == "possible K, all classes: 1 yes; 5 no (cat 1); 10 no (cat 1, dog 6)"
    assert f"problem: 1 x {checks.MISSING}" in lines and f"problem: 1 x {checks.BROKEN}" in lines
    assert any("first: " in line and "2.png is 10 x 9 px" in line for line in lines)
    assert f"problem: 1 x {UNLISTED_CATEGORY}" in lines and "first: annotations[6]" in lines
    assert f"problem: 1 x {checks.ELSEWHERE}" in lines and f"note: 1 x {checks.SMALL}" in lines
    assert "no problems" not in text
