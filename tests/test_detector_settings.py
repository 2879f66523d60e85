"""Which settings of the detector fit together; the others are refused in test_detector.py."""

import pytest

from configs import base
from maskdiff_jax import detector_settings
from tests.test_detector import FIELDS


def settings(**changes):
    return detector_settings.Settings(**FIELDS | changes)


def test_a_second_pass_needs_variances():
    detector_settings.check(settings(refine=True, box_uncertainty=True))
    with pytest.raises(ValueError, match="detector.refine needs detector.box_uncertainty"):
        detector_settings.check(settings(refine=True))


def test_settings_are_the_fields_of_the_config():
    fields = {"num_classes", "dtype", *base.get_config().model.detector}
    assert fields == set(detector_settings.Settings._fields)
