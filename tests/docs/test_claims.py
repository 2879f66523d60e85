"""What docs/results.md says about the paper's claims is what benchmarks/results/shapes_grid.json shows."""

from benchmarks.tables import results
from tests.docs.documents import section

GRID = results("shapes_grid")["shots"]
GROUPS = ("base", "novel")
TEXT = " ".join(section("docs/results.md", "Shapes: every method").split())
OTHERS = ("plain_unet", "mtfa", "mrcn_ft_full", "imtfa", "ifs_rcnn")


def found(shots, method, metric, statistic="mean"):
    return GRID[shots][method][metric][statistic]


def test_all_rows_have_five_seeds():
    for methods in GRID.values():
        assert {"maskdiff", "maskdiff+paper", *OTHERS} <= set(methods)
        assert all(metrics["shot_seeds"] == 5 for metrics in methods.values())


def test_maskdiff_has_the_best_masks():
    weak = []
    for shots in GRID:
        for method in OTHERS:
            for group in GROUPS:
                metric = f"segm/{group}/AP"
                assert found(shots, method, metric, "difference") < 0
                if found(shots, method, metric, "p_paired_t_holm") >= 0.05:
                    weak.append((shots, method, group))
        assert found(shots, "maskdiff", "mask_iou/novel") > found(shots, "mtfa", "mask_iou/novel") + 5
        assert found(shots, "maskdiff", "bbox/novel/AP") > found(shots, "mtfa", "bbox/novel/AP") + 5
    assert weak == [("5", "plain_unet", "novel"), ("5", "mrcn_ft_full", "novel")]
    assert "except two on novel classes at K = 5, to the plain UNet and to MRCN+ft-full" in TEXT


def test_where_diffusion_beats_the_plain_unet():
    """By one to two points, at high IoU."""
    for shots in GRID:
        for group in GROUPS:
            assert -2.5 < found(shots, "plain_unet", f"segm/{group}/AP", "difference") < -1
            low = [found(shots, method, f"segm/{group}/AP50") for method in ("maskdiff", "plain_unet")]
            assert abs(low[0] - low[1]) < 1.5


def test_what_the_ablations_show():
    assert "A weight of 5 costs base classes four points" in TEXT
    assert -5 < found("5", "guided", "segm/base/AP", "difference") < -3.5
    for method in ("guided", "no_shots", "no_class"):
        assert abs(found("5", method, "segm/novel/AP", "difference")) < 0.5
        assert found("5", method, "segm/novel/AP", "p_paired_t_holm") > 0.05
    spread = {m: found("5", m, "segm/base/AP", "std_over_noise_seeds") for m in ("maskdiff", "guided", "no_class")}
    assert abs(spread["guided"] - spread["maskdiff"]) < 0.1 and spread["no_class"] < 0.6 * spread["maskdiff"]
    for method in ("no_shots", "no_class"):
        assert abs(found("5", method, "segm/base/AP", "difference")) < 1
    assert "by 13 points and more" in TEXT
    assert max(found("5", "one_stage", f"segm/{group}/AP", "difference") for group in GROUPS) <= -13


def test_the_head_as_in_the_paper():
    """Behind the defaults; ahead of the baselines on novel classes, and on base classes up to five shots."""
    baselines = [m for m in OTHERS if m != "plain_unet"]
    behind = [-found(k, "maskdiff+paper", f"segm/{group}/AP", "difference") for k in GRID for group in GROUPS]
    assert "is 3 to 15 points behind the defaults" in TEXT
    assert round(min(behind)) == 3 and round(max(behind)) == 15

    def lead(shots, group):
        metric = f"segm/{group}/AP"
        return found(shots, "maskdiff+paper", metric) - max(found(shots, m, metric) for m in baselines)

    assert all(lead(shots, "novel") > 0 for shots in GRID)
    assert 0 < lead("1", "base") < 1 and 0 < lead("5", "base") < 1
    assert "5 points below MTFA at K = 10" in TEXT and round(lead("10", "base")) == -5
    assert max(found("10", m, "segm/base/AP") for m in baselines) == found("10", "mtfa", "segm/base/AP")


def test_classes_that_are_added_without_training():
    def mean(shots, method, metric):
        values = [
            r[metric] for r in results("instant_classes")["rows"] if (r.get("shots"), r["method"]) == (shots, method)
        ]
        assert len(values) == (5 if shots else 1)
        return sum(values) / len(values)

    metric, before = "segm/novel/AP", mean(None, "base model alone", "segm/base/AP")
    tuned = {k: mean(k, "fine-tuned", metric) for k in (1, 5, 10)}
    added = {k: mean(k, "added without training", metric) for k in (1, 5, 10)}
    assert -1 < added[1] - tuned[1] < 3 and all(tuned[k] - added[k] > 4 for k in (5, 10))
    assert all(abs(mean(k, "added without training", "segm/base/AP") - before) < 1 for k in (1, 5, 10))
    assert mean(1, "fine-tuned", "segm/base/AP") < before - 5
    assert all(mean(k, "plain imprinting", "segm/base/AP") < before / 2 for k in (1, 5, 10))
    text = " ".join(section("docs/results.md", "A class without training").split())
    assert f"({added[1]:.1f} and {tuned[1]:.1f} mask AP)" in text
    assert f"fine-tuning costs them {before - mean(1, 'fine-tuned', 'segm/base/AP'):.0f} points" in text
    behind = {k: f"{tuned[k] - added[k]:.0f} points" for k in (5, 10)}
    assert f"With five shots fine-tuning is {behind[5]} better on novel classes, with ten {behind[10]}." in text
    lost = [before - mean(k, "plain imprinting", "segm/base/AP") for k in (1, 5, 10)]
    assert f"Plain imprinting costs base classes {int(min(lost))} points or more" in text
