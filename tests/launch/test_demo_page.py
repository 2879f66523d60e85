"""What happens on a click of the page of launch/demo.py, without a browser."""

import dataclasses
import importlib.util
import json

import numpy as np
import pytest
from PIL import Image

from launch import demo_page
from maskdiff_jax.inference.inputs import Photo
from maskdiff_jax.inference.shared_model import SharedModel
from tests import tiny


def save_image(path, height=48, width=64, seed=0):
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)).save(path)
    return str(path)


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """The page of a tiny model, with one example."""
    if not importlib.util.find_spec("gradio"):
        pytest.skip("needs gradio: requirements-demo.txt")
    import gradio

    folder = tmp_path_factory.mktemp("page")
    (folder / "photos").mkdir()
    save_image(folder / "photos" / "a.png")
    model = SharedModel(tiny.calibrated(), samples=1, least_score=0.0)
    return demo_page.Page(gradio, model, folder / "model", folder / "photos", folder)


@pytest.fixture
def visit(page, tmp_path):
    return demo_page.Visit(page.model.base, tmp_path)


def chosen(page, visit, folder):
    return page.choose(visit, save_image(folder / "photo.png"))[page.visit]


PAINTED = {"layers": [np.zeros((48, 64, 4), np.uint8)]}
PAINTED["layers"][0][10:30, 20:50] = 200


def test_objects_of_an_example(page, visit, tmp_path):
    with pytest.raises(ValueError, match="choose a photo first.*or click an example"):
        page.find(visit, 0.0, False)
    values = page.choose_example(visit, 0)
    assert values[page.visit].photo.file == "a.png" and values[page.masks] is None
    values = page.find(values[page.visit], 0.0, False, 1.0, 2, 1)
    assert len(values[page.visit].found) and values[page.masks].size == values[page.uncertainty].size == (384, 288)
    rows = json.loads((tmp_path / "a.json").read_text())
    assert len(rows) == len(values[page.visit].found) == values[page.table].count("<tr>") - 1
    values = page.show(values[page.visit], 0.95, False)
    assert "Nothing found above score 0.95" in values[page.message] and values[page.table] == ""
    assert page.show(visit, 0.5, True) == {}


def test_an_object_of_two_classes_is_shown_once_where_asked_for(page, visit, tmp_path):
    found = page.find(chosen(page, visit, tmp_path), 0.0, False, 1.0, 2, 1)[page.visit].found
    boxes = np.float32([[0, 0, 20, 20], [1, 0, 21, 20]] + [[22, 22 + 6 * k, 60, 26 + 6 * k] for k in range(len(found))])
    visit = visit._replace(found=dataclasses.replace(found, boxes=boxes[: len(found)]))
    rows = [page.show(visit, 0.0, once)[page.table].count("<tr>") - 1 for once in (False, True)]
    assert rows == [len(found), len(found) - 1]


def test_painted_and_uploaded_shots(page, visit, tmp_path):
    for names, words in (((), "show at least one object first"), (("a.png",), "show at least one object first")):
        values = page.take_photos(visit, [save_image(tmp_path / n) for n in names])
        with pytest.raises(ValueError, match=words):
            page.add(values[page.visit], "mug", {"layers": [np.zeros((48, 64, 4), np.uint8)]})
    with pytest.raises(ValueError, match="upload a photo of the object first"):
        page.keep(visit, PAINTED)
    with pytest.raises(ValueError, match="upload the photos first, then their masks"):
        page.take_masks(visit, [])
    mask = np.zeros((48, 64), np.uint8)
    mask[5:20, 5:30] = 255
    Image.fromarray(mask).save(tmp_path / "b.png")
    values = page.take_photos(visit, [save_image(tmp_path / n) for n in ("a.jpg", "b.jpg")])
    assert [p.file for p in values[page.visit].waiting] == ["a.jpg", "b.jpg"]
    values = page.take_masks(values[page.visit], [str(tmp_path / "b.png")])
    assert [p.file for p in values[page.visit].waiting] == ["a.jpg"] and len(values[page.shots]) == 1
    values = page.add(values[page.visit], " mug ", PAINTED)  # with what is painted, but was not kept
    assert "Added &#x27;mug&#x27; (2 shots)" in values[page.add_message]
    after = values[page.visit]
    assert after.added == ("mug",) and not after.shots and not after.waiting and values[page.editor] is None
    assert '<span class="chip mine">mug</span>' in values[page.classes]
    assert "mug" not in page.class_list(visit)  # another tab
    with pytest.raises(ValueError, match="choose a class that you added"):
        page.remove(after, None)
    assert page.remove(after, "mug")[page.visit].added == ()


def test_a_name_that_exists_keeps_the_shots(page, visit, tmp_path):
    values = page.take_photo(chosen(page, visit, tmp_path))
    values = page.keep(values[page.visit], PAINTED)
    assert len(values[page.shots]) == 1
    with pytest.raises(ValueError, match="there is a class 'class3' already: give another name"):
        page.add(values[page.visit], "class3", None)
    assert len(values[page.visit].shots) == 1
    page.save(values[page.visit])
    assert (tmp_path / "model.zip").is_file()


def test_two_or_three_settings(page, visit, tmp_path):
    visit = chosen(page, visit, tmp_path)
    values = [1.0, 2, 1, 2.0, 1, 1, 1.0, 1, 1]
    two = page.compare(visit, 0.0, False, False, *values)
    assert [v is None for v in two.values()] == [False] * 4 + [True] * 2
    captions = [two[page.compared[k]] for k in (1, 3)]
    assert "2 network evaluations" in captions[0] and "IoU with the masks of A" in captions[1]
    assert all(v is not None for v in page.compare(visit, 0.0, False, True, *values).values())


def test_numbers_that_no_slider_sends_are_a_message(page, visit, tmp_path):
    """Gradio's check of a slider raises, and its server writes the traceback into the log."""
    sliders = [block for block in page.blocks.blocks.values() if isinstance(block, page.gr.Slider)]
    assert len(sliders) == 1 + 4 * 3 and {block.preprocess(1e6) for block in sliders} == {1e6}
    visit = chosen(page, visit, tmp_path)
    for values, words in (
        ((0.3, True, 1e6, 2, 1), "the guidance weight is 1000000.0: give one from 0 to 20"),
        ((0.3, True, 1.0, 1e6, 1), "the number of steps is 1000000: give one from 1 to 1000"),
        ((0.3, True, 1.0, 2, 0), "the number of samples is 0: give one from 1 to 16"),
        ((1e6, True, 1.0, 2, 1), "the minimum score is 1000000.0: give one from 0 to 1"),
        (("many", True, 1.0, 2, 1), "the minimum score is many"),
    ):
        with pytest.raises(ValueError, match=words):
            page.find(visit, *values)


def test_large_photos_are_painted_small(page, visit):
    visit = visit._replace(waiting=(Photo(np.zeros((1000, 3000, 3), np.uint8), "a.jpg"),))
    assert page.shown_shots(visit)[page.editor]["background"].shape == (240, 720, 3)
