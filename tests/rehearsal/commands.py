"""The commands of README's recipe, and the flags that make them small.

Everything a flag here changes is a width, a number of steps, images or objects: image sizes, mask size, slots, the
1,000 steps of the schedule and of the paper's sampler stay as the presets have them.
"""

from typing import NamedTuple

WIDTH, FPN, FC, UNET = 8, 16, 32, 8  # channels: 64, 256, 1024 and 128 in the presets

SMALL = {
    "data.counts": "", "data.workers": 0,
    "model.detector.width": WIDTH, "model.detector.fpn_channels": FPN, "model.detector.fc_channels": FC,
    "model.detector.min_score": 0.0,  # a net that has learned nothing must still find something
    "model.mask.unet.width": UNET,
    "train.detector.steps": 2, "train.detector.batch": 2, "train.mask.steps": 2, "train.mask.batch": 4,
    "train.novel.steps": 2, "train.novel.batch": 2,
    "eval.images": 4, "eval.batch": 2, "eval.mask_batch": 8, "eval.mask_top_n": 4, "eval.mask_min_score": 0.0,
    "eval.pictures": 1,
}  # fmt: skip
# two masks are sampled in all, in 1,000 steps with guidance: none in true boxes, no pictures of the reverse process
SMALL_PAPER = SMALL | {
    "eval.images": 2, "eval.mask_batch": 2, "eval.mask_top_n": 1, "eval.min_gt_area": 10**9, "eval.pictures": 0,
}  # fmt: skip
AP = ("bbox/AP", "segm/AP")
BASE, NOVEL = ("bbox/base/AP", "segm/base/AP"), ("bbox/novel/AP", "segm/novel/AP")


class Command(NamedTuple):
    line: str  # as README writes it, without "python launch/"
    leaves: str = ""  # a file or folder that it writes; of metrics.json `metrics` are looked at
    metrics: tuple[str, ...] = ()
    small: dict | None = SMALL  # None: the script takes no config
    short: bool = False  # also in the short form, tests/test_rehearsal.py


def recipe() -> list[Command]:
    """All commands, in the order in which a user gives them."""
    return [*_stage_1(), *_few_shot(), *_shot_files(), *_novel_and_voc(), *_use(), *_zoo(), *_paper()]


def _stage_1() -> list[Command]:
    base = "configs/base.py:coco,weights=msra"
    return [
        Command("prepare_data.py --config configs/base.py:coco --check"),
        Command(f"import_weights.py --config {base} --workdir=runs/msra R-50.pkl", "runs/msra/weights.json", short=True),
        Command(
            f"train.py --config {base} --config.init_from=runs/msra", "runs/base-coco/checkpoints/final", short=True
        ),
        Command(
            f"evaluate.py --config {base} --config.init_from=runs/msra", "runs/base-coco/metrics.json",
            (*AP, *BASE, "mask_iou/base"),
        ),
    ]  # fmt: skip


def _few_shot() -> list[Command]:
    """COCO-All."""
    commands = []
    for k in (1, 5, 10):
        config, run = f"configs/fewshot.py:coco,shots={k},weights=msra", f"runs/fewshot-coco-{k}shot-seed0"
        commands += [
            Command(f"train.py --config {config}", f"{run}/checkpoints/final", short=k == 1),
            Command(f"evaluate.py --config {config}", f"{run}/metrics.json", (*AP, *BASE, *NOVEL), short=k == 1),
        ]
    return commands


def _shot_files() -> list[Command]:
    """Other ways to K shots; seeds, so that the report has an interval."""
    files = "--config configs/fewshot.py:coco --config.fewshot.sampler=imtfa"
    config = "configs/fewshot.py:coco,shots={},seed={}"
    return [
        Command(f"shots.py {files} --output=datasets/coco/imtfa", "datasets/coco/imtfa/seed9"),
        # as TFA publishes them
        Command(f"shots.py {files} --output=datasets/coco/cocosplit --seeds=3", "datasets/coco/cocosplit/seed3"),
        Command(f"train.py --config {config.format(5, 3)} --config.fewshot.shots_from=datasets/coco/cocosplit"),
        Command(f"train.py --config {config.format(1, 4)} --config.fewshot.shots_from=datasets/coco/imtfa"),
        Command(f"train.py --config {config.format(10, 1)} --config.fewshot.sampler=tfa"),
        Command(f"train.py --config {config.format(1, 1)} --config.fewshot.sampler=imtfa"),
        Command(f"evaluate.py --config {config.format(1, 1)} --config.fewshot.sampler=imtfa"),
    ]


def _novel_and_voc() -> list[Command]:
    """COCO-Novel and COCO2VOC."""
    commands = []
    for k in (10, 1):
        run = f"runs/novel-coco-{k}shot-seed0"
        config = f"--config configs/fewshot.py:coco,shots={k} --config.fewshot.classes=novel --workdir={run}"
        commands += [
            Command(f"train.py {config}", f"{run}/checkpoints/final"),
            Command(f"evaluate.py {config}", f"{run}/metrics.json", NOVEL),
        ]
    voc, given = "--config.eval.source=voc", ("like_fgn/bbox/novel/AP", "like_fgn/segm/novel/AP")
    every, run1 = "--config configs/fewshot.py:coco,shots=1", "runs/fewshot-coco-1shot-seed0"
    return [
        *commands,
        Command(f"evaluate.py {config} {voc} --config.eval.like_fgn=true", f"{run}/voc/metrics.json", (*NOVEL, *given)),
        Command(f"evaluate.py {every} {voc}", f"{run1}/voc/metrics.json", NOVEL),
        Command(
            f"evaluate.py {every} {voc} --config.eval.like_fgn=true", f"{run1}/voc/metrics.json", (*NOVEL, *given),
            short=True,
        ),
    ]  # fmt: skip


def _use() -> list[Command]:
    config = "configs/fewshot.py:coco,shots=1"
    runs = "runs/base-coco runs/fewshot-coco-1shot-seed0 runs/fewshot-coco-1shot-seed1"
    return [
        Command(f"report.py {runs} --output=runs/report", "runs/report/index.html", small=None),
        Command(f"export.py --config {config} --output=exports/coco", "exports/coco/export.json", short=True),
        Command(
            "sample.py --model=exports/coco --min_score=0.0 photo.jpg gray.jpg", "samples/results.json", small=None,
            short=True,
        ),
    ]  # fmt: skip


def _zoo() -> list[Command]:
    zoo = "--config configs/base.py:coco,weights=zoo --workdir=runs/zoo"
    return [
        Command(f"import_weights.py {zoo} model_final_b275ba.pkl", "runs/zoo/weights.json"),
        Command(f"evaluate.py {zoo}", "runs/zoo/metrics.json", ("bbox/AP",)),
    ]


def _paper() -> list[Command]:
    """The paper taken literally; from here on the data are prepared."""
    commands = [Command("prepare_data.py --config configs/base.py:coco")]
    for k in (1, 5, 10):
        base, run = f"configs/base.py:coco,paper=true,shots={k}", f"runs/fewshot-coco-paper-{k}shot-seed0"
        few = f"configs/fewshot.py:coco,paper=true,shots={k}"
        commands += [
            Command(f"train.py --config {base} --config.init_from=runs/msra", short=k == 1),
            Command(f"train.py --config {few}", f"{run}/checkpoints/final", short=k == 1),
            Command(f"evaluate.py --config {few}", f"{run}/metrics.json", (*AP, *BASE, *NOVEL), short=k == 1),
        ]
    return [c._replace(small=SMALL_PAPER) for c in commands]
