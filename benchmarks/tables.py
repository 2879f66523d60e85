"""Fills the tables of README.md and of documents in docs/ from the json files in benchmarks/results/.

    python benchmarks/tables.py            # rewrites the documents in place
    python benchmarks/tables.py --check    # exit code 1 where a document differs from the json files

A table is what stands between the comments `<!-- table: NAME -->` and `<!-- end -->`; everything else is prose. The
other tables of docs/mask_head.md (`<!-- study: NAME -->`) come from benchmarks/studies/masks_tables.py, those of
docs/gpu_compile.md from benchmarks/timing/gpu_compile.py.
"""

import argparse
import json
import re
import statistics
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import grid_tables
from benchmarks.timing.gpu_compile import GPUS

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = tuple(ROOT / name for name in ("README.md", "docs/results.md", "docs/mask_head.md", "docs/own_data.md"))
QUALITY = ("bbox/{}AP", "bbox/{}AP50", "segm/{}AP", "segm/{}AP50", "mask_iou/{}")


def main() -> int:
    """Fills the documents, or says which differ."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing")
    check = parser.parse_args().check
    stale = []
    for path in DOCUMENTS:
        old = path.read_text()
        new = filled(old)
        if new != old:
            stale.append(path.name)
            if not check:
                path.write_text(new)
    if stale:
        print(f"{'not up to date' if check else 'filled'}: {', '.join(stale)}")
    return int(check and bool(stale))


def filled(text: str) -> str:
    """A document with every table filled again.

    Raises:
      KeyError: a table has an unknown name.
    """

    def table(match: re.Match) -> str:
        return f"<!-- table: {match[1]} -->\n{TABLES[match[1]]()}\n<!-- end -->"

    return re.sub(r"<!-- table: (\w+) -->\n.*?<!-- end -->", table, text, flags=re.S)


def results(name: str) -> dict:
    """The json called `name`."""
    return json.loads((ROOT / "benchmarks" / "results" / f"{name}.json").read_text())


def markdown(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table whose first column is text and whose others are numbers."""
    lines = [columns, ["---", *["---:"] * (len(columns) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _measured(document: dict) -> str:
    return f"Measured on {document['device']}, {document['date']}."


# ---------------------------------------------------------------------------------- quality
def _quality(metrics: dict, group: str = "") -> list[str]:
    keys = [k.format(group) for k in QUALITY[:-1]] + [QUALITY[-1].format(group.strip("/") or "all")]
    return [f"{metrics[k]:.1f}" for k in keys]


def _quickstart_rows(document: dict) -> list[list[str]]:
    metrics, stage_1 = document["metrics"], document["metrics_stage_1"]
    return [
        ["stage 1, base classes", *_quality(stage_1, "base/")],
        *([f"stage 2, {name}", *_quality(metrics, group)]
          for name, group in (("all classes", ""), ("base classes", "base/"), ("novel classes", "novel/"))),
    ]  # fmt: skip


COLUMNS = ("percent", "box AP", "box AP50", "mask AP", "mask AP50", "mask IoU")


def _steps(document: dict) -> str:
    first, second = (document["steps"][stage] for stage in ("stage 1", "stage 2"))
    return (
        f"Training steps: {first['detector']:,} (detector) and {first['mask']:,} (mask head) in stage 1, "
        f"{second['novel']}, {second['detector']} and {second['mask']} in stage 2."
    )


def quickstart() -> str:
    """Quality of the quickstart, its time and memory."""
    r = results("quickstart")
    cost = (
        f"{r['seconds']['all'] / 60:.1f} minutes and {r['peak_memory_gb']:.1f} GB, compilation and evaluation included"
    )
    return f"{markdown(COLUMNS, _quickstart_rows(r))}\n\n{cost}. {_measured(r)}"


def quickstart_classes() -> str:
    """The quickstart's stage 2, class by class, and its steps."""
    per_class = results("quickstart")["per_class"]
    rows = [
        [name, *(f"{per_class[kind][name]:.1f}" for kind in ("bbox", "segm", "mask_iou"))] for name in per_class["bbox"]
    ]
    return f"{markdown(('class', 'box AP', 'mask AP', 'mask IoU'), rows)}\n\n{_steps(results('quickstart'))}"


def coco_mini() -> str:
    """Real photos: a few hundred, and eight that are trained on and tested on."""
    short, overfit = results("coco_mini"), results("coco_mini_overfit")
    names = {"base": "stage 1", "fewshot-custom-1shot": "stage 2, K = 1", "fewshot-custom-5shot": "stage 2, K = 5"}
    stages = {
        name: short["stages"][next(k for k in short["stages"] if k.startswith(run))] for run, name in names.items()
    }
    rows = [
        [name, *(f"{d['metrics'][k]:.1f}" for k in ("bbox/AP", "bbox/AP50", "mask_iou/all"))]
        for name, d in stages.items()
    ]
    # its mask head is not trained
    rows.append(
        ["8 photos, trained and tested", *(f"{overfit['metrics'][k]:.1f}" for k in ("bbox/AP", "bbox/AP50")), ""]
    )
    return markdown(("percent", "box AP", "box AP50", "mask IoU"), rows)


KINDS = ("miou", "miou_base", "miou_novel")
GOAL = 5.0  # points of mask IoU over filling the box


def photos() -> str:
    """Mask IoU in the ground-truth boxes of validation photos, and whether the goal is met."""
    r = results("photos")
    box = r["guesses"]["the box"]
    rows = [["filling the box", "", *(f"{100 * box[k]:.1f}" for k in KINDS)]]
    verdicts = []
    for name, row in r["rows"].items():
        for threshold in dict.fromkeys(("0.5", _best_threshold(row["held out"]))):
            iou = row["val"][threshold]
            rows.append(
                [
                    f"{name}; {threshold}",
                    f"{r['methods'][row['method']]['steps']:,}",
                    *(f"{100 * iou[k]:.1f}" for k in KINDS),
                ]
            )
            over = {k: 100 * (iou[k] - box[k]) for k in KINDS}
            verdict = "met" if min(over.values()) >= GOAL else "not met"
            points = f"{over['miou']:+.1f} points ({over['miou_base']:+.1f} base, {over['miou_novel']:+.1f} novel)"
            verdicts.append(f"- {name}, threshold {threshold}: {points}; goal {verdict}.")
    count = r["objects"]["val"]
    header = f"Gain over filling the box; the goal is {GOAL:.0f} points on base and on novel classes:"
    columns = ("mask IoU in percent; threshold", "training steps", "all", "base", "novel")
    about = f"{count['base']} base and {count['novel']} novel objects. {_measured(r)}"
    return "\n".join((markdown(columns, rows), "", header, "", *verdicts, "", about))


def _best_threshold(held_out: dict) -> str:
    """Of the soft mask: the one with the highest mean IoU on the photos that were held out."""
    return max(held_out, key=lambda threshold: held_out[threshold]["miou"])


def photos_curve() -> str:
    """Mask IoU by step at each method's threshold, of objects trained on and of held-out ones of the same classes."""
    r = results("photos")
    curves = {name: m["curve"] for name, m in r["methods"].items()} | r["other_curves"]
    curves = {name: curve for name, curve in curves.items() if len(curve) > 1}  # the conv head has none
    columns = ["steps", *(f"{name}: {part}" for name in curves for part in ("training", "held out"))]
    rows = {point["step"]: [f"{point['step']:,}"] for point in next(iter(curves.values()))}
    for curve in curves.values():
        known = {point["step"]: point for point in curve}
        threshold = _best_threshold(curve[-1]["held out"])
        for step, row in rows.items():
            point = known.get(step)
            row += [f"{100 * point[k][threshold]['miou_base']:.1f}" if point else "" for k in ("training", "held out")]
    return markdown(columns, rows.values())


def photos_credits() -> str:
    """Where the photos of docs/photos.png come from."""
    shown = results("photos")["figure"]["photos"]
    names = sorted({photo["license"] for photo in shown})
    links = {
        name: ", ".join(
            f"[{photo['image_id']}]({photo['url'].replace('http:', 'https:')})"
            for photo in shown
            if photo["license"] == name
        )
        for name in names
    }
    return "Parts of photos from COCO, by image id: " + "; ".join(f"{name}: {links[name]}" for name in names) + "."


def roi_sampling() -> str:
    """Box AP by RoIAlign's samples per cell and axis."""
    rows = [
        [
            f"{r['dataset']}, {r['roi_sampling'] or 'adaptive'}",
            *(f"{r[f'bbox/{k}']:.1f}" for k in ("AP", "AP50", "AP75")),
        ]
        for r in results("roi_sampling")["rows"]
    ]
    return markdown(("samples per cell and axis", "box AP", "AP50", "AP75"), rows)


ABLATIONS = {
    "maskdiff": "maskdiff (S = 2, w = 1)", "guided2": "guided2 (w = 2)", "guided": "guided (w = 5)",
    "steps1": "S = 1", "steps4": "S = 4", "steps8": "S = 8", "support_none": "no shots at test",
    "support_other": "shots of another class", "gt_boxes": "ground-truth boxes and classes",
    "gt_classes": "ground-truth classes",
}  # fmt: skip


def ablations() -> str:
    """What changes when a trained run is evaluated in another way."""
    columns = ("bbox/{}AP", "segm/{}AP", "mask_iou/{}")
    r = results("ablations")
    rows = []
    for row in r["rows"]:
        metrics, cells = row["metrics"], []
        for column in columns:
            for group in ("base", "novel"):
                cells.append(metrics[column.format(group if column.startswith("mask") else f"{group}/")])
        rows.append([ABLATIONS[row["method"]], *(f"{v:.1f}" for v in cells)])
    tight = r["rows"][0]["metrics"]
    boxes = [f"{tight[f'tightened/bbox/{group}/AP']:.1f}" for group in ("base", "novel")]
    rows.insert(1, ["maskdiff, boxes around the masks", *boxes, *rows[0][3:]])
    header = ("percent", "box AP, base", "novel", "mask AP, base", "novel", "mask IoU, base", "novel")
    return f"{markdown(header, rows)}\n\n{_measured(r)}"


def grid() -> str:
    """Mask AP of every method on shapes at each K: the results table."""
    r = results("shapes_grid")
    counts = f"Mean of {grid_tables.seeds(r)} ± half of the 95 % confidence interval. {_measured(r)}"
    return f"{markdown(*grid_tables.main(r, 'segm'))}\n\n{counts}"


def grid_boxes() -> str:
    """The same of boxes."""
    return markdown(*grid_tables.main(results("shapes_grid"), "bbox"))


def grid_differences() -> str:
    """Each method and ablation at K = 5 beside MaskDiff, on the same seeds."""
    return markdown(*grid_tables.differences(results("shapes_grid"), "5"))


def grid_by_iou() -> str:
    """Masks of novel classes at K = 5, at low and high IoU."""
    return markdown(*grid_tables.by_iou(results("shapes_grid"), "5", "novel"))


INSTANT = ("bbox/novel/AP", "segm/novel/AP", "bbox/base/AP", "segm/base/AP")


def instant_classes() -> str:
    """Classes that were added without training, beside fine-tuning on the same shots."""
    r = results("instant_classes")
    found: dict[tuple[str, int], list[dict]] = {}
    for row in r["rows"]:
        found.setdefault((row["method"], row.get("shots", 0)), []).append(row)
    rows = []
    for (method, shots), members in sorted(found.items(), key=lambda item: item[0][1]):
        cells = []
        for metric in INSTANT:
            values = [row[metric] for row in members if metric in row]
            spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
            cells.append(f"{statistics.mean(values):.1f}{spread}" if values else "")
        rows.append([str(shots or ""), method, *cells])
    header = ("K", "", "box AP, novel", "mask AP, novel", "box AP, base", "mask AP, base")
    lines = markdown(header, rows).replace("| --- | ---: |", "| ---: | --- |", 1)
    return f"{lines}\n\nMean ± standard deviation over {len(found['fine-tuned', 5])} shot seeds. {_measured(r)}"


def example_model() -> str:
    """Scores of examples/model, before and after classes were added without training."""
    r = results("example_model")
    rows = [
        ["the eight classes it knows", *(f"{r['base'][m]:.1f}" if m in r["base"] else "" for m in INSTANT)],
        [f"four more, added from {r['shots']} shots each", *(f"{r['added'][m]:.1f}" for m in INSTANT)],
    ]
    steps = f"{r['steps']['detector']:,} steps of the detector and {r['steps']['mask']:,} of the mask head"
    scored = f"{r['images']} test scenes, mean of {len(r['by_shot_seed'])} shot seeds"
    about = f"{scored}. Trained for {steps}; {r['megabytes']} MB."
    header = ("", "box AP, new", "mask AP, new", "box AP, known", "mask AP, known")
    return f"{markdown(header, rows)}\n\n{about} {_measured(r)}"


FIRST_RESULT = {
    "sample.py": "`python launch/sample.py examples/model examples/scene.png`",
    "notebook": "all cells of `examples/five_photos.ipynb`",
    "demo.py": "`python launch/demo.py`, until the page answers",
}


def first_result() -> str:
    """What a newcomer waits for."""
    r = results("first_result")
    rows = [[words, *(f"{s:.1f}" for s in r["seconds"][name].values())] for name, words in FIRST_RESULT.items()]
    about = f"Median of {r['rounds']}, at a load average of {r['load']}."
    return f"{markdown(('seconds', 'first run', 'next run'), rows)}\n\n{about} {_measured(r)}"


def finetune() -> str:
    """Mask IoU after more and more steps of stage 2, mean over sets of shots."""
    by_steps: dict[tuple[int, int], list[dict]] = {}
    for row in results("study_finetune")["rows"]:
        by_steps.setdefault((row["shots"], row["steps"]), []).append(row)
    rows = []
    for (shots, steps), found in by_steps.items():
        means = [100 * sum(r[k] for r in found) / len(found) for k in ("miou", "miou_base", "miou_novel")]
        rows.append([str(shots), str(steps), f"{found[0]['epochs']:.0f}", *(f"{m:.1f}" for m in means)])
    return markdown(("K", "steps", "epochs", "mIoU", "base", "novel"), rows)


# ---------------------------------------------------------------------------------- speed
def data_pipeline() -> str:
    """Processor time of a sample, by loader and source."""
    r = results("data_pipeline")
    sources = {"plain": "image files", "prepared": "prepared", "kshot": "K = 10 shots, in memory"}
    of = {
        (m["loader"], m["slots"], m["source"]): m["cpu_ms"]
        for m in r["measured"]
        if m["version"] == "this" and not m["workers"]
    }
    what = {("detector", 0): "image for the detector", ("mask", 5): "mask-head sample, 5 shots",
            ("mask", 10): "mask-head sample, 10 shots"}  # fmt: skip
    rows = [[name, *(f"{of[(*key, s)]:.1f}" for s in sources)] for key, name in what.items()]
    return f"{markdown(('ms of processor time per', *sources.values()), rows)}\n\n{_measured(r)}"


def detector() -> str:
    """Seconds per image of the full detector on a CPU."""
    r = results("detector_cpu")
    rows = [
        [f"{row['what']}, {row['engine']}", f"{row['seconds'] / row['batch']:.1f}", f"{row['gb']:.1f}"]
        for row in r["rows"]
    ]
    return f"{markdown(('', 's per image', 'GB'), rows)}\n\n{_measured(r)}"


def paste() -> str:
    """Pasting ten masks into a photo, beside decoding it; memory of a prediction."""
    r = results("paste")
    pasting, large, small = r["pasting"], r["prediction"]["large"], r["prediction"]["small"]
    rows = [
        ["decode the JPEG", f"{pasting['decode_seconds']:.2f} s"],
        ["resize it for the detector", f"{pasting['resize_seconds']:.2f} s"],
        [f"paste {r['objects']} masks, encode as RLE", f"{pasting['paste_seconds']:.2f} s"],
        ["memory of a prediction above the loaded model", f"{large['gb_above_model']:.2f} GB"],
        ["the same for a photo of 600 x 400 px", f"{small['gb_above_model']:.2f} GB"],
    ]
    columns = (f"photo of {r['width']} x {r['height']} px", "")
    return f"{markdown(columns, rows)}\n\n{_measured(r)}"


def image_libraries() -> str:
    """Decoding and resizing by library."""
    r = results("image_libraries")
    rows = [[name, f"{ms:.2f}"] for name, ms in r["cpu_ms"].items()]
    return f"{markdown(('ms per COCO photo', 'one thread'), rows)}\n\n{_measured(r)}"


SHARE = 0.3  # of a GPU's bfloat16 peak: what a slow estimate assumes
CARDS = {"rtx3090": "an RTX 3090", "h200": "an H200"}


def model_sizes() -> str:
    """What each size of the presets custom and coco costs."""
    r = results("model_sizes")
    sizes = r["sizes"].values()

    def each(text: Callable[[dict], str]) -> list[str]:
        return [text(size) for size in sizes]

    rows = [
        ["parameters of the detector, millions", *each(lambda s: f"{s['parameters']['detector'] / 1e6:.1f}")],
        ["parameters of the mask head, millions", *each(lambda s: f"{s['parameters']['mask_head'] / 1e6:.1f}")],
        ["short side of images, px", *each(lambda s: str(s["short_side"]))],
        ["side of masks, px", *each(lambda s: str(s["mask_size"]))],
        ["GFLOP, detection in an image", *each(lambda s: f"{s['gflop']['detection']:.3g}")],
        ["GFLOP, one mask", *each(lambda s: f"{s['gflop']['mask']:.3g}")],
        [
            "stage 1: detector, steps x images",
            *each(lambda s: f"{s['steps']['detector']:,} x {s['batch']['detector']}"),
        ],
        ["stage 1: mask head, steps x objects", *each(lambda s: f"{s['steps']['mask']:,} x {s['batch']['mask']}")],
        ["stage 1: PFLOP", *each(lambda s: f"{sum(s['pflop_stage_1'].values()):,.2f}")],
    ]
    public = [s["public_detector"] for s in sizes]
    cells = [f"{p['steps']:,} x {p['batch']}" if p else "" for p in public]
    rows.append(["from a public detector: its last layers, steps x images", *cells])
    for gpu, card in CARDS.items():
        for start, words in (("detector", "stage 1"), ("public_detector", "stage 1 from a public detector")):
            cells = [_gpu_hours(r, name, gpu, start) for name in r["sizes"]]
            rows.append([f"{words}: hours on {card}, estimated", *cells])
    names = {"detector": "detector", "public_detector": "public detector's last layers", "mask": "mask head"}
    for step, words in names.items():
        planned = [r["compiled"]["rtx3090"].get(name, {}).get(step) for name in r["sizes"]]
        cells = [f"{p['peak_gib']:.1f}" if p else "" for p in planned]
        rows.append([f"GiB that a training step of the {words} takes, planned", *cells])
    if timed := r["seconds_per_step"]:
        for part, what in (("detector", "detector"), ("mask", "mask head")):
            cells = [f"{timed[name][part]:.2f}" if name in timed else "" for name in r["sizes"]]
            rows.append([f"seconds per training step of the {what}, CPU", *cells])
    devices = "".join(
        f" Size {name} was timed on {t['device']}, {t['date']}, at a load average of {t['load']:.1f}."
        for name, t in timed.items()
    )
    estimate = (
        "Hours are estimates, nothing was timed on a GPU: the lower number is the roofline of the programs compiled "
        f"for the card, the upper one takes {100 * SHARE:.0f} % of its bfloat16 peak; both take images of the largest "
        "padded size that arrive in time. Memory is what the compiler plans for an RTX 3090, of 24 GB, at the "
        "preset's batch."
    )
    return f"{markdown(('size', *r['sizes']), rows)}\n\n{estimate}{devices}"


def _gpu_hours(r: dict, size: str, gpu: str, start: str) -> str:
    """Hours of stage 1, from the roofline of its compiled steps to a share of the card's peak; "" if not compiled."""
    compiled = r["compiled"][gpu].get(size)
    if not compiled:
        return ""
    counted = r["sizes"][size]
    first = counted["steps"]["detector"] if start == "detector" else counted["public_detector"]["steps"]
    steps = {start: first, "mask": counted["steps"]["mask"]}
    low = sum(n * compiled[k]["roofline_ms"] / 1e3 for k, n in steps.items()) / 3600
    high = sum(n * compiled[k]["tflop"] * 1e12 for k, n in steps.items()) / (SHARE * GPUS[gpu]["peak"]) / 3600
    digits = 0 if high >= 10 else 1 if high >= 1 else 2
    return f"{low:.{digits}f} to {high:.{digits}f}"


TABLES: dict[str, Callable[[], str]] = {
    f.__name__: f
    for f in (
        quickstart, quickstart_classes, coco_mini, photos, photos_curve, photos_credits, roi_sampling, ablations,
        grid, grid_boxes, grid_differences, grid_by_iou, instant_classes, example_model, first_result, finetune,
        data_pipeline, detector, paste, image_libraries, model_sizes,
    )
}  # fmt: skip

if __name__ == "__main__":
    sys.exit(main())
