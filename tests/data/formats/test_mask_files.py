"""Mask files beside photos, in both layouts."""

import numpy as np
import pytest

from maskdiff_jax.data.formats import images, recognize
from tests.data.formats.photos import masks, photo, rectangle, save_mask

A, B = rectangle(2, 1, 6, 4), rectangle(10, 5, 16, 9) - rectangle(12, 6, 14, 8)


def test_one_mask_per_object(tmp_path):
    photo(tmp_path / "a.jpg")
    photo(tmp_path / "a_b.png")
    photo(tmp_path / "img_2.png")  # a photo whose name ends in a number
    blurred = A * 255 + rectangle(6, 1, 7, 4) * 60
    save_mask(tmp_path / "a_paper_cup_1.png", blurred)
    save_mask(tmp_path / "a_paper_cup_2.png", np.stack([B * 255] * 3, -1))
    save_mask(tmp_path / "a_b_dog_1.png", B.astype(bool))
    found = recognize.read_annotations(tmp_path)
    assert found.format == "mask files"
    assert [i["file_name"] for i in found.documents["all"]["images"]] == ["a.jpg", "a_b.png", "img_2.png"]
    (n1, m1), (n2, m2), (n3, m3) = masks(found)
    assert (n1, n2, n3) == ("paper_cup", "paper_cup", "dog")
    assert (m1 == A).all() and (m2 == B).all() and (m3 == B).all()  # B has a hole


@pytest.mark.parametrize("folder", ("images", "."))
def test_a_folder_per_class(tmp_path, folder):
    photo(tmp_path / folder / "a.jpg")
    save_mask(tmp_path / "masks" / "cup" / "a.png", A + 7 * B)  # two instances
    save_mask(tmp_path / "masks" / "dog" / "a_1.png", B * 255)
    (n1, m1), (n2, m2), (n3, m3) = masks(recognize.read_annotations(tmp_path))
    assert (n1, n2, n3) == ("cup", "cup", "dog")
    assert (m1 == A).all() and (m2 == B).all() and (m3 == B).all()


def test_masks_of_a_turned_photo(tmp_path):
    photo(tmp_path / "a.jpg", orientation=6)
    upright = images.turned(A, 6)
    save_mask(tmp_path / "a_cup_1.png", A)  # of the stored image
    save_mask(tmp_path / "a_cup_2.png", np.ascontiguousarray(upright))
    (_, first), (_, second) = masks(recognize.read_annotations(tmp_path))
    assert (first == upright).all() and (second == upright).all() and first.shape == (20, 10)


def test_faults_are_named(tmp_path):
    photo(tmp_path / "a.jpg")
    path = tmp_path / "a_cup_1.png"
    save_mask(path, A * 0)
    with pytest.raises(ValueError, match="no object with a mask.*no pixel"):
        recognize.read_annotations(tmp_path)
    save_mask(path, A[:, 1:])
    with pytest.raises(ValueError, match="a_cup_1.png is 19 x 10 px, its photo a.jpg 20 x 10"):
        recognize.read_annotations(tmp_path)
    path.write_text("no image")
    with pytest.raises(ValueError, match="cannot read the mask"):
        recognize.read_annotations(tmp_path)


def test_faults_of_class_folders_are_named(tmp_path):
    photo(tmp_path / "a.jpg")
    (tmp_path / "masks").mkdir()
    with pytest.raises(ValueError, match="needs a folder for each class"):
        recognize.read_annotations(tmp_path)
    save_mask(tmp_path / "masks" / "cup" / "a.png", np.arange(200, dtype=np.uint8).reshape(10, 20))
    with pytest.raises(ValueError, match="has 199 values: an instance mask has one value for each object"):
        recognize.read_annotations(tmp_path)
    save_mask(tmp_path / "masks" / "cup" / "b_1.png", A)
    with pytest.raises(ValueError, match="b_1.png belongs to no photo"):
        recognize.read_annotations(tmp_path)
