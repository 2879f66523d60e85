"""benchmarks/studies/instant_classes.py: its table, from rows as it writes them."""

from benchmarks.studies import instant_classes


def test_means_and_spreads_over_seeds():
    values = {"segm/base/AP": 80.0, "bbox/base/AP": 70.0}
    rows = [{"method": "base model alone"} | values]
    for seed, ap in enumerate((30.0, 32.0, 34.0)):
        both = values | {"segm/novel/AP": ap, "bbox/novel/AP": 10.0, "shots": 5, "seed": seed}
        rows += [both | {"method": "fine-tuned"}, both | {"method": "added without training", "rule": (0.95, 0.1)}]
    assert instant_classes.table(rows).splitlines()[2:] == [
        "| - | base model alone | - | 80.0 | - | 70.0 |",
        "| 5 | fine-tuned | 32.0 ± 2.0 | 80.0 ± 0.0 | 10.0 ± 0.0 | 70.0 ± 0.0 |",
        "| 5 | added without training (0.95, 0.1) | 32.0 ± 2.0 | 80.0 ± 0.0 | 10.0 ± 0.0 | 70.0 ± 0.0 |",
    ]
