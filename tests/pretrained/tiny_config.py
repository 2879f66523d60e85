"""Configs of presets with nets that are as small as they get."""

from configs import base

TINY = {
    "model.detector.blocks": (1, 1, 1, 1), "model.detector.width": 8, "model.detector.fpn_channels": 16,
    "model.detector.fc_channels": 32, "model.mask.size": 16, "model.mask.unet.width": 16,
    "model.mask.unet.multipliers": (1,), "model.mask.unet.blocks": 1, "model.mask.unet.attention": (),
}  # fmt: skip


def config(arg, get=base.get_config, **changes):
    """The locked config of ``get(arg)``, with ``TINY`` and other fields ("a.b") changed."""
    c = get(arg).unlock()
    c.update_from_flattened_dict(TINY | changes)
    return c.lock()
