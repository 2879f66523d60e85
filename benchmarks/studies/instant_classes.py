"""Classes added without training against fine-tuning on the same shots: AP of novel and base classes.

    python benchmarks/studies/instant_classes.py --runs=runs/grid --split=val --rules=4:1,4:0.6,8:1
    python benchmarks/studies/instant_classes.py --runs=runs/grid      # test scenes, the chosen rule

RUNS/maskdiff/ holds the finished runs that `make results`, or launch/protocol.py, leaves: base, and
fewshot-<K>shot-seed<S>. The novel classes are added to the base model with the shots of each few-shot run, as
`Predictor.add_class` does it (docs/design.md, "Adding a class without training"), and with plain imprinting, where the
vector is the mean of the normalized features. Both are scored beside the base model alone and the fine-tuned run, with
the same programs, images and noise. Rules are pairs of `imprinting.KEEP` and `PULL`, chosen on the split val.
"""

import argparse
import statistics
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from ml_collections import ConfigDict

from benchmarks import measure
from launch import cli

if TYPE_CHECKING:
    from maskdiff_jax.inference.export import TrainedModel

METRICS = tuple(
    f"{kind}/{group}/{ap}" for kind in ("bbox", "segm") for group in ("novel", "base") for ap in ("AP", "AP50")
)
SHOWN = ("segm/novel/AP", "segm/base/AP", "bbox/novel/AP", "bbox/base/AP")
BASE, PLAIN, INSTANT, TUNED = "base model alone", "plain imprinting", "added without training", "fine-tuned"


