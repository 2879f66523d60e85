"""Fills the tables of docs/mask_head.md from the study's json files, and renders its figure.

    python benchmarks/studies/masks_tables.py  # results/study_masks_cpu.json, study_eps.json, distill.json,
                                                         # shot_leak.json, agreement.json, sampling_cpu.json -> the
                                                         # document's tables
    python benchmarks/studies/masks_tables.py --form=gpu
    python benchmarks/studies/masks_tables.py --figure  # also renders docs/mask_head.png, from runs/study_masks

In the document each table is between the comments `<!-- study: NAME -->` and `<!-- end -->`; the rest is prose.
"""

import argparse
import json
import re
import statistics
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks import measure
from benchmarks.studies.mask_scores import DEFAULT
from benchmarks.studies.masks import MID, MORE_TRAININGS, ONE, TRAININGS, TWO

DOCUMENT = measure.ROOT / "docs" / "mask_head.md"
Line = tuple[str, str, dict]  # row label, training, setting

# setting `shots` of the study -> row label
SHOTS = {"real": "five shots", "one": "one shot", "other class": "shots of another class", "none": "no shots"}
COLUMNS = ("mIoU", "base", "novel", "boundary IoU")
FIELDS = ("miou", "miou_base", "miou_novel", "boundary_iou")
TABLES: dict[str, list[Line]] = {
    "prediction": [
        (f"{name}, {how}", name, setting)
        for name in TRAININGS
        for how, setting in (("10 steps, w = 2", {}), ("50 steps, w = 1", {"steps": 50, "guidance": 1.0}),
                             ("5 steps, w = 1", MID), ("2 steps, w = 1", TWO), ("1 step, w = 1", ONE))
        if (name, how) != ("baseline", "50 steps, w = 1")
    ],
    "steps": [
        *((f"{s} DDIM, w = 2", "baseline", {"steps": s}) for s in (1, 2, 4, 5, 10, 20, 50, 250, 1000)),
        *((f"{s} DPM-Solver++(2M), w = 2", "baseline", {"steps": s, "sampler": "dpmpp_2m"}) for s in (5, 10)),
        ("1000 DDPM, w = 2", "baseline", {"steps": 1000, "sampler": "ddpm"}),
        *((f"{s} DDIM, w = 1", "baseline", {"steps": s, "guidance": 1.0}) for s in (1, 2, 3, 5, 10, 20)),
    ],
    "guidance": [
        *((f"w = {w:.0f}", "baseline", {"guidance": w}) for w in (1.0, 2.0, 3.0, 5.0)),
        ("w = 5 in the first half of the steps", "baseline", {"guidance": 5.0, "guidance_interval": (0.0, 0.5)}),
        ("w = 5 in the second half", "baseline", {"guidance": 5.0, "guidance_interval": (0.5, 1.0)}),
    ],
    "shots": [
        *((f"diffusion: {SHOTS[s]}", "baseline", {"shots": s}) for s in ("real", "one", "other class", "none")),
        *((f"plain UNet: {SHOTS[s]}", "plain UNet", ONE | {"shots": s}) for s in ("real", "other class", "none")),
    ],
    "samples": [
        *((f"{n} sample{'s' * (n > 1)}, 5 steps", "baseline", MID | {"samples": n}) for n in (1, 3, 5, 9)),
        *((f"{n} sample{'s' * (n > 1)}, 2 steps", "baseline", TWO | {"samples": n}) for n in (1, 3, 5)),
        *((f"1 sample, 5 steps, last {n} estimates averaged", "baseline", MID | {"averaged": n}) for n in (3, 5)),
    ],
    "boxes": [
        *((f"diffusion: sides off by up to {j:.0%}", "baseline", MID | {"jitter": j}) for j in (0.0, 0.05, 0.1)),
        *((f"plain UNet: sides off by up to {j:.0%}", "plain UNet", ONE | {"jitter": j}) for j in (0.0, 0.1)),
        *((f"diffusion, {t}: sides off by up to {j:.0%}", t, MID | {"jitter": j})
          for t in ("no jitter", "context 0.08") for j in (0.0, 0.05, 0.1)),
    ],
    "heads": [
        ("baseline: 1 to 5 shots in training, with class", "baseline", MID),
        ("without class input", "no class", MID), ("always 5 shots in training", "K=5 alone", MID),
        ("always 5 shots in training, one given", "K=5 alone", MID | {"shots": "one"}),
        ("baseline, one shot given, 10 steps, w = 2", "baseline", {"shots": "one"}),
        ("a head with 1 slot, 10 steps, w = 2", "K=1 alone", {}),
    ],
}  # fmt: skip


