"""The commands of docs/paper_recipe.md, and the flags that make them small.

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
    "train.novel.steps": 2, "train.novel.batch": 2, "train.devices": 1,
    "eval.images": 4, "eval.batch": 2, "eval.mask_batch": 8, "eval.mask_top_n": 4, "eval.mask_min_score": 0.0,
    "eval.figures": 1,
}  # fmt: skip
# two masks are sampled in all, in 1,000 guided steps: none in ground-truth boxes, no figures of the reverse process
SMALL_PAPER = SMALL | {
    "eval.images": 2, "eval.mask_batch": 2, "eval.mask_top_n": 1, "eval.min_gt_area": 10**9, "eval.figures": 0,
}  # fmt: skip
SHORTER = {
    "train.detector.steps": 1, "train.mask.steps": 1, "train.novel.steps": 1,
    "eval.images": 1, "eval.batch": 1, "eval.mask_batch": 1, "eval.mask_top_n": 1,
}  # fmt: skip
AP = ("bbox/AP", "segm/AP")
BASE, NOVEL = ("bbox/base/AP", "segm/base/AP"), ("bbox/novel/AP", "segm/novel/AP")


class Command(NamedTuple):
    line: str  # as docs/paper_recipe.md writes it, without "python launch/"
    leaves: str = ""  # a file or folder that it writes
    says: str = ""  # what it prints, among other things
    metrics: tuple[str, ...] = ()  # what must be finite in `leaves`, a metrics.json
    small: dict | None = SMALL  # None: the script takes no config
    boxes_only: bool = False  # an evaluation that samples no mask
    short: bool = False  # also in the short form


def recipe() -> list[Command]:
    """All commands, in the order in which a user gives them."""
    return [*_stage_1(), *_few_shot(), *_shot_files(), *_novel_and_voc(), *_grid(), *_use(), *_zoo(), *_paper()]


def short() -> list[Command]:
    """One command of each kind, in both readings, with a step per phase and a photo per evaluation."""
    return [c._replace(small=c.small and c.small | SHORTER) for c in recipe() if c.short]


def _stage_1() -> list[Command]:
    base, start, run = "configs/base.py:coco,weights=msra", "runs/msra", "runs/base-coco"
    return [
        Command(
            "prepare_data.py --config configs/base.py:coco --check --config.eval.source=voc", says="voc test: 8 images"
        ),
        Command(f"import_weights.py --config {base} --workdir={start} R-50.pkl", f"{start}/weights.json", short=True),
        Command(f"train.py --config {base} --config.init_from={start}", f"{run}/checkpoints/final", short=True),
        Command(f"evaluate.py {run}", f"{run}/metrics.json", metrics=(*AP, *BASE)),
    ]


def _few_shot() -> list[Command]:
    """COCO-All."""
    commands = []
    for k in (1, 5, 10):
        config, run = f"configs/fewshot.py:coco,shots={k},weights=msra", f"runs/fewshot-coco-{k}shot-seed0"
        commands += [
            Command(f"train.py --config {config}", f"{run}/checkpoints/final", short=k == 1),
            Command(f"evaluate.py {run}", f"{run}/metrics.json", metrics=(*AP, *BASE, *NOVEL)),
        ]
    return commands


def _shot_files() -> list[Command]:
    """Other ways to K shots: files as TFA publishes them, its sampler, iMTFA's; another seed for the report."""
    sampler, files = "--config.fewshot.sampler=imtfa", "datasets/coco/imtfa"
    from_files = "--config.fewshot.shots_from=datasets/coco/cocosplit"
    second, run = f"--config configs/fewshot.py:coco,shots=1,seed=1 {sampler}", "runs/fewshot-coco-1shot-seed1"
    return [
        Command(f"shots.py --config configs/fewshot.py:coco {sampler} --output={files}", f"{files}/seed9"),
        Command(f"shots.py --config configs/fewshot.py:coco {sampler} --output=datasets/coco/cocosplit --seeds=3"),
        Command(f"train.py --config configs/fewshot.py:coco,shots=5,seed=3 {from_files}"),
        Command("train.py --config configs/fewshot.py:coco,shots=10,seed=1 --config.fewshot.sampler=tfa"),
        Command(f"train.py {second}"),
        Command(f"evaluate.py {run}", f"{run}/metrics.json", metrics=(*AP, *NOVEL)),
    ]


