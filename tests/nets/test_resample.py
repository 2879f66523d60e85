"""Changes of a map's side against plain numpy."""

import jax
import jax.numpy as jnp
import numpy as np

from maskdiff_jax.nets import resample

X = np.random.default_rng(0).normal(size=(2, 4, 6, 3)).astype(np.float32)


def test_space_to_depth_round_trip():
    x = np.arange(2 * 4 * 6 * 3).reshape(2, 4, 6, 3)
    deep = resample.space_to_depth(x, 2)
    assert deep.shape == (2, 2, 3, 12)
    np.testing.assert_array_equal(deep[0, 0, 0].reshape(2, 2, 3), x[0, :2, :2])
    np.testing.assert_array_equal(resample.depth_to_space(deep, 2), x)


def test_upsample_and_mean_pool():
    large = resample.upsample(X)
    np.testing.assert_array_equal(large, X.repeat(2, 1).repeat(2, 2))
    np.testing.assert_allclose(resample.mean_pool(large), X, rtol=1e-6)
    want = (X[:, ::2, ::2] + X[:, 1::2, ::2] + X[:, ::2, 1::2] + X[:, 1::2, 1::2]) / 4
    np.testing.assert_allclose(resample.mean_pool(X), want, atol=1e-6)


def test_up_conv_is_the_convolution_of_the_upsampled_input():
    rng = np.random.default_rng(1)
    kernel, bias = rng.normal(size=(3, 3, 3, 5)).astype(np.float32), rng.normal(size=5).astype(np.float32)
    net = resample.UpConv(5)
    got = net.apply({"params": {"kernel": kernel, "bias": bias}}, X)
    padded = np.pad(X.repeat(2, 1).repeat(2, 2), ((0, 0), (1, 1), (1, 1), (0, 0)))
    want = bias + sum(padded[:, i : i + 8, j : j + 12] @ kernel[i, j] for i in range(3) for j in range(3))
    np.testing.assert_allclose(got, want, atol=1e-5)
    folded = net.apply({"params": {"folded": resample.fold_kernel(jnp.asarray(kernel)), "bias": bias}}, X)
    np.testing.assert_array_equal(folded, got)


def test_biases_start_as_in_pytorch():
    bias = resample.bias_of(25)(jax.random.key(0), (10_000,))
    assert 0.19 < np.abs(bias).max() <= 0.2 and abs(bias.mean()) < 0.01
