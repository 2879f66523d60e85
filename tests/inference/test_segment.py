"""From objects to masks: batches keep their shape, and a mask does not depend on the rest of its batch."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskdiff_jax.inference import predictor, segment
from maskdiff_jax.model import Model, build
from maskdiff_jax.types import SupportSet
from tests import tiny

ROOT = Path(__file__).resolve().parents[2]
M = 8


def make(mask_batches, traced, shot=9, mesh=None):
    """A segmenter whose mask head adds noise to a region's brightness, and lists when it is traced."""

    def mask(params, keys, region, shots, classes):
        traced.append(region.shape)
        noise = jax.vmap(lambda k: jax.random.normal(k, (M, M)))(keys)
        brightness = (
            region.mean(-1) / 255.0 + 0.01 * shots.mean((1, 2, 3, 4))[:, None, None] + 0.1 * classes[:, None, None]
        )
        return jax.nn.sigmoid(params * noise + 4 * (brightness - 0.5))

    nothing = lambda *_: None
    functions = dict.fromkeys(Model._fields, nothing) | {"segment": mask}
    model = Model(**functions | {"mask_side": M, "gt_mask_side": 0, "mask_features": None})
    support = SupportSet(np.full((3, 2, M, M, 4), shot, np.uint8), np.full(3, 2))
    return segment.make_segmenter(
        model, support, size=M, context=0.0, top_n=4, mask_batches=mask_batches, threshold=0.5,
        samples=1, noise_seed=0, mesh=mesh,
    )  # fmt: skip


def stream(counts):
    """Objects of images that hold so many each."""
    rng = np.random.default_rng(0)
    for image_id, n in enumerate(counts):
        corner = rng.uniform(0, 16, (n, 2))
        yield (
            segment.Objects(
                np.full(n, image_id, np.int32), np.arange(n, dtype=np.int32), rng.integers(0, 3, n).astype(np.int32),
                np.ones(n, np.float32), np.concatenate([corner, corner + 12], 1).astype(np.float32),
                rng.integers(0, 256, (n, M, M, 3), dtype=np.uint8),
            ),
            np.tile([32, 32], (n, 1)),
        )  # fmt: skip


def sampled(segmenter, counts):
    """{(image, rank): soft mask}, and the masks in their images."""
    soft, pasted = {}, {}
    for part in segment.sample_masks(segmenter, jnp.float32(1.0), stream(counts)):
        rles, o = segment.paste_all(segmenter, part), part.objects
        for i, name in enumerate(zip(o.image_id.tolist(), o.rank.tolist(), strict=True)):
            assert name not in soft
            soft[name], pasted[name] = part.soft[i], rles[i]
    return soft, pasted


def test_nothing_is_traced_again_after_the_first_batch():
    traced = []
    segmenter = make((4,), traced)
    for counts in ([4], [1], [3, 2, 7], [11], [1, 1, 1, 1, 1]):
        soft, _ = sampled(segmenter, counts)
        assert len(soft) == sum(counts)
    assert traced == [(4, M, M, 3)]


def test_each_size_is_traced_once_when_it_is_needed():
    traced = []
    segmenter = make((1, 4), traced)
    sampled(segmenter, [1])
    assert traced == [(1, M, M, 3)]  # one object is not sampled as four
    for counts in ([3], [5], [2, 2, 1], [1]):
        sampled(segmenter, counts)
    assert traced == [(1, M, M, 3), (4, M, M, 3)]


def test_another_support_set_is_the_same_program():
    traced = []
    segmenter, other = make((4,), traced), make((4,), [], shot=200)
    before, _ = sampled(segmenter, [4, 2])
    after, _ = sampled(segmenter._replace(shots=other.shots), [4, 2])
    assert traced == [(4, M, M, 3)] and segmenter.sample._cache_size() == 1
    assert all((before[k] != after[k]).any() for k in before)
    objects, _ = next(stream([4]))
    texts = [s.sample.lower(jnp.float32(1), s.shots, s.noise, objects).as_text() for s in (segmenter, other)]
    assert texts[0] == texts[1]  # another process finds the program in the compilation cache