def _novel_and_voc() -> list[Command]:
    """COCO-Novel and COCO2VOC, the latter also with the classes of each photo given."""
    ten, one = "runs/novel-coco-10shot-seed0", "runs/novel-coco-1shot-seed0"
    novel = "--config configs/fewshot.py:coco,shots={} --config.fewshot.classes=novel --workdir={}"
    run = "runs/fewshot-coco-1shot-seed0"
    voc, given = "--config.eval.source=voc", "--config.eval.gt_classes_only=true"
    both = (*NOVEL, "gt_classes_only/bbox/novel/AP", "gt_classes_only/segm/novel/AP")
    return [
        Command(f"train.py {novel.format(10, ten)}", f"{ten}/checkpoints/final"),
        Command(f"evaluate.py {ten}", f"{ten}/metrics.json", metrics=NOVEL),
        Command(f"train.py {novel.format(1, one)}", f"{one}/checkpoints/final"),
        Command(f"evaluate.py {one} {voc} {given}", f"{one}/voc/metrics.json", metrics=both),
        Command(f"evaluate.py {run} {voc}", f"{run}/voc/metrics.json", metrics=NOVEL),
        Command(f"evaluate.py {run} {voc} {given}", f"{run}/voc/metrics.json", metrics=both, short=True),
    ]


def _grid() -> list[Command]:
    """Many seeds, in all three settings."""
    seeds, output = "--shot_seeds=0:2 --noise_seeds=0:2", "runs/protocol/maskdiff"
    two, one = f"{output}/fewshot-5shot-seed1/noise1", f"{output}/fewshot-novel-1shot-seed0"
    return [
        Command(
            f"protocol.py --config configs/fewshot.py:coco --shots=5 {seeds} --predictions",
            f"{two}/metrics.json", says="finished: 2 models, 0 of them in earlier calls", metrics=(*AP, *BASE, *NOVEL),
        ),
        Command(
            "protocol.py --config configs/fewshot.py:coco --shots=1 --shot_seeds=0 --noise_seeds=0 "
            "--settings=novel,voc --predictions",
            f"{one}/voc/noise0/metrics.json", says="finished: 1 models", metrics=(*NOVEL, "gt_classes_only/segm/AP"),
        ),
    ]  # fmt: skip


def _use() -> list[Command]:
    runs = "runs/base-coco runs/fewshot-coco-1shot-seed0 runs/fewshot-coco-1shot-seed1"
    export = "export.py runs/fewshot-coco-1shot-seed0 --output=exports/coco"
    sample = "sample.py exports/coco photo.jpg gray.jpg --min_score=0.0"
    return [
        Command(f"report.py {runs} --output=runs/report", "runs/report/index.html", small=None),
        Command(export, "exports/coco/export.json", short=True),
        Command(sample, "samples/results.json", small=None, short=True),
    ]


def _zoo() -> list[Command]:
    zoo = "--config configs/base.py:coco,weights=zoo --workdir=runs/zoo"
    return [
        Command(f"import_weights.py {zoo} model_final_b275ba.pkl", "runs/zoo/weights.json"),
        Command("evaluate.py runs/zoo", "runs/zoo/metrics.json", metrics=("bbox/AP",), boxes_only=True),
    ]


def _paper() -> list[Command]:
    """The paper read literally; from here on the data are prepared."""
    commands = [Command("prepare_data.py --config configs/base.py:coco")]
    for k in (1, 5, 10):
        base, few = (f"configs/{stage}.py:coco,paper=true,shots={k}" for stage in ("base", "fewshot"))
        start, run = f"runs/msra-{k}shot", f"runs/fewshot-coco-paper-{k}shot-seed0"
        commands += [
            Command(f"import_weights.py --config {base} --workdir={start} R-50.pkl", f"{start}/weights.json"),
            Command(f"train.py --config {base} --config.init_from={start}"),
            Command(f"train.py --config {few}", f"{run}/checkpoints/final"),
            Command(f"evaluate.py {run}", f"{run}/metrics.json", metrics=(*AP, *BASE, *NOVEL)),
        ]
    # COCO-Novel and COCO2VOC, from the same stage 1
    few, run = "configs/fewshot.py:coco,paper=true,shots=1", "runs/novel-coco-paper-1shot-seed0"
    novel = f"--config {few} --config.fewshot.classes=novel --workdir={run}"
    voc, both = (
        "--config.eval.source=voc --config.eval.gt_classes_only=true",
        (*AP, "gt_classes_only/bbox/AP", "gt_classes_only/segm/AP"),
    )
    every = "runs/fewshot-coco-paper-1shot-seed0"
    more = [
        Command(f"train.py {novel}", f"{run}/checkpoints/final"),
        Command(f"evaluate.py {run}", f"{run}/metrics.json", metrics=NOVEL),
        Command(f"evaluate.py {run} {voc}", f"{run}/voc/metrics.json", metrics=both),
        Command(f"evaluate.py {every} {voc}", f"{every}/voc/metrics.json", metrics=both),
    ]
    # with ten shots as many inputs as in the other reading: programs are shared
    short = [c._replace(short="shots=10" in c.line) for c in commands]
    return [c._replace(small=SMALL_PAPER) for c in (*short, *more)]