def main() -> None:
    """Rewrites the tables in place."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--form", default="cpu", help="cpu, gpu, coco_mini_gpu")
    parser.add_argument("--figure", action="store_true")
    args = parser.parse_args()
    study = json.loads((measure.RESULTS / f"study_masks_{args.form}.json").read_text())
    blocks = {name: scores(study, lines) for name, lines in TABLES.items()}
    blocks |= {"trainings": trainings(study), "unsure": unsure(study), "order": order(study)}
    blocks |= {"distill": distilled(), "agreement": agreement(), "cost": cost(), "leak": leak()}
    blocks |= {"guesses": guesses(study["guesses"])}
    blocks |= noise()

    def fill(match: re.Match) -> str:
        return f"<!-- study: {match[1]} -->\n{blocks[match[1]]}\n<!-- end -->"

    text = DOCUMENT.read_text()
    DOCUMENT.write_text(re.sub(r"<!-- study: (\w+) -->\n.*?<!-- end -->", fill, text, flags=re.DOTALL))
    print(DOCUMENT.relative_to(measure.ROOT))
    if args.figure:
        from benchmarks.studies import masks_figure

        print(masks_figure.render(args.form).relative_to(measure.ROOT))


def rows_of(study: dict, training: str, setting: dict) -> list[dict]:
    """The rows of a training with this setting, one per seed."""
    asked = json.loads(json.dumps(DEFAULT | setting))
    return [r for r in study["rows"] if r["training"] == training and all(r[k] == v for k, v in asked.items())]


def table(head: tuple[str, ...], lines: list[tuple[str, ...]]) -> str:
    """Markdown."""
    rule = "|---|" + "---:|" * (len(head) - 1)
    return "\n".join(["| " + " | ".join(head) + " |", rule, *("| " + " | ".join(x) + " |" for x in lines)])


def percent(values: list[float]) -> str:
    """Mean in percent; with the standard deviation where there are several seeds."""
    mean = f"{100 * statistics.mean(values):.1f}"
    return mean if len(values) == 1 else f"{mean} ± {100 * statistics.stdev(values):.1f}"


def scores(study: dict, lines: list[Line]) -> str:
    """Mean IoUs of the rows that the study has."""
    good = {t["training"]: all(u["converged"] for u in study["trainings"] if u["training"] == t["training"])
            for t in study["trainings"]}  # fmt: skip
    out = []
    for name, training, setting in lines:
        found = rows_of(study, training, setting)
        if found:
            mark = "" if good[training] else " (not converged)"
            out.append((name + mark, *(percent([r[f] for r in found]) for f in FIELDS)))
    return table(("", *COLUMNS), out)


def guesses(found: dict[str, dict[str, float]]) -> str:
    """Mean IoUs of masks made without looking at the image."""
    return table(("", *COLUMNS[:3]), [(name, *(percent([row[f]]) for f in FIELDS[:3])) for name, row in found.items()])


def trainings(study: dict) -> str:
    """The curves: mean IoU after each quarter, 5 steps without guidance."""
    out = []
    for t in study["trainings"]:
        curve = [f"{100 * v:.1f}" for v in t["curve"]]
        what = ", ".join(f"{k.split('.')[-1]} = {v}" for k, v in (TRAININGS | MORE_TRAININGS)[t["training"]].items())
        again = f", seed {t['seed']}" if t["seed"] else ""
        out.append((t["training"] + again + (f" ({what})" if what else ""), *curve, "yes" if t["converged"] else "no"))
    return table(("training", "1/4", "2/4", "3/4", "end", "converged"), out)


def order(study: dict) -> str:
    """Standard deviation of one object's IoU over orders of the shots and over noise seeds."""
    spreads = [t["spread"] for t in study["trainings"] if t["spread"]["order"] is not None]
    out = [(what, percent([s[what] for s in spreads])) for what in ("order", "noise") if spreads]
    return table(("what changes", "spread of an object's IoU"), out)


def unsure(study: dict) -> str:
    """Calibration of soft masks, and how well their variance predicts the error of a mask."""
    out = []
    for name, training, setting in (
        ("1 sample, 1 step", "baseline", ONE), ("1 sample, 5 steps", "baseline", MID),
        ("mean of 9 samples, 5 steps", "baseline", MID | {"samples": 9}), ("plain UNet", "plain UNet", ONE),
    ):  # fmt: skip
        for r in rows_of(study, training, setting)[:1]:
            error = sum(share * abs(predicted - true) for predicted, true, share in r["calibration"])
            best = max(r["by_threshold"], key=r["by_threshold"].get)
            gain = 100 * (r["by_threshold"][best] - r["by_threshold"]["0.50"])
            out.append((name, f"{100 * error:.1f}", f"{r['uncertainty_vs_error']:.2f}", best, f"{gain:+.1f}"))
    head = ("", "calibration error", "rank correlation of variance and 1 - IoU", "best threshold", "gain over 0.5")
    return table(head, out)


