"""The picture that benchmarks/timing/quickstart.py writes."""

import numpy as np
from PIL import Image

from benchmarks.timing import quickstart


def test_scenes_in_rows_from_left_to_right(tmp_path):
    colors, scenes = [(250, 0, 0), (0, 250, 0), (0, 0, 250), (250, 250, 0)], []
    for i, color in enumerate(colors):
        scenes.append(tmp_path / f"scenes_{i}.png")
        Image.new("RGB", (80, 40), color).save(scenes[-1])
    quickstart.picture(scenes, tmp_path / "all.png")
    page = np.asarray(Image.open(tmp_path / "all.png").convert("RGB"))
    gap = quickstart.GAP
    assert page.shape == ((2 * 40 + gap) // 2, (3 * 80 + 2 * gap) // 2, 3)
    rows, columns = (20, 20 + 40 + gap), [40 + k * (80 + gap) for k in range(3)]  # centers, before it is halved
    centers = [(rows[0], x) for x in columns] + [(rows[1], columns[0])]
    assert [tuple(page[y // 2, x // 2]) for y, x in centers] == colors
    assert tuple(page[rows[1] // 2, columns[1] // 2]) == (255, 255, 255)
