"""What the scripts share: flags, default folders, one clear line for an error.

Exit codes: 0 done, 1 the run failed, 2 what was asked for is wrong.
"""

import os
import re
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# fields of the config that have a new name since version 0.1
RENAMED = {
    "data.shapes_pool": "data.shapes_support",
    "data.shot_unlabelled": "data.shot_unlabeled",
    "eval.like_fgn": "eval.gt_classes_only",
    "eval.pictures": "eval.figures",
    "model.mask.diffusion.guided": "model.mask.diffusion.guidance_interval",
}
YNNPACK = "--xla_cpu_experimental_ynn_fusion_type"

from absl import app, flags, logging  # noqa: E402
from ml_collections import ConfigDict, config_flags  # noqa: E402


def define_flags() -> None:
    """``--config`` and ``--workdir``, the flags of every script that works on one run."""
    config_flags.DEFINE_config_file(
        "config", None, "Config file and preset, e.g. configs/base.py or configs/fewshot.py:coco,shots=1. "
        "Any field can be changed: --config.train.mask.lr=3e-4", lock_config=True,
    )  # fmt: skip
    flags.DEFINE_string("workdir", None, "Folder of the run; default: runs/<stage>-<preset>, see README.")
    for name in ("config", "workdir"):  # so that --help of the script shows them
        flags.FLAGS.register_key_flag_for_module(sys.argv[0], flags.FLAGS[name])


def reject_arguments(argv: list[str]) -> None:
    """Raises ValueError when something stands behind the flags."""
    if len(argv) > 1:
        raise ValueError(f"unknown argument '{argv[1]}': flags look like --workdir=FOLDER, see --help")


def default_workdir(config: ConfigDict) -> Path:
    """Where a run of this config lives when nobody says otherwise."""
    name = f"{config.stage}-{config.preset}"
    if config.paper:
        name += "-paper"
        if config.stage == "base":  # the literal mask head is built for one K
            name += f"-{config.model.mask.slots}shot"
    if config.stage != "base":
        name += f"-{config.fewshot.shots}shot-seed{config.fewshot.seed}"
    return Path("runs") / name


def complete(config: ConfigDict) -> ConfigDict:
    """Fills what depends on other fields: where later stages start from, the number of classes of custom data."""
    if config.stage != "base" and not config.init_from:
        before = config.copy_and_resolve_references().unlock()
        before.stage = {"fewshot": "base", "distill": "fewshot"}[config.stage]
        config.init_from = str(default_workdir(before))
    if config.model.num_classes == 0:
        from maskdiff_jax.data import pipeline

        config.model.num_classes = len(pipeline.open_split(config.data, "train").categories)
    return config


def set_up_jax(mask_size: int = 0) -> None:
    """Keeps compiled programs between runs and the libraries' notices off the screen; to be called before jax runs.

    Args:
      mask_size: px, ``model.mask.size``. From 64 on, where nets have their full width, a CPU gets Eigen's convolutions
        in place of YNNPACK's, which jaxlib 0.10 chooses: benchmarks/timing/sampling.py and detector.py time both.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    logging.set_verbosity(logging.WARNING)  # orbax tells every step of every save
    if mask_size >= 64:
        flags_ = os.environ.get("XLA_FLAGS", "")
        # a flag that a jaxlib does not know ends the process: only the series that it was tried with
        if YNNPACK not in flags_ and version("jaxlib").startswith("0.10."):
            os.environ["XLA_FLAGS"] = f"{flags_} {YNNPACK}=".strip()
    import jax

    if not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        jax.config.update("jax_compilation_cache_dir", str(ROOT / ".cache" / "jax"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


def run(
    main: Callable[..., object], *, takes_files: bool = False, folder: Callable[[ConfigDict], Path] = default_workdir
) -> None:
    """Parses ``--config`` and ``--workdir`` and calls ``main(config, workdir)``; see ``guarded``.

    Args:
      main: the script's.
      takes_files: what stands behind the flags goes to ``main`` as a third argument; else it is an error.
      folder: the workdir when nobody says otherwise.
    """
    define_flags()

    def start(argv: list[str]) -> None:
        if not takes_files:
            reject_arguments(argv)
        try:
            config = flags.FLAGS.config
            stage = config and config.stage  # a file that is not there is noticed on first use
        except OSError as error:
            raise FileNotFoundError(f"cannot read the config file: {str(error).splitlines()[-1].strip()}") from error
        if stage is None:
            raise ValueError("which config? give --config configs/base.py (stage 1) or configs/fewshot.py (stage 2)")
        set_up_jax(config.model.mask.size)
        config = complete(config)
        workdir = flags.FLAGS.workdir
        main(config, Path(workdir) if workdir else folder(config), *([argv[1:]] if takes_files else []))

    guarded(start)


def guarded(start: Callable[[list[str]], object]) -> None:
    """Runs an absl main; what a user can mend becomes one sentence on stderr and an exit code."""
    try:
        app.run(start, flags_parser=_parse)
    except (ValueError, FileNotFoundError, FileExistsError, NotADirectoryError) as error:
        _fail(error, 2)
    except (FloatingPointError, OSError) as error:
        _fail(error, 1)
    except KeyboardInterrupt:
        _fail(KeyboardInterrupt("stopped; the same command goes on from the last checkpoint"), 1)


def _parse(argv: list[str]) -> list[str]:
    for argument in argv[1:]:
        field = re.match(r"--config\.([\w.]+)", argument)
        if field and field[1] in RENAMED:
            raise ValueError(f"config.{field[1]} is now called config.{RENAMED[field[1]]}")
    try:
        return flags.FLAGS(argv)
    except (flags.Error, OSError) as error:
        # ml_collections wraps a config file's own error into a traceback: its last line is the message
        last = [x for x in str(error).splitlines() if x.strip()][-1].strip()
        raise ValueError(last.removeprefix("ValueError: ")) from error
    except (AttributeError, KeyError, TypeError) as error:  # an unknown field, a value of the wrong type
        text = str(error.args[0]) if error.args else repr(error)
        raise ValueError("config: no such field or value: " + re.sub(r"(\\n|['\"\\\s])+", " ", text).strip()) from error


def _fail(error: BaseException, code: int) -> None:
    text = str(error) or type(error).__name__
    print(f"{Path(sys.argv[0]).name}: {text}", file=sys.stderr)
    sys.exit(code)
