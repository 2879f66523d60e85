"""Feature pyramid on the backbone's stages [Lin et al. 2017; detectron2 modeling/backbone/fpn.py].

N images, H x W cells, C channels of the backbone, F channels of the pyramid. Level l has stride 2**l px.
"""

import jax.numpy as jnp
from flax import linen as nn

from maskdiff_jax.nets.conv import Conv
from maskdiff_jax.types import Array

XAVIER = nn.initializers.variance_scaling(1.0, "fan_in", "uniform")  # PyTorch's kaiming_uniform with a = 1


class FPN(nn.Module):
    """Lateral 1x1 and output 3x3 convolutions, summed from the coarsest level down.

    Attributes:
      features: channels F of every level.
      lowest: the finest level; 2 has stride 4.
      dtype: of the computation.
    """

    features: int
    lowest: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, stages: dict[int, Array], masks: dict[int, Array] | None = None) -> dict[int, Array]:
        """Builds the levels.

        Args:
          stages: level -> [N, H, W, C] from the backbone, up to level 5.
          masks: level -> [N, H, W, 1] in `dtype`, 1 where the image is, or None.

        Returns:
          `lowest`..5 -> [N, H, W, F], zero outside the masks; and 6: every second cell of level 5.
        """
        out: dict[int, Array] = {}
        above = None
        for level in sorted((l for l in stages if l >= self.lowest), reverse=True):
            x = Conv(self.features, 1, XAVIER, self.dtype, name=f"lateral{level}")(stages[level])
            if above is not None:
                x += upsample(above)
            if masks is not None:
                x *= masks[level]
            above = x
            out[level] = Conv(self.features, 3, XAVIER, self.dtype, name=f"output{level}")(x)
            if masks is not None:
                out[level] *= masks[level]
        out[6] = out[5][:, ::2, ::2]
        return out


def upsample(x: Array) -> Array:
    """[N, H, W, F] -> [N, 2 H, 2 W, F], nearest."""
    n, h, w, c = x.shape
    return jnp.broadcast_to(x[:, :, None, :, None], (n, h, 2, w, 2, c)).reshape(n, 2 * h, 2 * w, c)
