import io
import struct
import unicodedata
import zlib

import numpy as np
import pytest
from PIL import Image

from maskdiff_jax.data.dataset import encoded_image
from maskdiff_jax.data.formats import coco, images


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
    stored = folder / unicodedata.normalize(other, "é/à.png")
    stored.parent.mkdir()
    Image.new("RGB", (10, 8)).save(stored)
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


@pytest.mark.parametrize("suffix", ("jpg", "png", "tif"))
@pytest.mark.parametrize("orientation", range(1, 9))
def test_sizes_are_read_without_decoding(tmp_path, suffix, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"a.{suffix}"
    Image.new("RGB", (20, 10)).save(path, exif=exif)
    size = images.read_size(path)
    assert (size.height, size.width) == images.decode_image(path.read_bytes(), "a").shape[:2]


def test_the_size_of_a_broken_or_missing_file_is_an_error(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"no image")
    with pytest.raises(ValueError, match="cannot read the image .*a.jpg"):
        images.read_size(tmp_path / "a.jpg")
    with pytest.raises(FileNotFoundError, match="b.jpg"):
        images.read_size(tmp_path / "b.jpg")


@pytest.mark.parametrize("suffix", ("png", "tif"))
def test_16_bits_are_noticed(tmp_path, suffix):
    for dtype in (np.uint8, np.uint16):
        Image.fromarray(np.zeros((4, 5), dtype)).save(tmp_path / f"a.{suffix}")
        assert images.is_16_bit((tmp_path / f"a.{suffix}").read_bytes()) == (dtype is np.uint16)