def main() -> None:
    """Scores every combination, prints a table, writes json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=Path("runs/grid"), help="folder that holds maskdiff/")
    parser.add_argument("--root", default="", help="folder of the data; default: as in the runs")
    parser.add_argument("--shots", default="1,5,10", help="K")
    parser.add_argument("--seeds", default="0,1,2,3,4", help="of the shots")
    parser.add_argument("--split", default="test", choices=("test", "val"))
    parser.add_argument("--rules", default="", help="pairs KEEP:PULL, see maskdiff_jax/imprinting.py; default: its own")
    parser.add_argument("--images", type=int, default=0, help="the first images of the split; 0: all")
    parser.add_argument("--output", type=Path, help="default: benchmarks/results/instant_classes[_val].json")
    args = parser.parse_args()
    cli.set_up_jax()
    from maskdiff_jax import atomic
    from maskdiff_jax.imprinting import KEEP, PULL

    name = "instant_classes" if args.split == "test" else f"instant_classes_{args.split}"
    output = args.output or measure.RESULTS / f"{name}.json"
    rules = [tuple(map(float, rule.split(":"))) for rule in args.rules.split(",") if rule] or [(KEEP, PULL)]
    folder = args.runs / "maskdiff"
    study, rows = Study(folder / "base", split=args.split, images=args.images, root=args.root), []
    rows.append({"method": BASE} | study.base_alone())
    for shots in (int(k) for k in args.shots.split(",")):
        for seed in (int(s) for s in args.seeds.split(",")):
            rows += study.compared(folder / f"fewshot-{shots}shot-seed{seed}", shots, seed, rules)
            document = measure.machine() | {"split": args.split, "images": study.images, "rows": rows}
            atomic.write_json(output, document)  # after each: hours of work are kept
    print(table(rows))
    print(output)


class Study:
    """The base model and what all evaluations share."""

    def __init__(
        self, base: Path, *, split: str, images: int = 0, root: str = "", model: "TrainedModel | None" = None
    ) -> None:  # fmt: skip
        """Opens the model and the split.

        Args:
          base: folder of the run of stage 1.
          split: scenes that are scored, "val" or "test".
          images: the first ones of the split; 0: all.
          root: folder of the data; "": as in the run.
          model: an export of the run, whose weights are scored; None: those of the run.
        """
        from maskdiff_jax import workdir
        from maskdiff_jax.data import pipeline
        from maskdiff_jax.inference import classes, export
        from maskdiff_jax.shared import Shared

        self._split, self._images, self._root, self._shared, self._folder = split, images, root, Shared(), base
        self._config = config = self._changed(workdir.read_config(base))
        self._whole = model or export.from_run(config, base, calibrated=True)
        self._base = classes.active_only(self._whole)
        scored = pipeline.open_split(config.data, split)
        self.images = min(images or len(scored.infos), len(scored.infos))

    def _changed(self, config: ConfigDict) -> ConfigDict:
        config = config.copy_and_resolve_references().unlock()
        config.eval.update(split=self._split, images=self._images, figures=0)
        if self._root:
            config.data.root = self._root
        return config.lock()

    def base_alone(self) -> dict[str, Any]:
        """Metrics of the base model and its base classes."""
        from maskdiff_jax.evaluation import evaluate

        setup = evaluate.open_run(self._config, self._folder, self._shared)
        return self._scored(self._config, setup._replace(params=self._whole.params))

    def added(self, shots: int, seed: int) -> dict[str, Any]:
        """Metrics of the base model with the novel classes added without training, from K shots of each class."""
        from configs import fewshot
        from maskdiff_jax.evaluation import evaluate
        from maskdiff_jax.imprinting import KEEP, PULL

        config = fewshot.get_config(f"{self._config.preset},shots={shots},seed={seed}").unlock()
        config.model, config.data = (x.copy_and_resolve_references() for x in (self._config.model, self._config.data))
        config = self._changed(config)
        setup = evaluate.open_run(config, self._folder, self._shared)
        return self._scored(config, self._with_novel_classes(config, setup, (KEEP, PULL)))

    def compared(
        self, folder: Path, shots: int, seed: int, rules: list[tuple[float, ...]]
    ) -> list[dict[str, Any]]:  # fmt: skip
        """One row for each way to learn the novel classes from the K shots of a few-shot run, with this seed."""
        from maskdiff_jax import workdir
        from maskdiff_jax.evaluation import evaluate

        config = self._changed(workdir.read_config(folder))
        setup = evaluate.open_run(config, folder, self._shared)
        same = {"shots": shots, "seed": seed}
        seconds = sum(workdir.read_seconds(folder).values())
        rows = [same | {"method": TUNED, "seconds": round(seconds, 1)} | self._scored(config, setup)]
        print(rows[-1], flush=True)
        for method, rule in [(PLAIN, None), *((INSTANT, rule) for rule in rules)]:
            start = time.monotonic()
            own = self._with_novel_classes(config, setup, rule)
            spent = round(time.monotonic() - start, 2)
            row = same | {"method": method, "rule": rule, "seconds": spent} | self._scored(config, own)
            print(row, flush=True)
            rows.append(row)
        return rows

    def _with_novel_classes(self, config: ConfigDict, setup: Any, rule: tuple[float, ...] | None) -> Any:
        """The evaluation of the base model with the novel classes added from the shots of a few-shot run.

        Args:
          config: of the run.
          setup: of its evaluation.
          rule: KEEP, PULL; None: plain imprinting.
        """
        import jax
        import numpy as np

        from maskdiff_jax.data.fewshot.shots import shot_dataset
        from maskdiff_jax.evaluation import evaluate
        from maskdiff_jax.imprinting import features_of, unit
        from maskdiff_jax.inference import classes

        support_split = self._shared.split(config.data, "support")
        novel = [i for i, c in enumerate(support_split.categories) if c.novel]
        dataset = shot_dataset(support_split, {i: setup.shots[i] for i in novel}, "background")
        forward = self._shared.once("features", lambda: jax.jit(setup.model.box_features))
        features, labels = features_of(dataset, config.data, 1, self._whole.params, forward)
        trained = self._base
        for i in novel:
            shots = setup.support.shots[i, : setup.support.count[i]]
            name = support_split.categories[i].name
            keep, pull = rule or (0.0, 0.0)
            trained = classes.added(trained, name, features[labels == i], shots, keep=keep, pull=pull)
            if rule is None:
                kernel = trained.params["detector"]["box_predictor"]["cls_score"]["kernel"]
                kernel[:, len(trained.categories) - 1] = unit(features[labels == i]).mean(0)
        position = {c.name: k for k, c in enumerate(trained.categories)}
        # in the order of the dataset, so that the compiled programs and class ids are those of the fine-tuned run
        order = np.array([position[c.name] for c in support_split.categories])
        trained = classes.resized(trained, order)
        noise_seed = config.eval.noise_seed
        segmenter = evaluate.with_inputs(setup.segmenter, noise_seed=noise_seed, support=trained.support)
        return setup._replace(params=trained.params, support=trained.support, segmenter=segmenter)

    def _scored(self, config: ConfigDict, setup: Any) -> dict[str, Any]:
        from maskdiff_jax.evaluation import evaluate

        predictions = evaluate.predict(config, setup, evaluate.find_objects(config, setup))
        metrics = evaluate.score(config, setup.dataset, predictions, setup.class_ids).metrics
        if "bbox/base/AP" not in metrics:  # of one group of classes
            metrics = {k.replace("/", "/base/", 1): v for k, v in metrics.items() if k.count("/") == 1}
        return {k: round(metrics[k], 2) for k in METRICS if k in metrics}


def table(rows: list[dict[str, Any]]) -> str:
    """Means and standard deviations over the seeds, as Markdown."""
    lines = [f"| K | method | {' | '.join(SHOWN)} |", f"|---|---|{'---|' * len(SHOWN)}"]
    groups: dict[tuple, list[dict[str, Any]]] = {}
    for row in rows:
        rule = f" ({row['rule'][0]:g}, {row['rule'][1]:g})" if row.get("rule") else ""
        groups.setdefault((row.get("shots", "-"), row["method"] + rule), []).append(row)
    for (shots, method), members in groups.items():
        cells = []
        for metric in SHOWN:
            values = [m[metric] for m in members if metric in m]
            spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
            cells.append(f"{statistics.fmean(values):.1f}{spread}" if values else "-")
        lines.append(f"| {shots} | {method} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
