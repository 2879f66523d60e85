"""The path from objects to masks: batches that never change shape, masks that do not depend on company."""

import jax
import jax.numpy as jnp
import numpy as np

from maskdiff_jax import segment
from maskdiff_jax.model import Model
from maskdiff_jax.types import Support

M = 8
CANVAS = (32, 32)


def make(mask_batches, traced):
    """A segmenter whose model paints noise of the object's key over its region and notes when it is traced."""

    def paint(params, keys, region, shots, classes):
        traced.append(region.shape)
        noise = jax.vmap(lambda k: jax.random.normal(k, (M, M)))(keys)
        light = region.mean(-1) / 255.0 + 0.01 * shots.mean((1, 2, 3, 4))[:, None, None] + 0.1 * classes[:, None, None]
        return jax.nn.sigmoid(params * noise + 4 * (light - 0.5))

    nothing = lambda *_: None
    model = Model(nothing, nothing, nothing, nothing, nothing, paint, nothing, nothing)
    support = Support(np.full((3, 2, M, M, 4), 9, np.uint8), np.full(3, 2))
    return segment.make_segmenter(
        model, support, size=M, context=0.0, top_n=4, mask_batches=mask_batches, canvas=CANVAS, threshold=0.5,
        samples=1, noise_seed=0,
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


def drawn(segmenter, counts):
    """{(image, rank): soft mask}, and the masks in their images."""
    soft, pasted = {}, {}
    for objects, _, s, p, _ in segment.draw_masks(segmenter, jnp.float32(1.0), stream(counts)):
        for i, name in enumerate(zip(objects.image_id.tolist(), objects.rank.tolist(), strict=True)):
            assert name not in soft
            soft[name], pasted[name] = s[i], p[i]
    return soft, pasted


def test_nothing_is_traced_again_after_the_first_batch():
    traced = []
    segmenter = make((4,), traced)
    for counts in ([4], [1], [3, 2, 7], [11], [1, 1, 1, 1, 1]):
        soft, _ = drawn(segmenter, counts)
        assert len(soft) == sum(counts)
    assert traced == [(4, M, M, 3)]


def test_each_size_is_traced_once_when_it_is_needed():
    traced = []
    segmenter = make((1, 4), traced)
    drawn(segmenter, [1])
    assert traced == [(1, M, M, 3)]  # one object is not drawn as four
    for counts in ([3], [5], [2, 2, 1], [1]):
        drawn(segmenter, counts)
    assert traced == [(1, M, M, 3), (4, M, M, 3)]


def test_confidence():
    soft = np.zeros((3, 2, 2), np.float32)
    soft[0] = [[1.0, 0.8], [0.4, 0.0]]
    soft[1] = 1.0
    np.testing.assert_allclose(segment.confidence(soft), [0.9, 1.0, 0.0], rtol=1e-6)
    np.testing.assert_allclose(segment.confidence(soft, 0.3)[0], 2.2 / 3, rtol=1e-6)


def test_masks_do_not_depend_on_batch_size_or_company():
    counts = [3, 1, 5, 2]
    alone, alone_pasted = drawn(make((1,), []), counts)
    for sizes in ((4,), (1, 16)):
        soft, pasted = drawn(make(sizes, []), counts)
        assert soft.keys() == alone.keys() and len(soft) == sum(counts)
        for name, mask in soft.items():
            np.testing.assert_allclose(mask, alone[name], atol=1e-6)
            np.testing.assert_array_equal(pasted[name], alone_pasted[name])
    values = np.stack([m.ravel() for m in alone.values()])
    assert np.unique(values.round(4), axis=0).shape[0] == sum(counts)  # every object has noise of its own


def test_no_objects_are_no_work():
    traced = []
    assert drawn(make((4,), traced), []) == ({}, {}) and not traced