def test_the_next_batch_is_started_before_results_are_waited_for():
    """What the host does with a result, and the loading before it, overlaps with the next batch's work."""
    events = []
    segmenter = make((2,), [])

    def sample(*arguments):
        events.append("start")
        return segmenter.sample(*arguments)

    for _ in segment.sample_masks(segmenter._replace(sample=sample), jnp.float32(1.0), stream([2, 2, 2])):
        events.append("result")
    assert events == ["start", "start", "result", "start", "result", "result"]


def test_batches_divide_over_the_devices():
    class Mesh:
        size = 3

    assert [segment.round_up(n, Mesh) for n in (1, 3, 8)] == [3, 3, 9]


SIMPLE_HEAD = """
    import jax, numpy as np
    from maskdiff_jax import sharding
    from tests.inference import test_segment as t
    counts, (one, eight) = [5, 1, 0, 9], (t.make((3,), [], mesh=sharding.make_mesh(n)) for n in (1, 8))
    assert (one.mask_batches, eight.mask_batches, len(eight.shots.devices())) == ((3,), (8,), 8)
    (soft, masks), (others, same) = t.sampled(one, counts), t.sampled(eight, counts)
    assert masks == same and len(soft) == 15
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), soft, others)
    print("equal")
"""

PREDICTED = """
    import re
    import jax, numpy as np
    from pycocotools import mask as mask_utils
    from maskdiff_jax import sharding
    from maskdiff_jax.data.synthetic import scenes
    from maskdiff_jax.evaluation import evaluate
    from maskdiff_jax.inference import predictor, segment
    from maskdiff_jax.model import build
    from maskdiff_jax.types import SupportSet
    from tests import tiny
    assert jax.device_count() == 8
    c = tiny.config().unlock()
    c.data.update(test_short_side=64, long_side=64, buckets=((64, 64),))
    c.eval.update(batch=3, mask_batch=4)  # rounded up to 8 and 8
    c.model.detector.update(max_detections=3)
    model, rng = build(c.model), np.random.default_rng(0)
    like = jax.eval_shape(model.init, jax.random.key(0))
    params = jax.tree.map(lambda x: (0.1 * rng.standard_normal(x.shape)).astype(x.dtype), like)
    support = SupportSet(rng.integers(0, 256, (12, 2, 16, 16, 4), np.uint8), np.full(12, 2, np.int32))
    dataset, results, ious = scenes.scenes("shapes", "test", 0, 11), [], []
    for n in (1, 8):
        segmenter = segment.make_segmenter(
            model, support, size=16, context=c.data.context, top_n=3, mask_batches=(c.eval.mask_batch,), threshold=0.5,
            samples=1, noise_seed=0, mesh=sharding.make_mesh(n),
        )
        assert segmenter.mask_batches == ((4,) if n == 1 else (8,))
        setup = evaluate.Setup(model, params, segmenter, dataset, {}, support, np.arange(12, dtype=np.int32))
        found = evaluate.find_objects(c, setup)
        rows, without_mask, speed = evaluate.predict(c, setup, found)
        assert without_mask == 0 and (n > 1 or speed > 0)
        results.append(rows)
        ious.append(evaluate.mask_ious(c, setup, found))
    assert len(results[0]) == len(results[1]) == 33
    for a, b in zip(*results):
        assert (a["image_id"], a["category_id"]) == (b["image_id"], b["category_id"])
        np.testing.assert_allclose(a["bbox"], b["bbox"], atol=0.02)
        np.testing.assert_allclose([a["score"], a["confidence"]], [b["score"], b["confidence"]], atol=1e-3)
        same = mask_utils.iou([a["segmentation"]], [b["segmentation"]], [0])[0, 0]
        assert same > 0.99 or mask_utils.area(a["segmentation"]) == mask_utils.area(b["segmentation"]) == 0
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=0.01), *ious)

    batch = jax.tree.map(lambda x: np.repeat(x, 8, 0), predictor.as_batch(np.zeros((64, 64, 3), np.uint8), 0, c.data))
    objects = jax.tree.map(lambda x: np.zeros((8, *x.shape[1:]), x.dtype), segment.concatenate([], 16, 1).objects)
    batch, objects = sharding.put_batch((batch, objects), segmenter.mesh)
    for compiled in (
        segmenter.detect.lower(params, batch, np.ones(12, bool)).compile(),
        segmenter.sample.lower(params, segmenter.shots, segmenter.noise, objects).compile(),
    ):
        assert all(len(x.device_set) == 8 and not x.is_fully_replicated for x in compiled.output_shardings)
        assert not re.search(r" (all-|collective-|reduce-scatter)", compiled.as_text())
    print("equal")
"""


