"""Images as users have them: each kind gives the same RGB pixels, and what is no image is one clear sentence."""

import numpy as np
import pytest
from PIL import Image

from maskdiff_jax.inference import inputs

RGB = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
GRAY = RGB[..., 0]
RGBA = np.concatenate([RGB, np.full((5, 7, 1), 9, np.uint8)], 2)
AS_GRAY = np.repeat(GRAY[..., None], 3, 2)


class Tensor:
    """An array of another library, such as jax or torch."""

    def __array__(self, dtype=None, copy=None):
        return RGB


@pytest.mark.parametrize(
    "image, expected",
    [
        (RGB, RGB), (GRAY, AS_GRAY), (GRAY[..., None], AS_GRAY), (RGBA, RGB), (RGB[:, ::-1][:, ::-1], RGB),
        (Tensor(), RGB), (Image.fromarray(RGB), RGB), (Image.fromarray(GRAY), AS_GRAY), (Image.fromarray(RGBA), RGB),
    ],
)  # fmt: skip
def test_kinds_of_images(image, expected):
    photo = inputs.read(image)
    np.testing.assert_array_equal(photo.pixels, expected)
    assert photo.pixels.dtype == np.uint8 and photo.file is None and inputs.is_one(image)


def test_files_and_exif(tmp_path):
    path = tmp_path / "photo.png"
    turned = Image.Exif()
    turned[0x0112] = 6  # the camera was turned: rotate by 270 degrees
    Image.fromarray(RGB).save(path, exif=turned)
    expected = np.rot90(RGB, -1)
    for name in (path, str(path)):
        photo = inputs.read(name)
        np.testing.assert_array_equal(photo.pixels, expected)
        assert photo.file == str(path) and inputs.is_one(name)
    np.testing.assert_array_equal(inputs.read(Image.open(path)).pixels, expected)


def test_16_bit_gray():
    deep = Image.fromarray(GRAY.astype(np.uint16) * 257)
    np.testing.assert_array_equal(inputs.read(deep).pixels, AS_GRAY)


def test_several(tmp_path):
    for name in ("b.PNG", "a.jpg"):
        Image.fromarray(RGB).save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("")
    (tmp_path / "folder.png").mkdir()
    expected = [tmp_path / "a.jpg", tmp_path / "b.PNG"]
    assert not inputs.is_one(tmp_path)
    assert list(inputs.several(tmp_path)) == list(inputs.several(str(tmp_path))) == expected
    assert list(inputs.several(["x.png", tmp_path])) == ["x.png", *expected]
    assert list(inputs.several(iter([GRAY]))) == [GRAY]


@pytest.mark.parametrize(
    "image, message",
    [
        (RGB / 255, r"not float64: \(255 \* image\).astype\('uint8'\) if it is in 0..1"),
        (GRAY > 9, r"not bool: image.astype\('uint8'\) \* 255"),
        (RGB.astype(np.uint16), "not uint16: scale it to 0..255"),
        (RGB.transpose(2, 0, 1), r"not \[3, 5, 7\]: put the channels last"),
        (RGB[None], r"not \[1, 5, 7, 3\]: give several images as a list"),
        (RGB[..., :2], r"not \[5, 7, 2\]"),
        (RGB[:0], r"not \[0, 7, 3\]"),
        (RGB[0, 0], r"not \[3\]"),
        (np.broadcast_to(np.uint8(0), (20000, 20000, 3)), "20000 x 20000 px has more than .* pixels: make it smaller"),
        (Image.new("F", (4, 4)), r'of mode F: scale it to 0..255 and convert it with convert\("L"\)'),
    ],
)
def test_what_is_no_image(image, message):
    with pytest.raises(ValueError, match=message):
        inputs.read(image)


def test_large_pictures_are_refused(tmp_path, monkeypatch):
    large = Image.new("1", (20000, 20000))
    large.save(tmp_path / "large.png")
    with pytest.raises(ValueError, match="20000 x 20000 px has more than"):
        inputs.read(large)
    with pytest.raises(ValueError, match="large.png .more than .* pixels.: make it smaller"):
        inputs.read(tmp_path / "large.png")


def test_files_that_are_no_images(tmp_path):
    (tmp_path / "notes.txt").write_text("no image")
    with pytest.raises(ValueError, match=r"cannot read the image .*notes.txt \(not an image"):
        inputs.read(tmp_path / "notes.txt")
    Image.fromarray(np.random.default_rng(1).integers(0, 256, (90, 90, 3), np.uint8)).save(tmp_path / "whole.png")
    (tmp_path / "half.png").write_bytes((tmp_path / "whole.png").read_bytes()[:9000])
    for image in (tmp_path / "half.png", Image.open(tmp_path / "half.png")):
        with pytest.raises(ValueError, match=r"cannot read the image .*half.png \(.*: replace the file"):
            inputs.read(image)
    for name in ("whole.png", "half.png"):
        (tmp_path / name).unlink()
    with pytest.raises(
        FileNotFoundError, match=r"cannot read the image .*gone.png \(No such file .*\): check the name"
    ):
        inputs.read(tmp_path / "gone.png")
    with pytest.raises(FileNotFoundError, match="is a directory.*: give a file, or a list of files|Is a directory"):
        inputs.read(tmp_path)
    with pytest.raises(FileNotFoundError, match="contains no image: give a folder with image files"):
        list(inputs.several(tmp_path))
    with pytest.raises(TypeError, match="not an image: NoneType; give a uint8 array, a PIL image"):
        inputs.read(None)
    with pytest.raises(TypeError, match="not an image: int; "):
        list(inputs.several(5))
