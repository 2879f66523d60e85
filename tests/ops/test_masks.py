"""Cropping regions, against pillow; the input of a mask head."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from maskdiff_jax.ops import masks

crop = jax.jit(masks.crop_resize, static_argnums=2)


def image(seed=0, hw=(60, 80)):
    rng = np.random.default_rng(seed)
    noise = rng.integers(0, 256, (*hw, 3))
    ramp = np.linspace(0, 255, hw[1])[None, :, None]
    return np.where(np.arange(hw[0])[:, None, None] % 16 < 8, noise, ramp).astype(np.uint8)


@settings(max_examples=30, deadline=None)
@given(
    st.floats(0, 60),
    st.floats(0, 40),
    st.floats(3, 80),
    st.floats(3, 60),
    st.sampled_from([16, 32]),
    st.integers(0, 9),
)
def test_crop_resize_agrees_with_pillow(x0, y0, w, h, size, seed):
    box = (x0, y0, min(x0 + w, 80.0), min(y0 + h, 60.0))
    rgb = image(seed)
    wanted = Image.fromarray(rgb).resize((size, size), Image.Resampling.BILINEAR, box=box)
    ours = crop(rgb, jnp.array(box), size)
    assert ours.dtype == jnp.float32
    # pillow rounds to whole gray levels after each axis
    difference = np.abs(ours - np.asarray(wanted, np.float32))
    assert difference.mean() < 0.45 and difference.max() < 1.3


def test_crop_resize_agrees_with_pillow_in_float():
    gray = np.random.default_rng(0).random((50, 70)).astype(np.float32) * 255
    for box in ((3.3, 2.1, 60.7, 49.0), (10.0, 10.0, 14.5, 15.0), (0.0, 0.0, 70.0, 50.0)):
        wanted = Image.fromarray(gray, mode="F").resize((32, 32), Image.Resampling.BILINEAR, box=box)
        assert np.abs(crop(gray[..., None], jnp.array(box), 32)[..., 0] - np.asarray(wanted)).max() < 0.3
        factor = jnp.array([32 / (box[3] - box[1]), 32 / (box[2] - box[0])])
        start = -jnp.array([box[1], box[0]]) * factor
        ours = jax.image.scale_and_translate(gray, (32, 32), (0, 1), factor, start, "linear", antialias=True)
        np.testing.assert_allclose(crop(gray[..., None], jnp.array(box), 32)[..., 0], ours, atol=0.05)


def test_crop_resize_ignores_padding():
    rgb = image()
    padded = np.zeros((64, 96, 3), np.uint8)
    padded[:60, :80] = rgb
    box = jnp.array([40.0, 30.0, 80.0, 60.0])
    np.testing.assert_allclose(crop(padded, box, 16, jnp.array([60, 80])), crop(rgb, box, 16), atol=1e-3)
    assert np.abs(crop(padded, box, 16) - crop(rgb, box, 16)).max() > 5


def test_crop_resize_of_nothing_is_finite():
    for box in ([5.0, 5.0, 5.0, 5.0], [0.0, 0.0, 0.0, 0.0], [80.0, 60.0, 80.0, 60.0]):
        assert np.isfinite(crop(image(), jnp.array(box), 16)).all()


def test_context_box():
    boxes = jnp.array([[10.0, 10, 20, 30], [0, 0, 40, 40]])
    np.testing.assert_allclose(
        masks.context_box(boxes, 0.1, jnp.array([32, 48])), [[9, 8, 21, 32], [0, 0, 44, 32]], atol=1e-5
    )
    np.testing.assert_array_equal(masks.context_box(boxes[0], 0.0, jnp.array([32, 48])), boxes[0])


def test_unit_rgb_and_shots():
    np.testing.assert_allclose(masks.unit_rgb(np.array([0, 255], np.uint8)), [-1, 1])
    shots = np.zeros((2, 4, 4, 4), np.uint8)
    shots[0, ..., :3] = 255
    shots[0, 1:3, 1:3, 3] = 255
    shots[0, 0, 0, 3] = 51
    for background, fill in (("gray", 0.0), ("black", -1.0)):
        out = masks.composite_shot(shots, background)
        assert out.shape == (2, 4, 4, 3)
        assert (out[0, 1:3, 1:3] == 1).all() and (out[0, 3] == fill).all()
        np.testing.assert_allclose(out[0, 0, 0], 0.2 + 0.8 * fill, rtol=1e-5)
        assert not out[1].any()  # an empty slot is no black object
    with pytest.raises(ValueError, match="gray or black"):
        masks.composite_shot(shots, "white")


def test_condition():
    rng, m = np.random.default_rng(0), 8
    region, shots = (rng.integers(0, 256, shape, dtype=np.uint8) for shape in ((4, m, m, 3), (4, 2, m, m, 4)))
    full = masks.condition(region, shots, slots=2, background="gray")
    assert full.shape == (4, m, m, 9)
    np.testing.assert_allclose(full[..., :3], region / 127.5 - 1, atol=1e-6)
    alpha = shots[:, 1, ..., 3:] / 255.0
    np.testing.assert_allclose(full[..., 6:], alpha * (shots[:, 1, ..., :3] / 127.5 - 1), atol=1e-6)
    one = masks.condition(region, shots[:, :1], slots=2, background="black")
    empty = np.concatenate([shots[:, :1], np.zeros_like(shots[:, :1])], 1)
    np.testing.assert_array_equal(one, masks.condition(region, empty, slots=2, background="black"))
    with pytest.raises(ValueError, match="mask.slots >= 2"):
        masks.condition(region, shots, slots=1, background="gray")
