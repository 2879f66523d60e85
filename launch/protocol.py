"""Trains and scores a grid: K shots x shot seeds x noise seeds, in one process that compiles its programs once.

    python launch/protocol.py --config configs/fewshot.py:shapes --shots=1,5 --shot_seeds=0:10 --noise_seeds=0:10
    python launch/protocol.py --config configs/fewshot.py:coco --settings=all,novel --shard=1/4      # and 2/4, 3/4, 4/4
    python launch/protocol.py --config configs/fewshot.py:coco --settings=voc --shots=1

Writes OUTPUT/fewshot-5shot-seed0/ and so on: a run folder of stage 2 with noise0/metrics.json, noise1/metrics.json ...
in it. Starts from the runs of stage 1 that launch/train.py would start from. The same command resumes and computes only
what is missing.
"""

import re
import shlex
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from absl import flags
from ml_collections import ConfigDict

from launch import cli, run_config

_SHOTS = flags.DEFINE_string("shots", "1,5,10", "K of the shots, e.g. 1,5,10.")
_SHOT_SEEDS = flags.DEFINE_string("shot_seeds", "0:10", "Shot seeds, e.g. 0:10 (0 to 9) or 0,3,7.")
_NOISE_SEEDS = flags.DEFINE_string("noise_seeds", "0:10", "Noise seeds of the sampler, in the same form.")
_SETTINGS = flags.DEFINE_list(
    "settings",
    ["all"],
    "all: models of all classes on COCO; novel: models of the novel classes on COCO; voc: the same models on "
    "PASCAL VOC.",
)
_OUTPUT = flags.DEFINE_string("output", "", "Folder for the run folders; default: runs/protocol/<method>.")
_SHARD = flags.DEFINE_string("shard", "1/1", "i/n: run only every n-th model of the grid, starting with the i-th.")
_PREDICTIONS = flags.DEFINE_bool("predictions", False, "Also write predictions.json for each noise seed.")

PATTERN = re.compile(r"--?config\.(init_from|detector_from)=")


def main(argv: list[str], overrides: list[str]) -> None:
    """Checks what the grid needs, computes it, and ends with exit code 1 if a model failed."""
    cli.reject_arguments(argv)
    if flags.FLAGS.workdir:
        raise ValueError("--workdir is for a single run: give the folder of the grid with --output")
    models, begun = grid(flags.FLAGS.config, overrides)
    check_stage_1(begun)
    cli.set_up_jax(models[0].config.model.mask.size)
    from maskdiff_jax.evaluation import protocol
    from maskdiff_jax.evaluation.progress import Progress
    from maskdiff_jax.training import preflight
    from maskdiff_jax.training import run as train
    from maskdiff_jax.workdir import is_trained

    chosen = shard(models, _SHARD.value)
    noise_seeds = numbers("noise_seeds", _NOISE_SEEDS.value)
    notes = {}
    for model in chosen:
        kind = model.config.fewshot.classes, model.config.fewshot.shots
        if kind not in notes and not is_trained(model.folder):
            notes[kind] = preflight.check(model.config, model.folder)
    for note in dict.fromkeys(note for found in notes.values() for note in found):
        print(f"note: {note}")
    print(f"{len(chosen)} models with {len(noise_seeds)} noise seeds each, in {models[0].folder.parent}", flush=True)
    progress = Progress(model.config.fewshot.shots for model in chosen)
    failures = protocol.run(
        chosen, noise_seeds, train=train.run, progress=progress, with_predictions=_PREDICTIONS.value
    )  # fmt: skip
    if failures:
        print(f"{len(failures)} of {len(chosen)} models failed:", file=sys.stderr)
        for name, why in failures.items():
            print(f"  {name}: {why}", file=sys.stderr)
        sys.exit(1)
    print(f"finished: {len(chosen)} models, {progress.skipped} of them in earlier calls")


