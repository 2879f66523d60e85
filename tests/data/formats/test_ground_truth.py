import json
from collections import Counter

from pycocotools.coco import COCO

from maskdiff_jax.data.formats import coco, ground_truth
from tests.data.small_json import odd_json


def test_the_ground_truth_is_the_files(tmp_path):
    path, raw = tmp_path / "odd.json", odd_json()
    path.write_text(json.dumps(raw))
    true, listed = COCO(str(path)), [a for a in raw["annotations"] if a["image_id"] != 77]
    found = coco.load(path, tmp_path, problems=Counter()).truth()["annotations"]
    for mine, theirs in zip(found, listed, strict=True):
        theirs = theirs | {"id": theirs["id"] or 1}  # COCOeval cannot match the id 0
        assert {k: mine[k] for k in theirs if k != "segmentation"} == {
            k: v for k, v in theirs.items() if k != "segmentation"
        }
        counts = true.annToRLE(theirs)["counts"]
        assert mine["segmentation"]["counts"] == (counts if isinstance(counts, str) else counts.decode())


def test_what_the_official_tool_cannot_read_is_fixed_or_left_out(tmp_path):
    raw = odd_json()
    good = raw["annotations"][0]
    del raw["annotations"][1:]
    changes = [
        {"id": 10, "bbox": [1, 2, 3, 4]}, {"id": None}, {"id": "x"}, {"segmentation": []}, {"segmentation": [[1, 2]]},
        {"segmentation": {"size": [100, 120], "counts": "0"}}, {"bbox": None}, {"area": "large"}, {"area": 10**400},
        {"iscrowd": None}, {"iscrowd": "x"}, {"bbox": None, "segmentation": None}, {"bbox": [1, 2, float("nan"), 3]},
        {"image_id": []}, {"segmentation": [[1e9, 0, 1e9, 1, 0, 1]]},
    ]  # fmt: skip
    raw["annotations"] += [good | {"id": 100 + k} | c for k, c in enumerate(changes)] + [5]
    path = tmp_path / "odd.json"
    path.write_text(json.dumps(raw))
    found = ground_truth.load(path)["annotations"]
    assert len(found) == 1 + len(changes) - 3  # iscrowd "x", neither box nor mask, an image that is a list
    assert len({a["id"] for a in found}) == len(found) and [a["id"] for a in found][:4] == [10, 1, 2, 3]
    assert sum("segmentation" not in a for a in found) == 4
    assert all(a["area"] == 400 and a["iscrowd"] == 0 for a in found)
    assert [a["bbox"] for a in found if "segmentation" in a] == [good["bbox"], [1, 2, 3, 4]] + [good["bbox"]] * 7
