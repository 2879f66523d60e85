import numpy as np

from maskdiff_jax.data.crops import crops_from_dataset


def test_crops_hold_their_object(shapes_data, test_split):
    crops = crops_from_dataset(test_split, shapes_data)
    annotations = [(i, a) for i, info in enumerate(test_split.infos) for a in info.annotations]
    for k, (i, a) in enumerate(annotations):
        rgb, mask = crops.read(k)
        info = crops.infos[k]
        assert (info.annotation_id, info.image_id, info.class_id) == (a.id, a.image_id, a.class_id)
        assert mask.sum() == a.area and set(np.unique(mask)) <= {0, 1}
        x0, y0, x1, y1 = (int(v) for v in info.box)
        assert mask[y0:y1, x0:x1].sum() == a.area
        left, top = int(a.box[0]) - x0, int(a.box[1]) - y0
        np.testing.assert_array_equal(rgb, test_split.read(i)[top : top + rgb.shape[0], left : left + rgb.shape[1]])