def grid(file: str | None, overrides: list[str]) -> tuple[list, dict[str, str]]:
    """All models of the grid, and the run of stage 1 that each starts from.

    Args:
      file: as ``--config`` takes it, without shots= and seed=.
      overrides: arguments ``--config.a.b=value``; in init_from and detector_from
        {shots} becomes K, and {seed} the shot seed.

    Returns:
      The models, `protocol.GridModel`; and folder of a run of stage 1 -> the command that trains it.

    Raises:
      ValueError: a config that is not one of stage 2, or wrong flags.
    """
    from maskdiff_jax.evaluation import protocol

    if not file:
        raise ValueError("no config given: use --config configs/fewshot.py:PRESET, or a baseline")
    if re.search(r"[:,]\s*(shots|seed)=", file):
        raise ValueError(
            f"--config={file} sets shots or seed, which are for one model: use --shots and --shot_seeds for the grid"
        )
    stage = run_config.read_config(file, [])[0].stage
    if stage != "fewshot":
        raise ValueError(
            f"--config={file} is a config of stage '{stage}': the grid needs one of stage 2, such as configs/fewshot.py"
        )
    settings = list(dict.fromkeys(_SETTINGS.value))
    if not settings or set(settings) - set(protocol.SETTINGS):
        raise ValueError(f"--settings={','.join(settings)}: choose from {', '.join(protocol.SETTINGS)}")
    wanted = [{"all": "all"}.get(setting, "novel") for setting in settings]
    said, models, begun = set(), [], {}

    def say(line: str) -> None:
        if line not in said:  # not once per model
            said.add(line)
            print(line, flush=True)

    for classes in dict.fromkeys(wanted):
        for shots in numbers("shots", _SHOTS.value):
            for seed in numbers("shot_seeds", _SHOT_SEEDS.value):
                config = _config(file, overrides, classes, shots, seed, say)
                begun.setdefault(config.init_from, _stage_1_command(file, overrides, config))
                if config.detector_from:
                    begun.setdefault(config.detector_from, f"(config.detector_from={config.detector_from})")
                of_model = [s for s, c in zip(settings, wanted, strict=True) if c == classes]
                output = Path(_OUTPUT.value or f"runs/protocol/{config.method}")
                models.append(protocol.make_model(output, config, of_model))
    return models, begun


def _config(file: str, overrides: list[str], classes: str, shots: int, seed: int, say) -> ConfigDict:
    """The config of one model."""
    separator = "," if ":" in file else ":"
    fields = [
        x.replace("{shots}", str(shots)).replace("{seed}", str(seed)) if PATTERN.match(x) else x for x in overrides
    ]
    given = [*fields, f"--config.fewshot.classes={classes}"]
    config, names = run_config.read_config(f"{file}{separator}shots={shots},seed={seed}", given)
    return run_config.complete(config, names, say)


def _stage_1_command(file: str, overrides: list[str], config: ConfigDict) -> str:
    """The command that trains the run of stage 1 that a config of stage 2 starts from."""
    name, _, argument = file.partition(":")
    options = [x.strip() for x in argument.split(",") if x.strip()]
    options = [x for x in options if not x.startswith(("optimizer=", "stage="))]
    if config.paper:
        options.append(f"shots={config.fewshot.shots}")
    first = config.base_method or config.method
    if first == "maskdiff":
        name = str(Path(name).parent / "base.py") if Path(name).stem == "fewshot" else "configs/base.py"
    else:
        options.append("stage=base")
        if config.base_method:
            name = str(Path(name).parent / f"{first}.py")
    shared = [x for x in overrides if re.match(r"--?config\.(data|model)\.", x)]
    words = ["--config", f"{name}:{','.join(options)}" if options else name, f"--workdir={config.init_from}", *shared]
    return f"python launch/train.py {shlex.join(words)}"


def check_stage_1(begun: dict[str, str]) -> None:
    """Whether all runs that the grid starts from are trained.

    Raises:
      FileNotFoundError: some are not; lists them all, with the command that trains each.
    """
    from maskdiff_jax.workdir import is_trained

    missing = {folder: command for folder, command in begun.items() if not is_trained(folder)}
    if missing:
        lines = "\n".join(f"  {command}" for command in missing.values())
        raise FileNotFoundError(
            f"{len(missing)} of the {len(begun)} runs that this grid starts from are missing or not finished; train "
            f"them first:\n{lines}"
        )


def numbers(flag: str, text: str) -> list[int]:
    """The numbers of a flag: "0:10" is 0 to 9, "1,5,10" these.

    Raises:
      ValueError: something else, or none.
    """
    found = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d+)(?::(\d+))?\s*", part)
        if not match:
            raise ValueError(f"--{flag}={text}: give numbers, e.g. 1,5,10, or 0:10 for 0 to 9")
        first = int(match[1])
        found += range(first, int(match[2])) if match[2] else [first]
    if not found:
        raise ValueError(f"--{flag}={text} is empty: 0:10 is 0 to 9")
    return list(dict.fromkeys(found))


def shard(models: list, text: str) -> list:
    """The models of shard i/n.

    Raises:
      ValueError: no such shard, or it has no model.
    """
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if not match or not 1 <= int(match[1]) <= int(match[2]):
        raise ValueError(f"--shard={text}: give i/n with i from 1 to n, e.g. 1/4")
    chosen = models[int(match[1]) - 1 :: int(match[2])]
    if not chosen:
        raise ValueError(f"--shard={text}: there are only {len(models)} models")
    return chosen


if __name__ == "__main__":
    cli.define_flags()
    given: list[str] = []
    cli.guarded(lambda argv: main(argv, given), given)
