"""The presets' geometry fits the data that they are for."""

import numpy as np
import pytest

from configs import base
from maskdiff_jax.data import pipeline
from maskdiff_jax.ops import boxes


@pytest.mark.parametrize("preset", ["shapes", "shapes_hard"])
def test_an_anchor_covers_nearly_every_box(preset, tmp_path):
    """The best anchor has IoU >= 0.5 with 95 % of the boxes."""
    c = base.get_config(preset).unlock()
    c.data.update(root=str(tmp_path), shapes_train=4, shapes_support=4, shapes_test=60)
    t = c.model.detector
    dataset = pipeline.open_split(c.data, "test")
    found = np.array([a.box for i in dataset.infos for a in i.annotations], np.float32)
    height, width = c.data.buckets[0]
    levels = range(t.fpn_min_level, t.fpn_min_level + len(t.anchor_sizes))
    anchors = np.concatenate([
        np.asarray(boxes.anchors((-(-height // 2**k), -(-width // 2**k)), stride=2**k, size=s, ratios=t.anchor_ratios))
        for k, s in zip(levels, t.anchor_sizes, strict=True)
    ])  # fmt: skip
    best = np.asarray(boxes.iou(found, anchors)).max(1)
    assert len(found) > 100 and (best >= 0.5).mean() >= 0.95
