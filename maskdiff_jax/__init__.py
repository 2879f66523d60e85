"""MaskDiff in JAX: few-shot instance segmentation with a diffusion model of masks."""
