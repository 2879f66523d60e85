"""MaskDiff in JAX: few-shot instance segmentation with a diffusion model of masks.

    import maskdiff_jax

    predictor = maskdiff_jax.load("exports/mine")
    found = predictor("photo.jpg")

See `maskdiff_jax.inference.predictor`.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from maskdiff_jax.inference.predictor import load as load

__all__ = ["load"]


def __getattr__(name: str) -> Any:
    """`load`, imported at its first use, so that other modules can be imported without jax."""
    if name != "load":
        raise AttributeError(f"module 'maskdiff_jax' has no attribute '{name}'")
    from maskdiff_jax.inference.predictor import load

    return load
