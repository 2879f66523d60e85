"""Mask R-CNN's mask head: shapes and the transposed convolution. Numbers: tests/parity/test_parity_mask_rcnn.py."""

import jax
import jax.numpy as jnp
import numpy as np

from maskdiff_jax.nets.maskcnn import ConvMaskHead, Double

KEY = jax.random.key(0)


def test_shapes_and_names():
    net = ConvMaskHead(5, convs=2, channels=8, dtype=jnp.bfloat16)
    logits, variables = jax.eval_shape(net.init_with_output, KEY, jnp.zeros((3, 7, 7, 4)))
    assert logits.shape == (3, 14, 14, 5) and logits.dtype == jnp.float32
    shapes = {name: layer["kernel"].shape for name, layer in variables["params"].items()}
    assert shapes == {
        "mask_fcn1": (3, 3, 4, 8), "mask_fcn2": (3, 3, 8, 8), "deconv": (2, 2, 8, 8), "predictor": (1, 1, 8, 5),
    }  # fmt: skip


def test_double_is_the_transposed_convolution():
    rng = np.random.default_rng(0)
    x, kernel, bias = rng.normal(size=(2, 3, 4, 5)), rng.normal(size=(2, 2, 5, 6)), rng.normal(size=6)
    got = Double(6, jnp.float32).apply({"params": {"kernel": kernel, "bias": bias}}, x)
    want = np.zeros((2, 6, 8, 6))
    for i in range(6):
        for j in range(8):
            want[:, i, j] = x[:, i // 2, j // 2] @ kernel[i % 2, j % 2] + bias
    np.testing.assert_allclose(got, want, atol=1e-5)
