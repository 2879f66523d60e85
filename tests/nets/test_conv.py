"""Convolutions of the detector, against plain loops."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskdiff_jax.nets import conv


@pytest.mark.parametrize(("k", "stride"), [(1, 1), (1, 2), (3, 1), (3, 2), (7, 2)])
def test_conv_is_the_symmetric_convolution(k, stride):
    rng = np.random.default_rng(k)
    x, kernel = rng.normal(size=(2, 8, 10, 3)).astype("f4"), rng.normal(size=(k, k, 3, 4)).astype("f4")
    padded = np.pad(x, ((0, 0), (k // 2,) * 2, (k // 2,) * 2, (0, 0)))
    want = np.zeros((2, 8 // stride, 10 // stride, 4))
    for i in range(want.shape[1]):
        for j in range(want.shape[2]):
            patch = padded[:, i * stride : i * stride + k, j * stride : j * stride + k]
            want[:, i, j] = np.einsum("nhwc,hwcf->nf", patch, kernel)
    np.testing.assert_allclose(conv.conv(x, kernel, stride=stride), want, atol=2e-5)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_gradient_of_the_float32_product(dtype):
    rng = np.random.default_rng(0)
    x, kernel = (jnp.asarray(rng.normal(size=s), dtype) for s in ((2, 3, 64), (64, 5)))
    weight = rng.normal(size=(2, 3, 5)).astype("f4")
    got = jax.grad(lambda *a: (conv.matmul_f32(*a) * weight).sum(), (0, 1))(x, kernel)
    want = jax.grad(lambda *a: (jnp.matmul(*a) * weight).sum(), (0, 1))(*(v.astype(jnp.float32) for v in (x, kernel)))
    for g, w, like in zip(got, want, (x, kernel), strict=True):
        assert g.dtype == like.dtype
        limit = 1e-6 if dtype == jnp.float32 else 0.01
        np.testing.assert_allclose(g.astype(jnp.float32), w, atol=limit * np.abs(w).max())
