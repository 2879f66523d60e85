"""A detector with another net is refused with the part that differs."""

import pickle

import numpy as np
import pytest

from maskdiff_jax.pretrained import architecture, convert
from tests.pretrained import third_party_names as names
from tests.pretrained.tiny_config import config


def test_the_same_net_has_no_differences():
    for linear in (True, False):
        state = names.detector(classes=7, linear=linear)
        assert architecture.differences(state, config("custom,weights=detector").model.detector) == []
        assert architecture.groups(state) == 1 and architecture.other_kind(state) == ""


@pytest.mark.parametrize(
    "state, words",
    [
        (names.detector(blocks=(1, 1, 2, 1)), r'backbone has blocks=\(1, 1, 2, 1\),.* give .*blocks="\(1, 1, 2, 1\)"'),
        (names.detector(width=16, fpn=32), "stem has width=16.*; its FPN has fpn_channels=32, the config 16: give"),
        (names.detector(fc=16), "its box head has fc_channels=16, the config 32: give .*fc_channels=16, here and in"),
        (names.detector() | {"roi_heads.box_head.0.fc1.weight": np.zeros(1)}, "Cascade R-CNN.*supported are Faster"),
        (names.detector() | {"backbone.bottom_up.res2.0.conv2.weight": np.zeros((8, 1, 3, 3))}, "8 groups, a ResNeXt"),
        ({"backbone.stem.conv1.weight": np.zeros(1), "roi_heads.res5.0.conv1.weight": np.zeros(1)}, "without FPN"),
        ({"backbone.bottom_up.stem.conv1.weight": np.zeros(1), "head.cls_score.bias": np.zeros(1)}, "one-stage"),
        ({"backbone.body.conv1.weight": np.zeros(1)}, "it is a detector of torchvision, .* supported are Faster"),
        (names.backbone(names.msra_name), "only a backbone; weights=detector needs a whole detector: use .*=msra"),
    ],
)  # fmt: skip
def test_a_detector_of_another_architecture(state, words, tmp_path):
    path = tmp_path / "file.pkl"
    path.write_bytes(pickle.dumps(state, 2))
    with pytest.raises(ValueError, match=words) as error:
        convert.run(config("custom,weights=detector"), tmp_path / "x", [path])
    assert "\n" not in str(error.value) and not (tmp_path / "x").exists()
