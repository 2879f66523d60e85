"""Group normalization against plain numpy, its gradient against autodiff in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskdiff_jax.nets.norm import GroupNorm, norm_act, silu

X = np.random.default_rng(0).normal(3.0, 2.0, (2, 4, 6, 8)).astype(np.float32)


def reference(x, groups, gamma, beta):
    n, h, w, c = x.shape
    g = x.astype(float).reshape(n, h, w, groups, c // groups)
    g = (g - g.mean((1, 2, 4), keepdims=True)) / np.sqrt(g.var((1, 2, 4), keepdims=True) + 1e-5)
    return g.reshape(x.shape) * gamma + beta


def test_equals_the_reference_with_modulation():
    rng = np.random.default_rng(1)
    params = {"scale": rng.normal(size=8), "bias": rng.normal(size=8)}
    scale, shift = rng.normal(size=(2, 2, 8))
    want = reference(X, 4, params["scale"], params["bias"])
    apply = lambda act, *a: GroupNorm(4, act).apply({"params": params}, X, *a)
    np.testing.assert_allclose(apply(None), want, atol=1e-4)
    wide = want * (1 + scale[:, None, None]) + shift[:, None, None]
    np.testing.assert_allclose(apply(None, scale, shift), wide, atol=2e-4)
    np.testing.assert_allclose(apply(jax.nn.relu, scale, shift), np.maximum(wide, 0), atol=2e-4)


def autodiff_norm(x, a, b, mask, groups, eps, act):
    """What norm_act computes, in float64 and for jax to differentiate."""
    n, h, w, c = x.shape
    g = x.reshape(n, h, w, groups, c // groups)
    seen = jnp.ones((n, h, w, 1, 1)) if mask is None else mask[..., None]
    count = seen.sum((1, 2, 3, 4), keepdims=True) * (c // groups)
    mean = (g * seen).sum((1, 2, 4), keepdims=True) / count
    variance = ((g - mean) ** 2 * seen).sum((1, 2, 4), keepdims=True) / count
    y = ((g - mean) / jnp.sqrt(variance + eps)).reshape(x.shape) * a[:, None, None] + b[:, None, None]
    return y if act is None else act(y)


@pytest.mark.parametrize("act", [None, silu])
@pytest.mark.parametrize("masked", [False, True])
def test_written_gradient_is_the_derivative(act, masked):
    rng = np.random.default_rng(2)
    a, b = rng.normal(size=(2, 2, 8))
    weight = rng.normal(size=X.shape)
    mask = (rng.random((2, 4, 6, 1)) < 0.7).astype(float) if masked else None
    with jax.enable_x64(True):
        loss = lambda f: lambda *p: (f(*p, mask, 4, 1e-5, act) * weight).sum()
        want = jax.grad(loss(autodiff_norm), (0, 1, 2))(X.astype(float), a, b)
    got = jax.grad(loss(norm_act), (0, 1, 2))(*(v.astype(np.float32) for v in (X, a, b)))
    for g, w in zip(got, want, strict=True):
        np.testing.assert_allclose(g, w, atol=3e-5 * np.abs(w).max())


def test_mask_limits_the_statistics():
    mask = np.zeros((2, 4, 6, 1), np.float32)
    mask[:, :3, :4] = 1
    out = GroupNorm(2).apply({"params": {"scale": jnp.ones(8), "bias": jnp.zeros(8)}}, X, mask=mask)
    np.testing.assert_allclose(np.asarray(out)[:, :3, :4], reference(X[:, :3, :4], 2, 1, 0), atol=1e-4)


def test_dtype_and_degenerate_input():
    net = GroupNorm(2)
    params = net.init(jax.random.key(0), X)
    assert net.apply(params, X.astype(jnp.bfloat16)).dtype == jnp.bfloat16
    loss = lambda x: net.apply(params, x).sum()
    assert np.isfinite(jax.grad(loss)(jnp.full_like(X, 7.0))).all()
    with pytest.raises(ValueError, match="8 channels into 3 groups"):
        GroupNorm(3).init(jax.random.key(0), X)


def test_silu():
    x = np.linspace(-100, 100, 20001)
    np.testing.assert_allclose(silu(x.astype(np.float32)), x / (1 + np.exp(-x)), rtol=1e-6, atol=4e-6)


@pytest.mark.parametrize("act", [None, silu])
def test_gradient_from_16_bits_is_that_of_float32(act):
    """From the same bfloat16 inputs: only what is returned is rounded, nothing in between."""
    rng = np.random.default_rng(3)
    x = jnp.asarray(rng.normal(3.0, 2.0, (2, 16, 16, 64)), jnp.bfloat16)
    dy = jnp.asarray(rng.normal(size=x.shape), jnp.bfloat16)
    a, b = (jnp.asarray(v, jnp.float32) for v in rng.normal(size=(2, 2, 64)))

    def grads(x, dy):
        back = jax.vjp(lambda *p: norm_act(*p, None, 16, 1e-5, act), x, a, b)[1]
        return back(dy)

    got = jax.jit(grads)(x, dy)
    want = jax.jit(grads)(x.astype(jnp.float32), dy.astype(jnp.float32))
    assert got[0].dtype == jnp.bfloat16
    for g, w in zip(got[1:], want[1:], strict=True):
        np.testing.assert_allclose(g, w, atol=1e-5 * np.abs(w).max())
    rounded = want[0].astype(jnp.bfloat16).astype(jnp.float32)
    # the same but where float32 rounding decides between two neighbors in bfloat16
    assert (got[0].astype(jnp.float32) != rounded).mean() < 1e-3
    np.testing.assert_allclose(got[0].astype(jnp.float32), want[0], rtol=2**-8, atol=1e-5)
