"""run.py of an export finds what the predictor finds, in a process that cannot import this package or flax."""

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from maskdiff_jax.inference import paste, predictor, stablehlo, stablehlo_run
from tests import tiny

pytest.importorskip("flatbuffers", reason="jax.export needs flatbuffers: make installs it")

SIZES = ((32, 64), (64, 64))
# what `pip install jax flatbuffers pillow` installs
PACKAGES = ("PIL", "flatbuffers", "jax", "jaxlib", "ml_dtypes", "numpy", "opt_einsum", "scipy")


def photo(h, w, seed=0):
    small = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), np.uint8)
    return Image.fromarray(small).resize((w, h), Image.Resampling.BICUBIC)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stablehlo") / "model"
    stablehlo.write(folder, tiny.trained())
    return folder


@pytest.fixture(scope="module")
def packages(tmp_path_factory):
    """A folder of PACKAGES and nothing else."""
    folder = tmp_path_factory.mktemp("packages")
    for name in PACKAGES:
        spec = importlib.util.find_spec(name)
        assert spec is not None and spec.origin is not None, name
        package = Path(spec.origin).parent
        (folder / name).symlink_to(package)
        for libraries in package.parent.glob(f"{package.name.replace('PIL', 'pillow')}.libs"):
            (folder / libraries.name).symlink_to(libraries)
    return folder


def run(folder, packages, *arguments, cwd, **variables):
    """run.py where PACKAGES alone are installed."""
    code = f"import runpy, sys; sys.path.append({str(packages)!r}); sys.argv = sys.argv[1:]; "
    for name in ("maskdiff_jax", "flax", "orbax", "ml_collections", "absl"):
        code += f"assert not __import__('importlib.util').util.find_spec({name!r}); "
    code += "runpy.run_path(sys.argv[0], run_name='__main__')"
    command = [sys.executable, "-I", "-S", "-c", code, str(folder / "run.py"), *map(str, arguments)]
    return subprocess.run(
        command, cwd=cwd, env=os.environ | variables, capture_output=True, text=True, check=False, timeout=300
    )


def test_a_clean_process_finds_what_the_predictor_finds(exported, packages, tmp_path):
    rotated = Image.Exif()
    rotated[0x0112] = 6
    photo(150, 90).save(tmp_path / "portrait.png")
    photo(40, 100, 1).save(tmp_path / "wide.jpg", quality=95, exif=rotated.tobytes())
    Image.fromarray(np.asarray(photo(30, 80, 2))[..., 0].astype(np.uint16) * 257).save(tmp_path / "gray.png")
    done = run(exported, packages, "portrait.png", "wide.jpg", "gray.png", "--output=out", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    for name in ("portrait.png", "wide.jpg", "gray.png"):
        expected, found = tiny.model()(tmp_path / name), np.load(tmp_path / "out" / f"{name}.npz")
        assert 0 < len(expected) == len(found["scores"]), name
        assert found["names"].tolist() == expected.labels
        np.testing.assert_array_equal(found["class_ids"], expected.class_ids)
        np.testing.assert_allclose(found["boxes"], expected.boxes, atol=1e-3)
        np.testing.assert_allclose(found["scores"], expected.scores, atol=1e-5)
        np.testing.assert_allclose(found["soft"], expected.region_soft, atol=1e-4)
        clear = np.abs(expected.soft - 0.5) > 1e-3
        assert clear.mean() > 0.98 and found["masks"].any()
        np.testing.assert_array_equal(found["masks"][clear], expected.masks[clear])
        words = r": class\d+ 0\.\d\d at \[\d+\.\d, \d+\.\d, \d+\.\d, \d+\.\d\]"
        assert any(re.fullmatch(re.escape(name) + words, line) for line in lines)
    assert len(lines) == sum(len(np.load(path)["scores"]) for path in (tmp_path / "out").iterdir())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"jax": "99.1.0"}, "is too old for this model: pip install 'jax>=99.1.0'"),
        (
            {"platforms": ["cuda", "tpu"]},
            "exported for cuda, tpu, but jax runs on cpu here: set JAX_PLATFORMS=cuda, or",
        ),
    ],
)
def test_a_jax_that_cannot_run_the_programs(exported, tmp_path, changes, message):
    folder = shutil.copytree(exported, tmp_path / "copy")
    document = json.loads((folder / "serving.json").read_text())
    (folder / "serving.json").write_text(json.dumps(document | changes))
    with pytest.raises(ValueError, match=message):
        stablehlo_run.Model(folder)


def test_what_is_no_image_is_one_sentence(exported, packages, tmp_path):
    (tmp_path / "notes.png").write_text("no image")
    done = run(exported, packages, "notes.png", cwd=tmp_path)
    assert done.returncode == 1 and done.stderr.startswith("run.py: cannot identify image file"), done.stderr


