"""What is said of a model before and after it was adapted; the whole of it runs in tests/launch/test_adapt.py."""

import numpy as np

from maskdiff_jax.data.dataset import Annotation, Category
from maskdiff_jax.data.formats import segmentation
from maskdiff_jax.evaluation import adaptation


def test_hits_and_false_detections():
    class Found:
        """Two detections of class "mug": the object itself, and the other half of the photo."""

        labels = ("mug", "mug", "cup")
        masks = (np.eye(8, dtype=bool), ~np.eye(8, dtype=bool), np.eye(8, dtype=bool))

        def __init__(self, which=(0, 1, 2)):
            self.labels, self.masks = [Found.labels[i] for i in which], [Found.masks[i] for i in which]

        def __getitem__(self, i):
            return Found((i,))

        def mask(self, i):
            return self.masks[i]

    rle = segmentation.encode_mask(np.eye(8, dtype=bool))
    mug = Annotation(1, 1, 1, (0, 0, 8, 8), rle, 8.0, False)
    categories = (Category(1, "cup", False), Category(2, "mug", True))
    assert adaptation.score(mug, "mug", {"adapted": Found(), "instant addition": None}) == {"adapted": 1.0}
    assert adaptation.false_detections([mug], categories, [1], Found()) == 1
    assert adaptation.false_detections([], categories, [1], Found()) == 2
    assert adaptation.summarize([{"a": 1.0}, {"a": 0.4}]) == {"a": {"objects": 2, "found": 1, "iou": 0.7}}
    assert adaptation.summarize([]) == {}