def noise() -> dict[str, str]:
    """Noise prediction: trainings compared, the long one's curve, its masks by the paper's samplers, errors per t."""
    runs = json.loads((measure.RESULTS / "study_eps.json").read_text())["runs"]
    fields = FIELDS[:3]

    def line(name: str, row: dict, *more: str) -> tuple[str, ...]:
        return (name, *more, *("" if row.get(f) is None else percent([row[f]]) for f in fields))

    compared = [line(r["training"], r["curve"][-1], str(r["steps"]), *loss_shares(r)) for r in runs]
    guessed = [line(name, row, "", "", "") for name, row in runs[0]["validation"].items()]
    curve = [
        line(f"{r['training']}, {p['step']} of {r['steps']}", p, f"{p['loss']:.4f}")
        for r in runs for p in r["curve"] if r["steps"] == max(x["steps"] for x in runs)
    ]  # fmt: skip
    sampled = [
        line(f"{t.get('sampler', 'ddim').upper()}, {t['steps']} steps, w = {t['guidance']:.0f}", t)
        for r in runs for t in r["test"]
    ]  # fmt: skip
    tested = [line(name, row) for r in runs for t in r["test"][:1] for name, row in t["guesses"].items()]
    short = [r for r in runs if r["steps"] == min(x["steps"] for x in runs)]
    times = [
        (str(e["t"]), f"{e['y0_zero']:.2g}", *(f"{r['errors'][i]['eps_mse']:.2g}" for r in short))
        for i, e in enumerate(short[0]["errors"])
    ]
    ious = [
        (str(e["t"]), *(percent([r["errors"][i]["iou"]]) for r in runs))
        for i, e in enumerate(short[0]["errors"])
    ]  # fmt: skip
    names = [f"{r['training']}, {r['steps']}" for r in runs]
    return {
        "noise_trainings": table(("", "steps", "loss of t < 200", "of t ≥ 700", *COLUMNS[:3]), guessed + compared),
        "noise_curve": table(("", "training loss", *COLUMNS[:3]), curve),
        "noise_samplers": table(("", *COLUMNS[:3]), tested + sampled),
        "noise_errors": table(("t", "y_0 = 0", *(r["training"] for r in short)), times),
        "noise_ious": table(("t", *names), ious),
    }


def loss_shares(run: dict) -> tuple[str, str]:
    """Shares of low and of high t in the loss of Eq. 4, in percent; errors between the measured times are interpolated.
    "" if the training weights t."""
    if any(field.endswith("loss_weight") for field in run["changes"]):
        return "", ""
    last = run["errors"][-1]["t"]
    at, errors = zip(*((e["t"], e["eps_mse"]) for e in run["errors"]), strict=True)
    error = np.interp(np.arange(last + 1), at, errors)
    return percent([error[:200].sum() / error.sum()]), percent([error[700:].sum() / error.sum()])


def leak() -> str:
    """mIoU by the shot given, and the leak: with the query itself as shot minus with another object of its class."""
    rows = json.loads((measure.RESULTS / "shot_leak.json").read_text())["summary"]
    heads, shots = (list(dict.fromkeys(r[key] for r in rows)) for key in ("head", "shot"))
    found = {(r["head"], r["shot"]): r for r in rows}
    out = []
    for head in heads:
        values = [*(found[head, x]["miou"] for x in shots), found[head, "leak"]["miou_novel"]]
        out.append((head, *(f"{100 * v:.1f}" for v in values)))
    return table(("", *shots, "leak, novel classes"), out)


def distilled() -> str:
    """Students at the number of steps they were trained for, beside their teacher."""
    rows = json.loads((measure.RESULTS / "distill.json").read_text())["rows"]
    names = {
        "teacher": lambda r: f"teacher, steps: {r['steps']}, w = {r['guidance']:.0f}",
        "student, guidance": lambda r: f"guidance distillation, steps: {r['steps']}",
    }
    out = []
    for r in rows:
        made_for = re.fullmatch(r"student, steps(\d+)", r["who"])
        if made_for and int(made_for[1]) != r["steps"]:
            continue
        name = names[r["who"]](r) if not made_for else f"progressive distillation, steps: {r['steps']}"
        out.append((name, str(r["nfe"]), *(percent([r[f]]) for f in FIELDS)))
    return table(("", "NFE", *COLUMNS), out)


def agreement() -> str:
    """Agreement of masks of the same objects and random keys, sampled in two ways."""
    rows = json.loads((measure.RESULTS / "agreement.json").read_text())["rows"]
    out = [
        (f"{r['against']}, {r['sampled']}", *(f"{r[k]:.4f}" for k in ("mean_iou", "lowest_iou", "share_above_0.995")))
        for r in rows
    ]
    return table(("", "mean IoU", "lowest", "share above 0.995"), out)


def cost() -> str:
    """Seconds of one network evaluation (sample) and of a training step, ours beside the PyTorch port."""
    out = []
    for r in json.loads((measure.RESULTS / "sampling_cpu.json").read_text())["rows"]:
        if "error" not in r:
            rounds = " / ".join(f"{s:.2f}" for s in r["rounds"])
            out.append((f"{r['what']}, batch {r['batch']}: {r['engine']}", f"{r['seconds']:.2f}", rounds))
    return table(("", "s", "rounds"), out)


if __name__ == "__main__":
    main()