@pytest.mark.parametrize("hw", [(64, 64), (150, 90), (20, 33), (1, 1), (7, 700), (700, 7), (65, 64)])
def test_images_are_resized_as_for_the_predictor(hw):
    image, data = np.asarray(photo(*hw)), tiny.config().unlock().data
    data.buckets = SIZES
    expected = predictor.as_batch(image, 0, data)
    model = object.__new__(stablehlo_run.Model)
    model.options = {"short_side": 64, "long_side": 64, "region_long_side": 64, "padded_sizes": SIZES}
    model.detector, model.active = {}, None
    model.program = lambda name: lambda *arguments: (name, *arguments)
    name, _, *found, _ = model.detect(image)
    assert name == "detect_{}x{}.jax_export".format(*expected.image.shape[1:3])
    fields = ("image", "image_hw", "original_hw", "region_image", "region_hw")
    for field, array in zip(fields, found, strict=True):
        np.testing.assert_array_equal(array, getattr(expected, field), field)
        assert array.dtype == getattr(expected, field).dtype


def test_an_image_that_fits_no_padded_size():
    model = object.__new__(stablehlo_run.Model)
    model.options = {"short_side": 64, "long_side": 100, "region_long_side": 64, "padded_sizes": [[64, 64]]}
    with pytest.raises(
        ValueError, match="an image of 10 x 20 px becomes 50 x 100 px, which is larger than every padded size"
    ):
        model.detect(np.zeros((10, 20, 3), np.uint8))


def test_masks_reach_beyond_their_boxes_as_far_as_their_regions():
    """Class and score decide which detections get a mask; those after the number of regions get none."""
    rng = np.random.default_rng(0)
    boxes = np.float32([[[5, 6, 25, 16], [0, 0, 8, 8], [1, 1, 9, 9], [2, 0, 30, 20], [3, 3, 9, 9]]])
    soft = rng.random((2, 8, 8), np.float32)
    model = object.__new__(stablehlo_run.Model)
    model.min_score, categories = 0.3, [{"name": f"class{i}"} for i in range(3)]
    model.options = {"context": 0.25, "threshold": 0.6, "categories": categories}
    scores, classes = np.float32([[0.9, 0.8, 0.2, 0.7, 0.6]]), np.int32([[2, -1, 0, 1, 1]])
    model.detect = lambda _: (boxes, scores, classes, np.zeros((1, 4, 8, 8, 3), np.uint8))
    ranks = []
    model.sample_masks = lambda rank, *_: ranks.append(rank.tolist()) or soft
    found = model(np.zeros((20, 30, 3), np.uint8))
    assert ranks == [[0, 3]] and found["names"].tolist() == ["class2", "class1"]
    for values, box, mask in zip(soft, boxes[0, [0, 3]], found["masks"], strict=True):
        region = paste.context_box(box, 0.25, (20, 30))
        np.testing.assert_array_equal(mask, paste.paste(values, region, (20, 30)) >= 0.6)


@pytest.mark.parametrize("n", [0, 1, 3, 11])
def test_objects_fill_batches(n):
    """Batches of 4 and one that just holds the rest; each object keeps its rank, class and region."""
    sizes = []

    def program(name):
        def masks(weights, shots, key, image_id, rank, classes, region):
            sizes.append(len(rank))
            assert name == f"masks_{len(rank)}.jax_export" and (image_id == 7).all() and (classes == 10 * rank).all()
            return region[..., 0] / np.float32(255)

        return masks

    model = object.__new__(stablehlo_run.Model)
    model.options = {"mask_side": 2, "mask_batches": [1, 4], "noise_key": [0, 0]}
    model.mask_head, model.shots, model.program = {}, None, program
    rank, regions = np.arange(n, dtype=np.int32), np.random.default_rng(0).integers(0, 256, (n, 2, 2, 3), np.uint8)
    soft = model.sample_masks(rank, 10 * rank, regions, 7)
    assert sizes == {0: [], 1: [1], 3: [4], 11: [4, 4, 4]}[n]
    np.testing.assert_array_equal(soft, regions[..., 0] / np.float32(255))


def test_masks_are_pasted_as_by_the_predictor():
    rng = np.random.default_rng(0)
    for hw in ((1, 1), (13, 40), (64, 30)):
        for _ in range(50):
            corners = np.sort(rng.uniform(-3, 45, (2, 2)).astype(np.float32), 0)
            soft = rng.random((rng.integers(1, 9),) * 2).astype(np.float32)
            np.testing.assert_array_equal(
                stablehlo_run.paste(soft, corners.ravel(), hw), paste.paste(soft, corners.ravel(), hw)
            )
    empty = np.float32([5, 5, 5, 9])
    assert not stablehlo_run.paste(soft, empty, hw).any()