@pytest.mark.parametrize(
    "code", [SIMPLE_HEAD, pytest.param(PREDICTED, marks=pytest.mark.slow)], ids=["simple head", "model"]
)
def test_eight_devices_equal_one(code):
    """Of a whole model: detections, masks, mask IoU; and the devices exchange nothing."""
    env = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=8", "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-c", textwrap.dedent(code)]
    out = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=900)
    assert out.stdout.strip().endswith("equal"), out.stderr[-2000:]


def test_confidence():
    soft = np.zeros((3, 2, 2), np.float32)
    soft[0] = [[1.0, 0.8], [0.4, 0.0]]
    soft[1] = 1.0
    np.testing.assert_allclose(segment.confidence(soft), [0.9, 1.0, 0.0], rtol=1e-6)
    np.testing.assert_allclose(segment.confidence(soft, 0.3)[0], 2.2 / 3, rtol=1e-6)


def test_masks_do_not_depend_on_batch_size_or_other_objects():
    counts = [3, 1, 5, 2]
    alone, alone_pasted = sampled(make((1,), []), counts)
    for sizes in ((4,), (1, 16)):
        soft, pasted = sampled(make(sizes, []), counts)
        assert soft.keys() == alone.keys() and len(soft) == sum(counts)
        for name, mask in soft.items():
            np.testing.assert_allclose(mask, alone[name], atol=1e-6)
            assert pasted[name] == alone_pasted[name]
    values = np.stack([m.ravel() for m in alone.values()])
    assert np.unique(values.round(4), axis=0).shape[0] == sum(counts)  # every object has its own noise


def test_no_objects_are_no_work():
    traced = []
    assert sampled(make((4,), traced), []) == ({}, {}) and not traced


def test_a_head_that_sees_features_gets_boxes_of_the_networks_input():
    """Boxes come in pixels of the image as stored; a margin is none of its business."""
    model = build(tiny.config().model)._replace(mask_features=lambda params, image, hw, boxes: boxes + params)
    support = tiny.trained().support
    segmenter = segment.make_segmenter(
        model, support, size=16, context=0.3, top_n=3, mask_batches=(4,), threshold=0.5, samples=1, noise_seed=0
    )
    batch = predictor.as_batch(np.zeros((128, 32, 3), np.uint8), 5, tiny.config().data)  # halved: 64 x 16
    assert segmenter.context == 0.0 and batch.image_hw.tolist() == [[64, 16]]
    boxes = np.float32([[[4, 8, 32, 128], [0, 0, 2, 2]]])
    np.testing.assert_array_equal(segmenter.crop(np.float32(1), batch, boxes)[0], [[3, 5, 17, 65], [1, 1, 2, 2]])
    truth = {5: (boxes[0], np.array([3, 1]))}
    (found,) = segment.ground_truth_objects(segmenter, np.float32(0), [batch], truth)
    np.testing.assert_array_equal(found[0].region, boxes[0] / 2)
